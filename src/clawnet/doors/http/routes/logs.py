"""Logs, for masters: what the hub logged, what became of tasks, the audit trail."""

from __future__ import annotations

from typing import Annotated

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.audit import AuditPage, ReadAudit
from clawnet.core.calls.logs import LOG_KINDS, LOG_LIMIT, LOG_LIMIT_MAX, LogKind, LogPage, ReadLog
from clawnet.core.calls.reading import History, ReadHistory
from clawnet.core.calls.tasks import SYSTEM_CHANNEL
from clawnet.core.cursors import AfterOffset
from clawnet.core.errors import BadRequest
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request


@operation(
    tag="admin",
    answer=LogPage,
    query={
        "kind": LogKind,
        "after": Annotated[
            int, msgspec.Meta(ge=0, description="`next` of the page before; left out: the newest.")
        ],
        "limit": Annotated[
            int,
            msgspec.Meta(ge=1, le=LOG_LIMIT_MAX, description="How many at most; 100 if left out."),
        ],
    },
)
async def read(request: Request) -> Answer:
    """Read a log, oldest record first.

    `server` is what the hub itself logged since it started, `tasks` what became of tasks,
    `audit` the chain of who did what. For masters; the latter two for wardens too.
    """
    caller = request.caller()
    query = request.query("kind", "after", "limit")
    kind = query.text("kind") or "server"
    after, limit = query.maybe_integer("after"), query.integer("limit", LOG_LIMIT)
    if not 1 <= limit <= LOG_LIMIT_MAX:
        raise BadRequest(f"limit must be 1 to {LOG_LIMIT_MAX}.", parameter="limit")
    return json_answer(await log_page(request, caller, kind, after=after, limit=limit))


async def log_page(
    request: Request, caller: Caller, kind: str, *, after: int | None, limit: int
) -> LogPage:
    """A page of the log of this kind. Raises BadRequest, Forbidden."""
    if kind == "server":
        lines: LogPage = await request.call(ReadLog(after=after, limit=limit), caller)
        return lines
    if kind == "tasks":
        return await _tasks(request, caller, after, limit)
    if kind == "audit":
        found: AuditPage = await request.call(ReadAudit(after=after, limit=limit), caller)
        records = [msgspec.Raw(msgspec.json.encode(record)) for record in found.records]
        return LogPage(kind="audit", records=records, next=found.next)
    raise BadRequest(
        f"There is no log {ascii(kind[:40])}.",
        next=f"Choose one of {', '.join(LOG_KINDS)}.",
        parameter="kind",
    )


async def _tasks(request: Request, caller: Caller, after: int | None, limit: int) -> LogPage:
    """The events of system.tasks, which masters and wardens alone may read."""
    newest = after is None
    call = ReadHistory(
        channel=SYSTEM_CHANNEL,
        since=None if after is None else AfterOffset(after),
        limit=limit,
        reverse=newest,
    )
    page: History = await request.call(call, caller)
    records = [msgspec.Raw(line) for line in page.body.splitlines()]
    if newest:
        records.reverse()
    if records:
        last = msgspec.json.decode(records[-1], type=_Place).offset
    else:
        # An `after` of before a restart may lie behind the newest: go on from there.
        last = (page.next if not newest else None) or 0
    return LogPage(kind="tasks", records=records, next=last)


class _Place(msgspec.Struct):
    offset: int
