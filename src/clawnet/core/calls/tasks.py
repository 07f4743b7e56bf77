"""Work that one account gives another: dispatch, take, accept, update, result, cancel, approve."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from clawnet.core.rights import tasks_channel

TaskKind = Literal["openclaw", "exec", "custom"]
TaskStatus = Literal[
    "queued",
    "submitted",
    "awaiting_approval",
    "accepted",
    "running",
    "input_required",
    "completed",
    "failed",
    "timed_out",
    "outcome_unknown",
    "delivery_failed",
    "cancelled",
    "rejected",
]
WorkStatus = Literal["accepted", "running", "input_required"]
"""What a worker says while it is at it."""
EndStatus = Literal["completed", "failed", "timed_out", "outcome_unknown", "rejected", "cancelled"]
"""How a worker says that it ended."""
ENDED: frozenset[str] = frozenset(
    "completed failed timed_out outcome_unknown delivery_failed cancelled rejected".split()
)
WORKING: frozenset[str] = frozenset(get_args(WorkStatus))

ALL = "all"
COMMAND_MAX_CHARS = 16_384
OUTPUT_MAX_BYTES = 49_152
"""Of one piece and of a result; what is longer is cut by the worker, which says so."""
TARGETS_MAX = 1_000
TIMEOUT_MAX_S = 7 * 86_400.0
TASKS_CHANNEL = tasks_channel
SYSTEM_CHANNEL = "system.tasks"
"""Where masters and wardens read what becomes of every task of their world."""


class DispatchTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give work to an account, several, or `all` that the caller may dispatch to (one task each).

    `room` (global, a room's name or dm.*) is where it is told of; the caller must be able to write
    there. The same `dedupe_key` twice gives the same tasks. Raises Forbidden, NotFound, BadRequest,
    RateLimited.
    """

    to: str | list[str]
    command: str
    kind: TaskKind = "openclaw"
    args: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    timeout_s: float | None = None
    room: str | None = None
    dedupe_key: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None


class Dispatched(msgspec.Struct, frozen=True, kw_only=True):
    """One task for each account, in the order of the accounts."""

    task_ids: list[str]
    correlation_id: str
    tasks: list[TaskInfo]
    deduped: bool = False


class TaskInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task as those entitled to it see it: who gave it, whose it is, masters, and the members
    of its room. `due` is when its present status ends by itself. `digest` is what an approval
    must name."""

    task_id: str
    from_id: str
    from_handle: str
    to: str
    kind: TaskKind
    command: str
    status: TaskStatus
    timeout_s: float
    correlation_id: str
    digest: str
    fence: int
    lease_s: float
    created: str
    updated: str
    revision: int
    args: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    room: str | None = None
    due: str | None = None
    output: str | None = None
    error: str | None = None
    exit_code: int | None = None
    said: str | None = None
    """The status in the worker's own words, where they are others (v1)."""
    reason: str | None = None
    """Why it ended as it did, or why it waits."""
    dedupe_key: str | None = None


class TakeTasks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The caller is there and takes work: what is open for it, oldest first, is sent (again).
    Answered with TaskList; each of its tasks wants a TaskUpdate `accepted`."""


class UpdateTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By the task's account: `accepted` acknowledges it, `running` goes on with a piece of output
    (never stored), both renew the lease. Answered with TaskInfo.

    Raises Conflict (`reason`: lease_lost, ended), NotFound, Forbidden.
    """

    task_id: str
    fence: int
    status: WorkStatus
    output: str | None = None
    piece: int | None = None


class FinishTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By the task's account: how it ended. Repeating it is safe; a late one of a lost lease is
    refused (Conflict, `reason` lease_lost) and changes nothing. Answered with TaskInfo."""

    task_id: str
    fence: int
    status: EndStatus
    output: str | None = None
    error: str | None = None
    exit_code: int | None = None
    said: str | None = None


class CancelTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By who gave it, whose it is, or a master. Answered with TaskInfo."""

    task_id: str


class ApproveTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By a master, for exactly the bytes that `digest` names. Answered with TaskInfo."""

    task_id: str
    digest: str


class ReadTask(msgspec.Struct, frozen=True, kw_only=True):
    """One task; waits up to `wait_s` for its end. Answered with TaskInfo."""

    task_id: str
    wait_s: float = 0.0


class ListTasks(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks the caller is entitled to, newest first; `after` is `next` of the page before."""

    agent: str | None = None
    status: TaskStatus | None = None
    is_open: bool | None = None
    room: str | None = None
    after: str | None = None
    limit: int = 50


class TaskList(msgspec.Struct, frozen=True, kw_only=True):
    tasks: list[TaskInfo]
    next: str | None = None


class CountTasks(msgspec.Struct, frozen=True, kw_only=True):
    """How many tasks of the caller's world are kept, and how they ended. For any account.
    Answered with TaskCounts."""


class TaskCounts(msgspec.Struct, frozen=True, kw_only=True):
    """`failed` are all that ended otherwise than completed."""

    total: int
    open: int
    success: int
    failed: int
