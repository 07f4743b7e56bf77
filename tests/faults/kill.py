"""What a killed victim must have kept: shared by the engine's and the hub's kill tests.

A victim stores units of one or more events, each event under a key of its
own (`<unit>.<index>`), in one channel, and tells of each acknowledged one.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Position:
    """Where an event was said to be, or is."""

    seq: int
    offset: int


@dataclass(slots=True)
class Diary:
    """What was tried, what was acknowledged and what the log showed so far."""

    tried: dict[str, int] = field(default_factory=dict)
    """Unit → how many events it has."""
    acknowledged: dict[str, Position] = field(default_factory=dict)
    """Key → position."""
    seen: dict[str, Position] = field(default_factory=dict)
    last: Position = Position(0, 0)

    def read(self, key: str, position: Position) -> None:
        """The log shows an event; to be called in order, each event of the log once."""
        assert position.offset == self.last.offset + 1, f"a hole behind offset {self.last.offset}"
        assert position.seq > self.last.seq, f"seq {position.seq} is out of order"
        assert key not in self.seen, f"{key} is stored twice"
        assert key.partition(".")[0] in self.tried, f"{key} was never sent"
        self.seen[key] = position
        self.last = position

    def check(self) -> None:
        """After the log was read to its end: nothing acknowledged is missing, no unit is torn."""
        for key, position in self.acknowledged.items():
            assert key in self.seen, f"{key} was acknowledged at {position} and is missing"
            assert self.seen[key] == position, f"{key} is not where it was said to be"
        for unit, size in self.tried.items():
            stored = [f"{unit}.{index}" in self.seen for index in range(size)]
            assert all(stored) or not any(stored), f"unit {unit} is stored in part"
