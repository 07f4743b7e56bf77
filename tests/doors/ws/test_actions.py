"""Every action of the native WebSocket and what it answers, with a real client."""

import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from clawnet.core.callers import HUB
from clawnet.core.calls.consumers import CreateConsumer, Fetch
from clawnet.core.calls.tokens import RevokeToken
from clawnet.core.errors import BadRequest
from clawnet.doors.ws.commands import parse
from clawnet.testing.running import Running
from tests.doors.ws.clients import ask, client, closed, hear, say

LOBBY = "public.lobby"


async def test_a_publish_is_answered_with_its_place(hub: Running) -> None:
    async with client(hub, await hub.token()) as socket:
        first = await ask(socket, action="publish", channel=LOBBY, data={"n": 1}, id=1)
        second = await ask(socket, action="publish", channel=LOBBY, data={"n": 2}, id="two")
        unnamed = await ask(socket, action="publish", channel=LOBBY, data=3)
    assert first["type"] == "ok" and first["id"] == 1 and first["offset"] == 1
    assert first["event_id"].startswith("evt_") and first["deduped"] is False
    assert second["id"] == "two" and second["offset"] == 2 and second["seq"] > first["seq"]
    assert "id" not in unnamed and unnamed["offset"] == 3


async def test_a_subscriber_gets_what_is_published_in_order(hub: Running) -> None:
    async with client(hub, await hub.token("alice")) as alice, client(hub) as reader:
        answer = await ask(reader, action="subscribe", channels=[LOBBY], id=7)
        assert answer["type"] == "ok" and answer["id"] == 7 and answer["subscription"] == 1
        assert answer["channels"] == [LOBBY]
        for n in range(100):
            await ask(alice, action="publish", channel=LOBBY, data={"n": n})
        events = [await hear(reader) for _ in range(100)]
    assert [event["event"]["data"]["n"] for event in events] == list(range(100))
    assert {event["type"] for event in events} == {"event"}
    assert events[0]["event"]["actor"] == {"id": "alice", "handle": "alice"}
    seqs = [int(event["cursor"].rpartition("-")[2]) for event in events]
    assert seqs == [event["event"]["seq"] for event in events]


async def test_a_sender_hears_the_answers_before_its_own_events(hub: Running) -> None:
    async with client(hub, await hub.token()) as socket:
        await ask(socket, action="subscribe", channels=[LOBBY])
        for n in range(3):
            await say(socket, action="publish", channel=LOBBY, data=n)
        heard = [await hear(socket) for _ in range(6)]
    places: dict[str, list[int]] = {"ok": [], "event": []}
    for message in heard:
        seq = message["seq"] if message["type"] == "ok" else message["event"]["seq"]
        assert message["type"] == "ok" or seq in places["ok"]
        places[message["type"]].append(seq)
    assert places["ok"] == places["event"] == sorted(places["ok"])


async def test_a_cursor_resumes_behind_what_was_seen(hub: Running) -> None:
    token = await hub.token()
    async with client(hub, token) as alice:
        for n in range(5):
            await ask(alice, action="publish", channel=LOBBY, data=n)
    async with client(hub, token) as reader:
        await ask(reader, action="subscribe", channels=[LOBBY], since="all")
        seen = [await hear(reader) for _ in range(5)]
    async with client(hub, token) as reader:
        await ask(reader, action="subscribe", channels=[LOBBY], since=seen[2]["cursor"])
        again = [await hear(reader) for _ in range(2)]
    assert [event["event"]["data"] for event in seen] == [0, 1, 2, 3, 4]
    assert [event["event"]["data"] for event in again] == [3, 4]


@pytest.mark.parametrize("since", [{LOBBY: 3}, {LOBBY: "3"}, 3])
async def test_an_offset_resumes_behind_it(hub: Running, since: object) -> None:
    async with client(hub, await hub.token()) as socket:
        for n in range(1, 6):
            await ask(socket, action="publish", channel=LOBBY, data=n)
        await ask(socket, action="subscribe", channels=[LOBBY], since=since)
        events = [await hear(socket) for _ in range(2)]
    assert [event["event"]["data"] for event in events] == [4, 5]


