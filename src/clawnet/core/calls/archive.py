"""Read a world's log as it lies, and put what another hub exported into this one."""

from __future__ import annotations

from typing import Literal

import msgspec

from clawnet.core.calls.reading import Gap
from clawnet.core.cursors import Since
from clawnet.core.events import Event

EXPORT_LIMIT = 1_000
EXPORT_CHANNELS_MAX = 100
IMPORT_EVENTS_MAX = 500
IMPORT_MAX_BYTES = 4_194_304

MissingActors = Literal["refuse", "tombstone"]


class ExportEvents(msgspec.Struct, frozen=True, kw_only=True):
    """A page of all events on these channels (names and patterns) that the caller may read.

    In the order of the log. `since` is a cursor, a duration or None for the beginning.
    """

    channels: tuple[str, ...] = (">",)
    since: Since | None = None
    limit: int = EXPORT_LIMIT


class ExportPage(msgspec.Struct, frozen=True, kw_only=True):
    """`body` holds envelopes, one per line. `next` is the cursor behind this page and `head` that
    of the log's end; `is_end` says that there was nothing more when it was read."""

    body: bytes
    count: int
    next: str
    head: str
    is_end: bool
    gaps: list[Gap]


class ImportEvents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Store events of another hub's export: by the account `admin` only.

    They are new events here, with this hub's ids, places and time, said by the actor of the
    export, from the source `external`, and marked with `imported`. An event that was imported
    before, or that this hub exported itself and still has, is not stored again. `missing`:
    what happens for an actor that is no account here; `tombstone` takes its id for ever, so
    that nobody can speak as it afterwards.
    """

    events: list[Event]
    missing: MissingActors = "refuse"


class ImportedEvents(msgspec.Struct, frozen=True, kw_only=True):
    """So many were stored, were here before, and were left out because only the hub itself
    speaks on their channels (system.*). `tombstones` are the ids that were taken."""

    stored: int
    repeated: int
    skipped: int
    tombstones: list[str]
