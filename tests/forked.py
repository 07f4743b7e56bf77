"""Our programs as processes that begin with everything imported: a fork instead of a start.

Most of what a start of `claw` costs is importing, and the tests start it a thousand times. Here a
process that has imported everything waits for orders and forks for each one. What comes out of it
is a process as any other: it has its own arguments, environment, folder and standard streams, gets
signals, ends in order or is killed. What it does not show is whether the program can be started at
all and what it imports; tests of that start it as a user does.

CLAWNET_COLD_STARTS=1 in the environment makes every start a real one.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
WORD_BYTES = 8
"""On the way of a process's state: its number, and how it ended."""
FDS = 5
"""What comes with an order: the order itself, the standard streams, the way of the state."""
HARMLESS = {"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
"""Of what the interpreter reads when it starts, what no test could notice."""
KNOWN_PYTHONS = range(11, 15)
"""The class below knows how Popen is made inside; a newer one has to be looked at first."""


VICTIMS = ("tests.faults.victim", "tests.faults.outbox_victim")


def start(
    target: str,
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: int | IO[Any] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
) -> subprocess.Popen[bytes]:
    """A process that runs `target` ("module:function", in a module that can be run)."""
    if can_fork(env):
        return Forked(
            target, arguments, env=env, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr
        )
    command = [sys.executable, "-m", target.partition(":")[0], *arguments]
    return subprocess.Popen(command, env=env, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr)


def can_fork(environment: Mapping[str, str]) -> bool:
    """Whether a forked process is as a started one would be, in this environment."""
    # What the interpreter reads when it starts comes too late for a fork.
    told = [name for name in environment if name.startswith(("PYTHON", "LC_", "COVERAGE"))]
    told = [name for name in told if name not in HARMLESS]
    is_usual = not told and environment.get("LANG", "C.UTF-8") == "C.UTF-8"
    if sys.platform != "linux" or os.environ.get("CLAWNET_COLD_STARTS"):
        return False
    return is_usual and sys.version_info.minor in KNOWN_PYTHONS


class Forked(subprocess.Popen[bytes]):
    """A process that runs `target` ("module:function") with these arguments."""

    def __init__(
        self,
        target: str,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        **streams: int | IO[Any] | None,
    ) -> None:
        folder = str(cwd or Path.cwd())
        self._order = {"target": target, "arguments": list(arguments), "cwd": folder}
        self._state = -1
        super().__init__([target, *arguments], env=dict(env), **streams)  # type: ignore[call-overload]

    def _execute_child(self, *given: Any) -> None:
        """Popen's own would start a program here."""
        env = given[6]
        pipes = given[10:16]
        streams = [pipes[0], pipes[3], pipes[5]]
        fds = [own if fd == -1 else fd for own, fd in enumerate(streams)]
        self._state = _forker().fork(self._order | {"env": env}, fds)
        self.pid = self._word()
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _internal_poll(self, *_ignored: Any, **__: Any) -> int | None:
        self._look(0)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if not self._look(timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        assert self.returncode is not None
        return self.returncode

    def _look(self, timeout_s: float | None) -> bool:
        """Whether it has ended, now or within this time."""
        if self.returncode is None:
            poller = select.poll()
            poller.register(self._state, select.POLLIN)
            poller.poll(None if timeout_s is None else timeout_s * 1_000)
            with self._waitpid_lock:  # type: ignore[attr-defined]
                # Another thread may have been faster.
                if self._state != -1 and poller.poll(0):
                    self._handle_exitstatus(self._word())  # type: ignore[attr-defined]
                    os.close(self._state)
                    self._state = -1
        return self.returncode is not None

    def _word(self) -> int:
        word = os.read(self._state, WORD_BYTES)
        assert len(word) == WORD_BYTES, "the process that forks is gone; see its stderr"
        return int.from_bytes(word, "little")


class Forker:
    """The process that forks, seen from here."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forked", str(theirs.fileno())],
                cwd=ROOT,
                env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def fork(self, order: Mapping[str, Any], streams: Sequence[int]) -> int:
        """Gives where the new process's state can be read: its number, and then its end."""
        state, theirs = os.pipe()
        try:
            # In a file, as a message has a limit that arguments may be over.
            with tempfile.TemporaryFile() as written:
                written.write(json.dumps(order).encode())
                written.flush()
                with self._lock:
                    fds = [written.fileno(), *streams, theirs]
                    socket.send_fds(self._control, [b"!"], fds)
        finally:
            os.close(theirs)
        return state

    def end(self) -> None:
        """It ends when nobody is there to give orders; what it forked goes on."""
        self._control.close()
        self._process.wait()


_made: list[Forker] = []
_making = threading.Lock()


def _forker() -> Forker:
    with _making:
        if not _made:
            _made.append(Forker())
            atexit.register(_made[0].end)
        return _made[0]


# --- the process that forks ---------------------------------------------------
def warm_up() -> None:
    """Import what `claw` and what the tests kill could need."""
    from clawnet.cli.main import COMMANDS

    modules = [f"clawnet.cli.commands.{module}" for module, _, _ in COMMANDS.values()]
    for name in [*modules, "clawnet.app.app", *VICTIMS]:
        # What cannot be imported is for the process to tell that needs it.
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    assert len([*Path("/proc/self/task").iterdir()]) == 1, "a fork would lose the other threads"
    gc.collect()
    gc.freeze()


def serve(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork for every order, and tell how each process ends.

    Returns in a forked process with its order and its streams, and None when there are no more.
    """
    states: dict[int, int] = {}
    woken, waker = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # Ctrl-C is for pytest, which then stops giving orders.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([control.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _tell_ends(states)
        if control.fileno() not in ready:
            continue
        word, fds, _, _ = socket.recv_fds(control, 1, FDS)
        if not word:
            return None
        order, *streams, state = fds
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, interrupt)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            control.close()
            for fd in (woken, waker, state, *states.values()):
                os.close(fd)
            with open(order, "rb") as written:  # noqa: PTH123 - it has no path
                written.seek(0)
                return json.loads(written.read()), streams
        for fd in (order, *streams):
            os.close(fd)
        states[pid] = state
        _tell(state, pid)


def _tell_ends(states: dict[int, int]) -> None:
    for pid in list(states):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            state = states.pop(pid)
            _tell(state, status)
            os.close(state)


def _tell(state: int, word: int) -> None:
    # A pipe that nobody reads any more is a test that has ended.
    with contextlib.suppress(BrokenPipeError):
        os.write(state, word.to_bytes(WORD_BYTES, "little"))


def become(order: dict[str, Any], streams: list[int]) -> Any:
    """Be the process that was ordered, to its end; gives what its function returns."""
    for own, fd in enumerate(streams):
        os.dup2(fd, own)
    for fd in streams:
        os.close(fd)
    # As the interpreter makes them when it starts with LANG=C.UTF-8.
    kept: dict[str, Any] = {"encoding": "utf-8", "newline": "\n", "closefd": False}
    sys.stdin = sys.__stdin__ = open(0, errors="surrogateescape", **kept)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", errors="surrogateescape", **kept)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(  # type: ignore[misc]  # noqa: SIM115
        2, "w", buffering=1, errors="backslashreplace", **kept
    )
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    name, _, function = order["target"].partition(":")
    module = importlib.import_module(name)
    sys.argv = [str(module.__file__), *order["arguments"]]
    return getattr(module, function)()


if __name__ == "__main__":
    warm_up()
    ordered = serve(socket.socket(fileno=int(sys.argv[1])))
    if ordered is not None:
        sys.exit(become(*ordered))
