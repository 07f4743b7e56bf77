"""How connections end: hostile frames, silence, pings, and the codes that say what to do next."""

import asyncio
import json
from typing import Any

import pytest
from msgspec import Raw
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from clawnet.core.calls.publishing import Publish
from clawnet.doors.centrifugo.client import COMMANDS_PER_TURN
from clawnet.testing.running import Running
from tests.doors.centrifugo.sockets import PATH, WAIT_MAX_S, door_of, gone, pass_until_ping, socket


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "\n",
        "{",
        "null",
        "[]",
        "7",
        '"connect"',
        "[[[[" * 5_000,
        '{"id":"1","connect":{}}',
        '{"id":-1,"connect":{}}',
        '{"id":4294967296,"connect":{}}',
        '{"id":1,"connect":[]}',
        '{"id":1,"connect":{"token":7}}',
        '{"id":1,"subscribe":{"channel":"public.a"}}',
        '{"id":0,"connect":{}}',
        '{"id":1}',
        "{}",
        '{"id":1,"ping":{}}',
        '{"send":{"data":1}}',
        b"\xff\xfe",
        b"\x00\x01",
    ],
    ids=lambda frame: ascii(frame[:40]),
)
async def test_a_first_frame_that_is_no_connect_ends_the_connection(
    hub: Running, frame: str | bytes
) -> None:
    async with socket(hub) as client:
        await client.inner.send(frame)
        assert await client.closed() == (3501, "bad request")


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ('{"id":2,"connect":{}}', 3501),
        ("{}", 3501),
        ("", 3501),
        ("{", 3501),
        ('{"id":2}', 3501),
        ('{"id":2,"ping":{}}', 3501),
        ('{"ping":{}}', 3501),
        ('{"id":0,"publish":{"channel":"public.a","data":1}}', 3501),
        ('{"id":2,"refresh":{}}', 3501),
        ('{"id":2,"sub_refresh":{}}', 3501),
        ('{"id":2,"unsubscribe":{}}', 3501),
        ('{"id":2,"unknown":{}}', 3501),
        ('{"send":{"data":1}}', 3508),
        ('{"id":2,"refresh":{"token":"clw_no"}}', 3500),
    ],
    ids=lambda value: ascii(value) if isinstance(value, str) else str(value),
)
async def test_what_may_not_be_said_later_ends_the_connection(
    hub: Running, frame: str, code: int
) -> None:
    async with socket(hub, await hub.token("alice")) as alice:
        await alice.inner.send(frame)
        assert (await alice.closed())[0] == code


async def test_unknown_members_are_ignored(hub: Running) -> None:
    async with socket(hub) as alice:
        token = await hub.token("alice")
        result = await alice.connect(token, flag=3, profile="x", dict=1, name="js")
        assert result["client"]
        begun = await alice.subscribe("public.a", flag=1, profile={"a": 1})
        assert begun["epoch"]


async def test_a_trailing_newline_is_allowed(hub: Running) -> None:
    async with socket(hub) as alice:
        token = await hub.token("alice")
        await alice.inner.send(json.dumps({"id": 1, "connect": {"token": token}}) + "\n")
        assert (await alice.hear())["id"] == 1


async def test_who_says_nothing_is_stale(hub: Running) -> None:
    async with socket(hub) as client:
        hub.pass_time(9.0)
        hub.pass_time(2.0)
        assert await client.closed() == (3502, "stale")


async def test_a_refused_connect_leaves_an_unusable_connection(hub: Running) -> None:
    async with socket(hub, await hub.token("alice")) as watcher:
        async with socket(hub) as client:
            await client.say({"id": 1, "connect": {"token": "clw_wrong"}})
            assert (await client.closed())[0] == 3500
        assert await watcher.done(unsubscribe={"channel": "public.a"}) == {}


async def test_a_client_is_pinged_on_schedule_and_must_answer(hub: Running) -> None:
    async with socket(hub, await hub.token("alice")) as alice:
        # Between half a round and a whole, so that they spread; the wheel is late, never early.
        assert 12.5 <= pass_until_ping(hub) <= 26
        assert await alice.hear() == {}
        await alice.say({})
        # The answer is taken before time goes on.
        assert await alice.done(unsubscribe={"channel": "public.a"}) == {}
        hub.pass_time(20.0)
        assert await alice.done(unsubscribe={"channel": "public.a"}) == {}
        assert 4 <= pass_until_ping(hub) <= 6
        assert await alice.hear() == {}
        hub.pass_time(7.0)
        assert await alice.done(unsubscribe={"channel": "public.a"}) == {}
        hub.pass_time(2.0)
        assert await alice.closed() == (3012, "no pong")


async def test_a_second_pong_is_unsolicited(hub: Running) -> None:
    async with socket(hub, await hub.token("alice")) as alice:
        pass_until_ping(hub)
        assert await alice.hear() == {}
        await alice.say({}, {})
        assert await alice.closed() == (3501, "bad request")


