"""`claw validate`, as far as it needs no hub."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from clawnet.cli.main import main
from clawnet.cli.schemas import ERRORS_MAX, MESSAGE_MAX, check
from clawnet.core.errors import InvalidData

SCHEMA = {
    "type": "object",
    "properties": {"step": {"type": "integer", "minimum": 1}, "tags": {"uniqueItems": True}},
    "required": ["step"],
    "unevaluatedProperties": False,
}
TEXT = json.dumps(SCHEMA)


def test_what_fits_is_printed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    text = '{"step":   1, "tags": [1.0, 2e0]}'
    assert main(["validate", text, "--schema", TEXT]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"{text}\n", "")


def test_the_schema_may_be_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "schema.json"
    file.write_text(TEXT)
    assert main(["validate", '{"step": 2}', "--schema", f"@{file}"]) == 0
    assert main(["validate", '{"step": 2}', "--schema", f"@{file}.not"]) == 78
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"step": 0}, "step"),
        ({"step": 1.5}, "step"),
        ({}, "(all)"),
        ({"step": 1, "more": 1}, "(all)"),
        ({"step": 1, "tags": [1, 1]}, "tags"),
    ],
    ids=repr,
)
def test_what_does_not_fit_is_said_with_its_place_and_printed_nowhere(
    value: object, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", json.dumps(value), "--schema", TEXT]) == 65
    said = capsys.readouterr()
    assert said.out == "" and f"      {path}: " in said.err


def test_with_json_the_places_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "validate", '{"step": 0}', "--schema", TEXT]) == 65
    said = json.loads(capsys.readouterr().err)["error"]
    assert [one["path"] for one in said["validation_errors"]] == ["step"]


@pytest.mark.parametrize("text", ["hello", "{", "NaN", "[" * 100_000, "'a'"], ids=lambda t: t[:9])
def test_what_is_no_json_is_bad_data(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", text]) == 65
    assert capsys.readouterr().out == ""


def test_without_a_schema_only_json_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "[1, 2]"]) == 0
    assert capsys.readouterr().out == "[1, 2]\n"


@pytest.mark.parametrize(
    "schema",
    [
        '{"type": "nosuch"}',
        '{"$ref": "https://example.com/other.json"}',
        '{"pattern": "(?=a)b"}',
        '{"pattern": "(a{1000}){1000}"}',
        '{"$schema": "http://example.com/own"}',
        "[1]",
        "{",
    ],
)
def test_a_schema_that_is_none_is_bad_data_and_fetches_nothing(
    schema: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", "1", "--schema", schema]) == 65
    said = capsys.readouterr()
    assert said.out == "" and "schema" in said.err


def test_a_schema_reaches_no_file_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"type": "integer"}')
    with pytest.raises(InvalidData):
        check(1, {"$ref": f"file://{tmp_path}/other.json"})


def test_what_is_told_of_a_failure_is_bounded() -> None:
    found = check(["x" * 10_000] * 100, {"items": {"type": "integer"}})
    assert len(found) == ERRORS_MAX
    assert max(len(one.message) for one in found) == MESSAGE_MAX


def test_a_pattern_takes_linear_time() -> None:
    # Exponential in an engine that backtracks: this would not come back.
    assert check("a" * 5_000 + "!", {"pattern": "^(a+)+$"})


def test_a_schema_that_holds_itself_comes_back() -> None:
    tree = {"properties": {"next": {"$ref": "#"}}, "type": "object"}
    assert check({"next": {"next": {}}}, tree) == []
    assert check({"next": {"next": 1}}, tree)[0].path == "next.next"
    with pytest.raises(InvalidData):
        check(1, {"$ref": "#/nowhere"})


def test_nothing_to_check_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert main(["validate"]) == 2
    assert "nothing to check" in " ".join(capsys.readouterr().err.split())
