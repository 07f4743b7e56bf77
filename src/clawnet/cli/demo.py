"""The demo: alice publishes, bob follows with `claw sub`, and the hub is killed in between.

It proves the first promise on the user's own machine: what was acknowledged
is on disk, and who resumes is given all of it, in order.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from clawnet.cli.terminal import say_json
from clawnet.client.http import HubHttp
from clawnet.core.errors import ClawError

CHANNEL = "agent.alice.findings"
START_WITHIN_S = 20.0
WITHIN_S = 55.0
DOWN_S = 0.6


class DemoFailed(Exception):
    """What was promised did not happen."""


@dataclass
class Ledger:
    """What each side saw. `acked` is what the hub promised to alice."""

    acked: list[tuple[int, str]] = field(default_factory=list)
    deduped: int = 0
    received: list[dict[str, Any]] = field(default_factory=list)
    failure: ClawError | None = None


class Demo:
    """One run."""

    def __init__(self, *, events: int, is_json: bool) -> None:
        self._events = events
        self._is_json = is_json
        self._folder = Path(tempfile.mkdtemp(prefix="clawnet-demo-"))
        self._end_s = time.monotonic() + WITHIN_S
        self._ledger = Ledger()
        self._children: list[subprocess.Popen[str]] = []

    def run(self) -> int:
        """Run it all; returns the exit code."""
        started_s = time.monotonic()
        try:
            self._act()
            self._judge()
        except (DemoFailed, ClawError, OSError) as error:
            self._tell(f"\nFAILED: {error}", to=sys.stderr)
            self._tell(f"What happened lies in {self._folder}", to=sys.stderr)
            if self._is_json:
                say_json({"ok": False, "error": str(error), "folder": str(self._folder)})
            return 1
        finally:
            self._end_children()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._conclude(time.monotonic() - started_s)
        return 0

    # --- the play -----------------------------------------------------------

    def _act(self) -> None:
        self._tell("1. A hub starts, with its log in a temporary folder.")
        hub, url = self._start_hub(port=0)
        port = int(url.rpartition(":")[2])
        self._tell(f"   {url}, process {hub.pid}")

        self._tell("2. Two agents get accounts and tokens: alice, who works, and bob, who watches.")
        alice, bob = self._introduce(url)

        self._tell(f"3. Bob follows alice's private channel: claw sub {CHANNEL}")
        bob_process = self._start_bob(url, bob)

        half = self._events // 2
        self._tell(f"4. Alice publishes {self._events} findings as fast as she can ...")
        with _running(self._publish, alice):
            self._wait(lambda: len(self._ledger.acked) >= half, "the first half")
            self._tell(
                f"5. ... and after {len(self._ledger.acked)} of them the hub is killed (SIGKILL):"
                " no goodbye, no flush."
            )
            hub.kill()
            hub.wait()
            time.sleep(DOWN_S)
            self._tell("6. It starts again on the same folder. Nobody tells the agents anything.")
            self._start_hub(port=port)
            self._wait(
                lambda: len(self._ledger.acked) >= self._events or self._ledger.failure is not None,
                "alice",
            )
        if self._ledger.failure is not None:
            raise DemoFailed(f"alice could not go on: {self._ledger.failure}")
        with contextlib.suppress(subprocess.TimeoutExpired):
            bob_process.wait(timeout=max(1.0, self._end_s - time.monotonic()))

    def _introduce(self, url: str) -> tuple[HubHttp, str]:
        token = (self._folder / "data" / "admin.token").read_text().strip()
        admin = HubHttp(url, token)
        tokens = []
        for name in ("alice", "bob"):
            admin.call("POST", "/api/v1/accounts", body={"id": name})
            made = admin.call("POST", "/api/v1/tokens", body={"account": name})
            tokens.append(str(made["token"]))
        alice = HubHttp(url, tokens[0])
        alice.call("POST", "/api/v1/grants", body={"account": "bob", "channel": CHANNEL})
        return alice, tokens[1]

    def _publish(self, alice: HubHttp) -> None:
        """Alice: each finding under one key, again if its answer was lost."""
        for number in range(1, self._events + 1):
            data = json.dumps({"finding": number}).encode()
            try:
                answer = alice.publish(CHANNEL, data, within_s=30.0, is_patient=True)
            except ClawError as error:
                self._ledger.failure = error
                return
            self._ledger.deduped += bool(answer["deduped"])
            self._ledger.acked.append((number, str(answer["id"])))

    # --- the proof ----------------------------------------------------------

    def _judge(self) -> None:
        self._tell("7. Now they compare.")
        received = self._ledger.received
        first: dict[str, int] = {}
        for event in received:
            first.setdefault(event["id"], event["payload"]["finding"])
        missing = [number for number, event in self._ledger.acked if event not in first]
        if missing:
            raise DemoFailed(f"acknowledged and never received: {missing[:10]}")
        numbers = list(first.values())
        if numbers != sorted(numbers):
            raise DemoFailed("the findings came out of order")
        if numbers != list(range(1, self._events + 1)):
            raise DemoFailed("a finding is stored twice, or one that was never acknowledged")
        offsets = [event["offset"] for event in received]
        if sorted(set(offsets)) != list(range(1, self._events + 1)):
            raise DemoFailed("the offsets have a hole")

    def _conclude(self, seconds: float) -> None:
        ledger = self._ledger
        doubles = len(ledger.received) - len({event["id"] for event in ledger.received})
        if self._is_json:
            say_json(
                {"ok": True, "acknowledged": len(ledger.acked), "received": len(ledger.received),
                 "doubles": doubles, "repeated_publishes": ledger.deduped,
                 "seconds": round(seconds, 1)}
            )  # fmt: skip
            return
        self._tell(
            f"   {len(ledger.acked)} acknowledged, {len(ledger.received)} received: none missing,"
            f" none out of order, {doubles} twice."
        )
        if ledger.deduped:
            self._tell(
                f"   {ledger.deduped} answer was lost in the crash; alice sent the finding again"
                " under the same key, and it is stored once."
            )
        self._tell(f"\nDone in {seconds:.1f} s. Try it yourself, in two terminals:")
        self._tell("   claw up")
        self._tell("   claw login --token ...   (claw up prints the whole line)")
        self._tell("   claw sub public.lobby")
        self._tell('   claw pub public.lobby "Hello world"')

    # --- processes ----------------------------------------------------------

    def _start_hub(self, *, port: int) -> tuple[subprocess.Popen[str], str]:
        log = (self._folder / "hub.log").open("a")
        with log:
            hub = self._spawn(
                ["up", "--port", str(port), "--data-dir", str(self._folder / "data")], stderr=log
            )
        assert hub.stdout is not None
        watchdog = threading.Timer(START_WITHIN_S, hub.kill)
        watchdog.start()
        line = hub.stdout.readline()
        watchdog.cancel()
        if "listening on " not in line:
            raise DemoFailed("the hub does not start; see hub.log")
        return hub, line.rpartition(" ")[2].strip()

    def _start_bob(self, url: str, token: str) -> subprocess.Popen[str]:
        log = self._folder / "bob.log"
        command = ["sub", CHANNEL, "--since", "all", "--count", str(self._events)]
        with log.open("w") as stderr:
            bob = self._spawn(
                command, stderr=stderr, environment={"CLAWNET_SERVER": url, "CLAWNET_TOKEN": token}
            )
        threading.Thread(target=self._listen, args=(bob,), daemon=True).start()
        self._wait(lambda: "following" in log.read_text(), "bob")
        return bob

    def _listen(self, bob: subprocess.Popen[str]) -> None:
        assert bob.stdout is not None
        for line in bob.stdout:
            self._ledger.received.append(json.loads(line))

    def _spawn(
        self, arguments: list[str], *, stderr: TextIO, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CLAWNET_", "CLAW_")) and name not in ("PORT", "DATA_DIR")
        }
        # A folder of its own, so that the user's settings and tokens are neither used nor touched.
        clean |= {"XDG_CONFIG_HOME": str(self._folder), **(environment or {})}
        child = subprocess.Popen(
            [sys.executable, "-m", "clawnet.cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=clean,
        )
        self._children.append(child)
        return child

    def _end_children(self) -> None:
        for child in self._children:
            if child.poll() is None:
                child.terminate()
        for child in self._children:
            try:
                child.wait(timeout=3)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            for pipe in (child.stdin, child.stdout, child.stderr):
                if pipe is not None:
                    pipe.close()

    def _wait(self, is_so: Callable[[], bool], what: str) -> None:
        while not is_so():
            if time.monotonic() > self._end_s:
                raise DemoFailed(f"waited too long for {what}")
            time.sleep(0.005)

    def _tell(self, text: str, *, to: TextIO | None = None) -> None:
        stream = to or (sys.stderr if self._is_json else sys.stdout)
        stream.write(f"{text}\n")
        stream.flush()


@contextlib.contextmanager
def _running(work: Callable[[HubHttp], None], hub: HubHttp) -> Iterator[None]:
    """Run `work` beside what the block does, and wait for it at the end."""
    thread = threading.Thread(target=work, args=(hub,), daemon=True)
    thread.start()
    yield
    thread.join(timeout=5)
