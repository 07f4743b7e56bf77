"""docs/security.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
CITED = sorted(set(re.findall(r"`(tests/[a-z0-9_/]+\.py)(?:::([a-z0-9_]+))?`", PAGE.read_text())))


def test_the_page_cites_tests() -> None:
    assert len(CITED) > 40


def test_what_the_page_cites_is_there() -> None:
    sources = {file: (ROOT / file).read_text() for file, _ in CITED if (ROOT / file).is_file()}
    missing = [
        f"{file}::{name}"
        for file, name in CITED
        if (f"def {name}(" if name else "def test_") not in sources.get(file, "")
    ]
    assert missing == []


def test_every_row_of_a_table_follows_one() -> None:
    lines = PAGE.read_text().splitlines()
    # A row behind an empty line is shown as text; a table begins with a head and a separator.
    lost = [
        line
        for before, line, behind in zip(["", *lines], lines, [*lines[1:], ""], strict=False)
        if line.startswith("|") and not before.startswith("|") and not behind.startswith("|---")
    ]
    assert lost == []


def test_every_line_of_a_threat_has_its_attack() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    heads = [index for index, line in enumerate(rows) if line.startswith("| threat |")]
    assert heads
    missing = [
        line
        for line in rows[heads[0] :]
        if not line.startswith("| threat |") and "`tests/" not in line
    ]
    assert missing == []
