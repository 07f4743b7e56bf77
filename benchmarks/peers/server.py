"""A server process: started on a free port, pinned, and stopped with its children."""

import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.machine import cores, pin

START_MAX_S = 60.0
STOP_MAX_S = 10.0


class Missing(Exception):
    """This machine cannot run this server; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server and how to reach it. `wire` names its protocol in `benchmarks.wires`."""

    name: str
    wire: str
    port: int
    process: subprocess.Popen[bytes]
    folder: Path
    token: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def close(self) -> None:
        """Stop the process and whatever it started; ask first, then insist."""
        try:
            family = [*psutil.Process(self.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        self.process.terminate()
        try:
            self.process.wait(STOP_MAX_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for child in family:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def spawn(
    command: Sequence[str | Path],
    *,
    name: str,
    wire: str,
    port: int,
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> Server:
    """Start a command on the server core and wait until its port answers.

    Raises Missing if the process ends or stays silent; the end of its output is in the text.
    """
    log = folder / "server.log"
    server_core, _ = cores()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            preexec_fn=lambda: pin(server_core),  # before the first thread exists
        )
    server = Server(name=name, wire=wire, port=port, process=process, folder=folder)
    try:
        _wait_until_listening(server, log)
    except BaseException:  # an interrupt must not leave it behind either
        server.close()
        raise
    return server


def _wait_until_listening(server: Server, log: Path) -> None:
    deadline = time.monotonic() + START_MAX_S
    while time.monotonic() < deadline:
        code = server.process.poll()
        if code is not None:
            raise Missing(f"{server.name} ended with code {code}: {_end_of(log)}")
        try:
            socket.create_connection(("127.0.0.1", server.port), 1).close()
        except OSError:
            time.sleep(0.005)
            continue
        return
    raise Missing(f"{server.name} did not listen within {START_MAX_S:.0f} s: {_end_of(log)}")


def _end_of(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return " ".join(line.strip() for line in lines if line.strip())[-200:] or "no output"
