"""Bounded reads of the log. Thread-safe; each takes a snapshot and leaves none open."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeVar

import apsw

from clawnet.core.errors import Unavailable
from clawnet.core.events import Existing
from clawnet.core.ledger import Head, Ledger
from clawnet.core.positions import EpochStart
from clawnet.engines.gaps import below_gone, gaps
from clawnet.engines.sqlite.index import BROKEN, Index
from clawnet.engines.sqlite.indexer import Indexer
from clawnet.engines.sqlite.places import Pair, Places
from clawnet.engines.sqlite.readers import Readers
from clawnet.engines.sqlite.state import scan_state
from clawnet.engines.sqlite.tail import Tail
from clawnet.ports.log import READ_MAX_BYTES, READ_MAX_EVENTS, Chunk, Missing, StateEntry

WALK_MAX_SEQS = 16_384
"""How much of the log one read looks at for events of its channels: some milliseconds."""

DENSE_CHANNELS = 1_024
WALK_DENSE_EVENTS = 1_536
"""From so many channels on, SQLite would spend more on making a table of them for each read than
it costs to look at so many events here."""

ENVELOPE_BYTES = 128
"""What the positions around a stored event add, about."""

_NAME_SETS_MAX = 64

T = TypeVar("T")


class ChannelSet(NamedTuple):
    """Channel ids in both forms: for SQL and for here."""

    ids: array[int]
    members: frozenset[int]


class Reads:
    """Reads through the index, the log and the tail."""

    def __init__(
        self,
        *,
        readers: Readers,
        index: Index,
        indexer: Indexer,
        tail: Tail,
        ledger: Ledger,
        epochs: Sequence[EpochStart],
    ) -> None:
        self._readers = readers
        self._index = index
        self._indexer = indexer
        self._tail = tail
        self._ledger = ledger
        self._epochs = epochs
        self._text = _text_sql(epochs)
        self._name_sets: dict[tuple[str, frozenset[str]], tuple[int, ChannelSet]] = {}

    def at(self, work: Callable[[Places], T], *, is_committer: bool = False) -> T:
        """Run a read on a snapshot; again without the index if that proves damaged.

        Raises Unavailable if the log cannot be read.
        """
        was_indexed = self._readers.is_indexed
        try:
            try:
                return self._attempt(work, is_committer)
            except BROKEN:
                if not was_indexed:
                    raise
                self._indexer.broken()
                return self._attempt(work, is_committer)
        except apsw.Error as error:
            raise Unavailable(f"The log cannot be read now: {error}.", retry_after_s=1) from error

    def _attempt(self, work: Callable[[Places], T], is_committer: bool) -> T:
        # The order matters. Generations first: what is dropped from them later is in the index.
        # The cursor after the connection: a connection to a new index must meet its cursor.
        generations = self._tail.generations
        with self._readers.snapshot(is_committer=is_committer) as (connection, has_index):
            indexed = self._index.indexed_seq
            return work(
                Places(connection, indexed=indexed, has_index=has_index, generations=generations)
            )

    def channel(self, head: Head, *, after: int, bound: int, limit: int, max_bytes: int) -> Chunk:
        """See Log.read_channel; `bound` is the last seq to give."""

        def read(places: Places) -> Chunk:
            pairs, is_end = _collect(
                places,
                lambda last, want: places.ascending(head, after=last, up_to_seq=bound, limit=want),
                start=after,
                limit=limit,
                max_bytes=max_bytes,
            )
            body = self._body(places, [seq for _, seq in pairs])
            # Read again: what is gone from this snapshot is marked in the head by now.
            now = self._ledger.head(head.world, head.name) or head
            missing = gaps(head.name, after, [offset for offset, _ in pairs])
            offset = pairs[-1][0] if pairs else after
            if is_end and now.gone_offset == now.last and now.gone_seq <= bound:
                missing += gaps(head.name, offset, [now.last + 1])
                offset = max(offset, now.last)
            seq = bound if is_end else pairs[-1][1]
            return Chunk(body, len(pairs), offset, seq, is_end, tuple(missing))

        return self.at(read)

    def channel_reverse(
        self, head: Head, *, before: int, bound: int, limit: int, max_bytes: int
    ) -> Chunk:
        """See Log.read_channel_reverse."""

        def read(places: Places) -> Chunk:
            pairs, is_end = _collect(
                places,
                lambda last, want: places.descending(
                    head, before=last, up_to_seq=bound, limit=want
                ),
                start=before,
                limit=limit,
                max_bytes=max_bytes,
            )
            body = self._body(places, [seq for _, seq in pairs])
            offsets = [offset for offset, _ in reversed(pairs)]
            lower = 0 if is_end or not offsets else offsets[0] - 1
            missing = gaps(head.name, lower, [*offsets, before])
            missing.reverse()
            offset = 1 if is_end else offsets[0]
            seq = pairs[-1][1] if pairs else 0
            return Chunk(body, len(pairs), offset, seq, is_end, tuple(missing))

        return self.at(read)

    def log(
        self,
        world: str,
        names: frozenset[str],
        *,
        after_seq: int,
        bound: int,
        limit: int,
        max_bytes: int,
    ) -> Chunk:
        """See Log.read_log."""
        channel_ids = self._channel_ids(world, names)
        limit = min(limit, READ_MAX_EVENTS)

        def read(places: Places) -> Chunk:
            # Over what is removed as a whole one step leads, however long it is.
            first = places.first_seq_after(after_seq)
            start = bound if first is None else min(max(after_seq, first - 1), bound)
            seqs, sizes, stop = _walk(places, channel_ids, start=start, bound=bound, limit=limit)
            fits = _fitting(sizes, limit=limit, max_bytes=max_bytes)
            seq = stop if fits == len(seqs) else seqs[fits - 1]
            body = self._body(places, seqs[:fits])
            missing = self._missing(places, world, names, seqs[:fits], after_seq, seq)
            return Chunk(body, fits, 0, seq, seq >= bound, tuple(missing))

        return self.at(read)

    def get(self, world: str, seq: int) -> bytes | None:
        """See Log.get."""

        def read(places: Places) -> bytes | None:
            owner = places.connection.execute(
                "SELECT c.world FROM log AS l JOIN channels AS c ON c.id = l.channel_id"
                " WHERE l.seq = ?",
                (seq,),
            ).get
            return self._body(places, [seq]) if owner == world else None

        return self.at(read)

    def correlated(
        self, world: str, key: str, *, after_seq: int, bound: int, limit: int, max_bytes: int
    ) -> Chunk:
        """See Log.correlated; `bound` is the last seq to give."""

        def candidates(places: Places, last: int, want: int) -> list[Pair]:
            seqs = places.chain(world, key, after_seq=last, up_to_seq=bound, limit=want)
            return [(seq, seq) for seq in seqs]

        def read(places: Places) -> Chunk:
            pairs, is_end = _collect(
                places,
                lambda last, want: candidates(places, last, want),
                start=after_seq,
                limit=limit,
                max_bytes=max_bytes,
            )
            seqs = [seq for _, seq in pairs]
            seq = max(bound, after_seq) if is_end else seqs[-1]
            return Chunk(self._body(places, seqs), len(seqs), 0, seq, is_end)

        return self.at(read)

    def seq_before(self, ts_ms: int, *, bound: int) -> int:
        """See Log.seq_before."""
        young = self.at(lambda places: places.first_young(ts_ms))
        return bound if young is None else min(max(young - 1, 0), bound)

    def offset_at(self, head: Head, seq: int) -> int:
        """See Log.offset_at."""
        found = self.at(lambda places: places.newest(head, seq))
        return below_gone(head, found or 0, seq)

    def known(
        self, keys: Collection[int], *, scan_max: int, is_committer: bool = False
    ) -> dict[bytes, Existing] | None:
        """First events by identity, for the index's keys; None if too much had to be scanned."""

        def read(places: Places) -> dict[bytes, Existing] | None:
            if places.unindexed > scan_max:
                return None
            found: dict[bytes, Existing] = {}
            for seq in places.seqs_of_keys(keys):
                row = places.connection.execute(
                    "SELECT l.dedupe, l.offset, c.incarnation, substr(l.head, 1, 300)"
                    " FROM log AS l JOIN channels AS c ON c.id = l.channel_id WHERE l.seq = ?",
                    (seq,),
                ).fetchone()
                if row is None or row[0] is None:
                    continue
                dedupe, offset, incarnation, opening = row
                epoch = f"{self._epoch_of(seq)}.{incarnation}"
                # The stored head begins with `"id":"…"`.
                first_id = opening[6 : opening.index('"', 6)]
                found[dedupe[:16]] = Existing(seq, offset, epoch, first_id, dedupe[16:])
            return found

        return self.at(read, is_committer=is_committer)

    def scan(self, kind: str) -> list[StateEntry]:
        """See State.scan."""
        return self.at(lambda places: scan_state(places.connection, kind))

    def _body(self, places: Places, seqs: Sequence[int]) -> bytes:
        if not seqs:
            return b""
        wanted = apsw.carray(array("q", seqs))
        body = places.connection.execute(self._text, (wanted,)).get
        assert isinstance(body, bytes), "events that exist in the snapshot have text"
        return body

    def _epoch_of(self, seq: int) -> str:
        for start in reversed(self._epochs):
            if seq >= start.first_seq:
                return start.epoch
        return self._epochs[0].epoch

    def _channel_ids(self, world: str, names: frozenset[str]) -> ChannelSet:
        """The names' channel ids; kept for sets that come again, as a follower's does."""
        count = self._ledger.channel_count
        kept = self._name_sets.get((world, names))
        if kept is not None and kept[0] == count:
            return kept[1]
        heads = (self._ledger.head(world, name) for name in names)
        members = frozenset(head.id for head in heads if head is not None)
        ids = ChannelSet(array("q", members), members)
        if len(self._name_sets) >= _NAME_SETS_MAX:
            self._name_sets.clear()
        self._name_sets[world, names] = (count, ids)
        return ids

    def _missing(
        self,
        places: Places,
        world: str,
        names: frozenset[str],
        seqs: Sequence[int],
        after_seq: int,
        seq: int,
    ) -> list[Missing]:
        """Gaps before the events that were walked, and those that were walked across.

        Only a read that begins before the newest event ever removed looks at each name.
        """
        if self._ledger.gone_seq <= after_seq:
            return []
        walked: dict[str, list[int]] = {}
        if seqs:
            rows = places.connection.execute(
                "SELECT c.name, group_concat(offset) FROM (SELECT l.channel_id, l.offset"
                " FROM carray(?) AS s CROSS JOIN log AS l ON l.seq = s.value) AS e"
                " CROSS JOIN channels AS c ON c.id = e.channel_id GROUP BY c.id",
                (apsw.carray(array("q", seqs)),),
            )
            walked = {name: sorted(map(int, text.split(","))) for name, text in rows}
        missing: list[Missing] = []
        for name in sorted(names):
            head = self._ledger.head(world, name)
            if head is None or head.gone_seq <= after_seq:
                continue
            offsets = walked.get(name, [])
            if head.gone_seq <= seq and (not offsets or offsets[-1] < head.gone_offset):
                # The channel goes on in a later chunk or not at all; the gap lies in this one.
                offsets.append(head.gone_offset + 1)
            if offsets:
                missing += gaps(name, _below(places, head, offsets[0]), offsets)
        return missing


