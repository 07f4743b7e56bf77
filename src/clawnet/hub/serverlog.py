"""The newest lines of the hub's own log, for masters who have no shell on its machine."""

from __future__ import annotations

import logging
import re
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.logs import LOG_LIMIT_MAX, RECORD_MAX_CHARS, LogLine, LogPage, ReadLog
from clawnet.core.errors import BadRequest, Forbidden
from clawnet.core.times import rfc3339
from clawnet.hub.accounts import need_master

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

LINES_MAX = 2_000
_SECRET = re.compile(r"\b(?:claw|inv)_[A-Za-z0-9_-]{8,}|\beyJ[A-Za-z0-9_-]{10,}\S*")
"""What tokens, invitations and JWTs look like: no log line should hold one, and none gets out."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class ServerLog(logging.Handler):
    """A ring of lines. app adds it to the root logger and takes it away; logging calls it from
    any thread, with its own lock held."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(logging.INFO)
        self._lines: deque[LogLine] = deque(maxlen=LINES_MAX)
        self._count = 0
        hub.handle(ReadLog, self.read)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line. What cannot be formatted is kept as it was written."""
        try:
            text = record.getMessage()
        except Exception:  # somebody else's format string must not fail in who logs
            text = str(record.msg)
        if record.exc_info and record.exc_info[0] is not None:
            # Its text and its frames may quote what a client sent.
            text = f"{text} ({record.exc_info[0].__name__})"
        self._count += 1
        self._lines.append(
            LogLine(
                number=self._count,
                ts=rfc3339(int(record.created * 1000)),
                level=record.levelname.lower(),
                logger=record.name,
                message=_SECRET.sub("(secret)", _CONTROL.sub(" ", text))[:RECORD_MAX_CHARS],
            )
        )

    def say(self, text: str) -> None:
        """A line that is worth keeping here, and no more on the hub's own stderr."""
        self.handle(logging.LogRecord("clawnet", logging.INFO, "", 0, "%s", (text,), None))

    async def read(self, call: ReadLog, caller: Caller) -> LogPage:
        """Raises Forbidden, BadRequest."""
        need_master(caller, "events:read")
        if caller.world != "main":
            # Its lines are of all worlds at once.
            raise Forbidden(
                "The hub's own log is for masters of the world main.",
                next="Ask the hub's operator.",
            )
        if not 1 <= call.limit <= LOG_LIMIT_MAX:
            raise BadRequest(f"limit must be 1 to {LOG_LIMIT_MAX}.", parameter="limit")
        lines = list(self._lines)
        if call.after is None or call.after > self._count:
            # A number of before the last restart stands for nothing here.
            shown = lines[-call.limit :]
        else:
            shown = [line for line in lines if line.number > call.after][: call.limit]
        return LogPage(
            kind="server",
            records=[msgspec.Raw(msgspec.json.encode(line)) for line in shown],
            next=shown[-1].number if shown else self._count,
        )
