"""One task as it is stored, and what its statuses lead to. Pure: time and settings are given."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b, sha256
from typing import Any

import msgspec

from clawnet.core import payloads
from clawnet.core.calls.tasks import ENDED, WORKING, TaskInfo, TaskStatus
from clawnet.core.times import rfc3339

KIND = "task"
GRACE_MS = 10_000
"""So long behind its timeout a task may still be told of by its worker, which ends it itself."""
CUT = "\n[cut by the hub]"
ERROR_MAX_BYTES = 4_096
INFO_MIN_BYTES = 16_384
"""A task may take so much, however little data an event may have otherwise."""
RESULT_MIN_BYTES = 8_192
"""So much of a task's bytes is left for its error and its output."""
RETURN_MS = 60_000
"""So long after a start of the hub a worker may take to come back and say what it did."""
UNACCEPTED: frozenset[str] = frozenset(("queued", "submitted", "awaiting_approval"))
"""Statuses in which nobody works on it: these end when the right to give it does."""
_SPACES = re.compile(r"\s+")


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """As stored under `task/<world>/<task_id>`."""

    world: str
    info: TaskInfo
    request: str
    """Of what the dispatch asked, for a repeated dedupe key."""
    due_ms: int = 0
    """When the status ends by itself; 0 for one that has ended."""
    deliver_by_ms: int = 0
    timeout_at_ms: int = 0
    ended_ms: int = 0
    is_told: bool = False
    """Whether its worker said how it ended, so that the same word again is a repeat."""
    is_approved: bool = False
    room_floor: int = 0
    """Where the room's channel was at the dispatch: who may read only what came later, may not
    see this."""
    causation_id: str | None = None
    event_id: str | None = None
    """The event of the dispatch; known from the first change behind it."""

    @property
    def is_open(self) -> bool:
        return self.info.status not in ENDED

    @property
    def key(self) -> str:
        return f"{KIND}/{self.world}/{self.info.task_id}"

    def approved(self, by: str) -> Record:
        """The record with the word of a master; its status is given by moved()."""
        said = f"Approved by {by}."
        reason = said if self.info.reason is None else f"{said} {self.info.reason}"
        info = msgspec.structs.replace(self.info, reason=reason)
        return msgspec.structs.replace(self, info=info, is_approved=True)


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """How long a task may be in which status, ms. Its lease is its own."""

    acknowledge: int
    queue: int
    approval: int


def digests_of(
    targets: Iterable[str],
    *,
    kind: str,
    command: str,
    args: msgspec.Raw | msgspec.UnsetType,
    timeout_s: float,
) -> list[str]:
    """What an approval names, for each target: sha256, hex, over canonical JSON of what would be
    done. The arguments are read once."""
    value = {"kind": kind, "command": command, "args": _value(args), "timeout_s": timeout_s}
    texts = (msgspec.json.encode(value | {"to": to}, order="sorted") for to in targets)
    return [sha256(text).hexdigest() for text in texts]


def request_of(
    *,
    to: str | list[str],
    kind: str,
    command: str,
    args: msgspec.Raw | msgspec.UnsetType,
    timeout_s: float | None,
    room: str | None,
) -> str:
    """What must be equal for a repeated dedupe key."""
    value = [to, kind, command, _value(args), timeout_s, room]
    return blake2b(msgspec.json.encode(value, order="sorted"), digest_size=16).hexdigest()


def found_in(
    command: str, args: msgspec.Raw | msgspec.UnsetType, words: Iterable[str]
) -> str | None:
    """The first of `words` that is part of the command or of its arguments."""
    wanted = [word for word in words if word.strip()]
    if not wanted:
        return None
    # A list of arguments is looked at as it would be typed, too.
    texts = [command, *([] if args is msgspec.UNSET else _texts(_value(args)))]
    shown = [_SPACES.sub(" ", text).casefold() for text in texts] + [texts[0].casefold()]
    for word in wanted:
        folded = word.casefold()
        if any(folded in text for text in shown):
            return word
    return None


