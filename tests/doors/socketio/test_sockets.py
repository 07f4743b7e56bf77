"""WebSockets: from the beginning, or in place of polling without a loss."""

import asyncio
import json
import socket as sockets

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from clawnet.core.callers import HUB
from clawnet.core.calls.tokens import RevokeToken
from clawnet.core.live import End
from clawnet.doors.connections import Standing
from clawnet.doors.socketio import packets
from clawnet.doors.socketio.engine import CONNECT_MAX_S
from clawnet.testing.running import Running
from tests.doors.socketio.clients import (
    WAIT_MAX_S,
    Polling,
    Talks,
    closed,
    dial,
    enter,
    event,
    hear,
    settle,
    ws_url,
)
from tests.doors.socketio.test_polling import say
from tests.doors.ws.clients import request
from tests.doors.ws.frames_made import text


async def test_a_client_begins_with_a_websocket(hub: Running, talks: Talks) -> None:
    async with dial(hub) as socket:
        opened = json.loads((await hear(socket))[1:])
        assert opened["upgrades"] == []
        await socket.send('40{"token":"bad"}')
        assert json.loads((await hear(socket))[2:])["message"] == "Unauthorized"
        # What follows a CONNECT waits until the client is in.
        await socket.send("40")
        await socket.send(event("x", 1, id=4))
        assert (await hear(socket)).startswith('40{"sid"')
        assert await hear(socket) == event("welcome", "in")
        assert await hear(socket) == "434[[1]]"
        await socket.send("43" + str(7 << 32 | 5) + "[]")
        assert await hear(socket) == event("acked", 7 << 32 | 5)
        assert [c.standing for c in hub.connections.all] == [Standing.KNOWN]
        # No longer than a ping and its time to answer may it be silent.
        hub.pass_time(26.0)
        assert await hear(socket) == "2"
        await socket.send("3")
        await socket.send(event("y", id=5))
        assert await hear(socket) == "435[[]]"
        hub.pass_time(26.0)
        assert await hear(socket) == "2"
        hub.pass_time(21.0)
        await closed(socket)
    await settle(lambda: talks.last.is_lost)
    assert hub.socketio.links.by_secret == {}


async def test_what_is_sent_around_an_upgrade_arrives_once_and_in_order(
    hub: Running, talks: Talks
) -> None:
    async with Polling(hub) as client:
        await client.enter()
        link = talks.last.link
        link.emit("n", 0)
        assert await client.get() == [event("n", 0)]
        poll = asyncio.create_task(client.get())
        state = hub.socketio.links.by_secret[client.opened["sid"]]
        await settle(lambda: state._poll is not None and state._poll.waiter is not None)
        async with dial(hub, client.opened["sid"]) as socket:
            with pytest.raises(InvalidStatus):
                async with dial(hub, client.opened["sid"]):
                    pass
            # The poll goes on while the WebSocket is only there.
            link.emit("n", 1)
            assert await poll == [event("n", 1)]
            poll = asyncio.create_task(client.get())
            await settle(lambda: state._poll is not None and state._poll.waiter is not None)
            await socket.send("2probe")
            assert await hear(socket) == "3probe"
            assert await poll == ["6"]
            # Between the probe and the upgrade both ways may still be asked.
            link.emit("n", 2)
            assert await client.get() == [event("n", 2)]
            assert await client.get() == ["6"]
            await client.post(event("polled"))
            link.emit("n", 3)
            link.write(packets.event("n", (4,)) + packets.event("n", (5,)))
            await socket.send("5")
            await socket.send(event("upgraded", id=1))
            assert [await hear(socket) for _ in range(4)] == [
                event("n", 3), event("n", 4), event("n", 5), "431[[]]",
            ]  # fmt: skip
            assert [name for name, _, _ in talks.last.events] == ["polled", "upgraded"]
            for method in ("GET", "POST"):
                refused = await client.ask(method, query=client.query)
                assert (refused.status_code, refused.json()["code"]) == (400, 3)
            hub.pass_time(26.0)
            assert await hear(socket) == "2"
        await settle(lambda: talks.last.is_lost)
        assert hub.socketio.links.by_secret == {}


async def test_an_upgrade_that_fails_leaves_the_client_polling(hub: Running, talks: Talks) -> None:
    async with Polling(hub) as client:
        await client.enter()
        for bad in ("5", "4", "2probe", None):
            async with dial(hub, client.opened["sid"]) as socket:
                if bad == "2probe":
                    await socket.send(bad)
                    assert await hear(socket) == "3probe"
                if bad is not None:
                    await socket.send(bad)
                    assert (await closed(socket))[0] == 1002
                else:
                    hub.pass_time(CONNECT_MAX_S + 1)
                    assert (await closed(socket))[0] == 1008
            await settle(lambda: hub.socketio.links.by_secret[client.opened["sid"]].may_upgrade)
        await client.post(event("x", id=1))
        assert await client.get() == ["431[[]]"]
        # The session ends: so does what would have carried it.
        async with dial(hub, client.opened["sid"]) as socket:
            await client.post("1")
            await closed(socket)


