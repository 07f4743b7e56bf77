"""A warden hands back what it kept to a hub that began empty."""

from __future__ import annotations

import msgspec

from clawnet.core.calls.restoring import (
    RESTORE_MAX_BYTES,
    ReadRestore,
    RestoreDone,
    RestoreEvents,
    Restoring,
)
from clawnet.core.errors import Conflict, Forbidden
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.body import decode, need_json, read_body
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request

_events = msgspec.json.Decoder(RestoreEvents)


@operation(tag="warden", answer=Restoring, errors=(Forbidden,))
async def read(request: Request) -> Answer:
    """Ask whether the hub waits for what a warden kept. By a warden."""
    request.query()
    return json_answer(await request.call(ReadRestore(), request.caller()))


@operation(
    tag="warden",
    body=RestoreEvents,
    example={"events": []},
    answer=Restoring,
    errors=(Forbidden, Conflict),
)
async def take_in(request: Request) -> Answer:
    """Hand back events, oldest first. By a warden, while the hub restores.

    They keep their ids, times, types and senders and get new places.
    """
    request.query()
    caller = request.caller()
    need_json(request.headers)
    raw = await read_body(request.receive, request.headers, max_bytes=RESTORE_MAX_BYTES)
    return json_answer(await request.call(decode(_events, raw), caller))


@operation(tag="warden", answer=Restoring, errors=(Forbidden,))
async def done(request: Request) -> Answer:
    """Say that everything was handed back: the hub takes publishes. By a warden."""
    request.query()
    return json_answer(await request.call(RestoreDone(), request.caller()))
