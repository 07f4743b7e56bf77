"""The durable engine: wires the parts and keeps the order in which they act.

What commits: decide (ledger), write (writer), apply (ledger, tail), publish
(`last_seq`). Readers see an event only after the last of these.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

import apsw

from clawnet.core.errors import DiskFull, OutcomeUnknown, Unavailable
from clawnet.core.events import Existing
from clawnet.core.ledger import Head, Ledger
from clawnet.core.positions import EpochStart
from clawnet.core.units import Outcome, Unit
from clawnet.engines.epochs import new_epoch
from clawnet.engines.sqlite.backups import copy_steps
from clawnet.engines.sqlite.checkpoints import Checkpointer
from clawnet.engines.sqlite.connections import migrate, open_database
from clawnet.engines.sqlite.files import (
    BALLAST_BYTES,
    Ballast,
    HighWater,
    Lock,
    refuse_without_log,
)
from clawnet.engines.sqlite.heads import HeadSaver, load_extent, load_heads
from clawnet.engines.sqlite.index import Index
from clawnet.engines.sqlite.indexer import Indexer
from clawnet.engines.sqlite.lineage import (
    begin_epoch,
    is_restored,
    load_lineage,
    load_log_id,
)
from clawnet.engines.sqlite.places import Places
from clawnet.engines.sqlite.readers import Readers
from clawnet.engines.sqlite.reads import Reads
from clawnet.engines.sqlite.refusals import busy, disk_full, indexing, is_for_lack_of_room
from clawnet.engines.sqlite.schema import LOG_FILE, MIGRATIONS
from clawnet.engines.sqlite.state import load_revisions
from clawnet.engines.sqlite.tail import Tail
from clawnet.engines.sqlite.trims import (
    Removal,
    Trim,
    pick_before,
    pick_channel,
    pick_channel_due,
    pick_due,
    prepare,
)
from clawnet.engines.sqlite.writer import NothingWritten, Writer, dedupe_key
from clawnet.ports.clock import Clock, Randomness
from clawnet.ports.log import (
    READ_MAX_BYTES,
    READ_MAX_EVENTS,
    ChannelHead,
    Chunk,
    IsDue,
    Piece,
    StateEntry,
)

SCAN_MAX_EVENTS = 262_144
"""How much of the log dedupe keys are looked for in, while there is no index of it."""

BALLAST_REFILL_S = 60.0
_INDEXED_AT_START_MAX = 65_536


T = TypeVar("T")


class SqliteEngine:
    """See clawnet.ports.log.Engine and Backups.

    While an index is made anew over a large log, a unit with a dedupe key is
    refused as Unavailable: that it is new cannot be known yet.
    """

    is_blocking = True
    is_durable = True

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        randomness: Randomness,
        vfs: str | None = None,
        ballast_bytes: int = BALLAST_BYTES,
    ) -> None:
        self._clock = clock
        self._failure: str | None = None
        self._is_closed = False
        self._refill_at_s: float | None = None
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as undo:
            lock = Lock(folder)
            undo.callback(lock.release)
            refuse_without_log(folder / LOG_FILE)
            self._ballast = Ballast(folder, size_bytes=ballast_bytes)
            connection = self._open_log(folder / LOG_FILE, vfs=vfs)
            undo.callback(connection.close)
            migrate(connection, MIGRATIONS, name=str(folder / LOG_FILE))
            heads, behind = load_heads(connection)
            first_seq, last_seq = load_extent(connection)
            # The log may have been trimmed to nothing; the heads still know where it ended.
            self._last_seq = max([last_seq, *(head.last_seq for head in heads)])
            self._first_seq = first_seq or self._last_seq + 1
            self._mark = HighWater(folder)
            self._epochs = self._begin(connection, randomness)
            undo.callback(self._mark.close)
            revisions = load_revisions(connection)
            self._ledger = Ledger(
                epoch=self.epoch,
                last_seq=self._last_seq,
                heads=heads,
                revisions=revisions.by_key,
                revision_floor=revisions.floor,
            )
            self._ballast.fill()
            saver = HeadSaver(self._ledger.head, behind=behind, last_seq=self._last_seq)
            self._writer = Writer(connection, saver)
            self._tail = Tail(self._last_seq)
            self._readers = Readers(folder, vfs=vfs)
            undo.callback(self._readers.close)
            self._index = Index(folder, vfs=vfs, log_id=load_log_id(connection))
            self._indexer = Indexer(
                self._index,
                tail=self._tail,
                ledger=self._ledger,
                readers=self._readers,
                lock=self._lock,
            )
            undo.callback(self._indexer.close)
            self._indexer.open(epochs=self._epochs, at_once_max=_INDEXED_AT_START_MAX)
            self._reads = Reads(
                readers=self._readers,
                index=self._index,
                indexer=self._indexer,
                tail=self._tail,
                ledger=self._ledger,
                epochs=self._epochs,
            )
            self._checkpointer = Checkpointer(folder / LOG_FILE, vfs=vfs)
            self._checkpointer.start()
            undo.callback(self._checkpointer.close)
            # From here on close() does it all, in the opposite order.
            self._undo = undo.pop_all()

    def _open_log(self, path: Path, *, vfs: str | None) -> apsw.Connection:
        """Open log.db, on the ballast if the disk has no room for the -shm file."""
        try:
            return open_database(path, vfs=vfs, synchronous="full")
        except (apsw.FullError, apsw.IOError) as error:
            if not is_for_lack_of_room(error):
                raise
        try:
            if self._lend():
                return open_database(path, vfs=vfs, synchronous="full")
        except (apsw.FullError, apsw.IOError):
            pass
        raise DiskFull(
            f"The disk is full; {path} cannot be opened.",
            next="Free disk space (a mebibyte is enough to start and read) and start again.",
        )

    def _begin(self, connection: apsw.Connection, randomness: Randomness) -> tuple[EpochStart, ...]:
        """The lineage, with a new epoch if positions may have been given that are not here."""
        lineage = load_lineage(connection)
        is_new = not lineage or is_restored(connection) or self._mark.is_ahead_of(self._last_seq)
        if is_new:
            lineage = begin_epoch(
                connection,
                lineage,
                EpochStart(new_epoch(randomness), self._last_seq + 1),
                log_id=int.from_bytes(randomness.token_bytes(7), "big"),
            )
        self._mark.open(is_new=is_new)
        self._mark.write(self._last_seq)
        return lineage

    @property
    def epoch(self) -> str:
        return self._epochs[-1].epoch

    @property
    def epochs(self) -> tuple[EpochStart, ...]:
        return self._epochs

    @property
    def last_seq(self) -> int:
        return self._last_seq

    @property
    def first_seq(self) -> int:
        return self._first_seq

    @property
    def index_lag(self) -> int:
        return max(self._last_seq - self._index.indexed_seq, 0)

    # Writing: on one thread.

    def commit(self, units: Sequence[Unit]) -> list[Outcome]:
        self._indexer.wait_for_room()
        with self._lock:
            self._refuse_after_failure()
            try:
                outcomes = self._commit(units)
            except NothingWritten as nothing:
                if nothing.is_full:
                    outcomes = self._commit_narrowing(units)
                else:
                    outcomes = [busy() for _ in units]
        self._after_write()
        return outcomes

    def _commit(self, units: Sequence[Unit]) -> list[Outcome]:
        """Raises NothingWritten; the ledger is then as before."""
        try:
            return self._decide_and_write(units)
        except Unavailable as error:
            # The log could not be asked for the dedupe keys. Nothing was begun.
            return [error for _ in units]
        except apsw.Error as error:
            self._fail(error)

    def _decide_and_write(self, units: Sequence[Unit]) -> list[Outcome]:
        wanted = self._unknown_keys(units)
        known: dict[bytes, Existing] = {}
        undecidable: dict[int, Outcome] = {}
        if wanted:
            found = self._reads.known(wanted, scan_max=SCAN_MAX_EVENTS, is_committer=True)
            if found is None:
                undecidable = {
                    place: indexing()
                    for place, unit in enumerate(units)
                    if any(draft.identity is not None for draft in unit.drafts)
                }
                units = [unit for place, unit in enumerate(units) if place not in undecidable]
            else:
                known = found
        decision = self._ledger.decide(units, now_ms=self._clock.wall_ms(), known=known)
        if decision.events or decision.changes or decision.blanks:
            self._writer.write(decision)
            self._ledger.apply(decision)
            self._tail.add(decision)
            self._last_seq = decision.last_seq
            self._mark.write(decision.last_seq)
            self._indexer.committed()
        outcomes = decision.outcomes
        for place, refusal in undecidable.items():
            outcomes.insert(place, refusal)
        return outcomes

    def _unknown_keys(self, units: Sequence[Unit]) -> set[int]:
        """The keys of identities that the ledger does not hold: only the index can know them."""
        if self._index.indexed_seq == 0 and not self._indexer.is_behind:
            return set()
        recent, older = self._ledger.recent, self._ledger.older
        return {
            dedupe_key(identity)
            for unit in units
            for draft in unit.drafts
            if (identity := draft.identity) is not None
            and identity not in recent
            and identity not in older
        }

    def _commit_narrowing(self, units: Sequence[Unit]) -> list[Outcome]:
        """The disk is full: only what takes rights away still goes through, on the ballast."""
        outcomes: list[Outcome] = [disk_full() for _ in units]
        narrowing = [place for place, unit in enumerate(units) if unit.is_narrowing]
        if not narrowing:
            return outcomes
        try:
            done = self._on_ballast(lambda: self._commit([units[place] for place in narrowing]))
        except NothingWritten:
            return outcomes
        for place, outcome in zip(narrowing, done, strict=True):
            outcomes[place] = outcome
        return outcomes

    def _on_ballast(self, write: Callable[[], T]) -> T:
        """Write, with as much of the ballast as that takes. Raises NothingWritten."""
        try:
            while True:
                try:
                    return write()
                except NothingWritten as nothing:
                    if not nothing.is_full or not self._lend():
                        raise
        finally:
            if self._refill_at_s is not None:
                self._ballast.take_back()

    def trim_before(self, seq: int) -> int:
        with self._trimming():
            seq = min(seq, self._last_seq)
            after = self._first_seq - 1
            if after >= seq:
                return 0
            return self._trim(
                lambda places: _counted(pick_before(places, after_seq=after, seq=seq))
            ).removed

    def trim_due(self, seq: int, *, after_seq: int, is_due: IsDue) -> Piece:
        with self._trimming():
            seq = min(seq, self._last_seq)
            after = max(after_seq, self._first_seq - 1)
            if after >= seq:
                return Piece(0, max(seq, after_seq), True)
            return self._trim(
                lambda places: pick_due(
                    places,
                    after_seq=after,
                    seq=seq,
                    is_due=is_due,
                    heads=self._ledger.head_by_id,
                )
            )

    def trim_channel(self, world: str, name: str, *, keep: int) -> int:
        with self._trimming():
            head = self._ledger.head(world, name)
            if head is None:
                return 0
            return self._trim(
                lambda places: _counted(pick_channel(places, head, keep=keep))
            ).removed

    def trim_channel_due(
        self, world: str, name: str, *, is_due: IsDue, keep: int, before: int | None, above: int
    ) -> Piece:
        with self._trimming():
            head = self._ledger.head(world, name)
            if head is None:
                return Piece(0, above, True)
            return self._trim(
                lambda places: pick_channel_due(
                    places, head, is_due=is_due, keep=keep, before=before, above=above
                )
            )

    @contextmanager
    def _trimming(self) -> Iterator[None]:
        with self._lock:
            self._refuse_after_failure()
            yield
        self._after_write()

    def _trim(self, pick: Callable[[Places], tuple[Removal, Piece]]) -> Piece:
        """Pick, work out and remove; one piece. Called with the lock held."""

        def read(places: Places) -> tuple[Trim, Piece]:
            removal, piece = pick(places)
            return prepare(places, removal, heads=self._ledger.head_by_id), piece

        trim, piece = self._reads.at(read, is_committer=True)
        self._remove(trim)
        return piece

    def _remove(self, trim: Trim) -> None:
        """Raises DiskFull if even the ballast gives no room."""
        if not trim.seqs:
            return
        # Readers must not pass over a removed event without a word: a snapshot that lacks it
        # is taken only after the heads say that something may be missing.
        for head in trim.marked:
            self._ledger.put_head(head)
        try:
            self._on_ballast(lambda: self._write_removal(trim))
        except NothingWritten as nothing:
            for head in trim.before:
                self._ledger.put_head(head)
            raise (disk_full() if nothing.is_full else busy()) from None
        for head in trim.moved:
            self._ledger.put_head(head)
        for identity, seq in trim.identities:
            self._ledger.forget(identity, seq)
        first_seq, _ = load_extent(self._writer.connection)
        self._first_seq = first_seq or self._last_seq + 1
        self._indexer.removed(len(trim.seqs), first_seq=self._first_seq)

    def _write_removal(self, trim: Trim) -> None:
        try:
            self._writer.remove(trim.seqs, trim.moved)
        except apsw.Error as error:
            self._fail(error)

    def _after_write(self) -> None:
        """Between groups: keep the WAL short and the ballast full."""
        is_wal_long = self._writer.is_wal_long
        if is_wal_long:
            self._checkpointer.hold()
        if is_wal_long and self._readers.begin_quiet():
            try:
                if self._writer.restart_wal():
                    self._checkpointer.free()
            except apsw.Error as error:
                self._fail(error)
            finally:
                self._readers.end_quiet()
        if self._writer.is_checkpoint_due():
            self._checkpointer.ask()
        if self._refill_at_s is not None and self._clock.steady_s() >= self._refill_at_s:
            self._ballast.fill()
            self._refill_at_s = None
            if not self._ballast.is_whole:
                self._refill_at_s = self._clock.steady_s() + BALLAST_REFILL_S

    def _lend(self) -> bool:
        if not self._ballast.lend():
            return False
        self._refill_at_s = self._clock.steady_s() + BALLAST_REFILL_S
        return True

    def _fail(self, error: apsw.Error) -> NoReturn:
        """Whether the last transaction is stored is unknown, so nothing more may be said."""
        self._failure = str(error)
        raise OutcomeUnknown(f"Storage failed while committing: {error}.") from error

    def _refuse_after_failure(self) -> None:
        if self._failure is not None:
            raise OutcomeUnknown(f"Storage failed before: {self._failure}.")
        if self._is_closed:
            raise Unavailable("The log is closed.")

    # Copying: where commit() runs.

    def backup_steps(self, target: Path) -> Iterator[tuple[int, int]]:
        """Copy to the file `target` in bounded steps; yields (pages done, pages in all).

        Commits may lie between two steps; the copy is as of the last. It is there
        when the iterator ends, and nothing of it is left if the iterator is closed.
        """
        return copy_steps(self._writer.connection, target)

    def backup(self, target: Path, *, progress: Callable[[int, int], None]) -> None:
        for done, total in self.backup_steps(target):
            progress(done, total)

    # Reading: on any thread.

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
        bound = self._bound(up_to_seq)
        head = self._ledger.head(world, name)
        if head is None:
            return Chunk(b"", 0, after, bound, True)
        return self._reads.channel(head, after=after, bound=bound, limit=limit, max_bytes=max_bytes)

    def read_channel_reverse(
        self,
        world: str,
        name: str,
        *,
        before: int | None = None,
        limit: int = READ_MAX_EVENTS,
        max_bytes: int = READ_MAX_BYTES,
    ) -> Chunk:
        bound = self._last_seq
        head = self._ledger.head(world, name)
        if head is None:
            return Chunk(b"", 0, 1, 0, True)
        before = head.last + 1 if before is None else min(before, head.last + 1)
        return self._reads.channel_reverse(
            head, before=before, bound=bound, limit=limit, max_bytes=max_bytes
        )

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
        return self._reads.log(
            world, names, after_seq=after_seq, bound=bound, limit=limit, max_bytes=max_bytes
        )

    def get(self, world: str, seq: int) -> bytes | None:
        return self._reads.get(world, seq) if seq <= self._last_seq else None

    def seq_before(self, ts_ms: int) -> int:
        return self._reads.seq_before(ts_ms, bound=self._last_seq)

    def offset_at(self, world: str, name: str, seq: int) -> int:
        head = self._ledger.head(world, name)
        return 0 if head is None else self._reads.offset_at(head, seq)

    def correlated(
        self,
        world: str,
        key: str,
        *,
        after_seq: int = 0,
        limit: int = READ_MAX_EVENTS,
        max_bytes: int = READ_MAX_BYTES,
    ) -> Chunk:
        return self._reads.correlated(
            world, key, after_seq=after_seq, bound=self._last_seq, limit=limit, max_bytes=max_bytes
        )

    def find(self, identity: bytes) -> Existing | None:
        first = self._ledger.first_event(identity)
        if first is not None:
            return first
        known = self._reads.known({dedupe_key(identity)}, scan_max=SCAN_MAX_EVENTS)
        if known is None:
            raise indexing()
        return known.get(identity)

    def scan(self, kind: str) -> list[StateEntry]:
        return self._reads.scan(kind)

    def settle(self, *, timeout_s: float = 60) -> bool:
        """Wait until all that is committed is indexed; whether that came about in time."""
        return self._indexer.settle(timeout_s=timeout_s)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._indexer.close()
        self._checkpointer.close()
        self._readers.close()
        if self._failure is None:
            try:
                self._writer.save_heads(self._last_seq)
                self._writer.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except apsw.Error:
                # Nothing is lost: a start reads the heads from the log, and the WAL.
                pass
        self._undo.close()

    def _bound(self, up_to_seq: int | None) -> int:
        return self._last_seq if up_to_seq is None else min(up_to_seq, self._last_seq)

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


def _counted(removal: Removal) -> tuple[Removal, Piece]:
    """For trims that are repeated until nothing is removed: where they go on says nothing."""
    return removal, Piece(len(removal.seqs), 0, not removal.seqs)
