"""Times as text and back: RFC 3339, UTC, milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339(ts_ms: int) -> str:
    """`2026-11-21T10:30:00.123Z`."""
    seconds, ms = divmod(ts_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ms:03d}Z"


def time_ms(ts: str) -> int:
    """ms since 1970 of a time that rfc3339() wrote, or that was imported."""
    return round(datetime.fromisoformat(ts).timestamp() * 1000)
