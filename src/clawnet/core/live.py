"""What the hub and a live connection say to each other, and how an event looks there.

A door implements Outlet and picks a Shape; hub.sessions.Session drives them.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol, runtime_checkable

from clawnet.core.calls.reading import Gap
from clawnet.core.errors import ClawError
from clawnet.core.events import Stored


class Shape(Protocol):
    """How an event looks on a connection. One instance serves all connections of a kind."""

    key: str
    """Names the shape; frames are built once for each key."""

    def frame(self, body: bytes, cursor: bytes | None) -> bytes:
        """The bytes for one event: `body` is its native envelope (JSON, no newline).

        `cursor` is given if everything before this event has been written
        (`<log epoch>-<seq>`), else None. Frames are joined without separator.
        """


@runtime_checkable
class ChunkShape(Shape, Protocol):
    """Trait: a shape that frames a whole chunk of a replay faster than event by event."""

    def frames(self, bodies: list[bytes], epoch: bytes) -> bytes:
        """frame() of each body with the cursor `<epoch>-<its seq>`, joined."""


@runtime_checkable
class StoredShape(Shape, Protocol):
    """Trait: a shape that frames an event as it is stored, without its envelope's text."""

    def frame_of(self, event: Stored, shown: str) -> bytes | None:
        """frame() of a committed event with no cursor, its channel called `shown`; None where only
        frame() can tell."""


@runtime_checkable
class LiveShape(Shape, Protocol):
    """Trait: a shape whose frames build on the event before (a delta), so only a reader who was
    given that one live can use it. What is read from the log is shown as `replayed`."""

    replayed: Shape


class End(Enum):
    """Why the hub ends a connection, and whether the client should come back."""

    SHUTDOWN = "shutdown"
    SLOW = "slow"
    REVOKED = "revoked"
    EXPIRED = "expired"
    REPLACED = "replaced"

    @property
    def reconnect(self) -> bool:
        return self in (End.SHUTDOWN, End.SLOW)


class Outlet(Protocol):
    """What the hub needs of a live connection. All methods are called on the loop.

    O1 order      bytes go out in the order of the calls.
    O2 no wait    no method waits; write() keeps what the transport cannot take at once.
    O3 pressure   the door calls session.pause() as soon as its transport is above the
                  high-water mark and session.resume() when it has drained. Calls to write()
                  may still come until the running turn of the loop ends.
    """

    def write(self, frames: bytes) -> None:
        """Hand over whole frames."""

    def unsent(self) -> int:
        """How many bytes the client has not taken yet, as far as can be told.

        The hub looks at it while the session is paused: who makes it shrink makes progress.
        """

    def gap(self, number: int, gap: Gap) -> None:
        """Tell of missing events, before what comes behind them."""

    def ended(self, number: int, error: ClawError) -> None:
        """A subscription (of that number) is over: its right was revoked, or it failed."""

    def dropped(self, number: int, channel: str, error: ClawError) -> None:
        """A subscription goes on without one of its channels: the right to it was revoked."""

    def retract(self) -> None:
        """Rights were narrowed: what is queued and not sent must not reach the client.

        Where nothing is queued nothing happens; else the connection ends, to come back. It may
        come behind close(), too, while what was queued before still goes out.
        """

    def close(self, end: End) -> None:
        """End the connection with the door's code for the reason. REVOKED drops what is queued."""
