"""Polling: what is said and fetched, and what ends a session, as engine.io's server has it."""

import asyncio
import json
import socket

import pytest
from msgspec import Raw

from clawnet.core.callers import HUB
from clawnet.core.calls.publishing import Publish
from clawnet.core.calls.tokens import RevokeToken
from clawnet.core.live import End
from clawnet.doors.connections import ConnectionSettings
from clawnet.doors.server import ServerSettings
from clawnet.doors.socketio import packets
from clawnet.doors.socketio.engine import CONNECT_MAX_S
from clawnet.doors.socketio.settings import SocketioSettings
from clawnet.testing.running import Running, running_hub
from tests.doors.socketio.clients import WAIT_MAX_S, Polling, Talks, event, settle

UNKNOWN = {"code": 1, "message": "Session ID unknown"}
BAD = {"code": 3, "message": "Bad request"}


async def test_a_client_opens_enters_says_and_hears(hub: Running, talks: Talks) -> None:
    async with Polling(hub) as client:
        await client.open()
        assert client.opened | {"sid": ""} == {
            "sid": "", "upgrades": ["websocket"], "pingInterval": 25_000, "pingTimeout": 20_000,
            "maxPayload": 1_000_000,
        }  # fmt: skip
        assert len(client.opened["sid"]) == 32
        await client.post('40{"token":"good"}')
        entered, welcome = await client.get()
        assert client.opened["sid"] not in entered
        assert welcome == event("welcome", "in")
        assert talks.last.auth == {"token": "good"}

        # An event with an acknowledgement, and one of the hub's that the client acknowledges.
        await client.post(event("x", {"a": "ä"}, id=3), event("ask", 1))
        asked = event("asked", 1, id=7 << 32 | 5)
        assert await client.get() == ['433[[{"a":"ä"}]]', asked]
        await client.post(f"43{7 << 32 | 5}[]", f'43{7 << 32 | 6}[{{"ok":true}}]')
        assert talks.last.acks == [(7 << 32 | 5, []), (7 << 32 | 6, [{"ok": True}])]
        assert len(await client.get()) == 2


async def test_what_is_refused_is_refused_as_the_reference_does(hub: Running, talks: Talks) -> None:
    async with Polling(hub) as client:
        for method, query, code, message in (
            ("GET", {"EIO": "4", "transport": "carrier-pigeon"}, 0, "Transport unknown"),
            ("GET", {"EIO": "4"}, 0, "Transport unknown"),
            ("GET", {"EIO": "4", "transport": "polling", "sid": "x"}, 1, "Session ID unknown"),
            ("POST", {"EIO": "4", "transport": "polling", "sid": "x"}, 1, "Session ID unknown"),
            ("POST", {"EIO": "4", "transport": "polling"}, 2, "Bad handshake method"),
            ("GET", {"EIO": "4", "transport": "websocket"}, 3, "Bad request"),
            ("GET", {"EIO": "3", "transport": "polling"}, 5, "Unsupported protocol version"),
            ("GET", {"transport": "polling"}, 5, "Unsupported protocol version"),
        ):
            answer = await client.ask(method, query=query)
            assert answer.status_code == 400, query
            assert answer.json() == {"code": code, "message": message}
        evil = {"Origin": "https://evil.example"}
        query = {"EIO": "4", "transport": "polling"}
        answer = await client.http.get("/socket.io", params=query, headers=evil)
        assert (answer.status_code, answer.json()["code"]) == (403, 4)
        assert (await client.ask("OPTIONS")).status_code == 204
        assert (await client.ask("HEAD", query=query)).status_code == 400
    assert hub.socketio.links.by_secret == {}


async def test_a_token_that_is_not_valid_is_unauthorized_and_may_be_replaced(
    hub: Running, talks: Talks
) -> None:
    async with Polling(hub, path="/socket.io") as client:
        await client.open()
        await client.post('40{"token":"bad"}')
        (refused,) = await client.get()
        assert refused.startswith("44")
        told = json.loads(refused[2:])
        assert told["message"] == "Unauthorized"
        assert told["data"]["code"] == "unauthenticated"
        assert talks.last.is_lost
        await client.post('40{"token":"no"}')
        assert json.loads((await client.get())[0][2:])["message"] == "Not you."
        await client.post('40/admin,{"token":"good"}', '40{"token":"good"}')
        other, entered, _ = await client.get()
        assert other == '44/admin,{"message":"Invalid namespace"}'
        assert entered.startswith('40{"sid"')
        assert [talk.is_lost for talk in talks.all] == [True, True, False]


