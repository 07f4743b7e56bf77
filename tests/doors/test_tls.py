"""TLS in front of the seam: who is counted, who is ended, and that a slow reader stays whole."""

import asyncio
import json
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import Raw as RawData

from clawnet.app.tls import Certificate, load_pair
from clawnet.core.calls.publishing import Publish
from clawnet.core.errors import BadConfiguration
from clawnet.doors.connections import ConnectionSettings
from clawnet.doors.server import ServerSettings
from clawnet.hub.settings import HubSettings, LimitSettings, RetentionSettings
from clawnet.testing.running import Running, running_hub
from tests.certificates import Files, make, needs_openssl
from tests.doors.ws.clients import Raw, request
from tests.doors.ws.frames_made import text

pytestmark = needs_openssl
LOBBY = "public.lobby"
UNLIMITED = HubSettings(
    limits=LimitSettings(enabled=False),
    retention=RetentionSettings(events_per_channel_max=1_000_000),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def certificate(files: Files) -> Certificate:
    return Certificate(files.cert, files.key)


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110 (the registry has no event for it)
            await asyncio.sleep(0)


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(), 10) == b""
    except ConnectionResetError:
        return True  # as the kernel says it when sent bytes were not read


async def silent(hub: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that begins no handshake."""
    before = len(hub.connections.all)
    made = await asyncio.open_connection("127.0.0.1", hub.port)
    await until(lambda: len(hub.connections.all) > before)
    return made


async def test_a_handshake_that_never_comes_is_counted_and_ended(
    certificate: Certificate,
) -> None:
    async with running_hub(tls=certificate) as hub:
        reader, writer = await silent(hub)
        assert len(hub.connections.all) == 1
        hub.pass_time(9.0)
        assert len(hub.connections.all) == 1
        hub.pass_time(2.0)
        assert await ended(reader)
        await until(lambda: not hub.connections.all)
        writer.close()


async def test_a_handshake_that_stops_half_way_is_ended(certificate: Certificate) -> None:
    async with running_hub(tls=certificate) as hub:
        reader, writer = await silent(hub)
        writer.write(b"\x16\x03\x01\x02\x00\x01")
        await writer.drain()
        hub.pass_time(11.0)
        assert await ended(reader)
        writer.close()


async def test_one_who_only_connects_keeps_nobody_out(
    certificate: Certificate, files: Files
) -> None:
    server = ServerSettings(port=0, connections=ConnectionSettings(connections_max=3))
    async with running_hub(tls=certificate, server=server) as hub:
        opened = [await silent(hub) for _ in range(3)]
        reader, writer = await asyncio.open_connection(
            "localhost", hub.port, ssl=ssl.create_default_context(cafile=files.cert)
        )
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b" 200 " in await asyncio.wait_for(reader.readline(), 10)
        # The oldest made room.
        assert await ended(opened[0][0])
        for _, other in [*opened, (reader, writer)]:
            other.close()


async def test_a_connection_is_counted_once(certificate: Certificate, files: Files) -> None:
    # Were it counted as a handshake and as what follows, there would be no room for it.
    server = ServerSettings(port=0, connections=ConnectionSettings(connections_max=1))
    async with running_hub(tls=certificate, server=server) as hub:
        reader, writer = await asyncio.open_connection(
            "localhost", hub.port, ssl=ssl.create_default_context(cafile=files.cert)
        )
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in await asyncio.wait_for(reader.readline(), 10)
        assert len(hub.connections.all) == 1
        writer.close()
        await until(lambda: not hub.connections.all)


async def test_a_stop_ends_handshakes_under_way(certificate: Certificate) -> None:
    async with running_hub(tls=certificate) as hub:
        reader, writer = await silent(hub)
        await hub.stop()
        assert await ended(reader)
        writer.close()


async def test_a_slow_reader_catches_up_without_loss(
    certificate: Certificate, files: Files
) -> None:
    count, size = 1_500, 8_000
    context = ssl.create_default_context(cafile=files.cert)
    async with running_hub(settings=UNLIMITED, tls=certificate) as hub:
        token = await hub.token()
        speaker = hub.hub.authenticate(token)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", hub.port))
        reader, writer = await asyncio.open_connection(
            sock=sock, limit=4_096, ssl=context, server_hostname="localhost"
        )
        async with Raw(reader, writer) as slow:
            slow.send(request(token=token))
            assert (await slow.response())[0] == 101
            slow.send(text(f'{{"action":"subscribe","channels":["{LOBBY}"]}}'))
            assert (await slow.json())["type"] == "ok"
            for n in range(count):
                data = json.dumps({"n": n, "pad": "x" * size}).encode()
                await hub.hub.publish_wait(speaker, Publish(channel=LOBBY, data=RawData(data)))
            assert hub.hub.slow
            seen: list[int] = []
            while len(seen) < count:
                message = await slow.json()
                assert message["type"] == "event", message
                seen.append(message["event"]["data"]["n"])
            assert seen == list(range(count))


def test_nothing_older_than_tls_1_2_is_spoken(files: Files) -> None:
    assert load_pair(files.cert, files.key).context.minimum_version is ssl.TLSVersion.TLSv1_2


async def test_a_broken_pair_leaves_the_old_one(files: Files, tmp_path: Path) -> None:
    cert, key = tmp_path / "c.pem", tmp_path / "k.pem"
    cert.write_bytes(files.cert.read_bytes())
    key.write_bytes(files.key.read_bytes())
    certificate = Certificate(cert, key)
    before = certificate.context
    for content in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        cert.write_bytes(content)
        assert not await certificate.reload()
        assert certificate.context is before
        with pytest.raises(BadConfiguration):
            load_pair(cert, key)
    cert.write_bytes(files.cert.read_bytes())
    assert await certificate.reload()
    assert certificate.context is not before
