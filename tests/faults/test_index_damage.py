"""index.db is disposable: whatever becomes of it between two runs, the log answers as before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from clawnet.engines.sqlite.schema import INDEX_FILE
from clawnet.testing.vfs import FaultVFS
from tests.faults.ledger import Ledger, audit
from tests.faults.load import Load
from tests.faults.sqlite import open_sqlite


def delete(folder: Path) -> None:
    (folder / INDEX_FILE).unlink()


def empty(folder: Path) -> None:
    (folder / INDEX_FILE).write_bytes(b"")


def halve(folder: Path) -> None:
    content = (folder / INDEX_FILE).read_bytes()
    (folder / INDEX_FILE).write_bytes(content[: len(content) // 2])


def fill_with_noise(folder: Path) -> None:
    (folder / INDEX_FILE).write_bytes(Random(1).randbytes(50_000))


def spoil_pages(folder: Path) -> None:
    content = bytearray((folder / INDEX_FILE).read_bytes())
    for start in range(4_096, len(content), 4_096):
        content[start : start + 1_000] = Random(start).randbytes(1_000)
    (folder / INDEX_FILE).write_bytes(content)


def add_a_noisy_wal(folder: Path) -> None:
    (folder / f"{INDEX_FILE}-wal").write_bytes(Random(1).randbytes(50_000))


def take_another_logs(folder: Path) -> None:
    other = folder.parent / "other"
    make_log(other, seed=77, steps=15)
    shutil.copy(other / INDEX_FILE, folder / INDEX_FILE)


def put_a_folder_there(folder: Path) -> None:
    (folder / INDEX_FILE).unlink()
    (folder / INDEX_FILE).mkdir()


DAMAGES = (
    delete,
    empty,
    halve,
    fill_with_noise,
    spoil_pages,
    add_a_noisy_wal,
    take_another_logs,
    put_a_folder_there,
)


def make_log(folder: Path, *, seed: int, steps: int = 60) -> Ledger:
    """A log whose index is complete and in one file."""
    ledger = Ledger()
    load = Load(seed, ledger, note=lambda entry: None)
    with FaultVFS(f"make-{seed}", is_recording=False) as vfs:
        engine = open_sqlite(folder, vfs)
        for _ in range(steps):
            load.step(engine)
        assert engine.settle(timeout_s=30)
        engine.close()
    assert (folder / INDEX_FILE).stat().st_size > 20_000
    return ledger


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_does_not_matter(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "log"
    ledger = make_log(folder, seed=1)
    damage(folder)
    with FaultVFS("damaged", is_recording=False) as vfs:
        engine = open_sqlite(folder, vfs)
        audit(engine, ledger, random=Random(1))
        engine.close()


def test_an_older_index_is_brought_up_to_date(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    ledger = make_log(folder, seed=1)
    older = (folder / INDEX_FILE).read_bytes()
    with FaultVFS("older", is_recording=False) as vfs:
        for is_old in (False, True):
            if is_old:
                (folder / INDEX_FILE).write_bytes(older)
            engine = open_sqlite(folder, vfs)
            load = Load(2 + is_old, ledger, note=lambda entry: None)
            for _ in range(30):
                load.step(engine)
            assert engine.settle(timeout_s=30)
            audit(engine, ledger, random=Random(1), is_adopting=True)
            engine.close()


@pytest.mark.parametrize("suffix", [INDEX_FILE, f"{INDEX_FILE}-wal"])
def test_an_index_that_cannot_be_written_does_not_matter(tmp_path: Path, suffix: str) -> None:
    ledger = Ledger()
    load = Load(1, ledger, note=lambda entry: None)
    with FaultVFS("failing", is_recording=False) as vfs:
        engine = open_sqlite(tmp_path, vfs)
        vfs.fail_write(suffix, is_lasting=True)
        vfs.fail_sync(suffix, is_lasting=True)
        for _ in range(60):
            load.step(engine)
        audit(engine, ledger, random=Random(1), is_adopting=True)
        vfs.heal()
        load.step(engine)
        engine.close()
        engine = open_sqlite(tmp_path, vfs)
        audit(engine, ledger, random=Random(1))
        engine.close()