def cut(text: str | None, max_bytes: int) -> str | None:
    """The text, cut with a mark where it is longer than so many bytes of JSON."""
    if text is None or size_of(text) <= max_bytes:
        return text
    room = max_bytes - size_of(CUT)
    kept = text[:room]
    while (size := size_of(kept)) > room:
        kept = kept[: min(len(kept) * room // size, len(kept) - 1)]
    return kept + CUT


def room_for_result(info: TaskInfo, limit_bytes: int) -> int:
    """The bytes that are left of an event's for what the worker says at the end: those who read
    or import a task's events take no larger ones. The same in every status of the task; less
    than RESULT_MIN_BYTES for what is too large to be given."""
    plain = msgspec.structs.replace(
        info, status="awaiting_approval", updated=info.created, due=info.created, fence=0,
        revision=0, output=None, error=None, exit_code=None, said=None, reason=None,
    )  # fmt: skip
    return max(limit_bytes, INFO_MIN_BYTES) - len(msgspec.json.encode(plain)) - _MEMBERS_BYTES


_MEMBERS_BYTES = 1_024
"""The names of what comes at the end, `said`, the numbers, and the hub's own reasons."""


def size_of(text: str) -> int:
    """The bytes of a text in JSON: what it takes to store and to send it."""
    return len(msgspec.json.encode(text)) - 2


def moved(
    record: Record,
    status: TaskStatus,
    *,
    now_ms: int,
    times: Times,
    reason: str | None = None,
    event_id: str | None = None,
    fence: int | None = None,
    is_told: bool = False,
    **said: Any,
) -> Record:
    """The record in another status, with its deadline. `said` are members of TaskInfo."""
    before = record.info
    changes: dict[str, Any] = {"event_id": record.event_id or event_id, "is_told": is_told}
    due_ms = 0
    if status == "awaiting_approval":
        due_ms = now_ms + times.approval
    elif status in ("queued", "submitted"):
        deliver_by_ms = record.deliver_by_ms or now_ms + times.queue
        changes["deliver_by_ms"] = deliver_by_ms
        due_ms = deliver_by_ms
        if status == "submitted":
            # However often it comes and goes: it is bounded by the time in the queue.
            due_ms = min(now_ms, deliver_by_ms) + times.acknowledge
    elif status in WORKING:
        timeout_at_ms = record.timeout_at_ms or now_ms + round(before.timeout_s * 1000) + GRACE_MS
        changes["timeout_at_ms"] = timeout_at_ms
        due_ms = leased(now_ms, timeout_at_ms=timeout_at_ms, lease_ms=round(before.lease_s * 1000))
    else:
        changes["ended_ms"] = now_ms
    info = msgspec.structs.replace(
        before,
        status=status,
        revision=before.revision + 1,
        updated=rfc3339(now_ms),
        due=rfc3339(due_ms) if due_ms else None,
        fence=before.fence if fence is None else fence,
        reason=reason,
        **said,
    )
    return msgspec.structs.replace(record, info=info, due_ms=due_ms, **changes)


def delayed(record: Record, due_ms: int, jump_ms: int) -> Record:
    """The record of a worker's task, due at `due_ms`, when the clock jumped so far ahead. Nobody
    was silent for that long, and nobody worked for it."""
    info = msgspec.structs.replace(record.info, due=rfc3339(due_ms + jump_ms))
    timeout_at_ms = record.timeout_at_ms and record.timeout_at_ms + jump_ms
    return msgspec.structs.replace(
        record, info=info, due_ms=due_ms + jump_ms, timeout_at_ms=timeout_at_ms
    )


def due_after_start(record: Record, *, now_ms: int, times: Times) -> int:
    """When the status of a stored task ends, at a start of the hub. While it was away no worker
    could be heard, and the last renewals of a lease may not be stored."""
    status = record.info.status
    if status == "submitted":
        return max(record.due_ms, now_ms + times.acknowledge)
    if status not in WORKING:
        return record.due_ms
    lease_ms = round(record.info.lease_s * 1000)
    last_ms = max(record.timeout_at_ms, now_ms + RETURN_MS)
    return max(record.due_ms, leased(now_ms, timeout_at_ms=last_ms, lease_ms=lease_ms))


def leased(now_ms: int, *, timeout_at_ms: int, lease_ms: int) -> int:
    """When a worker that is heard of now must be heard of again."""
    return min(now_ms + lease_ms, timeout_at_ms)


def overdue(record: Record, *, now_ms: int, times: Times, event_id: str | None) -> Record:
    """What a task becomes whose status has lasted too long."""
    status, fence = record.info.status, record.info.fence
    to: TaskStatus
    if status == "awaiting_approval":
        to, reason = "rejected", "No master approved it in time."
    elif status == "queued":
        to, reason = "delivery_failed", "Its worker was not there in time."
    elif status == "submitted":
        to, reason = "delivery_failed", "Its worker did not acknowledge it in time."
    elif now_ms >= record.timeout_at_ms:
        to, reason = "timed_out", "It took longer than its timeout."
    else:
        to, reason = "outcome_unknown", "Its worker fell silent; whether it was done is not known."
    return moved(
        record, to, now_ms=now_ms, times=times, reason=reason, event_id=event_id, fence=fence + 1
    )


def _value(args: msgspec.Raw | msgspec.UnsetType) -> Any:
    return None if isinstance(args, msgspec.UnsetType) else payloads.value_of(bytes(args))


def _texts(value: Any) -> list[str]:
    """The texts in a JSON value: each alone, and those of one list together."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        found = [text for item in value for text in _texts(item)]
        return [*found, " ".join(item for item in value if isinstance(item, str))]
    if isinstance(value, dict):
        keys = [str(key) for key in value]
        return [*keys, *(text for item in value.values() for text in _texts(item))]
    return []
