"""A real server over a real hub, and clients that speak to it as users do."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from msgspec import Raw

from clawnet.core.callers import Caller
from clawnet.core.calls.publishing import Publish
from clawnet.doors.http.app import HttpDoor, build_app
from clawnet.doors.http.settings import HttpSettings
from clawnet.hub.hub import Hub
from clawnet.testing.running import Running, running_hub

LOBBY = "/api/v1/channels/public.lobby/events"
STREAM = "/api/v1/events/stream"
PROBLEM = "application/problem+json"


class Api:
    """A client of one hub; `door` is the app that answers it."""

    def __init__(self, running: Running, door: HttpDoor, client: httpx.AsyncClient) -> None:
        self.running = running
        self.hub: Hub = running.hub
        self.door = door
        self.client = client
        self._speaker: Caller | None = None
        self._wires: list[Wire] = []

    async def bearer(self, account: str = "alice", **how: Any) -> dict[str, str]:
        """The Authorization header of an account."""
        return {"Authorization": f"Bearer {await self.running.token(account, **how)}"}

    async def publish(self, data: Any, *, account: str = "alice", path: str = LOBBY) -> Any:
        """Publish by HTTP and return the answer's JSON."""
        answer = await self.client.post(
            path, json={"data": data}, headers=await self.bearer(account)
        )
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def say(self, data: Any, *, channel: str = "public.lobby") -> int:
        """Publish past HTTP, for tests of what comes out; returns the offset."""
        if self._speaker is None:
            self._speaker = self.hub.authenticate(await self.running.token("alice"))
        call = Publish(channel=channel, data=Raw(json.dumps(data).encode()))
        return (await self.hub.publish_wait(self._speaker, call)).offset

    async def raw(self, *, limit: int = 65_536) -> Wire:
        """A bare connection that reads little more than `limit` before it is asked."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, limit)
        address = ("127.0.0.1", self.running.port)
        await asyncio.get_running_loop().sock_connect(sock, address)
        self._wires.append(Wire(*await asyncio.open_connection(sock=sock, limit=limit)))
        return self._wires[-1]

    async def close(self) -> None:
        for wire in self._wires:
            await wire.close()


class Wire:
    """Bytes to and from the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, text: str | bytes) -> None:
        self.writer.write(text.encode() if isinstance(text, str) else text)
        await self.writer.drain()

    async def status(self) -> int:
        """Read a head; its status."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split()[1])

    async def until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readuntil(mark)

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        async with asyncio.timeout(10):
            return await self.reader.read()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


class Stream:
    """A streamed answer, read line by line or event by event."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def line(self) -> str:
        async with asyncio.timeout(10):
            return await anext(self._lines)

    async def json(self) -> Any:
        return json.loads(await self.line())

    async def event(self) -> dict[str, str]:
        """The next server-sent event (comments and bare ids are passed over)."""
        while True:
            fields: dict[str, str] = {}
            while line := await self.line():
                name, _, value = line.partition(":")
                fields[name] = fields.get(name, "") + value.removeprefix(" ")
            if "data" in fields:
                return fields

    async def is_over(self) -> bool:
        """Whether nothing but the end follows."""
        async with asyncio.timeout(10):
            return [line async for line in self._lines if line] == []


def check_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Assert that an answer is the documented problem, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    problem: dict[str, Any] = answer.json()
    assert problem["code"] == code, problem
    assert problem["status"] == status
    assert {"type", "title", "detail", "retryable", "next"} <= set(problem)
    assert problem["type"] == f"urn:clawnet:error:{problem['code']}"
    return problem


async def settled(what: Any) -> None:
    """Give the loop turns until `what()` holds."""
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110 (the hub has no event for everything a test looks at)
            await asyncio.sleep(0)


@pytest.fixture
def origins() -> tuple[str, ...]:
    """Override it to let pages of other sites in."""
    return ()


@pytest.fixture
def http_settings() -> HttpSettings:
    return HttpSettings()


@pytest.fixture
def no_access_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the program. pytest's own handler would turn uvicorn's access log on, and with it
    the short way of writing an answer (clawnet.doors.http.wire) off."""
    monkeypatch.setattr(logging.getLogger("uvicorn.access"), "hasHandlers", lambda: False)


@pytest.fixture
async def api(
    http_settings: HttpSettings, origins: tuple[str, ...], no_access_log: None
) -> AsyncIterator[Api]:
    doors: list[HttpDoor] = []

    def make_app(hub: Hub) -> HttpDoor:
        doors.append(build_app(hub, settings=http_settings, origins=origins))
        return doors[0]

    async with (
        running_hub(make_app=make_app) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False) as client,
    ):
        api = Api(running, doors[0], client)
        try:
            yield api
        finally:
            await api.close()
