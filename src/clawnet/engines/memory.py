"""The volatile engine: events in memory, gone at the end of the process.

For relays that need no past, and for tests. Accounts, tokens and all other
state lie in the data folder if one is given: what the hub needs to know
whom it serves survives a restart even when the messages do not.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

import apsw

from clawnet.core.errors import DiskFull, OutcomeUnknown
from clawnet.core.events import BLANK, DELETED, Existing, Stored, is_blanked
from clawnet.core.ledger import Change, Decision, Head, Ledger
from clawnet.core.trace import chain_keys
from clawnet.core.units import Outcome, Unit
from clawnet.engines.blocks import TimeBlocks
from clawnet.engines.epochs import new_epoch
from clawnet.engines.gaps import below_gone, gaps
from clawnet.engines.sqlite.connections import Migration, migrate, open_database
from clawnet.engines.sqlite.state import STATE_SQL, load_revisions, scan_state, write_changes
from clawnet.ports.clock import Clock, Randomness
from clawnet.ports.log import (
    READ_MAX_BYTES,
    READ_MAX_EVENTS,
    ChannelHead,
    Chunk,
    EpochStart,
    IsDue,
    Missing,
    Piece,
    StateEntry,
)

STATE_FILE = "state.db"
WALK_MAX_SEQS = 4_096
"""How many places a read of the log looks at; it runs on the loop."""

TRIM_MAX_EVENTS = 1_000
TRIM_LOOK_EVENTS = 4_096
"""How many places a piece of a trim looks at."""

_WAL_PAGES_MAX = 1_000


def _always(_channel: str, _type: str) -> bool:
    return True


_offset = attrgetter("offset")
_seq = attrgetter("seq")


class MemoryEngine:
    """See clawnet.ports.log.Engine. Positions are reused, so each start is a new epoch."""

    is_blocking = False
    is_durable = False

    def __init__(self, path: Path | None = None, *, clock: Clock, randomness: Randomness) -> None:
        self._clock = clock
        self._state = _StateFile(path)
        revisions = load_revisions(self._state.connection)
        self._epochs = (EpochStart(new_epoch(randomness), 1),)
        self._ledger = Ledger(
            epoch=self.epoch, revisions=revisions.by_key, revision_floor=revisions.floor
        )
        self._events: dict[int, Stored] = {}
        self._channels: dict[tuple[str, str], list[Stored]] = {}
        self._identities: dict[int, bytes] = {}
        self._blocks = TimeBlocks()
        self._first_seq = 1
        # Seqs by world and key, and the keys of a seq: see Log.correlated.
        self._chains: dict[tuple[str, str], list[int]] = {}
        self._chained: dict[int, tuple[str, ...]] = {}

    @property
    def epoch(self) -> str:
        return self._epochs[-1].epoch

    @property
    def epochs(self) -> tuple[EpochStart, ...]:
        return self._epochs

    @property
    def last_seq(self) -> int:
        return self._ledger.last_seq

    @property
    def first_seq(self) -> int:
        return self._first_seq

    # Writing.

    def commit(self, units: Sequence[Unit]) -> list[Outcome]:
        decision = self._ledger.decide(units, now_ms=self._clock.wall_ms())
        if decision.changes:
            is_narrowing = any(unit.is_narrowing for unit in units)
            try:
                self._state.write(
                    decision.changes, floor=decision.revision_floor, is_synced=is_narrowing
                )
            except apsw.FullError:
                return [DiskFull("The disk is full; nothing was stored.") for _ in units]
            except apsw.Error as error:
                raise OutcomeUnknown(f"The state could not be stored: {error}.") from error
        self._ledger.apply(decision)
        self._take(decision)
        for seq in decision.blanks:
            self._blank(seq)
        return decision.outcomes

    def _blank(self, seq: int) -> None:
        event = self._events.get(seq)
        if event is None or is_blanked(event.head):
            return
        # Who was handed the event as it was keeps that: a Stored never changes.
        blank = Stored(
            event.seq,
            event.world,
            event.channel,
            event.offset,
            event.epoch,
            event.id,
            event.ts_ms,
            event.type,
            event.actor_id,
            event.head + DELETED,
            BLANK,
        )
        self._events[seq] = blank
        channel = self._channels[event.world, event.channel]
        channel[bisect_left(channel, seq, key=_seq)] = blank

    def _take(self, decision: Decision) -> None:
        for event, draft in zip(decision.events, decision.drafts, strict=True):
            self._events[event.seq] = event
            key = (event.world, event.channel)
            channel = self._channels.get(key)
            if channel is None:
                self._channels[key] = [event]
            else:
                channel.append(event)
            self._blocks.add(event.seq, event.ts_ms)
            if draft.identity is not None:
                self._identities[event.seq] = draft.identity
            keys = chain_keys(draft)
            if keys:
                self._chained[event.seq] = keys
                for name in keys:
                    self._chains.setdefault((event.world, name), []).append(event.seq)

    def trim_before(self, seq: int) -> int:
        after = self._first_seq - 1
        while True:
            piece = self.trim_due(seq, after_seq=after, is_due=_always)
            if piece.removed or piece.is_end:
                return piece.removed
            after = piece.place

    def trim_due(self, seq: int, *, after_seq: int, is_due: IsDue) -> Piece:
        seq = min(seq, self.last_seq)
        place = max(after_seq, self._first_seq - 1)
        stop = min(seq, place + TRIM_LOOK_EVENTS)
        removed: dict[tuple[str, str], list[Stored]] = {}
        count = 0
        while place < stop and count < TRIM_MAX_EVENTS:
            place += 1
            event = self._events.get(place)
            if event is not None and is_due(event.channel, event.type):
                removed.setdefault((event.world, event.channel), []).append(event)
                count += 1
        for key, events in removed.items():
            self._take_out(key, events)
        is_end = place >= seq
        return Piece(count, max(seq if is_end else place, after_seq), is_end)

    def trim_channel_due(
        self, world: str, name: str, *, is_due: IsDue, keep: int, before: int | None, above: int
    ) -> Piece:
        channel = self._channels.get((world, name), [])
        stop = len(channel) if before is None else bisect_right(channel, before - 1, key=_offset)
        last = stop
        removed: list[Stored] = []
        kept = 0
        while stop > 0 and channel[stop - 1].offset > above:
            if last - stop >= TRIM_MAX_EVENTS:
                break
            stop -= 1
            event = channel[stop]
            if is_due(name, event.type):
                if kept < keep:
                    kept += 1
                else:
                    removed.append(event)
        is_end = stop == 0 or channel[stop - 1].offset <= above
        place = above if is_end else channel[stop].offset
        if removed:
            removed.reverse()
            self._take_out((world, name), removed)
        return Piece(len(removed), place, is_end, kept)

    def _take_out(self, key: tuple[str, str], events: list[Stored]) -> None:
        """Remove some of a channel's events, ascending, from wherever in it they lie."""
        gone = {event.seq for event in events}
        channel = self._channels[key]
        start = bisect_left(channel, events[0].seq, key=_seq)
        reach = bisect_right(channel, events[-1].seq, key=_seq)
        channel[start:reach] = [event for event in channel[start:reach] if event.seq not in gone]
        self._remove(key, events)

    def trim_channel(self, world: str, name: str, *, keep: int) -> int:
        channel = self._channels.get((world, name), [])
        count = min(max(len(channel) - keep, 0), TRIM_MAX_EVENTS)
        if count:
            events = channel[:count]
            del channel[:count]
            self._remove((world, name), events)
        return count

    def _remove(self, key: tuple[str, str], events: list[Stored]) -> None:
        """Forget events that were just taken out of their channel's list."""
        cut: dict[str, list[int]] = {}
        for event in events:
            del self._events[event.seq]
            identity = self._identities.pop(event.seq, None)
            if identity is not None:
                self._ledger.forget(identity, event.seq)
            for name in self._chained.pop(event.seq, ()):
                cut.setdefault(name, []).append(event.seq)
        for name, seqs in cut.items():
            self._unchain((key[0], name), seqs)
        head = self._ledger.head(*key)
        assert head is not None
        channel = self._channels[key]
        self._ledger.put_head(
            Head(
                head.id,
                head.world,
                head.name,
                head.incarnation,
                channel[0].offset if channel else head.last + 1,
                head.last,
                head.last_seq,
                head.last_ts_ms,
                max(head.gone_offset, events[-1].offset),
                max(head.gone_seq, events[-1].seq),
            )
        )
        while self._first_seq <= self.last_seq and self._first_seq not in self._events:
            self._first_seq += 1
        self._blocks.drop_before(self._first_seq)

    def _unchain(self, key: tuple[str, str], seqs: list[int]) -> None:
        chain = self._chains[key]
        gone = set(seqs)
        start, reach = bisect_left(chain, seqs[0]), bisect_right(chain, seqs[-1])
        chain[start:reach] = [seq for seq in chain[start:reach] if seq not in gone]
        if not chain:
            del self._chains[key]

    # Reading.

    def channel(self, world: str, name: str) -> ChannelHead | None:
        head = self._ledger.head(world, name)
        return None if head is None else self._shown(head)

    def channels(self, world: str, *, after: str, limit: int) -> list[ChannelHead]:
        heads = self._ledger.heads_after(world, after=after, limit=limit)
        return [self._shown(head) for head in heads]

    def read_channel(
        self,
        world: str,
        name: str,
        *,
        after: int = 0,
        up_to_seq: int | None = None,
        limit: int = READ_MAX_EVENTS,
        max_bytes: int = READ_MAX_BYTES,
    ) -> Chunk:
        head = self._ledger.head(world, name)
        bound = self._bound(up_to_seq)
        if head is None:
            return Chunk(b"", 0, after, bound, True)
        channel = self._channels[world, name]
        start = bisect_right(channel, after, key=_offset)
        stop = len(channel) if bound >= self.last_seq else bisect_right(channel, bound, key=_seq)
        page = _Page(limit, max_bytes)
        while start < stop and page.take(channel[start]):
            start += 1
        is_end = start >= stop
        missing = gaps(name, after, (event.offset for event in page.events))
        offset = page.events[-1].offset if page.events else after
        if is_end and stop == len(channel) and offset < head.last and head.gone_seq <= bound:
            missing.append(Missing(name, offset + 1, head.last))
            offset = head.last
        seq = bound if is_end else page.events[-1].seq
        return page.chunk(offset=offset, seq=seq, is_end=is_end, missing=missing)

    def read_channel_reverse(
        self,
        world: str,
        name: str,
        *,
        before: int | None = None,
        limit: int = READ_MAX_EVENTS,
        max_bytes: int = READ_MAX_BYTES,
    ) -> Chunk:
        head = self._ledger.head(world, name)
        if head is None:
            return Chunk(b"", 0, 1, 0, True)
        before = head.last + 1 if before is None else min(before, head.last + 1)
        channel = self._channels[world, name]
        place = bisect_right(channel, before - 1, key=_offset)
        page = _Page(limit, max_bytes)
        while place > 0 and page.take(channel[place - 1]):
            place -= 1
        is_end = place == 0
        offsets = [event.offset for event in reversed(page.events)]
        lower = 0 if is_end or not offsets else offsets[0] - 1
        missing = gaps(name, lower, [*offsets, before])
        missing.reverse()
        offset = 1 if is_end else page.events[-1].offset
        seq = page.events[-1].seq if page.events else 0
        return page.chunk(offset=offset, seq=seq, is_end=is_end, missing=missing)

    def read_log(
        self,
        world: str,
        names: frozenset[str],
        *,
        after_seq: int,
        up_to_seq: int | None = None,
        limit: int = READ_MAX_EVENTS,
        max_bytes: int = READ_MAX_BYTES,
    ) -> Chunk:
        bound = self._bound(up_to_seq)
        if after_seq >= bound:
            return Chunk(b"", 0, 0, after_seq, True)
        page = _Page(limit, max_bytes)
        seq = max(after_seq, self._first_seq - 1)
        stop = min(bound, seq + WALK_MAX_SEQS)
        get = self._events.get
        while seq < stop:
            event = get(seq + 1)
            if (
                event is not None
                and event.channel in names
                and event.world == world
                and not page.take(event)
            ):
                break
            seq += 1
        seq = min(max(seq, after_seq), bound)
        missing = self._missing(world, names, page.events, after_seq=after_seq, seq=seq)
        return page.chunk(offset=0, seq=seq, is_end=seq >= bound, missing=missing)

    def _missing(
        self,
        world: str,
        names: frozenset[str],
        events: list[Stored],
        *,
        after_seq: int,
        seq: int,
    ) -> list[Missing]:
        """Gaps before the events that were walked, and those that were walked across."""
        missing: list[Missing] = []
        if self._ledger.gone_seq <= after_seq:
            return missing
        walked: dict[str, list[int]] = {}
        for event in events:
            walked.setdefault(event.channel, []).append(event.offset)
        for name in sorted(names):
            head = self._ledger.head(world, name)
            if head is None or head.gone_seq <= after_seq:
                continue
            channel = self._channels[world, name]
            offsets = walked.get(name, [])
            if head.gone_seq <= seq and (not offsets or offsets[-1] < head.gone_offset):
                # The channel goes on in a later chunk or not at all; the gap lies in this one.
                offsets.append(head.gone_offset + 1)
            if offsets:
                place = bisect_right(channel, offsets[0] - 1, key=_offset)
                lower = channel[place - 1].offset if place else 0
                missing += gaps(name, lower, offsets)
        return missing

    def get(self, world: str, seq: int) -> bytes | None:
        event = self._events.get(seq)
        return event.text().encode() if event is not None and event.world == world else None

    def seq_before(self, ts_ms: int) -> int:
        young = self._blocks.first_young(ts_ms)
        return self.last_seq if young is None else max(young - 1, 0)

    def offset_at(self, world: str, name: str, seq: int) -> int:
        head = self._ledger.head(world, name)
        if head is None:
            return 0
        channel = self._channels[world, name]
        place = bisect_right(channel, seq, key=_seq)
        return below_gone(head, channel[place - 1].offset if place else 0, seq)

    def correlated(
        self,
        world: str,
        key: str,
        *,
        after_seq: int = 0,
        limit: int = READ_MAX_EVENTS,
        max_bytes: int = READ_MAX_BYTES,
    ) -> Chunk:
        chain = self._chains.get((world, key), [])
        place = bisect_right(chain, after_seq)
        page = _Page(limit, max_bytes)
        while place < len(chain) and page.take(self._events[chain[place]]):
            place += 1
        is_end = place >= len(chain)
        seq = max(after_seq, self.last_seq) if is_end else page.events[-1].seq
        return page.chunk(offset=0, seq=seq, is_end=is_end, missing=[])

    def find(self, identity: bytes) -> Existing | None:
        return self._ledger.first_event(identity)

    def scan(self, kind: str) -> list[StateEntry]:
        return scan_state(self._state.connection, kind)

    def close(self) -> None:
        self._state.close()

    def _bound(self, up_to_seq: int | None) -> int:
        return self.last_seq if up_to_seq is None else min(up_to_seq, self.last_seq)

    def _shown(self, head: Head) -> ChannelHead:
        return ChannelHead(
            world=head.world,
            name=head.name,
            epoch=self._ledger.channel_epoch(head),
            first=head.first,
            last=head.last,
            last_seq=head.last_seq,
            last_ts_ms=head.last_ts_ms,
        )


