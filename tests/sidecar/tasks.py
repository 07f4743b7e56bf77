"""Tasks as a hub would give them, and a hub that only notes what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from clawnet.core.calls.publishing import Published
from clawnet.core.calls.tasks import TaskInfo, TaskList
from clawnet.core.errors import ClawError


def task(id: str = "t1", command: str = "say hi", **more: Any) -> TaskInfo:
    """A task for bob that is submitted."""
    given: dict[str, Any] = {
        "task_id": id,
        "from_id": "boss",
        "from_handle": "boss",
        "to": "bob",
        "kind": "exec",
        "command": command,
        "status": "submitted",
        "timeout_s": 30.0,
        "correlation_id": "c1",
        "digest": "d",
        "fence": 1,
        "lease_s": 120.0,
        "created": "2026-11-21T10:00:00.000Z",
        "updated": "2026-11-21T10:00:00.000Z",
        "revision": 1,
        **more,
    }
    if "args" in given:
        given["args"] = msgspec.Raw(msgspec.json.encode(given["args"]))
    return TaskInfo(**given)


class FakeHub:
    """Notes each call. `refusals` has what a call meets, by its name: errors, or None, in order."""

    def __init__(self) -> None:
        self.tasks: list[TaskInfo] = []
        self.updates: list[tuple[str, str, str | None]] = []
        self.results: list[tuple[str, str, str | None]] = []
        self.published: list[tuple[str, Any]] = []
        self.refusals: dict[str, list[ClawError | None]] = {}

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Let the loop and its threads go on until something holds."""
        async with asyncio.timeout(15):
            while not is_so():
                # A turn for the threads too, which write the journal.
                await asyncio.to_thread(int)

    def _met(self, name: str) -> None:
        waiting = self.refusals.get(name)
        error = waiting.pop(0) if waiting else None
        if error is not None:
            raise error

    async def take_tasks(self) -> TaskList:
        self._met("take")
        return TaskList(tasks=list(self.tasks))

    async def update_task(
        self, task_id: str, fence: int, status: str, *, output: str | None = None, **_: Any
    ) -> TaskInfo:
        self._met("update")
        self.updates.append((task_id, status, output))
        return task(task_id)

    async def finish_task(
        self, task_id: str, fence: int, status: str, *, output: str | None = None, **_: Any
    ) -> TaskInfo:
        self._met("finish")
        self.results.append((task_id, status, output))
        return task(task_id)

    async def report(self, **said: Any) -> None:
        self._met("report")

    async def publish(self, channel: str, data: Any, **_: Any) -> Published:
        self._met("publish")
        self.published.append((channel, data))
        return Published(id="e", seq=1, offset=1, epoch="x", deduped=False)
