"""An apsw VFS over the default one that breaks on demand and records for clawnet.testing.disk.

Everything it does not break goes to real files, so WAL mode works as it does
without it: the shared memory is the default VFS's own, which a VFSFile
inherits. Syncs are recorded but by default not carried out: nothing here ever
loses power, and without them a test runs at the speed of memory.

Not seen here: the -shm file (a start after a power cut never reads it) and
files that do not belong to SQLite.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, Self

import apsw

from clawnet.testing.disk import (
    Created,
    Deleted,
    DirectorySynced,
    Found,
    Mark,
    Op,
    Synced,
    SyncFailed,
    Truncated,
    Wrote,
)

# The unix VFS syncs the directory with the first sync of such a file that it
# opened with leave to create it (UNIXFILE_DIRSYNC in SQLite's os_unix.c).
_SYNCS_DIRECTORY = (
    apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL
)

SHARED_MEMORY_BYTES = 32_768
"""What a first connection in WAL mode needs for its -shm file."""


@dataclass(slots=True)
class _Trap:
    """A call that is to fail: the `nth` from now of files whose name ends with `suffix`."""

    suffix: str
    nth: int
    is_lasting: bool

    def is_sprung(self, path: str) -> bool:
        if not path.endswith(self.suffix):
            return False
        self.nth -= 1
        return self.nth <= 0 if self.is_lasting else self.nth == 0


@dataclass(slots=True)
class _Quota:
    """A disk as large as what lies in `directory` now and `room_bytes` more."""

    directory: Path
    size_max_bytes: int

    def room_bytes(self) -> int:
        return self.size_max_bytes - _size_bytes(self.directory)


@dataclass(slots=True)
class Recording:
    """The operations in the order in which they were finished, and the test's marks."""

    ops: list[Op] = field(default_factory=list)


