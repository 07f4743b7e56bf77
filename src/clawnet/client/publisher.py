"""Publishes of one client, pipelined over one WebSocket: many on their way, each answered once.

What a frame cannot hold goes by HTTP; see clawnet.client.client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

from clawnet.client.address import Address
from clawnet.client.backoff import Backoff
from clawnet.client.errors import HubUnreachable, UnexpectedAnswer
from clawnet.client.http import naming_key, outcome_unknown
from clawnet.client.transport import open_websocket
from clawnet.client.wire import PublishAnswer, decode_publish_answer
from clawnet.core.calls.publishing import Published
from clawnet.core.errors import ClawError, OutcomeUnknown

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

IN_FLIGHT_MAX = 256
"""Publishes sent and not yet answered."""
PING_EVERY_S = 5.0
SILENT_MAX_S = 10.0


class _Entry:
    """A publish from its call to its return. `number` is its place in the order and its id."""

    __slots__ = ("frame", "future", "is_unsure", "key", "number", "timer", "was_sent", "within_s")

    def __init__(self, number: int, command: bytes, *, key: str, within_s: float) -> None:
        self.number = number
        self.frame = b'{"id":%d,%b' % (number, command[1:])
        self.key = key
        self.within_s = within_s
        self.future: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        self.timer: asyncio.TimerHandle | None = None
        self.was_sent = False
        self.is_unsure = False
        """Whether it may be stored although no answer said so."""

    def fail(self, error: ClawError) -> None:
        if self.future.done():
            return
        is_lost = isinstance(error, HubUnreachable | OutcomeUnknown) or error.retryable
        unknown = self.is_unsure and is_lost
        # A copy: what is raised in many tasks would gather the traceback of each.
        told = outcome_unknown if unknown else naming_key
        self.future.set_exception(told(error, self.key))


class Publisher:
    """Sends publishes in the order of their calls, and again under their keys until answered.

    A lost connection is made again and what was unanswered is sent first, in
    order. A refusal that may pass (429, 503, 507) halts all sending for as long
    as the hub asks, and what was refused goes first; only what was on its way
    behind it may overtake it. After both, one publish is sent alone, and each
    answer lets one more go, up to IN_FLIGHT_MAX: a hub that is short of
    something is not sent 255 frames in vain.

    A publish's time begins with its first sending; as long as the hub is not
    there, with its call. So those who wait behind others do not run out of it.
    """

    def __init__(
        self, address: Address, token: str | None, *, backoff: Callable[[], Backoff] = Backoff
    ) -> None:
        self._address = address
        self._token = token
        self._backoff = backoff()
        self._numbers = count(1)
        # Bounded by the callers: each of them waits for its own.
        self._queue: list[tuple[int, _Entry]] = []
        """What is to be sent: a heap, so that what is sent again finds its place."""
        self._flight: dict[int | str | None, _Entry] = {}
        self._window = 1
        self._resume_s = 0.0
        self._is_down = True
        """No publish was answered since the connection was lost."""
        self._trouble: ClawError | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def publish(self, command: bytes, *, key: str, within_s: float) -> Published:
        """Send what encode_publish() made; durable when this returns. Raises ClawError."""
        entry = _Entry(next(self._numbers), command, key=key, within_s=within_s)
        if self._is_down or not (self._queue or self._flight):
            self._start_time_of(entry)
        heappush(self._queue, (entry.number, entry))
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="clawnet publisher")
        try:
            return await entry.future
        finally:
            # A cancelled one too: what is in the queue of it is passed over.
            if entry.timer is not None:
                entry.timer.cancel()
            if self._flight.pop(entry.number, None) is not None:
                self._wake.set()

    async def aclose(self) -> None:
        """End the connection. What is not answered fails; what is published later opens it anew."""
        task, self._task = self._task, None
        self._fail_all(HubUnreachable("The client was closed before the answer came."))
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # --- the connection -----------------------------------------------------

    async def _run(self) -> None:
        from websockets.exceptions import ConnectionClosed

        url = self._address.url
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()  # without end: there is nothing to publish
            await asyncio.sleep(self._resume_s - asyncio.get_running_loop().time())
            try:
                socket = await open_websocket(
                    self._address, self._token, ping_every_s=PING_EVERY_S, silent_max_s=SILENT_MAX_S
                )
            except ClawError as error:
                self._lost(error)
                continue
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._send(socket))
                    both.create_task(self._receive(socket))
            except* ConnectionClosed:
                # Also after a revocation: the next handshake is refused with the hub's reason.
                self._lost(HubUnreachable(f"The connection to {url} was lost."))
            except* UnexpectedAnswer as group:
                self._fail_all(UnexpectedAnswer(str(group.exceptions[0])))
            finally:
                await socket.close()

    async def _send(self, socket: ClientConnection) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if (pause_s := self._resume_s - loop.time()) > 0:
                await asyncio.sleep(pause_s)
                continue
            if not self._queue or len(self._flight) >= self._window:
                self._wake.clear()
                await self._wake.wait()  # its end is an answer, a publish or a lost connection
                continue
            number, entry = heappop(self._queue)
            if entry.future.done():
                continue
            self._start_time_of(entry)
            entry.was_sent = True
            self._flight[number] = entry
            await socket.send(entry.frame, text=True)

    async def _receive(self, socket: ClientConnection) -> None:
        while True:
            answer = decode_publish_answer(await socket.recv(decode=False))
            entry = self._flight.pop(answer.id, None)
            self._wake.set()
            if entry is None or entry.future.done():
                continue  # it was cancelled, or its time is up
            failure = answer.failure
            if failure is None:
                self._succeeded(entry, answer)
            elif failure.retryable:
                self._refused(entry, failure)
            else:
                entry.fail(failure)

    # --- what becomes of a publish ------------------------------------------

    def _succeeded(self, entry: _Entry, answer: PublishAnswer) -> None:
        entry.future.set_result(answer.published)
        self._trouble = None
        if asyncio.get_running_loop().time() >= self._resume_s:
            self._window = min(self._window + 1, IN_FLIGHT_MAX)
            self._backoff.reset()
        if self._is_down:
            self._is_down = False
            for _, waiting in self._queue:
                if waiting.timer is not None and not waiting.was_sent:
                    waiting.timer.cancel()
                    waiting.timer = None

    def _refused(self, entry: _Entry, failure: ClawError) -> None:
        entry.is_unsure = entry.is_unsure or isinstance(failure, OutcomeUnknown)
        self._trouble = failure
        # Those that were on their way are refused for the same reason: one pause for all.
        if asyncio.get_running_loop().time() >= self._resume_s:
            self._pause(failure)
        if entry.timer is not None and entry.timer.when() <= self._resume_s:
            entry.fail(failure)
        else:
            heappush(self._queue, (entry.number, entry))

    def _lost(self, error: ClawError) -> None:
        if not error.retryable:
            self._fail_all(error)
            return
        for entry in self._flight.values():
            entry.is_unsure = True
        self._trouble = error
        self._is_down = True
        entries = [*self._flight.values(), *(entry for _, entry in self._queue)]
        self._flight.clear()
        self._queue = [(entry.number, entry) for entry in entries if not entry.future.done()]
        heapify(self._queue)
        for _, entry in self._queue:
            self._start_time_of(entry)
        self._pause(error)

    def _pause(self, error: ClawError) -> None:
        self._window = 1
        wait_s = self._backoff.next_s(error.retry_after_s)
        self._resume_s = asyncio.get_running_loop().time() + wait_s

    def _start_time_of(self, entry: _Entry) -> None:
        if entry.timer is None:
            later = asyncio.get_running_loop().call_later
            entry.timer = later(entry.within_s, self._expire, entry)

    def _expire(self, entry: _Entry) -> None:
        silent = HubUnreachable(
            f"The hub at {self._address.url} did not answer within {entry.within_s:g} s."
        )
        if entry.number in self._flight:
            entry.is_unsure = True
            entry.fail(silent)
        else:
            entry.fail(self._trouble or silent)

    def _fail_all(self, error: ClawError) -> None:
        for entry in self._flight.values():
            entry.is_unsure = True
        for entry in [*self._flight.values(), *(entry for _, entry in self._queue)]:
            entry.fail(error)
        self._flight.clear()
        self._queue.clear()
        self._window = 1
        self._is_down = True
