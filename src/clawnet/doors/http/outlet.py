"""A live connection's bytes on their way into an ASGI response, bounded, with pressure."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Protocol

from starlette.types import Receive, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from clawnet.core.calls.reading import Gap
from clawnet.core.errors import ClawError
from clawnet.core.live import End
from clawnet.doors.cutting import cut
from clawnet.doors.http.answers import Header
from clawnet.doors.http.request import gone_away
from clawnet.hub.sessions import Session

PIECE_BYTES = 65_536


class Look(Protocol):
    """How a stream shows what is no event. None: it does not."""

    def gap(self, gap: Gap) -> bytes | None: ...
    def ended(self, error: ClawError) -> bytes | None: ...
    def dropped(self, channel: str, error: ClawError) -> bytes | None: ...
    def close(self, end: End) -> bytes | None: ...
    def ping(self) -> bytes | None: ...


class StreamOutlet:
    """Implements core.live.Outlet by a buffer that `pump` empties into `send`.

    Above `high_bytes` the session is paused; it resumes when the buffer was
    taken and `send` returned. Below that nothing is copied but by the join.
    """

    def __init__(
        self, look: Look, *, high_bytes: int, ping_s: float, events_max: int | None
    ) -> None:
        self.session: Session | None = None
        self._look = look
        self._high_bytes = high_bytes
        self._ping_s = ping_s
        self._events_left = events_max
        self._parts: list[bytes] = []
        self._size = 0
        self._is_over = False
        self._is_gone = False
        self._is_cut = False
        self._is_sending = False
        self._abort: Callable[[], None] | None = None
        self._waiter: asyncio.Future[None] | None = None

    # --- what the hub calls -------------------------------------------------

    def write(self, frames: bytes) -> None:
        if self._is_over:
            return
        if self._events_left is not None:
            frames = self._counted(frames, self._events_left)
        self._put(frames)
        if self._size > self._high_bytes and self.session is not None:
            self.session.pause()

    def unsent(self) -> int:
        # How much of what waits inside `send` is taken is told by progressed(), piece by piece.
        return self._size + self._is_sending

    def gap(self, number: int, gap: Gap) -> None:
        if not self._is_over:
            self._put(self._look.gap(gap))

    def ended(self, number: int, error: ClawError) -> None:
        # A stream has one subscription: with it the stream is over.
        if not self._is_over:
            self._put(self._look.ended(error))
            self._finish()

    def dropped(self, number: int, channel: str, error: ClawError) -> None:
        if not self._is_over:
            self._put(self._look.dropped(channel, error))

    def retract(self) -> None:
        # Also of a stream that has ended and is still being read.
        if not (self._is_sending or self._parts):
            return
        self._parts.clear()
        self._size = 0
        self._finish()
        if self._is_sending:
            self._cut()

    def close(self, end: End) -> None:
        if self._is_over:
            return
        if end is End.REVOKED:
            self._parts.clear()
            self._size = 0
        self._put(self._look.close(end))
        self._finish()
        if self._is_sending and end in (End.REVOKED, End.SLOW):
            self._cut()

    def _cut(self) -> None:
        """Break the connection: what waits inside `send` would reach the client as it drains."""
        self._is_cut = True
        if self._abort is not None:
            self._abort()

    # --- the response -------------------------------------------------------

    def greet(self, frames: bytes) -> None:
        """What comes before everything, written in the turn of the subscribe."""
        self._put(frames)

    async def pump(self, receive: Receive, send: Send, *, headers: list[Header]) -> None:
        """Answer with everything written until the stream is over or the client is gone."""
        self._abort = abort_of(send)
        watch = asyncio.create_task(gone_away(receive))
        watch.add_done_callback(self._gone)
        loop = asyncio.get_running_loop()
        quiet_until_s = loop.time() + self._ping_s
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while not self._is_gone:
                if self._parts:
                    await self._send(send, self._take())
                    quiet_until_s = loop.time() + self._ping_s
                elif self._is_over:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    return
                elif not await self._wait(loop, quiet_until_s):
                    self._put(self._look.ping())
                    quiet_until_s = loop.time() + self._ping_s
        finally:
            self._is_over = True
            if self.session is not None:
                self.session.close()
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _send(self, send: Send, body: bytes) -> None:
        """Pass on in pieces, so that a reader who is slow but reads is seen to read."""
        for at in range(0, len(body), PIECE_BYTES):
            if self._is_gone or self._is_cut:
                return
            piece = body if len(body) <= PIECE_BYTES else body[at : at + PIECE_BYTES]
            self._is_sending = True
            try:
                # No deadline: the hub ends a session that makes no progress, which aborts this.
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            finally:
                self._is_sending = False
            if self.session is not None:
                self.session.progressed()
        if self._size <= self._high_bytes and self.session is not None:
            self.session.resume()

    def _take(self) -> bytes:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return body

    async def _wait(self, loop: asyncio.AbstractEventLoop, until_s: float) -> bool:
        """Until there is something to do; False if it is time to say that nothing is."""
        waiter = self._waiter = loop.create_future()
        timer = loop.call_at(until_s, self._wake)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
        return bool(self._parts) or self._is_over or self._is_gone

    def _put(self, frames: bytes | None) -> None:
        if frames:
            self._parts.append(frames)
            self._size += len(frames)
            self._wake()

    def _finish(self) -> None:
        self._is_over = True
        self._wake()

    def _gone(self, _: asyncio.Task[None]) -> None:
        """The client went away: the session is released now, not when a write fails."""
        self._is_gone = self._is_over = True
        if self.session is not None:
            self.session.close()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _counted(self, frames: bytes, left: int) -> bytes:
        """At most the first `left` lines; with the last one the stream is over."""
        count = frames.count(b"\n")
        if count < left:
            self._events_left = left - count
            return frames
        end = -1
        for _ in range(left):
            end = frames.index(b"\n", end + 1)
        self._finish()
        return frames[: end + 1]


def abort_of(send: Send) -> Callable[[], None] | None:
    """What drops the connection behind `send`: ASGI has no word for it, uvicorn's cycle has."""
    transport = transport_of(send)
    return None if transport is None else functools.partial(cut, transport)


def transport_of(send: Send) -> asyncio.Transport | None:
    """What `send` writes to; None where it is no server of ours."""
    while isinstance(send, functools.partial):
        send = send.keywords.get("send", send.func)  # starlette's CORS middleware wraps so
    cycle = getattr(send, "__self__", None)
    return cycle.transport if isinstance(cycle, RequestResponseCycle) else None
