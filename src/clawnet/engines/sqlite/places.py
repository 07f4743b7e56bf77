"""Finds where events lie: in the index, in the part it does not have yet, in the tail.

The log is covered in this order: up to `indexed` by the index; from there to
the tail by nothing (only while an index is being made anew or catches up
after a crash), so the log itself is scanned; the rest by the tail in memory.
The index may name events that are removed meanwhile: see `existing`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import apsw
import msgspec

from clawnet.core.ledger import Head
from clawnet.engines.blocks import BLOCK_SHIFT
from clawnet.engines.sqlite.index import TRACE_MARK
from clawnet.engines.sqlite.tail import Generation

Pair = tuple[int, int]
"""(offset, seq)."""

# A subquery with ORDER BY and LIMIT is produced in that order, and group_concat() takes the rows
# as they come. An ORDER BY inside group_concat() says the same and is twice as slow (measured).
_ASCENDING = """SELECT group_concat(offset), group_concat(seq) FROM (
    SELECT offset, seq FROM idx.by_channel
    WHERE channel_id = ? AND offset > ? AND seq <= ? ORDER BY offset LIMIT ?)"""
_DESCENDING = """SELECT group_concat(offset), group_concat(seq) FROM (
    SELECT offset, seq FROM idx.by_channel
    WHERE channel_id = ? AND offset < ? AND seq <= ? ORDER BY offset DESC LIMIT ?)"""
_SCAN_ASCENDING = """SELECT group_concat(offset), group_concat(seq) FROM (
    SELECT offset, seq FROM main.log
    WHERE seq > ? AND seq <= ? AND channel_id = ? AND offset > ? ORDER BY seq LIMIT ?)"""
_SCAN_DESCENDING = """SELECT group_concat(offset), group_concat(seq) FROM (
    SELECT offset, seq FROM main.log
    WHERE seq > ? AND seq <= ? AND channel_id = ? AND offset < ? ORDER BY seq DESC LIMIT ?)"""
_CHAIN = """SELECT group_concat(seq) FROM (
    SELECT seq FROM idx.by_key WHERE key = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?)"""
_SCAN_CORRELATED = """SELECT group_concat(seq) FROM (
    SELECT seq FROM main.log WHERE seq > ? AND seq <= ? AND correlation_id = ?
    AND channel_id IN (SELECT id FROM main.channels WHERE world = ?) ORDER BY seq LIMIT ?)"""
_SCAN_TRACED = """SELECT group_concat(seq) FROM (
    SELECT seq FROM main.log WHERE seq > ? AND seq <= ? AND instr(head, ?)
    AND channel_id IN (SELECT id FROM main.channels WHERE world = ?) ORDER BY seq LIMIT ?)"""
_EXISTING = """SELECT group_concat(seq), group_concat(size) FROM (
    SELECT l.seq, octet_length(l.head) + octet_length(l.data) AS size
    FROM carray(?) AS s CROSS JOIN main.log AS l ON l.seq = s.value)"""
_WALK_ALL = """SELECT group_concat(seq), group_concat(channel_id), group_concat(size) FROM (
    SELECT seq, channel_id, octet_length(head) + octet_length(data) AS size FROM main.log
    WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?)"""
_WALK = """SELECT group_concat(seq), group_concat(size) FROM (
    SELECT seq, octet_length(head) + octet_length(data) AS size FROM main.log
    WHERE seq > ? AND seq <= ? AND channel_id IN (SELECT value FROM carray(?))
    ORDER BY seq LIMIT ?)"""


class Places:
    """The places of one snapshot: a connection inside a transaction, and the tail beside it."""

    def __init__(
        self,
        connection: apsw.Connection,
        *,
        indexed: int,
        has_index: bool,
        generations: tuple[Generation, ...],
    ) -> None:
        self.connection = connection
        self._has_index = has_index
        self._generations = generations
        self.tail_after = generations[0].after_seq
        # The index may be ahead of the tail's beginning while a generation is being dropped.
        self._indexed = min(indexed, self.tail_after) if has_index else 0

    def ascending(self, head: Head, *, after: int, up_to_seq: int, limit: int) -> list[Pair]:
        """A channel's places behind offset `after`, `limit` at most; some may be removed."""
        # Everything below `first` is gone: rows of it that the index still has are not walked.
        after = max(after, head.first - 1)
        found: list[Pair] = []
        if self._has_index:
            bound = min(up_to_seq, self._indexed)
            found = self._pairs(_ASCENDING, (head.id, after, bound, limit))
        if len(found) < limit and self._indexed < min(self.tail_after, up_to_seq):
            last = found[-1][0] if found else after
            if last + 1 < self._first_in_tail(head):
                bound = min(up_to_seq, self.tail_after)
                found += self._pairs(
                    _SCAN_ASCENDING, (self._indexed, bound, head.id, last, limit - len(found))
                )
        for generation in self._generations:
            if len(found) >= limit:
                break
            found += generation.ascending(
                head.id, after=after, up_to_seq=up_to_seq, limit=limit - len(found)
            )
        return found

    def descending(self, head: Head, *, before: int, up_to_seq: int, limit: int) -> list[Pair]:
        """A channel's places below offset `before`, newest first."""
        found: list[Pair] = []
        for generation in reversed(self._generations):
            if len(found) >= limit:
                return found
            found += generation.descending(
                head.id, before=before, up_to_seq=up_to_seq, limit=limit - len(found)
            )
        if len(found) < limit and self._indexed < min(self.tail_after, up_to_seq):
            bound = min(up_to_seq, self.tail_after)
            found += self._pairs(
                _SCAN_DESCENDING, (self._indexed, bound, head.id, before, limit - len(found))
            )
        if len(found) < limit and self._has_index:
            bound = min(up_to_seq, self._indexed)
            found += self._pairs(_DESCENDING, (head.id, before, bound, limit - len(found)))
        return [pair for pair in found if pair[0] >= head.first]

    def chain(
        self, world: str, key: str, *, after_seq: int, up_to_seq: int, limit: int
    ) -> list[int]:
        """A chain's seqs behind `after_seq`, `limit` at most; some may be removed."""
        found: list[int] = []
        if self._has_index:
            bound = min(up_to_seq, self._indexed)
            found = self._seqs(_CHAIN, (f"{world}/{key}", after_seq, bound, limit))
        if len(found) < limit and self._indexed < min(self.tail_after, up_to_seq):
            start, bound = max(after_seq, self._indexed), min(up_to_seq, self.tail_after)
            sql = _SCAN_CORRELATED if key.startswith("c:") else _SCAN_TRACED
            wanted = key[2:] if key.startswith("c:") else f"{TRACE_MARK}{key[2:]}-"
            found += self._seqs(sql, (start, bound, wanted, world, limit - len(found)))
        for generation in self._generations:
            if len(found) >= limit:
                break
            found += generation.chain(
                world, key, after_seq=after_seq, up_to_seq=up_to_seq, limit=limit - len(found)
            )
        return found

    def newest(self, head: Head, seq: int) -> int | None:
        """The offset of the channel's newest existing event with seq <= `seq`."""
        before = head.last + 1
        if seq < head.last_seq:
            before = self._estimate(head, seq)
        while pairs := self.descending(head, before=before, up_to_seq=seq, limit=64):
            there = set(self.existing([pair[1] for pair in pairs])[0])
            for offset, place in pairs:
                if place in there:
                    return offset
            before = pairs[-1][0]
        return None

    def existing(self, seqs: Sequence[int]) -> tuple[list[int], list[int]]:
        """Those of the seqs that are in the log, in their order, and the size of each."""
        if not seqs:
            return [], []
        return self._lists(_EXISTING, (apsw.carray(array("q", seqs)),))

    def walk(
        self, channel_ids: array[int], *, after_seq: int, up_to_seq: int, limit: int
    ) -> tuple[list[int], list[int]]:
        """The seqs of these channels' events in a range of the log, and the size of each."""
        if not channel_ids:
            return [], []
        return self._lists(_WALK, (after_seq, up_to_seq, apsw.carray(channel_ids), limit))

    def walk_all(
        self, *, after_seq: int, up_to_seq: int, limit: int
    ) -> tuple[list[int], list[int], list[int]]:
        """Seq, channel and size of each event in a range of the log."""
        row = self.connection.execute(_WALK_ALL, (after_seq, up_to_seq, limit)).fetchone()
        assert row is not None, "an aggregate always has a row"
        if row[0] is None:
            return [], [], []
        return _integers(row[0]), _integers(row[1]), _integers(row[2])

    def first_seq_after(self, seq: int) -> int | None:
        """The seq of the next event there is."""
        found = self.connection.execute("SELECT min(seq) FROM main.log WHERE seq > ?", (seq,)).get
        return None if found is None else int(found)

    def first_young(self, ts_ms: int) -> int | None:
        """A seq at most a block before the first event at or after `ts_ms`."""
        candidates: list[int | None] = [g.blocks.first_young(ts_ms) for g in self._generations]
        if self._has_index:
            block = self.connection.execute(
                "SELECT min(block) FROM idx.times WHERE ts_ms >= ?", (ts_ms,)
            ).get
            candidates.append(None if block is None else int(block) << BLOCK_SHIFT)
        if self._indexed < self.tail_after:
            candidates.append(
                self.connection.execute(
                    "SELECT min(seq) FROM main.log WHERE seq > ? AND seq <= ? AND ts_ms >= ?",
                    (self._indexed, self.tail_after, ts_ms),
                ).get
            )
        return min((seq for seq in candidates if seq is not None), default=None)

    @property
    def unindexed(self) -> int:
        """How many seqs neither the index nor the tail has."""
        return max(self.tail_after - self._indexed, 0)

    def seqs_of_keys(self, keys: Iterable[int]) -> list[int]:
        """Seqs whose dedupe key is among `keys`; below the tail, some may be removed."""
        wanted = apsw.carray(array("q", sorted(keys)))
        found: list[int] = []
        if self._has_index:
            found += [
                seq
                for (seq,) in self.connection.execute(
                    "SELECT d.seq FROM carray(?) AS k CROSS JOIN idx.dedupe AS d"
                    " ON d.key = k.value",
                    (wanted,),
                )
            ]
        if self.unindexed:
            found += [
                seq
                for (seq,) in self.connection.execute(
                    "SELECT seq FROM main.log WHERE seq > ? AND seq <= ?"
                    " AND dedupe_key IN (SELECT value FROM carray(?))",
                    (self._indexed, self.tail_after, wanted),
                )
            ]
        return found

    def identities(self, seqs: Sequence[int]) -> list[tuple[bytes, int]]:
        """The dedupe identities of events, each with its seq."""
        rows = self.connection.execute(
            "SELECT substr(l.dedupe, 1, 16), l.seq FROM carray(?) AS s"
            " CROSS JOIN main.log AS l ON l.seq = s.value WHERE l.dedupe IS NOT NULL",
            (apsw.carray(array("q", seqs)),),
        )
        return [(identity, seq) for identity, seq in rows]

    def _first_in_tail(self, head: Head) -> int:
        for generation in self._generations:
            run = generation.runs.get(head.id)
            if run is not None:
                return run.first_offset
        return head.last + 1

    def _estimate(self, head: Head, seq: int) -> int:
        """An offset above every event with seq <= `seq`, as close as the index can tell."""
        for generation in self._generations:
            if seq >= generation.after_seq:
                offset = generation.first_offset_from(head.id, seq + 1)
                if offset is not None:
                    return offset
        if not self._has_index or seq > self._indexed:
            return head.last + 1
        # Offsets and seqs rise together, so this finds the border in some twenty steps.
        low, high = head.first - 1, head.last + 1
        while high - low > 1:
            middle = (low + high) // 2
            found = self.connection.execute(
                "SELECT offset, seq FROM idx.by_channel WHERE channel_id = ? AND offset <= ?"
                " ORDER BY offset DESC LIMIT 1",
                (head.id, middle),
            ).fetchone()
            if found is None or found[1] <= seq:
                low = middle
            else:
                high = max(found[0], low + 1)
        return high

    def _seqs(self, sql: str, bindings: tuple[int | str, ...]) -> list[int]:
        text = self.connection.execute(sql, bindings).get
        return [] if text is None else _integers(text)

    def _pairs(self, sql: str, bindings: tuple[int, ...]) -> list[Pair]:
        return list(zip(*self._lists(sql, bindings), strict=True))

    def _lists(self, sql: str, bindings: tuple[Any, ...]) -> tuple[list[int], list[int]]:
        # One aggregated row: stepping through rows hands the interpreter over for each.
        row = self.connection.execute(sql, bindings).fetchone()
        assert row is not None, "an aggregate always has a row"
        first, second = row
        if first is None:
            return [], []
        return _integers(first), _integers(second)


_decoder = msgspec.json.Decoder(list[int])


def _integers(text: str) -> list[int]:
    return _decoder.decode(f"[{text}]")
