"""What workers, givers and masters do with a task that is there."""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING, Any

from clawnet.core.callers import Caller
from clawnet.core.calls.tasks import (
    OUTPUT_MAX_BYTES,
    WORKING,
    ApproveTask,
    CancelTask,
    FinishTask,
    TakeTasks,
    TaskInfo,
    TaskList,
    TaskStatus,
    UpdateTask,
)
from clawnet.core.errors import BadRequest, Conflict, Forbidden, PayloadTooLarge
from clawnet.core.events import Draft, check_key
from clawnet.features.tasks.book import ANSWER_MAX_BYTES, Task
from clawnet.features.tasks.changes import Changes
from clawnet.features.tasks.dispatching import Lists
from clawnet.features.tasks.record import (
    ERROR_MAX_BYTES,
    UNACCEPTED,
    Record,
    cut,
    found_in,
    moved,
    room_for_result,
    size_of,
)
from clawnet.features.tasks.seeing import Seeing
from clawnet.hub.accounts import need_account, need_master

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

TAKE_MAX = 50
"""So many tasks are given at once; what waits behind them follows as these are taken."""
SAID_MAX_CHARS = 64
EXIT_CODE_MAX = 1 << 32
_LOST: frozenset[str] = frozenset(("timed_out", "outcome_unknown", "delivery_failed"))