async def test_a_second_poll_ends_the_session(hub: Running, talks: Talks) -> None:
    async with Polling(hub) as client:
        await client.enter()
        first = asyncio.create_task(client.ask("GET", query=client.query))
        link = hub.socketio.links.by_secret[client.opened["sid"]]
        await settle(lambda: link._poll is not None and link._poll.waiter is not None)
        second = await client.ask("GET", query=client.query)
        assert (second.status_code, second.json()) == (400, BAD)
        assert (await first).json() == UNKNOWN
        assert talks.last.is_lost
        assert hub.socketio.links.by_secret == {}


@pytest.mark.parametrize(
    "bad",
    ["", "x", "9", "2", "5", "4", "49", '42["x"', '42["connect"]', "40", "43[1]", "44[]",
     '451-["x"]\x1e', '42/other,["x"]', "4" + "2" * 50, '42["x"]\x1e\x1e'],
)  # fmt: skip
async def test_what_is_malformed_ends_the_session_and_no_other(
    hub: Running, talks: Talks, bad: str
) -> None:
    async with Polling(hub) as client, Polling(hub) as other:
        await other.enter()
        await client.enter()
        answer = await client.ask("POST", bad.encode(), query=client.query)
        if bad.startswith("451"):
            # Not malformed: refused, with the message that belongs to it.
            assert answer.status_code == 200
            return
        assert (answer.status_code, answer.json()) == (400, BAD)
        assert (await client.ask("GET", query=client.query)).json() == UNKNOWN
        assert talks.last.is_lost
        await other.post(event("x", id=1))
        assert await other.get() == ["431[[]]"]


async def test_binary_events_are_answered_with_an_error(hub: Running, talks: Talks) -> None:
    async with Polling(hub) as client:
        await client.enter()
        await client.post(
            '451-8["x",{"_placeholder":true,"num":0}]', "bAAEC", event("y", id=9),
            '461-3[{"_placeholder":true,"num":0}]', "bAAEC",
        )  # fmt: skip
        refused, answered = await client.get()
        assert json.loads(refused[3:])[0]["error"]["code"] == "bad_request"
        assert answered == "439[[]]"
        assert talks.last.acks == []


async def test_who_asks_for_something_before_it_is_in_is_ended(hub: Running, talks: Talks) -> None:
    async with Polling(hub) as client:
        await client.open()
        answer = await client.ask("POST", event("x").encode(), query=client.query)
        assert answer.json() == BAD
    assert talks.all == []


async def test_a_defect_of_a_talk_ends_the_session(hub: Running, talks: Talks) -> None:
    async with Polling(hub) as client:
        await client.enter()
        answer = await client.ask("POST", event("fail").encode(), query=client.query)
        assert answer.status_code == 400
        assert talks.last.is_lost


async def test_too_large_a_body_is_413_and_less_is_taken_of_strangers() -> None:
    async with running_hub(socketio=SocketioSettings(max_http_buffer_bytes=200_000)) as hub:
        Talks(hub)
        async with Polling(hub) as client:
            await client.open()
            big = event("x", "y" * 100_000).encode()
            assert (await client.ask("POST", big, query=client.query)).status_code == 413
            await client.post("40")
            await client.get()
            await client.post(big.decode())
            answer = await client.ask("POST", big * 2, query=client.query)
            assert answer.status_code == 413


async def test_goodbyes_are_said_in_every_manner(hub: Running, talks: Talks) -> None:
    async with Polling(hub) as client:
        # The client closes Engine.IO, while a poll waits: that is let go with a noop.
        await client.enter()
        poll = asyncio.create_task(client.get())
        link = hub.socketio.links.by_secret[client.opened["sid"]]
        await settle(lambda: link._poll is not None and link._poll.waiter is not None)
        await client.post("41", "1")
        assert await poll == ["6"]
        await settle(lambda: not hub.socketio.links.by_secret)
        assert talks.last.is_lost
    async with Polling(hub) as client:
        # The hub disconnects: the client is told, behind what was said before.
        await client.enter()
        await client.post(event("emit", "last"), event("bye"))
        assert await client.get() == [event("last"), "41"]
        assert talks.last.is_lost
        assert (await client.ask("GET", query=client.query)).json() == UNKNOWN
    async with Polling(hub) as client:
        # The same, and nobody fetches it.
        await client.enter()
        await client.post(event("bye"))
        hub.pass_time(10.0)
        assert hub.socketio.links.by_secret == {}
        assert talks.last.is_lost
    async with Polling(hub) as client:
        # The hub ends: who polls is to come back, and finds the session unknown.
        await client.enter()
        ended = asyncio.create_task(client.ask("GET", query=client.query))
        link = hub.socketio.links.by_secret[client.opened["sid"]]
        await settle(lambda: link._poll is not None and link._poll.waiter is not None)
        async with asyncio.timeout(0.9):
            await hub.stop()
        assert (await ended).json() == UNKNOWN
        assert talks.last.is_lost


