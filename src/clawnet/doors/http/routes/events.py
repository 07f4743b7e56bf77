"""Reading what was published: a channel's history, and one event by its id."""

from __future__ import annotations

from typing import Annotated

import msgspec

from clawnet.core.calls.reading import (
    HISTORY_LIMIT,
    WAIT_MAX_S,
    Gap,
    History,
    ReadEvent,
    ReadHistory,
)
from clawnet.core.cursors import parse_since
from clawnet.core.events import Event
from clawnet.doors.http.answers import Answer, encode, json_bytes
from clawnet.doors.http.describe import Limit, Where, operation
from clawnet.doors.http.request import Request


class HistoryPage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A page of a channel's past. `next` continues it; `gaps` say what is no longer there, and
    `gap` is the first of them."""

    events: list[Event]
    next: int | None
    epoch: str
    gap: Gap | None = None
    gaps: list[Gap] = []


@operation(
    tag="events",
    answer=HistoryPage,
    is_public=True,
    query={
        "since": Where,
        "limit": Limit,
        "reverse": Annotated[bool, msgspec.Meta(description="Newest first.")],
        "before": Annotated[
            int, msgspec.Meta(ge=0, description="With reverse: the `next` of the page before.")
        ],
        "wait": Annotated[
            float,
            msgspec.Meta(ge=0, le=WAIT_MAX_S, description="Seconds to wait for the first event."),
        ],
    },
)
async def history(request: Request) -> Answer:
    """Read a channel's past."""
    query = request.query("since", "limit", "reverse", "before", "wait")
    since = query.text("since")
    call = ReadHistory(
        channel=request.member("channel"),
        since=None if since is None else parse_since(since),
        before=query.maybe_integer("before"),
        limit=query.integer("limit", HISTORY_LIMIT),
        reverse=query.flag("reverse"),
        wait_s=query.number("wait", 0.0),
    )
    work = request.call(call, request.reader())
    page: History = await (request.attended(work) if call.wait_s else work)
    return json_bytes(page_json(page))


@operation(tag="events", answer=Event, is_public=True)
async def event(request: Request) -> Answer:
    """Read one event by its id."""
    request.query()
    body: bytes = await request.call(ReadEvent(id=request.member("id")), request.reader())
    return json_bytes(body)


def page_json(page: History) -> bytes:
    """A page of history as JSON; the envelopes pass through as they are stored."""
    parts = [b'{"events":[', page.body.replace(b"\n", b","), b'],"next":', encode(page.next)]
    parts += [b',"epoch":', encode(page.epoch)]
    if page.gaps:
        parts += [b',"gap":', encode(page.gaps[0])]
    if len(page.gaps) > 1:
        parts += [b',"gaps":', encode(page.gaps)]
    parts.append(b"}")
    return b"".join(parts)
