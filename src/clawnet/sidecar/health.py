"""`--health-port`: two questions answered as JSON on 127.0.0.1, for whoever watches the sidecar."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

from clawnet.core.errors import BadConfiguration

HEAD_MAX_BYTES = 8_192
ANSWER_WITHIN_S = 5.0
AT_ONCE_MAX = 32


class Health:
    """GET /healthz says that it runs; GET /readyz is 503 while the hub is out of reach."""

    def __init__(self, facts: Callable[[], dict[str, Any]]) -> None:
        self._facts = facts
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def start(self, port: int) -> None:
        """Raises BadConfiguration."""
        try:
            self._server = await asyncio.start_server(
                self._answer, "127.0.0.1", port, limit=HEAD_MAX_BYTES
            )
        except OSError as error:
            raise BadConfiguration(
                f"The health port {port} cannot be used ({error.strerror}).",
                next="Choose another with --health-port, or 0 for any.",
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
            for writer in self._open:
                writer.transport.abort()  # whoever asks slowly does not hold up the end
            await server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if len(self._open) <= AT_ONCE_MAX:
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._said(head))
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asks so is not answered
        finally:
            self._open.discard(writer)
            writer.close()

    def _said(self, head: bytes) -> bytes:
        facts = self._facts()
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if not _is_local(head):
            status, facts = "421 Misdirected Request", {"error": "ask for 127.0.0.1 or localhost"}
        elif path not in (b"/healthz", b"/readyz"):
            status, facts = "404 Not Found", {"error": "ask /healthz or /readyz"}
        elif method not in (b"GET", b"HEAD"):
            status, facts = "405 Method Not Allowed", {"error": "ask with GET"}
        elif path == b"/readyz" and not facts.get("connected"):
            status = "503 Service Unavailable"
        else:
            status = "200 OK"
        body = json.dumps(facts).encode() + b"\n"
        headers = (
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            "\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        return headers.encode() + (b"" if method == b"HEAD" else body)


def _is_local(head: bytes) -> bool:
    """Whether the request names this machine: a page in a browser here, whose own name was made to
    mean 127.0.0.1, is not to read what the agent does."""
    hosts = [
        value.strip().lower()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        if name.strip().lower() == b"host"
    ]
    return all(re.fullmatch(rb"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", one) for one in hosts)
