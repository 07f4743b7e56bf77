"""The outbox's file when the power goes, the disk is full or a sync fails."""

from __future__ import annotations

from pathlib import Path
from random import Random

import apsw
import pytest

from clawnet.client.outbox_store import New, Store
from clawnet.core.errors import BadConfiguration, OutboxFull
from clawnet.testing.disk import Disk, Found, Mark
from clawnet.testing.vfs import FaultVFS

URL = "http://127.0.0.1:1"


def new(number: int, size: int = 40) -> New:
    return New("o", f"public.{number % 3}", f"k{number}", b"%d " % number + b"x" * size, False, 0)


def number_of(members: bytes) -> int:
    return int(members.split()[0])


def load(store: Store, vfs: FaultVFS, random: Random, *, steps: int) -> None:
    """Keep and remove events in groups; each mark says what has to be there from then on."""
    kept: list[int] = []
    number = 0
    for _ in range(steps):
        if kept and random.random() < 0.4:
            gone = kept[: random.randint(1, len(kept))]
            places = [entry.id for entry in store.waiting(limit=len(gone), bytes_max=1 << 30)]
            store.remove(places)
            kept = kept[len(gone) :]
        else:
            group = [
                new(number + at, random.randint(0, 3_000)) for at in range(random.randint(1, 9))
            ]
            number += len(group)
            assert all(isinstance(outcome, int) for outcome in store.append(group))
            kept += [number_of(entry.members) for entry in group]
        vfs.mark(tuple(kept))


def cut_power(folder: Path, *, seed: int, cuts: int, is_synced: bool = True) -> list[str]:
    """Load an outbox, cut the power at random moments, and say what was not kept."""
    random = Random(seed)
    live = folder / f"live-{seed}"
    live.mkdir()
    with FaultVFS(f"outbox-{seed}") as vfs:
        # The empty file is made by the system, as a start before this one would have.
        Store(live / "o.db", URL).close()
        vfs.find(live)
        store = Store(live / "o.db", URL, vfs=vfs.name)
        if not is_synced:
            store._connection.pragma("synchronous", "off")
        store._connection.wal_autocheckpoint(20)
        load(store, vfs, random, steps=60)
        store.close()
        ops = vfs.recording.ops
    first = next(at for at, op in enumerate(ops) if not isinstance(op, Found))
    disk, done = Disk(seed), 0
    acknowledged: tuple[int, ...] = ()
    broken = []
    for cut, at in enumerate(sorted(random.sample(range(first, len(ops) + 1), cuts))):
        for op in ops[done:at]:
            disk.apply(op)
            if isinstance(op, Mark):
                acknowledged = op.what
        done = at
        place = folder / f"cut-{seed}-{cut}"
        place.mkdir()
        for name, content in disk.after_power_cut(random).items():
            (place / Path(name).name).write_bytes(content)
        following = next((op.what for op in ops[at:] if isinstance(op, Mark)), acknowledged)
        try:
            found = Store(place / "o.db", URL)
        except Exception as error:  # whatever it is, it is what the test is about
            broken.append(f"cut {cut}: {error}")
            continue
        entries = found.waiting(limit=10_000, bytes_max=1 << 30)
        found.close()
        if not all(entry.is_sound for entry in entries):
            broken.append(f"cut {cut}: torn events")
        # The group under way is there whole or not at all.
        if tuple(number_of(entry.members) for entry in entries) not in (acknowledged, following):
            broken.append(f"cut {cut}: not what was acknowledged")
    return broken


def test_a_power_cut_loses_nothing_that_was_enqueued(tmp_path: Path) -> None:
    for seed in range(1, 5):
        assert cut_power(tmp_path, seed=seed, cuts=25) == []


def test_the_same_cuts_without_syncs_are_found_to_lose(tmp_path: Path) -> None:
    """If this fails, the test above cannot fail either, and proves nothing."""
    assert cut_power(tmp_path, seed=1, cuts=25, is_synced=False)


def test_a_full_disk_is_told_and_the_file_stays_sound(tmp_path: Path) -> None:
    with FaultVFS("outbox-full", is_recording=False) as vfs:
        store = Store(tmp_path / "o.db", URL, vfs=vfs.name)
        assert store.append([new(0)]) == [1]
        vfs.limit_room(tmp_path, 30_000)
        with pytest.raises(OutboxFull, match=r"disk of the outbox .* is full") as caught:
            for number in range(1, 100):
                store.append([new(number, 2_000)])
        assert "Free disk space" in caught.value.next
        kept = [number_of(entry.members) for entry in store.waiting(limit=99, bytes_max=1 << 30)]
        assert kept == list(range(len(kept)))
        assert 1 < len(kept) < 99
        assert store.totals().waiting == len(kept)
        vfs.add_room(1_000_000)
        [place] = store.append([new(len(kept), 2_000)])
        assert isinstance(place, int)
        store.close()
    again = Store(tmp_path / "o.db", URL)
    assert again.totals().waiting == len(kept) + 1
    assert again._connection.pragma("integrity_check") == "ok"
    again.close()


def test_after_a_failed_sync_nothing_is_promised_before_the_file_is_opened_anew(
    tmp_path: Path,
) -> None:
    with FaultVFS("outbox-sync", is_recording=False) as vfs:
        store = Store(tmp_path / "o.db", URL, vfs=vfs.name)
        store.append([new(0)])
        vfs.fail_sync("-wal")
        with pytest.raises(BadConfiguration, match="cannot be used"):
            store.append([new(1)])
        # The next sync would succeed, whatever the system has dropped.
        with pytest.raises(BadConfiguration, match="cannot be used"):
            store.append([new(2)])
        store.close()
        store = Store(tmp_path / "o.db", URL, vfs=vfs.name)
        assert isinstance(store.append([new(3)])[0], int)
        kept = [number_of(entry.members) for entry in store.waiting(limit=9, bytes_max=1 << 30)]
        store.close()
    assert kept in ([0, 3], [0, 1, 3])


def test_a_locked_file_is_waited_for_and_then_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawnet.client.outbox_store.BUSY_TIMEOUT_MS", 1)
    store = Store(tmp_path / "o.db", URL)
    other = apsw.Connection(str(tmp_path / "o.db"))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutboxFull, match="Another program holds"):
        store.append([new(0)])
    other.execute("ROLLBACK")
    assert store.append([new(0)]) == [1]
    other.close()
    store.close()
