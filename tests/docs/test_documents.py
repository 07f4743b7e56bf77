"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from clawnet.core.errors import ERRORS, ClawError

DOCS = Path(__file__).parents[2] / "docs"
README = Path(__file__).parents[2] / "README.md"


def rendered_errors() -> str:
    """docs/errors.md as the code would have it."""
    rows = [
        "# Errors",
        "",
        "Every error has a stable code, a sentence, and what to do next. Over HTTP it is a problem",
        "document (RFC 9457), on the WebSocket an error frame, on the command line one line and an",
        "exit code. `retryable` means that the same request may succeed later.",
        "",
        "| code | status | retryable | meaning | what to do |",
        "|---|---|---|---|---|",
    ]
    every: list[type[ClawError]] = [ClawError, *ERRORS]
    for error in sorted(every, key=lambda e: e.code):
        meaning = (error.__doc__ or "").strip().splitlines()[0]
        retryable = "yes" if error.retryable else "no"
        rows.append(f"| `{error.code}` | {error.status} | {retryable} | {meaning} | {error.next} |")
    return "\n".join(rows) + "\n"


def test_the_error_table_is_the_code() -> None:
    assert (DOCS / "errors.md").read_text() == rendered_errors()


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target


def test_every_decision_has_context_choice_and_consequences() -> None:
    for page in sorted((DOCS / "adr").glob("*.md")):
        text = page.read_text()
        if "dependencies" not in page.name:
            for heading in ("**Context.**", "**Choice.**", "**Consequences.**"):
                assert heading in text, (page.name, heading)
