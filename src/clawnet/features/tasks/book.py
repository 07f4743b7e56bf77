"""The tasks in memory: what is committed, by account, room and status, and when each is due."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from heapq import heapify, heappop, heappush
from typing import TypeVar

import msgspec

from clawnet.core.calls.tasks import TaskInfo
from clawnet.core.times import rfc3339
from clawnet.features.tasks.record import Record

Key = tuple[str, str]
"""World and account, or world and room."""
Tasks = dict[str, "Task"]
"""By id, oldest first: ids grow with time."""

NEVER = 1 << 62
STALE_MAX = 1_000
"""So many times that mean nothing any more may stand in the heap beside as many that do."""
ANSWER_MAX_BYTES = 1_048_576
"""An answer with several tasks is full when they take so much."""
TASK_BYTES = 1_000
"""What a task takes beside its texts, roughly."""
K = TypeVar("K")


class Task:
    """One task and what is known of it beside its record."""

    __slots__ = (
        "announce_ms",
        "announced",
        "due_ms",
        "event_id",
        "is_moving",
        "pushed_ms",
        "record",
        "retry_ms",
        "revision",
        "size",
        "waiters",
    )

    def __init__(self, record: Record, *, revision: int) -> None:
        self.record = record
        self.revision = revision
        """That of its entry in the state."""
        self.event_id = record.event_id
        self.due_ms = record.due_ms
        """As in the record, or later: a lease that was renewed."""
        self.is_moving = False
        """Whether the hub itself is changing it."""
        self.retry_ms = 0
        """When a change is tried again that could not be stored."""
        self.announced = 0
        self.announce_ms = NEVER
        """When it is sent again."""
        self.pushed_ms = NEVER
        """The earliest time for which it stands in the heap."""
        self.size = 0
        """What it takes in memory, roughly."""
        self.waiters: set[asyncio.Future[None]] = set()

    @property
    def info(self) -> TaskInfo:
        return self.record.info

    @property
    def id(self) -> str:
        return self.record.info.task_id

    @property
    def worker(self) -> Key:
        return (self.record.world, self.record.info.to)

    @property
    def giver(self) -> Key:
        return (self.record.world, self.record.info.from_id)

    def shown(self) -> TaskInfo:
        """As it is answered: with the lease as it was renewed last."""
        if not self.due_ms or self.due_ms == self.record.due_ms:
            return self.record.info
        return msgspec.structs.replace(self.record.info, due=rfc3339(self.due_ms))


class Book:
    """All tasks. Changed only by what was committed."""

    def __init__(self) -> None:
        self.tasks: Tasks = {}
        self.of_world: dict[str, Tasks] = {}
        self.of_account: dict[Key, Tasks] = {}
        """Given by or to it."""
        self.of_room: dict[Key, Tasks] = {}
        self.given: dict[Key, Tasks] = {}
        """Open ones, by who gave them."""
        self.taken: dict[Key, Tasks] = {}
        """Open ones, by whose they are."""
        self.given_bytes: Counter[Key] = Counter()
        self.queued: dict[Key, Tasks] = {}
        self.submitted: dict[Key, Tasks] = {}
        self.by_key: dict[tuple[str, str, str], Tasks] = {}
        """By world, sender and dedupe key."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """How many ended ones are kept, by world and status."""
        self.ended: dict[Key, deque[Task]] = {}
        """By who gave them, in the order in which they ended."""
        self.ended_count = 0
        self.ended_bytes: Counter[Key] = Counter()
        self._heap: list[tuple[int, str]] = []

    def get(self, world: str, task_id: str) -> Task | None:
        task = self.tasks.get(task_id)
        return task if task is not None and task.record.world == world else None

    def add(self, task: Task) -> None:
        """A new one, or one that was stored before."""
        record, id_ = task.record, task.id
        world, info = record.world, record.info
        self.tasks[id_] = task
        self.of_world.setdefault(world, {})[id_] = task
        self.of_account.setdefault(task.giver, {})[id_] = task
        self.of_account.setdefault(task.worker, {})[id_] = task
        if info.room is not None:
            self.of_room.setdefault((world, info.room), {})[id_] = task
        if info.dedupe_key is not None:
            key = (world, info.from_id, info.dedupe_key)
            self.by_key.setdefault(key, {})[id_] = task
        self._enter(task)

    def loaded(self) -> None:
        """All that was stored is there: put what has ended in the order of its ends."""
        for giver, tasks in self.ended.items():
            self.ended[giver] = deque(sorted(tasks, key=lambda task: task.record.ended_ms))

    def change(self, task: Task, record: Record, *, revision: int) -> None:
        """What was committed of it."""
        self._leave(task)
        task.record = record
        task.revision = revision
        task.due_ms = record.due_ms
        self._enter(task)

    def remove(self, task: Task) -> None:
        """It is kept no longer. One that has ended."""
        record, id_ = task.record, task.id
        world, info = record.world, record.info
        del self.tasks[id_]
        self.counts[world, info.status] -= 1
        _drop(self.of_world, world, id_)
        _drop(self.of_account, task.giver, id_)
        _drop(self.of_account, task.worker, id_)
        if info.room is not None:
            _drop(self.of_room, (world, info.room), id_)
        if info.dedupe_key is not None:
            _drop(self.by_key, (world, info.from_id, info.dedupe_key), id_)

    def push(self, task: Task) -> bool:
        """See to it that due() gives it in time; whether it became the first of all."""
        if task.retry_ms:
            wake_ms = task.retry_ms
        else:
            wake_ms = min(task.due_ms or NEVER, task.announce_ms)
        if wake_ms >= task.pushed_ms:
            # It is looked at sooner, and pushed again then.
            return False
        task.pushed_ms = wake_ms
        heappush(self._heap, (wake_ms, task.id))
        if len(self._heap) > 2 * len(self.tasks) + STALE_MAX:
            # Those of tasks that ended long before their deadlines.
            self._heap = [
                (one.pushed_ms, one.id)
                for one in self.tasks.values()
                if one.record.is_open and one.pushed_ms < NEVER
            ]
            heapify(self._heap)
        return self._heap[0][1] == task.id

    def due(self, now_ms: int, limit: int) -> list[Task]:
        """Up to `limit` to look at now, taken from the heap: push() them again."""
        found: list[Task] = []
        while self._heap and self._heap[0][0] <= now_ms and len(found) < limit:
            task = self.tasks.get(heappop(self._heap)[1])
            # A task that was pushed for a sooner time has entries for later ones.
            if task is not None and task.pushed_ms <= now_ms:
                task.pushed_ms = NEVER
                found.append(task)
        return found

    def next_ms(self) -> int | None:
        return self._heap[0][0] if self._heap else None

    def expired(self, *, before_ms: int, count_max: int, bytes_max: int, limit: int) -> list[Task]:
        """Up to `limit` ended ones that are too old or too many; they leave `ended`.

        Of too many those go that the account gave of which the most are kept: nobody's dedupe
        keys are forgotten because somebody else gives much.
        """
        found: list[Task] = []
        for giver, tasks in list(self.ended.items()):
            while tasks and tasks[0].record.ended_ms < before_ms and len(found) < limit:
                found.append(self._let_go(giver))
        if self.ended_count > count_max:
            most = max(self.ended, key=lambda giver: len(self.ended[giver]))
            while self.ended_count > count_max and most in self.ended and len(found) < limit:
                found.append(self._let_go(most))
        over_bytes = self.ended_bytes.total() - bytes_max
        if over_bytes > 0:
            most = max(self.ended, key=lambda giver: self.ended_bytes[giver])
            while over_bytes > 0 and most in self.ended and len(found) < limit:
                found.append(self._let_go(most))
                over_bytes -= found[-1].size
        return found

    def _let_go(self, giver: Key) -> Task:
        tasks = self.ended[giver]
        task = tasks.popleft()
        self.ended_count -= 1
        self.ended_bytes[giver] -= task.size
        if not tasks:
            del self.ended[giver], self.ended_bytes[giver]
        return task

    def _enter(self, task: Task) -> None:
        id_, status = task.id, task.record.info.status
        if not task.record.is_open:
            task.size = size_of_task(task.info)
            self.ended.setdefault(task.giver, deque()).append(task)
            self.ended_count += 1
            self.ended_bytes[task.giver] += task.size
            self.counts[task.record.world, status] += 1
            return
        self.given.setdefault(task.giver, {})[id_] = task
        self.taken.setdefault(task.worker, {})[id_] = task
        task.size = size_of_task(task.info)
        self.given_bytes[task.giver] += task.size
        if status == "queued":
            self.queued.setdefault(task.worker, {})[id_] = task
        elif status == "submitted":
            self.submitted.setdefault(task.worker, {})[id_] = task

    def _leave(self, task: Task) -> None:
        id_, status = task.id, task.record.info.status
        _drop(self.given, task.giver, id_)
        _drop(self.taken, task.worker, id_)
        self.given_bytes[task.giver] -= task.size
        if task.giver not in self.given:
            del self.given_bytes[task.giver]
        if status == "queued":
            _drop(self.queued, task.worker, id_)
        elif status == "submitted":
            _drop(self.submitted, task.worker, id_)


def size_of_task(info: TaskInfo) -> int:
    """The bytes that a task takes, roughly."""
    args = 0 if isinstance(info.args, msgspec.UnsetType) else len(bytes(info.args))
    texts = len(info.command) + len(info.output or "") + len(info.error or "")
    return TASK_BYTES + texts + args


def _drop(table: dict[K, Tasks], key: K, id_: str) -> None:
    found = table.get(key)
    if found is not None:
        found.pop(id_, None)
        if not found:
            del table[key]
