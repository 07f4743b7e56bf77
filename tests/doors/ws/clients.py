"""Clients for tests: a polite one made of `websockets`, and a raw one that sends any bytes."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.frames import CLOSE, Close, Frame
from websockets.protocol import CLIENT, OPEN, Protocol

from clawnet.testing.running import Running

WAIT_MAX_S = 20.0
"""How long a test waits for what must come: only reached when the test fails."""


@asynccontextmanager
async def client(running: Running, token: str | None = None) -> AsyncIterator[ClientConnection]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with connect(running.ws_url, additional_headers=headers, max_size=None) as socket:
        yield socket


async def say(socket: ClientConnection, **command: Any) -> None:
    await socket.send(json.dumps(command))


async def hear(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(WAIT_MAX_S):
        return json.loads(await socket.recv())


async def ask(socket: ClientConnection, **command: Any) -> dict[str, Any]:
    """Say something and hear what comes next."""
    await say(socket, **command)
    return await hear(socket)


async def closed(socket: ClientConnection) -> tuple[int | None, str | None]:
    """Wait for the end; the close code and reason."""
    async with asyncio.timeout(WAIT_MAX_S):
        await socket.wait_closed()
    return socket.close_code, socket.close_reason


def request(
    *headers: str,
    path: str = "/api/v1/events/stream",
    token: str | None = None,
    host: str = "localhost",
) -> bytes:
    """An upgrade request."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Raw:
    """A TCP connection on which a test writes what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.protocol = Protocol(CLIENT, state=OPEN, max_size=None)
        self.waiting: list[Frame] = []

    @classmethod
    async def connect(cls, running: Running) -> "Raw":
        return cls(*await asyncio.open_connection("127.0.0.1", running.port))

    @classmethod
    async def upgraded(
        cls, running: Running, *, token: str | None = None, trailing: bytes = b""
    ) -> "Raw":
        raw = await cls.connect(running)
        raw.send(request(token=token) + trailing)
        status, _, _ = await raw.response()
        assert status == 101
        return raw

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """An HTTP response: status, headers, body."""
        async with asyncio.timeout(WAIT_MAX_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status_line, *lines = head.strip().split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
            }
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(status_line.split()[1]), headers, body

    async def frame(self) -> Frame | None:
        """The next frame; None at the end of the stream."""
        async with asyncio.timeout(WAIT_MAX_S):
            while not self.waiting:
                data = await self.reader.read(65_536)
                if not data:
                    return None
                self.protocol.receive_data(data)
                self.waiting += self.protocol.events_received()  # type: ignore[arg-type]
        return self.waiting.pop(0)

    async def json(self) -> dict[str, Any]:
        frame = await self.frame()
        assert frame is not None, "the connection ended"
        return json.loads(bytes(frame.data))

    async def ended(self) -> Close | None:
        """Read to the end of the stream; the server's close frame, if there was one."""
        close = None
        try:
            while (frame := await self.frame()) is not None:
                if frame.opcode is CLOSE:
                    close = Close.parse(frame.data)
        except ConnectionResetError:
            pass
        return close

    async def rest(self) -> bytes:
        """All bytes until the end of the stream."""
        async with asyncio.timeout(WAIT_MAX_S):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    def close(self) -> None:
        self.writer.close()

    async def __aenter__(self) -> "Raw":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (ConnectionError, BrokenPipeError):
            pass
