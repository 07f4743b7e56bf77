"""The thread that keeps the index behind the log, and mends it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import apsw

from clawnet.core.ledger import Ledger
from clawnet.core.positions import EpochStart
from clawnet.engines.sqlite.index import BATCH_EVENTS, BROKEN, SWEPT, Index, Place
from clawnet.engines.sqlite.readers import Readers
from clawnet.engines.sqlite.tail import Tail

GATHER_EVENTS = 65_536
GATHER_S = 5.0
"""How long events are gathered for a batch. A batch writes nearly every page of the index once,
however small it is, so a few large ones cost a fraction of many small ones."""

TAIL_MAX_EVENTS = 524_288
RETRY_S = 1.0
SWEEP_MIN_EVENTS = 50_000

_log = logging.getLogger(__name__)


class Indexer:
    """Moves the tail into the index, generation by generation.

    `lock` is the committer's: whoever holds it sees log, ledger and tail agree.
    """

    def __init__(
        self,
        index: Index,
        *,
        tail: Tail,
        ledger: Ledger,
        readers: Readers,
        lock: threading.Lock,
    ) -> None:
        self._index = index
        self._tail = tail
        self._ledger = ledger
        self._readers = readers
        self._lock = lock
        self._wake = threading.Event()
        self._enough = threading.Event()
        self._closing = threading.Event()
        self._progress = threading.Condition()
        self._is_broken = False
        self._is_failing = False
        self._removed = 0
        self._first_seq = 0
        self._sweeps: list[tuple[int, Place]] = []
        self._thread = threading.Thread(target=self._run, name="clawnet-indexer", daemon=True)

    def open(self, *, epochs: Sequence[EpochStart], at_once_max: int) -> None:
        """Take up the index and begin; what it lacks is added at once if it is that little."""
        last_seq = self._ledger.last_seq
        try:
            self._index.open(epochs=epochs, last_seq=last_seq)
            self._readers.renew(is_indexed=True)
            while 0 < last_seq - self._index.indexed_seq <= at_once_max:
                self._index.fill(last_seq)
        except BROKEN:
            self._is_broken = True
        except (apsw.Error, OSError):
            # The thread tries again, and says so if it cannot either.
            pass
        self._thread.start()

    @property
    def is_behind(self) -> bool:
        """Whether a part of the log is in neither the index nor the tail."""
        return self._index.indexed_seq < self._tail.after_seq

    def committed(self) -> None:
        """Events were committed. Called with the lock held."""
        if self._tail.count > TAIL_MAX_EVENTS and (self.is_behind or self._is_failing):
            # The log can be read without an index, slower; memory has an end.
            self._tail.clear(self._ledger.last_seq)
            self._ledger.recent = {}
            self._ledger.older = {}
        if not self._wake.is_set():
            self._wake.set()
        if self._tail.generations[-1].count >= GATHER_EVENTS:
            self._enough.set()

    def wait_for_room(self) -> None:
        """Hold up the committer while the tail is full. Called without the lock."""
        if self._tail.count <= TAIL_MAX_EVENTS:
            return
        with self._progress:
            # The deadline is for an index that fails at this moment: committed() sees to it.
            self._progress.wait_for(
                lambda: self._tail.count <= TAIL_MAX_EVENTS or self._is_failing, timeout=5
            )

    def settle(self, *, timeout_s: float = 60) -> bool:
        """Wait until everything committed before is indexed, and what is due is cleaned."""
        return self._wait(
            lambda seq: self._index.indexed_seq >= seq and not self._is_sweep_due,
            timeout_s=timeout_s,
        )

    def _wait(self, is_done: Callable[[int], bool], *, timeout_s: float) -> bool:
        self._wake.set()
        self._enough.set()
        seq = self._ledger.last_seq
        with self._progress:
            return self._progress.wait_for(
                lambda: is_done(seq) or self._closing.is_set(), timeout=timeout_s
            )

    def removed(self, count: int, *, first_seq: int) -> None:
        """Events were removed from the log; their rows here are cleaned behind.

        Called with the lock held.
        """
        self._removed += count
        self._first_seq = first_seq
        if self._removed >= self._sweep_at():
            self._wake.set()

    def broken(self) -> None:
        """A reader met damage: from now on reads do without the index until it is made anew."""
        if not self._is_broken:
            self._is_broken = True
            self._readers.renew(is_indexed=False)
            self._wake.set()

    def close(self) -> None:
        """Index what is left if that is quick, then end."""
        if self._closing.is_set():
            return
        left = self._ledger.last_seq - self._index.indexed_seq
        if left <= BATCH_EVENTS and self._thread.is_alive() and not self._is_failing:
            self._wait(lambda seq: self._index.indexed_seq >= seq, timeout_s=0.5)
        self._closing.set()
        self._wake.set()
        self._enough.set()
        with self._progress:
            self._progress.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._index.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._step()
                self._is_failing = False
            except (apsw.FullError, apsw.BusyError, OSError) as error:
                self._fail(error)
            except BROKEN as error:
                self._is_broken = True
                self._fail(error)
            except Exception as error:  # the top of a thread
                # Whatever it is, without this thread the tail would grow until memory ends.
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._is_failing:
            _log.warning(
                "the index cannot be written (%s); reads go on, slower", error, exc_info=error
            )
        self._is_failing = True
        with self._progress:
            self._progress.notify_all()
        self._closing.wait(RETRY_S)

    def _step(self) -> None:
        if self._is_broken:
            _log.warning("the index is damaged and is made anew; reads are slower meanwhile")
            self._index.reset(epoch=self._ledger.epoch)
            self._is_broken = False
            self._sweeps = []
            self._readers.renew(is_indexed=True)
        target = self._tail.generations[-1].after_seq
        if self._index.indexed_seq < target:
            with self._readers.reading():
                self._index.fill(target)
            self._announce()
            return
        if len(self._tail.generations) > 1:
            with self._lock:
                self._tail.drop_frozen()
                self._ledger.older = {}
            self._announce()
        if not self._tail.count:
            if not self._sweep():
                self._wake.wait()
                self._wake.clear()
            return
        self._enough.wait(GATHER_S)
        self._enough.clear()
        with self._lock:
            self._tail.rotate(self._ledger.last_seq)
            self._ledger.older = self._ledger.recent
            self._ledger.recent = {}

    def _announce(self) -> None:
        with self._progress:
            self._progress.notify_all()

    @property
    def _is_sweep_due(self) -> bool:
        return bool(self._sweeps) or self._removed >= self._sweep_at()

    def _sweep_at(self) -> int:
        return max(SWEEP_MIN_EVENTS, (self._ledger.last_seq - self._first_seq) // 8)

    def _sweep(self) -> bool:
        """A piece of cleaning; whether there was any to do."""
        if not self._sweeps:
            if not self._is_sweep_due:
                return False
            with self._lock:
                self._sweeps = [(table, swept[3]) for table, swept in enumerate(SWEPT)]
                self._removed = 0
            self._index.drop_times(self._first_seq)
        table, after = self._sweeps[-1]
        with self._readers.reading():
            following = self._index.sweep(table, after)
        if following is None:
            self._sweeps.pop()
            self._announce()
        else:
            self._sweeps[-1] = (table, following)
        return True
