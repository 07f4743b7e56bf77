"""The OpenClaw on this machine: which one it is, one turn of it, and its cron jobs.

Two generations of its command line are known; `openclaw agent --help` tells them apart. What it
prints is somebody else's text: it is read within bounds and never run.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from clawnet.core.calls.fleet import REPORT_MAX_BYTES
from clawnet.sidecar.journal import Result
from clawnet.sidecar.outputs import ERROR_MAX_BYTES, cut, text_of
from clawnet.sidecar.processes import OnOutput, Ran, run

PROBE_WITHIN_S = 20.0
CRON_WITHIN_S = 20.0
CRON_JOBS_MAX = 100
CRON_MAX_BYTES = REPORT_MAX_BYTES // 2
"""Of the snapshot as JSON: the hub refuses a report that is too large, with all that is in it."""
TEXT_MAX_CHARS = 200
_RUN_ID = re.compile(r"""["']?\brunId\b["']?\s*[:=]\s*["']?([A-Za-z0-9_.:-]{1,128})""")
_PLAIN_ROOM = re.compile(r"(room|public)\.[a-z0-9_]{1,60}|dm\.[a-z0-9_]{1,30}\.[a-z0-9_]{1,30}")
_UNFIT = re.compile(r"[^a-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenClaw:
    """A binary that was found. `is_current` tells the two generations apart."""

    path: str
    version: str
    is_current: bool

    def argv(
        self,
        *,
        agent_id: str,
        sender: str,
        room: str | None,
        text: str,
        file: str,
        timeout_s: float,
    ) -> list[str]:
        """The command of one turn. The older one has no way but the argument for the text."""
        if self.is_current:
            return [
                self.path, "agent", "--agent", "main",
                "--session-key", self.conversation(agent_id=agent_id, room=room, sender=sender),
                "--message-file", file, "--json", "--timeout", str(max(1, math.ceil(timeout_s))),
            ]  # fmt: skip
        session = self.conversation(agent_id=agent_id, room=room, sender=sender)
        return [self.path, "agent", "--session-id", session, "--message", text, "--local", "--json"]

    def conversation(self, *, agent_id: str, room: str | None, sender: str) -> str:
        """Its name for the conversation that a turn belongs to. The older one knows no rooms."""
        if self.is_current:
            return session_key(room, sender)
        return f"clawnet-{_fit(agent_id)}-{_fit(sender)}"

    async def turn(
        self,
        text: str,
        *,
        agent_id: str,
        sender: str,
        room: str | None,
        mark: str,
        timeout_s: float,
        grace_s: float,
        folder: Path,
        stop: asyncio.Event,
        on_output: OnOutput | None = None,
    ) -> Result:
        """One turn to its end. The text waits in a file that only this user reads, and for no
        longer than the turn. Raises OSError, ValueError if it cannot be started."""
        file = ""
        try:
            if self.is_current:
                file = await asyncio.to_thread(_private_file, folder, text)
            argv = self.argv(
                agent_id=agent_id, sender=sender, room=room, text=text, file=file,
                timeout_s=timeout_s,
            )  # fmt: skip
            ran = await run(
                argv, mark=mark, timeout_s=timeout_s, grace_s=grace_s, stop=stop,
                on_output=on_output,
            )  # fmt: skip
        finally:
            if file:
                # Without a thread: a cancellation must not leave the text behind.
                Path(file).unlink(missing_ok=True)  # noqa: ASYNC240
        return read_turn(ran, timeout_s=timeout_s)

    async def cron(self, *, grace_s: float) -> list[dict[str, Any]] | None:
        """The cron jobs as a snapshot; None if they cannot be read now."""
        argv = [self.path, "cron", "list", "--json"]
        try:
            ran = await run(argv, mark=_probe_mark(), timeout_s=CRON_WITHIN_S, grace_s=grace_s)
        except (OSError, ValueError):
            return None
        if ran.end != "exited" or ran.exit_code != 0:
            return None
        return read_cron(ran.stdout)


async def find(name: str, *, grace_s: float) -> OpenClaw | None:
    """The binary of this name or path, asked once what it is; None if there is none that runs."""
    path = shutil.which(name)
    if path is None:
        return None
    try:
        told = await run(
            [path, "--version"], mark=_probe_mark(), timeout_s=PROBE_WITHIN_S, grace_s=grace_s
        )
        helped = await run(
            [path, "agent", "--help"], mark=_probe_mark(), timeout_s=PROBE_WITHIN_S, grace_s=grace_s
        )
    except (OSError, ValueError):
        return None
    if told.end != "exited" or helped.end != "exited":
        return None
    words = text_of(told.stdout).split("\n", 1)[0].strip()
    usage = text_of(helped.stdout + helped.stderr)
    return OpenClaw(
        path=path,
        version=words[:TEXT_MAX_CHARS],
        is_current="--message-file" in usage and "--session-key" in usage,
    )


def signature(name: str) -> tuple[str, int, int] | None:
    """What tells one binary from another without asking it; None if there is none."""
    path = shutil.which(name)
    if path is None:
        return None
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return path, found.st_mtime_ns, found.st_size


def _probe_mark() -> str:
    # Of this process alone: another agent's sidecar asks its own.
    return f"probe-{os.getpid()}"


def session_key(room: str | None, sender: str) -> str:
    """Which conversation a task belongs to: one for each room and sender, told apart for sure."""
    key = f"agent:main:clawnet-{_fit(room or 'direct')}-{_fit(sender)}"
    if _fit(sender) == sender and (room is None or _PLAIN_ROOM.fullmatch(room)):
        return key
    # Here `a-b` and `c` would read as `a` and `b-c`: nobody may walk into another's conversation.
    # A dot is in no plain key.
    told_apart = hashlib.sha256(json.dumps([room, sender]).encode()).hexdigest()
    return f"{key}.{told_apart[:16]}"


def read_turn(ran: Ran, *, timeout_s: float) -> Result:
    """How a turn ended. Pure.

    A turn that the gateway accepted (`runId`) and that has neither an answer nor an end of its
    own has an unknown outcome: it may go on without us.
    """
    stderr = text_of(ran.stderr).strip()
    if ran.end == "timed_out":
        return Result(
            status="timed_out",
            error=cut(
                f"The turn was ended after {timeout_s:.3g} s.\n{stderr}".strip(), ERROR_MAX_BYTES
            ),
        )
    said = _object_of(ran.stdout)
    answer = None if said is None else _answer(said)
    if ran.end == "stopped":
        return Result(status="outcome_unknown", error="The turn was ended before it was done.")
    is_refused = said is not None and str(said.get("status", "")).lower() in ("error", "failed")
    if ran.exit_code == 0 and answer is not None and not is_refused:
        return Result(status="completed", output=cut(answer), exit_code=0)
    run_id = _run_id(said, ran)
    why = _why(said) or stderr or text_of(ran.stdout).strip() or "It said nothing."
    if run_id is not None and answer is None and not is_refused:
        return Result(
            status="outcome_unknown",
            error=cut(f"The run {run_id} was accepted and its end is not known. {why}",
                      ERROR_MAX_BYTES),
            exit_code=ran.exit_code,
        )  # fmt: skip
    if ran.exit_code == 0 and not is_refused:
        why = "The answer cannot be read. " + why
    output = None if answer is None else cut(answer)
    error = cut(why, ERROR_MAX_BYTES)
    return Result(status="failed", output=output, error=error, exit_code=ran.exit_code)


def read_cron(raw: bytes) -> list[dict[str, Any]] | None:
    """The jobs that `cron list --json` printed: `[…]` or `{"jobs": […]}`. Pure."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    jobs = value.get("jobs", value.get("entries")) if isinstance(value, dict) else value
    if not isinstance(jobs, list):
        return None
    found: list[dict[str, Any]] = []
    room = CRON_MAX_BYTES
    for job in jobs[:CRON_JOBS_MAX]:
        if not isinstance(job, dict):
            continue
        found.append(_job(job))
        room -= len(msgspec.json.encode(found[-1])) + 1
        if room < 0:
            return found[:-1]
    return found