async def test_bad_upgrades_are_refused(hub: Running, talks: Talks) -> None:
    url = ws_url(hub)
    for wrong in (
        url.replace("EIO=4", "EIO=3"),
        url.replace("EIO=4&", ""),
        url.replace("websocket", "polling"),
        f"{url}&sid=nobody",
    ):
        with pytest.raises(InvalidStatus) as refused:
            async with connect(wrong, proxy=None):
                pass
        assert refused.value.response.status_code == 400
    async with connect(url.replace("/socket.io/", "/socket.io"), proxy=None) as socket:
        await enter(socket)
    await settle(lambda: not hub.socketio.links.by_secret)


@pytest.mark.parametrize("bad", ["", "x", "2probe", "5", "4", '42["x"', "40", "43[1]", b"\xff\xfe"])
async def test_what_is_malformed_closes_with_a_reason(
    hub: Running, talks: Talks, bad: str | bytes
) -> None:
    async with dial(hub) as socket:
        await enter(socket)
        assert await hear(socket) == event("welcome", "in")
        await socket.send(bad)
        code, reason = await closed(socket)
        assert code == 1002
        assert reason
    await settle(lambda: talks.last.is_lost)


async def test_binary_attachments_are_dropped_with_what_they_belong_to(
    hub: Running, talks: Talks
) -> None:
    async with dial(hub) as socket:
        await enter(socket)
        await hear(socket)
        await socket.send('452-["x",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]')
        await socket.send(b"431[]")
        await socket.send(b"\x00\xff")
        await socket.send(event("y", id=2))
        assert await hear(socket) == "432[[]]"
        assert [name for name, _, _ in talks.last.events] == ["y"]
        assert talks.last.acks == []


async def test_strangers_may_say_little_and_not_for_long(hub: Running, talks: Talks) -> None:
    async with dial(hub) as socket:
        await hear(socket)
        await socket.send(event("x", "y" * 100_000))
        assert (await closed(socket))[0] == 1009
    async with dial(hub) as socket:
        await hear(socket)
        hub.pass_time(CONNECT_MAX_S + 1)
        assert (await closed(socket))[0] == 1008
    async with dial(hub) as socket:
        await enter(socket)
        await socket.send(event("x", "y" * 900_000, id=1))
        while not (await hear(socket)).startswith("431["):
            pass
        await socket.send(event("x", "y" * 1_100_000))
        assert (await closed(socket))[0] == 1009


async def test_who_is_to_stay_away_is_disconnected_and_others_only_closed(
    hub: Running, talks: Talks
) -> None:
    for end, told in (
        (End.REPLACED, True), (End.EXPIRED, True), (End.REVOKED, True), (End.SLOW, False),
    ):  # fmt: skip
        made = await hub.new_token("bob")
        talks.caller = hub.hub.authenticate(made.token)
        async with dial(hub) as socket:
            await enter(socket)
            session = talks.last.link.session
            assert session is not None
            if end is End.REVOKED:
                await hub.hub.call(RevokeToken(id=made.id), caller=HUB)
            else:
                session.end(end)
            if told:
                assert await hear(socket) == "41"
            with pytest.raises(ConnectionClosed):
                await hear(socket)
        await settle(lambda: not hub.hub.sessions)
    talks.caller = None
    async with dial(hub) as socket, dial(hub) as other, dial(hub) as third:
        await enter(socket)
        await socket.send(event("bye"))
        assert await hear(socket) == event("welcome", "in")
        assert await hear(socket) == "41"
        await enter(other)
        await other.send("41")
        await other.send(event("ignored"))
        await other.send("1")
        assert (await closed(other))[0] == 1000
        await enter(third)
        async with asyncio.timeout(0.9):
            await hub.stop()
        assert (await closed(third))[0] == 1001
    assert all(talk.is_lost for talk in talks.all)


async def test_what_is_queued_for_who_is_told_to_leave_is_taken_back_with_the_right(
    hub: Running, talks: Talks
) -> None:
    made = await hub.new_token("bob")
    talks.caller = hub.hub.authenticate(made.token)
    sock = sockets.socket()
    sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4_096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", hub.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4_096)
    writer.write(request(path="/socket.io/?EIO=4&transport=websocket"))
    await reader.readuntil(b"maxPayload")
    writer.write(text("40"))
    await settle(lambda: any(s.subscriptions for p in hub.hub.sessions.values() for s in p))
    session = talks.last.link.session
    assert session is not None
    talks.last.link.write(packets.event("secret", ("x" * 12_000_000,)))
    session.end(End.EXPIRED)
    assert session in hub.hub.leaving
    await hub.hub.call(RevokeToken(id=made.id), caller=HUB)
    found = b""
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(WAIT_MAX_S):
            while piece := await reader.read(100_000):
                found = piece
    assert b"expired" not in found
    await settle(lambda: not hub.hub.leaving and talks.last.is_lost)
    writer.transport.abort()


async def test_an_upgrade_of_a_slow_poller_goes_on_where_it_was(hub: Running, talks: Talks) -> None:
    made = await hub.new_token("bob")
    talks.caller = hub.hub.authenticate(made.token)
    async with Polling(hub) as client:
        await client.enter()
        await say(hub, *range(40), size=9_000)
        assert talks.last.link.session in hub.hub.slow
        async with dial(hub, client.opened["sid"]) as socket:
            await socket.send("2probe")
            assert await hear(socket) == "3probe"
            await socket.send("5")
            seen: list[int] = []
            while len(seen) < 40:
                said = await hear(socket)
                seen.append(json.loads(said[2:])[1]["data"]["n"])
            assert seen == list(range(40))
            assert not hub.hub.slow
