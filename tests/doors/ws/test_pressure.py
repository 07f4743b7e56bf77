"""Slow readers, silent ones, floods: nobody costs the others their service."""

import asyncio
import json
import socket as sockets
import tracemalloc

from clawnet.core.callers import HUB
from clawnet.core.calls.tokens import RevokeToken
from clawnet.doors.connections import ConnectionSettings
from clawnet.doors.server import ServerSettings
from clawnet.doors.ws.socket import COMMANDS_PER_TURN
from clawnet.hub.sessions import Session
from clawnet.hub.settings import HubSettings, LimitSettings, RetentionSettings
from clawnet.testing.running import Running, running_hub
from tests.doors.ws.clients import WAIT_MAX_S, Raw, ask, client, request
from tests.doors.ws.frames_made import frame, text

LOBBY = "public.lobby"
UNLIMITED = HubSettings(
    limits=LimitSettings(enabled=False),
    retention=RetentionSettings(events_per_channel_max=1_000_000),
)
SUBSCRIBE = text(f'{{"action":"subscribe","channels":["{LOBBY}"]}}')


def publish(n: int, *, padding: int = 0) -> bytes:
    data = json.dumps({"n": n, "pad": "x" * padding})
    return text(f'{{"action":"publish","channel":"{LOBBY}","data":{data},"id":{n}}}')


async def small_reader(running: Running, token: str) -> Raw:
    """A client whose receive buffer is small, so that it is slow as soon as it does not read."""
    sock = sockets.socket()
    sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4_096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", running.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4_096)
    raw = Raw(reader, writer)
    raw.send(request(token=token))
    assert (await raw.response())[0] == 101
    return raw


async def test_a_slow_reader_catches_up_without_loss() -> None:
    count, size = 3_000, 4_000
    async with running_hub(settings=UNLIMITED) as hub:
        token = await hub.token()
        async with await small_reader(hub, token) as slow, client(hub, token) as writer:
            slow.send(SUBSCRIBE)
            assert (await slow.json())["type"] == "ok"
            for n in range(count):
                answer = await ask(
                    writer, action="publish", channel=LOBBY, data={"n": n, "pad": "x" * size}
                )
                assert answer["type"] == "ok"
            # 12 MB were published and the reader took nothing: it must have been set aside.
            assert hub.hub.slow
            seen: list[int] = []
            while len(seen) < count:
                message = await slow.json()
                assert message["type"] == "event", message
                seen.append(message["event"]["data"]["n"])
            assert seen == list(range(count))
            await ask(writer, action="publish", channel=LOBBY, data={"n": "live again"})
            assert (await slow.json())["event"]["data"]["n"] == "live again"


async def test_a_slow_reader_holds_a_bounded_amount_of_memory() -> None:
    async with running_hub(settings=UNLIMITED) as hub:
        token = await hub.token()
        async with await small_reader(hub, token) as slow, client(hub, token) as writer:
            slow.send(SUBSCRIBE)
            await slow.json()
            most = 0
            for n in range(1_000):
                await ask(writer, action="publish", channel=LOBBY, data={"n": n, "p": "x" * 8_000})
                for connection in hub.connections.all:
                    transport = getattr(connection, "_transport", None)
                    if transport is not None:
                        most = max(most, transport.get_write_buffer_size())
            settings = hub.connections.settings
            assert settings.write_high_bytes < most < settings.write_high_bytes + 1_500_000


async def test_what_is_queued_for_a_revoked_reader_is_dropped() -> None:
    async with running_hub(settings=UNLIMITED) as hub:
        made = await hub.new_token("bob")
        async with (
            await small_reader(hub, made.token) as slow,
            client(hub, await hub.token("alice")) as writer,
        ):
            slow.send(SUBSCRIBE)
            assert (await slow.json())["type"] == "ok"
            while not hub.hub.slow:
                await ask(writer, action="publish", channel=LOBBY, data="x" * 8_000)
            await hub.hub.call(RevokeToken(id=made.id), caller=HUB)
            # Behind what was queued a close would stand; it was dropped with it.
            assert await slow.ended() is None


