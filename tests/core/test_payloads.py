"""What may become an event's data. Whatever passes here is spliced into frames of all doors."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.core.errors import ClawError, InvalidData, PayloadTooLarge
from clawnet.core.payloads import DATA_MAX_BYTES, DEPTH_MAX, admit


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"nul",
        b"{",
        b'{"a":1,}',
        b"[1,]",
        b"{'a':1}",
        b'{"a" 1}',
        b"1 2",
        b'"a" "b"',
        b"{}{}",
        b"{}\n{}",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"[NaN]",
        b"01",
        b"+1",
        b"1.",
        b".5",
        b"0x10",
        b"// c\n1",
        b"\xef\xbb\xbf1",
        b'"\x00"',
        b'"a\nb"',
        b'"a\rb"',
        b'"a\tb"',
        b'"\\x41"',
        b'"\\u12"',
        b'"unended',
        b"\x00",
    ],
    ids=repr,
)
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidData):
        admit(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'"\xff"',
        b'"\xc3"',
        b'"\xc0\xaf"',
        b'"\xed\xa0\x80"',
        b'"\xf5\x80\x80\x80"',
        b'{"\xff":1}',
        b'[1,"\x80"]',
        b'"\xe2\x28\xa1"',
    ],
    ids=repr,
)
def test_what_is_not_utf8_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidData):
        admit(raw)


@pytest.mark.parametrize("raw", [b'"\\ud800"', b'"\\udc00"', b'"\\ud800x"', b'{"\\udfff":1}'])
def test_a_lone_surrogate_is_refused(raw: bytes) -> None:
    """Some parsers of readers take it and some do not, so it would poison the channel."""
    with pytest.raises(InvalidData):
        admit(raw)


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert json.loads(admit(b'"\\ud83d\\ude00"')) == "😀"


@pytest.mark.parametrize(
    "number",
    [
        "1e400",
        "-1e400",
        "1E309",
        "1" + "0" * 309,
        "-1" + "0" * 400,
        "9" * 309,
        "1.8e308",
        "1" * 5000,
        "1" + "0" * 309 + ".0",
        "2" + "0" * 308,
        "1" * 310 + "e0",
        "0.1e310",
        "1" + "0" * 400 + "e5",
    ],
)
@pytest.mark.parametrize("form", ["{}", "[{}]", '{{"a":{{"b":[1,{}]}}}}', '["x", {} ]'])
def test_a_number_outside_the_range_of_a_double_is_refused(number: str, form: str) -> None:
    with pytest.raises(InvalidData):
        admit(form.format(number).encode())


@pytest.mark.parametrize(
    "number",
    [
        "1.7976931348623157e308",
        "-1.7976931348623157e308",
        "1" + "0" * 308,
        "0",
        "-0",
        "5e-324",
        "1e-400",
        "0.000",
        "1" + "0" * 400 + "e-200",
        "123456789012345678901234567890",
    ],
)
def test_a_number_within_the_range_of_a_double_passes(number: str) -> None:
    assert admit(number.encode()) == number


def test_many_digits_in_a_string_are_no_number() -> None:
    text = json.dumps("9" * 400)
    assert admit(text.encode()) == text
    text = json.dumps({"9" * 400: 1})
    assert admit(text.encode()) == text


@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_64_levels_pass_and_65_do_not(opening: str, closing: str) -> None:
    step = len(opening) - opening.count('"a":') * 4
    n = DEPTH_MAX // step
    admit((opening * n + "1" + closing * n).encode())
    too_deep = opening * n + "[1]" + closing * n
    with pytest.raises(InvalidData, match="64"):
        admit(too_deep.encode())


@pytest.mark.parametrize(
    "raw", [b"[" * 65_000, b"{" * 65_000, b'{"a":' * 13_000, b"[" * 30_000 + b"]" * 30_000]
)
def test_a_depth_bomb_is_refused_and_does_no_harm(raw: bytes) -> None:
    with pytest.raises(InvalidData):
        admit(raw)


def test_breadth_is_not_depth() -> None:
    wide = "[" + ",".join(["[]"] * 500) + "]"
    assert admit(wide.encode()) == wide


@pytest.mark.parametrize("inside", ["[" * 100, "{" * 100, '\\"' + "[" * 100, "\\\\" + "{" * 99])
def test_brackets_inside_strings_are_not_depth(inside: str) -> None:
    text = f'{{"a":"{inside}"}}'
    assert admit(text.encode()) == text


def test_an_escaped_quote_does_not_hide_depth() -> None:
    text = '["\\\\",' * 40 + "1" + "]" * 40
    assert admit(text.encode()) == text
    with pytest.raises(InvalidData):
        admit(('["\\\\",' * 65 + "1" + "]" * 65).encode())


def test_line_ends_between_tokens_are_removed() -> None:
    """A raw line end would end the frame on line-based doors and begin a forged one."""
    raw = b'{\r\n\t"a":\n[1,\r\n2]\t}\n'
    assert admit(raw) == '{"a":[1,2]}'


def test_a_forged_frame_stays_inside_its_own() -> None:
    raw = b"1\n\n"
    assert admit(raw) == "1"
    with pytest.raises(InvalidData):
        admit(b'1}\n{"seq":9,"channel":"system.accounts"')


def test_escaped_line_ends_are_kept_as_they_are() -> None:
    assert admit(b'"a\\n\\r\\tb"') == '"a\\n\\r\\tb"'


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\u00a0", "\ufeff"])
def test_unicode_line_separators_in_strings_are_data(separator: str) -> None:
    """They end no line on any door: frames are split at byte 10 only."""
    text = json.dumps(f"a{separator}b", ensure_ascii=False)
    assert json.loads(admit(text.encode())) == f"a{separator}b"
    assert b"\n" not in admit(text.encode()).encode()


def test_the_limit_is_inclusive_and_named() -> None:
    at_limit = b'"' + b"x" * (DATA_MAX_BYTES - 2) + b'"'
    assert len(admit(at_limit)) == DATA_MAX_BYTES
    with pytest.raises(PayloadTooLarge) as caught:
        admit(at_limit + b" ")
    assert caught.value.facts["limit_bytes"] == DATA_MAX_BYTES
    with pytest.raises(PayloadTooLarge):
        admit(b"[1]", max_bytes=2)


def test_the_limit_counts_bytes() -> None:
    with pytest.raises(PayloadTooLarge):
        admit('"ééé"'.encode(), max_bytes=7)
    admit('"ééé"'.encode(), max_bytes=8)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=5)
    ),
    max_leaves=20,
)
SPACE = st.sampled_from([None, 1, "\t", "\n", "\r\n "])


@given(VALUES, SPACE, st.booleans())
def test_what_json_can_say_passes_unchanged_on_one_line(
    value: Any, indent: Any, is_ascii: bool
) -> None:
    raw = json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode()
    text = admit(raw, max_bytes=10_000_000)
    assert json.loads(text) == value
    assert not {"\n", "\r", "\t"} & set(text)


FRAGMENTS = st.lists(
    st.sampled_from(
        [
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b'"',
            b"\\",
            b"\\u",
            b"d800",
            b"1",
            b"-",
            b"e",
            b".",
            b"\n",
            b"\r",
            b"\t",
            b" ",
            b"null",
            b"true",
            b'"a"',
            b"\xff",
            b"\xe2\x80\xa8",
            b"9" * 310,
            b"[" * 65,
            b"]" * 65,
            b"e400",
            b"\x00",
            b"\x1f",
            b"\xc3\xa9",
        ]
    ),
    max_size=30,
).map(b"".join)


@given(st.binary(max_size=80) | FRAGMENTS)
def test_any_bytes_are_admitted_whole_or_refused_with_a_documented_error(raw: bytes) -> None:
    try:
        text = admit(raw)
    except (InvalidData, PayloadTooLarge) as error:
        assert isinstance(error, ClawError)
        return
    line = text.encode()
    assert not set(b"\r\n\t") & set(line)
    value = json.loads(text)
    assert value == msgspec.json.decode(raw)
    assert all(math.isfinite(number) for number in _floats(value))


def _floats(value: Any) -> list[float]:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return []
    if isinstance(value, int | float):
        return [float(value)]
    items = value if isinstance(value, list) else list(value.values())
    return [number for item in items for number in _floats(item)]