async def test_unsubscribe_ends_it_by_number_and_by_channel(hub: Running) -> None:
    async with client(hub, await hub.token()) as socket:
        await ask(socket, action="subscribe", channels=[LOBBY])
        await ask(socket, action="subscribe", channels=["public.a", "public.b"])
        by_number = await ask(socket, action="unsubscribe", subscription=1, id=1)
        part = await ask(socket, action="unsubscribe", channels=["public.a"], id=2)
        whole = await ask(socket, action="unsubscribe", channels=["public.b", "public.a"], id=3)
        nothing = await ask(socket, action="unsubscribe", channels=["public.a"], id=4)
        unknown = await ask(socket, action="unsubscribe", subscription=9, id=5)
        neither = await ask(socket, action="unsubscribe", id=6)
        published = await ask(socket, action="publish", channel=LOBBY, data=1, id=7)
        pong = await ask(socket, action="ping")
    assert by_number == {"type": "ok", "id": 1, "subscriptions": [1]}
    assert part["error"]["code"] == "bad_request" and part["error"]["subscription"] == 2
    assert whole == {"type": "ok", "id": 3, "subscriptions": [2]}
    assert nothing["error"]["code"] == "not_found"
    assert unknown["error"]["code"] == "bad_request"
    assert neither["error"]["code"] == "bad_request"
    assert published["type"] == "ok" and pong["type"] == "pong"


async def test_a_repeated_key_is_one_event_and_other_content_a_conflict(hub: Running) -> None:
    async with client(hub, await hub.token()) as socket:
        publish = {"action": "publish", "channel": LOBBY, "dedupe_key": "k"}
        first = await ask(socket, **publish, data=1)
        repeat = await ask(socket, **publish, data=1)
        other = await ask(socket, **publish, data=2, id="x")
    assert repeat["deduped"] is True and repeat["event_id"] == first["event_id"]
    assert other["type"] == "error" and other["id"] == "x"
    assert other["error"]["code"] == "dedupe_conflict"


async def test_auth_comes_first_and_once(hub: Running) -> None:
    token = await hub.token("alice")
    async with client(hub) as socket:
        answer = await ask(socket, action="auth", token=token, id=1)
        assert answer == {"type": "ok", "id": 1, "account": "alice"}
        again = await ask(socket, action="auth", token=token, id=2)
        assert again["error"]["code"] == "bad_request"
        published = await ask(socket, action="publish", channel=LOBBY, data=1)
        assert published["type"] == "ok"


async def test_a_wrong_token_is_an_error_and_a_terminal_close(hub: Running) -> None:
    async with client(hub) as socket:
        answer = await ask(socket, action="auth", token="claw_wrong", id=1)
        assert answer["error"]["code"] == "unauthenticated" and answer["id"] == 1
        assert (await closed(socket))[0] == 4401


async def test_a_wrong_token_in_the_header_is_401_before_the_upgrade(hub: Running) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(hub.ws_url, additional_headers={"Authorization": "Bearer wrong"})
    response = refused.value.response
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.headers["Content-Type"] == "application/problem+json"
    assert json.loads(response.body)["code"] == "unauthenticated"


async def test_an_anonymous_reader_may_read_public_names_and_nothing_else(hub: Running) -> None:
    async with client(hub) as socket:
        assert (await ask(socket, action="subscribe", channels=["public.x"]))["type"] == "ok"
        for command in (
            {"action": "subscribe", "channels": ["agent.alice.inbox"]},
            {"action": "subscribe", "channels": [">"]},
            {"action": "publish", "channel": LOBBY, "data": 1},
        ):
            answer = await ask(socket, **command, id=1)
            assert answer["error"]["code"] in ("unauthenticated", "forbidden"), command


async def test_who_came_through_a_tunnel_is_not_anonymous_on_loopback(hub: Running) -> None:
    async with connect(hub.ws_url, additional_headers={"X-Forwarded-For": "1.2.3.4"}) as socket:
        answer = await ask(socket, action="subscribe", channels=[LOBBY], id=1)
        assert answer["error"]["code"] == "unauthenticated"
        # It may still say who it is.
        answer = await ask(socket, action="auth", token=await hub.token(), id=2)
        assert answer["type"] == "ok"


async def test_ping_is_answered_without_a_token(hub: Running) -> None:
    async with client(hub) as socket:
        assert await ask(socket, action="ping", id=5) == {"type": "pong", "id": 5}
        assert await ask(socket, action="ping") == {"type": "pong"}


async def test_ack_names_deliveries_and_tells_stale_ones(hub: Running) -> None:
    token = await hub.token("alice")
    caller = hub.hub.authenticate(token)
    await hub.hub.call(CreateConsumer(name="work", channels=[LOBBY]), caller=caller)
    async with client(hub, token) as socket:
        await ask(socket, action="publish", channel=LOBBY, data=1)
        fetched = await hub.hub.call(Fetch(name="work", wait_s=5.0), caller=caller)
        [delivery] = fetched.deliveries
        named = {"seq": delivery.seq, "attempt": delivery.attempt}
        good = await ask(socket, action="ack", consumer="work", deliveries=[named], id=1)
        assert good["type"] == "ok" and good["acked"] == 1 and good["id"] == 1
        none = await ask(socket, action="ack", consumer="none", deliveries=[named], id=2)
        assert none["error"]["code"] == "not_found" and none["id"] == 2
        neither = await ask(socket, action="ack", consumer="work", id=3)
        assert neither["error"]["code"] == "bad_request"