class FaultVFS(apsw.VFS):
    """A VFS registered as `name` while the `with` block lasts.

    F1 faithful   without a fault, every call does what the default VFS does.
    F2 ordered    `recording` holds the operations of all threads in one order that happened.
    F3 room       after limit_room, only writes that make a file longer need room; a write that
                  finds too little stores what fits and raises FullError, as a full disk does;
                  a first connection fails for lack of room for the shared memory.
                  Whatever is deleted in the directory, by whomever, gives room.
    F4 sync       after fail_sync, the nth sync raises IOError (SQLITE_IOERR_FSYNC).
    F5 hook       `before_sync(path)` runs before each sync, outside every lock, and may wait.
    """

    def __init__(self, name: str, *, is_syncing: bool = False, is_recording: bool = True) -> None:
        super().__init__(name, base="")
        self.name = name
        self.recording = Recording()
        self.before_sync: Callable[[str], None] | None = None
        self.syncs = 0
        self._is_syncing = is_syncing
        self._is_recording = is_recording
        self._lock = RLock()
        self._files: dict[str, int] = {}
        self._file_count = 0
        self._quota: _Quota | None = None
        self._sync_traps: list[_Trap] = []
        self._write_traps: list[_Trap] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unregister()

    # The switch.

    def limit_room(self, directory: Path, room_bytes: int) -> None:
        """Let the files of `directory` grow by no more than `room_bytes` from what they are."""
        self._quota = _Quota(directory, _size_bytes(directory) + room_bytes)

    def add_room(self, room_bytes: int) -> None:
        """Give `room_bytes` more to the directory that limit_room named."""
        assert self._quota is not None
        self._quota.size_max_bytes += room_bytes

    def fail_sync(self, suffix: str = "", *, nth: int = 1, is_lasting: bool = False) -> None:
        """Fail the nth sync from now of files that end with `suffix` (and all later ones)."""
        self._sync_traps.append(_Trap(suffix, nth, is_lasting))

    def fail_write(self, suffix: str = "", *, nth: int = 1, is_lasting: bool = False) -> None:
        """Fail the nth write from now of files that end with `suffix` (and all later ones)."""
        self._write_traps.append(_Trap(suffix, nth, is_lasting))

    def heal(self) -> None:
        """Undo limit_room, fail_sync and fail_write."""
        self._quota = None
        self._sync_traps.clear()
        self._write_traps.clear()

    def find(self, folder: Path) -> None:
        """Record the files that lie in a folder, as safe; else each is found when it is opened."""
        with self._lock:
            for path in sorted(folder.iterdir()):
                self._find(str(path))

    def mark(self, what: object) -> None:
        """Put the test's own word into the recording."""
        with self._lock:
            self._record(Mark(what))

    def _find(self, path: str) -> None:
        if path not in self._files:
            self._file_count += 1
            self._files[path] = self._file_count
            content = Path(path).read_bytes() if self._is_recording else b""
            self._record(Found(self._file_count, path, content))

    def _require_room_for_shared_memory(self, wal: str) -> None:
        # It is made right after the WAL is opened and is out of reach here, so the full disk
        # shows one step too early; the connection fails with the same error.
        shared = Path(f"{wal.removesuffix('-wal')}-shm")
        if self._quota and self._quota.room_bytes() < SHARED_MEMORY_BYTES and not shared.exists():
            raise apsw.exception_for(apsw.SQLITE_IOERR_SHMSIZE)

    def _record(self, op: Op) -> None:
        if self._is_recording:
            self.recording.ops.append(op)

    # What SQLite calls.

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        if name is None:  # A temporary file of SQLite's: nobody finds it after a power cut.
            return apsw.VFSFile("", name, flags)
        path = name if isinstance(name, str) else name.filename()
        with self._lock:
            is_new = not Path(path).exists()
            if flags[0] & apsw.SQLITE_OPEN_WAL:
                self._require_room_for_shared_memory(path)
            if not is_new:
                self._find(path)
            opened = FaultFile(self, name, path, flags)
            if is_new:
                self._file_count += 1
                self._files[path] = self._file_count
                self._record(Created(self._file_count, path))
            opened.file = self._files[path]
        return opened

    def xDelete(self, filename: str, syncdir: bool) -> None:
        with self._lock:
            super().xDelete(filename, syncdir)
            self._files.pop(filename, None)
            self._record(Deleted(filename))
            if syncdir:
                self._record(DirectorySynced(str(Path(filename).parent)))

    # What its files do.

    def write(self, file: FaultFile, data: bytes, offset: int) -> None:
        with self._lock:
            if _is_sprung(self._write_traps, file.path):
                raise apsw.exception_for(apsw.SQLITE_IOERR_WRITE)
            size = file.xFileSize()
            growth = max(0, offset + len(data) - size)
            room = growth if self._quota is None else max(0, self._quota.room_bytes())
            if growth > room:
                data = data[: max(0, size + room - offset)]
            if data:
                file.write_through(data, offset)
                self._record(Wrote(file.file, offset, data))
            if growth > room:
                raise apsw.FullError(f"room for {room} of {growth} bytes")

    def truncate(self, file: FaultFile, size: int) -> None:
        with self._lock:
            file.truncate_through(size)
            self._record(Truncated(file.file, size))

    def sync(self, file: FaultFile, flags: int) -> None:
        if self.before_sync is not None:
            self.before_sync(file.path)
        with self._lock:
            self.syncs += 1
            if _is_sprung(self._sync_traps, file.path):
                self._record(SyncFailed(file.file))
                raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)
            if self._is_syncing:
                file.sync_through(flags)
            self._record(Synced(file.file))
            if file.is_directory_unsynced:
                file.is_directory_unsynced = False
                self._record(DirectorySynced(str(Path(file.path).parent)))


class FaultFile(apsw.VFSFile):
    """One open file of a FaultVFS, which decides and records for it."""

    def __init__(
        self, vfs: FaultVFS, name: str | apsw.URIFilename, path: str, flags: list[int]
    ) -> None:
        asked = flags[0]
        super().__init__("", name, flags)
        self.path = path
        self.file = 0
        self.is_directory_unsynced = bool(
            asked & apsw.SQLITE_OPEN_CREATE and asked & _SYNCS_DIRECTORY
        )
        self._vfs = vfs

    def xWrite(self, data: Any, offset: int) -> None:
        # Bytes; apsw says Buffer, which has a name since Python 3.12.
        self._vfs.write(self, data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._vfs.truncate(self, newsize)

    def xSync(self, flags: int) -> None:
        self._vfs.sync(self, flags)

    def write_through(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)

    def truncate_through(self, size: int) -> None:
        super().xTruncate(size)

    def sync_through(self, flags: int) -> None:
        super().xSync(flags)


def _is_sprung(traps: list[_Trap], path: str) -> bool:
    # A list, so that every trap counts this call even if an earlier one springs.
    return bool([trap for trap in traps if trap.is_sprung(path)])


def _size_bytes(directory: Path) -> int:
    """What the files of a directory take, but for the shared memory, which no VFS can refuse."""
    total = 0
    for entry in os.scandir(directory):
        try:
            if entry.is_file() and not entry.name.endswith("-shm"):
                total += entry.stat().st_size
        except FileNotFoundError:  # Deleted by another thread meanwhile.
            continue
    return total
