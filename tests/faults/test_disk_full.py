"""A full disk: nothing is assigned, reading goes on, revoking works, and writing comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from clawnet.core.errors import DiskFull
from clawnet.core.events import Draft, Stored
from clawnet.core.units import Committed, Delete, Outcome, Put, Unit
from clawnet.engines.sqlite.engine import SqliteEngine
from clawnet.engines.sqlite.files import BALLAST_FILE
from clawnet.testing.vfs import FaultVFS
from tests.faults.ledger import Answered, Asked, Ledger, audit, draft
from tests.faults.load import Load
from tests.faults.sqlite import close_on_broken_disk, open_sqlite

BALLAST_BYTES = 400_000


class FullDisk:
    """An engine with a history, on a disk that `fill` leaves no room on."""

    def __init__(self, folder: Path, vfs: FaultVFS) -> None:
        self.folder = folder
        self.vfs = vfs
        self.ledger = Ledger()
        self.number = 0
        self.engine = self.open()
        load = Load(1, self.ledger, note=lambda entry: None)
        for _ in range(20):
            load.step(self.engine)
        self.say(Unit(changes=(Put("grant/eve", '"all"'), Put("grant/max", '"all"'))))

    def open(self) -> SqliteEngine:
        return open_sqlite(self.folder, self.vfs, ballast_bytes=BALLAST_BYTES)

    def say(self, *units: Unit) -> list[Outcome]:
        """Commit one group and take note of it."""
        self.ledger.follow(Asked(units))
        outcomes = self.engine.commit(units)
        self.ledger.follow(Answered(tuple(outcomes), self.engine.epochs))
        return outcomes

    def event(self, *, key: str | None = None, size: int = 9_000) -> Draft:
        self.number += 1
        return draft(
            self.number,
            world="main",
            channel="public.a",
            type="x.message",
            key=key,
            pad="p" * size,
        )

    def fill(self, room_bytes: int = 60_000) -> None:
        """Publish until nothing more goes in."""
        self.vfs.limit_room(self.folder, room_bytes)
        for size in (9_000, 10):
            for _ in range(500):
                if isinstance(self.say(Unit(drafts=(self.event(size=size),)))[0], DiskFull):
                    break
            else:
                raise AssertionError("the disk does not get full")

    def audit(self) -> None:
        """Everything is as it was answered."""
        audit(self.engine, self.ledger, random=Random(1), is_adopting=True)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[FullDisk]:
    with FaultVFS("full", is_recording=False) as vfs:
        disk = FullDisk(tmp_path, vfs)
        disk.fill()
        yield disk
        close_on_broken_disk(disk.engine)


def test_nothing_is_assigned_on_a_full_disk(full: FullDisk) -> None:
    last_seq = full.engine.last_seq
    head = full.engine.channel("main", "public.a")
    outcomes = full.say(
        Unit(drafts=(full.event(), full.event())),
        Unit(drafts=(full.event(),), changes=(Put("account/zoe", "1", if_revision=0),)),
    )
    assert [type(outcome) for outcome in outcomes] == [DiskFull, DiskFull]
    assert full.engine.last_seq == last_seq
    assert full.engine.channel("main", "public.a") == head
    full.audit()


def test_reading_goes_on_with_a_full_disk(full: FullDisk) -> None:
    full.audit()
    assert full.engine.read_channel_reverse("main", "public.a").count > 0
    assert full.engine.scan("grant")


def test_writing_resumes_without_a_gap_when_there_is_room(full: FullDisk) -> None:
    head = full.engine.channel("main", "public.a")
    assert head is not None
    full.vfs.add_room(1_000_000)
    [outcome] = full.say(Unit(drafts=(full.event(),)))
    assert isinstance(outcome, Committed)
    [event] = outcome.events
    assert isinstance(event, Stored)
    assert event.offset == head.last + 1
    full.audit()


def test_a_key_refused_for_lack_of_room_is_free(full: FullDisk) -> None:
    event = full.event(key="once")
    assert event.identity is not None
    assert isinstance(full.say(Unit(drafts=(event,)))[0], DiskFull)
    assert full.engine.find(event.identity) is None
    full.vfs.add_room(1_000_000)
    [outcome] = full.say(Unit(drafts=(event,)))
    assert isinstance(outcome, Committed)
    assert isinstance(outcome.events[0], Stored)


def test_a_revocation_goes_through_on_the_ballast(full: FullDisk) -> None:
    publish = Unit(drafts=(full.event(),))
    revoke = Unit(drafts=(full.event(size=100),), changes=(Delete("grant/eve"),), is_narrowing=True)
    refused, revoked = full.say(publish, revoke)
    assert isinstance(refused, DiskFull)
    assert isinstance(revoked, Committed)
    assert (full.folder / BALLAST_FILE).stat().st_size > 0, "only a piece of it is lent"
    assert [entry.key for entry in full.engine.scan("grant")].count("grant/eve") == 0
    full.audit()


def test_publishes_do_not_eat_the_room_of_the_next_revocation(full: FullDisk) -> None:
    """The ballast is for what takes rights away: a busy channel must not use it up."""
    revocations = [
        Unit(changes=(Delete(key),), is_narrowing=True) for key in ("grant/eve", "grant/max")
    ]
    assert isinstance(full.say(revocations[0])[0], Committed)
    for _ in range(100):
        assert isinstance(full.say(Unit(drafts=(full.event(),)))[0], DiskFull)
    assert isinstance(full.say(revocations[1])[0], Committed)


def test_trimming_goes_through_on_the_ballast(full: FullDisk) -> None:
    oldest = min(full.ledger.retained())
    assert full.engine.trim_before(oldest + 20) > 0
    assert full.engine.first_seq > oldest


def test_a_start_on_a_full_disk_reads_and_refuses(full: FullDisk) -> None:
    close_on_broken_disk(full.engine)
    full.engine = full.open()
    full.vfs.limit_room(full.folder, 0)
    full.audit()
    assert isinstance(full.say(Unit(drafts=(full.event(),)))[0], DiskFull)
    full.vfs.add_room(1_000_000)
    assert isinstance(full.say(Unit(drafts=(full.event(),)))[0], Committed)
    full.audit()


def test_a_start_on_a_full_disk_uses_the_ballast(full: FullDisk) -> None:
    """An orderly stop removes the shared memory; somebody else then takes all the room."""
    full.vfs.heal()
    full.engine.close()
    full.vfs.limit_room(full.folder, 0)
    full.engine = full.open()
    full.audit()


def test_a_start_without_any_room_says_so(full: FullDisk) -> None:
    full.vfs.heal()
    full.engine.close()
    (full.folder / BALLAST_FILE).unlink()
    full.vfs.limit_room(full.folder, 0)
    with pytest.raises(DiskFull):
        full.open()


def test_a_full_disk_and_a_killed_hub_lose_nothing(tmp_path: Path) -> None:
    """What is on the disk at that moment, taken as it is, is a whole log."""
    copy = tmp_path / "copy"
    copy.mkdir()
    (tmp_path / "live").mkdir()
    with FaultVFS("full", is_recording=False) as vfs:
        disk = FullDisk(tmp_path / "live", vfs)
        disk.fill()
        for name in ("log.db", "log.db-wal"):
            (copy / name).write_bytes((tmp_path / "live" / name).read_bytes())
        close_on_broken_disk(disk.engine)
    with FaultVFS("copy") as vfs:
        engine = open_sqlite(copy, vfs)
        disk.ledger.epochs = ()  # A copy is another log from here on.
        audit(engine, disk.ledger, random=Random(1))
        engine.close()
