"""The load generator: a process of its own, on a core of its own.

`run(job)` starts it with a job as JSON on stdin and gives back its result.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import cores, pin
from benchmarks.peers.server import Server
from benchmarks.plan import Plan

ROOT = Path(__file__).parents[2]
RUN_MAX_S = 1200.0


class LoadFailed(Exception):
    """The generator ended without a result; the text is the end of what it said."""


def run(kind: str, server: Server, **job: Any) -> dict[str, Any]:
    """Load one server: `kind` is a name of `load.__main__.KINDS`, `job` are its arguments."""
    _, load_core = cores()
    job |= {"wire": server.wire, "port": server.port, "token": server.token, "pid": server.pid}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", kind],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=RUN_MAX_S,
        preexec_fn=lambda: pin(load_core),
    )
    if done.returncode:
        raise LoadFailed(f"{kind} against {server.name}: {done.stderr.strip()[-600:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def run_or_note(
    plan: Plan, kind: str, server: Server, notes: list[str], **job: Any
) -> dict[str, Any] | None:
    """run(); a load that failed becomes a note of the row."""
    try:
        return run(kind, server, **job)
    except LoadFailed as error:
        notes.append(str(error))
        plan.say(str(error))
        return None
