"""Who may see a task: who gave it, whose it is, masters and wardens, the members of its room."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterator
from heapq import merge
from typing import TYPE_CHECKING

from clawnet.core.callers import Caller
from clawnet.core.calls.reading import WAIT_MAX_S
from clawnet.core.calls.tasks import SYSTEM_CHANNEL, ListTasks, ReadTask, TaskInfo, TaskList
from clawnet.core.channels import parse
from clawnet.core.chat import room_channel
from clawnet.core.errors import BadRequest, NotFound
from clawnet.core.rights import Allowed, Verb, decide
from clawnet.features.tasks.book import ANSWER_MAX_BYTES, Book, Task, Tasks
from clawnet.features.tasks.record import Record
from clawnet.hub.accounts import need_account

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

LIMIT_MAX = 200
LOOKED_AT_MAX = 2_000
"""A page ends behind so many tasks, whether they belong on it or not."""


class Seeing:
    """Handlers of ReadTask and ListTasks."""

    def __init__(self, hub: Hub, book: Book) -> None:
        self._hub = hub
        self._book = book
        self._waiters: dict[asyncio.Future[None], tuple[str, str]] = {}

    # --- rights -------------------------------------------------------------

    def find(self, caller: Caller, task_id: str) -> Task:
        """The task, if it is there for this caller. Raises Unauthenticated, NotFound."""
        need_account(caller)
        task = self._book.get(caller.world, task_id)
        if task is None or not _Sight(self._hub, caller).shows(task.record):
            raise NotFound(
                f"There is no task {ascii(task_id[:80])}.",
                next="claw tasks list shows what there is.",
            )
        return task

    def rights_changed(self, world: str, account: str) -> None:
        """Let the account's waits look whether they may go on."""
        for waiter, whose in self._waiters.items():
            if whose == (world, account) and not waiter.done():
                waiter.set_result(None)

    # --- calls --------------------------------------------------------------

    async def read(self, call: ReadTask, caller: Caller) -> TaskInfo:
        """Raises Unauthenticated, NotFound, BadRequest."""
        if not 0 <= call.wait_s <= WAIT_MAX_S:
            raise BadRequest(
                f"wait_s must be 0 to {WAIT_MAX_S:g}.", next="Ask again when it is over."
            )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + call.wait_s
        while True:
            task = self.find(caller, call.task_id)
            left_s = deadline - loop.time()
            if not task.record.is_open or left_s <= 0:
                return task.shown()
            waiter: asyncio.Future[None] = loop.create_future()
            task.waiters.add(waiter)
            self._waiters[waiter] = (caller.world, need_account(caller))
            try:
                left_s = self._hub.directory.until_expiry(caller, left_s)
                await asyncio.wait([waiter], timeout=left_s)
            finally:
                task.waiters.discard(waiter)
                del self._waiters[waiter]
            caller = self._hub.directory.refresh(caller)

    async def list_all(self, call: ListTasks, caller: Caller) -> TaskList:
        """Raises Unauthenticated, BadRequest, InvalidChannel. A page may be short, even empty,
        and have a next one."""
        need_account(caller)
        if not 1 <= call.limit <= LIMIT_MAX:
            raise BadRequest(
                f"limit must be 1 to {LIMIT_MAX}.", next="Ask for several pages instead."
            )
        found: list[TaskInfo] = []
        size = 0
        last: str | None = None
        # No await from here to the answer.
        sight = _Sight(self._hub, caller)
        behind = self._source(call, caller, sight)
        for looked_at, task in enumerate(behind):
            is_full = len(found) >= call.limit or size >= ANSWER_MAX_BYTES
            if is_full or looked_at >= LOOKED_AT_MAX:
                return TaskList(tasks=found, next=last)
            last = task.id
            if _is_meant(call, task) and sight.shows(task.record):
                found.append(task.shown())
                size += task.size
        return TaskList(tasks=found)

    def _source(self, call: ListTasks, caller: Caller, sight: _Sight) -> Iterator[Task]:
        """Where to look, newest first: as little as the question allows."""
        book, world = self._book, caller.world
        if call.room is not None:
            room = room_channel(call.room)
            return _newest(book.of_room.get((world, room)), call.after)
        if call.agent is not None:
            return _newest(book.of_account.get((world, call.agent.lower())), call.after)
        if sight.is_whole:
            return _newest(book.of_world.get(world), call.after)
        own = [book.of_account.get((world, caller.account or ""))]
        for (of_world, room), tasks in book.of_room.items():
            if of_world == world and sight.floor_of(room) is not None:
                own.append(tasks)
        found = (_newest(tasks, call.after) for tasks in own)
        return _once(merge(*found, key=_id_of, reverse=True))


class _Sight:
    """What a caller may see at one moment: the same question is asked once."""

    def __init__(self, hub: Hub, caller: Caller) -> None:
        self._hub = hub
        self._caller = caller
        self._floors: dict[str, int | None] = {}
        self._sees_own = caller.allows("tasks:write") or caller.allows("events:read")
        self.is_whole = self.floor_of(SYSTEM_CHANNEL) is not None
        """Whether it reads what becomes of every task of its world: masters and wardens."""

    def shows(self, record: Record) -> bool:
        """Whether the caller may see a task."""
        caller, info = self._caller, record.info
        if caller.world != record.world or caller.account is None or caller.is_confined:
            return False
        if self.is_whole or (self._sees_own and caller.account in (info.from_id, info.to)):
            return True
        if info.room is None:
            return False
        floor = self.floor_of(info.room)
        # Who may read only what came later is told no more of it here.
        return floor is not None and floor <= record.room_floor + 1

    def floor_of(self, channel: str) -> int | None:
        """From which offset the caller may read a channel; None if it may not."""
        if channel not in self._floors:
            asked = decide(self._caller, Verb.READ, parse(channel), self._hub.directory)
            self._floors[channel] = asked.from_offset if isinstance(asked, Allowed) else None
        return self._floors[channel]


def _is_meant(call: ListTasks, task: Task) -> bool:
    status = task.info.status
    if call.status is not None and call.status != status:
        return False
    if call.is_open is not None and call.is_open != task.record.is_open:
        return False
    return call.agent is None or call.agent.lower() in (task.info.to, task.info.from_id)


def _id_of(task: Task) -> str:
    return task.id


def _newest(tasks: Tasks | None, after: str | None) -> Iterator[Task]:
    """Those before the id `after`, the newest first. Tasks stand in the order of their ids."""
    if tasks is None:
        return iter(())
    if after is None:
        return reversed(tasks.values())
    ids = list(tasks)
    return (tasks[id_] for id_ in reversed(ids[: bisect_left(ids, after)]))


def _once(tasks: Iterator[Task]) -> Iterator[Task]:
    """Each once, of an order in which the same ones stand together."""
    before: Task | None = None
    for task in tasks:
        if task is not before:
            yield task
        before = task
