"""What `claw doctor` can find out on this machine without a running hub."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from clawnet.app.config import Settings
from clawnet.app.folder import ADMIN_TOKEN, LOCK, SECRET_KEY, default_path

State = Literal["ok", "warning", "bad"]

SQLITE_FIXED = (3, 51, 3)
"""Earlier ones can corrupt a WAL database when one connection checkpoints while another commits."""
LOG = "log.db"
LOG_CHECKED_MAX_BYTES = 1 << 30
"""Reading a larger log to its end takes minutes."""
DISK_LOW_BYTES = 1 << 30
DISK_OUT_BYTES = 64 << 20
CLOCK_PLAUSIBLE_S = 1_767_225_600  # 2026: this program did not exist earlier


class Check(NamedTuple):
    """One finding; `next` says what to do about it."""

    name: str
    state: State
    text: str
    next: str = ""


def data_folder(settings: Settings) -> Path:
    """The data folder that `claw up` would use."""
    return Path(settings.data_dir).expanduser() if settings.data_dir else default_path()


def checks(settings: Settings) -> Iterator[Check]:
    """All findings, in an order fit for reading."""
    yield Check("python", "ok", f"{platform.python_version()} at {sys.executable}")
    yield _sqlite()
    folder = data_folder(settings)
    yield from _folder(folder)
    if folder.is_dir():
        yield lock_of(folder)
        if (folder / LOG).is_file() and running_hub(folder) is None:
            yield _log(folder / LOG)
    yield _disk(folder)
    yield _clock()


def lock_of(folder: Path) -> Check:
    """Whether a hub runs on the folder."""
    pid = running_hub(folder)
    if pid is None:
        return Check("lock", "ok", "no hub runs on this folder")
    return Check("lock", "ok", f"a hub runs on it (process {pid or 'unknown'})")


def running_hub(folder: Path) -> int | None:
    """The process that holds the folder's lock (0 if it did not say which); None if none does."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        text = os.pread(handle, 20, 0).decode(errors="replace").strip()
        return int(text) if text.isdecimal() else 0
    finally:
        os.close(handle)
    return None


def _sqlite() -> Check:
    try:
        import apsw
    except ImportError as error:
        return Check("sqlite", "bad", f"apsw cannot be loaded: {error}", "Run make setup again.")
    version = apsw.sqlite_lib_version()
    numbers = tuple(int(part) for part in version.split("."))
    if numbers < SQLITE_FIXED:
        return Check(
            "sqlite", "bad", f"{version} can corrupt a database that is written and checkpointed",
            "Install apsw 3.54 or newer from a wheel (pip install --upgrade apsw).",
        )  # fmt: skip
    return Check("sqlite", "ok", version)


def _folder(folder: Path) -> Iterator[Check]:
    if not folder.is_dir():
        yield Check("data folder", "ok", f"{folder} does not exist yet; claw up makes it")
        return
    is_usable = os.access(folder, os.R_OK | os.W_OK | os.X_OK)
    if not is_usable:
        yield Check(
            "data folder", "bad", f"{folder} is not writable for this user",
            "Run claw as its owner, or name another with --data-dir.",
        )  # fmt: skip
        return
    yield Check("data folder", "ok", str(folder))
    yield from _modes(folder)


def _modes(folder: Path) -> Iterator[Check]:
    opened = [
        path
        for path in (folder, folder / ADMIN_TOKEN, folder / SECRET_KEY)
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    if not opened:
        yield Check("permissions", "ok", "only this user can read it")
    for path in opened:
        is_secret = path != folder
        yield Check(
            "permissions", "bad" if is_secret else "warning", f"{path} can be read by others",
            f"Run chmod go= {path}" + (" and make new tokens." if is_secret else "."),
        )  # fmt: skip


def _log(path: Path) -> Check:
    """Whether the log can be read: whole if it is small, else what stands at its beginning."""
    import apsw

    from clawnet.core.errors import StorageCorrupt

    is_small = path.stat().st_size <= LOG_CHECKED_MAX_BYTES
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            sql = "PRAGMA quick_check(1)" if is_small else "SELECT count(*) FROM sqlite_schema"
            said = str(next(connection.execute(sql))[0])
        finally:
            connection.close()
    except apsw.Error as error:
        said = str(error)
    if said != "ok" and not (said.isdecimal() and not is_small):
        return Check("log", "bad", f"{path} is damaged: {said[:200]}", StorageCorrupt.next)
    return Check("log", "ok", f"{path.stat().st_size / (1 << 20):.1f} MiB")


def _disk(folder: Path) -> Check:
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / (1 << 30):.1f} GiB free at {place}"
    if free < DISK_OUT_BYTES:
        return Check("disk", "bad", text, "Free some space: the hub refuses to store when it ends.")
    if free < DISK_LOW_BYTES:
        return Check("disk", "warning", text, "Free some space, or shorten retention.")
    return Check("disk", "ok", text)


def _clock() -> Check:
    now_s = time.time()
    if now_s < CLOCK_PLAUSIBLE_S:
        return Check("clock", "bad", "the clock is years behind", "Set it; switch NTP on.")
    return Check("clock", "ok", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s)))