async def test_silence_is_ended_and_nothing_grows(hub: Running, talks: Talks) -> None:
    async with Polling(hub) as stranger, Polling(hub) as client, Polling(hub) as slow:
        await stranger.open()
        await slow.open()
        await slow.post('40{"token":"slow"}')
        await client.enter()
        hub.pass_time(CONNECT_MAX_S + 1)
        assert list(hub.socketio.links.by_secret) == [client.opened["sid"]]
        await settle(lambda: talks.all[0].is_lost and not hub.socketio._tasks)
        # The one that is in is pinged, and stays as long as it answers.
        hub.pass_time(25.5 - CONNECT_MAX_S)
        assert await client.get() == ["2"]
        await client.post("3")
        hub.pass_time(21.0)
        assert hub.socketio.links.by_secret
        hub.pass_time(5.0)
        hub.pass_time(21.0)
        assert hub.socketio.links.by_secret == {}
        assert talks.last.is_lost


async def test_a_poll_that_is_dropped_ends_the_session(hub: Running, talks: Talks) -> None:
    async with Polling(hub) as client:
        await client.enter()
        poll = asyncio.create_task(client.ask("GET", query=client.query))
        link = hub.socketio.links.by_secret[client.opened["sid"]]
        await settle(lambda: link._poll is not None and link._poll.waiter is not None)
        poll.cancel()
        await settle(lambda: not hub.socketio.links.by_secret)
        assert talks.last.is_lost


async def test_strangers_make_room_for_each_other_only() -> None:
    async with running_hub(socketio=SocketioSettings(clients_without_auth_max=2)) as hub:
        talks = Talks(hub)
        async with Polling(hub) as known, Polling(hub) as one, Polling(hub) as two:
            await known.enter()
            await one.open()
            await two.open()
            async with Polling(hub) as three:
                await three.open()
                there = set(hub.socketio.links.by_secret)
                assert there == {c.opened["sid"] for c in (known, two, three)}
            assert not talks.all[0].is_lost
            # Who fills the room by itself makes it from its own.
            elsewhere = hub.socketio.open(address="10.0.0.9", is_local=False)
            async with Polling(hub) as four, Polling(hub) as five:
                await four.open()
                await five.open()
                there = set(hub.socketio.links.by_secret)
                assert there == {
                    known.opened["sid"], elsewhere.secret, five.opened["sid"],
                }  # fmt: skip


async def test_two_posts_at_once_end_the_session(hub: Running, talks: Talks) -> None:
    async with Polling(hub) as client:
        await client.enter()
        talk = talks.last
        talk.is_held = True
        link = hub.socketio.links.by_secret[client.opened["sid"]]
        first = asyncio.create_task(client.ask("POST", event("x").encode(), query=client.query))
        await settle(lambda: link._room is not None)
        # The talk holds the link back: its event waits, and is handled when that is over.
        assert talk.events == []
        talk.is_held = False
        talk.link.go_on()
        assert (await first).text == "ok"
        assert talk.events == [("x", [], None)]
        talk.is_held = True
        first = asyncio.create_task(client.ask("POST", event("x").encode(), query=client.query))
        await settle(lambda: link._room is not None)
        assert (await client.ask("POST", b"3", query=client.query)).json() == BAD
        assert (await first).json() == BAD
        assert talk.is_lost


async def test_an_answer_holds_what_every_client_takes_and_the_rest_comes_with_the_next(
    hub: Running, talks: Talks
) -> None:
    async with Polling(hub) as client:
        await client.enter()
        link = talks.last.link
        # Frames come singly and joined; python's client takes 16 messages of an answer.
        for n in range(5):
            link.emit("n", n)
        link.write(b"".join(packets.event("n", (n,)) for n in range(5, 60)))
        answers: list[list[str]] = []
        while sum(map(len, answers)) < 60:
            answers.append(await client.get())
        assert [len(answer) for answer in answers] == [16, 16, 16, 12]
        assert [json.loads(one[2:])[1] for answer in answers for one in answer] == list(range(60))
        # A goodbye comes behind all of it.
        for n in range(20):
            link.emit("n", n)
        link.disconnect()
        assert len(await client.get()) == 16
        assert (await client.get())[3:] == [event("n", 19), "41"]
        assert (await client.ask("GET", query=client.query)).json() == UNKNOWN
    async with Polling(hub) as client:
        # What a half-fetched queue holds is taken back like any other.
        await client.enter()
        for n in range(20):
            talks.last.link.emit("n", n)
        await client.get()
        assert talks.last.link.unsent() > 0
        talks.last.link.retract()
        assert (await client.ask("GET", query=client.query)).json() == UNKNOWN


