"""A disk that may lose power: what was synced stays, what was not may be lost or torn.

Pure: it is fed the operations that a FaultVFS recorded and answers what could
lie on the platters at that moment. A cut changes nothing, so one recording
serves as many cuts as a test wants.

The model is that of POSIX, stricter than ext4: without an fsync of the file,
any of its 512-byte sectors may hold the old or the new content; without an
fsync of the directory, its creations and deletions may or may not have
happened (in order for each name). A failed fsync loses for good what it was
to save, while the next one succeeds ("fsyncgate"). A sector itself is never
torn, and a write never harms its neighbours: SQLite relies on both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class Found:
    """A file that lay on the disk before the recording began."""

    file: int
    path: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Created:
    """A new empty file, under a name that is not safe before its directory is synced."""

    file: int
    path: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """A name that is gone; safe once its directory is synced."""

    path: str


@dataclass(frozen=True, slots=True)
class Wrote:
    """Bytes at an offset, not safe before the file is synced."""

    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncated:
    """A new length, not safe before the file is synced."""

    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Synced:
    """The file's content is safe."""

    file: int


@dataclass(frozen=True, slots=True)
class SyncFailed:
    """The file's unsynced content is saved in part, and what was not saved is given up."""

    file: int


@dataclass(frozen=True, slots=True)
class DirectorySynced:
    """The names in a directory are safe."""

    directory: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Something the test wants to find again at this place of the recording."""

    what: Any


Op = Found | Created | Deleted | Wrote | Truncated | Synced | SyncFailed | DirectorySynced | Mark


@dataclass(slots=True)
class _File:
    """An inode: what is safe, and the changes that are not yet."""

    safe: bytearray = field(default_factory=bytearray)
    unsafe: list[Wrote | Truncated] = field(default_factory=list)


class Disk:
    """What is safe on the disk, and what is not, after the operations so far."""

    def __init__(self, seed: int) -> None:
        self._files: dict[int, _File] = {}
        self._names: dict[str, int] = {}
        self._unsafe_names: dict[str, list[int | None]] = {}
        # A stream of its own, so that what a failed sync saved does not depend
        # on how many cuts were tried before.
        self._random = Random(seed)

    def apply(self, op: Op) -> None:
        """Follow the recording by one operation."""
        match op:
            case Wrote(file=file) | Truncated(file=file):
                self._files[file].unsafe.append(op)
            case Synced(file=file):
                _store(self._files[file].safe, self._files[file].unsafe)
                self._files[file].unsafe.clear()
            case SyncFailed(file=file):
                _store(
                    self._files[file].safe,
                    _survivors(self._files[file].unsafe, self._random),
                )
                self._files[file].unsafe.clear()
            case Found(file=file, path=path, content=content):
                self._files[file] = _File(safe=bytearray(content))
                self._names[path] = file
            case Created(file=file, path=path):
                self._files[file] = _File()
                self._unsafe_names.setdefault(path, []).append(file)
            case Deleted(path=path):
                self._unsafe_names.setdefault(path, []).append(None)
            case DirectorySynced(directory=directory):
                self._sync_directory(directory)
            case Mark():
                pass

    def after_power_cut(self, random: Random) -> dict[str, bytes]:
        """Path and content of each file as the next start may find them."""
        names = dict(self._names)
        for path, changes in self._unsafe_names.items():
            done = random.choice((0, len(changes), random.randint(0, len(changes))))
            if done:
                _link(names, path, changes[done - 1])
        found = {}
        for path in sorted(names):
            file = self._files[names[path]]
            content = bytearray(file.safe)
            _store(content, _survivors(file.unsafe, random))
            found[path] = bytes(content)
        return found

    def _sync_directory(self, directory: str) -> None:
        for path in [path for path in self._unsafe_names if str(Path(path).parent) == directory]:
            _link(self._names, path, self._unsafe_names.pop(path)[-1])


def _link(names: dict[str, int], path: str, file: int | None) -> None:
    if file is None:
        names.pop(path, None)
    else:
        names[path] = file


def _store(content: bytearray, changes: Iterable[Wrote | Truncated]) -> None:
    for change in changes:
        match change:
            case Wrote(offset=offset, data=data):
                if offset > len(content):  # What lay between was lost: a hole reads as zeros.
                    content.extend(bytes(offset - len(content)))
                content[offset : offset + len(data)] = data
            case Truncated(size=size) if size < len(content):
                del content[size:]
            case Truncated(size=size):
                content.extend(bytes(size - len(content)))


def _survivors(changes: list[Wrote | Truncated], random: Random) -> list[Wrote | Truncated]:
    """A random choice of what became of unsynced changes, in one of the ways disks fail."""
    if not changes:
        return []
    way = random.choice(("none", "all", "prefix", "writes", "sectors", "sectors"))
    if way == "none":
        return []
    if way == "all":
        return changes
    if way == "prefix":  # The disk kept the order, and the last write is torn.
        whole = random.randrange(len(changes))
        return [*changes[:whole], *_torn(changes[whole], random)]
    share = random.choice((0.1, 0.5, 0.9))
    if way == "writes":
        return [change for change in changes if random.random() < share]
    kept: list[Wrote | Truncated] = []
    for change in changes:
        if isinstance(change, Wrote):
            kept += [piece for piece in _sectors(change) if random.random() < share]
        elif random.random() < share:
            kept.append(change)
    return kept


def _torn(change: Wrote | Truncated, random: Random) -> list[Wrote | Truncated]:
    if isinstance(change, Truncated):
        return [change] if random.random() < 0.5 else []
    pieces = _sectors(change)
    return list(pieces[: random.randint(0, len(pieces))])


def _sectors(write: Wrote) -> list[Wrote]:
    """The write in pieces, cut where the disk's sectors begin."""
    pieces = []
    start, end = write.offset, write.offset + len(write.data)
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        data = write.data[start - write.offset : stop - write.offset]
        pieces.append(Wrote(write.file, start, data))
        start = stop
    return pieces
