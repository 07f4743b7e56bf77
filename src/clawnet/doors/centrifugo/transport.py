"""The transport of a Centrifugo client on a streamed HTTP response: out by the response, in by
what POST /emulation hands over. What a request asks for is streams.py's and uni.py's."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

from starlette.types import Receive, Send

from clawnet.core.calls.reading import Gap
from clawnet.core.errors import ClawError, Unavailable
from clawnet.core.live import End
from clawnet.doors.centrifugo import codes
from clawnet.doors.centrifugo.client import Client
from clawnet.doors.centrifugo.door import CentrifugoDoor
from clawnet.doors.centrifugo.outlet import ClientOutlet
from clawnet.doors.centrifugo.wire import Disconnect, Encoding, Push
from clawnet.doors.connections import Connection, Standing
from clawnet.doors.http.answers import Header
from clawnet.doors.http.outlet import StreamOutlet, transport_of
from clawnet.hub.sessions import Session

WAITING_MAX = 64
WAITING_MAX_BYTES = 262_144
"""How much a client may have said by emulation that waits for the hub, or for its own reading."""

_FOREVER_S = 1e9
"""The Client pings, so the stream's own pings are never due."""


class _NoLook:
    """All that is said goes through the Client; the outlet has nothing of its own to show."""

    def gap(self, gap: Gap) -> None: ...
    def ended(self, error: ClawError) -> None: ...
    def dropped(self, channel: str, error: ClawError) -> None: ...
    def close(self, end: End) -> None: ...
    def ping(self) -> None: ...


class StreamTransport(ClientOutlet, StreamOutlet):
    """Implements wire.Wire and core.live.Outlet by a streamed response.

    Commands that come while one waits for the hub, or while the client does not read, wait here,
    WAITING_MAX of them at most: that is the pressure, since a POST cannot be read slowly.
    """

    client: Client

    def __init__(self, door: CentrifugoDoor, encoding: Encoding, *, high_bytes: int) -> None:
        StreamOutlet.__init__(
            self, _NoLook(), high_bytes=high_bytes, ping_s=_FOREVER_S, events_max=None
        )
        self.encoding = encoding
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._is_held = False
        self._is_busy = False
        self._standing = Standing.SILENT
        self._connection: Connection | None = None
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._linger: asyncio.TimerHandle | None = None

    # --- Wire: what the Client calls ----------------------------------------

    @property
    def is_full(self) -> bool:
        """More waits than the client may leave unread, here or inside `send`."""
        session = self.session
        return self._size > self._high_bytes or (session is not None and session.is_paused)

    def say(self, frames: bytes) -> None:
        """Queue an answer or a push behind what was said before."""
        if self._is_over:
            return
        self._put(frames)
        session = self.session
        if session is not None and self._size > self._high_bytes:
            session.pause()
        # A command that waited for the commit of others may go on with their answers.
        self._go_on_soon()

    def finish(self, code: int, reason: str) -> None:
        """End the stream with a disconnect, after what was said."""
        if self._is_over:
            return
        self._put(self.encoding.push(Push(disconnect=Disconnect(code=code, reason=reason))))
        self._finish()
        self._waiting.clear()
        # A client that reads nothing would hold the connection for ever.
        linger_s = self._door.connections.settings.linger_s
        self._linger = self._loop.call_later(linger_s, self._cut)

    def hold(self) -> None:
        self._is_held = True

    def release(self) -> None:
        self._is_held = False
        self._go_on_soon()

    def opened(self, session: Session, standing: Standing) -> None:
        """The client's session began."""
        self.session = session
        self._standing = standing
        self._believe()
        if self._size > self._high_bytes:
            session.pause()

    # --- Outlet: what the hub calls beside the Client's ----------------------

    def close(self, end: End) -> None:
        """End the stream with the disconnect for the reason."""
        if end is End.REVOKED and not self._is_over:
            self._parts.clear()
            self._size = 0
        super().close(end)
        if self._is_sending and end in (End.REVOKED, End.SLOW):
            self._cut()

    # --- what the client says -----------------------------------------------

    @property
    def is_over(self) -> bool:
        """Nothing is taken or said any more."""
        return self._is_over

    def take(self, message: bytes) -> None:
        """Act on a message, now or when what came before allows. Raises Unavailable: too many."""
        if not self._waiting and not self._must_wait():
            self._handle(message)
            return
        if (
            len(self._waiting) >= WAITING_MAX
            or self._waiting_bytes + len(message) > WAITING_MAX_BYTES
        ):
            raise Unavailable(
                "Too many commands of this connection wait.",
                next="Read the stream, wait for the replies, and send this again.",
                retry_after_s=1.0,
            )
        self._waiting.append(message)
        self._waiting_bytes += len(message)

    def _must_wait(self) -> bool:
        session = self.session
        return (
            self._is_held
            or self._is_busy
            or self.is_full
            or (session is not None and session.pending > session.PENDING_MAX)
        )

    def _handle(self, message: bytes) -> None:
        self._is_busy = True
        self.client.hear(message)
        self._is_busy = False

    def _go_on_soon(self) -> None:
        if self._waiting:
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """The next message that waits; one in a turn, so that nobody holds up the loop."""
        if self._is_over or not self._waiting or self._must_wait():
            return
        message = self._waiting.popleft()
        self._waiting_bytes -= len(message)
        self._handle(message)
        self._go_on_soon()

    # --- the response ---------------------------------------------------------

    async def pump(self, receive: Receive, send: Send, *, headers: list[Header]) -> None:
        transport = transport_of(send)
        if transport is not None:
            self._connection = cast(Connection, transport.get_protocol())
            self._believe()
        try:
            await super().pump(receive, send, headers=headers)
        finally:
            # The connection may serve another request by now.
            self._connection = None
            if self._linger is not None:
                self._linger.cancel()
            self._abort = None
            self._waiting.clear()

    async def _send(self, send: Send, body: bytes) -> None:
        await super()._send(send, body)
        self.client.go_on()
        self._go_on_soon()

    def _believe(self) -> None:
        """Tell the registry how far the client is believed: its token was in the body."""
        if self._connection is not None:
            self._door.connections.promote(self._connection, self._standing)


class Streamed:
    """The answer that carries a client."""

    __slots__ = ("_headers", "_stopped", "_transport")

    def __init__(
        self, transport: StreamTransport, headers: list[Header], stopped: asyncio.Future[None]
    ) -> None:
        self._transport = transport
        self._headers = headers
        self._stopped = stopped

    async def __call__(self, receive: Receive, send: Send) -> None:
        # The hub ends its sessions itself; who has none would wait for nothing.
        self._stopped.add_done_callback(self._stop)
        try:
            await self._transport.pump(receive, send, headers=self._headers)
        finally:
            self._stopped.remove_done_callback(self._stop)
            self._transport.client.lost()

    def _stop(self, _: asyncio.Future[None]) -> None:
        if self._transport.session is None:
            self._transport.client.disconnect(*codes.SHUTDOWN)
