"""Text from the wire does nothing to a terminal."""

import io
import json
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.cli import terminal

DANGEROUS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@given(st.text())
def test_harmless_text_has_no_control_characters(text: str) -> None:
    assert not DANGEROUS.search(terminal.harmless(text))


@given(st.recursive(st.none() | st.text() | st.integers(), lambda x: st.lists(x), max_leaves=8))
def test_harmless_json_is_the_same_value(value: object) -> None:
    text = terminal.harmless_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    assert not DANGEROUS.search(text)


def test_escape_sequences_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.table(("name",), [("\x1b]0;owned\x07\u009b2J\u202eevil",)])
    assert capsys.readouterr().out == "NAME\n\\e]0;owned\\x07\\x9b2J\\u202eevil\n"


def test_columns_are_aligned_for_wide_characters(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.table(("a", "b"), [("🦞", 1), ("ab", None), (True, ["x", "y"])])
    assert capsys.readouterr().out == "A    B\n🦞   1\nab   -\nyes  x, y\n"


def test_a_lone_surrogate_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say_json({"a": "\ud800"})
    assert capsys.readouterr().out == '{"a":"\\ud800"}\n'


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("value", "is_colourful"), [(None, True), ("1", False), ("", True)])
def test_no_color_is_obeyed(
    value: str | None, is_colourful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Tty()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    if value is None:
        monkeypatch.delenv("NO_COLOR", raising=False)
    else:
        monkeypatch.setenv("NO_COLOR", value)
    terminal.table(("a",), [("x",)])
    assert ("\x1b" in stream.getvalue()) is is_colourful


def test_a_pipe_gets_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.table(("a",), [("x",)])
    assert "\x1b" not in capsys.readouterr().out