def _job(job: Mapping[str, Any]) -> dict[str, Any]:
    state = job.get("state") if isinstance(job.get("state"), dict) else {}
    assert isinstance(state, dict)
    status = job.get("status")
    if status is None:
        # Older versions leave it to the reader.
        if job.get("enabled") is False:
            status = "disabled"
        elif state.get("runningAtMs"):
            status = "running"
        else:
            status = state.get("lastStatus") or "idle"
    found: dict[str, Any] = {
        "id": _short(job.get("id", job.get("jobId", ""))),
        "name": _short(job.get("name", "")),
        "status": _short(status),
    }
    schedule = job.get("schedule")
    if isinstance(schedule, dict):
        schedule = schedule.get("expr") or schedule.get("everyMs") or schedule.get("at")
    if schedule is not None:
        found["schedule"] = _short(schedule)
    for name, source in (("next_run_ms", "nextRunAtMs"), ("last_run_ms", "lastRunAtMs")):
        at = state.get(source)
        if isinstance(at, int) and not isinstance(at, bool) and 0 <= at < 2**53:
            found[name] = at
    return found


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    # A lone surrogate, which JSON may escape, cannot be sent on.
    return text[:TEXT_MAX_CHARS].encode("utf-8", "replace").decode()


def _fit(text: str) -> str:
    return _UNFIT.sub("-", text.lower()).strip("-")[:80] or "x"


def _private_file(folder: Path, text: str) -> str:
    # mkstemp makes it with mode 0600 from the first moment.
    handle, path = tempfile.mkstemp(prefix="turn-", suffix=".txt", dir=folder)
    with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
        file.write(text)
    return path


def _object_of(raw: bytes) -> dict[str, Any] | None:
    """The JSON object that was printed, also behind lines of a log."""
    text = text_of(raw)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = _last_object(text)
    return value if isinstance(value, dict) else None


def _last_object(text: str) -> object:
    """The last object that begins a line and reaches to the end. A bounded number is tried."""
    decoder = json.JSONDecoder()
    starts = [0, *(found.end() for found in re.finditer(r"\n(?=\{)", text))][-20:]
    for start in starts:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if not text[end:].strip():
            return value
    return None


def _answer(said: Mapping[str, Any], *, depth: int = 3) -> str | None:
    """payloads[0].text, then result, then final; each may hold the former inside."""
    if not depth:
        return None
    payloads = said.get("payloads")
    if isinstance(payloads, list):
        first = payloads[0] if payloads else None
        text = first.get("text") if isinstance(first, dict) else None
        if isinstance(text, str):
            return text
    for name in ("result", "final"):
        value = said.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, dict):
            found = _answer(value, depth=depth - 1)
            if found is not None:
                return found
            if isinstance(value.get("text"), str):
                return str(value["text"])
    return None


def _why(said: Mapping[str, Any] | None) -> str | None:
    error = None if said is None else said.get("error", said.get("summary"))
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) and error else None


def _run_id(said: Mapping[str, Any] | None, ran: Ran) -> str | None:
    if said is not None and isinstance(said.get("runId"), str):
        return _short(said["runId"])
    for raw in (ran.stderr, ran.stdout):
        found = _RUN_ID.search(text_of(raw))
        if found is not None:
            return found[1]
    return None
