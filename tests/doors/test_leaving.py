"""A connection that is closing while its client reads slowly: what it has queued still comes, but
not after a right to it was taken; and the hub lets go of it in every manner of ending."""

from __future__ import annotations

import asyncio
import json
import socket as sockets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from msgspec import Raw

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.grants import Grant, Lock, Revoke, Unlock
from clawnet.core.calls.publishing import Publish
from clawnet.core.calls.tokens import RevokeToken, TokenCreated
from clawnet.core.live import End
from clawnet.doors.connections import ConnectionSettings
from clawnet.doors.server import ServerSettings
from clawnet.hub.sessions import Session
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.testing.running import Running, running_hub
from tests.doors.ws.clients import WAIT_MAX_S, request
from tests.doors.ws.frames_made import text

SECRET = "agent.alice.x"
FAREWELL = b"expired"
"""Stands in what every door says at the end, behind all that is queued."""

Reader = asyncio.StreamReader


class Rig:
    """A hub in which bob reads alice's channel by one door, and slowly."""

    def __init__(self, running: Running, alice: Caller, bob: TokenCreated) -> None:
        self.running = running
        self.hub = running.hub
        self.alice = alice
        self.bob = bob
        self.wire: asyncio.StreamWriter | None = None

    async def session(self) -> Session:
        """Bob's, once he was given more than he takes."""
        event = Publish(channel=SECRET, data=Raw(json.dumps("x" * 20_000).encode()))
        while not self.hub.slow:
            await self.hub.publish_wait(self.alice, event)
        (session,) = self.hub.slow
        # What waits inside the server is taken by the kernel as long as it takes any.
        for _ in range(300):
            await asyncio.sleep(0)
        return session

    async def settled(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_MAX_S):
            while not what():  # noqa: ASYNC110 (the hub has no event for what a test looks at)
                await asyncio.sleep(0)

    async def gone(self) -> None:
        """Wait until nothing is left of bob's session."""
        await self.settled(lambda: not self.hub.leaving and not self.hub.sessions)


async def by_websocket(rig: Rig, reader: Reader, writer: asyncio.StreamWriter) -> None:
    writer.write(request(token=rig.bob.token))
    await reader.readuntil(b"\r\n\r\n")
    writer.write(text(json.dumps({"action": "subscribe", "channels": [SECRET]})))


async def by_centrifugo(rig: Rig, reader: Reader, writer: asyncio.StreamWriter) -> None:
    writer.write(request(path="/connection/websocket"))
    await reader.readuntil(b"\r\n\r\n")
    writer.write(text(asked(rig)))


