"""The wire below the messages, on a real socket: handshake, cuts, control frames, ends."""

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clawnet.testing.running import Running, running_hub
from tests.doors.ws.clients import WAIT_MAX_S, Raw, client, request
from tests.doors.ws.frames_made import close, frame, text

PING = text('{"action":"ping","id":1}')
PONG = {"type": "pong", "id": 1}


async def test_frames_may_come_in_the_packet_of_the_request(hub: Running) -> None:
    async with await Raw.upgraded(hub, trailing=PING + PING[:5]) as raw:
        assert await raw.json() == PONG
        raw.send(PING[5:])
        assert await raw.json() == PONG


async def test_a_whole_session_may_come_in_one_packet(hub: Running) -> None:
    publish = text('{"action":"publish","channel":"public.lobby","data":1,"id":2}')
    subscribe = text('{"action":"subscribe","channels":["public.lobby"],"id":1}')
    session = subscribe + publish + close(1000)
    async with await Raw.upgraded(hub, token=await hub.token(), trailing=session) as raw:
        assert (await raw.json())["subscription"] == 1
        ended = await raw.ended()
        assert ended is not None and ended.code == 1000


async def test_the_request_and_frames_may_be_cut_at_every_byte(hub: Running) -> None:
    stream = request() + PING + frame(b"?", opcode=9) + frame(b'{"action":', is_final=False)
    stream += frame(b'"ping"}', opcode=0) + close(1000)
    for cut in range(1, len(stream), 3):
        async with await Raw.connect(hub) as raw:
            raw.send(stream[:cut])
            await asyncio.sleep(0)
            raw.send(stream[cut:])
            assert (await raw.response())[0] == 101
            assert await raw.json() == PONG
            pong = await raw.frame()
            assert pong is not None and (pong.opcode, bytes(pong.data)) == (10, b"?")
            assert await raw.json() == {"type": "pong"}
            ended = await raw.ended()
            assert ended is not None and ended.code == 1000


async def test_a_stream_may_come_byte_by_byte(hub: Running) -> None:
    stream = request() + PING + close(1000)
    async with await Raw.connect(hub) as raw:
        for at in range(len(stream)):
            raw.send(stream[at : at + 1])
            await raw.writer.drain()
            await asyncio.sleep(0)
        assert (await raw.response())[0] == 101
        assert await raw.json() == PONG


@pytest.mark.parametrize(
    "header",
    ["Sec-WebSocket-Protocol:", "Sec-WebSocket-Protocol: ", "Sec-WebSocket-Protocol: a, b"],
)
async def test_subprotocols_are_declined_and_not_an_error(hub: Running, header: str) -> None:
    async with await Raw.connect(hub) as raw:
        raw.send(request(header))
        status, headers, _ = await raw.response()
        assert status == 101
        assert "sec-websocket-protocol" not in headers


async def test_compression_is_declined(hub: Running) -> None:
    async with await Raw.connect(hub) as raw:
        raw.send(request("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"))
        status, headers, _ = await raw.response()
        assert status == 101
        assert "sec-websocket-extensions" not in headers


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8", 426),
        (b"Sec-WebSocket-Version: 13", b"X-Nothing: 1", 426),
        (b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key: x", 400),
        (b"Sec-WebSocket-Key: ", b"X-Key: ", 400),
        (b"GET ", b"POST ", 405),
        (b"/api/v1/events/stream", b"/elsewhere", 404),
        (b"/api/v1/events/stream", b"/api/v1/events/stream/", 404),
        (b"Host: localhost", b"Host: evil.example", 403),
        (b"Host: localhost", b"Host: localhost\r\nOrigin: http://evil.example", 403),
        (b"Host: localhost", b"Host: localhost\r\nOrigin: null", 403),
        (b"Host: localhost", b"X: y", 400),
    ],
)
async def test_a_bad_handshake_is_a_problem(
    hub: Running, old: bytes, new: bytes, status: int
) -> None:
    async with await Raw.connect(hub) as raw:
        raw.send(request().replace(old, new))
        given_status, headers, body = await raw.response()
        assert given_status == status
        assert headers["content-type"] == "application/problem+json"
        assert json.loads(body)["status"] == status
        assert (status != 426) or headers["sec-websocket-version"] == "13"
        assert await raw.rest() == b""


async def test_the_own_origin_may_upgrade(hub: Running) -> None:
    async with await Raw.connect(hub) as raw:
        host = f"localhost:{hub.port}"
        raw.send(request(f"Origin: http://{host}", host=host))
        assert (await raw.response())[0] == 101


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (frame(b"{}", is_masked=False), 1002),
        (frame(b"{}", reserved=4), 1002),
        (frame(b"{}", opcode=3), 1002),
        (frame(b"{}", opcode=0), 1002),
        (frame(b"*" * 126, opcode=9), 1002),
        (frame(b"", opcode=9, is_final=False), 1002),
        (close(1005), 1002),
        (frame(b"\xff"), 1007),
        (frame(b"\xc3", is_final=False) + frame(b"(", opcode=0), 1007),
        (frame(b"*" * 73_729), 1009),
        (frame(b"", claimed_length=2**62, length_bytes=8), 1009),
        (frame(b"*" * 40_000, is_final=False) + frame(b"*" * 40_000, opcode=0), 1009),
    ],
)  # fmt: skip
async def test_what_breaks_the_protocol_ends_with_its_code(
    hub: Running, bad: bytes, code: int
) -> None:
    async with await Raw.upgraded(hub) as raw:
        raw.send(PING + bad + PING)
        assert await raw.json() == PONG
        ended = await raw.ended()
        assert ended is not None and ended.code == code


