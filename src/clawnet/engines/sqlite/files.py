"""What lies beside the database: the lock, the high-water mark, the ballast."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from zlib import crc32

from clawnet.core.errors import AlreadyRunning, BadConfiguration, StorageCorrupt

LOCK_FILE = "engine.lock"
MARK_FILE = "high-water"
BIRTHMARK_FILE = "birthmark"
BALLAST_FILE = "ballast"
REPLACED_FILE = "log.db.replaced"
"""Where a restore leaves the log that was there before; a number follows if it is taken."""

BALLAST_BYTES = 8_388_608
BALLAST_PIECE_BYTES = 262_144


class Lock:
    """Keeps a second engine off the folder for as long as it is held.

    Raises AlreadyRunning, with the other's process id. The end of the process
    gives it back, however it ends.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BadConfiguration(
                f"The data folder {folder} cannot be used ({error.strerror or error}).",
                next="Make it writable for this user, or name another with --data-dir.",
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.pread(self._file, 20, 0).decode(errors="replace").strip()
            os.close(self._file)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise AlreadyRunning(
                f"The hub with process id {pid or 'unknown'} has the data folder {folder} open.",
                pid=pid,
                path=str(folder),
            ) from None
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            # The disk is full. The lock holds all the same, it only cannot say for whom.
            pass

    def release(self) -> None:
        """Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def refuse_without_log(log: Path) -> None:
    """Raises StorageCorrupt if the log is not there, or empty, but what lies beside it says that
    it was: beginning anew in its place would look like a hub that nobody ever wrote to."""
    if log.exists() and log.stat().st_size > 0:
        return
    traces = sorted(log.parent.glob(f"{REPLACED_FILE}*"))
    traces += [path for path in (log.with_name(f"{log.name}-wal"),) if path.exists()]
    mark = log.parent / MARK_FILE
    if _has_counted(mark):
        traces.append(mark)
    if traces:
        names = ", ".join(path.name for path in traces)
        raise StorageCorrupt(
            f"{log} is missing or empty, but there was a log: {names}.",
            next="Run claw restore (again, if one was broken off; or rename the newest"
            f" {REPLACED_FILE} and its -wal back to {log.name}). To begin anew, move away {names}.",
        )


def _has_counted(mark: Path) -> bool:
    """Whether the mark is of a log that held something; one that cannot be read may be."""
    try:
        text = mark.read_text("ascii")
        return text != "" and _read_mark(text)[0] > 0
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True


class HighWater:
    """The highest seq that was ever durable here, and whether this is still the same folder.

    The mark is written after each commit and may lag, never lead: it holds only
    what is already on disk. A database that ends below it was put back to an
    older copy. If the whole folder was put back, the mark is as old as the
    database; that is seen by a file that is never touched, the birthmark: the
    mark remembers when its inode last changed, and no copy can have that time.
    """

    def __init__(self, folder: Path) -> None:
        self._birthmark = folder / BIRTHMARK_FILE
        self._path = folder / MARK_FILE
        self._file = -1
        self._born_ns = 0

    def is_ahead_of(self, last_seq: int) -> bool:
        """Whether the database that ends at `last_seq` may be an older copy."""
        try:
            text = self._path.read_text("ascii")
            seq, born_ns = _read_mark(text)
            return seq > last_seq or born_ns != self._birthmark.stat().st_ctime_ns
        except (OSError, ValueError):
            # Unreadable or lost. A new epoch costs little: positions up to here stay good.
            return True

    def open(self, *, is_new: bool) -> None:
        """Begin to write; `is_new` gives the folder a new birthmark, for a new epoch."""
        if is_new:
            self._birthmark.unlink(missing_ok=True)
            self._birthmark.write_text("This file is never changed. A copy of it is not it.\n")
        self._born_ns = self._birthmark.stat().st_ctime_ns
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, seq: int) -> None:
        """Record a durable seq: one small write, no sync, so commits do not wait for it."""
        try:
            os.pwrite(self._file, _render_mark(seq, self._born_ns), 0)
        except OSError:
            # It lags then, which is allowed; a disk that is broken shows at the next commit.
            pass

    def close(self) -> None:
        """Idempotent."""
        if self._file >= 0:
            try:
                os.fsync(self._file)
            except OSError:
                pass
            os.close(self._file)
            self._file = -1


def _render_mark(seq: int, born_ns: int) -> bytes:
    text = f"{seq:020d} {born_ns:020d}".encode()
    return b"%s %08x\n\n" % (text, crc32(text))


def _read_mark(text: str) -> tuple[int, int]:
    seq, born_ns, check = text.split()
    if int(check, 16) != crc32(f"{seq} {born_ns}".encode()):
        raise ValueError("torn")
    return int(seq), int(born_ns)


class Ballast:
    """Room on the disk that is kept for revocations and trimming when there is no other.

    It is lent in pieces and taken back as soon as the commit that needed it is
    done, before anybody else writes: publishes would else use it up, and the
    next revocation would find none.
    """

    def __init__(self, folder: Path, *, size_bytes: int = BALLAST_BYTES) -> None:
        self._path = folder / BALLAST_FILE
        self._size_bytes = size_bytes

    @property
    def is_whole(self) -> bool:
        return self._held_bytes() >= self._size_bytes

    def fill(self) -> None:
        """Take the room if the disk has plenty."""
        if self.is_whole:
            return
        try:
            disk = os.statvfs(self._path.parent)
            if disk.f_bavail * disk.f_frsize >= 4 * self._size_bytes:
                self._take(is_syncing=True)
        except OSError:
            # Some of it is better than nothing; it is tried again later.
            pass

    def lend(self) -> bool:
        """Give a piece of the room to whoever writes next; whether there was any."""
        held = self._held_bytes()
        if held == 0:
            return False
        try:
            os.truncate(self._path, max(held - BALLAST_PIECE_BYTES, 0))
        except OSError:
            return False
        return True

    def take_back(self) -> None:
        """Take what is left of what was lent."""
        try:
            self._take(is_syncing=False)
        except OSError:
            # The disk is full again, of the ballast too: that is as it should be.
            pass

    def _held_bytes(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def _take(self, *, is_syncing: bool) -> None:
        with self._path.open("ab", buffering=0) as file:
            missing = self._size_bytes - file.tell()
            while missing > 0:
                # Random bytes: some file systems store zeros, or a hole, without taking room.
                missing -= file.write(os.urandom(min(missing, BALLAST_PIECE_BYTES)))
            if is_syncing:
                os.fsync(file.fileno())
