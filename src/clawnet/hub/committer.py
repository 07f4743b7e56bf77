"""The commit queue: units in, one group after the other through the engine, outcomes out in order.

The engine decides and stores; this module only groups and hands over. With a
blocking engine one writer thread does it, otherwise the loop does at the end
of its turn. Groups come back through one FIFO, so the order of outcomes is the
order of offsets, and of what fan-out writes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from clawnet.core.errors import ClawError, OutcomeUnknown, Unavailable
from clawnet.core.events import Draft, Stored
from clawnet.core.units import GROUP_MAX_BYTES, GROUP_MAX_EVENTS, Committed, Outcome, Unit
from clawnet.ports.log import Engine

QUEUED_EVENTS_MAX = 65_536
QUEUED_BYTES_MAX = 67_108_864

T = TypeVar("T")
Reply = Callable[[Outcome], None]
_Entry = tuple[Unit, Reply, int, int]
_log = logging.getLogger(__name__)


class Committer:
    """Owns the writer thread. All methods are called on the loop.

    `on_stored` gets each group's new events after their replies were called;
    `on_failed` is called once when storage failed at a commit and the hub must stop.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        on_stored: Callable[[list[Stored]], None],
        on_failed: Callable[[ClawError], None],
    ) -> None:
        self._engine = engine
        self._on_stored = on_stored
        self._on_failed = on_failed
        self._loop = asyncio.get_running_loop()
        self._turn: list[_Entry] = []
        self._queued_events = 0
        self._queued_bytes = 0
        self._is_flush_due = False
        self._failure: ClawError | None = None
        # The same, known where commits run before the loop has heard of it.
        self._broken: ClawError | None = None
        self._idle: list[asyncio.Future[None]] = []
        self._unanswered = 0
        self.held: Unavailable | None = None
        """Why nothing but narrowings and what is restored is taken for now."""
        self._jobs: SimpleQueue[list[_Entry] | _Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        if engine.is_blocking:
            self._thread = threading.Thread(target=self._write, name="clawnet-writer", daemon=True)
            self._thread.start()

    @property
    def queued_events(self) -> int:
        """Events that wait for their commit or its outcome."""
        return self._queued_events

    def submit(self, unit: Unit, reply: Reply, *, is_restoring: bool = False) -> None:
        """Queue a unit; `reply` is called once with its outcome, on the loop.

        Raises Unavailable if the queue is full and the failure if storage failed.
        Narrowings are taken even then, so that a flood cannot hold off a revocation.
        """
        if self._failure is not None:
            raise self._failure
        if self.held is not None and not (is_restoring or unit.is_narrowing):
            raise self.held
        drafts = unit.drafts
        events = len(drafts) or 1
        # One draft is nearly all traffic, here and in _settle.
        size = len(drafts[0].data) if events == len(drafts) == 1 else _size_of(drafts)
        is_full = self._queued_events >= QUEUED_EVENTS_MAX or self._queued_bytes >= QUEUED_BYTES_MAX
        if is_full and not unit.is_narrowing:
            raise Unavailable("The hub has more to write than it can take.", retry_after_s=0.5)
        self._queued_events += events
        self._queued_bytes += size
        self._unanswered += 1
        self._turn.append((unit, reply, events, size))
        if not self._is_flush_due:
            # One hand-over for each turn of the loop: what arrived together is one group.
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    async def commit(self, unit: Unit, *, is_restoring: bool = False) -> Committed:
        """submit() and wait. Raises what the unit was refused with."""
        done: asyncio.Future[Outcome] = self._loop.create_future()

        def reply(outcome: Outcome) -> None:
            if not done.done():
                done.set_result(outcome)

        self.submit(unit, reply, is_restoring=is_restoring)
        # No deadline: the writer answers every unit, also when storage fails.
        outcome = await done
        if isinstance(outcome, Committed):
            return outcome
        raise outcome

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` where commits run, between groups. For trims and backup steps."""
        if self._failure is not None:
            raise self._failure
        if self._thread is None:
            return work()
        job = _Job(work)
        self._flush()
        self._jobs.put(job)
        return await asyncio.wrap_future(job.done)

    async def drain(self) -> None:
        """Wait until everything submitted so far has been answered."""
        while self._unanswered and self._failure is None:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._idle.append(waiter)
            # No deadline here: the caller (shutdown) bounds it.
            await waiter

    async def close(self) -> None:
        """Stop the writer thread after what is queued."""
        self._flush()
        if self._thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join, 5.0)
            self._thread = None

    def _flush(self) -> None:
        self._is_flush_due = False
        if not self._turn:
            return
        batch, self._turn = self._turn, []
        if self._thread is not None:
            self._jobs.put(batch)
            return
        for group in _groups(deque(batch)):
            self._settle(group, *self._commit(group))

    def _commit(self, group: list[_Entry]) -> tuple[list[Outcome], ClawError | None]:
        if self._broken is not None:
            # What the disk did is not known: nothing may be written on top of it.
            return [self._broken for _ in group], self._broken
        try:
            return self._engine.commit([entry[0] for entry in group]), None
        except OutcomeUnknown as error:
            self._broken = error
            return [error for _ in group], error
        except Exception as error:  # any failure of an engine must end in answers, not in silence
            _log.exception("the engine failed at a commit")
            unknown = OutcomeUnknown(f"Storage failed at the commit: {type(error).__name__}.")
            self._broken = unknown
            return [unknown for _ in group], unknown

    def _settle(
        self, group: list[_Entry], outcomes: list[Outcome], failure: ClawError | None
    ) -> None:
        """Answer a group and hand its events on. Runs on the loop, in the order of commits."""
        if failure is not None and self._failure is None:
            self._failure = failure
        stored: list[Stored] = []
        for (_, reply, events, size), outcome in zip(group, outcomes, strict=True):
            self._queued_events -= events
            self._queued_bytes -= size
            if type(outcome) is Committed:
                for event in outcome.events:
                    if type(event) is Stored:
                        stored.append(event)  # noqa: PERF401  a generator costs more for one
            try:
                reply(outcome)
            except Exception:  # one caller's reply must not cost another's
                _log.exception("a reply failed")
        self._unanswered -= len(group)
        if stored:
            self._on_stored(stored)
        if not self._unanswered or self._failure is not None:
            waiters, self._idle = self._idle, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        if failure is not None:
            self._on_failed(failure)

    # --- writer thread ------------------------------------------------------

    def _write(self) -> None:
        waiting: deque[_Entry] = deque()
        jobs: deque[_Job] = deque()
        is_open = True
        while is_open or waiting or jobs:
            if not waiting and not jobs:
                is_open = self._take(self._jobs.get(), waiting, jobs)
            while is_open and not jobs and not self._jobs.empty():
                if len(waiting) >= GROUP_MAX_EVENTS:
                    break
                is_open = self._take(self._jobs.get(), waiting, jobs)
            if waiting:
                # What was queued before a job is committed before it.
                groups = _groups(waiting) if jobs or not is_open else [_group(waiting)]
                for group in groups:
                    outcomes, failure = self._commit(group)
                    self._post(self._settle, group, outcomes, failure)
            while jobs:
                jobs.popleft().run()

    def _take(
        self, item: list[_Entry] | _Job | None, waiting: deque[_Entry], jobs: deque[_Job]
    ) -> bool:
        if item is None:
            return False
        if isinstance(item, list):
            waiting.extend(item)
        else:
            jobs.append(item)
        return True

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            _log.warning("the loop closed before a group was answered")


class _Job:
    """A piece of work for the writer thread."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self.done: Future[Any] = Future()

    def run(self) -> None:
        try:
            self.done.set_result(self._work())
        except BaseException as error:  # handed to whoever awaits the job
            self.done.set_exception(error)


def _size_of(drafts: tuple[Draft, ...]) -> int:
    return sum(len(draft.data) for draft in drafts)


def _group(waiting: deque[_Entry]) -> list[_Entry]:
    """Take the next group: at least one unit, at most the bounds of a group."""
    group: list[_Entry] = []
    events = size = 0
    while waiting:
        _, _, entry_events, entry_size = waiting[0]
        is_over = events + entry_events > GROUP_MAX_EVENTS or size + entry_size > GROUP_MAX_BYTES
        if group and is_over:
            break
        events += entry_events
        size += entry_size
        group.append(waiting.popleft())
    return group


def _groups(waiting: deque[_Entry]) -> Iterator[list[_Entry]]:
    while waiting:
        yield _group(waiting)
