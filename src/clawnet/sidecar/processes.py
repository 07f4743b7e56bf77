"""Processes of tasks: started without a shell, read within a bound, and ended with all they made.

A process is the leader of a group of its own and carries the task's id in its environment. When
it must end, its group is asked (SIGTERM) and after a grace killed; what left the group is found by
the id. The same search at the next start finds what a killed sidecar left behind. A leader that
ends by itself takes its group along, but not what made itself a daemon on purpose.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psutil

from clawnet.sidecar.settings import is_secret

CAPTURE_MAX_BYTES = 1_048_576
"""Of stdout and of stderr; what there is more in between is read, counted and thrown away."""
MARK = "CLAW_TASK_ID"
_DRAIN_S = 1.0
"""So long is waited for the ends of the pipes when the process's group is gone."""

End = Literal["exited", "timed_out", "stopped"]
OnOutput = Callable[[str, bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a process ended. `exit_code` is negative for a signal, as in subprocess."""

    end: End
    exit_code: int
    stdout: bytes
    stderr: bytes
    dropped_bytes: int


class Capture:
    """One stream's beginning and end, each within half of the bound: an answer comes last."""

    def __init__(self, max_bytes: int = CAPTURE_MAX_BYTES) -> None:
        self.dropped_bytes = 0
        self._half = max_bytes // 2
        self._head = bytearray()
        self._tail: deque[bytearray] = deque()
        self._tail_bytes = 0

    def add(self, chunk: bytes) -> None:
        """Keep it, in place of what came before it and is not the beginning."""
        room = self._half - len(self._head)
        self._head += chunk[:room]
        rest = chunk[room:]
        if not rest:
            return
        # Joined: a million chunks of a byte each must not cost more than their bytes.
        if self._tail and len(self._tail[-1]) + len(rest) <= self._half // 8:
            self._tail[-1] += rest
        else:
            self._tail.append(bytearray(rest))
        self._tail_bytes += len(rest)
        while self._tail_bytes - len(self._tail[0]) >= self._half:
            gone = len(self._tail.popleft())
            self._tail_bytes -= gone
            self.dropped_bytes += gone

    def kept(self) -> bytes:
        """What was kept, in order."""
        tail = b"".join(self._tail)
        if len(tail) > self._half:
            self.dropped_bytes += len(tail) - self._half
            tail = tail[-self._half :]
            self._tail = deque([bytearray(tail)])
            self._tail_bytes = len(tail)
        return bytes(self._head) + tail


async def run(
    argv: Sequence[str],
    *,
    mark: str,
    timeout_s: float,
    grace_s: float,
    stop: asyncio.Event | None = None,
    on_output: OnOutput | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ran:
    """Run a program to its end, or end it with everything it started.

    `stop` ends it early. `on_output` hears "stdout" or "stderr" with each chunk. Raises
    OSError or ValueError if it cannot be started. Cancellation ends it too.
    """
    reader = _Reader(on_output)
    transport, _ = await asyncio.get_running_loop().subprocess_exec(
        lambda: reader,
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment_of(os.environ if environment is None else environment, mark),
        # A group of its own: all that it starts can be ended with it, and Ctrl-C is for us.
        start_new_session=True,
    )
    stopping = asyncio.create_task((stop or asyncio.Event()).wait())
    first: set[asyncio.Future[Any]] = {reader.exited, stopping}
    end: End = "exited"
    try:
        await asyncio.wait(first, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not reader.exited.done():
            end = "stopped" if stopping.done() else "timed_out"
    except asyncio.CancelledError:
        end = "stopped"
        raise
    finally:
        stopping.cancel()
        try:
            # Shielded: whoever cancels us twice must not leave processes behind.
            await asyncio.shield(
                _end(transport.get_pid(), reader.exited, mark, grace_s, is_forced=end != "exited")
            )
            # All writers are gone; only what stands in the pipes is still to be read.
            await asyncio.wait({reader.closed}, timeout=_DRAIN_S)
        finally:
            transport.close()
    exit_code = transport.get_returncode()
    assert exit_code is not None, "a killed process ends"
    out, err = reader.captures[1], reader.captures[2]
    return Ran(
        end=end,
        exit_code=exit_code,
        stdout=out.kept(),
        stderr=err.kept(),
        dropped_bytes=out.dropped_bytes + err.dropped_bytes,
    )


def environment_of(environment: Mapping[str, str], mark: str) -> dict[str, str]:
    """What a task's process sees: everything but the sidecar's secrets, and the task's id."""
    kept = {name: value for name, value in environment.items() if not is_secret(name)}
    # It belongs to whatever started the sidecar, not to the task.
    kept.pop("TRACEPARENT", None)
    kept[MARK] = mark
    return kept


def end_leftovers(marks: Collection[str]) -> int:
    """Kill every process that carries one of these ids; returns how many. Blocking."""
    killed = 0
    for process in _marked(frozenset(marks)):
        try:
            process.kill()
            killed += 1
        except psutil.Error:
            pass  # it ended by itself
    return killed


class _Reader(asyncio.SubprocessProtocol):
    """Takes what a process writes. asyncio's own Process.wait() would wait for the ends of the
    pipes too, which a grandchild can hold open for as long as it likes."""

    def __init__(self, on_output: OnOutput | None) -> None:
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.captures = {1: Capture(), 2: Capture()}
        self._on_output = on_output

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.captures[fd].add(data)
        if self._on_output is not None:
            self._on_output("stdout" if fd == 1 else "stderr", data)

    def process_exited(self) -> None:
        if not self.exited.done():
            self.exited.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


async def _end(
    pid: int, exited: asyncio.Future[None], mark: str, grace_s: float, *, is_forced: bool
) -> None:
    if is_forced:
        _signal_group(pid, signal.SIGTERM)
        await asyncio.wait({exited}, timeout=grace_s)
    # Whatever is left of the group, also after a leader that ended in peace.
    _signal_group(pid, signal.SIGKILL)
    if is_forced:
        # What made itself a session of its own is found by its environment.
        await asyncio.to_thread(end_leftovers, {mark})
    await asyncio.wait({exited})  # no deadline: a killed process ends


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _marked(marks: frozenset[str]) -> list[psutil.Process]:
    found = []
    own = os.getpid()
    for process in psutil.process_iter():
        try:
            if process.pid != own and process.environ().get(MARK) in marks:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # not ours, or gone
    return found