async def by_centrifugo_stream(rig: Rig, reader: Reader, writer: asyncio.StreamWriter) -> None:
    body = asked(rig).encode()
    writer.write(
        b"POST /connection/http_stream HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )


async def by_stream(rig: Rig, reader: Reader, writer: asyncio.StreamWriter) -> None:
    head = f"GET /sub/{SECRET} HTTP/1.1\r\nHost: localhost\r\n"
    writer.write(f"{head}Authorization: Bearer {rig.bob.token}\r\n\r\n".encode())


def asked(rig: Rig) -> str:
    """What a Centrifugo client says first."""
    connect = {"id": 1, "connect": {"token": rig.bob.token}}
    return f"{json.dumps(connect)}\n" + json.dumps({"id": 2, "subscribe": {"channel": SECRET}})


DOORS = {
    "websocket": by_websocket,
    "centrifugo": by_centrifugo,
    "centrifugo stream": by_centrifugo_stream,
    "stream": by_stream,
}


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    # No timer of the door's ends what a test looks at; where one is to, it passes the time.
    server = ServerSettings(port=0, connections=ConnectionSettings(linger_s=60.0))
    settings = HubSettings(limits=LimitSettings(enabled=False))
    async with running_hub(settings=settings, server=server) as running:
        alice = running.hub.authenticate(await running.token("alice"))
        made = Rig(running, alice, await running.new_token("bob"))
        await running.hub.call(Grant(account="bob", channel=SECRET), caller=alice)
        yield made
        if made.wire is not None:
            made.wire.transport.abort()


@asynccontextmanager
async def leaving(
    rig: Rig, door: str, *, by_client: bool = False
) -> AsyncIterator[tuple[Reader, Session]]:
    """Bob's connection by a door, which begins to close it while much is queued."""
    sock = sockets.socket()
    sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4_096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", rig.running.port))
    reader, rig.wire = await asyncio.open_connection(sock=sock, limit=4_096)
    await DOORS[door](rig, reader, rig.wire)
    await rig.settled(lambda: any(s.subscriptions for p in rig.hub.sessions.values() for s in p))
    session = await rig.session()
    if by_client:
        # As when its token of an application has expired: the hub has no part in it.
        (client,) = rig.running.centrifugo.clients.all()
        client.disconnect(3005, "connection expired")
    else:
        session.end(End.EXPIRED)
    assert rig.hub.sessions == {} and rig.hub.slow == set()
    yield reader, session


async def rest(reader: Reader) -> bytes:
    """All that comes until the farewell or the end."""
    found = b""
    async with asyncio.timeout(WAIT_MAX_S):
        try:
            while FAREWELL not in found[-200_000:]:
                piece = await reader.read(100_000)
                if not piece:
                    break
                found += piece
        except ConnectionResetError:
            pass
    return found


async def by_revoke(rig: Rig) -> None:
    await rig.hub.call(Revoke(account="bob", channel=SECRET), caller=rig.alice)


async def by_token(rig: Rig) -> None:
    await rig.hub.call(RevokeToken(id=rig.bob.id), caller=HUB)


async def by_lock(rig: Rig) -> None:
    await rig.hub.call(Lock(channel=SECRET), caller=rig.alice)


TAKINGS: dict[str, Callable[[Rig], Awaitable[None]]] = {
    "grant": by_revoke,
    "lock": by_lock,
    "token": by_token,
}
doors = pytest.mark.parametrize("door", DOORS)


@doors
async def test_what_is_queued_of_the_revoked_is_dropped(rig: Rig, door: str) -> None:
    for taken, take in TAKINGS.items():
        if taken != "grant":
            await rig.hub.call(Unlock(channel=SECRET), caller=rig.alice)
        async with leaving(rig, door) as (reader, _):
            await take(rig)
            assert FAREWELL not in await rest(reader), taken
            await rig.gone()


@pytest.mark.parametrize("door", [door for door in DOORS if "centrifugo" in door])
async def test_so_is_that_of_a_client_whom_its_door_ended(rig: Rig, door: str) -> None:
    async with leaving(rig, door, by_client=True) as (reader, _):
        await by_revoke(rig)
        assert FAREWELL not in await rest(reader)
        await rig.gone()


@doors
async def test_who_keeps_its_rights_is_given_all_and_the_reason(rig: Rig, door: str) -> None:
    async with leaving(rig, door) as (reader, session):
        await rig.hub.call(Grant(account="bob", channel="agent.alice.y"), caller=rig.alice)
        await rig.hub.call(Revoke(account="bob", channel="agent.alice.y"), caller=rig.alice)
        assert session in rig.hub.leaving
        assert FAREWELL in await rest(reader)


@doors
async def test_a_client_that_goes_away_is_let_go(rig: Rig, door: str) -> None:
    async with leaving(rig, door) as (_, session):
        assert rig.hub.leaving == {session}
        assert rig.wire is not None
        rig.wire.transport.abort()
        await rig.gone()


@pytest.mark.parametrize("door", ["websocket", "centrifugo"])
async def test_one_that_does_not_close_is_let_go_when_the_door_waits_no_longer(
    rig: Rig, door: str
) -> None:
    async with leaving(rig, door) as (_, session):
        assert rig.hub.leaving == {session}
        rig.running.pass_time(61.0)
        await rig.gone()


@doors
async def test_a_hub_that_stops_lets_go_of_it(rig: Rig, door: str) -> None:
    async with leaving(rig, door) as (_, session):
        assert rig.hub.leaving == {session}
        async with asyncio.timeout(WAIT_MAX_S):
            await rig.running.stop()
        assert rig.hub.leaving == set()