class _Page:
    """Collects a chunk's events within its bounds; the first always fits."""

    __slots__ = ("_bytes_left", "_limit", "_lines", "events")

    def __init__(self, limit: int, max_bytes: int) -> None:
        self.events: list[Stored] = []
        self._lines: list[bytes] = []
        self._limit = min(limit, READ_MAX_EVENTS)
        self._bytes_left = min(max_bytes, READ_MAX_BYTES)

    def take(self, event: Stored) -> bool:
        """Add the event unless the page is full."""
        if len(self.events) >= self._limit:
            return False
        line = event.text().encode()
        if self.events and len(line) > self._bytes_left:
            return False
        self._bytes_left -= len(line)
        self.events.append(event)
        self._lines.append(line)
        return True

    def chunk(self, *, offset: int, seq: int, is_end: bool, missing: list[Missing]) -> Chunk:
        body = b"\n".join(self._lines)
        return Chunk(body, len(self.events), offset, seq, is_end, tuple(missing))


class _StateFile:
    """The state's own small database; in memory without a data folder."""

    def __init__(self, path: Path | None) -> None:
        if path is None:
            self.connection = apsw.Connection(":memory:")
        else:
            path.mkdir(parents=True, exist_ok=True)
            self.connection = open_database(path / STATE_FILE, synchronous="normal")
            self.connection.wal_autocheckpoint(_WAL_PAGES_MAX)
        migrate(self.connection, _MIGRATIONS, name=STATE_FILE)

    def write(self, changes: dict[str, Change], *, floor: int, is_synced: bool) -> None:
        """Commit changes. Only a narrowing waits for the disk: this engine runs on the loop,
        and of a power cut only a revocation that comes undone would do harm."""
        if is_synced:
            self.connection.pragma("synchronous", "full")
        try:
            with self.connection:
                write_changes(self.connection, changes, floor=floor)
        finally:
            if is_synced:
                self.connection.pragma("synchronous", "normal")

    def close(self) -> None:
        """Idempotent."""
        self.connection.close()


def _create(connection: apsw.Connection) -> None:
    connection.execute(STATE_SQL)


_MIGRATIONS: Sequence[Migration] = (_create,)