async def test_an_ack_by_cursor_settles_what_is_out_up_to_it_and_no_more(hub: Running) -> None:
    token = await hub.token("alice")
    caller = hub.hub.authenticate(token)
    await hub.hub.call(CreateConsumer(name="work", channels=[LOBBY]), caller=caller)
    async with client(hub, token) as socket:
        for number in range(3):
            await ask(socket, action="publish", channel=LOBBY, data=number)
        fetched = await hub.hub.call(Fetch(name="work", wait_s=5.0), caller=caller)
        second = fetched.deliveries[1].seq
        cursor = f"{hub.hub.log_epoch}-{second}"
        acked = await ask(socket, action="ack", consumer="work", cursor=cursor, id=1)
        assert (acked["acked"], acked["stale"]) == (2, [])
        again = await ask(socket, action="ack", consumer="work", cursor=cursor, id=2)
        assert again["acked"] == 0
        bad = await ask(socket, action="ack", consumer="work", cursor="nonsense", id=3)
        assert bad["error"]["code"] == "bad_request"


async def test_a_revoked_token_closes_its_connections_for_good(hub: Running) -> None:
    made = await hub.new_token("alice")
    async with client(hub, made.token) as socket, client(hub, await hub.token("alice")) as other:
        await ask(socket, action="subscribe", channels=[LOBBY])
        await hub.hub.call(RevokeToken(id=made.id), caller=HUB)
        assert (await closed(socket))[0] == 4403
        assert (await ask(other, action="ping"))["type"] == "pong"


async def test_stopping_closes_with_a_code_to_come_back(hub: Running) -> None:
    async with client(hub, await hub.token()) as subscriber, client(hub) as silent:
        await ask(subscriber, action="subscribe", channels=[LOBBY])
        await hub.stop()
        assert (await closed(subscriber))[0] == 1001
        assert (await closed(silent))[0] == 1001


BAD_MESSAGES = [
    "", "{", "[]", "null", "1", '"x"', "{}", '{"action":null}', '{"action":"fly"}', "nonsense",
    '{"action":"publish"}', '{"action":"publish","channel":1,"data":1}',
    '{"action":"publish","channel":"public.lobby"}',
    '{"action":"publish","channel":"public.lobby","data":}',
    '{"action":"publish","channel":"public.lobby","data":1,"extra":1}',
    '{"action":"subscribe"}', '{"action":"subscribe","channels":"public.lobby"}',
    '{"action":"subscribe","channels":[]}', '{"action":"subscribe","channels":[""]}',
    '{"action":"subscribe","channels":["public.lobby"],"since":"yesterday"}',
    '{"action":"subscribe","channels":["public.lobby"],"since":-1}',
    '{"action":"subscribe","channels":["public.lobby"],"since":1e999}',
    '{"action":"subscribe","channels":["public.lobby"],"filters":[{}]}',
    '{"action":"auth"}', '{"action":"ack","consumer":"x"}',
    '{"action":"unsubscribe","subscription":1e3}',
    '{"action":"publish","channel":"room.","data":1}', "[" * 60_000, '{"a":' * 10_000,
    '{"action":"publish","channel":"public.lobby","data":' + "[" * 2_000 + "]" * 2_000 + "}",
    '{"action":"publish","channel":"public.lobby","data":1e400}',
    '{"action":"publish","channel":"public.lobby","data":"\\ud800"}',
    '{"action":"publish","channel":"public.lobby","data":1,"type":"no.such"}',
    '{"action":"unsubscribe","subscription":' + "1" * 5_000 + "}",
    '{"action":"ack","consumer":"c","deliveries":[{"seq":' + "1" * 5_000 + ',"attempt":1}]}',
    '{"action":"publish","channel":"public.lobby","data":' + "1" * 5_000 + "}",
]  # fmt: skip


@pytest.mark.parametrize("message", BAD_MESSAGES, ids=lambda text: text[:50])
async def test_a_bad_message_is_an_error_frame_and_no_disconnect(
    hub: Running, message: str
) -> None:
    async with client(hub, await hub.token()) as socket:
        await socket.send(message)
        answer = await hear(socket)
        assert answer["type"] == "error", message
        assert answer["error"]["code"] in (
            "bad_request", "invalid_channel", "invalid_data", "invalid_type", "not_found"
        )  # fmt: skip
        assert answer["error"]["message"] and answer["error"]["next"]
        assert (await ask(socket, action="ping", id=1)) == {"type": "pong", "id": 1}


