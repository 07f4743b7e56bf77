"""The hub's logs as masters read them: what it logged, what became of tasks, the audit trail."""

from __future__ import annotations

from typing import Literal

import msgspec

LogKind = Literal["server", "tasks", "audit"]
LOG_KINDS: tuple[LogKind, ...] = ("server", "tasks", "audit")
LOG_LIMIT = 100
LOG_LIMIT_MAX = 1_000
RECORD_MAX_CHARS = 2_000


class ReadLog(msgspec.Struct, frozen=True, kw_only=True):
    """What the hub logged, behind line `after`; without it the newest. For masters of `main`.

    Answered with LogPage of LogLine. The hub keeps the newest lines in memory alone.
    """

    after: int | None = None
    limit: int = LOG_LIMIT


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the hub's own log, cut at RECORD_MAX_CHARS, without control characters."""

    number: int
    ts: str
    level: str
    logger: str
    message: str


class LogPage(msgspec.Struct, frozen=True, kw_only=True):
    """Records of one log, oldest first: LogLine (server), task events (tasks), lines of the
    chain (audit). `next` is the `after` to go on with."""

    kind: LogKind
    records: list[msgspec.Raw]
    next: int
