"""Walks the unread messages of an account, oldest or newest first, in bounded reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.events import place_of
from clawnet.features.inbox.marks import Marks, Span

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

READ_EVENTS = 100
"""So many events at a time: what lies behind them is often not wanted."""


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """One channel that is addressed to the account, as one look finds it.

    `first`..`last` are retained and may be read, `start` is where this look begins.
    """

    marks: Marks
    first: int
    last: int
    start: int

    @property
    def unread(self) -> int:
        """Everything unread, also before `start`."""
        return self.marks.count(self.first, self.last)

    @property
    def spans(self) -> list[Span]:
        """What this look is to give."""
        return self.marks.unread(max(self.start, self.first), self.last)


class Line(msgspec.Struct, frozen=True):
    """One unread message: its place and its envelope."""

    seq: int
    channel: str
    offset: int
    body: bytes


class Walk:
    """The unread messages of one box in one direction; take() gives the next.

    `lost` gathers the offsets on the way that are retained no more.
    """

    def __init__(
        self, hub: Hub, box: Box, *, up_to_seq: int, is_backward: bool, chunk: int
    ) -> None:
        self.box = box
        self.lost: list[Span] = []
        self.peeked: Line | None = None
        self._hub = hub
        self._up_to_seq = up_to_seq
        self._is_backward = is_backward
        self._chunk = max(min(chunk, READ_EVENTS), 1)
        self._spans = box.spans
        if not is_backward:
            self._spans.reverse()
        self._lines: list[Line] = []

    async def peek(self) -> Line | None:
        """The next message, which stays the next; None at the end."""
        while self.peeked is None and (self._lines or self._spans):
            if self._lines:
                self.peeked = self._lines.pop()
            else:
                await self._read()
        return self.peeked

    async def take(self) -> Line | None:
        """The next message; None at the end."""
        line = await self.peek()
        self.peeked = None
        return line

    async def _read(self) -> None:
        """Read a chunk at the last of the spans, and leave the spans that lie behind it."""
        hub, marks = self._hub, self.box.marks
        world, name = marks.world, marks.channel
        first, last = self._spans[-1]
        if self._is_backward:
            chunk = await hub.storage.read(
                lambda log: log.read_channel_reverse(
                    world, name, before=last + 1, limit=self._chunk
                )
            )
            reached = chunk.offset if chunk.count and not chunk.is_end else self.box.first
            self._leave_above(reached - 1)
        else:
            chunk = await hub.storage.read(
                lambda log: log.read_channel(
                    world, name, after=first - 1, up_to_seq=self._up_to_seq, limit=self._chunk
                )
            )
            reached = self.box.last if chunk.is_end else chunk.offset
            self._leave_below(reached + 1)
        for missing in chunk.missing:
            start = max(missing.first, self.box.start, self.box.first)
            self.lost += marks.unread(start, min(missing.last, self.box.last))
        found = []
        for body in chunk.body.split(b"\n") if chunk.count else ():
            seq, _, offset = place_of(body)
            is_within = max(self.box.start, self.box.first) <= offset <= self.box.last
            if is_within and seq <= self._up_to_seq and not marks.has(offset):
                found.append(Line(seq, name, offset, body))
        found.reverse()
        self._lines = found

    def _leave_above(self, last: int) -> None:
        self._spans = [(a, min(b, last)) for a, b in self._spans if a <= last]

    def _leave_below(self, first: int) -> None:
        self._spans = [(max(a, first), b) for a, b in self._spans if b >= first]


class Merge:
    """Several walks as one, by seq."""

    def __init__(self, walks: Sequence[Walk], *, is_backward: bool) -> None:
        self._walks = walks
        self._is_backward = is_backward

    async def take(self) -> Line | None:
        """The next message of all; None at the end of all."""
        best: tuple[int, Walk] | None = None
        for walk in self._walks:
            line = await walk.peek()
            if line is None:
                continue
            if best is None or (line.seq > best[0]) is self._is_backward:
                best = (line.seq, walk)
        return None if best is None else await best[1].take()
