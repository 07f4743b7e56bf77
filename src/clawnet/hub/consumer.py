"""One durable consumer: what is stored of it, and what it holds in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from clawnet.core.calls.reading import Gap
from clawnet.core.channels import is_pattern, matches, parse

GAPS_MAX = 100
"""So many gaps a consumer holds by channel; what is lost beyond is told as one of the log."""
COVERED_MAX = 4_096
"""So many channels a consumer remembers: whether its patterns cover them, how far it is."""


class HeldGap(msgspec.Struct, frozen=True):
    """A gap, told until an event with a seq above `after` is acknowledged."""

    gap: Gap
    after: int


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """As stored under `consumer/<world>/<account>/<name>`. `pending` maps seq to attempts."""

    world: str
    account: str
    name: str
    channels: list[str]
    ack_wait_s: float
    max_attempts: int
    epoch: str
    floor: int
    read_to: int
    pending: dict[int, int] = {}
    gaps: list[HeldGap] = []


class Pending:
    __slots__ = ("attempts", "due_s")

    def __init__(self, attempts: int, due_s: float) -> None:
        self.attempts = attempts
        self.due_s = due_s
        """When the delivery expires, by the steady clock."""


class Consumer:
    """A consumer in memory."""

    def __init__(self, record: Record) -> None:
        self.world = record.world
        self.account = record.account
        self.name = record.name
        self.channels = tuple(record.channels)
        self.ack_wait_s = record.ack_wait_s
        self.max_attempts = record.max_attempts
        self.read_to = record.read_to
        # After a restart everything unsettled is due at once: nobody holds it any more.
        self.pending = {seq: Pending(n, 0.0) for seq, n in sorted(record.pending.items())}
        self.is_dirty = False
        self.is_gone = False
        self.fetching = asyncio.Lock()
        self.gaps = list(record.gaps)
        self.is_untold = bool(self.gaps)
        """Whether there is a gap that no answer of this run has named: a fetch need not wait."""
        self._exact = frozenset(parse(name).name for name in self.channels if not is_pattern(name))
        self._patterns = tuple(name for name in self.channels if is_pattern(name))
        self._covered: dict[str, bool] = {}
        self._reached: dict[str, int] = {}

    @property
    def key(self) -> str:
        return f"{self.world}/{self.account}/{self.name}"

    @property
    def floor(self) -> int:
        return min(self.pending) - 1 if self.pending else self.read_to

    def covers(self, name: str) -> bool:
        """Whether it follows this channel."""
        if name in self._exact:
            return True
        if not self._patterns:
            return False
        known = self._covered.get(name)
        if known is None:
            if len(self._covered) >= COVERED_MAX:
                self._covered.clear()
            known = any(matches(pattern, name) for pattern in self._patterns)
            self._covered[name] = known
        return known

    def missed(self, gap: Gap, *, after: int, up_to: int) -> None:
        """Keep a gap that a read of the log from `after` to `up_to` came upon.

        The log does not know which of the events that are gone had been read. Of those of
        this run that is known here; after a restart a gap may hold delivered events too.
        """
        if gap.reason == "retention":
            first = max(gap.first, self._reached.get(gap.channel, 0) + 1)
            if first > gap.last:
                return
            gap = msgspec.structs.replace(gap, first=first)
        self.is_dirty = self.is_untold = True
        for index, held in enumerate(self.gaps):
            known = held.gap
            is_same = (known.channel, known.reason) == (gap.channel, gap.reason)
            if is_same and gap.first <= known.last + 1 and known.first <= gap.last + 1:
                # They touch, so no delivered event lies between them.
                self.gaps[index] = HeldGap(_joined(known, gap), after)
                return
        if len(self.gaps) < GAPS_MAX:
            self.gaps.append(HeldGap(gap, after))
            return
        rest = Gap(channel=">", first=after + 1, last=max(up_to, after + 1), oldest=up_to + 1)
        if len(self.gaps) > GAPS_MAX:
            rest = _joined(self.gaps.pop().gap, rest)
        self.gaps.append(HeldGap(rest, after))

    def reached(self, channel: str, offset: int) -> None:
        """Events of the channel up to this offset were given, or their loss is kept."""
        if len(self._reached) >= COVERED_MAX:
            self._reached.clear()
        self._reached[channel] = offset

    def settled(self, seqs: Iterable[int]) -> None:
        """An event behind a gap was acknowledged, so the answer with the gap has arrived."""
        top = max(seqs, default=0)
        left = [held for held in self.gaps if held.after >= top]
        if len(left) != len(self.gaps):
            self.gaps = left
            self.is_dirty = True

    def record(self, epoch: str) -> Record:
        return Record(
            world=self.world,
            account=self.account,
            name=self.name,
            channels=list(self.channels),
            ack_wait_s=self.ack_wait_s,
            max_attempts=self.max_attempts,
            epoch=epoch,
            floor=self.floor,
            read_to=self.read_to,
            pending={seq: held.attempts for seq, held in self.pending.items()},
            gaps=list(self.gaps),
        )


def _joined(one: Gap, other: Gap) -> Gap:
    """One gap that holds two of a channel."""
    return Gap(
        channel=one.channel,
        first=min(one.first, other.first),
        last=max(one.last, other.last),
        oldest=max(one.oldest, other.oldest),
        reason=one.reason,
    )
