"""The chain on disk: traffic.log, the files put aside before it, and its signed head.

All of it runs on one thread at a time; the feature calls it by asyncio.to_thread.
"""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from clawnet.core.audit import CHECKPOINT, OPENED, Record, checkpoint, line_of, opened
from clawnet.features.audit.keys import Key

FILE = "traffic.log"
HEAD = "traffic.head"
POINTS = "traffic.checkpoints"
ASIDE = "traffic-{:012d}.log"
"""A file put aside, by the lines up to its end."""
RECENT_MAX = 5_000
"""So many of the newest records of each world are kept in memory, to be read: a loud one does not
push out what another's masters are to see."""
TAIL_BYTES = 65_536

_log = logging.getLogger(__name__)


def files_of(folder: Path) -> list[Path]:
    """All files of a chain, oldest first."""
    aside = sorted(folder.glob("traffic-[0-9]*.log"))
    present = folder / FILE
    return [*aside, present] if present.exists() else aside


def lines_of(files: Sequence[Path]) -> Iterator[bytes]:
    """All lines of a chain without their ends. What a crash tore off at its end is no line."""
    for number, path in enumerate(files, 1):
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n") or number < len(files):
                    yield line.removesuffix(b"\n")


def has_torn_tail(files: Sequence[Path]) -> bool:
    """Whether the chain ends within a line, as a crash leaves it."""
    with files[-1].open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


