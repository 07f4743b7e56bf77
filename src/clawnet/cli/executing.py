"""The work of `claw subexec`: a process for each event, or for each batch of them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from dataclasses import dataclass

from clawnet.cli.batch import Batch, environment_of, stdin_of
from clawnet.cli.exits import DONE
from clawnet.cli.follow import place, tell_gap, tell_state
from clawnet.cli.lines import Line, Lines
from clawnet.cli.terminal import note
from clawnet.client.client import Client
from clawnet.client.wire import Signal

AHEAD_MAX = 64
"""Events read while all commands are busy. Then the hub keeps the rest, and signals are dropped."""

FINISH_S = 10.0
"""How long running commands may take to end when this ends."""

GRACE_S = 2.0
"""Between asking a process to end and killing it."""


SAME_SIGNAL_S = 0.5
"""timeout(1) signals its child and then its own group, so that the child is told twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Executing:
    """What `claw subexec` was asked for."""

    url: str
    token: str | None
    channels: tuple[str, ...]
    command: tuple[str, ...]
    buffer: int | None
    pause_s: float | None
    concurrency: int
    since: str | None
    count: int | None


def run(executing: Executing) -> int:
    """Run until it is over; returns the exit code. Raises ClawError, KeyboardInterrupt.

    The first SIGINT or SIGTERM ends the reading: what was gathered is handed to a last command,
    and what runs may finish, within FINISH_S. The second asks the commands to end at once, and
    kills GRACE_S later those that did not.
    """
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    with asyncio.Runner() as runner:
        number = runner.run(_until_over(executing))
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    return DONE


async def _until_over(executing: Executing) -> int | None:
    """The number of the signal that ended it, if one did."""
    loop = asyncio.get_running_loop()
    commands = _Commands(executing.command, executing.concurrency)
    work = _Work(executing, commands)
    ended_by: list[int] = []
    ended_s = 0.0

    def stop(number: int) -> None:
        nonlocal ended_s
        if ended_by and loop.time() - ended_s >= SAME_SIGNAL_S:
            work.hurry()
        if not ended_by:
            ended_s = loop.time()
        ended_by.append(number)
        work.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        await work.run()
    finally:
        await commands.end()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return ended_by[0] if ended_by else None


