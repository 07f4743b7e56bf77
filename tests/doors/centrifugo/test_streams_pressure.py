"""Streams of Centrifugo clients under pressure, and their ends: slow, flooding, gone, stopped."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from msgspec import Raw

from clawnet.core.callers import HUB
from clawnet.core.calls.grants import Grant, Revoke
from clawnet.core.calls.publishing import Publish
from clawnet.core.calls.tokens import RevokeToken
from clawnet.core.live import End
from clawnet.doors.centrifugo.transport import WAITING_MAX
from clawnet.doors.connections import ConnectionSettings, Standing
from clawnet.doors.server import ServerSettings
from clawnet.testing.running import running_hub
from tests.doors.centrifugo.streaming import LOBBY, UNLIMITED, WAIT_MAX_S, Rig, stream

KINDS = ("http_stream", "sse", "protobuf")


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    server = ServerSettings(port=0, connections=ConnectionSettings(linger_s=0.01))
    async with (
        running_hub(settings=UNLIMITED, server=server) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=WAIT_MAX_S) as client,
    ):
        yield Rig(running, client)


async def test_a_client_that_goes_away_is_forgotten(rig: Rig) -> None:
    async with stream(rig.client, "http_stream", await rig.connect("bob")) as bob:
        await bob.connected()
        await bob.ask("subscribe", channel=LOBBY)
        async with stream(rig.client, "sse", await rig.connect("alice")) as alice:
            await alice.connected()
            await alice.ask("subscribe", channel=LOBBY)
            seen = (await bob.ask("presence_stats", channel=LOBBY))["presence_stats"]
            assert seen["num_clients"] == 2
        await rig.settled(lambda: len(rig.door.clients.all()) == 1)
        seen = (await bob.ask("presence_stats", channel=LOBBY))["presence_stats"]
        assert seen["num_clients"] == 1
    await rig.settled(lambda: not rig.hub.sessions and not rig.door.clients.all())
    await rig.settled(lambda: not rig.running.server.server_state.tasks)


async def test_a_connected_stream_counts_as_known(rig: Rig) -> None:
    async with stream(rig.client, "http_stream", await rig.connect()) as alice:
        await alice.connected()
        await rig.settled(
            lambda: any(c.standing is Standing.KNOWN for c in rig.running.connections.all)
        )


async def test_emulated_commands_that_wait_are_bounded(rig: Rig) -> None:
    async with stream(rig.client, "http_stream", await rig.connect()) as alice:
        await alice.connected()
        rig.transport.hold()
        command = {"id": 7, "presence_stats": {"channel": LOBBY}}
        for _ in range(WAITING_MAX):
            assert (await alice.emulate(command)).status_code == 204
        full = await alice.emulate(command)
        assert full.status_code == 503 and "retry-after" in full.headers
        rig.transport.release()
        for _ in range(WAITING_MAX):
            assert (await alice.feed.next())["id"] == 7
        assert "presence_stats" in await alice.ask("presence_stats", channel=LOBBY)


async def test_a_flood_of_large_emulated_commands_is_bounded_by_bytes(rig: Rig) -> None:
    async with stream(rig.client, "http_stream", await rig.connect()) as alice:
        await alice.connected()
        transport = rig.transport
        transport.hold()
        command = {"id": 7, "publish": {"channel": LOBBY, "data": "x" * 60_000}}
        statuses = [(await alice.emulate(command)).status_code for _ in range(8)]
        assert statuses.count(503) >= 3 and statuses[:4] == [204] * 4


@asynccontextmanager
async def small_reader(rig: Rig, token: str | None = None) -> AsyncIterator[asyncio.StreamReader]:
    """A client of http_stream whose receive buffer is small and who reads when asked."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", rig.running.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4_096)
    try:
        connect = {"id": 1, "connect": {"token": token or await rig.running.token()}}
        body = "\n".join(json.dumps(one) for one in (connect, SUBSCRIBE)).encode()
        writer.write(
            b"POST /connection/http_stream HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        await rig.settled(lambda: rig.door.clients.num_subs == 1)
        yield reader
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            pass


SUBSCRIBE = {"id": 2, "subscribe": {"channel": LOBBY}}


async def test_a_slow_reader_is_given_everything_when_it_reads(rig: Rig) -> None:
    count = 400
    async with small_reader(rig) as reader:
        for n in range(count):
            await rig.say({"n": n, "pad": "x" * 40_000})
        assert rig.hub.slow, "more was published than fits between the hub and a reader at rest"
        assert rig.transport.unsent() < 2_000_000
        offsets: list[int] = []
        text = b""
        async with asyncio.timeout(WAIT_MAX_S * 3):
            while len(offsets) < count:
                # Chunked: a length in hexadecimal, the piece, a line's end.
                size = int(await reader.readline(), 16)
                text += (await reader.readexactly(size + 2))[:-2]
                *lines, text = text.split(b"\n")
                offsets += [
                    json.loads(one)["push"]["pub"]["offset"] for one in lines if b'"pub":' in one
                ]
        assert offsets == list(range(1, count + 1))
        await rig.settled(lambda: not rig.hub.slow)


async def test_who_never_reads_is_cut_off(rig: Rig) -> None:
    async with small_reader(rig):
        for n in range(400):
            await rig.say({"n": n, "pad": "x" * 40_000})
        (session,) = rig.hub.slow
        session.end(End.SLOW)
        await rig.settled(lambda: not rig.running.server.server_state.tasks)
        assert not rig.hub.sessions and not rig.door.clients.all()


async def test_who_never_reads_and_asks_for_more_is_not_answered_without_end(rig: Rig) -> None:
    """Answers wait in the process: commands are held as soon as they are many."""
    for n in range(20):
        await rig.say({"n": n, "pad": "x" * 60_000})
    async with small_reader(rig):
        (client,) = rig.door.clients.all()
        transport = rig.transport
        asked = {"session": client.session_id, "node": rig.door.node}
        most = 0
        statuses = set()
        for n in range(WAITING_MAX + 40):
            command = {"id": n + 3, "history": {"channel": LOBBY, "limit": 20}}
            asked["data"] = json.dumps(command)
            statuses.add((await rig.client.post("/emulation", json=asked)).status_code)
            most = max(most, transport.unsent())
        assert statuses == {204, 503}
        assert most < 4_000_000


@pytest.mark.parametrize("kind", KINDS)
async def test_a_hub_that_stops_says_so_and_ends_the_stream(rig: Rig, kind: str) -> None:
    async with stream(rig.client, kind, await rig.connect()) as alice:
        await alice.connected()
        stopping = asyncio.create_task(rig.running.stop())
        (last,) = await alice.feed.rest()
        await stopping
    assert last["push"]["disconnect"]["code"] == 3001


async def test_a_hub_that_stops_does_not_wait_for_who_never_connected(rig: Rig) -> None:
    expired = {"id": 1, "connect": {"token": await rig.running.token(expires_in_s=0.001)}}
    async with stream(rig.client, "http_stream", expired) as nobody:
        await nobody.feed.next()
        stopping = asyncio.create_task(rig.running.stop())
        rest = await nobody.feed.rest()
        await stopping
    assert [one["push"]["disconnect"]["code"] for one in rest] in ([3001], [])


async def test_who_never_reads_its_end_is_cut_off(rig: Rig) -> None:
    async with small_reader(rig):
        for n in range(400):
            await rig.say({"n": n, "pad": "x" * 40_000})
        (client,) = rig.door.clients.all()
        client.disconnect()
        # The disconnect stands behind megabytes that nobody takes.
        await rig.settled(lambda: not rig.running.server.server_state.tasks)
        assert not rig.hub.sessions and not rig.door.clients.all()


async def test_what_is_queued_for_a_revoked_reader_is_dropped(rig: Rig) -> None:
    made = await rig.running.new_token("alice")
    async with small_reader(rig, made.token) as reader:
        while not rig.hub.slow:
            await rig.say({"pad": "x" * 40_000})
        transport = rig.transport
        assert transport.unsent() > 0
        await rig.hub.call(RevokeToken(id=made.id), caller=HUB)
        assert transport.unsent() == 0
        # Without anybody reading: what waits in the server's own buffers must not go out either.
        await rig.settled(lambda: not rig.running.server.server_state.tasks)
        try:
            assert b'"disconnect"' not in await reader.read()
        except ConnectionResetError:
            pass
    assert not rig.hub.sessions and not rig.door.clients.all()


async def test_a_connection_outlives_its_stream(rig: Rig) -> None:
    """The same TCP connection serves the next request, and nothing of the ended stream cuts it."""
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(base_url=rig.running.url, trust_env=False, limits=limits) as one:
        for _ in range(3):
            async with one.stream(
                "POST", "/connection/http_stream", content='{"id":1,"connect":{"token":"x"}}'
            ) as response:
                assert b"3500" in await response.aread()
            assert (await one.get("/healthz")).status_code == 200


async def test_a_body_of_a_client_that_leaves_begins_no_client(rig: Rig) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", rig.running.port)
    writer.write(
        b"POST /connection/http_stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
    )
    await rig.settled(lambda: rig.running.server.server_state.tasks)
    writer.close()
    await rig.settled(lambda: not rig.running.server.server_state.tasks)
    assert len(rig.running.connections.wheel) == 0


async def test_answers_to_who_never_reads_go_with_the_right(rig: Rig) -> None:
    alice = rig.hub.authenticate(await rig.running.token("alice"))
    bob = await rig.running.token("bob")
    secret = "agent.alice.x"
    for n in range(20):
        call = Publish(channel=secret, data=Raw(b'{"n":%d,"pad":"%b"}' % (n, b"x" * 60_000)))
        await rig.hub.publish_wait(alice, call)
    await rig.hub.call(Grant(account="bob", channel=secret), caller=alice)
    async with small_reader(rig, bob):
        (client,) = rig.door.clients.all()
        transport = rig.transport
        asked = {"session": client.session_id, "node": rig.door.node}
        command = {"id": 3, "history": {"channel": secret, "limit": 20}}
        asked["data"] = "\n".join([json.dumps(command)] * 20)
        assert (await rig.client.post("/emulation", json=asked)).status_code == 204
        turns = 0

        def is_stuck() -> bool:
            nonlocal turns
            turns = turns + 1 if transport._is_sending else 0
            return turns > 300

        await rig.settled(is_stuck)
        await rig.hub.call(Revoke(account="bob", channel=secret), caller=alice)
        assert transport.unsent() == 0 or transport._is_cut
        await rig.settled(lambda: not rig.running.server.server_state.tasks)
