"""What tests of tasks ask of them, and how they read what was said."""

from __future__ import annotations

from typing import Any

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.grants import Grant
from clawnet.core.calls.tasks import (
    Dispatched,
    DispatchTask,
    FinishTask,
    ReadTask,
    TakeTasks,
    TaskInfo,
    TaskList,
    UpdateTask,
)
from clawnet.core.errors import Conflict
from clawnet.testing.hubs import HubRig
from clawnet.testing.outlets import RecordingOutlet


async def dispatch(rig: HubRig, caller: Caller, to: Any = "bob", **named: Any) -> Dispatched:
    named = {"command": "say hello", **named}
    done: Dispatched = await rig.hub.call(DispatchTask(to=to, **named), caller=caller)
    return done


async def given(rig: HubRig, caller: Caller, to: str = "bob", **named: Any) -> TaskInfo:
    """The one task of a dispatch."""
    (task,) = (await dispatch(rig, caller, to, **named)).tasks
    return task


async def update(
    rig: HubRig, caller: Caller, task: TaskInfo, status: Any = "accepted", **named: Any
) -> TaskInfo:
    named = {"fence": task.fence, **named}
    call = UpdateTask(task_id=task.task_id, status=status, **named)
    info: TaskInfo = await rig.hub.call(call, caller=caller)
    return info


async def finish(
    rig: HubRig, caller: Caller, task: TaskInfo, status: Any = "completed", **named: Any
) -> TaskInfo:
    named = {"fence": task.fence, **named}
    call = FinishTask(task_id=task.task_id, status=status, **named)
    info: TaskInfo = await rig.hub.call(call, caller=caller)
    return info


async def take(rig: HubRig, caller: Caller) -> list[TaskInfo]:
    found: TaskList = await rig.hub.call(TakeTasks(), caller=caller)
    return found.tasks


async def read(rig: HubRig, caller: Caller, task: TaskInfo, **named: Any) -> TaskInfo:
    info: TaskInfo = await rig.hub.call(ReadTask(task_id=task.task_id, **named), caller=caller)
    return info


async def let_dispatch(rig: HubRig, owner: Caller, account: str) -> None:
    """`owner` takes work from the account."""
    call = Grant(account=account, channel=f"agent.{owner.account}.tasks", verbs=["dispatch"])
    await rig.hub.call(call, caller=owner)


async def follow(rig: HubRig, caller: Caller, **named: Any) -> RecordingOutlet:
    """A live session of a worker; it is there from now on."""
    return rig.connect(caller, f"agent.{caller.account}.tasks", **named)


def said(rig: HubRig, task: TaskInfo, channel: str) -> list[str]:
    """The statuses of a task that a channel holds, in order."""
    return [event.type.removeprefix("task.") for event in stored(rig, task, channel)]


def stored(rig: HubRig, task: TaskInfo, channel: str) -> list[Any]:
    events = rig.engine.real._channels.get(("main", channel), [])  # type: ignore[attr-defined]
    return [e for e in events if msgspec.json.decode(e.data)["task_id"] == task.task_id]


def signals(outlet: RecordingOutlet, type_: str) -> list[Any]:
    """The data of the signals of a type that were written to a session."""
    return [
        frame.data
        for frame in outlet.frames
        if frame.event["type"] == type_ and "offset" not in frame.event
    ]


def reason_of(error: Conflict) -> Any:
    return error.facts.get("reason")
