"""A client of the namespace `/`: Socket.IO 5 on top of an Engine.IO session."""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from typing import TYPE_CHECKING, Any

from clawnet.core.calls.reading import Gap
from clawnet.core.errors import BadRequest, ClawError, Unauthenticated
from clawnet.core.live import End
from clawnet.doors.socketio import packets
from clawnet.doors.socketio.engine import EngineLink
from clawnet.doors.socketio.packets import BadPacket, Packet
from clawnet.doors.socketio.talk import Talk

if TYPE_CHECKING:
    from clawnet.doors.socketio.door import SocketioDoor

CONNECTS_MAX = 5
"""How often a connection may ask for the namespace."""

_log = logging.getLogger(__name__)


class Stage(Enum):
    WAITING = "waiting"
    """Nobody is in: CONNECT comes next."""
    ENTERING = "entering"
    IN = "in"
    LEFT = "left"
    """The client left the namespace; it closes the connection next."""


class ClientLink(EngineLink):
    """Implements talk.Link."""

    __slots__ = ("_attachments", "_attempts", "_entering", "_stage", "_talk", "sid")

    def __init__(self, door: SocketioDoor, *, address: str, is_local: bool) -> None:
        super().__init__(door, address=address, is_local=is_local)
        self.sid = door.hub.randomness.token_bytes(15).hex()
        """Names the client in the namespace. Not Engine.IO's sid: this one opens nothing."""
        self._stage = Stage.WAITING
        self._talk: Talk | None = None
        self._entering: asyncio.Task[None] | None = None
        self._attempts = 0
        self._attachments = 0
        """How many of the next messages belong to a binary packet that was refused."""

    # --- Outlet -------------------------------------------------------------

    def gap(self, number: int, gap: Gap) -> None:
        """Tell of missing events."""
        if self._talk is not None:
            self._talk.gap(number, gap)

    def ended(self, number: int, error: ClawError) -> None:
        """A subscription is over."""
        if self._talk is not None:
            self._talk.ended(number, error)

    def dropped(self, number: int, channel: str, error: ClawError) -> None:
        """A subscription goes on without one of its channels."""
        if self._talk is not None:
            self._talk.dropped(number, channel, error)

    # --- what the talk says -------------------------------------------------

    def emit(self, name: str, *args: Any) -> None:
        """Send an event that wants no acknowledgement."""
        if not self.is_over:
            self.say(packets.event(name, args))

    def acknowledge(self, id: int, value: Any) -> None:
        """Answer the client's event of this acknowledgement id."""
        if not self.is_over:
            self.say(packets.ack(id, value))

    def disconnect(self) -> None:
        """End the connection from our side; the client is not to come back by itself."""
        self.close(End.REPLACED)

    # --- what the client says -----------------------------------------------

    @property
    def is_in(self) -> bool:
        return self._stage is Stage.IN

    def must_wait(self) -> bool:
        """Whether the next message must not be handled yet."""
        if self._stage is Stage.ENTERING:
            return True
        talk = self._talk
        return (talk is not None and talk.is_waiting()) or EngineLink.must_wait(self)

    def hear(self, message: bytes) -> None:
        """Act on one Engine.IO message. Must not raise."""
        try:
            # An acknowledgement, which everybody sends for every message: 0.7 µs here, and 1.9 by
            # the way that all others take.
            if message.startswith(b"43") and self._stage is Stage.IN and not self._attachments:
                at = message.find(b"[", 2, 20)
                number = message[2:at]
                if at > 2 and number.isdigit():
                    assert self._talk is not None, "who is in has a talk"
                    self._talk.acknowledged(int(number), packets.args_of(message[at:]))
                    return
            self._hear(message)
        except BadPacket as error:
            self.fail(str(error))
        except Exception:  # a talk's defect must not take the transport's loop with it
            _log.exception("a Socket.IO packet failed")
            self.fail("the hub failed at a packet")

    def _hear(self, message: bytes) -> None:
        if self._attachments:
            # By WebSocket these are binary messages; a polled one is base64 behind a "b".
            self._attachments -= 1
        elif message.startswith(b"4"):
            packet = packets.parse(message[1:])
            if self._stage is not Stage.LEFT:
                self._packet(packet)
        elif message == packets.CLOSE:
            self.leave()
        elif message == packets.PONG:
            self._ponged()
        elif message != packets.NOOP:
            raise BadPacket("no Engine.IO message of a client")

    def _packet(self, packet: Packet) -> None:
        if packet.namespace != "/":
            if packet.type != packets.CONNECT:
                raise BadPacket("a namespace that the client is not in")
            self.say(packets.refused("Invalid namespace", namespace=packet.namespace))
            return
        if packet.type == packets.CONNECT:
            self._connect(packets.value_of(packet.data))
            return
        talk = self._talk
        if self._stage is not Stage.IN or talk is None:
            raise BadPacket("CONNECT comes first")
        match packet.type:
            case packets.EVENT:
                name, args = packets.event_of(packet.data)
                talk.event(name, args, packet.id)
            case packets.ACK if packet.id is not None:
                talk.acknowledged(packet.id, packets.args_of(packet.data))
            case packets.DISCONNECT:
                self._left()
            case packets.BINARY_EVENT | packets.BINARY_ACK:
                self._refuse_binary(packet)
            case _:
                raise BadPacket("a packet that a client does not send")

    def _refuse_binary(self, packet: Packet) -> None:
        self._attachments = packet.attachments
        if packet.type == packets.BINARY_EVENT and packet.id is not None:
            error = BadRequest("Binary data are not taken here.", next="Send text or base64.")
            self.acknowledge(packet.id, {"ok": False, "error": error.as_dict()})

    def _connect(self, auth: Any) -> None:
        if self._stage is not Stage.WAITING:
            raise BadPacket("the client is in already")
        self._attempts += 1
        if self._attempts > CONNECTS_MAX:
            raise BadPacket("too many refused CONNECTs")
        self._stage = Stage.ENTERING
        talk = self._talk = self._door.talk(self)
        self._entering = self._door.spawn(self._enter(talk, auth))

    async def _enter(self, talk: Talk, auth: Any) -> None:
        """Ask the talk whether the client may enter. CONNECT_MAX_S is the deadline: on_time()."""
        refusal: ClawError | None = None
        try:
            await talk.connect(auth)
        except ClawError as error:
            refusal = error
        except Exception:  # the top of a task
            _log.exception("a Socket.IO CONNECT failed")
            refusal = ClawError("The hub failed at this CONNECT.")
        self._entering = None
        if self._stage is not Stage.ENTERING or self.is_over:
            return
        if refusal is None:
            self._stage = Stage.IN
            self._entered()
            self.say(packets.entered(self.sid))
            talk.begin()
        else:
            self._refuse(refusal)
        self.go_on()

    def _refuse(self, error: ClawError) -> None:
        self._stage = Stage.WAITING
        self._lose_talk()
        is_token = isinstance(error, Unauthenticated)
        message = "Unauthorized" if is_token else error.message
        self.say(packets.refused(message, data=error.as_dict()))

    def _left(self) -> None:
        """The client left the namespace. It closes the connection itself; else time does."""
        self._stage = Stage.LEFT
        self._lose_talk()
        self._door.connections.wheel.set(self, self._door.connections.settings.linger_s)

    def _lose_talk(self) -> None:
        talk, self._talk = self._talk, None
        session, self.session = self.session, None
        if session is not None:
            session.close()
        if talk is not None:
            talk.lost()

    def _gone(self) -> None:
        entering, self._entering = self._entering, None
        if entering is not None:
            entering.cancel()
        self._lose_talk()
