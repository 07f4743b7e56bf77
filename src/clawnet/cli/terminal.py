"""What goes to the terminal: text made harmless, tables, JSON.

Text from the wire is somebody else's. An escape sequence in it could rewrite
what the reader sees or worse, so nothing unescaped reaches a terminal.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

_CONTROL = "\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
"""C0 and C1 controls, what turns the direction of text, and what cannot be encoded."""

_UNSAFE = re.compile(f"[{_CONTROL}]")
_UNSAFE_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def harmless(text: object) -> str:
    """Text in which every control character is visible."""
    return _UNSAFE.sub(_shown, str(text))


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    short = {9: "\\t", 10: "\\n", 13: "\\r", 27: "\\e"}.get(code)
    return short or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def harmless_json(text: str) -> str:
    """JSON text of the same value without characters that a terminal obeys.

    JSON itself forbids C0 controls inside strings; the others can only stand inside strings.
    """
    return _UNSAFE_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether a person reads the stream (stdout if none is given)."""
    try:
        return (stream or sys.stdout).isatty()
    except ValueError:
        return False


def is_colourful() -> bool:
    """Whether stdout takes colours and nobody said NO_COLOR (no-color.org)."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(text: str) -> None:
    """A line on stdout. The text must be harmless already."""
    sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """A line for the person on stderr; never part of the output."""
    sys.stderr.write(f"{harmless(text)}\n")
    sys.stderr.flush()


def note_gap(channel: str, first: int, last: int, reason: str) -> None:
    """Say which offsets of a channel cannot be read, and whether there ever was anything."""
    if reason == "epoch":
        note(
            f"claw: places {first} to {last} of {channel} are not in this log: they were of one"
            f" that is no more, or never given. Reading goes on at {first}."
        )
    else:
        note(f"claw: events {first} to {last} of {channel} are gone ({reason}).")


def say_json(value: Any) -> None:
    """A value as one line of compact JSON on stdout."""
    say(json_text(value))


def plain(answer: Any) -> Any:
    """A typed answer as what its JSON says, also where JSON was left as it came."""
    import msgspec

    return msgspec.json.decode(msgspec.json.encode(answer))


def json_text(value: Any) -> str:
    """A value as one line of compact JSON that is harmless."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate cannot be encoded; as an escape it is the same JSON string.
    safe = re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)
    return harmless_json(safe)


def forget_stdout() -> None:
    """Whoever read stdout is gone. Without this, Python complains once more when it ends."""
    try:
        void = os.open(os.devnull, os.O_WRONLY)
        os.dup2(void, sys.stdout.fileno())
    except (OSError, ValueError):
        pass


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "") -> None:
    """Rows in aligned columns on stdout; `empty` goes to stderr if there are none."""
    cells = [[cell(value) for value in row] for row in rows]
    if not cells:
        if empty:
            note(empty)
        return
    widths = [
        max(_width(head), *(_width(row[index]) for row in cells))
        for index, head in enumerate(heads)
    ]
    start, end = ("\x1b[1m", "\x1b[0m") if is_colourful() else ("", "")
    say(start + _line([head.upper() for head in heads], widths) + end)
    for row in cells:
        say(_line(row, widths))


def cell(value: object) -> str:
    """A value as a table shows it, harmless."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(harmless(item) for item in value) or "-"
    return harmless(value)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(
        0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text
    )
