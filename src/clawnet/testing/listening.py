"""What fakes of other people's servers have in common: they listen, and read one request a time."""

from __future__ import annotations

import asyncio


class Listening:
    """An HTTP/1.1 server on 127.0.0.1 that closes each connection behind its answer."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None

    async def listen(self, port: int = 0) -> int:
        """Listen on a port, or on a free one; returns which."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        listening: int = self._server.sockets[0].getsockname()[1]
        return listening

    async def stop(self) -> None:
        """Listen no more."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await server.wait_closed()

    async def respond(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        asked: tuple[str, str, dict[str, str], bytes],
    ) -> None:
        """Answer a request: its method, target, headers and body. The fake's."""
        raise AssertionError("a fake says what it answers")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            method, target, _ = first.split(" ")
            pairs = [line.split(":", 1) for line in lines]
            headers = {name.lower(): value.strip() for name, value in pairs}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            await self.respond(reader, writer, (method, target, headers, body))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            # The client went away, as one that has seen enough does.
            pass
        finally:
            writer.close()
