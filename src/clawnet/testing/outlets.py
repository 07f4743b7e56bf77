"""A live connection that only writes down what the hub tells it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from clawnet.core.calls.reading import Gap
from clawnet.core.errors import ClawError
from clawnet.core.events import seq_of
from clawnet.core.live import End
from clawnet.hub.sessions import Session


class LineShape:
    """One event a line, the cursor behind a tab. Counts the frames it built."""

    def __init__(self, key: str = "line") -> None:
        self.key = key
        self.built = 0

    def frame(self, body: bytes, cursor: bytes | None) -> bytes:
        self.built += 1
        return body + b"\t" + (cursor or b"") + b"\n"


class ChunkLineShape(LineShape):
    """LineShape with the trait of core.live.ChunkShape. Counts the chunks it framed."""

    def __init__(self, key: str = "line") -> None:
        super().__init__(key)
        self.chunks = 0

    def frames(self, bodies: list[bytes], epoch: bytes) -> bytes:
        self.chunks += 1
        return b"".join([self.frame(body, b"%b-%d" % (epoch, seq_of(body))) for body in bodies])


@dataclass(frozen=True, slots=True)
class Frame:
    """One written frame, taken apart."""

    event: dict[str, Any]
    cursor: str | None

    @property
    def channel(self) -> str:
        return str(self.event["channel"])

    @property
    def offset(self) -> int:
        return int(self.event["offset"])

    @property
    def seq(self) -> int:
        return int(self.event["seq"])

    @property
    def data(self) -> Any:
        return self.event["data"]


@dataclass
class RecordingOutlet:
    """Records everything, in order, in `told`; the lists below it hold one kind each.

    With `high_water`, the transport is full when so many frames were written since
    the last drain(), and the session is told so at once, as a door would.
    """

    high_water: int | None = None
    session: Session | None = None
    told: list[str] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    writes: list[bytes] = field(default_factory=list)
    gaps: list[tuple[int, Gap]] = field(default_factory=list)
    endings: list[tuple[int, ClawError]] = field(default_factory=list)
    drops: list[tuple[int, str, ClawError]] = field(default_factory=list)
    end: End | None = None
    unsent_bytes: int = 0
    """What the hub is told of the transport; a test that needs it sets it."""
    retracted: int = 0
    """How often the hub took back what is unsent."""
    _undrained: int = 0

    # --- Outlet -------------------------------------------------------------

    def write(self, frames: bytes) -> None:
        self.writes.append(frames)
        lines = frames.split(b"\n")
        assert lines.pop() == b"", "a frame is cut"
        for line in lines:
            body, _, cursor = line.partition(b"\t")
            frame = Frame(msgspec.json.decode(body), cursor.decode() or None)
            self.frames.append(frame)
            self.told.append(f"{frame.channel}:{frame.event.get('offset', 'signal')}")
        self._undrained += len(lines)
        if self.high_water is not None and self._undrained >= self.high_water:
            assert self.session is not None
            self.session.pause()

    def unsent(self) -> int:
        return self.unsent_bytes

    def gap(self, number: int, gap: Gap) -> None:
        self.gaps.append((number, gap))
        self.told.append(f"gap {gap.channel} {gap.first}-{gap.last}")

    def ended(self, number: int, error: ClawError) -> None:
        self.endings.append((number, error))
        self.told.append(f"ended {number}")

    def retract(self) -> None:
        """Nothing is ever queued here but what a test says."""
        self.retracted += 1

    def dropped(self, number: int, channel: str, error: ClawError) -> None:
        self.drops.append((number, channel, error))
        self.told.append(f"dropped {channel}")

    def close(self, end: End) -> None:
        assert self.end is None, "closed twice"
        self.end = end
        self.told.append(f"closed {end.value}")

    # --- for tests ----------------------------------------------------------

    def drain(self) -> None:
        """The peer has read everything."""
        self._undrained = 0
        assert self.session is not None
        self.session.resume()

    def offsets(self, channel: str) -> list[int]:
        """The offsets given of a channel, in order."""
        return [f.offset for f in self.frames if f.channel == channel and "offset" in f.event]

    @property
    def data(self) -> list[Any]:
        """The data of every frame, in order."""
        return [frame.data for frame in self.frames]

    @property
    def seqs(self) -> list[int]:
        return [frame.seq for frame in self.frames]

    @property
    def cursors(self) -> list[str | None]:
        return [frame.cursor for frame in self.frames]
