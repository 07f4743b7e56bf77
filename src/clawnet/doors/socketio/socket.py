"""Engine.IO on a WebSocket: one that a client begins with, or one that takes over from polling."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from clawnet.core.errors import BadRequest, ClawError
from clawnet.core.live import End
from clawnet.doors.connections import Standing
from clawnet.doors.protocol import Refusal, Upgrade
from clawnet.doors.socketio.engine import BROKEN, EngineLink
from clawnet.doors.socketio.packets import (
    DISCONNECT_FRAME,
    PROBE,
    PROBED_FRAME,
    UPGRADE,
)
from clawnet.doors.ws import codes
from clawnet.doors.ws.frames import Reader, text_frame
from clawnet.doors.ws.handshake import accept
from clawnet.doors.ws.socket import SocketConnection, SocketDoor
from clawnet.hub.sessions import Session

if TYPE_CHECKING:
    from clawnet.doors.socketio.door import SocketioDoor


class Sockets(SocketDoor):
    """What all WebSockets of this door share; takes their upgrades."""

    def __init__(self, door: SocketioDoor) -> None:
        super().__init__(door.connections)
        self.door = door

    def take(self, upgrade: Upgrade) -> EngineSocket | Refusal:
        """A connection for an upgrade request, or a refusal. Raises Unavailable."""
        query = parse_qs(upgrade.query, keep_blank_values=True) if upgrade.query else {}
        if query.get("transport") != ["websocket"]:
            return _refusal("The transport is not websocket.")
        if query.get("EIO") != ["4"]:
            return _refusal("Only Engine.IO 4 is spoken here.")
        link: EngineLink | None = None
        if "sid" in query:
            link = self.door.links.by_secret.get(query["sid"][0])
            if link is None:
                return _refusal("There is no such session.")
            if not link.may_upgrade:
                return _refusal("The session has a WebSocket already.")
        response = accept(upgrade)
        if isinstance(response, Refusal):
            return response
        admitted = upgrade.admitted
        if link is not None:
            socket = EngineSocket(self, link, handshake=response, address=admitted.client)
            link.probing(socket)
            return socket
        link = self.door.open(address=admitted.client, is_local=admitted.is_local)
        handshake = response + text_frame(link.hello(upgrades=[]))
        socket = EngineSocket(self, link, handshake=handshake, address=admitted.client)
        socket.is_carrying = True
        link.carried_by(socket)
        return socket


class _Reader(Reader):
    """One that takes larger messages once it is known of whom."""

    __slots__ = ()

    def allow(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes


class EngineSocket(SocketConnection):
    """Carries a session, or tries to. The session keeps the time and is the hub's Outlet."""

    __slots__ = ("_link", "_max_bytes", "is_carrying", "is_probed")

    _reader: _Reader

    def __init__(
        self, sockets: Sockets, link: EngineLink, *, handshake: bytes, address: str
    ) -> None:
        super().__init__(sockets, handshake=handshake, address=address, standing=Standing.SILENT)
        self._link = link
        self._reader = _Reader(max_bytes=self._message_max_bytes())
        self._max_bytes = sockets.door.settings.max_http_buffer_bytes
        self.is_carrying = False
        """Whether the session is on this WebSocket; else the client may try it out."""
        self.is_probed = False

    # --- what the session uses ----------------------------------------------

    @property
    def is_full(self) -> bool:
        """The client does not take what is written."""
        return self._is_full

    @property
    def is_reading(self) -> bool:
        return self._is_reading

    @property
    def is_ending(self) -> bool:
        return self._is_ending

    def carry(self, session: Session) -> None:
        """Pause and resume this session of the hub from now on."""
        self._session = session
        if self._is_full:
            session.pause()

    def entered(self) -> None:
        """The client was let in: it is known, and may say more at once."""
        self._door.connections.promote(self, self._link.standing)
        self._reader.allow(self._max_bytes)

    def say(self, frame: bytes) -> int:
        """Queue a frame; how many bytes wait in the process, without those of this turn."""
        self._say(frame)
        transport = self._transport
        return 0 if transport is None else transport.get_write_buffer_size()

    def go_on(self) -> None:
        """What the next message waited for may be over."""
        self._work_soon()

    def finish(self, code: int, reason: str) -> None:
        """Close, after what was said."""
        self._begin_close(code, reason)

    # --- Connection and Outlet ----------------------------------------------

    def close(self, end: End) -> None:
        """End the connection with the code for the reason. Clients take no notice of the code:
        who is not to come back by itself is sent a Socket.IO DISCONNECT before it."""
        transport = self._transport
        if end.reconnect or not self.is_carrying or transport is None or self._is_ending:
            SocketConnection.close(self, end)
            return
        if end is End.REVOKED:
            self._out = None
            if transport.get_write_buffer_size():
                # A frame may be half gone, so what is queued cannot be taken back singly.
                self._cut()
                return
        self.write(DISCONNECT_FRAME)
        self._begin_close(*self.OF_END[end])

    def on_time(self) -> float | None:
        """The session keeps the time, but for a close that is not answered and for an upgrade
        that does not come about."""
        if self._is_ending:
            return SocketConnection.on_time(self)
        if not self.is_carrying:
            self._begin_close(*codes.SILENT)
            return self._door.settings.linger_s
        return None

    def abort(self) -> None:
        """Drop the connection and what is queued."""
        was_standing = self._transport is not None
        SocketConnection.abort(self)
        if not was_standing:
            # The registry had no room for it.
            self._over()

    # --- what SocketConnection asks -----------------------------------------

    def _handle(self, message: bytes) -> None:
        if self.is_carrying:
            self._link.hear(message)
        elif message == PROBE and not self.is_probed:
            self.is_probed = True
            self._say(PROBED_FRAME)
            self._link.probed()
        elif message == UPGRADE and self.is_probed:
            self.is_carrying = True
            if self._link.is_in:
                self.entered()
            self._link.upgraded(self)
        else:
            self._begin_close(BROKEN[0], "no upgrade")

    def _is_waiting(self) -> bool:
        return self.is_carrying and self._link.must_wait()

    def _over(self) -> None:
        if self.is_carrying:
            self._link.forget()
        else:
            self._link.probe_lost(self)


def _refusal(what: str) -> Refusal:
    error: ClawError = BadRequest(what, next="Connect anew with ?EIO=4&transport=websocket.")
    return Refusal(error=error, status=400)
