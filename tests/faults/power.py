"""Cuts the power of a loaded engine at random moments and audits what the next start finds.

One generation is one run of an engine under load, recorded; many cuts are
tried on its recording, and the last of them is what the next generation
starts from, so that recoveries are recorded, and cut, as well.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import apsw

from clawnet.core.errors import ClawError
from clawnet.engines.sqlite.engine import SqliteEngine
from clawnet.engines.sqlite.files import BIRTHMARK_FILE, MARK_FILE
from clawnet.engines.sqlite.schema import INDEX_FILE, LOG_FILE
from clawnet.testing.disk import Disk, Found, Mark, Op
from clawnet.testing.vfs import FaultVFS
from tests.faults.ledger import Entry, Ledger, audit
from tests.faults.load import Load

OpenEngine = Callable[[Path, FaultVFS], SqliteEngine]
Disturb = Callable[[SqliteEngine, Path, FaultVFS, Random], None]


@dataclass(frozen=True, slots=True)
class Cut:
    """One cut and what came of it; `error` is None if every promise was kept."""

    seed: int = 0
    generation: int = 0
    at: int = 0
    of: int = 0
    error: Exception | None = None
    events: int = 0
    is_in_flight: bool = False
    has_stored_in_flight: bool = False
    is_in_round: bool = False

    def __str__(self) -> str:
        place = f"seed {self.seed}, generation {self.generation}, operation {self.at}/{self.of}"
        return f"{place}: {type(self.error).__name__}: {self.error}"


@dataclass(slots=True)
class Bench:
    """What a power cut is tried on. `disturb` runs between two groups of the load.

    Two files beside the database belong to no VFS. The birthmark is never
    written, so it stays; the high-water mark is written without a sync, so a
    cut leaves it as it was at any moment before.
    """

    folder: Path
    open_engine: OpenEngine
    disturb: Disturb

    def cuts(self, *, seed: int, generations: int, steps: int, count: int) -> Iterator[Cut]:
        """Load, cut `count` times, go on from the last cut; an unkept promise ends it."""
        random = Random(seed)
        ledger = Ledger()
        live = self.folder / str(seed)
        early = self.folder / f"{seed}-early"
        live.mkdir()
        early.mkdir()
        files: dict[str, bytes] = {}
        marks: list[bytes] = []
        is_in_round = False
        for generation in range(generations):
            _lay_out(live, files)
            load_seed = seed * 100 + generation
            ops = self._record(live, seed=load_seed, ledger=deepcopy(ledger), steps=steps)
            disk, done = Disk(load_seed), 0
            # What was found at the start is not part of the run.
            first = next(at for at, op in enumerate(ops) if not isinstance(op, Found))
            for at in sorted(random.sample(range(first, len(ops) + 1), count)):
                for op in ops[done:at]:
                    disk.apply(op)
                    if isinstance(op, Mark):
                        entry, mark, is_in_round = op.what
                        ledger.follow(entry)
                        marks.append(mark)
                done = at
                files = disk.after_power_cut(random)
                if marks:
                    files[MARK_FILE] = random.choice((marks[-1], random.choice(marks)))
                # Before the first acknowledgement there need be no mark yet. Such a start makes a
                # new epoch and with it a new birthmark: not where the others still need theirs.
                place = live if marks else early
                cut = start_after_cut(
                    place, files, ledger, open_engine=self.open_engine, random=random
                )
                yield replace(
                    cut,
                    seed=seed,
                    generation=generation,
                    at=at,
                    of=len(ops),
                    is_in_round=is_in_round,
                )
                if cut.error is not None:
                    return
            _lay_out(live, files)
            with FaultVFS(f"adopt-{seed}") as vfs:
                engine = self.open_engine(live, vfs)
                audit(engine, ledger, random=random, is_adopting=True)
                engine.close()
        shutil.rmtree(live)
        shutil.rmtree(early)

    def _record(self, live: Path, *, seed: int, ledger: Ledger, steps: int) -> list[Op]:
        """Run one generation to its orderly end; its operations with the ledger's marks."""
        random = Random(seed)
        with FaultVFS(f"power-{seed}") as vfs:

            def note(entry: Entry) -> None:
                is_in_round = engine._writer._heads.is_saving
                vfs.mark((entry, (live / MARK_FILE).read_bytes(), is_in_round))

            vfs.find(live)
            load = Load(seed, ledger, note=note)
            engine = self.open_engine(live, vfs)
            for _ in range(steps):
                load.step(engine)
                self.disturb(engine, live, vfs, random)
            engine.close()
            return vfs.recording.ops


def start_after_cut(
    live: Path,
    files: dict[str, bytes],
    ledger: Ledger,
    *,
    open_engine: OpenEngine,
    random: Random,
) -> Cut:
    """Start on what a cut left of `live` and audit it; `files` is by path, as Disk gives it."""
    _lay_out(live, files)
    for name in (LOG_FILE, INDEX_FILE):
        if random.random() < 0.5:  # The shared memory is a file too, and may hold anything.
            (live / f"{name}-shm").write_bytes(random.randbytes(32_768))
    with FaultVFS("after-cut") as vfs:
        try:
            engine = open_engine(live, vfs)
            try:
                audited = audit(engine, ledger, random=random)
            finally:
                engine.close()
            check_integrity(live / LOG_FILE)
        except (AssertionError, ClawError, apsw.Error) as error:
            return Cut(error=error)
    return Cut(
        events=audited.events,
        has_stored_in_flight=audited.stored_in_flight > 0,
        is_in_flight=bool(ledger.in_flight),
    )


def check_integrity(database: Path) -> None:
    connection = apsw.Connection(str(database))
    try:
        answer = connection.pragma("integrity_check")
    finally:
        connection.close()
    assert answer == "ok", f"integrity_check: {answer}"


def _lay_out(folder: Path, files: dict[str, bytes]) -> None:
    for path in folder.iterdir():
        if path.name != BIRTHMARK_FILE:
            path.unlink()
    for name, content in files.items():
        if Path(name).name != BIRTHMARK_FILE:
            (folder / Path(name).name).write_bytes(content)
