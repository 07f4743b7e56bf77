"""Tasks: give, list, wait for, take, go on, end, cancel, approve."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import msgspec

from clawnet.core.calls.reading import WAIT_MAX_S
from clawnet.core.calls.tasks import (
    ApproveTask,
    CancelTask,
    Dispatched,
    DispatchTask,
    EndStatus,
    FinishTask,
    ListTasks,
    ReadTask,
    TakeTasks,
    TaskInfo,
    TaskList,
    TaskStatus,
    UpdateTask,
    WorkStatus,
)
from clawnet.core.errors import (
    BadRequest,
    Conflict,
    DiskFull,
    InvalidChannel,
    PayloadTooLarge,
)
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.describe import After, operation
from clawnet.doors.http.request import Request, idempotency_key


class UpdateBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of an update; the path names the task."""

    fence: int
    status: WorkStatus
    output: str | None = None
    piece: int | None = None


class ResultBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a result; the path names the task."""

    fence: int
    status: EndStatus
    output: str | None = None
    error: str | None = None
    exit_code: int | None = None
    said: str | None = None


class ApproveBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`digest` is that of the task as the approver saw it."""

    digest: str


class CancelBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing is to be said; `{}` is taken."""


_dispatch = msgspec.json.Decoder(DispatchTask)
_take = msgspec.json.Decoder(TakeTasks)
_update = msgspec.json.Decoder(UpdateBody)
_result = msgspec.json.Decoder(ResultBody)
_approve = msgspec.json.Decoder(ApproveBody)
_cancel = msgspec.json.Decoder(CancelBody)


async def _asked(request: Request, call: Any, *, status: int = 200) -> Answer:
    return json_answer(await request.call(call, request.caller()), status=status)


@operation(
    tag="tasks",
    answer=TaskList,
    errors=(InvalidChannel,),
    query={
        "agent": Annotated[str, msgspec.Meta(description="Whose tasks, by id.")],
        "status": TaskStatus,
        "open": Annotated[bool, msgspec.Meta(description="Only those that have not ended.")],
        "room": Annotated[str, msgspec.Meta(description="Only those of this room.")],
        "after": After,
        "limit": Annotated[
            int,
            msgspec.Meta(ge=1, le=200, description="How many at most; 50 if left out."),
        ],
    },
)
async def list_all(request: Request) -> Answer:
    """List the tasks that the caller gave, has, may see as a master or by their room."""
    caller = request.caller()
    query = request.query("agent", "status", "open", "room", "after", "limit")
    status = query.text("status")
    if status is not None and status not in get_args(TaskStatus):
        raise BadRequest(
            f"There is no status {ascii(status[:40])}.",
            next=f"Choose one of {', '.join(get_args(TaskStatus))}.",
            parameter="status",
        )
    call = ListTasks(
        agent=query.text("agent"),
        status=status,  # type: ignore[arg-type]
        is_open=None if query.text("open") is None else query.flag("open"),
        room=query.text("room"),
        after=query.text("after"),
        limit=query.integer("limit", 50),
    )
    return json_answer(await request.call(call, caller))


@operation(
    tag="tasks",
    body=DispatchTask,
    example={"to": "bob", "command": "say what you see", "kind": "openclaw"},
    answer=Dispatched,
    status=201,
    headers={"Idempotency-Key": str},
    errors=(Conflict, DiskFull, InvalidChannel, PayloadTooLarge),
)
async def dispatch(request: Request) -> Answer:
    """Give work to an account, several, or `all`: one task each.

    The same `dedupe_key` twice gives the same tasks.
    """
    request.query()
    caller = request.caller()
    body = await request.body(_dispatch)
    key = idempotency_key(request.headers, body.dedupe_key, name="dedupe_key")
    call = msgspec.structs.replace(body, dedupe_key=key)
    return json_answer(await request.call(call, caller), status=201)


@operation(
    tag="tasks",
    answer=TaskInfo,
    query={
        "wait": Annotated[
            float, msgspec.Meta(ge=0, le=WAIT_MAX_S, description="Seconds to wait for its end.")
        ],
    },
)
async def read(request: Request) -> Answer:
    """Read a task."""
    caller = request.caller()
    wait_s = request.query("wait").number("wait", 0.0)
    if wait_s > WAIT_MAX_S:
        raise BadRequest(f"wait is at most {WAIT_MAX_S:g} seconds.", parameter="wait")
    work = request.call(ReadTask(task_id=request.member("id"), wait_s=wait_s), caller)
    return json_answer(await (request.attended(work) if wait_s else work))


@operation(tag="tasks", body=TakeTasks, is_body_optional=True, answer=TaskList)
async def take(request: Request) -> Answer:
    """Say that the caller is there and takes work: what is open for it is sent again."""
    request.query()
    caller = request.caller()
    call = await request.body(_take, default=TakeTasks())
    return json_answer(await request.call(call, caller))


@operation(
    tag="tasks",
    body=UpdateBody,
    example={"fence": 1, "status": "accepted"},
    answer=TaskInfo,
    errors=(Conflict,),
)
async def update(request: Request) -> Answer:
    """Acknowledge a task of one's own, or go on with it; both renew its lease."""
    request.query()
    caller = request.caller()
    body = await request.body(_update)
    call = UpdateTask(
        task_id=request.member("id"),
        fence=body.fence,
        status=body.status,
        output=body.output,
        piece=body.piece,
    )
    return json_answer(await request.call(call, caller))


@operation(
    tag="tasks",
    body=ResultBody,
    example={"fence": 1, "status": "completed", "output": "done"},
    answer=TaskInfo,
    errors=(Conflict, DiskFull),
)
async def result(request: Request) -> Answer:
    """Say how a task of one's own ended. A late result of a lost lease changes nothing."""
    request.query()
    caller = request.caller()
    body = await request.body(_result)
    call = FinishTask(
        task_id=request.member("id"),
        fence=body.fence,
        status=body.status,
        output=body.output,
        error=body.error,
        exit_code=body.exit_code,
        said=body.said,
    )
    return json_answer(await request.call(call, caller))


@operation(tag="tasks", body=CancelBody, is_body_optional=True, answer=TaskInfo, errors=(Conflict,))
async def cancel(request: Request) -> Answer:
    """End a task: by who gave it, whose it is, or a master."""
    request.query()
    caller = request.caller()
    await request.body(_cancel, default=CancelBody())
    return json_answer(await request.call(CancelTask(task_id=request.member("id")), caller))


@operation(
    tag="tasks",
    body=ApproveBody,
    example={"digest": "DIGEST"},
    answer=TaskInfo,
    errors=(Conflict,),
)
async def approve(request: Request) -> Answer:
    """Let a risky task go on, as a master, for exactly the bytes that `digest` names."""
    request.query()
    caller = request.caller()
    body = await request.body(_approve)
    call = ApproveTask(task_id=request.member("id"), digest=body.digest)
    return json_answer(await request.call(call, caller))
