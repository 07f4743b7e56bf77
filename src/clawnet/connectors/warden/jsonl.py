"""Events in files, one JSON a line: rotated, on disk when kept, whole after a crash."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from clawnet.connectors.warden.keeping import Down, blanked, blanks_of
from clawnet.core.events import Event

T = TypeVar("T")

FILE = "events-{:08d}.jsonl"
ROTATE_BYTES = 16_777_216
REMEMBERED = 5_000
"""So many of the newest ids are known: what is read again after a crash is not kept twice."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Event).decode


class JsonLines:
    """A Place (K1 within REMEMBERED). One process at a time writes a folder."""

    name = "jsonl"

    def __init__(self, folder: Path, *, rotate_bytes: int = ROTATE_BYTES) -> None:
        self.folder = folder
        self._rotate_bytes = rotate_bytes
        self._ids: deque[str] = deque(maxlen=REMEMBERED)
        self._known: set[str] = set()
        self._is_open = False

    # --- Place --------------------------------------------------------------

    async def keep(self, events: Sequence[Event]) -> None:
        """Raises Down."""
        await self._run(self._keep, events)

    async def newest(self, world: str, limit: int) -> list[Event]:
        """Raises Down."""

        def read() -> list[Event]:
            # From the newest on: there may be far more than is asked for.
            found: deque[Event] = deque()
            for path in reversed(self.files()):
                own = [event for event in self.events_of(path) if event.world == world]
                found.extendleft(reversed(own))
                if len(found) >= limit:
                    break
            return list(found)[-limit:]

        return await self._run(read)

    async def close(self) -> None:
        """Nothing is open between two calls."""

    # --- files --------------------------------------------------------------

    def files(self) -> list[Path]:
        """All of them, oldest first."""
        return sorted(self.folder.glob("events-*.jsonl"))

    def events_of(self, path: Path) -> Iterator[Event]:
        """The events of a file; what is no event is passed over."""
        with path.open("rb") as file:
            for line in file:
                try:
                    yield _decode(line)
                except msgspec.MsgspecError:
                    continue

    async def take(self) -> tuple[Path, list[Event]] | None:
        """The oldest file and what is in it, or None. Raises Down."""

        def read() -> tuple[Path, list[Event]] | None:
            files = self.files()
            return (files[0], list(self.events_of(files[0]))) if files else None

        return await self._run(read)

    async def remove(self, path: Path) -> None:
        """What was in it is kept elsewhere. Raises Down."""
        await self._run(path.unlink)

    # --- inside -------------------------------------------------------------

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        try:
            return await asyncio.to_thread(work, *args)
        except OSError as error:
            raise Down(f"{self.folder}: {error.strerror or error}") from None

    def _keep(self, events: Sequence[Event]) -> None:
        self._open()
        fresh = [event for event in events if event.id not in self._known]
        if fresh:
            self._append(b"".join(_encode(event) + b"\n" for event in fresh))
            for event in fresh:
                if len(self._ids) == self._ids.maxlen:
                    self._known.discard(self._ids[0])
                self._ids.append(event.id)
                self._known.add(event.id)
        for gone in blanks_of(events):
            self._blank(gone)

    def _open(self) -> None:
        if self._is_open:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self.files()[-1:]:
            self._mend(path)
        for path in self.files()[-2:]:
            for event in self.events_of(path):
                self._ids.append(event.id)
        self._known = set(self._ids)
        self._is_open = True

    def _mend(self, path: Path) -> None:
        """Cut a last line that a crash left without its end."""
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(path, whole)

    def _append(self, data: bytes) -> None:
        files = self.files()
        path = files[-1] if files else self.folder / FILE.format(1)
        if files and path.stat().st_size + len(data) > self._rotate_bytes:
            number = int(path.stem.rpartition("-")[2]) + 1
            path = self.folder / FILE.format(number)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(handle).st_size
            try:
                if os.write(handle, data) != len(data):
                    raise OSError("the disk took only a part")
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)

    def _blank(self, id: str) -> None:
        """Write the file that holds a deleted message anew, with its tombstone."""
        mark = f'"{id}"'.encode()
        for path in reversed(self.files()):
            data = path.read_bytes()
            if mark not in data:
                continue
            lines = data.splitlines()
            changed = False
            for index, line in enumerate(lines):
                if mark not in line[:400]:
                    continue
                try:
                    event = _decode(line)
                except msgspec.MsgspecError:
                    continue
                if event.id == id and not event.deleted:
                    lines[index] = _encode(blanked(event))
                    changed = True
            if changed:
                self._replace(path, b"\n".join(lines) + b"\n")

    def _replace(self, path: Path, data: bytes) -> None:
        beside = path.with_name(f".{path.name}.new")
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        beside.rename(path)
