"""The data folder: private, owned by one hub at a time, home of two small secrets.

What the engine keeps in it is the engine's business.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Self

from clawnet.core.errors import AlreadyRunning, BadConfiguration

LOCK = "lock"
ADMIN_TOKEN = "admin.token"
SECRET_KEY = "secret.key"


def default_path() -> Path:
    """$XDG_DATA_HOME/clawnet, else ~/.local/share/clawnet."""
    # The XDG specification: a relative path is invalid and to be ignored.
    given = os.environ.get("XDG_DATA_HOME", "")
    home = Path(given) if given.startswith("/") else Path.home() / ".local/share"
    return home / "clawnet"


class DataFolder:
    """An opened data folder. The lock is given back by close(), or by the end of the process."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> Self:
        """Make it if need be (mode 0700) and take its lock.

        Raises BadConfiguration if it cannot be used, AlreadyRunning if a hub has it.
        """
        path = path.expanduser().absolute()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(path, error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(lock)
            os.close(lock)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise unusable(path, error) from None
            raise AlreadyRunning(
                f"Another hub{holder} uses the data folder {path}.", path=str(path)
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return cls(path, lock)

    def close(self) -> None:
        """Give the lock back. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def admin_token_path(self) -> Path:
        return self.path / ADMIN_TOKEN

    def admin_token(self) -> str | None:
        """What the admin's file holds; None if it is gone or empty."""
        try:
            return self.admin_token_path.read_text().strip() or None
        except (FileNotFoundError, UnicodeError):
            return None
        except OSError as error:
            raise unusable(self.path, error) from None

    def write_admin_token(self, token: str) -> None:
        """Put a new admin token into its file, for this user only."""
        write_private(self.admin_token_path, f"{token}\n".encode())

    def secret_key(self) -> bytes:
        """The key with which token hashes are keyed; made at the first start."""
        path = self.path / SECRET_KEY
        try:
            key = bytes.fromhex(path.read_text().strip())
            if len(key) >= 16:
                return key
        except FileNotFoundError:
            key = os.urandom(32)
            write_private(path, f"{key.hex()}\n".encode())
            return key
        except (ValueError, OSError):
            pass
        # Never replaced silently: a new key would end every token there is.
        raise BadConfiguration(
            f"{path} is damaged, and without it no token can be recognised.",
            next="Restore it from a backup; deleting it makes a new one and ends all tokens.",
        )


def write_private(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, mode 0600, and on disk when this returns."""
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.unlink(missing_ok=True)
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise unusable(path.parent, error) from None


def unusable(path: Path, error: OSError) -> BadConfiguration:
    """The folder cannot be used, and why."""
    return BadConfiguration(
        f"The data folder {path} cannot be used ({error.strerror or error}).",
        next="Make it writable for this user, or name another with --data-dir.",
    )


def _holder(lock: int) -> str:
    text = os.pread(lock, 20, 0).decode(errors="replace").strip()
    return f" (process {text})" if text.isdecimal() else ""
