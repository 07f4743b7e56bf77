"""An event loop on a thread of its own: how programs without asyncio use the client."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from clawnet.client.errors import HubUnreachable
from clawnet.core.errors import BadConfiguration

T = TypeVar("T")
P = ParamSpec("P")

CLOSE_WITHIN_S = 5.0
LOOK_UP_EVERY_S = 0.5
"""A Ctrl-C that comes in the moment before a thread begins to wait does not wake it."""


class LoopThread:
    """An event loop on a thread of its own, to which other threads give work and wait for it."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        # Reentrant: the garbage collector may end a client while its thread is given work.
        self._gate = threading.RLock()
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        is_ready = threading.Event()
        # A daemon: a program that forgets to close must be able to end.
        self._thread = threading.Thread(
            target=self._serve, args=(is_ready,), name="clawnet client", daemon=True
        )
        self._thread.start()
        is_ready.wait()

    def run(
        self,
        function: Callable[P, Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call it on the loop and wait for its end. Raises what it raises."""
        if threading.current_thread() is self._thread:
            raise BadConfiguration(
                "A SyncClient cannot be used by its own callbacks: they would wait for themselves.",
                next="Note what was told, and act on it in the thread that uses the client.",
            )
        if os.getpid() != self._pid:
            raise BadConfiguration(
                "This SyncClient was made before a fork, and its thread stayed behind.",
                next="Make a SyncClient in the new process, after the fork.",
            )
        call = _Call()

        async def work() -> T:
            call.begin()
            return await function(*args, **kwargs)

        try:
            # With the gate: what is handed over before the end is begun, and cancelled by it.
            with self._gate:
                if self._is_closed:
                    raise BadConfiguration(
                        "This SyncClient is closed.", next="Use it inside `with SyncClient(…)`."
                    )
                answer: Future[T] = asyncio.run_coroutine_threadsafe(work(), self._loop)
            return _result(answer)
        except CancelledError:
            raise HubUnreachable("The client was closed before the answer came.") from None
        except (KeyboardInterrupt, SystemExit):
            # It may strike at any line, so also where nobody has the answer's name yet.
            call.give_up(self._loop)
            raise

    def stop(self) -> None:
        """End the thread; what it is at is cancelled. Idempotent, harmless after a fork."""
        if os.getpid() != self._pid:
            return
        with self._gate:
            if not self._is_closed:
                self._is_closed = True
                self._loop.call_soon_threadsafe(self._end.set)
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_WITHIN_S)

    @property
    def is_usable(self) -> bool:
        return not self._is_closed and os.getpid() == self._pid

    def _serve(self, is_ready: threading.Event) -> None:
        # Not by asyncio.Runner: it starts a thread to end its pool, and since Python 3.12 no
        # thread can be started any more when a program ends.
        loop = asyncio.new_event_loop()
        pool = ThreadPoolExecutor(thread_name_prefix="clawnet client pool")
        loop.set_default_executor(pool)
        self._loop = loop
        self._end = asyncio.Event()
        is_ready.set()
        try:
            loop.run_until_complete(self._end.wait())
            loop.run_until_complete(_wind_up())
        finally:
            pool.shutdown()
            loop.close()


async def _wind_up() -> None:
    """Cancel what is at work and let it end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # A turn for the connections that were closed just now.
    await asyncio.sleep(0)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _result(answer: Future[T]) -> T:
    while True:
        try:
            return answer.result(LOOK_UP_EVERY_S)
        except TimeoutError:
            # Time was up here, or it is what the work itself raised.
            if answer.done():
                return answer.result()


class _Call:
    """What is at work on the loop for a thread that waits, and may no longer."""

    def __init__(self) -> None:
        self._is_given_up = False
        self._task: asyncio.Task[Any] | None = None

    def begin(self) -> None:
        """On the loop. Raises CancelledError if nobody waits any more."""
        if self._is_given_up:
            raise asyncio.CancelledError
        self._task = asyncio.current_task()

    def give_up(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_given_up = True
        try:
            loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:
            pass  # the loop is closed, and everything with it

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
