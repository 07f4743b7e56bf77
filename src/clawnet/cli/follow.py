"""The work of `claw sub`: events from the client to standard output."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import stat
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from clawnet.cli.exits import DONE, FAILED
from clawnet.cli.lines import Lines
from clawnet.cli.terminal import forget_stdout, note, note_gap
from clawnet.client.client import Client
from clawnet.client.position import SINCE
from clawnet.client.wire import Signal
from clawnet.core.calls.reading import Gap
from clawnet.core.channels import canonical, is_pattern
from clawnet.core.errors import BadRequest
from clawnet.core.events import Event

DURABLE_WAIT_S = 20.0
RECENT_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """What `claw sub` was asked for."""

    url: str
    token: str | None
    channels: tuple[str, ...]
    since: str | None
    count: int | None
    timeout_s: float | None
    durable: str | None


class Printer:
    """Writes events as lines, flushed, until `count` is reached."""

    def __init__(self, follow: Follow) -> None:
        self.left = follow.count
        self._stream = sys.stdout.buffer
        self._lines = Lines(follow.channels)

    def put(self, event: Event | Signal) -> None:
        """Print one event. Raises BrokenPipeError if nobody reads any more."""
        if self.is_done:
            return  # a signal that came with the last event
        self._stream.write(self._lines.line(event))
        self._stream.flush()
        if self.left is not None:
            self.left -= 1

    @property
    def is_done(self) -> bool:
        return self.left == 0


class Recent:
    """The newest ids: what was printed and comes again, its ack having been lost, is only acked."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ids: dict[str, None] = {}

    def __contains__(self, id: str) -> bool:
        return id in self._ids

    def add(self, id: str) -> None:
        self._ids[id] = None
        if len(self._ids) > self._most:
            del self._ids[next(iter(self._ids))]


class _ReaderGone(Exception):
    """Whoever read stdout has closed it."""


class _Enough(Exception):
    """A signal was the last that was asked for."""


def run(follow: Follow) -> int:
    """Follow until it is over; returns the exit code. Raises ClawError, KeyboardInterrupt."""
    # Gaps and lost connections are told by the callbacks below; libraries have nothing to say.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    printer = Printer(follow)
    work = _consume if follow.durable else _subscribe
    try:
        with asyncio.Runner() as runner:
            return runner.run(_until_over(work, follow, printer))
    except (BrokenPipeError, _ReaderGone):
        forget_stdout()
        return DONE


async def _until_over(
    work: Callable[[Follow, Printer], Awaitable[None]], follow: Follow, printer: Printer
) -> int:
    # Ctrl-C must end it even while a write to a full pipe blocks the loop, which asyncio's own
    # handler would only ask to stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # What it interrupts is a task, and asyncio would tell of that with a traceback.
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    task = asyncio.ensure_future(work(follow, printer))
    _watch_reader(task)
    done, _ = await asyncio.wait({task}, timeout=follow.timeout_s)
    if not done:
        task.cancel()
        await asyncio.wait({task})
        return FAILED if printer.left else DONE
    if task.cancelled():
        raise _ReaderGone
    task.result()
    return DONE


def _watch_reader(task: asyncio.Future[None]) -> None:
    """End as soon as the reader of our pipe is gone (`| head -1`), not at the next event."""
    out = sys.stdout.fileno()
    if not stat.S_ISFIFO(os.fstat(out).st_mode):
        return
    loop = asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(out)
        task.cancel()

    try:
        # The end of a pipe that is written to becomes "readable" only by an error.
        loop.add_reader(out, gone)
    except OSError:
        # Not every system can watch this; the next write tells as well.
        pass


async def _subscribe(follow: Follow, printer: Printer) -> None:
    try:
        await _print(follow, printer)
    except _Enough:
        pass


async def _print(follow: Follow, printer: Printer) -> None:
    since = place(follow.since, follow.channels)

    def put(signalled: Signal) -> None:
        printer.put(signalled)
        if printer.is_done:
            # The iteration below, which this is called within, ends with events only.
            raise _Enough

    async with (
        Client(follow.url, follow.token) as client,
        client.subscribe(
            follow.channels,
            since=since,
            on_gap=tell_gap,
            on_signal=put,
            on_state=tell_state,
            is_patient=False,
        ) as events,
    ):
        note(f"claw: following {', '.join(follow.channels)} at {follow.url}")
        async for event in events:
            printer.put(event)
            if printer.is_done:
                return


async def _consume(follow: Follow, printer: Printer) -> None:
    assert follow.durable is not None
    end = None if follow.timeout_s is None else time.monotonic() + follow.timeout_s
    async with Client(follow.url, follow.token) as client:
        await client.me()  # an unreachable hub is said at once, not waited for
        consumer = client.consumer(
            follow.durable,
            follow.channels,
            since=follow.since,
            on_gap=tell_gap,
            on_state=tell_state,
        )
        await consumer.create()
        note(f"claw: following {', '.join(follow.channels)} as {follow.durable} at {follow.url}")
        printed = Recent(RECENT_MAX)
        while not printer.is_done:
            # Never more than is printed, and no wait beyond the end: what was fetched and not
            # acknowledged would be held back until it expires.
            limit = 64 if printer.left is None else min(64, printer.left)
            wait_s = DURABLE_WAIT_S if end is None else end - time.monotonic()
            received = await consumer.fetch(limit, wait_s=max(0.0, min(DURABLE_WAIT_S, wait_s)))
            for one in received:
                if one.event.id not in printed:
                    printer.put(one.event)
                    printed.add(one.event.id)
            await consumer.ack(received)


def place(since: str | None, channels: tuple[str, ...]) -> SINCE:
    """The `since` of a subscription: an offset belongs to each channel by itself."""
    if since is None or not since.isdecimal():
        return since
    if any(is_pattern(name) for name in channels):
        raise BadRequest(
            "An offset is a place in one channel, and a pattern means many.",
            next="Give --since a duration such as 10m, all, or a cursor.",
        )
    return {canonical(name): int(since) for name in channels}


def tell_state(text: str) -> None:
    """Say what became of the connection."""
    note(f"claw: {text}")


def tell_gap(gap: Gap) -> None:
    """Say what cannot be read any more."""
    note_gap(gap.channel, gap.first, gap.last, gap.reason)
