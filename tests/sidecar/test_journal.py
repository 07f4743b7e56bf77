"""The journal: nothing is taken on twice, nothing that ended is lost, a torn line is no harm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawnet.sidecar import journal as module
from clawnet.sidecar.journal import FILE, Journal, Result
from tests.sidecar.tasks import task

DONE = Result(status="completed", output="out", exit_code=0)


def test_what_it_holds_is_there_after_a_crash_at_any_step(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    for name in ("new", "begun", "ended", "told", "gone"):
        assert first.accept(task(name, args={"a": 1}))
        assert not first.accept(task(name)), "twice is once"
    for name in ("begun", "ended", "told"):
        first.start(name)
    for name in ("ended", "told"):
        first.end(name, DONE)
    first.tell("told")
    first.forget("gone")
    # A crash: nobody closes it.
    for _ in range(2):
        again = Journal(tmp_path)
        assert [one.task_id for one in again.unstarted()] == ["new"]
        assert [one.task_id for one in again.interrupted()] == ["begun"]
        assert [(one.task_id, result) for one, result in again.untold()] == [("ended", DONE)]
        told = again.entry("told")
        assert told is not None and told.is_told and told.result == Result(status="completed")
        assert again.entry("gone") is None and not again.accept(task("told"))
        assert again.unstarted()[0] == task("new", args={"a": 1})
        again.close()
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_each_step_is_on_disk_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    synced: list[bytes] = []
    sync = os.fsync

    def noted(handle: int) -> None:
        sync(handle)
        synced.append((tmp_path / FILE).read_bytes())

    monkeypatch.setattr(os, "fsync", noted)
    journal.accept(task())
    journal.start("t1")
    journal.end("t1", DONE)
    assert [raw.count(b"\n") for raw in synced] == [1, 2, 3]


def test_the_first_end_of_a_task_is_its_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.accept(task())
    journal.end("t1", DONE)
    journal.end("t1", Result(status="failed"))
    assert journal.untold() == [(task(), DONE)]


@settings(max_examples=20)
@given(cut=st.integers(0, 400), junk=st.binary(max_size=40))
def test_any_torn_or_foreign_tail_is_passed_over(
    tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder)
    journal.accept(task("a"))
    whole = (folder / FILE).stat().st_size
    journal.accept(task("b"))
    journal.close()
    raw = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(raw[: max(whole, len(raw) - cut)] + b"\n" + junk)
    again = Journal(folder)
    assert "a" in {one.task_id for one in again.unstarted()}
    assert again.accept(task("c"))
    again.close()


def test_it_is_bounded_in_tasks_and_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOLD_MAX", 3)
    monkeypatch.setattr(module, "OPEN_MAX", 2)
    monkeypatch.setattr(module, "GROWN_BYTES", 2_000)
    journal = Journal(tmp_path)
    for number in range(20):
        journal.accept(task(f"t{number}"))
        journal.end(f"t{number}", DONE)
        journal.tell(f"t{number}")
        assert (tmp_path / FILE).stat().st_size < 4_000
    assert [journal.entry(f"t{number}") is not None for number in range(15, 20)] == [
        False, False, True, True, True,
    ]  # fmt: skip
    assert not journal.is_full
    journal.accept(task("x"))
    journal.accept(task("y"))
    assert journal.is_full


def test_a_disk_that_cannot_be_written_is_an_error_and_the_task_may_come_again(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path)
    journal.accept(task("kept"))
    journal.close()
    with pytest.raises(OSError, match="closed"):
        journal.accept(task("new"))
    assert journal.entry("new") is None
    # An end is known all the same: it is told from memory.
    with pytest.raises(OSError, match="closed"):
        journal.end("kept", DONE)
    assert journal.untold() == [(task("kept"), DONE)]


def test_a_line_that_makes_the_file_too_long_is_in_the_new_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GROWN_BYTES", 0)  # written anew behind every line
    journal = Journal(tmp_path)
    for name in ("new", "begun", "ended"):
        assert journal.accept(task(name))
        again = Journal(tmp_path)
        assert again.entry(name) is not None, "accepted is on the disk"
        again.close()
    journal.close()


def test_a_journal_that_cannot_be_written_anew_goes_on_in_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    monkeypatch.setattr(module, "GROWN_BYTES", 0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_private", full)
    assert journal.accept(task("a"))
    journal.start("a")
    journal.end("a", DONE)
    monkeypatch.undo()
    again = Journal(tmp_path)
    assert again.untold() == [(task("a"), DONE)]
    again.close()


def test_behind_a_line_that_did_not_fit_the_next_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, write = Journal(tmp_path), os.write
    journal.accept(task("a"))

    def torn(handle: int, raw: bytes) -> int:
        monkeypatch.setattr(os, "write", write)
        return write(handle, raw[:20])

    monkeypatch.setattr(os, "write", torn)
    with pytest.raises(OSError, match="full"):
        journal.accept(task("b"))
    journal.start("a")
    again = Journal(tmp_path)
    assert [one.task_id for one in again.interrupted()] == ["a"] and again.entry("b") is None
    again.close()
