"""Writes a short JSON answer in one piece, past the two steps of ASGI.

uvicorn writes head and body apart: two send() calls, 6 to 10 µs each, and checks
each header by two regular expressions. On the hot path that was a quarter of a
request. Where the connection is in its plain state the same bytes are written
at once; in every other state, and behind any middleware, ASGI's way is taken.
Leans on uvicorn's RequestResponseCycle, as clawnet.doors.protocol does.
"""

from __future__ import annotations

from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from clawnet.doors.http.answers import JSON

_LENGTHS_MAX = 512

_lengths = [b"content-length: %d\r\n\r\n" % length for length in range(_LENGTHS_MAX)]
_heads = {
    status: STATUS_LINE[status] + b"%b: %b\r\n" % JSON for status in (200, 201)
}  # The first two of the lines; the server's own headers and the length follow.


class _Defaults:
    """The server's default headers as bytes. The server makes a new list when they change."""

    __slots__ = ("_of", "text")

    def __init__(self) -> None:
        self._of: object = None
        self.text = b""

    def of(self, cycle: RequestResponseCycle) -> bytes:
        if cycle.default_headers is not self._of:
            self._of = cycle.default_headers
            self.text = b"".join([b"%b: %b\r\n" % pair for pair in cycle.default_headers])
        return self.text


_defaults = _Defaults()


async def send_json(send: Send, status: int, body: bytes) -> None:
    """Answer with JSON; status is 200 or 201."""
    cycle = getattr(send, "__self__", None)
    if (
        type(cycle) is RequestResponseCycle
        and len(body) < _LENGTHS_MAX
        and cycle.keep_alive
        and not cycle.response_started
        and not cycle.disconnected
        and not cycle.flow.write_paused
        and not cycle.access_log
        and cycle.scope["method"] == "POST"
    ):
        # What RequestResponseCycle.send does, in one section without await.
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        head = _heads[status]
        cycle.transport.write(head + _defaults.of(cycle) + _lengths[len(body)] + body)
        cycle.message_event.set()
        cycle.on_response()
        return
    headers = [JSON, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
