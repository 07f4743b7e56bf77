"""Engine.IO 4: one session over polling, a WebSocket, or on its way from one to the other.

What is sent stands in a queue of WebSocket frames while the client polls. A GET takes it unwrapped,
an upgrade writes it to the WebSocket as it is, before anything else: so the order is one.
What a message means is the subclass's (link.py).
"""

from __future__ import annotations

import asyncio
import base64
from collections import OrderedDict
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from clawnet.core.errors import Unavailable
from clawnet.core.live import End
from clawnet.doors.connections import Standing
from clawnet.doors.cutting import cut
from clawnet.doors.socketio.packets import (
    DISCONNECT_FRAME,
    NOOP,
    NOOP_FRAME,
    PING_FRAME,
    opened,
    payload_of,
)
from clawnet.doors.ws import codes
from clawnet.hub.sessions import Session

if TYPE_CHECKING:
    from clawnet.doors.socketio.door import SocketioDoor
    from clawnet.doors.socketio.socket import EngineSocket

SECRET_BYTES = 24
CONNECT_MAX_S = 10.0
"""A client that is not in the namespace by then is ended."""
UNSENT_HIGHS_MAX = 16
"""So many times the high-water mark may wait of what the door sends by itself (not of what the hub
writes, which it stops at the mark): then the client is too slow."""

BROKEN = (1002, "protocol error")
DONE = (1000, "closed by the client")


class LinkState(Enum):
    OPEN = "open"
    CLOSING = "closing"
    """By polling: nothing more is said or heard; the last GET may fetch what is queued."""
    OVER = "over"


class Poll(Protocol):
    """A GET that is answered."""

    waiter: asyncio.Future[None] | None
    transport: asyncio.Transport | None
    is_sending: bool