async def test_a_client_that_does_not_read_its_answers_is_not_read() -> None:
    async with running_hub(settings=UNLIMITED) as hub:
        token = await hub.token()
        raw = await small_reader(hub, token)
        # Each 30-byte ping is answered with a pong that nobody reads.
        flood = text('{"action":"ping","id":"' + "x" * 150 + '"}') * 1_000
        for _ in range(200):
            raw.send(flood)
        await settled(lambda: any(is_full(connection) for connection in hub.connections.all))
        async with client(hub, token) as other:
            for n in range(50):
                assert (await ask(other, action="ping", id=n))["id"] == n
        [stuck] = [c for c in hub.connections.all if is_full(c)]
        size = stuck._transport.get_write_buffer_size()  # type: ignore[attr-defined]
        assert size < hub.connections.settings.write_high_bytes + 64_000
        raw.writer.transport.abort()


async def test_a_flood_of_commands_is_taken_in_turns() -> None:
    async with running_hub(settings=UNLIMITED) as hub:
        token = await hub.token()
        async with await Raw.upgraded(hub, token=token) as flood, client(hub, token) as other:
            count = 20_000
            flood.send(b"".join(publish(n) for n in range(count)))
            turns = 0
            done = asyncio.Event()

            def count_turns() -> None:
                nonlocal turns
                turns += 1
                if not done.is_set():
                    asyncio.get_running_loop().call_soon(count_turns)

            count_turns()
            answers = asyncio.create_task(read_answers(flood, count))
            pongs = 0
            while not answers.done():
                assert (await ask(other, action="ping", id=pongs))["id"] == pongs
                pongs += 1
            done.set()
            ids = await answers
            assert ids == list(range(count))
            assert pongs > 3
            assert turns >= count / COMMANDS_PER_TURN


async def read_answers(raw: Raw, count: int) -> list[int]:
    return [(await raw.json())["id"] for _ in range(count)]


async def test_publishes_wait_at_the_door_when_commits_are_slow() -> None:
    """The memory engine commits within the turn, so its commits are held up here by hand."""
    async with running_hub(settings=UNLIMITED) as hub:
        token = await hub.token()
        committer = hub.hub.committer
        flush = committer._flush
        committer._flush = lambda: None  # type: ignore[method-assign]
        async with await Raw.upgraded(hub, token=token) as raw:
            raw.send(b"".join(publish(n) for n in range(5_000)))
            await settled(lambda: most_pending(hub) > Session.PENDING_MAX)
            for _ in range(100):
                await asyncio.sleep(0)
            assert most_pending(hub) == Session.PENDING_MAX + 1
            committer._flush = flush  # type: ignore[method-assign]
            flush()
            assert await read_answers(raw, 5_000) == list(range(5_000))


def most_pending(hub: Running) -> int:
    return max((s.pending for peers in hub.hub.sessions.values() for s in peers), default=0)


def is_full(connection: object) -> bool:
    return bool(getattr(connection, "_is_full", False))


async def settled(condition) -> None:
    """Let the loop turn until something is so."""
    async with asyncio.timeout(WAIT_MAX_S):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)


# --- silence ----------------------------------------------------------------


async def test_a_silent_client_is_closed(hub: Running) -> None:
    async with await Raw.upgraded(hub) as raw:
        hub.pass_time(9.0)
        raw.send(text('{"action":"ping"}'))
        assert (await raw.json())["type"] == "pong"
        hub.pass_time(2.0)
        ended = await raw.frame()
        assert ended is not None and bytes(ended.data)[:2] == (1008).to_bytes(2, "big")


async def test_a_client_that_answers_pings_stays(hub: Running) -> None:
    async with client(hub, await hub.token()) as socket:
        await ask(socket, action="subscribe", channels=[LOBBY])
        for _ in range(10):
            hub.pass_time(26.0)
            # The client's library answers the ping on its own; this is behind the pong.
            assert (await ask(socket, action="ping"))["type"] == "pong"