class Working:
    """Handlers of TakeTasks, UpdateTask, FinishTask, CancelTask and ApproveTask."""

    def __init__(self, hub: Hub, changes: Changes, seeing: Seeing, lists: Lists) -> None:
        self._hub = hub
        self._changes = changes
        self._book = changes.book
        self._seeing = seeing
        self._lists = lists

    # --- the worker ---------------------------------------------------------

    async def take(self, call: TakeTasks, caller: Caller) -> TaskList:
        """Raises Unauthenticated, Forbidden."""
        account = need_account(caller)
        caller.need("tasks:write")
        key = (caller.world, account)
        changes, book = self._changes, self._book
        changes.visited(*key)
        waiting = (*book.submitted.get(key, {}).values(), *book.queued.get(key, {}).values())
        taken: list[Task] = []
        size = 0
        for task in nsmallest(TAKE_MAX, waiting, key=_id_of):
            taken.append(task)
            size += task.size
            if size >= ANSWER_MAX_BYTES:
                break
        for task in taken:
            if not changes.is_backed(task.record):
                changes.look(task)
            elif task.info.status == "submitted":
                changes.announce_anew(task)
            else:
                changes.requeue(task, is_there=True)
        if any(task.is_moving for task in taken):
            await changes.settled()
        # Between the two anything may have ended: what is answered is asked again.
        caller = self._hub.directory.refresh(caller)
        caller.need("tasks:write")
        given = [
            task.shown()
            for task in taken
            if task.info.status == "submitted" and changes.is_backed(task.record)
        ]
        return TaskList(tasks=given)

    async def update(self, call: UpdateTask, caller: Caller) -> TaskInfo:
        """Raises Unauthenticated, Forbidden, NotFound, Conflict, PayloadTooLarge, BadRequest."""
        if call.output is not None and size_of(call.output) > OUTPUT_MAX_BYTES:
            raise PayloadTooLarge(
                f"A piece of output has at most {OUTPUT_MAX_BYTES} bytes as JSON.",
                next="Send it in smaller pieces.",
                limit_bytes=OUTPUT_MAX_BYTES,
            )
        if call.piece is not None and not 0 <= call.piece <= EXIT_CODE_MAX:
            raise BadRequest("piece counts from 0.", next="Number the pieces 0, 1, 2 and so on.")

        def decided() -> tuple[Task, Record | None]:
            task = self._own(caller, call.task_id)
            self._check_held(task, call.fence)
            record, status = task.record, task.info.status
            if status in UNACCEPTED and not self._changes.is_backed(record):
                raise _ended(task, "This task was taken back.")
            is_repeat = call.status == status or (call.status == "accepted" and status in WORKING)
            if is_repeat:
                self._changes.renew(task)
                return task, None
            return task, self._moved(task, call.status)

        task = await self._changes.change(decided)
        if call.output:
            caller = self._hub.directory.refresh(caller)
            self._own(caller, call.task_id)
            if task.info.status in WORKING and task.info.fence == call.fence:
                self._changes.tell_output(task, call.piece, call.output)
        return task.shown()

    async def finish(self, call: FinishTask, caller: Caller) -> TaskInfo:
        """Raises Unauthenticated, Forbidden, NotFound, Conflict, BadRequest."""
        check_key("said", call.said, max_chars=SAID_MAX_CHARS)
        if call.exit_code is not None and abs(call.exit_code) > EXIT_CODE_MAX:
            raise BadRequest("exit_code is not a process's.", next="Give its number, or leave it.")
        limit_bytes = self._hub.settings.limits.data_max_bytes

        def decided() -> tuple[Task, Record | None]:
            task = self._own(caller, call.task_id)
            info = task.info
            error = cut(call.error, ERROR_MAX_BYTES)
            room = room_for_result(info, limit_bytes) - size_of(error or "")
            said = {
                "output": cut(call.output, min(OUTPUT_MAX_BYTES, room)),
                "error": error,
                "exit_code": call.exit_code,
                "said": call.said,
            }
            is_same = info.status == call.status and info.fence == call.fence
            is_same &= all(getattr(info, name) == value for name, value in said.items())
            if task.record.is_told and is_same:
                return task, None
            self._check_held(task, call.fence)
            if info.status in UNACCEPTED and not self._changes.is_backed(task.record):
                raise _ended(task, "This task was taken back.")
            return task, self._moved(task, call.status, is_told=True, **said)

        return (await self._changes.change(decided)).shown()

    def _own(self, caller: Caller, task_id: str) -> Task:
        """A task of the caller's own. Asked again for each try."""
        caller = self._hub.directory.refresh(caller)
        task = self._seeing.find(caller, task_id)
        caller.need("tasks:write")
        if caller.account != task.info.to:
            raise Forbidden(
                f"Only {task.info.to} says what becomes of this task.",
                next="Who gave it and masters may cancel it: claw tasks cancel ID.",
            )
        return task

    def _check_held(self, task: Task, fence: int) -> None:
        """Raises Conflict unless the worker may still say something of it."""
        info = task.info
        if not task.record.is_open and (task.record.is_told or info.status not in _LOST):
            raise _ended(task, f"This task has ended: {info.status}.")
        if not task.record.is_open or fence != info.fence:
            raise Conflict(
                "The lease of this task was lost; what became of it changes nothing any more.",
                next="Do not send it again; leave the task.",
                reason="lease_lost",
                task_status=info.status,
                task_id=task.id,
            )
        if info.status == "awaiting_approval":
            raise Conflict(
                "This task waits for a master's approval.",
                next="Wait until it is sent.",
                reason="approval",
                task_status=info.status,
                task_id=task.id,
            )

    # --- who gave it, and masters -------------------------------------------

    async def cancel(self, call: CancelTask, caller: Caller) -> TaskInfo:
        """Raises Unauthenticated, Forbidden, NotFound, Conflict."""

        def decided() -> tuple[Task, Record | None]:
            now = self._hub.directory.refresh(caller)
            task = self._seeing.find(now, call.task_id)
            now.need("tasks:write")
            info = task.info
            if now.account not in (info.from_id, info.to) and now.role != "master":
                raise Forbidden(
                    "A task is cancelled by who gave it, whose it is, or a master.",
                    next=f"Ask {info.from_id} to cancel it.",
                )
            if info.status == "cancelled":
                return task, None
            if not task.record.is_open:
                raise _ended(task, f"This task has ended: {info.status}.")
            return task, self._moved(
                task, "cancelled", reason=f"Cancelled by {now.account}.", fence=info.fence + 1
            )

        return (await self._changes.change(decided)).shown()

    async def approve(self, call: ApproveTask, caller: Caller) -> TaskInfo:
        """Raises Unauthenticated, Forbidden, NotFound, Conflict."""
        changes = self._changes

        def decided() -> tuple[Task, Record | None]:
            now = self._hub.directory.refresh(caller)
            master = need_master(now, "tasks:write")
            task = self._seeing.find(now, call.task_id)
            record, info = task.record, task.info
            if call.digest != info.digest:
                raise Conflict(
                    "The digest is not that of this task: other bytes were looked at.",
                    next="Read the task again, look at what it would do, and approve its digest.",
                    reason="digest",
                    task_id=task.id,
                )
            if record.is_approved:
                return task, None
            if not record.is_open:
                raise _ended(task, f"This task has ended: {info.status}.")
            if info.status != "awaiting_approval":
                raise Conflict(
                    "This task needs no approval.",
                    next="Leave it; claw tasks list shows how it goes on.",
                    reason="approval",
                    task_status=info.status,
                    task_id=task.id,
                )
            if not changes.is_backed(record):
                changes.look(task)
                raise _ended(task, "Who gave this task may not give it any more.")
            denied = found_in(info.command, info.args, self._lists(record.world)[0])
            if denied is not None:
                # The deny list may be younger than the task; it holds for masters, too.
                reason = f"{ascii(denied)} is on this hub's deny list."
                return task, self._moved(task, "rejected", reason=reason, fence=info.fence + 1)
            approved = changes.deliverable(record, now_ms=changes.now_ms, event_id=task.event_id)
            return task, approved.approved(master)

        def told(record: Record) -> tuple[Draft, ...]:
            if not record.is_approved:
                return ()
            by = need_account(caller)
            facts = {"by": by, "task_id": record.info.task_id, "digest": record.info.digest}
            return (changes.note(record, "task.approved", facts),)

        return (await changes.change(decided, more=told)).shown()

    # --- inside -------------------------------------------------------------

    def _moved(
        self, task: Task, status: TaskStatus, *, is_told: bool = False, **named: Any
    ) -> Record:
        changes = self._changes
        return moved(
            task.record,
            status,
            now_ms=changes.now_ms,
            times=changes.times,
            event_id=task.event_id,
            is_told=is_told,
            **named,
        )


def _id_of(task: Task) -> str:
    return task.id


def _ended(task: Task, said: str) -> Conflict:
    return Conflict(
        said,
        next="Leave it; claw tasks list shows what became of it.",
        reason="ended",
        task_status=task.info.status,
        task_id=task.id,
    )
