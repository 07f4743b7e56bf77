"""The sidecar's folder: one lock for each agent and machine, the kept token, the log. Blocking."""

from __future__ import annotations

import fcntl
import json
import logging
import logging.handlers
import os
import stat
from io import TextIOWrapper
from pathlib import Path

from clawnet.core.errors import AlreadyRunning, BadConfiguration

LOG = "sidecar.log"
LOG_MAX_BYTES = 1_048_576
LOGS_KEPT = 3
_LOCK = "lock"
_SESSION = "session.json"


class Folder:
    """A folder that belongs to this process until close(). Raises AlreadyRunning."""

    def __init__(self, path: Path, agent_id: str) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_own(path)
            handle = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(path, error) from None
        try:
            # The system gives it back however its holder dies.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise AlreadyRunning(
                f"Another sidecar of {agent_id} runs on this machine.",
                next="Stop the other one, or give this one an --agent-id of its own.",
            ) from None
        except OSError as error:
            os.close(handle)
            raise _unusable(path, error) from None
        self._handle: int | None = handle

    def close(self) -> None:
        """Let another sidecar have it. Idempotent."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def token(self, server: str) -> str | None:
        """The token kept for this hub; one of another hub is never shown to this one."""
        try:
            kept = json.loads((self.path / _SESSION).read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(kept, dict) or kept.get("server") != server:
            return None
        token = kept.get("token")
        return token if isinstance(token, str) and token else None

    def keep_token(self, server: str, token: str) -> None:
        """Keep it for this user only. Raises BadConfiguration."""
        try:
            write_private(self.path / _SESSION, json.dumps({"server": server, "token": token}))
        except OSError as error:
            raise _unusable(self.path, error) from None

    def log_to_file(self, logger: logging.Logger) -> logging.Handler:
        """Let a logger write into the folder's log, which rotates within a bound."""
        path = self.path / LOG
        try:
            handler = _PrivateLog(
                path, maxBytes=LOG_MAX_BYTES, backupCount=LOGS_KEPT, encoding="utf-8"
            )
        except OSError as error:
            raise _unusable(self.path, error) from None
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        return handler


class _PrivateLog(logging.handlers.RotatingFileHandler):
    """Every file of it is for this user only, from its first moment."""

    def _open(self) -> TextIOWrapper:
        path = Path(self.baseFilename)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return TextIOWrapper(os.fdopen(handle, "ab"), encoding="utf-8", errors="backslashreplace")


def write_private(path: Path, text: str) -> None:
    """Write a file whole or not at all, for this user only, onto the disk. Raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """A new name is on disk when its folder is."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_own(path: Path) -> None:
    """Whoever may write here could give us tasks to run and read what we keep. Raises OSError,
    BadConfiguration."""
    found = path.stat()
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & stat.S_IWOTH:
        raise BadConfiguration(
            f"The sidecar's folder {path} belongs to another user, or everybody may write in it.",
            next="Name one of your own with --state-dir, or take the rights of others away.",
        )


def _unusable(path: Path, error: OSError) -> BadConfiguration:
    return BadConfiguration(
        f"The sidecar's folder {path} cannot be used ({error.strerror}).",
        next="Make it writable for this user, or name another with --state-dir.",
    )
