"""A WebSocket after its handshake, whatever is spoken on it: bytes, turns, pressure, closing.

Reading stops, and the client feels it, while any of these holds: a turn's
share of messages is used up, too many publishes wait for their commit, or the
client does not take what is written to it. What a message means is the subclass's.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import struct
import termios
from time import perf_counter
from typing import ClassVar, cast

from clawnet.core.live import End
from clawnet.doors.connections import Connections, Standing
from clawnet.doors.cutting import cut
from clawnet.doors.ws import codes
from clawnet.doors.ws.frames import PING, Reader, Sign
from clawnet.hub.sessions import Session

COMMANDS_PER_TURN = 64
TURN_MAX_S = 0.001
CALLS_MAX = 16
"""How many calls that wait (acks) a connection may have running."""

_log = logging.getLogger(__name__)


class SocketDoor:
    """What the WebSockets of one door share."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.settings = connections.settings
        self.loop = asyncio.get_running_loop()
        self._to_flush: list[SocketConnection] = []

    def flush_soon(self, connection: SocketConnection) -> None:
        """Have the connection's answers written, joined, at the end of this turn."""
        if not self._to_flush:
            self.loop.call_soon(self._flush)
        self._to_flush.append(connection)

    def _flush(self) -> None:
        connections, self._to_flush = self._to_flush, []
        for connection in connections:
            connection.flush()


