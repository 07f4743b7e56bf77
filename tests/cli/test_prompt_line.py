"""The line that is typed while others' lines come in: no byte of either obeys anybody."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clawnet.cli.prompt_line import LINE_MAX_CHARS, Key, PromptLine
from clawnet.cli.terminal import harmless


def lines(line: PromptLine, raw: bytes) -> list[str]:
    return [key.text for key in line.feed(raw) if key.kind == "line"]


def test_what_is_typed_becomes_lines() -> None:
    line = PromptLine("alpha")
    assert lines(line, "héllo ✓\r".encode()) == ["héllo ✓"]
    assert lines(line, b"two\nthree\r") == ["two", "three"]
    # A character may come in pieces.
    assert lines(line, b"\xc3") == [] and lines(line, b"\xa9\r") == ["é"]


def test_the_usual_keys_edit_it() -> None:
    line = PromptLine("alpha")
    assert lines(line, b"abc\x7f\x7fx\r") == ["ax"]
    assert lines(line, b"all of it\x15new\r") == ["new"]
    assert lines(line, b"one two\x17three\r") == ["one three"]
    assert lines(line, b"\x1b[A\x1b[A\x1b[B\x1b[B\x1b[A\r") == ["one three"]
    assert lines(line, b"a\x1b[1;5Cb\x1bOHc\x1bxd\r") == ["abcd"]


def test_ctrl_c_interrupts_and_ctrl_d_ends_an_empty_line_alone() -> None:
    line = PromptLine("alpha")
    assert line.feed(b"\x04") == [Key("end")]
    assert line.feed(b"x\x04") == [Key("typing", "x")]
    assert line.feed(b"\x03") == [Key("interrupt")]


@given(st.binary(max_size=300), st.integers(1, 120), st.text(max_size=30))
def test_any_bytes_leave_one_harmless_line_that_fits(raw: bytes, columns: int, who: str) -> None:
    line = PromptLine(who)
    line.hint = who
    line.feed(raw)
    shown = line.shown(columns=columns)
    assert shown.startswith("\r\x1b[2K")
    rest = shown.removeprefix("\r\x1b[2K")
    assert harmless(rest) == rest and "\n" not in rest
    assert harmless(line.text) == line.text


def test_a_line_has_an_end() -> None:
    line = PromptLine("alpha")
    assert len(lines(line, b"x" * (LINE_MAX_CHARS + 10) + b"\r")[0]) == LINE_MAX_CHARS