class _Work:
    """Reads events, gathers them and hands them to commands."""

    def __init__(self, executing: Executing, commands: _Commands) -> None:
        self._executing = executing
        self._commands = commands
        self._lines = Lines(executing.channels)
        self._batch = Batch(size=executing.buffer, pause_s=executing.pause_s)
        self._left = executing.count
        self._ahead: asyncio.Queue[Line | None] = asyncio.Queue(AHEAD_MAX)
        self._reading: asyncio.Future[None] | None = None
        loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[None] = loop.create_future()
        self._hurried: asyncio.Future[None] = loop.create_future()

    def stop(self) -> None:
        """Read no more, and be done within FINISH_S."""
        if not self._stopped.done():
            self._stopped.set_result(None)

    def hurry(self) -> None:
        """Be done now, whatever still runs."""
        if not self._hurried.done():
            self._hurried.set_result(None)

    async def run(self) -> None:
        """Raises ClawError once all that came before it was handed over."""
        reading = self._reading = asyncio.ensure_future(self._read())
        handing = asyncio.ensure_future(self._hand_over(reading))
        tasks: set[asyncio.Future[None]] = {reading, handing}
        try:
            # No deadline: it runs until it is ended.
            await asyncio.wait({handing, self._stopped}, return_when=asyncio.FIRST_COMPLETED)
            reading.cancel()
            await asyncio.wait(
                {handing, self._hurried}, timeout=FINISH_S, return_when=asyncio.FIRST_COMPLETED
            )
            self._commands.kill()
            if not handing.done() and not self._hurried.done():
                note("claw: some events were not handled: the commands before took too long.")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not handing.cancelled():
            handing.result()
        if not reading.cancelled():
            reading.result()

    async def _read(self) -> None:
        executing = self._executing
        async with (
            Client(executing.url, executing.token) as client,
            client.subscribe(
                executing.channels,
                since=place(executing.since, executing.channels),
                on_gap=tell_gap,
                on_signal=self._take_signal,
                on_state=tell_state,
                is_patient=False,
            ) as events,
        ):
            note(f"claw: following {', '.join(executing.channels)} at {executing.url}")
            async for event in events:
                await self._ahead.put(self._lines.shaped(event))
                if self._is_last():
                    return

    def _take_signal(self, signalled: Signal) -> None:
        if self._left == 0:
            return
        try:
            self._ahead.put_nowait(self._lines.shaped(signalled))
        except asyncio.QueueFull:
            return  # a signal is for whoever is there in time
        if self._is_last() and self._reading is not None:
            self._reading.cancel()

    def _is_last(self) -> bool:
        if self._left is None:
            return False
        self._left -= 1
        return self._left == 0

    async def _hand_over(self, reading: asyncio.Future[None]) -> None:
        reading.add_done_callback(lambda _: self._wake())
        loop = asyncio.get_running_loop()
        while True:
            if reading.done() and self._ahead.empty():
                break
            try:
                async with asyncio.timeout(self._batch.due_in_s(now_s=loop.time())):
                    line = await self._ahead.get()
            except TimeoutError:
                await self._commands.start(self._batch.take())
                continue
            if line is None:
                continue  # only woken
            self._batch.add(line, now_s=loop.time())
            if self._batch.is_full:
                await self._commands.start(self._batch.take())
        rest = self._batch.take()
        if rest:
            await self._commands.start(rest)
        await self._commands.idle()

    def _wake(self) -> None:
        try:
            self._ahead.put_nowait(None)
        except asyncio.QueueFull:
            pass  # there is something to wake up for


class _Commands:
    """The processes that run: never more than `most`, none of them through a shell."""

    def __init__(self, command: tuple[str, ...], most: int) -> None:
        self._command = command
        self._free = asyncio.Semaphore(most)
        self._running: dict[asyncio.Task[None], None] = {}
        self._processes: dict[asyncio.subprocess.Process, None] = {}
        self._is_killed = False

    async def start(self, lines: list[Line]) -> None:
        """Start one for these events, as soon as there is room for it."""
        # No deadline: how long a command may run is its own affair.
        await self._free.acquire()
        if self._is_killed:
            self._free.release()
            return
        task = asyncio.create_task(self._run(lines))
        self._running[task] = None
        task.add_done_callback(self._over)

    async def idle(self) -> None:
        """Wait for those that run."""
        if self._running:
            # No deadline; whoever is in a hurry kills them.
            await asyncio.wait(set(self._running))

    async def end(self) -> None:
        """End those that still run, within 2 GRACE_S. None is left afterwards."""
        self.kill()
        if self._running:
            await asyncio.wait(set(self._running), timeout=GRACE_S)
        for process in self._processes:
            _signal(process, signal.SIGKILL)
        if self._running:
            await asyncio.wait(set(self._running), timeout=GRACE_S)

    def kill(self) -> None:
        """Ask all that run to end, and start no more."""
        if self._is_killed:
            return
        self._is_killed = True
        for process in self._processes:
            _signal(process, signal.SIGTERM)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task)
        self._free.release()

    async def _run(self, lines: list[Line]) -> None:
        what = f"for {lines[-1].id or lines[-1].channel}"
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                env=environment_of(lines, os.environ),
                # A group of its own: Ctrl-C is for us, and all that it starts ends with it.
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            note(f"claw: {self._command[0]} could not be started {what}: {error}")
            return
        self._processes[process] = None
        if self._is_killed:
            _signal(process, signal.SIGTERM)
        try:
            await process.communicate(stdin_of(lines))
        finally:
            self._processes.pop(process)
            # Whatever it left behind in its group.
            _signal(process, signal.SIGKILL)
        code = process.returncode
        if code and not self._is_killed:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            note(f"claw: {self._command[0]} ended with {how} {what}")


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass
