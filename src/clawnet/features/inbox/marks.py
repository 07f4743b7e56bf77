"""What an account has acknowledged on one channel: a floor, and ranges above it. Pure.

Acknowledgements are sparse: under a budget the newest are shown first, and what was
left out stays unread below them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

import msgspec

Span = tuple[int, int]
"""The offsets from the first to the last, both included."""

RANGES_MAX = 1_000


class Marks(msgspec.Struct, frozen=True, kw_only=True):
    """As stored under `inbox/<world>/<account>/<channel>`.

    Everything up to `floor` and within `ranges` is acknowledged; the ranges are in order,
    apart from each other and from the floor. `epoch` is that of the channel to which the
    offsets belong.
    """

    world: str
    account: str
    channel: str
    epoch: str
    floor: int = 0
    ranges: tuple[Span, ...] = ()

    @property
    def key(self) -> str:
        return f"inbox/{self.world}/{self.account}/{self.channel}"

    def has(self, offset: int) -> bool:
        """Whether the offset is acknowledged."""
        if offset <= self.floor:
            return True
        index = bisect_right(self.ranges, (offset, 1 << 62)) - 1
        return index >= 0 and offset <= self.ranges[index][1]

    def adding(self, spans: Iterable[Span]) -> Marks:
        """These marks and the spans."""
        floor = self.floor
        kept: list[Span] = []
        for first, last in merged([*self.ranges, *spans]):
            if first <= floor + 1:
                floor = max(floor, last)
            else:
                kept.append((first, last))
        return msgspec.structs.replace(self, floor=floor, ranges=tuple(kept))

    def cut(self, good: int, *, epoch: str) -> Marks:
        """What of these marks still holds where only offsets up to `good` mean the same."""
        kept = tuple((first, min(last, good)) for first, last in self.ranges if first <= good)
        return msgspec.structs.replace(self, epoch=epoch, floor=min(self.floor, good), ranges=kept)

    def unread(self, first: int, last: int) -> list[Span]:
        """The spans within `first`..`last` that are not acknowledged, in order."""
        found: list[Span] = []
        start = max(first, self.floor + 1)
        index = max(bisect_right(self.ranges, (start, 1 << 62)) - 1, 0)
        for begin, end in self.ranges[index:]:
            if start > last:
                return found
            if end < start:
                continue
            if begin > start:
                found.append((start, min(begin - 1, last)))
            start = end + 1
        if start <= last:
            found.append((start, last))
        return found

    def count(self, first: int, last: int) -> int:
        """How many offsets within `first`..`last` are not acknowledged."""
        return sum(end - begin + 1 for begin, end in self.unread(first, last))


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same offsets as spans in order, with none touching the next."""
    found: list[Span] = []
    for first, last in sorted(spans):
        if first > last:
            continue
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found
