"""claw explain knows every error, and says of each what the code says."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path

import click
import pytest

import clawnet
from clawnet.cli.exits import MEANINGS, exit_code
from clawnet.cli.explanations import EXAMPLES, every_error
from clawnet.cli.main import claw, main
from clawnet.client import Outbox
from clawnet.core.errors import ClawError, OutboxFull, meaning_of

ERRORS = every_error()
SOURCE = Path(clawnet.__file__).parent


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["explain", *words]) == code
    return capsys.readouterr().out


def test_the_hubs_errors_and_the_clients_are_all_there() -> None:
    codes = {error.code for error in ERRORS}
    assert codes >= {"internal", "forbidden", "hub_unreachable", "unexpected_answer", "outbox_full"}
    assert len(codes) == len(ERRORS)
    assert EXAMPLES.keys() == codes


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_an_error_is_explained(error: type[ClawError], capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, error.code)
    assert text.startswith(f"{error.code}: {meaning_of(error)}")
    for part in (str(error.status), error.next, EXAMPLES[error.code].leads_out):
        assert part in text
    assert MEANINGS[exit_code(error("x"))] in text
    shown = json.loads(said(capsys, "--json", f"urn:clawnet:error:{error.code}"))
    assert shown["type"] == f"urn:clawnet:error:{error.code}"
    assert (shown["retryable"], shown["next"]) == (error.retryable, error.next)


def test_the_list_names_every_error(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "--list")
    assert all(error.code in text for error in ERRORS)
    shown = json.loads(said(capsys, "--list", "--json"))["errors"]
    assert [one["code"] for one in shown] == [error.code for error in ERRORS]


@pytest.mark.parametrize(
    ("given", "near"),
    [("forbiden", "forbidden"), ("rate-limit", "rate_limited"), ("Unreachable", "hub_unreachable")],
)
def test_an_unknown_code_gets_the_nearest_name(
    given: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", given]) == 1
    assert f"Run claw explain {near}." in capsys.readouterr().err


def test_what_is_like_nothing_gets_the_list_and_is_shown_harmless(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["explain", "\x1b[2J" + "z" * 500]) == 1
    err = capsys.readouterr().err
    assert "claw explain --list" in err and "\x1b" not in err and len(err) < 300


def advised() -> list[tuple[str, str]]:
    """Every command line in the `next` of some place of the source: (where, its words)."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            named = node.value if isinstance(node, ast.keyword) and node.arg == "next" else None
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith("next"):
                named = node.value
            if named is None:
                continue
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else "X"
                for part in ast.walk(named)
                if isinstance(part, ast.Constant | ast.FormattedValue)
            )
            lines = re.findall(r"\bclaw (?!it\b|asks\b|made\b)[a-z][^,.;:()]*", text)
            found += [(f"{path.name}:{named.lineno}", line) for line in lines]
    return found


def exampled() -> list[tuple[str, str]]:
    """Every command line in EXAMPLES: (its code, its words)."""
    return [
        (code, line)
        for code, example in EXAMPLES.items()
        for part in example
        for line in re.findall(r"\bclaw [a-z][^,;()]*", part)
    ]


def test_every_command_line_of_the_examples_is_found() -> None:
    codes = {code for code, _ in exampled()}
    named = {code for code, example in EXAMPLES.items() if re.search(r"\bclaw\b", str(example))}
    assert codes == named and len(codes) > 15


def test_a_full_outbox_advises_what_there_is() -> None:
    limits = {param for param in inspect.signature(Outbox).parameters if param.endswith("_max")}
    assert limits == set(re.findall(r"\b\w+_max\b", OutboxFull.next))


def test_advice_all_over_the_source_names_commands_and_options_that_there_are() -> None:
    lines = advised()
    assert len(lines) > 20
    for where, line in [*lines, *exampled()]:
        words = line.split()[1:]
        command = claw.get_command(click.Context(claw), words[0])
        assert command is not None, (where, line)
        if isinstance(command, click.Group) and len(words) > 1 and words[1].islower():
            command = command.get_command(click.Context(command), words[1])
            assert command is not None, (where, line)
        options = {text for param in command.params for text in param.opts}
        assert {word for word in words if word.startswith("--")} <= options, (where, line)


def test_without_a_code_the_usage_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, code=2)