async def test_a_client_in_the_middle_of_sending_still_reads_why_it_was_closed(
    hub: Running,
) -> None:
    async with await Raw.upgraded(hub) as raw:
        raw.send(frame(b"*" * 8_000_000))
        ended = await raw.ended()
        assert ended is not None and ended.code == 1009


async def test_what_follows_a_violation_is_thrown_away_and_not_kept(hub: Running) -> None:
    async with await Raw.upgraded(hub) as raw:
        raw.send(frame(b"{}", is_masked=False))
        ended = await raw.ended()
        assert ended is not None and ended.code == 1002
        for _ in range(100):
            raw.send(b"\x00" * 10_000)
        hub.pass_time(5.0)
    async with client(hub) as socket:
        await socket.ping()


async def test_publishes_before_the_end_of_the_stream_are_stored_and_answered(
    hub: Running,
) -> None:
    count = 1_000
    publishes = b"".join(
        text(f'{{"action":"publish","channel":"public.lobby","data":{n},"id":{n}}}')
        for n in range(count)
    )
    async with await Raw.upgraded(hub, token=await hub.token()) as raw:
        raw.send(publishes)
        raw.writer.write_eof()
        answers = [await raw.json() for _ in range(count)]
        assert [answer["id"] for answer in answers] == list(range(count))
        assert [answer["offset"] for answer in answers] == list(range(1, count + 1))
        assert await raw.ended() is None


async def test_an_early_end_of_the_stream_is_no_matter(hub: Running) -> None:
    for stream in (request()[:20], request(), request() + PING[:3], request() + PING):
        async with await Raw.connect(hub) as raw:
            raw.send(stream)
            raw.writer.write_eof()
            await raw.rest()
    await all_gone(hub)


async def test_connections_that_are_cut_leave_nothing_behind(hub: Running) -> None:
    token = await hub.token()
    raws = [await Raw.upgraded(hub, token=token) for _ in range(20)]
    for raw in raws:
        raw.send(text('{"action":"subscribe","channels":["public.lobby"]}'))
        await raw.json()
        raw.writer.transport.abort()
    await all_gone(hub)
    assert not hub.hub.sessions
    assert len(hub.connections.wheel) == 0


async def all_gone(hub: Running) -> None:
    """Wait until the server knows of no connection any more."""
    empty = asyncio.Event()
    hub.connections.on_empty = empty.set
    async with asyncio.timeout(WAIT_MAX_S):
        while hub.connections.all:
            await empty.wait()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=6,
)
members = st.sampled_from(
    ["action", "id", "token", "channel", "channels", "data", "since", "type", "subscription"]
)
commands = st.dictionaries(members, json_values, max_size=5).flatmap(
    lambda given: st.sampled_from(
        ["auth", "subscribe", "unsubscribe", "publish", "ack", "ping", "fly", None]
    ).map(lambda action: given | {"action": action})
)
wire = st.lists(
    commands.map(lambda given: text(json.dumps(given)))
    | st.binary(max_size=40).map(lambda payload: frame(payload, opcode=2))
    | st.builds(
        frame,
        st.binary(max_size=140),
        opcode=st.sampled_from([0, 1, 2, 8, 9, 10, 11]),
        is_final=st.booleans(),
    ),
    max_size=8,
)
DOCUMENTED = {
    "bad_request", "invalid_channel", "invalid_data", "invalid_type", "forbidden", "not_found",
    "unauthenticated", "too_many_subscriptions", "payload_too_large",
}  # fmt: skip


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(streams=st.lists(wire, min_size=1, max_size=5))
def test_any_frames_get_documented_answers_only(streams: list[list[bytes]]) -> None:
    async def play() -> None:
        async with running_hub() as hub:
            token = await hub.token()
            for frames in streams:
                async with await Raw.upgraded(hub, token=token) as raw:
                    raw.send(b"".join(frames) + PING + close(1000))
                    while (heard := await raw.frame()) is not None:
                        if heard.opcode == 1:
                            answer = json.loads(bytes(heard.data))
                            if answer["type"] == "error":
                                assert answer["error"]["code"] in DOCUMENTED
                        elif heard.opcode == 8:
                            code = int.from_bytes(bytes(heard.data)[:2], "big")
                            assert code in (0, 1000, 1002, 1007, 1009, 4401) or 3000 <= code < 5000

    asyncio.run(play())
