"""Reading a chain of causes."""

from __future__ import annotations

import msgspec

from clawnet.core.calls.tracing import ReadTrace, Trace
from clawnet.core.errors import BadRequest, NotFound
from clawnet.core.events import Event
from clawnet.doors.http.answers import Answer, encode, json_bytes
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request


class TracePage(msgspec.Struct, frozen=True, kw_only=True):
    """What trace() writes: `roots` are the ids where the tree begins, `absent` the causes that
    events name and that are not among them (not visible, gone, or never there), `is_cut` says
    that the chain is longer."""

    id: str
    events: list[Event]
    roots: list[str]
    absent: list[str]
    is_cut: bool


@operation(tag="events", answer=TracePage, is_public=True, errors=(NotFound, BadRequest))
async def trace(request: Request) -> Answer:
    """Read what happened because of what.

    The id is an event's, a correlation id, a W3C trace id or a whole traceparent. Given are the
    events of the chain that you may read, in the order of the log; each names its cause in
    `causation_id`.
    """
    request.query()
    call = ReadTrace(id=request.member("id"))
    found: Trace = await request.call(call, request.reader())
    return json_bytes(page_json(found))


def page_json(found: Trace) -> bytes:
    """A trace as JSON; the envelopes pass through as they are stored."""
    return b"".join(
        (
            b'{"id":', encode(found.id),
            b',"events":[', found.body.replace(b"\n", b","),
            b'],"roots":', encode(found.roots),
            b',"absent":', encode(found.absent),
            b',"is_cut":', encode(found.is_cut),
            b"}",
        )
    )  # fmt: skip