def _walk(
    places: Places, channel_ids: ChannelSet, *, start: int, bound: int, limit: int
) -> tuple[list[int], list[int], int]:
    """Seqs and sizes of the channels' next events, one more than `limit` at most, and how far
    this looked."""
    members = channel_ids.members
    if len(members) < DENSE_CHANNELS:
        stop = min(bound, start + WALK_MAX_SEQS)
        seqs, sizes = places.walk(channel_ids.ids, after_seq=start, up_to_seq=stop, limit=limit + 1)
        return seqs, sizes, stop
    walked, owners, all_sizes = places.walk_all(
        after_seq=start, up_to_seq=bound, limit=WALK_DENSE_EVENTS
    )
    stop = walked[-1] if len(walked) == WALK_DENSE_EVENTS else bound
    mine = [place for place, owner in enumerate(owners) if owner in members][: limit + 1]
    return [walked[place] for place in mine], [all_sizes[place] for place in mine], stop


def _collect(
    places: Places,
    candidates: Callable[[int, int], list[Pair]],
    *,
    start: int,
    limit: int,
    max_bytes: int,
) -> tuple[list[Pair], bool]:
    """The next existing places within the bounds, and whether there are no more."""
    limit = min(limit, READ_MAX_EVENTS)
    found: list[Pair] = []
    sizes: list[int] = []
    last = start
    while len(found) <= limit:
        # One more than is given, so that the end is known.
        wanted = limit + 1 - len(found)
        pairs = candidates(last, wanted)
        if pairs:
            seqs, new_sizes = places.existing([seq for _, seq in pairs])
            if len(seqs) == len(pairs):
                found += pairs
            else:
                there = set(seqs)
                found += [pair for pair in pairs if pair[1] in there]
            sizes += new_sizes
            last = pairs[-1][0]
        if len(pairs) < wanted:
            break
    fits = _fitting(sizes, limit=limit, max_bytes=max_bytes)
    return found[:fits], fits == len(found)