async def test_pings_can_be_those_of_the_websocket(hub: Running) -> None:
    async with socket(hub, query="cf_ws_frame_ping_pong=true") as alice:
        result = await alice.connect(await hub.token("alice"))
        assert "ping" not in result
        assert "pong" not in result
        for _ in range(4):
            hub.pass_time(26.0)
            # The client's library answers by itself; what is heard next is no ping.
            assert await alice.done(unsubscribe={"channel": "public.a"}) == {}


async def test_a_message_of_a_megabyte_is_refused_and_nothing_else_suffers(hub: Running) -> None:
    token = await hub.token("alice")
    async with socket(hub, token) as alice, socket(hub, token) as other:
        await other.subscribe("public.a")
        data = "x" * 1_048_576
        await alice.say({"id": 5, "publish": {"channel": "public.a", "data": data}})
        assert (await alice.closed())[0] == 1009
        await other.say({"id": 9, "publish": {"channel": "public.a", "data": 1}})
        heard = [await other.hear(), await other.hear()]
        assert any("push" in each for each in heard)


async def test_data_that_would_break_a_line_is_said_in_one(hub: Running) -> None:
    async with socket(hub, await hub.token("alice")) as alice:
        await alice.subscribe("chat:x")
        # As the hub's other doors may publish it; here a line's end parts two commands.
        caller = hub.hub.authenticate(await hub.token("alice"))
        data = Raw(b'{"a":\r\n [1,\t2],\n"b":"c\\nd"}')
        await hub.hub.publish_wait(caller, Publish(channel="chat:x", data=data))
        pub = await alice.push()
        assert pub["data"] == {"a": [1, 2], "b": "c\nd"}


async def test_an_empty_subprotocol_header_is_accepted(hub: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(
        f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Extensions: permessage-deflate\r\n"
        "Sec-WebSocket-Protocol: \r\n\r\n".encode()
    )
    async with asyncio.timeout(WAIT_MAX_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    assert head.startswith("http/1.1 101")
    assert "sec-websocket-extensions" not in head
    assert "sec-websocket-protocol" not in head
    writer.close()


async def test_a_token_in_the_address_is_not_accepted(hub: Running) -> None:
    token = await hub.token("alice")
    with pytest.raises(InvalidStatus) as refused:
        await connect(hub.url.replace("http", "ws", 1) + f"{PATH}?token={token}")
    assert refused.value.response.status_code == 400


async def test_the_protobuf_subprotocol_is_chosen(hub: Running) -> None:
    url = hub.url.replace("http", "ws", 1) + PATH
    async with connect(url, subprotocols=["centrifuge-protobuf"]) as inner:  # type: ignore[list-item]
        assert inner.subprotocol == "centrifuge-protobuf"
        token = (await hub.token("alice")).encode()
        request = b"\x0a%c%b" % (len(token), token)
        command = b"\x08\x01\x22%c%b" % (len(request), request)
        await inner.send(bytes([len(command)]) + command)
        async with asyncio.timeout(WAIT_MAX_S):
            reply = await inner.recv()
        assert isinstance(reply, bytes)
        assert b"Clawnet" in reply


async def test_a_frame_of_many_commands_is_handled_in_turns(hub: Running) -> None:
    count = COMMANDS_PER_TURN * 5
    async with socket(hub, await hub.token("alice")) as alice:
        await alice.say(
            *({"id": n + 2, "subscribe": {"channel": f"public.c{n}"}} for n in range(count))
        )
        for n in range(count):
            reply = await alice.hear()
            assert (reply["id"], "subscribe" in reply) == (n + 2, True)


async def test_a_client_may_follow_ten_thousand_channels_and_no_more(hub: Running) -> None:
    async with socket(hub, await hub.token("alice")) as alice:
        for start in range(0, 10_000, 500):
            await alice.say(
                *(
                    {"id": n + 2, "subscribe": {"channel": f"public.c{n}"}}
                    for n in range(start, start + 500)
                )
            )
            for n in range(start, start + 500):
                assert (await alice.hear())["id"] == n + 2
        assert (await alice.refused(subscribe={"channel": "public.more"}))["code"] == 106
        await alice.say({"id": 20_000, "publish": {"channel": "public.c9999", "data": 1}})
        heard = [await alice.hear(), await alice.hear()]
        assert any("push" in each for each in heard)
        assert hub.centrifugo.clients.num_subs == 10_000
    await gone(hub)
    for _ in range(100):
        # Some of them are taken out in each turn of the loop.
        await asyncio.sleep(0)
    assert hub.centrifugo.clients.num_channels == 0


async def test_a_hub_that_stops_tells_clients_to_come_back() -> None:
    async with door_of() as hub, socket(hub, await hub.token("alice")) as alice:
        await alice.subscribe("public.a")
        hub.server.stop()
        assert await alice.closed() == (3001, "shutdown")


async def test_nothing_of_a_client_is_left_when_it_has_gone(hub: Running) -> None:
    token = await hub.token("alice")
    for _ in range(3):
        async with socket(hub, token) as alice:
            await alice.subscribe("public.a")
            await alice.subscribe("chat:b")
    await gone(hub)
    clients = hub.centrifugo.clients
    left: list[Any] = [clients.all(), clients.channels("main"), clients.num_subs]
    assert left == [[], {}, 0]
    assert not hub.hub.sessions
    assert len(hub.connections.wheel) == 0
