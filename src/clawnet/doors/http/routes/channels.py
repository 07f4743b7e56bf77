"""Channels: which there are for the caller, and who may read the caller's own."""

from __future__ import annotations

import msgspec

from clawnet.core.calls.grants import Lock, Unlock
from clawnet.core.calls.reading import ListChannels
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.request import Request


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body that has no members."""


_nothing = msgspec.json.Decoder(Nothing)


async def list_all(request: Request) -> Answer:
    """GET /api/v1/channels"""
    query = request.query("after", "limit", "pattern")
    call = ListChannels(
        after=query.text("after") or "",
        limit=query.integer("limit", 100),
        pattern=query.text("pattern"),
    )
    return json_answer(await request.call(call, request.caller()))


async def lock(request: Request) -> Answer:
    """POST /api/v1/channels/{channel}/lock"""
    request.query()
    caller = request.caller()
    await request.body(_nothing, default=Nothing())
    return json_answer(await request.call(Lock(channel=request.member("channel")), caller))


async def unlock(request: Request) -> Answer:
    """POST /api/v1/channels/{channel}/unlock"""
    request.query()
    caller = request.caller()
    await request.body(_nothing, default=Nothing())
    return json_answer(await request.call(Unlock(channel=request.member("channel")), caller))
