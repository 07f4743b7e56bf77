"""Commits changes of tasks: the state and its events are one unit, guarded by the revision.

The lock of changes is not taken: of two that change the same task the first to be committed
wins, and the other is decided again on what is then there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from clawnet.core import events
from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.tasks import SYSTEM_CHANNEL, WORKING, TaskInfo
from clawnet.core.channels import parse
from clawnet.core.errors import ClawError, Conflict, Unavailable
from clawnet.core.events import Draft
from clawnet.core.rights import Allowed, Verb, decide, tasks_channel
from clawnet.core.times import rfc3339
from clawnet.core.units import Committed, Delete, Outcome, Put, Unit
from clawnet.features.tasks.book import NEVER, Book, Task
from clawnet.features.tasks.record import (
    UNACCEPTED,
    Record,
    Times,
    delayed,
    due_after_start,
    leased,
    moved,
    overdue,
)
from clawnet.features.tasks.settings import TasksSettings

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

ANNOUNCE_AFTER_MS = (2_000, 4_000, 8_000, 16_000, 30_000)
"""A task that nobody acknowledges is sent again after each of these times, one behind another."""
RETRY_AFTER_MS = 1_000
JUMP_MIN_MS = 1_000
TRIES_MAX = 16
OPENINGS_MAX = 4_096
OFFLINE = "Its worker is offline."
TAKEN_MS = 30_000
"""Who took tasks by a call and without a session counts as there for so long."""
_log = logging.getLogger(__name__)


class Changes:
    """Applies to the book what was committed, in the order of commits."""

    def __init__(self, hub: Hub, book: Book, settings: TasksSettings) -> None:
        self._hub = hub
        self.book = book
        self.settings = settings
        self.sooner = asyncio.Event()
        """Set when something is due earlier than before."""
        self.is_hurried = False
        """Whether something is queued for who is there."""
        self.outcomes: dict[str, int] = {}
        """How many ended how, since the hub started."""
        self._openings: dict[tuple[str, str, str | None], str] = {}
        self._visits: dict[tuple[str, str], int] = {}
        self._noticed = (0, 0.0)
        """When it was asked last whether the clock jumped, by the trusted and the steady clock."""
        self._present_until_ms = 0
        """Until then nobody counts as gone: after a start all have yet to come back."""

    # --- facts --------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        return self._hub.retention.now_ms()

    @property
    def times(self) -> Times:
        own = self.settings
        return Times(
            acknowledge=round(own.ack_timeout_s * 1000),
            queue=round(own.queue_ttl_s * 1000),
            approval=round(own.approval_ttl_s * 1000),
        )

    def started(self) -> None:
        """The hub starts; who is there will be seen when it had time to come back."""
        grace_ms = round(self._hub.settings.presence.offline_after_s * 1000)
        self._present_until_ms = self.now_ms + grace_ms
        self._noticed = (self.now_ms, self._hub.clock.steady_s())

    def notice_jump(self) -> None:
        """Ask before anything may be overdue: a clock that was put ahead, or a machine that
        slept, makes no worker late. What waits for days (queue, approval) goes by the clock."""
        now_ms, now_s = self.now_ms, self._hub.clock.steady_s()
        before_ms, before_s = self._noticed
        self._noticed = (now_ms, now_s)
        jump_ms = now_ms - before_ms - round((now_s - before_s) * 1000)
        if jump_ms < JUMP_MIN_MS:
            return
        for tasks in self.book.taken.values():
            for task in tasks.values():
                if task.info.status in WORKING or task.info.status == "submitted":
                    task.record = delayed(task.record, task.due_ms, jump_ms)
                    task.due_ms = task.record.due_ms

    def load(self, task: Task) -> None:
        """Take up one that was stored; it is looked at as soon as the hub runs."""
        self.book.add(task)
        if task.record.is_open:
            task.due_ms = due_after_start(task.record, now_ms=self.now_ms, times=self.times)
            if task.info.status == "submitted":
                self._schedule(task, self.now_ms)
            # Rights and accounts may have ended when the hub could tell nobody.
            self.look_soon(task)

    def visited(self, world: str, account: str) -> None:
        """The account asked for its tasks."""
        key = (world, account)
        self._visits.pop(key, None)
        if self._hub.presence.status(world, account) == "offline":
            self._visits[key] = self.now_ms

    def forget_visits(self) -> None:
        """Drop those that say nothing any more; they stand in the order of their times."""
        before_ms = self.now_ms - TAKEN_MS
        while self._visits:
            key, at_ms = next(iter(self._visits.items()))
            if at_ms > before_ms:
                return
            del self._visits[key]

    def is_there(self, world: str, account: str) -> bool:
        """Whether a task that is sent to the account now may reach it."""
        if self._hub.presence.status(world, account) != "offline":
            return True
        visit_ms = self._visits.get((world, account))
        return visit_ms is not None and self.now_ms - visit_ms < TAKEN_MS

    def is_gone(self, world: str, account: str) -> bool:
        """Whether what was sent to the account waits in vain."""
        return self.now_ms >= self._present_until_ms and not self.is_there(world, account)

    def is_backed(self, record: Record) -> bool:
        """Whether who gave the task still may: the account, whatever its tokens are narrowed to."""
        directory, info = self._hub.directory, record.info
        account = directory.account(record.world, info.from_id)
        if account is None or account.is_deleted:
            return False
        if record.info.status not in UNACCEPTED:
            return True
        gives = Caller(account=account.id, role=account.role, kind=account.kind, world=record.world)
        asked = decide(gives, Verb.DISPATCH, parse(tasks_channel(info.to)), directory)
        return isinstance(asked, Allowed)

    def deliverable(self, record: Record, *, now_ms: int, event_id: str | None = None) -> Record:
        """A task that may be done, sent to its worker or waiting for it."""
        key = (record.world, record.info.to)
        is_there = self.is_there(*key)
        # Behind what waits already, so that it comes in the order of the dispatches.
        is_first = key not in self.book.queued
        return moved(
            record,
            "submitted" if is_there and is_first else "queued",
            now_ms=now_ms,
            times=self.times,
            reason=None if is_there else OFFLINE,
            event_id=event_id,
        )

    # --- committing ---------------------------------------------------------

    def dispatch(self, records: list[Record], done: Callable[[Outcome], None]) -> None:
        """Store new tasks, all or none. Raises what submit() raises; `done` after the book."""
        drafts = tuple(draft for record in records for draft in self._drafts(record))
        changes = tuple(Put(record.key, _text(record), 0) for record in records)
        counts = [len(self._channels(record)) for record in records]

        def settled(outcome: Outcome) -> None:
            if isinstance(outcome, Committed):
                place = 0
                for record, count, revision in zip(records, counts, outcome.revisions, strict=True):
                    task = Task(record, revision=revision)
                    task.event_id = outcome.events[place].id
                    place += count
                    self.book.add(task)
                    self._follow(task)
            done(outcome)

        self._hub.committer.submit(Unit(drafts=drafts, changes=changes), settled)

    def submit(
        self,
        task: Task,
        record: Record,
        done: Callable[[Outcome], None],
        *,
        more: tuple[Draft, ...] = (),
        is_narrowing: bool = False,
    ) -> None:
        """Change a task, if it is as it was. Raises what Committer.submit() raises."""
        change = Put(record.key, _text(record), task.revision)
        unit = Unit(
            drafts=(*self._drafts(record), *more), changes=(change,), is_narrowing=is_narrowing
        )

        def settled(outcome: Outcome) -> None:
            if isinstance(outcome, Committed):
                self._apply(task, record, outcome.revisions[0])
            done(outcome)

        self._hub.committer.submit(unit, settled)

    async def commit(self, task: Task, record: Record, *, more: tuple[Draft, ...] = ()) -> bool:
        """submit() and wait: whether it was done; False if somebody was faster."""
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if not waiter.done():
                waiter.set_result(outcome)

        self.submit(task, record, done, more=more)
        # No deadline: the committer answers every unit, also when storage fails.
        outcome = await waiter
        if isinstance(outcome, Committed):
            return True
        if isinstance(outcome, Conflict) and outcome.facts.get("key") == record.key:
            return False
        raise outcome

    async def change(
        self,
        decided: Callable[[], tuple[Task, Record | None]],
        *,
        more: Callable[[Record], tuple[Draft, ...]] = lambda _: (),
    ) -> Task:
        """Decide and commit, again if somebody else was faster. `decided` raises what refuses
        it, and gives no record where nothing is to be changed; no await lies between it and
        the queue. Raises Unavailable if others were faster too often."""
        for _ in range(TRIES_MAX):
            task, record = decided()
            if record is None or await self.commit(task, record, more=more(record)):
                return task
        raise Unavailable("This task changes too fast.", retry_after_s=0.1)

    async def settled(self) -> None:
        """Wait until what was queued before is committed or refused."""
        await self._hub.committer.commit(Unit())

    def push(self, task: Task) -> None:
        """See to it that the task is looked at when something is due."""
        if self.book.push(task):
            self.sooner.set()

    def renew(self, task: Task) -> None:
        """The worker was heard of: its lease goes on. Stored only now and then."""
        record = task.record
        lease_ms = round(record.info.lease_s * 1000)
        due_ms = leased(self.now_ms, timeout_at_ms=record.timeout_at_ms, lease_ms=lease_ms)
        if due_ms <= task.due_ms:
            return
        task.due_ms = due_ms
        if due_ms - record.due_ms < lease_ms / 3:
            return
        info = msgspec.structs.replace(record.info, due=rfc3339(due_ms))
        renewed = msgspec.structs.replace(record, info=info, due_ms=due_ms)

        def settled(outcome: Outcome) -> None:
            if isinstance(outcome, Committed):
                # No event: a place in time, not a change of what becomes of it.
                due_ms = task.due_ms
                self.book.change(task, renewed, revision=outcome.revisions[0])
                # It may have been heard of again since.
                task.due_ms = max(due_ms, task.due_ms)
                self.push(task)

        change = Put(record.key, _text(renewed), task.revision)
        try:
            self._hub.committer.submit(Unit(changes=(change,)), settled)
        except ClawError as error:
            _log.info("a renewed lease is kept in memory alone: %s", error.message)

    def forget(self, tasks: list[Task]) -> None:
        """Let go ended tasks. What cannot be stored now is let go after the next start."""
        for task in tasks:
            self.book.remove(task)
        changes = tuple(Delete(task.record.key) for task in tasks)
        try:
            self._hub.committer.submit(Unit(changes=changes), _ignore)
        except ClawError as error:
            _log.info("old tasks are deleted later: %s", error.message)

    # --- what the hub itself changes ----------------------------------------

    def look(self, task: Task) -> None:
        """Do what is due on a task: end it, send it again, or wait. No await."""
        if not task.record.is_open or task.is_moving:
            return
        now_ms = self.now_ms
        task.retry_ms = 0
        record = self._next(task, now_ms)
        if record is not None:
            self.move(task, record, is_narrowing=record.info.status == "cancelled")
            return
        if task.announce_ms <= now_ms:
            self._announce(task, now_ms)
        self.push(task)

    def look_soon(self, task: Task) -> None:
        """look() in one of the next rounds; until then nobody else moves it."""
        if task.record.is_open and not task.is_moving:
            task.retry_ms = self.now_ms
            task.pushed_ms = NEVER
            self.push(task)

    def move(self, task: Task, record: Record, *, is_narrowing: bool = False) -> None:
        """Change a task on the hub's own account; what fails is looked at again."""

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, Committed):
                return
            task.is_moving = False
            if isinstance(outcome, Conflict):
                # Somebody was faster: is there still something to do?
                self.look(task)
            else:
                self._later(task, outcome)

        task.is_moving = True
        try:
            self.submit(task, record, done, is_narrowing=is_narrowing)
        except ClawError as error:
            task.is_moving = False
            self._later(task, error)

    def requeue(self, task: Task, *, is_there: bool) -> None:
        """Its worker came, or went away."""
        if task.is_moving or task.retry_ms:
            return
        reason = None if is_there else OFFLINE
        record = moved(
            task.record,
            "submitted" if is_there else "queued",
            now_ms=self.now_ms,
            times=self.times,
            reason=reason,
            event_id=task.event_id,
        )
        self.move(task, record)

    def _next(self, task: Task, now_ms: int) -> Record | None:
        """What it must become now, if anything."""
        record = task.record
        directory = self._hub.directory
        if not directory.has_account(record.world, record.info.to):
            is_waiting = record.info.status in UNACCEPTED
            return moved(
                record,
                "delivery_failed" if is_waiting else "outcome_unknown",
                now_ms=now_ms,
                times=self.times,
                reason=f"There is no account {record.info.to} any more.",
                event_id=task.event_id,
                fence=record.info.fence + 1,
            )
        if not self.is_backed(record):
            return moved(
                record,
                "cancelled",
                now_ms=now_ms,
                times=self.times,
                reason=f"{record.info.from_id} may not give it any more.",
                event_id=task.event_id,
                fence=record.info.fence + 1,
            )
        if task.due_ms <= now_ms:
            return overdue(record, now_ms=now_ms, times=self.times, event_id=task.event_id)
        return None

    def _announce(self, task: Task, now_ms: int) -> None:
        record = task.record
        self._schedule(task, now_ms)
        voice = _voice(record.world)
        data = msgspec.json.encode(record.info)
        try:
            self._hub.signal(voice, tasks_channel(record.info.to), "task.submitted", data)
        except ClawError as error:
            _log.info("a task is not sent again now: %s", error.message)

    def announce_anew(self, task: Task) -> None:
        """It was just given to its worker: count the times from now."""
        task.announced = 0
        self._schedule(task, self.now_ms)
        self.push(task)

    def _schedule(self, task: Task, now_ms: int) -> None:
        number = task.announced
        task.announced += 1
        is_over = number >= len(ANNOUNCE_AFTER_MS)
        task.announce_ms = NEVER if is_over else now_ms + ANNOUNCE_AFTER_MS[number]

    def _later(self, task: Task, error: ClawError) -> None:
        _log.warning("a task is changed later: %s", error.message)
        task.retry_ms = self.now_ms + RETRY_AFTER_MS
        task.pushed_ms = NEVER
        self.push(task)

    # --- inside -------------------------------------------------------------

    def _apply(self, task: Task, record: Record, revision: int) -> None:
        self.book.change(task, record, revision=revision)
        self._follow(task)

    def _follow(self, task: Task) -> None:
        """What its new status brings with it, in memory."""
        status = task.info.status
        task.announced, task.announce_ms, task.retry_ms = 0, NEVER, 0
        task.is_moving = False
        if not task.record.is_open:
            self.outcomes[status] = self.outcomes.get(status, 0) + 1
            for waiter in task.waiters:
                if not waiter.done():
                    waiter.set_result(None)
            return
        if status == "submitted":
            self._schedule(task, self.now_ms)
        elif status == "queued" and self.is_there(*task.worker):
            # It waits for those before it only.
            self.is_hurried = True
            self.sooner.set()
        self.push(task)
        directory = self._hub.directory
        if not (self.is_backed(task.record) and directory.has_account(*task.worker)):
            # A right ended while it was on its way.
            self.look(task)

    def _channels(self, record: Record) -> tuple[str, ...]:
        info = record.info
        channels = [tasks_channel(info.to)]
        if info.from_id != info.to:
            channels.append(tasks_channel(info.from_id))
        if info.room is not None:
            channels.append(info.room)
        channels.append(SYSTEM_CHANNEL)
        return tuple(channels)

    def _drafts(self, record: Record) -> tuple[Draft, ...]:
        """The events of a change. Measured: publishing.render() for each of them takes 10 µs;
        what they have in common is made once."""
        info = record.info
        data = msgspec.json.encode(info).decode()
        type_ = f"task.{info.status}"
        causation_id = record.event_id or record.causation_id
        return tuple(
            self._draft(record.world, channel, type_, data, info, causation_id)
            for channel in self._channels(record)
        )

    def note(self, record: Record, type_: str, told: dict[str, str]) -> Draft:
        """One more event of a change, for masters and wardens."""
        data = msgspec.json.encode(told).decode()
        causation_id = record.event_id or record.causation_id
        return self._draft(record.world, SYSTEM_CHANNEL, type_, data, record.info, causation_id)

    def _draft(
        self,
        world: str,
        channel: str,
        type_: str,
        data: str,
        info: TaskInfo,
        causation_id: str | None,
    ) -> Draft:
        room = channel[5:] if channel.startswith("room.") else None
        key = (world, type_, room)
        opening = self._openings.get(key)
        if opening is None:
            if len(self._openings) >= OPENINGS_MAX:
                self._openings.clear()
            opening = self._openings[key] = events.render_opening(
                type=type_,
                source=HUB.source,
                actor_json=HUB.actor_json(),
                world=world,
                room=room,
            )
        members = events.render_members(
            opening, correlation_id=info.correlation_id, causation_id=causation_id
        )
        return Draft(
            world=world,
            channel=channel,
            type=type_,
            actor_id=HUB.account or "",
            members=members,
            data=data,
            correlation_id=info.correlation_id,
        )

    def tell_output(self, task: Task, piece: int | None, output: str) -> None:
        """Show who is live a piece of output; it is not stored."""
        record = task.record
        told = {"task_id": task.id, "piece": piece, "output": output}
        data = msgspec.json.encode(told)
        voice = _voice(record.world)
        for channel in self._channels(record):
            try:
                self._hub.signal(voice, channel, "task.output", data)
            except ClawError as error:
                _log.info("a piece of output is not shown: %s", error.message)


def _voice(world: str) -> Caller:
    return msgspec.structs.replace(HUB, world=world)


def _text(record: Record) -> str:
    return msgspec.json.encode(record).decode()


def _ignore(_: Outcome) -> None:
    return
