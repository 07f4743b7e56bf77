"""Places in a world's log and in a channel, as text.

A cursor is `<log epoch>-<seq>`. A channel's epoch is `<log epoch>.<incarnation>`.
`since` in a request is an offset, a duration such as 10m, a cursor, or `all`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from clawnet.core.errors import BadRequest

_CURSOR = re.compile(r"([0-9a-z]{1,32})-([0-9]{1,15})\Z")
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)\Z")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_OFFSET = re.compile(r"[0-9]{1,15}\Z")


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the log: everything up to and including `seq` has been seen."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"


@dataclass(frozen=True, slots=True)
class AfterOffset:
    """Everything behind this offset of a channel; 0 is all of it."""

    offset: int
    epoch: str | None = None


@dataclass(frozen=True, slots=True)
class Ago:
    """Everything younger than this many milliseconds."""

    ms: int


Since = Cursor | AfterOffset | Ago


def parse_cursor(text: str) -> Cursor:
    """Read a cursor. Raises BadRequest."""
    found = _CURSOR.match(text)
    if found is None:
        raise BadRequest(
            f"{ascii(text[:80])} is not a cursor.",
            next="Give back a cursor exactly as the hub gave it.",
        )
    return Cursor(found[1], int(found[2]))


def parse_since(text: str) -> Since:
    """Read the `since` of a request: `120`, `10m`, `all` or a cursor. Raises BadRequest."""
    if text == "all":
        return AfterOffset(0)
    if _OFFSET.match(text):
        return AfterOffset(int(text))
    found = _DURATION.match(text)
    if found is not None:
        return Ago(int(found[1]) * _UNIT_MS[found[2]])
    if _CURSOR.match(text):
        return parse_cursor(text)
    raise BadRequest(
        f"{ascii(text[:80])} is not a position.",
        next="Give an offset (120), a duration (10m, 2h, 3d), all, or a cursor from the hub.",
    )