class SocketConnection(asyncio.Protocol):
    """The part of an Outlet and of a Connection that every WebSocket has.

    10,000 of these may stand idle, so there are slots and nothing is held
    that is not used: no parser, no queue, no timer of its own.
    """

    # fmt: off
    __slots__ = (
        "_calls", "_door", "_handshake", "_heard", "_is_busy", "_is_due", "_is_ending", "_is_eof",
        "_is_full", "_is_pinged", "_is_reading", "_is_stopped", "_out", "_reader",
        "_session", "_transport", "address", "standing", "wheel_slot",
    )
    # fmt: on

    OF_END: ClassVar[dict[End, codes.Code]] = codes.OF_END
    """With which code the connection ends for which reason."""

    def __init__(
        self, door: SocketDoor, *, handshake: bytes, address: str | None, standing: Standing
    ) -> None:
        self.address = address
        self.standing = standing
        self.wheel_slot = -1
        self._door = door
        self._handshake = handshake
        self._transport: asyncio.Transport | None = None
        self._reader = Reader(max_bytes=self._message_max_bytes())
        self._session: Session | None = None
        self._out: list[bytes] | None = None
        """Answers that wait for the end of the turn; None if there are none."""
        self._calls = 0
        self._heard = True
        self._is_pinged = False
        self._is_reading = True
        self._is_full = False
        """The transport is above its high-water mark."""
        self._is_busy = False
        """Commands are being handled; what they cause must not begin it again."""
        self._is_due = False
        """The rest of what was received is to be handled in the next turn."""
        self._is_stopped = False
        """The process ends: no more commands."""
        self._is_eof = False
        self._is_ending = False
        """A close was begun; nothing is written any more but what belongs to it."""

    # --- what the transport calls -------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are Transports without being derived from that class.
        self._transport = cast(asyncio.Transport, transport)
        settings = self._door.settings
        high = settings.write_high_bytes
        self._transport.set_write_buffer_limits(high=high, low=high // 2)
        self._transport.write(self._handshake)
        self._handshake = b""
        is_open = self._session is not None
        self._door.connections.wheel.set(
            self, settings.ping_s if is_open else settings.first_command_s
        )

    def data_received(self, data: bytes) -> None:
        if self._reader.is_over:
            # What a client sends after a close is not even looked at.
            return
        self._heard = True
        self._reader.feed(data)
        if not self._is_due:
            self._work()

    def eof_received(self) -> bool:
        """The client sends no more. What it sent is handled and answered before the end."""
        self._is_eof = True
        self._is_reading = False
        return self._has_work() and not self._is_ending

    def pause_writing(self) -> None:
        self._is_full = True
        if self._session is not None:
            self._session.pause()
        self._settle()

    def resume_writing(self) -> None:
        self._is_full = False
        if self._session is not None:
            self._session.resume()
        self._work_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_ending = True
        self._door.connections.leave(self)
        self._transport = None
        self._out = None
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self._over()

    # --- Outlet: what the hub calls (close() is the registry's, too) ---------

    def write(self, frames: bytes) -> None:
        """Hand over whole frames. Must not raise: the hub calls it for one after the other."""
        if self._out is not None:
            self._out.append(frames)
            return
        transport = self._transport
        if transport is None or self._is_ending:
            return
        try:
            transport.write(frames)
        except RuntimeError:
            # uvloop raises between an error of the socket and connection_lost().
            pass

    def unsent(self) -> int:
        """The bytes that wait in the process and in the kernel.

        The kernel alone may hold megabytes, and takes more only when a good part of them is
        gone; a client that reads slowly would look dead for as long.
        """
        transport = self._transport
        if transport is None:
            return 0
        out = 0 if self._out is None else sum(map(len, self._out))
        return out + transport.get_write_buffer_size() + _unsent_by_kernel(transport)

    def retract(self) -> None:
        """Drop what is queued. A frame may be half gone, so it takes the connection with it."""
        transport = self._transport
        if transport is not None and (self._out or transport.get_write_buffer_size()):
            self._cut()

    def close(self, end: End) -> None:
        """End the connection with the code for the reason."""
        if end is End.REVOKED and self._transport is not None:
            self._out = None
            if self._transport.get_write_buffer_size():
                # A frame may be half gone, so what is queued cannot be taken back singly.
                self._cut()
                return
        self._begin_close(*self.OF_END[end])

    def _cut(self) -> None:
        """Drop the connection with all that the client has not been sent, by the kernel either."""
        transport = self._transport
        if transport is not None:
            cut(transport)
        self.abort()

    # --- Connection: what the registry calls --------------------------------

    def on_time(self) -> float | None:
        """The wheel came round: end who is silent, ping who is idle, drop who is gone."""
        settings = self._door.settings
        if self._is_ending:
            self.abort()
            return None
        if self.standing is Standing.SILENT:
            self._begin_close(*codes.SILENT)
            return settings.linger_s
        # Who is not read cannot answer; whether it takes what is written is the hub's to watch.
        if not self._heard and self._is_pinged and self._is_reading:
            self.abort()
            return None
        self._heard = False
        self._is_pinged = True
        self.write(PING)
        return settings.ping_s

    def stop_reading(self) -> None:
        self._is_stopped = True
        self._settle()

    def abort(self) -> None:
        """Drop the connection and what is queued."""
        self._is_ending = True
        self._out = None
        if self._transport is not None:
            self._transport.abort()
        elif self._session is not None:
            # It never stood: the registry had no room.
            session, self._session = self._session, None
            session.close()

    # --- what a subclass says -----------------------------------------------

    def _message_max_bytes(self) -> int:
        """The largest message that this client may send."""
        return self._door.settings.message_max_bytes

    def _handle(self, message: bytes) -> None:
        """Act on one message. Must not raise."""
        raise NotImplementedError

    def _is_waiting(self) -> bool:
        """Whether the next message must wait for something of the subclass's own."""
        return False

    def _over(self) -> None:
        """The connection is lost; the session was closed."""

    # --- reading ------------------------------------------------------------

    def _work(self) -> None:
        """Handle what was received: a turn's share at most, the rest in the next turn."""
        self._is_due = False
        if self._is_busy or self._transport is None:
            return
        self._is_busy = True
        reader = self._reader
        until_s = perf_counter() + TURN_MAX_S
        for _ in range(COMMANDS_PER_TURN):
            if self._is_held():
                break
            message = reader.read()
            if message is Sign.DRY:
                break
            if message is Sign.NOTHING:
                self._reply()
                if reader.is_over:
                    break
            elif not self._is_ending:
                self._handle(message)
            if perf_counter() > until_s:
                self._is_due = True
                break
        else:
            self._is_due = True
        self._is_busy = False
        self._write_out()
        if self._is_due:
            self._door.loop.call_soon(self._work)
        self._settle()

    def _work_soon(self) -> None:
        """Go on with what is left of what was received."""
        if not self._is_due and not self._is_busy and self._transport is not None:
            self._is_due = True
            self._door.loop.call_soon(self._work)

    def _is_held(self) -> bool:
        """Whether the next command must wait for something other than its turn."""
        if self._is_ending:
            return False
        session = self._session
        return (
            self._is_full
            or self._is_stopped
            or self._calls >= CALLS_MAX
            or self._is_waiting()
            or (session is not None and session.pending > session.PENDING_MAX)
        )

    def _has_work(self) -> bool:
        session = self._session
        return (
            self._is_due
            or self._out is not None
            or self._is_held()
            or self._calls > 0
            or (session is not None and session.pending > 0)
        )

    def _settle(self) -> None:
        """Let the transport read exactly while there is room for more."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._is_eof:
            if not self._has_work():
                transport.close()
            return
        wanted = not (self._is_due or self._is_held())
        if wanted != self._is_reading:
            self._is_reading = wanted
            if wanted:
                transport.resume_reading()
            else:
                transport.pause_reading()

    # --- writing ------------------------------------------------------------

    def flush(self) -> None:
        """Write the answers of this turn; they may be what reading waited for."""
        self._write_out()
        if not self._is_reading and not self._is_held():
            self._work_soon()

    def _write_out(self) -> None:
        out, self._out = self._out, None
        if out is not None:
            self.write(out[0] if len(out) == 1 else b"".join(out))

    def _say(self, frame: bytes) -> None:
        """Queue an answer behind what was said before in this turn."""
        if self._out is not None:
            self._out.append(frame)
        elif self._transport is not None and not self._is_ending:
            self._out = [frame]
            if not self._is_busy:
                self._door.flush_soon(self)

    def _reply(self) -> None:
        """Send what the protocol itself wants sent, and end when it says so."""
        reader = self._reader
        replies = reader.take_replies()
        if replies and self._transport is not None:
            if reader.is_over:
                self._write_out()
                self._is_ending = True
                self._transport.write(replies)
            else:
                self._say(replies)
        if reader.is_over:
            self._leave(lingers=reader.is_failed)

    # --- closing ------------------------------------------------------------

    def _begin_close(self, code: int, reason: str) -> None:
        """Send a close, and wait a little for the client's."""
        transport = self._transport
        if transport is None or self._is_ending:
            return
        self._write_out()
        self._is_ending = True
        try:
            transport.write(self._reader.close(code, reason))
        except RuntimeError:
            return
        self._door.connections.wheel.set(self, self._door.settings.linger_s)
        # Reads on, but only for the answer to the close.
        self._work_soon()

    def _leave(self, *, lingers: bool) -> None:
        """Both sides have closed, or the client broke the protocol."""
        self._is_ending = True
        transport = self._transport
        if transport is None:
            return
        if lingers and not self._is_eof and transport.can_write_eof():
            # A client in the middle of sending would be reset before it reads the
            # close; so only this side ends, until the client or the wheel ends the other.
            transport.write_eof()
            self._door.connections.wheel.set(self, self._door.settings.linger_s)
        else:
            transport.close()


def _unsent_by_kernel(transport: asyncio.Transport) -> int:
    """What the socket holds that the other side has not acknowledged; 0 where unknown."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return 0
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):
        # ValueError: it is closed, which below TLS comes before this connection hears of it.
        return 0
    return int(struct.unpack("i", answer)[0])
