"""Reading what was published: a channel's history, and one event by its id."""

from __future__ import annotations

from clawnet.core.calls.reading import HISTORY_LIMIT, History, ReadEvent, ReadHistory
from clawnet.core.cursors import parse_since
from clawnet.doors.http.answers import Answer, encode, json_bytes
from clawnet.doors.http.request import Request


async def history(request: Request) -> Answer:
    """GET /api/v1/channels/{channel}/events"""
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


async def event(request: Request) -> Answer:
    """GET /api/v1/events/{id}"""
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
