"""Which timers are due at which second, and what they tell. Pure; all times are UTC.

What is told depends on the moment alone, so two hubs that tell of one moment say the same.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from clawnet.core.times import rfc3339

ROOT = "system.timer"
SECOND = f"{ROOT}.second"
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
CHANNELS = (
    SECOND,
    f"{ROOT}.minute",
    f"{ROOT}.hour",
    f"{ROOT}.day",
    *(f"{ROOT}.week.{name}" for name in WEEKDAYS),
    *(f"{ROOT}.monthly.{name}" for name in MONTHS),
    f"{ROOT}.yearly",
)


def due_at(second: int) -> list[tuple[str, str]]:
    """The (channel, event) of the timers that a second is the moment of, but for `second`."""
    if second % 60:
        return []
    when = datetime.fromtimestamp(second, UTC)
    due = [(f"{ROOT}.minute", "minute")]
    if when.minute == 0:
        due.append((f"{ROOT}.hour", "hour"))
        if when.hour == 0:
            due.append((f"{ROOT}.day", "day"))
            due.append((f"{ROOT}.week.{WEEKDAYS[when.weekday()]}", "week"))
            if when.day == 1:
                due.append((f"{ROOT}.monthly.{MONTHS[when.month - 1]}", "monthly"))
                if when.month == 1:
                    due.append((f"{ROOT}.yearly", "yearly"))
    return due


def told_at(second: int, event: str) -> dict[str, Any]:
    """What a timer tells. `unix` is ms since 1970, as claw.events' clients read it."""
    when = datetime.fromtimestamp(second, UTC)
    text = rfc3339(second * 1000)
    return {
        "timestamp": text,
        "iso": text,
        "unix": second * 1000,
        "year": when.year,
        "month": when.month,
        "day": when.day,
        "hour": when.hour,
        "minute": when.minute,
        "second": when.second,
        "event": event,
    }
