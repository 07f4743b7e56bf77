"""Node and the npm project of these tests: found, installed once, and led as a process."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NODE_MAJOR_MIN = 20
INSTALL_MAX_S = 100.0
PATIENCE_S = 15.0


class NoNode(Exception):
    """The clients of npm cannot run here, and why."""


class Answered(Exception):
    """The client answered a command with an error."""

    def __init__(self, code: int | None, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@functools.cache
def node() -> str:
    """Path of node, with the project's packages installed. Raises NoNode."""
    found = shutil.which("node")
    if found is None:
        raise NoNode("there is no node on this machine (.ci/run brings one)")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    major = said.stdout.strip().removeprefix("v").partition(".")[0]
    if not major.isdigit() or int(major) < NODE_MAJOR_MIN:
        raise NoNode(f"node is older than {NODE_MAJOR_MIN} (.ci/run brings another)")
    # The folder itself is the lock: workers of one run, and runs of one checkout, share it.
    lock = os.open(HERE, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install()
    finally:
        os.close(lock)
    return found


def _install() -> None:
    wanted = (HERE / "package-lock.json").read_bytes()
    done = HERE / "node_modules" / ".installed-for"
    if done.exists() and done.read_bytes() == wanted:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise NoNode("there is no npm beside node")
    try:
        ran = subprocess.run(
            [npm, "ci", "--ignore-scripts"],
            cwd=HERE,
            capture_output=True,
            text=True,
            timeout=INSTALL_MAX_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoNode(f"npm ci took longer than {INSTALL_MAX_S:.0f} s") from None
    if ran.returncode:
        raise NoNode("npm could not fetch the packages (is there a registry?)")
    done.write_bytes(wanted)


class Node:
    """`client.mjs`, or another such script, as a process; holds any number of clients."""

    def __init__(self, script: str = "client.mjs") -> None:
        self._process = subprocess.Popen(
            [node(), str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=HERE,
            text=True,
        )
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._answers: dict[int, dict[str, Any]] = {}
        self._events: list[dict[str, Any]] = []
        self._last_id = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.hear("ready")

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=5)
        self._process.stdout.close()

    def do(self, command: str, **arguments: Any) -> Any:
        """Run a command to its answer. Raises Answered if the client gave an error."""
        assert self._process.stdin is not None
        self._last_id += 1
        number = self._last_id
        line = json.dumps({"id": number, "do": command, **arguments})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        end_s = time.monotonic() + PATIENCE_S
        while number not in self._answers:
            self._take(end_s, f"an answer to {command}")
        answer = self._answers.pop(number)
        if "error" in answer:
            raise Answered(answer["error"].get("code"), answer["error"].get("message", ""))
        return answer.get("answer")

    def hear(self, event: str, *, within_s: float = PATIENCE_S, **about: Any) -> dict[str, Any]:
        """The first event of that name and with these members that was not heard yet."""
        end_s = time.monotonic() + within_s
        wanted = {"event": event, **about}
        while True:
            for index, one in enumerate(self._events):
                if all(one.get(key) == value for key, value in wanted.items()):
                    return self._events.pop(index)
            self._take(end_s, str(wanted))

    def unheard(self, event: str, **about: Any) -> list[dict[str, Any]]:
        """Such events that have come and were not heard yet. They count as heard afterwards."""
        while not self._lines.empty():
            self._sort(self._lines.get_nowait())
        wanted = {"event": event, **about}
        found = [e for e in self._events if all(e.get(k) == v for k, v in wanted.items())]
        self._events = [e for e in self._events if e not in found]
        return found

    def _take(self, end_s: float, what: str) -> None:
        try:
            line = self._lines.get(timeout=max(0.0, end_s - time.monotonic()))
        except queue.Empty:
            raise AssertionError(f"{what} never came; unheard: {self._events[-20:]}") from None
        self._sort(line)

    def _sort(self, line: dict[str, Any] | None) -> None:
        assert line is not None, f"node has ended; unheard: {self._events[-20:]}"
        if "id" in line:
            self._answers[line["id"]] = line
        else:
            self._events.append(line)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)
