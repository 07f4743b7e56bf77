"""claw import: an export of another hub, put into this one in pieces, resumable.

Which pieces are in is kept beside the file (FILE.import) until all are; and the
hub knows each event by its first id, so that a piece sent twice is stored once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from clawnet.cli.commands.export import FORMAT
from clawnet.cli.options import Command, invocation
from clawnet.cli.patience import patiently
from clawnet.cli.progress import bar
from clawnet.cli.terminal import note, say_json
from clawnet.core.errors import ClawError, InvalidData

PIECE_EVENTS = 500
PIECE_BYTES = 1_048_576
LINE_MAX_BYTES = 1_048_576


class Piece(NamedTuple):
    """Some events of the file; `line` is that of the first, `end` where the next piece begins."""

    events: list[bytes]
    line: int
    end: int


@click.command("import", cls=Command, short_help="Put an export of another hub into this one.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--missing", type=click.Choice(["refuse", "tombstone"]), default="refuse", show_default=True,
    help="Senders that are no accounts here: refuse them, or take their ids for ever.",
)  # fmt: skip
@click.option("--restart", is_flag=True, help="Begin anew, whatever was sent before.")
def import_(file: Path, missing: str, restart: bool) -> None:
    """Put the events of FILE, made by claw export, into this hub. By the account admin.

    They get new places here and are marked as imported. Broken off and run
    again, it goes on where it was; what is there already is not stored twice.
    """
    at = invocation()
    marks = file.with_name(file.name + ".import")
    total = {"stored": 0, "repeated": 0, "skipped": 0}
    tombstones: list[str] = []
    try:
        size = file.stat().st_size
    except OSError as error:
        raise InvalidData(
            f"{file} cannot be read ({error.strerror}).", next="Name a file that claw export made."
        ) from None
    identity = _identity(file)
    start, line = (0, 0) if restart else _begun(marks, identity, size)
    if start:
        note(f"going on behind line {line}")
    with bar("Importing") as progress:
        for piece in _pieces(file, start, line):
            try:
                done = _send(piece.events, missing)
            except ClawError as error:
                index = error.facts.get("index")
                if isinstance(index, int):
                    error.message = f"Event {index + 1} behind line {piece.line}: {error.message}"
                raise
            for name in total:
                total[name] += done[name]
            tombstones += done["tombstones"]
            line = piece.line + len(piece.events)
            _mark(marks, identity, piece.end, line)
            progress(piece.end, size)
    marks.unlink(missing_ok=True)
    if at.is_json:
        say_json({"file": str(file), **total, "tombstones": tombstones})
        return
    note(
        f"{total['stored']} events stored, {total['repeated']} were there already, "
        f"{total['skipped']} of the hub's own left out"
        + (f", {len(tombstones)} ids taken" if tombstones else "")
    )


def _send(events: list[bytes], missing: str) -> dict[str, Any]:
    at = invocation()
    # The lines go as they are: decoding and encoding them anew could change a number.
    raw = b'{"missing":"%b","events":[%b]}' % (missing.encode(), b",".join(events))
    hub = at.hub()
    try:
        # Safe to repeat: the hub knows each event by its first id.
        done: dict[str, Any] = patiently(lambda: hub.call("POST", "/api/v1/import", raw=raw))
    except ClawError as error:
        raise at.explained(error) from None
    return done


def _pieces(file: Path, start: int, line: int) -> Iterator[Piece]:
    events: list[bytes] = []
    size, first = 0, line
    with file.open("rb") as source:
        head = _parsed(source.readline(LINE_MAX_BYTES), 1)
        if head.get("clawnet_export") != FORMAT:
            raise InvalidData(
                f"{file} is not an export of claw.", next="Make one with claw export FILE."
            )
        if start:
            source.seek(start)
        else:
            line = first = 1
        while raw := source.readline(LINE_MAX_BYTES):
            line += 1
            if not raw.endswith(b"\n"):
                if events:
                    yield Piece(events, first, source.tell() - len(raw))
                raise InvalidData(
                    f"Line {line} is cut off; all before it is stored.",
                    next="Finish the export with --resume, then import it again.",
                )
            value = _parsed(raw, line)
            if "seq" not in value:
                continue
            if events and (len(events) >= PIECE_EVENTS or size + len(raw) > PIECE_BYTES):
                yield Piece(events, first, source.tell() - len(raw))
                events, size, first = [], 0, line - 1
            events.append(raw.rstrip(b"\r\n"))
            size += len(raw)
        if events:
            yield Piece(events, first, source.tell())


def _parsed(raw: bytes, line: int) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidData(f"Line {line} is not a line of an export.", next="Make the export anew.")
    return value


def _identity(file: Path) -> dict[str, str]:
    """What a mark is good for: this export, and the log that is there now. A hub that was begun
    anew at the same address, or restored, has another epoch and begins at the first line."""
    at = invocation()
    try:
        with file.open("rb") as source:
            head = source.readline(LINE_MAX_BYTES)
    except OSError as error:
        raise InvalidData(
            f"{file} cannot be read ({error.strerror}).", next="Name a file that claw export made."
        ) from None
    cursor = str(at.call("GET", "/api/v1/me")["cursor"])
    return {
        "server": at.address.url,
        "epoch": cursor.rpartition("-")[0],
        "export": hashlib.sha256(head).hexdigest(),
    }


def _begun(marks: Path, identity: dict[str, str], size: int) -> tuple[int, int]:
    """Where an import of this file into this log broke off."""
    try:
        found = json.loads(marks.read_text())
        if found["of"] == identity and found["offset"] <= size:
            return int(found["offset"]), int(found["line"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0, 0


def _mark(marks: Path, identity: dict[str, str], offset: int, line: int) -> None:
    # Losing it costs time only: the hub knows what it has.
    try:
        marks.write_text(json.dumps({"of": identity, "offset": offset, "line": line}))
    except OSError as error:
        note(f"claw: {marks} cannot be written ({error.strerror}); a rerun begins at the start.")
