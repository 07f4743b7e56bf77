"""One task on this machine: may it run here, its turn, its processes, how it ended."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from clawnet.core.calls.publishing import Published
from clawnet.core.calls.tasks import EndStatus, TaskInfo, TaskList, WorkStatus
from clawnet.core.errors import ClawError, Conflict
from clawnet.sidecar.commands import NotAllowed, argv_of
from clawnet.sidecar.journal import Result
from clawnet.sidecar.model import ModelProvider
from clawnet.sidecar.openclaw import OpenClaw, session_key
from clawnet.sidecar.orchestrator import Orchestrator, Stage
from clawnet.sidecar.outputs import ERROR_MAX_BYTES, Pieces, cut, text_of
from clawnet.sidecar.processes import run
from clawnet.sidecar.settings import SidecarSettings

logger = logging.getLogger(__name__)
T = TypeVar("T")

STAGE_TYPE = "x.olympic.stage"
STAGE_TEXT_MAX_BYTES = 16_384
STAGE_WITHIN_S = 10.0
LAST_WORDS_WITHIN_S = 2.0
SILENT_MIN_S = 1.0
ENDED_EARLY = "It was ended before it was done."


class HubCalls(Protocol):
    """What the sidecar asks of the hub; clawnet.client.Client has it."""

    async def take_tasks(self) -> TaskList: ...

    async def update_task(
        self,
        task_id: str,
        fence: int,
        status: WorkStatus,
        *,
        output: str | None = None,
        piece: int | None = None,
        within_s: float = 0.0,
    ) -> TaskInfo: ...

    async def finish_task(
        self,
        task_id: str,
        fence: int,
        status: EndStatus,
        *,
        output: str | None = None,
        error: str | None = None,
        exit_code: int | None = None,
        within_s: float = 0.0,
    ) -> TaskInfo: ...

    async def report(
        self,
        *,
        role: str | None = None,
        specs: dict[str, Any] | None = None,
        resource_usage: dict[str, Any] | None = None,
        cron: Any = None,
        capabilities: list[str] | None = None,
    ) -> None: ...

    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        type: str | None = None,
        correlation_id: str | None = None,
        within_s: float = 0.0,
    ) -> Published: ...


class Turns:
    """One turn at a time in each conversation, in the order in which they came."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        return len(self._queues)

    def join(self, key: str) -> asyncio.Future[None]:
        """A place behind all that are there: done when it is its turn."""
        place = asyncio.get_running_loop().create_future()
        queue = self._queues.setdefault(key, deque())
        queue.append(place)
        if len(queue) == 1:
            place.set_result(None)
        return place

    def leave(self, key: str, place: asyncio.Future[None]) -> None:
        """Give the place up, whether its turn came or not."""
        queue = self._queues[key]
        queue.remove(place)
        if not queue:
            del self._queues[key]
        elif not queue[0].done():
            queue[0].set_result(None)


@dataclass(kw_only=True)
class Machine:
    """What this machine has to work with. `openclaw` comes and goes with the binary."""

    settings: SidecarSettings
    folder: Path
    hub: Callable[[], HubCalls]
    openclaw: OpenClaw | None = None
    model: ModelProvider | None = None
    slots: asyncio.Semaphore = field(init=False)
    turns: Turns = field(default_factory=Turns)

    def __post_init__(self) -> None:
        self.slots = asyncio.Semaphore(self.settings.concurrency)

    @property
    def capabilities(self) -> list[str]:
        """What it says that it can do."""
        found = ["sidecar"]
        if self.openclaw is not None:
            found.append("openclaw")
        if self.settings.exec_allow:
            found.append("exec")
        if self.model is not None:
            found.append("orchestrate")
        return found

    def refusal(self, task: TaskInfo) -> str | None:
        """Why a task can never run here; None if it can."""
        if _arguments(task).get("auto") is True:
            return "It is an automatic answer, and those are never answered."
        if "\0" in task.command:
            return "The command holds a NUL character."
        if task.kind == "exec":
            try:
                self.argv(task)
            except NotAllowed as error:
                return str(error)
            return None
        if is_orchestrated(task, self.settings):
            return None if self.model else "This agent has no model to orchestrate with."
        if task.kind == "custom":
            return "This agent knows custom tasks with the argument orchestrate only."
        return None if self.openclaw else "There is no OpenClaw on this agent's machine."

    def conversation(self, task: TaskInfo) -> str:
        """What a turn for it belongs to, as the OpenClaw that is here names it."""
        if self.openclaw is None:
            return session_key(task.room, task.from_id)
        return self.openclaw.conversation(
            agent_id=self.settings.agent_id, room=task.room, sender=task.from_id
        )

    def argv(self, task: TaskInfo) -> list[str]:
        """The words of an exec task, if they may run here. Raises NotAllowed."""
        return argv_of(task.command, allow=self.settings.exec_allow, deny=self.settings.exec_deny)


