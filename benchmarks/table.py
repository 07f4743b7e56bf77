"""The results: a table to read, a JSON file to keep."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.row import Row

RESULTS = Path(__file__).with_name("results")
HEAD = ("what", "ours", "unit", "peer", "theirs", "ratio (spread)", "target", "met")
MET = {True: "yes", False: "NO", None: "-"}


def render(rows: Iterable[Row]) -> str:
    """The table, and below it one line for each reason why something is missing."""
    rows = list(rows)
    lines = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines]  # fmt: skip
    text.insert(1, "  ".join("-" * width for width in widths))
    notes = dict.fromkeys(note for row in rows for note in row.note.split("; ") if note)
    if notes:
        text += ["", *(f"note: {note}" for note in notes)]
    return "\n".join(text)


def write(rows: Iterable[Row], facts: dict[str, Any], kind: str) -> Path:
    """Replace `results/<kind>.json`: `partial` is not kept in git."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{kind}.json"
    content = {**facts, "rows": [row.as_json() for row in rows]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def _cells(row: Row) -> tuple[str, ...]:
    ratio = ""
    if row.ratio is not None and row.ratio_spread is not None:
        ratio = f"{row.ratio:.3g} ({row.ratio_spread[0]:.3g}-{row.ratio_spread[1]:.3g})"
    return (
        row.name,
        _number(row.ours),
        row.unit,
        row.peer,
        _number(row.peer_value),
        ratio,
        row.target,
        MET[row.met],
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
