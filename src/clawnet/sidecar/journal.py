"""What a sidecar took on, as a file: before it runs, until the hub knows its end. Blocking.

One JSONL file whose lines are synced: a task is `accepted` before the hub is told so, `started`
before anything runs, `ended` with its result before that is sent, and `told` once the hub has
answered. So no task runs twice, whatever dies in between, and no result is lost: what was started
and not ended when a sidecar was killed has an unknown outcome. The file is bounded: it is written
anew when it has grown, told tasks are remembered by the newest TOLD_MAX of them, and with
OPEN_MAX others nothing more is taken on.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path
from typing import Literal

import msgspec

from clawnet.core.calls.tasks import EndStatus, TaskInfo
from clawnet.sidecar.folder import write_private

logger = logging.getLogger(__name__)

FILE = "journal.jsonl"
OPEN_MAX = 1_000
TOLD_MAX = 5_000
GROWN_BYTES = 8 * 1_048_576


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a task ended here, as the hub will be told."""

    status: EndStatus
    output: str | None = None
    error: str | None = None
    exit_code: int | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of one task. `task` is there when it is accepted, `result` when it ended."""

    at: Literal["accepted", "started", "ended", "told", "forgotten"]
    id: str
    task: TaskInfo | None = None
    result: Result | None = None


class Entry(msgspec.Struct, kw_only=True):
    """Where a task stands. Of a told one only the status is kept."""

    task: TaskInfo | None = None
    is_started: bool = False
    result: Result | None = None
    is_told: bool = False


class Journal:
    """One open journal. Its calls may come from several threads; reads are of memory only."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError."""
        self._path = folder / FILE
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._told: dict[str, None] = {}
        self._grown_bytes = 0
        self._is_torn = False
        self._handle: int | None = None
        self._decoder = msgspec.json.Decoder(Line)
        self._load()
        self._rewrite()

    def close(self) -> None:
        with self._lock:
            handle, self._handle = self._handle, None
            if handle is not None:
                os.close(handle)

    # --- what is known ------------------------------------------------------

    def entry(self, task_id: str) -> Entry | None:
        """Where a task stands; None if it never came, or was told long ago."""
        return self._entries.get(task_id)

    @property
    def is_full(self) -> bool:
        return len(self._entries) - len(self._told) >= OPEN_MAX

    def unstarted(self) -> list[TaskInfo]:
        """Tasks that were accepted and not begun, oldest first."""
        entries = list(self._entries.values())
        return [e.task for e in entries if e.task and not e.is_started and e.result is None]

    def interrupted(self) -> list[TaskInfo]:
        """Tasks that were begun and have no end."""
        entries = list(self._entries.values())
        return [e.task for e in entries if e.task and e.is_started and e.result is None]

    def untold(self) -> list[tuple[TaskInfo, Result]]:
        """Results that the hub does not know yet, oldest first."""
        entries = list(self._entries.values())
        return [(e.task, e.result) for e in entries if e.task and e.result and not e.is_told]

    # --- steps; each is on disk when it returns. Raise OSError --------------

    def accept(self, task: TaskInfo) -> bool:
        """Take it on; False if it is known already."""
        with self._lock:
            if task.task_id in self._entries:
                return False
            line = Line(at="accepted", id=task.task_id, task=task)
            self._write(line)
            # Only now: what could not be written down may come again.
            self._apply(line)
            self._shrink()
            return True

    def start(self, task_id: str) -> None:
        with self._lock:
            self._append(Line(at="started", id=task_id))

    def end(self, task_id: str, result: Result) -> None:
        with self._lock:
            self._append(Line(at="ended", id=task_id, result=result))

    def tell(self, task_id: str) -> None:
        """The hub knows. Not synced: told twice does no harm."""
        with self._lock:
            self._append(Line(at="told", id=task_id), is_synced=False)

    def forget(self, task_id: str) -> None:
        """It is not ours after all, and may come again."""
        with self._lock:
            self._append(Line(at="forgotten", id=task_id))

    def _append(self, line: Line, *, is_synced: bool = True) -> None:
        # Known from here on, also if the disk fails: in this process it must not run twice.
        self._apply(line)
        self._write(line, is_synced=is_synced)
        self._shrink()

    def _write(self, line: Line, *, is_synced: bool = True) -> None:
        if self._handle is None:
            raise OSError("the journal is closed")
        # Behind a line of which only a part fitted, the next one begins a line of its own.
        raw = b"\n" * self._is_torn + msgspec.json.encode(line) + b"\n"
        self._is_torn = True
        if os.write(self._handle, raw) != len(raw):
            raise OSError(errno.ENOSPC, "the journal's disk is full")
        self._is_torn = False
        if is_synced:
            os.fsync(self._handle)
        self._grown_bytes += len(raw)

    def _apply(self, line: Line) -> None:
        entry = self._entries.get(line.id)
        if line.at == "accepted":
            self._entries[line.id] = Entry(task=line.task)
        elif line.at == "forgotten":
            self._entries.pop(line.id, None)
            self._told.pop(line.id, None)
        elif entry is not None and line.at == "started":
            entry.is_started = True
        elif entry is not None and line.at == "ended" and entry.result is None:
            entry.result = line.result
        elif line.at == "told":
            status = entry.result.status if entry and entry.result else "outcome_unknown"
            if line.result is not None:
                status = line.result.status
            self._entries[line.id] = Entry(
                is_started=True, is_told=True, result=Result(status=status)
            )
            self._told[line.id] = None
            while len(self._told) > TOLD_MAX:
                oldest = next(iter(self._told))
                del self._told[oldest], self._entries[oldest]

    def _load(self) -> None:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return
        for text in raw.split(b"\n"):
            try:
                self._apply(self._decoder.decode(text))
            except msgspec.DecodeError:
                continue  # the line that was being written when the power went

    def _shrink(self) -> None:
        if self._grown_bytes <= GROWN_BYTES:
            return
        self._grown_bytes = 0
        try:
            self._rewrite()
        except OSError as error:
            # Every line stands in the old file: it goes on growing, until the next attempt.
            logger.error("the journal cannot be written anew: %s", ascii(str(error)))

    def _rewrite(self) -> None:
        """The file with what is still of use, put in its place whole."""
        raw = b"".join(
            msgspec.json.encode(line) + b"\n"
            for task_id, entry in self._entries.items()
            for line in _lines(task_id, entry)
        )
        write_private(self._path, raw.decode())
        # The old file has lost its name: nothing is written there any more.
        before, self._handle = self._handle, None
        if before is not None:
            os.close(before)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        self._handle = os.open(self._path, flags)
        self._grown_bytes, self._is_torn = 0, False


def _lines(id: str, entry: Entry) -> list[Line]:
    if entry.is_told:
        return [Line(at="told", id=id, result=entry.result)]
    lines = [Line(at="accepted", id=id, task=entry.task)]
    if entry.is_started:
        lines.append(Line(at="started", id=id))
    if entry.result is not None:
        lines.append(Line(at="ended", id=id, result=entry.result))
    return lines
