"""docs/security.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
CITED = sorted(set(re.findall(r"`(tests/[a-z0-9_/]+\.py)(?:::([a-z0-9_]+))?`", PAGE.read_text())))


def test_the_page_cites_tests() -> None:
    assert len(CITED) > 40


@pytest.mark.parametrize(("file", "name"), CITED, ids="::".join)
def test_what_the_page_cites_is_there(file: str, name: str) -> None:
    source = (ROOT / file).read_text()
    assert f"def {name}(" in source if name else "def test_" in source


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
