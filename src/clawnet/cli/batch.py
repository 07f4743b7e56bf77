"""What `claw subexec` gathers before it starts a command, and what it tells the command. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import msgspec

from clawnet.cli.lines import Line, TracedLine, encoded

BATCH_MAX_EVENTS = 10_000
BATCH_MAX_BYTES = 8_388_608
"""A batch that only waits for silence must not grow for as long as there is none."""

VALUE_MAX_BYTES = 120_000
"""Linux refuses to start a program with a variable of more than 128 KiB, its name included."""

VARIABLES = (
    "CLAW_CHANNEL",
    "CLAW_SENDER",
    "CLAW_MESSAGE",
    "CLAW_TIMESTAMP",
    "CLAW_EVENT_ID",
    "CLAW_COUNT",
    "TRACEPARENT",
)


class Batch:
    """Lines in the order they came, until there are enough of them or nothing came for a while.

    `size` events are a full batch. With `pause_s` a batch is also due when nothing came for so
    long; without it only a full one is.
    """

    def __init__(self, *, size: int | None, pause_s: float | None) -> None:
        # Only --timeout: whatever comes in one go belongs together, within bounds.
        self._size = size or (1 if pause_s is None else BATCH_MAX_EVENTS)
        self._pause_s = pause_s
        self._lines: list[Line] = []
        self._bytes = 0
        self._newest_s = 0.0

    def add(self, line: Line, *, now_s: float) -> None:
        """Take one more."""
        self._lines.append(line)
        self._bytes += len(memoryview(line.payload)) + 256
        self._newest_s = now_s

    @property
    def is_full(self) -> bool:
        return len(self._lines) >= self._size or self._bytes >= BATCH_MAX_BYTES

    def due_in_s(self, *, now_s: float) -> float | None:
        """How long from now the batch is due if nothing comes; None: it is not."""
        if not self._lines or self._pause_s is None:
            return None
        return max(0.0, self._newest_s + self._pause_s - now_s)

    def take(self) -> list[Line]:
        """What was gathered, and begin anew."""
        lines, self._lines, self._bytes = self._lines, [], 0
        return lines


def stdin_of(lines: Sequence[Line]) -> bytes:
    """What the command reads: a line of JSON for each event."""
    return b"".join(encoded(line) for line in lines)


def environment_of(lines: Sequence[Line], base: Mapping[str, str]) -> dict[str, str]:
    """The command's environment: `base`, and of the newest event what a variable can hold.

    Text that holds a NUL, or more than VALUE_MAX_BYTES, is left out rather than cut: half a
    message is a trap. All of it is on standard input.
    """
    newest = lines[-1]
    # What an outer subexec told is not this event's; TRACEPARENT likewise.
    environment = {name: value for name, value in base.items() if name not in VARIABLES}
    told = {
        "CLAW_CHANNEL": newest.channel,
        "CLAW_SENDER": newest.sender,
        "CLAW_MESSAGE": message_text(newest.payload),
        "CLAW_TIMESTAMP": newest.timestamp,
        "CLAW_EVENT_ID": newest.id,
        "CLAW_COUNT": str(len(lines)),
        "TRACEPARENT": newest.traceparent if isinstance(newest, TracedLine) else None,
    }
    environment |= {
        name: value for name, value in told.items() if value is not None and _fits(value)
    }
    return environment


def message_text(payload: msgspec.Raw) -> str | None:
    """The payload as `claw pub` would take it: text as it is, all else as JSON."""
    try:
        return msgspec.json.decode(payload, type=str)
    except msgspec.ValidationError:
        return bytes(payload).decode("utf-8", "replace")
    except msgspec.DecodeError:
        return None


def _fits(value: str) -> bool:
    if "\0" in value:
        return False
    try:
        return len(os.fsencode(value)) <= VALUE_MAX_BYTES
    except UnicodeEncodeError:
        return False
