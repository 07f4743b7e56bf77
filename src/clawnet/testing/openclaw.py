"""A fake `openclaw` binary: answers in the documented shapes, and misbehaves as it is told.

make() writes an executable into a folder, which needs neither a gateway nor a model.
What it does with a turn is the first word of the message: see DEEDS. Every call is noted in
`calls.jsonl` beside it, so that a test can see how often, with what and in which environment it
was started.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any, Literal

Generation = Literal["current", "older"]

DEEDS = (
    "say", "result", "final", "log", "hang", "flood", "fail", "lose", "reject", "garbage",
    "stubborn", "leave", "slow", "wait", "empty",
)  # fmt: skip
"""say TEXT: the answer as payloads. result, final TEXT: in the other shapes. log TEXT: behind lines
of a log. hang: for ever. flood: 10 MiB, then an answer. fail N: exit code N. lose: accepted, then
the connection is gone. reject: accepted, then refused by the gateway. garbage: no JSON. stubborn:
leaves grandchildren that ignore SIGTERM, and hangs. leave TEXT: leaves one that holds the pipes,
and answers. slow TEXT: in three pieces. wait TEXT: when let_go() was called. empty: no payload.
Anything else is answered with itself."""

_CURRENT = """\
Usage: openclaw agent [options]
  --agent <id>  --session-key <key>  --session-id <id>  -m, --message <text>
  --message-file <path>  --timeout <seconds>  --json  --local
"""
_OLDER = """\
Usage: openclaw agent [options]
  --session-id <id>  -m, --message <text>  --timeout <seconds>  --json  --local
"""
_VERSION = "OpenClaw 2026.9.1"
_JOBS: dict[str, Any] = {
    "jobs": [
        {
            "id": "j1",
            "name": "brief",
            "status": "ok",
            "schedule": {"kind": "cron", "expr": "0 9 * * *"},
            "state": {"nextRunAtMs": 1_800_000_000_000, "lastRunAtMs": 1_799_990_000_000},
        },
        {
            "id": "j2",
            "name": "sweep",
            "enabled": False,
            "schedule": {"kind": "every", "everyMs": 60_000},
        },
        {"id": "j3", "name": "odd", "status": "paused-by-owner"},
    ]
}

# A shell answers what every start asks, ten times as fast as Python would.
_PROBES = """\
#!/bin/sh
case "$*" in
--version) echo {version};;
"agent --help") cat {here}/usage;;
"cron list --json") cat {here}/jobs;;
*) exec {python} -IS {here}/turn.py "$@";;
esac
"""
_SCRIPT = """\
import json, os, signal, subprocess, sys, time
HERE = {here!r}
GENERATION = {generation!r}

def note(**more):
    with open(HERE + "/calls.jsonl", "a") as file:
        file.write(json.dumps({{"argv": sys.argv[1:], "pid": os.getpid(),
            "env": sorted(name for name in os.environ if "CLAW" in name), **more}}) + "\\n")

def option(name):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else None

def answer(text, **more):
    reply = {{"payloads": [{{"text": text, "mediaUrl": None}}], "meta": {{"durationMs": 5}}}}
    if GENERATION == "current":
        reply = {{"runId": "run-1", "status": "ok", "summary": "completed", "result": reply}}
    print(json.dumps({{**reply, **more}}))

words = sys.argv[1:]
if words[:1] != ["agent"]:
    print("error: unknown command", file=sys.stderr)
    sys.exit(1)
path = option("--message-file")
if path is not None:
    if GENERATION == "older":
        print("error: unknown option '--message-file'", file=sys.stderr)
        sys.exit(1)
    with open(path) as file:
        message = file.read()
    note(message=message, mode=os.stat(path).st_mode & 0o777)
else:
    message = option("--message")
    note(message=message)
deed, _, rest = message.partition(" ")
if deed == "hang":
    print("thinking", flush=True)
    time.sleep(600)
elif deed == "flood":
    block = "x" * 65535 + "\\n"
    for _ in range(80):
        sys.stdout.write(block)
        sys.stderr.write(block)
    sys.stdout.flush()
    answer("after the flood")
elif deed == "fail":
    print("it broke", file=sys.stderr)
    sys.exit(int(rest or 1))
elif deed == "lose":
    print("gateway accepted runId=run-77", file=sys.stderr)
    print(json.dumps({{"ok": False, "runId": "run-77", "origin": "gateway",
        "error": {{"type": "cli_error", "message": "gateway closed (1006)"}}}}))
    sys.exit(1)
elif deed == "reject":
    print(json.dumps({{"runId": "run-78", "status": "error", "summary": "the model refused"}}))
    sys.exit(1)
elif deed == "garbage":
    print("}}{{ <html> not json")
elif deed == "empty":
    print(json.dumps({{"payloads": [], "meta": {{}}}}))
elif deed in ("stubborn", "leave"):
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    own = subprocess.Popen([sys.executable, "-ISc", ignore])
    if deed == "leave":
        note(children=[own.pid])
        answer(rest)
        sys.exit(0)
    other = subprocess.Popen([sys.executable, "-ISc", ignore], start_new_session=True)
    note(children=[own.pid, other.pid])
    print("children are there", flush=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
elif deed == "wait":
    while not os.path.exists(HERE + "/go"):
        time.sleep(0.01)
    answer(rest)
elif deed == "slow":
    for number in range(3):
        print(f"piece {{number}}", file=sys.stderr, flush=True)
        time.sleep(0.05)
    answer(rest)
elif deed == "result":
    print(json.dumps({{"status": "ok", "result": rest}}))
elif deed == "final":
    print(json.dumps({{"final": rest}}))
elif deed == "log":
    print("[gateway] connected")
    print("{{not json}}")
    answer(rest)
else:
    answer(rest if deed == "say" else message)
"""


class FakeOpenClaw:
    """`path` is what OPENCLAW_BIN is set to."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.folder = folder
        self.path = path

    def calls(self) -> list[dict[str, Any]]:
        """What it was started with, oldest first; probes are not noted."""
        try:
            text = (self.folder / "calls.jsonl").read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines()]

    def let_go(self) -> None:
        """Let `wait` answer."""
        (self.folder / "go").touch()

    @property
    def messages(self) -> list[str]:
        """The messages of its turns."""
        return [call["message"] for call in self.calls() if "message" in call]

    @property
    def children(self) -> list[int]:
        """The grandchildren that `stubborn` left."""
        return [pid for call in self.calls() for pid in call.get("children", ())]


def make(folder: Path, generation: Generation = "current") -> FakeOpenClaw:
    """Write the binary into a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "openclaw"
    is_current = generation == "current"
    (folder / "usage").write_text(_CURRENT if is_current else _OLDER)
    (folder / "jobs").write_text(json.dumps(_JOBS))
    (folder / "turn.py").write_text(_SCRIPT.format(here=str(folder), generation=generation))
    path.write_text(
        _PROBES.format(
            python=shlex.quote(sys.executable),
            here=shlex.quote(str(folder)),
            version=shlex.quote(f"{_VERSION if is_current else '2026.2.3'} (fake)"),
        )
    )
    path.chmod(0o755)
    return FakeOpenClaw(folder, path)
