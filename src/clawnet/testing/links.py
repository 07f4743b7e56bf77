"""A Socket.IO client that is only an object: what a talk sends it is written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from clawnet.core.calls.reading import Gap
from clawnet.core.errors import ClawError
from clawnet.core.live import End
from clawnet.doors.socketio.packets import bounds
from clawnet.doors.socketio.talk import Link, Talk
from clawnet.hub.sessions import Session
from clawnet.testing.hubs import HubRig


@dataclass(frozen=True, slots=True)
class Heard:
    """One event that a client was sent; `id` is there if it wants an acknowledgement."""

    name: str
    data: Any
    id: int | None


class RecordingLink:
    """Implements doors.socketio.talk.Link, and is the client behind it.

    `acks`: which events the client acknowledges by itself as they come.
    """

    def __init__(self, rig: HubRig, talk: Callable[[Link], Talk]) -> None:
        self.sid = "sid"
        self.address = "127.0.0.1"
        self.is_local = True
        self.session: Session | None = None
        self.acks: Callable[[Heard], bool] = lambda heard: False
        self.heard: list[Heard] = []
        self.answers: dict[int, Any] = {}
        self.refused: ClawError | None = None
        self.is_disconnected = False
        self.end: End | None = None
        self.unsent_bytes = 0
        self.retracted = 0
        self.went_on = 0
        self._rig = rig
        self._asked = 0
        self.talk: Talk = talk(self)

    # --- Link ---------------------------------------------------------------

    def write(self, frames: bytes) -> None:
        """Take whole frames apart."""
        assert not self.is_disconnected and self.end is None, "written behind the end"
        for _, start, stop in bounds(frames):
            packet = frames[start:stop]
            assert packet.startswith(b"42"), packet
            opening = packet.index(b"[")
            number = packet[2:opening]
            name, data = msgspec.json.decode(packet[opening:])
            heard = Heard(name, data, int(number) if number else None)
            self.heard.append(heard)
            if heard.id is not None and self.acks(heard):
                self.talk.acknowledged(heard.id, [])

    def emit(self, name: str, *args: Any) -> None:
        assert not self.is_disconnected and self.end is None, "sent behind the end"
        # Through JSON, as a real one would.
        decoded = msgspec.json.decode(msgspec.json.encode(list(args)))
        self.heard.append(Heard(name, decoded[0] if decoded else None, None))

    def acknowledge(self, id: int, value: Any) -> None:
        self.answers[id] = msgspec.json.decode(msgspec.json.encode(value))

    def disconnect(self) -> None:
        self.is_disconnected = True
        self.talk.lost()

    def go_on(self) -> None:
        self.went_on += 1

    def unsent(self) -> int:
        return self.unsent_bytes

    def retract(self) -> None:
        self.retracted += 1

    def close(self, end: End) -> None:
        self.end = end

    def gap(self, number: int, gap: Gap) -> None:
        self.talk.gap(number, gap)

    def ended(self, number: int, error: ClawError) -> None:
        self.talk.ended(number, error)

    def dropped(self, number: int, channel: str, error: ClawError) -> None:
        self.talk.dropped(number, channel, error)

    # --- the client ---------------------------------------------------------

    async def connect(self, **auth: Any) -> bool:
        """Ask to be let in, and see what comes first; False if it was refused."""
        try:
            await self.talk.connect(auth)
        except ClawError as error:
            self.refused = error
            return False
        self.talk.begin()
        await self._rig.settle()
        return True

    async def call(self, name: str, data: Any = None) -> Any:
        """Send an event and wait for its answer."""
        number = self.send(name, data)
        await self._rig.settle()
        return self.answers.pop(number)

    def send(self, name: str, data: Any = None) -> int:
        """Send an event; the answer will stand in `answers` under this number."""
        self._asked += 1
        self.talk.event(name, [] if data is None else [data], self._asked)
        return self._asked

    def ack(self, heard: Heard) -> None:
        """Call the callback of an event."""
        assert heard.id is not None, "it wants no acknowledgement"
        self.talk.acknowledged(heard.id, [])

    def drop(self) -> None:
        """The connection is gone without a word."""
        self.end = End.SHUTDOWN
        self.talk.lost()

    def of(self, name: str) -> list[Any]:
        """The data of all events of a name."""
        return [heard.data for heard in self.heard if heard.name == name]

    @property
    def texts(self) -> list[str]:
        """What the messages said, in order."""
        return [data["payload"].get("text", "-") for data in self.of("chat_message")]
