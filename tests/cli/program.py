"""The real program in tests: `claw` as a process, and a hub as another."""

import io
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import clawnet
from tests.forked import start

STARTED = (sys.executable, "-m", "clawnet.cli.main")
CLAW = [*STARTED]
PATIENCE_S = 20.0


class Program:
    """Runs `claw` with a home of its own: nothing of the machine's user is read or changed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._started: list[subprocess.Popen[bytes]] = []
        home.mkdir(parents=True, exist_ok=True)
        kept = ("PATH", "SYSTEMROOT", "COVERAGE_PROCESS_START")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ}
        self.environment |= {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"),
                             "XDG_DATA_HOME": str(home / "share"), "LANG": "C.UTF-8"}  # fmt: skip

    def run(
        self,
        *arguments: str,
        stdin: bytes | None = None,
        timeout: float = 30,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run to the end. Without `stdin` it is /dev/null."""
        source = subprocess.DEVNULL if stdin is None else subprocess.PIPE
        with self._begin(arguments, stdin=source, env=env) as process:
            try:
                out, err = process.communicate(stdin, timeout)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def ok(
        self, *arguments: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        """Run what has to work; gives its stdout."""
        done = self.run(*arguments, stdin=stdin, env=env)
        assert done.returncode == 0, (done.returncode, done.stderr.decode())
        return done.stdout.decode()

    def run_here(
        self, *arguments: str, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """As run(), but in this process: for what is not about being one, and much faster."""
        from clawnet.cli.main import main

        with (
            # Files, as some commands ask what kind of file they write to.
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            io.TextIOWrapper(io.BytesIO(stdin or b""), "utf-8") as given,
            io.TextIOWrapper(out, "utf-8", write_through=True) as said,
            io.TextIOWrapper(err, "utf-8", write_through=True) as noted,
            mock.patch.dict(os.environ, self.environment, clear=True),
            mock.patch.multiple(sys, stdin=given, stdout=said, stderr=noted),
        ):
            code = main(arguments)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(arguments, code, out.read(), err.read())

    def start(
        self, *arguments: str, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start it, with pipes; end() ends it if the test does not."""
        process = self._begin(arguments, stdin=subprocess.DEVNULL, env=env)
        self._started.append(process)
        return process

    def _begin(
        self, arguments: Sequence[str], *, stdin: int, env: Mapping[str, str] | None
    ) -> subprocess.Popen[bytes]:
        environment = {**self.environment, **(env or {})}
        pipe = subprocess.PIPE
        if tuple(CLAW) == STARTED:
            main = "clawnet.cli.main:main"
            return start(main, arguments, env=environment, stdin=stdin, stdout=pipe, stderr=pipe)
        words = [*CLAW, *arguments]
        return subprocess.Popen(words, env=environment, stdin=stdin, stdout=pipe, stderr=pipe)

    def end(self) -> None:
        """End what still runs and close every pipe, also after a test that failed half way."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        self._started.clear()


class HubProcess:
    """`claw up` on a folder; can be killed and started again at the same address."""

    def __init__(self, program: Program, folder: Path, *options: str) -> None:
        self.program = program
        self.folder = folder
        self.options = options
        self.port = 0
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.said = b""

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.process = self.program.start(
            "up", "--port", str(self.port), "--data-dir", str(self.folder), *self.options
        )
        line = read_line(self.process)
        assert line.startswith(f"clawnet {clawnet.__version__} listening on http"), (
            line,
            self._stderr(),
        )
        self.url = line.rpartition(" ")[2].strip()
        self.port = int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        """SIGKILL: as if the machine's power were cut, but for the page cache."""
        assert self.process is not None
        self.process.kill()
        self._reap()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """End it in order; gives the exit code and how long it took."""
        assert self.process is not None
        began_s = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(timeout=PATIENCE_S)
        took_s = time.monotonic() - began_s
        code = self.process.returncode
        self._reap()
        return code, took_s

    @property
    def admin_token(self) -> str:
        return (self.folder / "admin.token").read_text().strip()

    def claw(self, *arguments: str, token: str | None = None, **more: Any) -> str:
        """A command that has to work, as the admin unless another token is given."""
        return self.program.ok(*arguments, env=self.environment(token), **more)

    def try_claw(
        self, *arguments: str, token: str | None = None, **more: Any
    ) -> subprocess.CompletedProcess[bytes]:
        """A command that may fail."""
        return self.program.run(*arguments, env=self.environment(token), **more)

    def start_claw(self, *arguments: str, token: str | None = None) -> subprocess.Popen[bytes]:
        return self.program.start(*arguments, env=self.environment(token))

    def environment(self, token: str | None = None) -> dict[str, str]:
        return {"CLAWNET_SERVER": self.url, "CLAWNET_TOKEN": token or self.admin_token}

    def account(self, id: str) -> str:
        """A new account; gives its token."""
        return self.claw("account", "create", id, "--with-token").strip()

    def _stderr(self) -> str:
        assert self.process is not None
        self.process.kill()
        return self.process.communicate()[1].decode()

    def _reap(self) -> None:
        assert self.process is not None
        out, err = self.process.communicate()
        self.said = out + err
        self.process = None


@contextmanager
def running_hub(program: Program, folder: Path, *options: str) -> Iterator[HubProcess]:
    """A hub that is gone afterwards."""
    hub = HubProcess(program, folder, *options)
    hub.start()
    try:
        yield hub
    finally:
        program.end()


def read_line(process: subprocess.Popen[bytes], *, stderr: bool = False) -> str:
    """The next line of a process's output; fails when it takes too long."""
    stream = process.stderr if stderr else process.stdout
    assert stream is not None
    line = b""
    end_s = time.monotonic() + PATIENCE_S
    # Byte by byte from the descriptor: a buffer would hide lines from select.
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([stream.fileno()], [], [], max(0.0, end_s - time.monotonic()))
        assert ready, f"nothing came within {PATIENCE_S} s after {line!r}"
        piece = os.read(stream.fileno(), 1)
        if not piece:
            break
        line += piece
    return line.decode()


def finish(process: subprocess.Popen[bytes], timeout: float = PATIENCE_S) -> tuple[int, str, str]:
    """Wait for a process to end by itself; its exit code, stdout and stderr."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    return process.returncode, out.decode(), err.decode()
