"""Channels: which there are for the caller, and who may read the caller's own."""

from __future__ import annotations

from typing import Annotated

import msgspec

from clawnet.core.calls.grants import Lock, LockState, Unlock
from clawnet.core.calls.reading import ChannelList, ListChannels
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.describe import After, Limit, operation
from clawnet.doors.http.request import Request


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body that has no members."""


Pattern = Annotated[str, msgspec.Meta(description="Only these, such as `public.*`.")]

_nothing = msgspec.json.Decoder(Nothing)


@operation(
    tag="channels", answer=ChannelList, query={"after": After, "limit": Limit, "pattern": Pattern}
)
async def list_all(request: Request) -> Answer:
    """List the channels that the caller may read."""
    query = request.query("after", "limit", "pattern")
    call = ListChannels(
        after=query.text("after") or "",
        limit=query.integer("limit", 100),
        pattern=query.text("pattern"),
    )
    return json_answer(await request.call(call, request.caller()))


@operation(
    tag="channels",
    body=Nothing,
    is_body_optional=True,
    answer=LockState,
    example_members={"channel": "plan"},
)
async def lock(request: Request) -> Answer:
    """Make one's own channel private again, at once."""
    request.query()
    caller = request.caller()
    await request.body(_nothing, default=Nothing())
    return json_answer(await request.call(Lock(channel=request.member("channel")), caller))


@operation(
    tag="channels",
    body=Nothing,
    is_body_optional=True,
    answer=LockState,
    example_members={"channel": "plan"},
)
async def unlock(request: Request) -> Answer:
    """Let any account read one's own channel."""
    request.query()
    caller = request.caller()
    await request.body(_nothing, default=Nothing())
    return json_answer(await request.call(Unlock(channel=request.member("channel")), caller))
