"""Where tasks come in, are carried out once, and their results go out until the hub has them."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from clawnet.client.backoff import Backoff
from clawnet.core.calls.tasks import COMMAND_MAX_CHARS, ENDED, TIMEOUT_MAX_S, TaskInfo
from clawnet.core.channels import is_account_id
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    Conflict,
    Forbidden,
    InvalidData,
    NotFound,
    PayloadTooLarge,
    Unauthenticated,
)
from clawnet.sidecar.journal import Journal, Result
from clawnet.sidecar.processes import end_leftovers
from clawnet.sidecar.work import Machine, Work

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 30.0
ACCEPT_WITHIN_S = 90.0
WORKS_MAX = 256
TASK_MAX_BYTES = 262_144
END_WITHIN_S = 3.0
"""Beside the grace of processes: so long may running tasks take to end when the sidecar does."""
_TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_CHANGES = frozenset(f"task.{status}" for status in ("queued", "submitted", *ENDED))
"""What of a task's events is for its worker: all else is its own word."""

_REFUSALS = (Conflict, NotFound, Forbidden, BadRequest, InvalidData, PayloadTooLarge)
"""After these the same result would be refused again."""


class Desk:
    """An agent's tasks on this machine.

    D1 once      a task runs at most once, whoever dies in between: it is in the journal before.
    D2 told      a result is sent until the hub has it or refuses it, also by a later process.
    D3 bounded   WORKS_MAX tasks at a time, each within bounds; what is more is left to the hub,
                 which sends it again.
    D4 ended     processes end with their task, with end(), or at the next start.
    """

    def __init__(
        self,
        journal: Journal,
        machine: Machine,
        *,
        backoff: Callable[[], Backoff] = Backoff,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._journal = journal
        self._machine = machine
        self._hub = machine.hub
        self._backoff = backoff
        self._chance = chance
        self._look = asyncio.Event()
        self._untold = asyncio.Event()
        self._works: dict[str, Work] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_declined = False

    @property
    def running(self) -> list[str]:
        """The tasks that were accepted and have not ended."""
        return sorted(self._works)

    @property
    def untold(self) -> int:
        """How many results the hub does not know yet."""
        return len(self._journal.untold())

    @property
    def _is_busy(self) -> bool:
        return len(self._tasks) >= 2 * WORKS_MAX

    def wake(self) -> None:
        """The hub is there (again): go on, look for work, and tell what it missed, all at once."""
        self._look.set()
        self._untold.set()
        for work in self._works.values():
            # It keeps its lease, or hears now that it ended meanwhile.
            work.nudge()
        self.resume()

    def resume(self) -> None:
        """Go on with what was taken on before and never begun."""
        for task in self._journal.unstarted():
            self._begin(task, is_resumed=True)

    async def end_interrupted(self) -> None:
        """What a sidecar that was killed left behind: its processes, and tasks without an end."""
        interrupted = self._journal.interrupted()
        if not interrupted:
            return
        await asyncio.to_thread(end_leftovers, {task.task_id for task in interrupted})
        why = "The sidecar was killed while it ran; how far it came is not known."
        for task in interrupted:
            await self._ended(task, Result(status="outcome_unknown", error=why))

    async def end(self) -> None:
        """End what runs, and wait for it; the results are in the journal."""
        for work in self._works.values():
            work.stop.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._machine.settings.grace_s + END_WITHIN_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def heard(self, kind: str, data: msgspec.Raw) -> None:
        """An event or a signal of the agent's tasks."""
        if kind not in _CHANGES:
            return
        try:
            task = msgspec.json.decode(data, type=TaskInfo)
        except (msgspec.DecodeError, RecursionError) as error:
            logger.warning("an event of a task cannot be read: %s", ascii(str(error)))
            return
        if task.to != self._machine.settings.agent_id:
            return  # one that this account gave to another
        if task.status in ENDED:
            work = self._works.get(task.task_id)
            if work is not None:
                work.lose()
        elif task.status == "submitted":
            self._offered(task)
        elif task.status == "queued":
            # The hub believes that nobody is here.
            self._look.set()

    async def take(self) -> None:
        """Ask for work: at the start, after each return, and now and then."""
        backoff = self._backoff()
        while True:
            self._look.clear()
            try:
                given = await self._hub().take_tasks()
            except Unauthenticated:
                raise
            except ClawError as error:
                # Not a moment longer than the hub is away: see wake().
                await _at_most(self._look, backoff.next_s(error.retry_after_s))
                continue
            backoff.reset()
            for task in given.tasks:
                is_ours = task.to == self._machine.settings.agent_id
                if is_ours and task.status in ("queued", "submitted"):
                    self._offered(task, is_certain=True)
            await _at_most(self._look, self._jittered(LOOK_EVERY_S))

    def _offered(self, task: TaskInfo, *, is_certain: bool = False) -> None:
        """Begin a task, unless it is known: nothing runs twice."""
        if task.task_id in self._works:
            return
        if not _is_sound(task):
            logger.warning("a task that no hub gives is left alone: %s", ascii(task.task_id[:80]))
            return
        entry = self._journal.entry(task.task_id)
        if entry is not None:
            if entry.result is None and not entry.is_started:
                # Taken on before, and the hub could not be told so.
                self._begin(task, is_resumed=True)
            elif is_certain and entry.is_told and entry.result is not None and not self._is_busy:
                # It ended here, and the hub has lost that.
                self._spawn(self._told_again(task, entry.result))
            return
        if self._journal.is_full or len(self._works) >= WORKS_MAX:
            if not self._has_declined:
                logger.warning("there is too much to do: some tasks are left for later")
            self._has_declined = True
            return
        self._begin(task)

    def _begin(self, task: TaskInfo, *, is_resumed: bool = False) -> None:
        if task.task_id in self._works:
            return

        async def on_start() -> None:
            await asyncio.to_thread(self._journal.start, task.task_id)

        work = Work(task, self._machine, on_start=on_start)
        self._works[task.task_id] = work
        self._spawn(self._carried(work, is_resumed=is_resumed))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        made: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(made)
        made.add_done_callback(self._tasks.discard)

    async def _carried(self, work: Work, *, is_resumed: bool) -> None:
        task = work.task
        try:
            refusal = self._machine.refusal(task)
            if not is_resumed and not await asyncio.to_thread(self._journal.accept, task):
                return
            if refusal is not None:
                logger.info("task %s is refused: %s", task.task_id, ascii(refusal))
                await self._ended(task, Result(status="rejected", error=refusal))
                return
            is_accepted = await self._accepted(work)
            if is_accepted is False:
                await asyncio.to_thread(self._journal.forget, task.task_id)
            if not is_accepted:
                return
            logger.info("task %s (%s) of %s begins", task.task_id, task.kind, task.from_id)
            result = await work.run()
            logger.info("task %s ended: %s", task.task_id, result.status)
            # On disk first: the hub may be slow to take the last of its output.
            await self._noted(task, result, is_lost=work.is_lost)
            await work.last_words()
            self._untold.set()
        except OSError as error:
            # The journal cannot be written, so nothing may run; the hub's deadline ends it.
            logger.error("task %s: %s", task.task_id, ascii(str(error)))
            await self._ended(
                task, Result(status="failed", error="The agent's disk cannot be written.")
            )
        except Exception:  # a task's top: one defect must not end the others
            logger.exception("task %s failed inside the sidecar", task.task_id)
            await self._ended(
                task, Result(status="failed", error="The sidecar failed; its log says why.")
            )
        finally:
            work.close()
            self._works.pop(task.task_id, None)
            if self._has_declined and len(self._works) <= WORKS_MAX // 2:
                # There is room again for what was left to the hub.
                self._has_declined = False
                self._look.set()

    async def _accepted(self, work: Work) -> bool | None:
        """Tell the hub that we have it; False if it is not ours, None if that is not known: then
        it stays in the journal, for when the hub is there or sends it again."""
        task = work.task
        telling = asyncio.create_task(
            self._hub().update_task(task.task_id, task.fence, "accepted", within_s=ACCEPT_WITHIN_S)
        )
        stopping = asyncio.create_task(work.stop.wait())
        both: set[asyncio.Task[Any]] = {telling, stopping}
        try:
            # The call has a deadline of its own.
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        if work.is_lost:
            return False
        if telling.cancelled():
            return None
        error = telling.exception()
        if error is None:
            return True
        if not isinstance(error, ClawError):
            raise error
        logger.info("task %s was not accepted: %s", task.task_id, ascii(error.message))
        return False if isinstance(error, _REFUSALS) else None

    async def _ended(self, task: TaskInfo, result: Result) -> None:
        await self._noted(task, result)
        self._untold.set()

    async def _noted(self, task: TaskInfo, result: Result, *, is_lost: bool = False) -> None:
        try:
            await asyncio.to_thread(self._journal.end, task.task_id, result)
            if is_lost:
                await asyncio.to_thread(self._journal.tell, task.task_id)
        except OSError as error:
            # It is known in memory and told from there.
            logger.error("the end of task %s is not on disk: %s", task.task_id, ascii(str(error)))

    # --- results ------------------------------------------------------------

    async def tell(self) -> None:
        """Tell results as they come. Raises Unauthenticated."""
        backoff = self._backoff()
        while True:
            self._untold.clear()
            try:
                await self.tell_results()
            except Unauthenticated:
                raise
            except ClawError as error:
                await _at_most(self._untold, backoff.next_s(error.retry_after_s))
                continue
            backoff.reset()
            await self._untold.wait()  # no deadline: until there is one

    async def tell_results(self) -> None:
        """Every result, oldest first. Raises ClawError if the hub could not be told of one."""
        failure: ClawError | None = None
        for task, result in self._journal.untold():
            try:
                await self._told(task, result)
            except ClawError as error:
                if error.retryable or isinstance(error, Unauthenticated):
                    raise
                # A defect over there, or a proxy: it must not hold up the others.
                logger.warning("task %s: %s", task.task_id, ascii(error.message))
                failure = error
                continue
            try:
                await asyncio.to_thread(self._journal.tell, task.task_id)
            except OSError as error:
                # It is told again at the next start, which does no harm.
                logger.error("the journal cannot be written: %s", ascii(str(error)))
        if failure is not None:
            raise failure

    async def _told(self, task: TaskInfo, result: Result) -> None:
        """Tell a result, or hear that nobody wants it. Raises ClawError."""
        try:
            await self._hub().finish_task(
                task.task_id,
                task.fence,
                result.status,
                output=result.output,
                error=result.error,
                exit_code=result.exit_code,
                within_s=0.0,
            )
        except _REFUSALS as error:
            logger.warning(
                "the result of task %s was refused: %s", task.task_id, ascii(error.message)
            )

    async def _told_again(self, task: TaskInfo, result: Result) -> None:
        try:
            await self._told(task, result)
        except ClawError as error:
            logger.info("task %s: %s", task.task_id, ascii(error.message))

    def _jittered(self, seconds: float) -> float:
        # Agents that were started together must not report together.
        return seconds * (0.8 + 0.4 * self._chance())


async def _at_most(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _is_sound(task: TaskInfo) -> bool:
    """Whether it is within what a hub gives: it becomes a log line, an environment, a file."""
    return (
        _TASK_ID.fullmatch(task.task_id) is not None
        and is_account_id(task.from_id)
        and len(task.command) <= COMMAND_MAX_CHARS
        and 0 < task.timeout_s <= TIMEOUT_MAX_S
        and len(msgspec.json.encode(task)) <= TASK_MAX_BYTES
    )