def is_orchestrated(task: TaskInfo, settings: SidecarSettings) -> bool:
    """Whether the gods have a say in it."""
    if task.kind == "custom":
        return _arguments(task).get("orchestrate") is True
    return task.kind == "openclaw" and settings.is_orchestrating


class Work:
    """A task that was accepted. `stop` ends it early; `is_lost` says that the hub did."""

    def __init__(
        self,
        task: TaskInfo,
        machine: Machine,
        *,
        on_start: Callable[[], Awaitable[None]],
    ) -> None:
        self.task = task
        self.stop = asyncio.Event()
        self.is_lost = False
        self.is_started = False
        self._machine = machine
        self._on_start = on_start
        # Three updates within a lease: two may be lost.
        silent_s = max(SILENT_MIN_S, task.lease_s / 3)
        self._pieces = Pieces(self._tell, silent_s=silent_s)
        # One turn at a time in a conversation: a second would be lost in the first. The place is
        # taken as the task comes, so that the order is that of the dispatches.
        self._key = machine.conversation(task)
        self._place = None if task.kind == "exec" else machine.turns.join(self._key)
        self._telling: asyncio.Task[None] | None = None
        self._is_executing = False

    def close(self) -> None:
        """Let the next turn of the conversation begin. Once, whatever became of it."""
        if self._telling is not None:
            self._telling.cancel()
        if self._place is not None:
            self._machine.turns.leave(self._key, self._place)
            self._place = None

    def nudge(self) -> None:
        """Tell the hub now that it is here, and hear whether it still may be."""
        self._pieces.nudge()

    def lose(self) -> None:
        """The hub ended it: nobody waits for what it does any more."""
        self.is_lost = True
        self.stop.set()

    async def run(self) -> Result:
        """Wait for its turn, run it within its time, say how it ended. Raises OSError if what is
        to run cannot be written down first. The lease is kept until close()."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self.task.timeout_s
        self._telling = asyncio.create_task(self._pieces.run())
        has_slot = False
        try:
            came = await self._within(self._turn_comes(), end_s)
            if isinstance(came, Result):
                return came
            given = await self._within(self._machine.slots.acquire(), end_s)
            if isinstance(given, Result):
                return given
            has_slot = True
            # On disk before anything runs: it will not be begun twice.
            await self._on_start()
            self.is_started = True
            if self.stop.is_set():  # meanwhile
                return Result(status="failed", error=ENDED_EARLY)
            self._pieces.nudge()
            return await self._done(end_s)
        finally:
            if has_slot:
                self._machine.slots.release()

    async def last_words(self) -> None:
        """Tell what of its output was not told yet, unless the hub is slow: the result has it."""
        if self.is_lost:
            return
        try:
            async with asyncio.timeout(LAST_WORDS_WITHIN_S):
                await self._pieces.flush()
        except TimeoutError:
            logger.debug("the last output of task %s was not told", self.task.task_id)

    async def _turn_comes(self) -> None:
        if self._place is not None:
            # Not awaited itself: a cancelled wait would cancel the place.
            await asyncio.wait({self._place})  # no deadline here: _within has one

    async def _done(self, end_s: float) -> Result:
        left_s = max(0.01, end_s - asyncio.get_running_loop().time())
        try:
            if self.task.kind == "exec":
                return await self._exec(left_s)
            if is_orchestrated(self.task, self._machine.settings):
                result = await self._within(self._orchestrated(end_s), end_s)
                if self._is_executing and result.status == "failed" and self.stop.is_set():
                    # As any turn that is ended in the middle: it may go on elsewhere.
                    return msgspec.structs.replace(result, status="outcome_unknown")
                return result
            return await self._turn(self.task.command, left_s)
        except NotAllowed as error:
            return Result(status="rejected", error=str(error))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return Result(status="failed", error=f"It could not be started ({reason}).")

    async def _exec(self, left_s: float) -> Result:
        settings = self._machine.settings
        timeout_s = min(left_s, settings.exec_timeout_s)
        ran = await run(
            self._machine.argv(self.task),
            mark=self.task.task_id,
            timeout_s=timeout_s,
            grace_s=settings.grace_s,
            stop=self.stop,
            on_output=self._pieces.add,
        )
        output, stderr = text_of(ran.stdout), text_of(ran.stderr)
        if ran.dropped_bytes:
            output += f"\n[... {ran.dropped_bytes} bytes left out ...]\n"
        status: EndStatus = "completed" if ran.exit_code == 0 else "failed"
        if ran.end == "timed_out":
            status, stderr = "timed_out", f"It was ended after {timeout_s:.3g} s.\n{stderr}"
        elif ran.end == "stopped":
            status, stderr = "failed", f"{ENDED_EARLY}\n{stderr}"
        stderr = stderr.strip()
        return Result(
            status=status,
            output=cut(output),
            error=cut(stderr, ERROR_MAX_BYTES) if stderr else None,
            exit_code=ran.exit_code,
        )

    async def _turn(self, text: str, left_s: float) -> Result:
        openclaw = self._machine.openclaw
        if openclaw is None:
            return Result(status="rejected", error="There is no OpenClaw on this machine any more.")
        settings, task = self._machine.settings, self.task
        is_answering = False

        def hear(stream: str, chunk: bytes) -> None:
            # The answer's JSON is for the result; what is said before it is shown.
            nonlocal is_answering
            if stream == "stdout":
                is_answering = is_answering or chunk.lstrip().startswith(b"{")
            if stream != "stdout" or not is_answering:
                self._pieces.add(stream, chunk)

        return await openclaw.turn(
            text,
            agent_id=settings.agent_id,
            sender=task.from_id,
            room=task.room,
            mark=task.task_id,
            timeout_s=left_s,
            grace_s=settings.grace_s,
            folder=self._machine.folder,
            stop=self.stop,
            on_output=hear,
        )

    async def _orchestrated(self, end_s: float) -> Result:
        model, loop = self._machine.model, asyncio.get_running_loop()
        if model is None:
            return Result(status="rejected", error="This agent has no model to orchestrate with.")

        async def execute(text: str) -> Result:
            self._is_executing = True
            return await self._turn(text, max(0.01, end_s - loop.time()))

        has_openclaw = self._machine.openclaw is not None
        orchestrator = Orchestrator(
            model, on_stage=self._show, execute=execute if has_openclaw else None
        )
        return await orchestrator.run(self.task.command)

    async def _show(self, stage: Stage) -> None:
        """A stage in the task's output, and as an event on a channel of the agent's own."""
        self._pieces.say(f"[{stage.stage} {stage.round}: {stage.state}]\n")
        if stage.text:
            self._pieces.say(f"{stage.text}\n")
        data = {
            "task_id": self.task.task_id,
            "stage": stage.stage,
            "round": stage.round,
            "state": stage.state,
            "text": cut(stage.text, STAGE_TEXT_MAX_BYTES),
        }
        try:
            await self._machine.hub().publish(
                f"agent.{self._machine.settings.agent_id}.olympic",
                data,
                type=STAGE_TYPE,
                correlation_id=self.task.correlation_id,
                within_s=STAGE_WITHIN_S,
            )
        except ClawError as error:
            # It is told for whoever watches; the work goes on.
            logger.warning("stage %s was not published: %s", stage.stage, ascii(error.message))

    async def _within(self, work: Coroutine[Any, Any, T], end_s: float) -> T | Result:
        """The work's outcome, or how it ended early: stopped, or out of time."""
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self.stop.wait())
        left_s = max(0.0, end_s - asyncio.get_running_loop().time())
        both: set[asyncio.Task[Any]] = {working, stopping}
        try:
            await asyncio.wait(both, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            is_stopped = stopping.done()
        finally:
            is_done = working.done()
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        if is_done or (working.done() and not working.cancelled() and not working.exception()):
            return working.result()
        if is_stopped:
            return Result(status="failed", error=ENDED_EARLY)
        return Result(status="timed_out", error=f"It was ended after {self.task.timeout_s:.3g} s.")

    async def _tell(self, output: str | None, piece: int | None) -> None:
        status: Literal["accepted", "running"] = "running" if self.is_started else "accepted"
        task = self.task
        try:
            await self._machine.hub().update_task(
                task.task_id, task.fence, status, output=output, piece=piece
            )
        except Conflict as error:
            logger.info("task %s is not ours any more: %s", task.task_id, ascii(error.message))
            self.lose()
        except ClawError as error:
            # A piece of output is a signal; the result is kept and told.
            logger.debug("task %s was not updated: %s", task.task_id, ascii(error.message))


def _arguments(task: TaskInfo) -> dict[str, Any]:
    if isinstance(task.args, msgspec.UnsetType):
        return {}
    try:
        value = msgspec.json.decode(task.args)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
