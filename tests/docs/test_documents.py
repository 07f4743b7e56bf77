"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from clawnet.cli.exits import exit_code
from clawnet.cli.explanations import every_error
from clawnet.core.errors import meaning_of

DOCS = Path(__file__).parents[2] / "docs"
README = Path(__file__).parents[2] / "README.md"


def rendered_errors() -> str:
    """docs/errors.md as the code would have it."""
    rows = [
        "# Errors",
        "",
        "Every error has a stable code, a sentence, and what to do next. Over HTTP it is a problem",
        "document (RFC 9457) of the type `urn:clawnet:error:<code>`, on the WebSocket an error",
        "frame, on the command line one line and an exit code. `retryable` means that the same",
        "request may succeed later. `claw explain CODE` says the same with an example; a test does",
        "what each says next, from the state that causes the error, and sees that it leads out.",
        "",
        "| code | status | exit | retryable | meaning | what to do |",
        "|---|---|---|---|---|---|",
    ]
    for error in every_error():
        retryable = "yes" if error.retryable else "no"
        numbers = f"{error.status} | {exit_code(error('x'))}"
        rows.append(
            f"| `{error.code}` | {numbers} | {retryable} | {meaning_of(error)} | {error.next} |"
        )
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


def test_no_document_installs_what_somebody_else_publishes_under_this_name() -> None:
    root = README.parent
    texts = [*DOCS.rglob("*.md"), *root.glob("*.md"), *(root / "examples").rglob("*.*")]
    texts += (root / "src").rglob("*.py")
    named = re.compile(r"(?:pipx?3?|uv|uvx|tool) (?:install|run|add)? ?(?:-\S+ )*[\"']?clawnet\b")
    found = [page.name for page in texts if named.search(page.read_text(errors="replace"))]
    assert found == []
    assert named.search("pip install clawnet") and named.search("pipx install 'clawnet[x]'")


def test_the_clients_page_logs_in_before_it_asks_for_an_account() -> None:
    text = (DOCS / "client.md").read_text()
    first = text[text.index("```sh") : text.index("## Publish")]
    steps = ("install .", "claw up", "claw login --token", "claw account create")
    places = [first.index(step) for step in steps]
    assert places == sorted(places)
