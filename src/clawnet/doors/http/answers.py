"""What a route gives back: something that writes itself to the client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from starlette.types import Receive, Send

Header = tuple[bytes, bytes]

JSON = (b"content-type", b"application/json")
NO_STORE = (b"cache-control", b"no-store")
# Answers carry what other accounts wrote; a browser must not guess another type for it.
NO_SNIFF = (b"x-content-type-options", b"nosniff")

encode = msgspec.json.Encoder().encode


class Answer(Protocol):
    """Writes status, headers and body."""

    async def __call__(self, receive: Receive, send: Send) -> None: ...


@dataclass(frozen=True, slots=True)
class Plain:
    """An answer that is known whole. The length header is added here."""

    status: int
    body: bytes = b""
    headers: Sequence[Header] = ()

    async def __call__(self, receive: Receive, send: Send) -> None:
        headers = list(self.headers)
        if self.status not in (204, 304):
            headers.append((b"content-length", b"%d" % len(self.body)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def json_answer(value: Any, *, status: int = 200) -> Plain:
    """A value of core.calls as JSON."""
    return json_bytes(encode(value), status=status)


def json_bytes(body: bytes, *, status: int = 200) -> Plain:
    """JSON that is text already."""
    return Plain(status, body, (JSON, NO_STORE, NO_SNIFF))


def text_answer(text: str, *, media_type: bytes) -> Plain:
    """Plain text of some kind."""
    return Plain(200, text.encode(), ((b"content-type", media_type), NO_STORE, NO_SNIFF))
