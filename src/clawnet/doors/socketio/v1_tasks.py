"""Tasks as C2CP v1 shows them, and the statuses that its agents say."""

from __future__ import annotations

from typing import Any

from clawnet.core.calls.tasks import TaskInfo

RUNNING = frozenset("RUNNING PROGRESS IN_PROGRESS PENDING ACKED STARTED WORKING".split())
_SUCCESS = frozenset("SUCCESS OK DONE COMPLETED COMPLETE SUCCEEDED".split())
_OTHERS = {
    "TIMEOUT": "timed_out",
    "TIMED_OUT": "timed_out",
    "CANCELLED": "cancelled",
    "CANCELED": "cancelled",
    "REJECTED": "rejected",
    "UNKNOWN": "outcome_unknown",
    "OUTCOME_UNKNOWN": "outcome_unknown",
}
_SHOWN = {
    "queued": ("QUEUED", "QUEUED"),
    "submitted": ("PENDING", "SENT"),
    "awaiting_approval": ("AWAITING_APPROVAL", "AWAITING_APPROVAL"),
    "accepted": ("PENDING", "ACKED"),
    "running": ("PENDING", "ACKED"),
    "input_required": ("INPUT_REQUIRED", "ACKED"),
    "completed": ("SUCCESS", "ACKED"),
    "failed": ("FAILED", "ACKED"),
    "timed_out": ("TIMEOUT", "ACKED"),
    "outcome_unknown": ("UNKNOWN", "ACKED"),
    "delivery_failed": ("FAILED", "DELIVERY_FAILED"),
    "cancelled": ("CANCELLED", "CANCELLED"),
    "rejected": ("REJECTED", "REJECTED"),
}
_AGENTS_OWN = ("completed", "failed", "input_required")
"""In these the agent's own word is shown."""


def outcome_of(said: str) -> str:
    """The status of a finished task that an agent calls `said`."""
    word = said.strip().upper()
    if word in _SUCCESS:
        return "completed"
    if word in _OTHERS:
        return _OTHERS[word]
    # What an agent of its own calls the end is a success unless it says otherwise.
    return "failed" if word.startswith(("FAIL", "ERR")) else "completed"


def shown(status: str, said: str | None) -> tuple[str, str]:
    """The `status` and `delivery_status` of v1."""
    word, delivery = _SHOWN[status]
    if said and status in _AGENTS_OWN:
        word = said.upper()
    return word, delivery


def task_of(task: TaskInfo, *, name: str) -> dict[str, Any]:
    """A task as v1 lists it; `name` is how its agent spells its id."""
    status, delivery = shown(task.status, task.said)
    return {
        "id": task.task_id,
        "agent_id": name,
        "cmd": task.command,
        "status": status,
        "delivery_status": delivery,
        "trace_id": task.correlation_id,
        "ts": task.created,
        "result": task.output if task.output is not None else task.error or task.reason,
    }