def _fitting(sizes: Sequence[int], *, limit: int, max_bytes: int) -> int:
    """How many events fit; the first always does."""
    limit = min(limit, READ_MAX_EVENTS)
    max_bytes = min(max_bytes, READ_MAX_BYTES)
    if sum(sizes) + ENVELOPE_BYTES * len(sizes) > max_bytes:
        for count, total in enumerate(accumulate(sizes)):
            if count and total + ENVELOPE_BYTES * (count + 1) > max_bytes:
                return min(count, limit)
    return min(len(sizes), limit)


def _below(places: Places, head: Head, offset: int) -> int:
    """The offset of the channel's nearest existing event below `offset`; 0 if none."""
    before = offset
    while pairs := places.descending(head, before=before, up_to_seq=head.last_seq, limit=64):
        there = set(places.existing([seq for _, seq in pairs])[0])
        for candidate, seq in pairs:
            if seq in there:
                return candidate
        before = pairs[-1][0]
    return 0


def _text_sql(epochs: Sequence[EpochStart]) -> str:
    """One row with the envelopes of `carray(?)`, in its order, as Stored.text() gives them.

    An event shows the epoch that it was committed in. Epochs are the hub's own
    hexadecimal digits, so they may stand in the statement.
    """
    epoch = f"'{epochs[-1].epoch}'"
    if len(epochs) > 1:
        cases = " ".join(
            f"WHEN l.seq >= {start.first_seq} THEN '{start.epoch}'" for start in reversed(epochs)
        )
        epoch = f"CASE {cases} ELSE '{epochs[0].epoch}' END"
    return f"""SELECT CAST(group_concat(text, char(10)) AS BLOB) FROM (
        SELECT concat('{{"seq":', l.seq, ',"channel":', json_quote(c.name),
            ',"offset":', l.offset, ',"epoch":"', {epoch}, '.', c.incarnation, '",',
            l.head, ',"data":', l.data, '}}') AS text
        FROM carray(?) AS s
        CROSS JOIN log AS l ON l.seq = s.value
        CROSS JOIN channels AS c ON c.id = l.channel_id)"""