async def test_a_half_open_connection_is_dropped(hub: Running) -> None:
    async with await Raw.upgraded(hub, token=await hub.token()) as raw:
        hub.pass_time(26.0)
        ping = await raw.frame()
        assert ping is not None and ping.opcode == 9
        hub.pass_time(26.0)
        assert await raw.ended() is None
        assert not hub.connections.all


async def test_any_bytes_count_as_a_sign_of_life(hub: Running) -> None:
    async with await Raw.upgraded(hub, token=await hub.token()) as raw:
        for _ in range(5):
            hub.pass_time(26.0)
            ping = await raw.frame()
            assert ping is not None and ping.opcode == 9
            raw.send(text('{"action":"ping"}'))
            assert (await raw.json())["type"] == "pong"


async def test_a_client_that_never_answers_a_close_is_cut(hub: Running) -> None:
    async with await Raw.upgraded(hub) as raw:
        raw.send(text('{"action":"auth","token":"wrong"}'))
        assert (await raw.json())["type"] == "error"
        frame = await raw.frame()
        assert frame is not None and frame.opcode == 8
        hub.pass_time(3.0)
        assert await raw.rest() == b""


async def test_a_client_that_trickles_after_the_close_is_cut_all_the_same(hub: Running) -> None:
    async with await Raw.upgraded(hub) as raw:
        raw.send(frame(b"", is_masked=False))
        ended = await raw.frame()
        assert ended is not None and ended.opcode == 8
        for _ in range(3):
            raw.send(b"\x00")
            hub.pass_time(1.0)
        assert await raw.rest() == b""
        assert not hub.connections.all


async def test_a_thousand_silent_connections_are_bounded_and_keep_nobody_out() -> None:
    settings = ServerSettings(
        port=0, connections=ConnectionSettings(unauthenticated_per_address_max=100)
    )
    async with running_hub(server=settings) as hub:
        token = await hub.token()
        async with client(hub, token) as served:
            silent = [await Raw.connect(hub) for _ in range(500)]
            silent += [await Raw.upgraded(hub) for _ in range(500)]
            assert len(hub.connections.all) == 101
            assert (await ask(served, action="publish", channel=LOBBY, data=1))["type"] == "ok"
            async with client(hub, token) as newcomer:
                assert (await ask(newcomer, action="ping"))["type"] == "pong"
            for raw in silent:
                raw.writer.transport.abort()


async def test_no_newcomer_ends_a_connection_that_is_served() -> None:
    settings = ServerSettings(
        port=0, connections=ConnectionSettings(unauthenticated_per_address_max=3)
    )
    async with running_hub(server=settings) as hub:
        readers = [await Raw.upgraded(hub) for _ in range(3)]
        for reader in readers:
            reader.send(SUBSCRIBE)
            assert (await reader.json())["type"] == "ok"
        refused = await Raw.connect(hub)
        assert (await refused.response())[0] == 503
        for reader in readers:
            reader.send(text('{"action":"ping"}'))
            assert (await reader.json())["type"] == "pong"
            reader.close()
        refused.close()


async def test_an_idle_connection_costs_little_memory() -> None:
    async with running_hub() as hub:
        token = await hub.token()
        first = await idle(hub, token, 20)
        tracemalloc.start()
        before = tracemalloc.take_snapshot()
        more = await idle(hub, token, 100)
        after = tracemalloc.take_snapshot()
        tracemalloc.stop()
        ours = [
            difference.size_diff
            for difference in after.compare_to(before, "filename")
            if "/clawnet/doors/" in difference.traceback[0].filename
            or "/websockets/" in difference.traceback[0].filename
            or "/uvicorn/" in difference.traceback[0].filename
        ]
        assert sum(ours) / 100 < 3_000
        for raw in first + more:
            raw.writer.transport.abort()


async def idle(hub: Running, token: str, count: int) -> list[Raw]:
    raws = []
    for _ in range(count):
        raw = await Raw.upgraded(hub, token=token, trailing=SUBSCRIBE)
        assert (await raw.json())["type"] == "ok"
        raws.append(raw)
    return raws
