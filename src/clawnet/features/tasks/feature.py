"""Answers core.calls.tasks and keeps the deadline of every task.

A task is never silently nothing: every status that is not an end has a deadline, and what
comes of it is an event. A change is one unit of the state `task/<world>/<id>` and the events
`task.<status>`, the same TaskInfo on each of the channels of who is concerned: the worker's
and the giver's `agent.<id>.tasks`, the room's, and `system.tasks`. Readers who see several of
them tell them by task_id and revision.

A dispatch is backed by a right for as long as nobody works on it: when the right ends, or the
account that gave it, what is queued, sent or waits for approval is cancelled aloud. What was
accepted goes on, unless the account that gave it is deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.calls.tasks import (
    ENDED,
    ApproveTask,
    CancelTask,
    CountTasks,
    DispatchTask,
    FinishTask,
    ListTasks,
    ReadTask,
    TakeTasks,
    UpdateTask,
)
from clawnet.features.tasks.book import Book, Task
from clawnet.features.tasks.changes import Changes
from clawnet.features.tasks.counting import Counting
from clawnet.features.tasks.dispatching import Dispatching
from clawnet.features.tasks.record import KIND, Record
from clawnet.features.tasks.seeing import Seeing
from clawnet.features.tasks.settings import TasksSettings
from clawnet.features.tasks.timekeeping import Timekeeping
from clawnet.features.tasks.working import Working
from clawnet.hub.features import Feature, Row

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

LOADED_AT_ONCE = 500


class TasksFeature(Feature):
    """Every task is in a status with a deadline; when it passes, the next is said aloud."""

    def __init__(self, settings: TasksSettings) -> None:
        self._settings = settings
        self._book = Book()
        self._hub: Hub
        self._changes: Changes
        self._dispatching: Dispatching
        self._timekeeping: Timekeeping

    def register(self, hub: Hub) -> None:
        self._hub = hub
        hub.controls.default(
            command_denylist=self._settings.command_denylist,
            command_riskylist=self._settings.command_riskylist,
        )
        self._changes = changes = Changes(hub, self._book, self._settings)
        seeing = Seeing(hub, self._book)
        self._dispatching = dispatching = Dispatching(hub, changes, self.lists)
        self._timekeeping = timekeeping = Timekeeping(hub, changes)
        working = Working(hub, changes, seeing, self.lists)
        hub.handle(DispatchTask, dispatching.dispatch)
        hub.handle(TakeTasks, working.take)
        hub.handle(UpdateTask, working.update)
        hub.handle(FinishTask, working.finish)
        hub.handle(CancelTask, working.cancel)
        hub.handle(ApproveTask, working.approve)
        hub.handle(ReadTask, seeing.read)
        hub.handle(ListTasks, seeing.list_all)
        hub.handle(CountTasks, Counting(self._book).count)
        hub.follow_rights(timekeeping.rights_changed)
        hub.follow_rights(seeing.rights_changed)

    async def load(self) -> None:
        """Take up what is stored: leases and deadlines go on by the trusted clock."""
        entries = await self._hub.storage.read(lambda engine: engine.scan(KIND))
        tasks: list[Task] = []
        for number, entry in enumerate(entries):
            record = msgspec.json.decode(entry.value, type=Record)
            tasks.append(Task(record, revision=entry.revision))
            if number % LOADED_AT_ONCE == LOADED_AT_ONCE - 1:
                await asyncio.sleep(0)
        for task in sorted(tasks, key=lambda task: task.id):
            self._changes.load(task)
        self._book.loaded()
        self._dispatching.load()
        self._changes.started()

    async def run(self) -> None:
        await self._timekeeping.run()

    def lists(self, world: str) -> tuple[Sequence[str], Sequence[str]]:
        """What is denied and what is risky, as it is now: the one place that says so."""
        controls = self._hub.controls.of(world)
        return controls.command_denylist, controls.command_riskylist

    def metrics(self) -> list[Row]:
        open_ = len(self._book.tasks) - self._book.ended_count
        rows: list[Row] = [("clawnet_tasks_open", "gauge", "Tasks that have not ended.", open_)]
        for status in sorted(ENDED):
            text = f"Tasks that ended as {status}, since the start."
            count = self._changes.outcomes.get(status, 0)
            rows.append((f"clawnet_tasks_{status}", "counter", text, count))
        return rows
