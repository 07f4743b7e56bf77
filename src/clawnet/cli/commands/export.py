"""claw export: the events one may read, as lines of JSON in a file.

{"clawnet_export":1,"server":…,"world":…,"channels":[…],"created":…}
an envelope …
{"gap":{…}}             what was missing there
{"cursor":"…"}          everything above this line is whole; a resume goes on from here
{"end":{"events":n}}
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

import click
import msgspec

from clawnet.cli.exits import DONE
from clawnet.cli.options import Command, invocation
from clawnet.cli.patience import patiently
from clawnet.cli.progress import bar
from clawnet.cli.terminal import note, say_json
from clawnet.client.errors import UnexpectedAnswer
from clawnet.client.http import decode
from clawnet.core.errors import (
    BadConfiguration,
    BadRequest,
    ClawError,
    Conflict,
    DiskFull,
    InvalidData,
)

FORMAT = 1
PAGE = 1_000


@click.command(cls=Command, short_help="Write the events you may read into a file.")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--channel", "channels", multiple=True, metavar="NAME", help="A name or pattern; all."
)
@click.option("--since", metavar="PLACE", help="Such as 10m, 30d or a cursor; the beginning.")
@click.option("--resume", is_flag=True, help="Go on with a FILE that was broken off.")
def export(file: Path, channels: tuple[str, ...], since: str | None, resume: bool) -> int:
    """Write the events that you may read into FILE (`-`: standard output), one JSON per line.

    An export that broke off is whole up to its last line with a cursor;
    --resume goes on behind it, with the channels it began with.
    """
    at = invocation()
    if str(file) == "-":
        if resume:
            raise click.UsageError("--resume needs a FILE; standard output cannot be read back.")
        done = _write(sys.stdout.buffer, list(channels) or [">"], since, is_new=True, events=0)
    elif resume:
        wanted, since, events = _resumed(file)
        with _opened(file, is_new=False) as target:
            done = _write(target, wanted, since, is_new=False, events=events)
    else:
        # Asked before there is a file: a refusal must not leave an empty one behind.
        _page(list(channels) or [">"], since, limit=1)
        with _opened(file, is_new=True) as target:
            done = _write(target, list(channels) or [">"], since, is_new=True, events=0)
    if at.is_json and str(file) != "-":
        say_json({"file": str(file), **done})
    else:
        lost = f", {done['gaps']} gaps" if done["gaps"] else ""
        note(f"{done['events']} events up to {done['cursor']}{lost}")
    return DONE


def _write(
    target: IO[bytes], channels: list[str], since: str | None, *, is_new: bool, events: int
) -> dict[str, Any]:
    """Write pages until the end. What was written before a failure stays usable."""
    at = invocation()
    gaps = 0
    if is_new:
        me = at.call("GET", "/api/v1/me")
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        head = {"clawnet_export": FORMAT, "server": at.address.url, "world": me["world"],
                "channels": channels, "since": since, "created": created}  # fmt: skip
        _put(target, [head])
    first: int | None = None
    with bar("Exporting") as progress:
        while True:
            page = _page(channels, since)
            gaps += len(page.gaps)
            events += len(page.events)
            lines: list[Any] = [*({"gap": gap} for gap in page.gaps), *page.events]
            lines.append({"cursor": page.next})
            if page.is_end:
                lines.append({"end": {"events": events}})
            _put(target, lines)
            place = int(page.next.rpartition("-")[2])
            first = place if first is None else first
            progress(place - first, int(page.head.rpartition("-")[2]) - first)
            since = page.next
            if page.is_end:
                return {"events": events, "gaps": gaps, "cursor": since}


class _Page(msgspec.Struct, frozen=True):
    """A page; the events stay the bytes that they are, so that no number changes."""

    events: list[msgspec.Raw]
    next: str
    head: str
    is_end: bool
    gaps: list[msgspec.Raw]


def _page(channels: list[str], since: str | None, *, limit: int = PAGE) -> _Page:
    at = invocation()
    query = {"channels": ",".join(channels), "limit": str(limit)}
    if since is not None:
        query["since"] = since
    hub = at.hub()

    def ask() -> _Page:
        answer = hub.send("GET", f"/api/v1/export?{urlencode(query)}")
        if answer.status != 200:
            decode(answer, at.address)
        return msgspec.json.decode(answer.body, type=_Page)

    try:
        return patiently(ask)
    except msgspec.DecodeError:
        raise UnexpectedAnswer(f"{at.address.url} does not answer like a hub.") from None
    except ClawError as error:
        raise at.explained(error) from None


def _put(target: IO[bytes], lines: list[Any]) -> None:
    encode = msgspec.json.encode
    text = b"".join(
        b"%b\n" % (line if isinstance(line, msgspec.Raw) else encode(line)) for line in lines
    )
    try:
        target.write(text)
        target.flush()
        if target is not sys.stdout.buffer:
            os.fsync(target.fileno())
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DiskFull(
            f"The export cannot be written ({error.strerror}); what is there is whole.",
            next="Make room, then run the same command with --resume.",
        ) from None


def _opened(file: Path, *, is_new: bool) -> IO[bytes]:
    # Whoever has it can read what its owner may read: it is private from its first byte on.
    flags = os.O_WRONLY | (os.O_CREAT | os.O_EXCL if is_new else os.O_APPEND)
    try:
        return os.fdopen(os.open(file, flags, 0o600), "wb" if is_new else "ab")
    except FileExistsError:
        raise Conflict(
            f"{file} exists; an export never overwrites.",
            next="Name another file, or go on with this one by --resume.",
        ) from None
    except OSError as error:
        raise BadConfiguration(
            f"{file} cannot be written ({error.strerror}).",
            next="Name a file in a folder of yours.",
        ) from None


def _resumed(file: Path) -> tuple[list[str], str | None, int]:
    """Cut a broken-off file behind its last cursor; returns its channels, cursor and count."""
    channels: list[str] = []
    since: str | None = None
    good = events = counted = 0
    try:
        with file.open("rb") as source:
            head = json.loads(source.readline())
            channels, since = [str(name) for name in head["channels"]], head["since"]
            good = source.tell()
            if head["clawnet_export"] != FORMAT:
                raise KeyError(head["clawnet_export"])
            for raw in source:
                if not raw.endswith(b"\n"):
                    break
                line = json.loads(raw)
                if "cursor" in line:
                    since, counted = line["cursor"], events
                    good = source.tell()
                elif "end" in line:
                    good = source.tell()
                elif "seq" in line:
                    events += 1
        with file.open("rb+") as source:
            source.truncate(good)
    except OSError as error:
        raise InvalidData(
            f"{file} cannot be resumed ({error.strerror}).",
            next="Begin a new export, without --resume.",
        ) from None
    except (ValueError, KeyError, TypeError):
        raise InvalidData(
            f"{file} is not an export of claw.", next="Begin a new one in another file."
        ) from None
    if not channels:
        raise BadRequest(f"{file} names no channels.", next="Begin a new one in another file.")
    return channels, since, counted