async def test_an_error_carries_the_id_also_of_a_message_that_cannot_be_understood(
    hub: Running,
) -> None:
    async with client(hub, await hub.token()) as socket:
        assert (await ask(socket, action="publish", id="mine", typo=1))["id"] == "mine"
        assert (await ask(socket, action="fly", id=3))["id"] == 3
        assert "id" not in await ask(socket, action="ping", id={"no": "id"})
        assert "id" not in await ask(socket, action="ping", id="x" * 201)
        assert "id" not in await ask(socket, action="ping", id=2**70)
        await socket.send('{"action":"ping","id":' + "1" * 60_000 + "}")
        assert (await hear(socket))["type"] == "error"


async def test_data_of_64_kib_is_taken_and_more_is_refused_without_a_disconnect(
    hub: Running,
) -> None:
    async with client(hub, await hub.token()) as socket:
        largest = "x" * (65_536 - 2)
        good = await ask(socket, action="publish", channel=LOBBY, data=largest)
        assert good["type"] == "ok"
        more = await ask(socket, action="publish", channel=LOBBY, data=largest + "x")
        assert more["error"]["code"] == "payload_too_large"
        await ask(socket, action="subscribe", channels=[LOBBY], since="all")
        assert (await hear(socket))["event"]["data"] == largest


async def test_a_message_far_beyond_the_limit_is_1009(hub: Running) -> None:
    async with client(hub, await hub.token()) as socket:
        await socket.send("x" * 200_000)
        assert (await closed(socket))[0] == 1009


FORGED = '{"type":"event","event":{"seq":1}}'


@pytest.mark.parametrize(
    "data",
    [
        "{\"a\":\n1,\r\n\t\"b\":[\n]}", json.dumps(f"\n{FORGED}\n"), '"\\u2028\\u0085\\r\\n"',
        json.dumps({"event": FORGED}),
    ],
)  # fmt: skip
async def test_data_cannot_forge_frames(hub: Running, data: str) -> None:
    async with client(hub, await hub.token()) as socket:
        await ask(socket, action="subscribe", channels=[LOBBY])
        await socket.send(f'{{"action":"publish","channel":"{LOBBY}","data":{data}}}')
        frames = [await socket.recv(), await socket.recv()]
        assert not any("\n" in str(frame) or "\r" in str(frame) for frame in frames)
        [event] = [json.loads(x) for x in frames if json.loads(x)["type"] == "event"]
        assert event["event"]["data"] == json.loads(data)
        assert (await ask(socket, action="ping"))["type"] == "pong"


async def test_binary_frames_are_read_like_text(hub: Running) -> None:
    async with client(hub) as socket:
        await socket.send(b'{"action":"ping","id":1}')
        assert await hear(socket) == {"type": "pong", "id": 1}


@pytest.mark.parametrize("query", ["?format=crucible", "?format=", "?token=x", "?since=1"])
async def test_unknown_parameters_are_refused_before_the_upgrade(hub: Running, query: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(hub.ws_url + query)
    assert refused.value.response.status_code == 400


async def test_the_native_format_may_be_asked_for(hub: Running) -> None:
    async with connect(hub.ws_url + "?format=native") as socket:
        assert (await ask(socket, action="ping"))["type"] == "pong"


async def test_a_publish_that_expects_an_answer_is_told_its_correlation(hub: Running) -> None:
    async with client(hub, await hub.token()) as socket:
        await ask(socket, action="subscribe", channels=[LOBBY])
        expect = {"reply_within_s": 30}
        await say(socket, action="publish", channel=LOBBY, data=1, expect=expect)
        answer, event = await hear(socket), await hear(socket)
        own = {"expect": expect, "correlation_id": "c"}
        await say(socket, action="publish", channel=LOBBY, data=1, **own)
        named, _ = await hear(socket), await hear(socket)
        refused = await ask(
            socket, action="publish", channel=LOBBY, data=1, expect={"reply_within_s": 0}
        )
    assert answer["correlation_id"] == event["event"]["correlation_id"]
    assert event["event"]["expect"] == {"reply_within_s": 30.0}
    assert "correlation_id" not in named
    assert refused["error"]["code"] == "bad_request"


def test_a_message_is_not_decoded_that_is_laden_with_numbers_beside_its_data() -> None:
    """Each takes the decoder 9 µs, and a frame has room for thousands."""
    again = ",".join(['"reply_within_s":1e308'] * 400)
    message = f'{{"action":"publish","channel":"a","data":1,"expect":{{{again}}}}}'
    with pytest.raises(BadRequest, match="huge numbers"):
        parse(message.encode())