class Chain:
    """Appends records. Made by open(), which goes on behind the last whole line."""

    def __init__(
        self, folder: Path, key: Key, *, now: Callable[[], str], rotate_bytes: int
    ) -> None:
        self.folder = folder
        self.lines = 0
        self.seq = 0
        self.epoch = ""
        self.last_hash = ""
        self.since_checkpoint = 0
        """Records behind the last checkpoint."""
        self.recent: dict[str, deque[tuple[int, Record]]] = {}
        """By world; "" has what concerns all."""
        self._key = key
        self._now = now
        self._rotate_bytes = rotate_bytes
        self._size = 0
        self._handle = -1
        self._is_torn = False
        """Whether a write that failed may have left a part behind `_size`."""

    @classmethod
    def open(cls, folder: Path, key: Key, *, now: Callable[[], str], rotate_bytes: int) -> Chain:
        """Take up the chain of a folder, or begin one. Raises OSError."""
        chain = cls(folder, key, now=now, rotate_bytes=rotate_bytes)
        path = folder / FILE
        chain._reopen()
        torn = chain._cut_torn_tail()
        chain._size = os.fstat(chain._handle).st_size
        aside = files_of(folder)[:-1]
        # Empty behind others: the hub was killed between putting aside and beginning anew.
        is_begun = chain._size > 0 or not aside
        for raw in lines_of([path] if is_begun else aside[-1:]):
            chain._recall(raw)
        chain._note_what_was_cut_off()
        if torn:
            _log.warning("the last line of %s was torn by a crash: %d bytes cut", FILE, torn)
            note = {"type": "torn_tail", "from": "hub", "to": "", "tenant_id": "", "bytes": torn}
            chain.append([{**note, "seq": chain.seq, "ts": now()}])
        return chain

    def follow(self, epoch: str, *, seq: int) -> None:
        """Say that from here on the chain follows a log of this epoch, behind `seq`."""
        if self.lines and epoch == self.epoch and seq == self.seq:
            return
        self.append([opened(seq=seq, lines=self.lines, epoch=epoch, ts=self._now())])
        self.epoch, self.seq = epoch, seq

    def append(self, records: Sequence[Record]) -> None:
        """Add records, on disk when this returns. Raises OSError; then nothing was added."""
        if not records:
            return
        if self._handle < 0:
            # It was to be begun anew as a file was put aside, and that failed.
            self._reopen()
        if self._is_torn:
            os.ftruncate(self._handle, self._size)
            self._is_torn = False
        if self.lines and not self._size and records[0]["type"] != OPENED:
            # A file behind others says what it is behind.
            begins = opened(seq=self.seq, lines=self.lines, epoch=self.epoch, ts=self._now())
            records = [begins, *records]
        lines, made, last = [], [], self.last_hash
        for record in records:
            before = last
            line, last = line_of(record, before)
            lines.append(line)
            made.append({**record, "prev_hash": before, "hash": last})
        data = ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
        # Until all of it is on disk, what is there is to be cut.
        self._is_torn = True
        _write_all(self._handle, data)
        os.fsync(self._handle)
        self._is_torn = False
        self._size += len(data)
        for record in made:
            self._count(record)

    def checkpoint(self) -> Record:
        """Sign what is there: a line, kept beside the chain too. Raises OSError."""
        record = self._point()
        self.append([record])
        self._keep(POINTS, record, is_added=True)
        self.keep_head()
        if self._size > self._rotate_bytes:
            self._rotate()
        return record

    def keep_head(self) -> None:
        """Keep beside the chain, signed, how long it is and how it ends. Raises OSError."""
        self._keep(HEAD, self._point(), is_added=False)

    def close(self) -> None:
        """Give the file back. Idempotent."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    # --- inside -------------------------------------------------------------

    def _point(self) -> Record:
        return checkpoint(
            seq=self.seq,
            lines=self.lines,
            at_hash=self.last_hash,
            ts=self._now(),
            key=self._key.fingerprint,
            sign=self._key.sign,
        )

    def _recall(self, raw: bytes) -> None:
        try:
            record = json.loads(raw)
            seq, own = int(record["seq"]), str(record["hash"])
        except (ValueError, TypeError, KeyError, RecursionError):
            # `claw audit verify` names it; the chain goes on behind it.
            _log.error("line %d of %s is damaged: claw audit verify", self.lines + 1, FILE)
            self.lines += 1
            return
        if record.get("type") == OPENED and not self.lines:
            # What was put aside is counted by the line that begins this file.
            self.lines = int(record.get("lines") or 0)
        self._count({**record, "seq": seq, "hash": own})

    def _count(self, record: Record) -> None:
        self.lines += 1
        self.seq, self.last_hash = record["seq"], record["hash"]
        if record["type"] == OPENED:
            self.epoch = str(record.get("epoch", ""))
        self.since_checkpoint = 0 if record["type"] == CHECKPOINT else self.since_checkpoint + 1
        world = str(record.get("tenant_id", ""))
        if world not in self.recent:
            self.recent[world] = deque(maxlen=RECENT_MAX)
        self.recent[world].append((self.lines, record))

    def _cut_torn_tail(self) -> int:
        """Cut what follows the last whole line; returns how many bytes that were."""
        size = os.fstat(self._handle).st_size
        at = size
        while at:
            start = max(0, at - TAIL_BYTES)
            piece = os.pread(self._handle, at - start, start)
            end = piece.rfind(b"\n")
            if end >= 0:
                at = start + end + 1
                break
            at = start
        if at < size:
            os.ftruncate(self._handle, at)
            os.fsync(self._handle)
        return size - at

    def _rotate(self) -> None:
        os.close(self._handle)
        self._handle = -1
        path = self.folder / FILE
        path.rename(self.folder / ASIDE.format(self.lines))
        self._size = 0
        self.append([opened(seq=self.seq, lines=self.lines, epoch=self.epoch, ts=self._now())])

    def _reopen(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        self._handle = os.open(self.folder / FILE, flags, 0o600)
        self._size = os.fstat(self._handle).st_size

    def _note_what_was_cut_off(self) -> None:
        """Say it in the chain if it is shorter than its signed head, or ends otherwise.

        Each line is on disk before the head is, so no crash does that.
        """
        heads = [r for r in _records_of(self.folder / HEAD) if self._key.signed(r)]
        for head in heads[-1:]:
            lines, at_hash = head.get("lines"), head.get("at_hash")
            if lines == self.lines and at_hash != self.last_hash:
                what = "the chain ends with another line than its head says"
            elif isinstance(lines, int) and lines > self.lines:
                what = f"{lines - self.lines} lines at the end of the chain are missing"
            else:
                return
            _log.error("%s: claw audit verify", what)
            note = {"type": "cut_off", "from": "hub", "to": "", "tenant_id": "", "what": what}
            self.append([{**note, "seq": self.seq, "ts": self._now(), "head": head}])

    def _keep(self, name: str, record: dict[str, Any], *, is_added: bool) -> None:
        line = json.dumps(record, sort_keys=True, separators=(",", ":")).encode() + b"\n"
        path = self.folder / name
        if is_added:
            # Behind a line that a full disk cut, this one is still a line.
            line = b"\n" + line
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        else:
            path = self.folder / f".{name}.new"
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write_all(handle, line)
            os.fsync(handle)
        finally:
            os.close(handle)
        if not is_added:
            path.rename(self.folder / name)


def known_of(folder: Path) -> list[Record]:
    """The checkpoints kept beside a chain, and its head; what is no JSON is passed over."""
    return [record for name in (POINTS, HEAD) for record in _records_of(folder / name)]


def _records_of(path: Path) -> list[Record]:
    found: list[Record] = []
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    for line in data.splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def _write_all(handle: int, data: bytes) -> None:
    """Raises OSError; then a part of it may be there."""
    written = os.write(handle, data)
    if written != len(data):
        raise OSError(f"the disk took {written} of {len(data)} bytes")