# --- what the hub tells ------------------------------------------------------


async def say(hub: Running, *numbers: int, size: int = 0) -> None:
    alice = hub.hub.authenticate(await hub.token("alice"))
    for n in numbers:
        data = json.dumps({"n": n, "pad": "x" * size}).encode()
        call = Publish(channel="public.lobby", data=Raw(data))
        await hub.hub.publish_wait(alice, call)


def numbers_of(messages: list[str]) -> list[int]:
    heard = [json.loads(one[2:]) for one in messages if one.startswith('42["event"')]
    return [one[1]["data"]["n"] for one in heard]


async def test_who_does_not_poll_is_set_aside_and_catches_up() -> None:
    server = ServerSettings(port=0, connections=ConnectionSettings(write_high_bytes=20_000))
    async with running_hub(server=server) as small:
        talks = Talks(small)
        made = await small.new_token("bob")
        talks.caller = small.hub.authenticate(made.token)
        async with Polling(small) as client:
            await client.enter()
            await say(small, *range(30), size=2_000)
            link = small.socketio.links.by_secret[client.opened["sid"]]
            assert talks.last.link.session in small.hub.slow
            assert link._size < 60_000
            seen: list[int] = []
            while len(seen) < 30:
                seen += numbers_of(await client.get())
            assert seen == list(range(30))
            assert not small.hub.slow
            # What the door says by itself is bounded, too.
            for _ in range(17):
                talks.last.link.emit("x", "y" * 20_000)
            assert small.socketio.links.by_secret == {}
            assert talks.last.is_lost


@pytest.mark.parametrize("how", ["queued", "leaving", "disconnected", "retracted"])
async def test_what_waits_is_taken_back_with_the_right(
    hub: Running, talks: Talks, how: str
) -> None:
    made = await hub.new_token("bob")
    talks.caller = hub.hub.authenticate(made.token)
    async with Polling(hub) as client:
        await client.enter()
        await say(hub, 1, 2, 3)
        session = talks.last.link.session
        assert session is not None
        if how == "leaving":
            session.end(End.EXPIRED)
            assert session in hub.hub.leaving
        if how == "disconnected":
            talks.last.link.disconnect()
            assert session in hub.hub.leaving
        if how == "retracted":
            talks.last.link.retract()
        await hub.hub.call(RevokeToken(id=made.id), caller=HUB)
        answer = await client.ask("GET", query=client.query)
        assert '"n":' not in answer.text
        if how == "queued":
            assert answer.text == "41"
        else:
            assert answer.json() == UNKNOWN
        await settle(lambda: not hub.hub.leaving and not hub.hub.sessions)


async def test_a_client_that_reads_no_answer_is_cut_off_from_what_was_revoked() -> None:
    async with running_hub() as hub:
        talks = Talks(hub)
        made = await hub.new_token("bob")
        talks.caller = hub.hub.authenticate(made.token)
        async with Polling(hub) as client:
            await client.enter()
            talks.last.link.write(packets.event("x", ("y" * 12_000_000,)))
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", hub.port))
            reader, writer = await asyncio.open_connection(sock=sock, limit=4_096)
            path = f"/socket.io/?EIO=4&transport=polling&sid={client.opened['sid']}"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            link = hub.socketio.links.by_secret[client.opened["sid"]]
            await settle(lambda: link._poll is not None and link._poll.is_sending)
            # All of it counts as not taken, so that what is noted of it is not forgotten.
            assert talks.last.link.unsent() > 65_536
            talks.last.link.retract()
            assert hub.socketio.links.by_secret == {}
            with pytest.raises(ConnectionResetError):
                async with asyncio.timeout(WAIT_MAX_S):
                    while await reader.read(65_536):
                        pass
            writer.transport.abort()


async def test_pages_of_allowed_origins_may_poll_and_no_others() -> None:
    origin = "https://chat.example"
    server = ServerSettings(port=0, allowed_origins=(origin,))
    async with running_hub(server=server) as hub:
        talks = Talks(hub)
        async with Polling(hub, Origin=origin) as client, Polling(hub) as program:
            await client.enter({"token": "good"})
            assert talks.last.auth == {"token": "good"}
            answer = await client.ask("POST", b"3", query=client.query)
            assert answer.headers["access-control-allow-origin"] == origin
            # Nor with the secret of a session.
            await program.enter()
            for method in ("GET", "POST"):
                evil = {"Origin": "https://evil.example"}
                refused = await program.http.request(
                    method, "/socket.io/", params=program.query, headers=evil, content=b"3"
                )
                assert refused.status_code == 403
                assert "access-control-allow-origin" not in refused.headers
