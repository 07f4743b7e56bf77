"""The log as pages of envelopes, and an export of another hub taken in."""

from __future__ import annotations

from typing import Annotated

import msgspec

from clawnet.core.calls.archive import (
    EXPORT_LIMIT,
    IMPORT_MAX_BYTES,
    ExportEvents,
    ExportPage,
    ImportedEvents,
    ImportEvents,
)
from clawnet.core.calls.reading import Gap
from clawnet.core.cursors import parse_since
from clawnet.core.errors import Forbidden, InvalidChannel, InvalidData, InvalidType, NotFound
from clawnet.core.events import Event
from clawnet.doors.http.answers import Answer, encode, json_answer, json_bytes
from clawnet.doors.http.body import decode, need_json, read_body
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request

_import = msgspec.json.Decoder(ImportEvents)


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the log. `next` is the `since` of the next page, `head` the log's end."""

    events: list[Event]
    next: str
    head: str
    is_end: bool
    gaps: list[Gap]


@operation(
    tag="archive",
    answer=Exported,
    query={
        "channels": Annotated[
            str,
            msgspec.Meta(
                min_length=1, description="Names and patterns, separated by commas; all, if none."
            ),
        ],
        "since": Annotated[
            str, msgspec.Meta(min_length=1, description="A cursor, a duration such as 10m, or all.")
        ],
        "limit": Annotated[int, msgspec.Meta(ge=1, le=EXPORT_LIMIT)],
    },
    errors=(Forbidden, InvalidChannel),
)
async def export(request: Request) -> Answer:
    """Read all events that the caller may read, in the order of the log.

    A page may be empty and not the end: go on with `next` until `is_end`.
    """
    query = request.query("channels", "since", "limit")
    caller = request.caller()
    since = query.text("since")
    call = ExportEvents(
        channels=tuple(query.names("channels")) or (">",),
        since=None if since is None else parse_since(since),
        limit=query.integer("limit", EXPORT_LIMIT),
    )
    page: ExportPage = await request.call(call, caller)
    parts = [b'{"events":[', page.body.replace(b"\n", b","), b'],"next":', encode(page.next)]
    parts += [b',"head":', encode(page.head), b',"is_end":', encode(page.is_end)]
    parts += [b',"gaps":', encode(page.gaps), b"}"]
    return json_bytes(b"".join(parts))


@operation(
    tag="archive",
    body=ImportEvents,
    example={"events": []},
    answer=ImportedEvents,
    errors=(Forbidden, NotFound, InvalidChannel, InvalidData, InvalidType),
)
async def take_in(request: Request) -> Answer:
    """Store events of another hub's export. By the account admin only.

    All of them or none; what was imported before is not stored again.
    """
    request.query()
    caller = request.caller()
    need_json(request.headers)
    raw = await read_body(request.receive, request.headers, max_bytes=IMPORT_MAX_BYTES)
    done: ImportedEvents = await request.call(decode(_import, raw), caller)
    return json_answer(done)