class EngineLink:
    """A session. On the loop; implements what an Outlet needs of a transport, and Timed.

    10,000 of these may stand idle, so there are slots, and the wheel is their only timer.
    """

    # fmt: off
    __slots__ = (
        "_door", "_is_pinged", "_parts", "_poll", "_probe", "_room", "_session", "_since_s",
        "_size", "_socket", "_state", "_transport", "address", "is_failed", "is_local",
        "is_posting", "secret", "wheel_slot",
    )
    # fmt: on

    def __init__(self, door: SocketioDoor, *, address: str, is_local: bool) -> None:
        self.address = address
        self.is_local = is_local
        self.wheel_slot = -1
        random = door.hub.randomness.token_bytes(SECRET_BYTES)
        self.secret = base64.urlsafe_b64encode(random).decode("ascii")
        """Engine.IO's sid. Whoever has it polls and upgrades as this client: told to it alone."""
        self.is_failed = False
        """The client broke the protocol."""
        self.is_posting = False
        """A POST of the client is being read or handled; there may be one at a time."""
        self._door = door
        self._session: Session | None = None
        self._state = LinkState.OPEN
        self._socket: EngineSocket | None = None
        """What carries the session; None while the client polls."""
        self._probe: EngineSocket | None = None
        """What may carry it soon."""
        self._poll: Poll | None = None
        self._transport: asyncio.Transport | None = None
        """By which the last poll was answered."""
        self._room: asyncio.Future[None] | None = None
        """What a POST waits for that may not be handled further yet."""
        self._parts: list[bytes | memoryview] = []
        self._size = 0
        self._is_pinged = False
        self._since_s = door.connections.wheel.now_s

    # --- the hub's side -----------------------------------------------------

    @property
    def session(self) -> Session | None:
        """The hub's, that this client is given."""
        return self._session

    @session.setter
    def session(self, session: Session | None) -> None:
        self._session = session
        if session is None:
            return
        if self._state is LinkState.OVER:
            session.close()
        elif self._socket is not None:
            self._socket.carry(session)
        elif self._size > self._high_bytes:
            session.pause()

    # --- Outlet -------------------------------------------------------------

    def write(self, frames: bytes) -> None:
        """Hand over whole frames. Must not raise."""
        if self._socket is not None:
            self._socket.write(frames)
        else:
            self._put(frames)

    def unsent(self) -> int:
        """The bytes that wait here, or in the process and the kernel by WebSocket."""
        if self._socket is not None:
            return self._socket.unsent()
        return self._size + self._unsent_of_answer()

    def retract(self) -> None:
        """Drop what is queued. The client is to come back, so the session is over with it."""
        if self._socket is not None:
            self._socket.retract()
            return
        is_leaving = self._cut_answer()
        if self._parts or is_leaving:
            self.forget()

    def close(self, end: End) -> None:
        """End the session. Who is to come back finds it unknown; else it is told to stay away."""
        if self._socket is not None:
            self._socket.close(end)
            return
        if self._state is not LinkState.OPEN:
            return
        if end in (End.REVOKED, End.SLOW):
            self._cut_answer()
        if end is End.REVOKED:
            self._drop()
        if end.reconnect:
            # Not by an Engine.IO close: python's client takes that for a reason to stay away.
            self.forget()
        else:
            # Nor by one behind the DISCONNECT: npm's client heeds the close first, and comes back.
            self._close_with(DISCONNECT_FRAME)

    # --- what a subclass says -----------------------------------------------

    def hear(self, message: bytes) -> None:
        """Act on one Engine.IO message. Must not raise."""
        raise NotImplementedError

    def must_wait(self) -> bool:
        """Whether the next message must not be handled yet."""
        session = self._session
        return self._size > self._high_bytes or (
            session is not None and session.pending > session.PENDING_MAX
        )

    @property
    def is_in(self) -> bool:
        """Whether the client was let in."""
        raise NotImplementedError

    def _gone(self) -> None:
        """The session is over."""

    # --- what a subclass uses -----------------------------------------------

    @property
    def is_over(self) -> bool:
        """Nothing is said or heard any more."""
        return self._state is not LinkState.OPEN or (
            self._socket is not None and self._socket.is_ending
        )

    def say(self, frame: bytes) -> None:
        """Send a frame of the door's own, behind everything before it."""
        socket = self._socket
        if socket is None:
            self._put(frame)
            waiting = self._size
        else:
            waiting = socket.say(frame)
        if waiting > UNSENT_HIGHS_MAX * self._high_bytes:
            self.close(End.SLOW)

    def go_on(self) -> None:
        """What must_wait() waited for may be over."""
        if self._socket is not None:
            self._socket.go_on()
        self._wake_room()

    def fail(self, reason: str) -> None:
        """The client broke the protocol: end it."""
        self.is_failed = True
        self._finish(BROKEN[0], reason)

    def leave(self) -> None:
        """The client closed the session."""
        if self._socket is not None:
            self._socket.finish(*DONE)
        elif self._poll is not None:
            self._close_with(NOOP_FRAME)
        else:
            self.forget()

    def _finish(self, code: int, reason: str) -> None:
        if self._socket is not None:
            self._socket.finish(code, reason)
        else:
            self.forget()

    # --- polling ------------------------------------------------------------

    @property
    def is_polling(self) -> bool:
        """Whether the client may poll and post."""
        return self._socket is None and self._state is not LinkState.OVER

    @property
    def is_due(self) -> bool:
        """Whether a poll is to be answered now."""
        if self._parts or self._state is not LinkState.OPEN:
            return True
        # A poll that is left waiting would keep the client from upgrading.
        return self._socket is not None or (self._probe is not None and self._probe.is_probed)

    def poll(self, poll: Poll) -> bool:
        """A GET came. False: there is one already, and the session is over."""
        if self._poll is not None:
            self.forget()
            return False
        self._poll = poll
        return True

    def polled(self, poll: Poll) -> None:
        """The GET was answered, or gave up."""
        if self._poll is not poll:
            return
        self._poll = None
        self._transport = poll.transport
        if self._state is LinkState.CLOSING and not self._parts:
            self.forget()
        elif self._size <= self._high_bytes:
            if self._session is not None and self._socket is None:
                self._session.resume()
            self.go_on()

    def take(self) -> bytes | None:
        """What a poll is answered with; None if the session is over."""
        if self._state is LinkState.OVER:
            return None
        if not self._parts:
            return NOOP
        parts = self._parts
        waiting = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))
        payload, end = payload_of(waiting)
        # The rest is not copied for each poll: a client that lags fetches much in small answers.
        self._parts = [waiting[end:]] if end < len(waiting) else []
        self._size = len(waiting) - end
        return payload

    def taken(self) -> None:
        """The client took a part of an answer."""
        if self._session is not None:
            self._session.progressed()

    async def room(self) -> None:
        """Until go_on(), or the end of the session, which comes by its pings at the latest."""
        self._room = asyncio.get_running_loop().create_future()
        try:
            await self._room
        finally:
            self._room = None

    # --- WebSocket ----------------------------------------------------------

    def hello(self, *, upgrades: list[str]) -> bytes:
        """The message that opens the session."""
        settings = self._door.settings
        return opened(
            self.secret,
            upgrades=upgrades,
            ping_s=settings.ping_interval_s,
            timeout_s=settings.ping_timeout_s,
            max_bytes=settings.max_http_buffer_bytes,
        )

    @property
    def may_upgrade(self) -> bool:
        """Whether a WebSocket may try to take over."""
        return self._state is LinkState.OPEN and self._socket is None and self._probe is None

    def carried_by(self, socket: EngineSocket) -> None:
        """The session began on this WebSocket."""
        self._socket = socket

    def probing(self, socket: EngineSocket) -> None:
        """A WebSocket tries to take over."""
        self._probe = socket

    def probed(self) -> None:
        """It works both ways; the client now waits for its poll to be over."""
        self._wake()

    def upgraded(self, socket: EngineSocket) -> None:
        """The client speaks by it from now on. What is queued goes out first."""
        self._probe = None
        self._socket = socket
        waiting = b"".join(self._parts)
        self._drop()
        session = self._session
        if session is not None:
            socket.carry(session)
        if waiting:
            socket.write(waiting)
        if self._state is LinkState.CLOSING:
            socket.finish(*DONE)
        elif session is not None and not socket.is_full:
            session.resume()
        self._wake()
        self._wake_room()

    def probe_lost(self, socket: EngineSocket) -> None:
        """It is gone before it took over; the client goes on polling."""
        if self._probe is socket:
            self._probe = None

    # --- time and end -------------------------------------------------------

    def on_time(self) -> float | None:
        """The wheel came round: end who is silent, ping who is in."""
        if self._state is not LinkState.OPEN:
            self.forget()
            return None
        settings = self._door.settings
        if not self.is_in:
            left_s = self._since_s + CONNECT_MAX_S - self._door.connections.wheel.now_s
            if left_s > 0:
                return left_s
            self._finish(*codes.SILENT)
            return None
        if self._is_pinged:
            if self._is_unread():
                return settings.ping_timeout_s
            if self._socket is not None:
                self._socket.abort()
            else:
                self.forget()
            return None
        self._is_pinged = True
        self.say(PING_FRAME)
        return settings.ping_timeout_s

    def _ponged(self) -> None:
        if self._is_pinged:
            self._is_pinged = False
            self._door.connections.wheel.set(self, self._door.settings.ping_interval_s)

    def _entered(self) -> None:
        """The client was let in."""
        self._door.links.entered(self)
        self._door.connections.wheel.set(self, self._door.settings.ping_interval_s)
        if self._socket is not None:
            self._socket.entered()

    @property
    def standing(self) -> Standing:
        """How far the client's connections are believed."""
        if not self.is_in:
            return Standing.ANONYMOUS
        session = self._session
        is_anonymous = session is not None and session.caller.is_anonymous
        return Standing.ANONYMOUS if is_anonymous else Standing.KNOWN

    def forget(self) -> None:
        """The session is over, whatever is queued. Idempotent."""
        if self._state is LinkState.OVER:
            return
        self._state = LinkState.OVER
        self._door.links.remove(self)
        self._door.connections.wheel.clear(self)
        self._drop()
        self._wake()
        self._wake_room()
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.finish(*DONE)
        if self._session is not None:
            self._session.close()
        self._gone()

    # --- inside -------------------------------------------------------------

    @property
    def _high_bytes(self) -> int:
        return self._door.connections.settings.write_high_bytes

    def _is_unread(self) -> bool:
        """Whether the hub keeps the client from answering a ping: it does not read on."""
        if self._socket is not None:
            return not self._socket.is_reading
        return self._room is not None

    def _put(self, frames: bytes) -> None:
        if self._state is not LinkState.OPEN:
            return
        self._parts.append(frames)
        self._size += len(frames)
        if self._size > self._high_bytes and self._session is not None:
            self._session.pause()
        self._wake()

    def _drop(self) -> None:
        self._parts.clear()
        self._size = 0

    def _close_with(self, frames: bytes) -> None:
        """The last that the client is given, by the poll that waits or comes soon."""
        self._put(frames)
        self._state = LinkState.CLOSING
        if self._session is not None:
            # What is queued before may still be taken back.
            self._session.leave()
        self._door.connections.wheel.set(self, self._door.connections.settings.linger_s)
        self._wake()

    def _unsent_of_answer(self) -> int:
        """What may be left of an answer: at least 1 while it is sent."""
        poll = self._poll
        transport = self._transport if poll is None else poll.transport
        left = 0 if transport is None else transport.get_write_buffer_size()
        return left + (poll is not None and poll.is_sending)

    def _cut_answer(self) -> bool:
        """Break an answer that is on its way; whether there was one."""
        transport = self._transport if self._poll is None else self._poll.transport
        if transport is None or transport.is_closing() or not self._unsent_of_answer():
            return False
        cut(transport)
        return True

    def _wake(self) -> None:
        waiter = None if self._poll is None else self._poll.waiter
        if waiter is not None and not waiter.done() and self.is_due:
            waiter.set_result(None)

    def _wake_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class Links:
    """All sessions of the door by their secret, and those that have not said who they are."""

    def __init__(self, *, waiting_max: int, links_max: int) -> None:
        self.by_secret: dict[str, EngineLink] = {}
        self._waiting_max = waiting_max
        self._links_max = links_max
        # Ordered, oldest first. A plain dict would be scanned from its deleted front.
        self._waiting: OrderedDict[EngineLink, None] = OrderedDict()
        self._waiting_of: dict[str, OrderedDict[EngineLink, None]] = {}

    def add(self, link: EngineLink) -> None:
        """Take in a new session, if need be in the place of one that has not said who it is: one
        of the same address if there is any. Raises Unavailable."""
        if len(self._waiting) >= self._waiting_max or len(self.by_secret) >= self._links_max:
            if not self._waiting:
                raise Unavailable("The hub has no room for another client.", retry_after_s=1.0)
            own = self._waiting_of.get(link.address)
            oldest = next(iter(own or self._waiting))
            self.remove(oldest)
            oldest.fail("the room is needed")
        self.by_secret[link.secret] = link
        self._waiting[link] = None
        self._waiting_of.setdefault(link.address, OrderedDict())[link] = None

    def entered(self, link: EngineLink) -> None:
        """It was let in."""
        if link in self._waiting:
            del self._waiting[link]
            own = self._waiting_of[link.address]
            del own[link]
            if not own:
                del self._waiting_of[link.address]

    def remove(self, link: EngineLink) -> None:
        """It is over."""
        self.by_secret.pop(link.secret, None)
        self.entered(link)
