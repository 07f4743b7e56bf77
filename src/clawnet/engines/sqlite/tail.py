"""The newest part of the log, which the index does not hold yet, in memory.

It comes in generations. Commits add to the youngest; when the index is about
to take it over, it is frozen and a new one begins, and when the index has it,
it is dropped as a whole. So nothing is ever removed event by event.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from clawnet.core.ledger import Decision
from clawnet.core.trace import chain_keys
from clawnet.engines.blocks import TimeBlocks


class Run:
    """A channel's events of one generation: their offsets are dense, so one of them is enough."""

    __slots__ = ("first_offset", "seqs")

    def __init__(self, first_offset: int) -> None:
        self.first_offset = first_offset
        self.seqs: list[int] = []


class Generation:
    """Events with seq > `after_seq`, up to the next generation's `after_seq`."""

    __slots__ = ("after_seq", "blocks", "chains", "count", "runs")

    def __init__(self, after_seq: int) -> None:
        self.after_seq = after_seq
        self.count = 0
        self.runs: dict[int, Run] = {}
        self.blocks = TimeBlocks()
        self.chains: dict[tuple[str, str], list[int]] = {}

    def add(self, decision: Decision) -> None:
        """Take a group that is committed."""
        runs = self.runs
        heads = decision.heads
        # Nearly all events of a group have its time; the rest are imported. A block that holds
        # some of both counts as young, and blocks behind the last young event do not.
        now_ms = decision.now_ms
        newest = 0
        for event in decision.events:
            channel_id = heads[event.world, event.channel].id
            run = runs.get(channel_id)
            if run is None:
                run = runs[channel_id] = Run(event.offset)
            run.seqs.append(event.seq)
            if event.ts_ms != now_ms:
                self.blocks.add(event.seq, event.ts_ms)
            else:
                newest = event.seq
        if newest:
            self.blocks.add_range(decision.events[0].seq, newest, now_ms)
        for place, draft in enumerate(decision.drafts):
            # Asked here and not in chain_keys(): a call for each event would be felt.
            if draft.correlation_id is not None or draft.trace_id is not None:
                for key in chain_keys(draft):
                    chain = self.chains.setdefault((draft.world, key), [])
                    chain.append(decision.events[place].seq)
        self.count += len(decision.events)

    def chain(
        self, world: str, key: str, *, after_seq: int, up_to_seq: int, limit: int
    ) -> list[int]:
        """The seqs of a chain's events here, `after_seq` < seq <= `up_to_seq`."""
        seqs = self.chains.get((world, key))
        if seqs is None:
            return []
        start = bisect_right(seqs, after_seq)
        return seqs[start : min(bisect_right(seqs, up_to_seq), start + limit)]

    def ascending(
        self, channel_id: int, *, after: int, up_to_seq: int, limit: int
    ) -> list[tuple[int, int]]:
        """(offset, seq) of a channel, offset > `after`, seq <= `up_to_seq`."""
        run = self.runs.get(channel_id)
        if run is None:
            return []
        start = max(after + 1 - run.first_offset, 0)
        stop = min(bisect_right(run.seqs, up_to_seq), start + limit)
        first = run.first_offset + start
        return list(enumerate(run.seqs[start:stop], first)) if start < stop else []

    def descending(
        self, channel_id: int, *, before: int, up_to_seq: int, limit: int
    ) -> list[tuple[int, int]]:
        """(offset, seq) of a channel, offset < `before`, seq <= `up_to_seq`, newest first."""
        run = self.runs.get(channel_id)
        if run is None:
            return []
        stop = min(max(before - run.first_offset, 0), bisect_right(run.seqs, up_to_seq))
        start = max(stop - limit, 0)
        found = list(enumerate(run.seqs[start:stop], run.first_offset + start))
        found.reverse()
        return found

    def first_offset_from(self, channel_id: int, seq: int) -> int | None:
        """The offset of a channel's first event here with seq >= `seq`."""
        run = self.runs.get(channel_id)
        if run is None:
            return None
        place = bisect_left(run.seqs, seq)
        return run.first_offset + place if place < len(run.seqs) else None


class Tail:
    """The generations. One thread commits; others take `generations`, a value that is replaced
    and never changed, though its youngest member still grows."""

    def __init__(self, after_seq: int) -> None:
        self.generations: tuple[Generation, ...] = (Generation(after_seq),)

    @property
    def after_seq(self) -> int:
        """Everything above this seq is here."""
        return self.generations[0].after_seq

    @property
    def count(self) -> int:
        """How many events are here."""
        return sum(generation.count for generation in self.generations)

    def add(self, decision: Decision) -> None:
        self.generations[-1].add(decision)

    def rotate(self, last_seq: int) -> None:
        """Freeze the youngest generation, which ends at `last_seq`."""
        assert len(self.generations) == 1, "one generation at a time is being indexed"
        self.generations = (*self.generations, Generation(last_seq))

    def drop_frozen(self) -> None:
        """The index has everything of the frozen generation."""
        self.generations = self.generations[-1:]

    def clear(self, last_seq: int) -> None:
        """Give up the whole tail: the log itself is read instead until the index has it."""
        self.generations = (Generation(last_seq),)
