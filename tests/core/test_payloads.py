"""What may become an event's data. Whatever passes here is spliced into frames of all doors."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.core import payloads
from clawnet.core.errors import ClawError, InvalidData, PayloadTooLarge
from clawnet.core.events import content_digest
from clawnet.core.payloads import DATA_MAX_BYTES, DEPTH_MAX, DIGITS_PLAIN_MAX, admit, value_of


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


# --- numbers that take msgspec long ------------------------------------------

SLOW = [
    "1e100", "1e300", "1E308", "1e+308", "-1e-308", "5e-324", "1e-400", "1e0000308",
    "1.7976931348623157e308", "1" * (DIGITS_PLAIN_MAX + 1), "0." + "0" * 18 + "1",
    "9007199254740993." + "0" * 20 + "1", "1" + "0" * 308 + ".0", "1" * 800 + "e-500",
]  # fmt: skip
"""msgspec takes up to 9 µs for one of these; see DIGITS_PLAIN_MAX."""


@pytest.fixture
def no_slow_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is given to the decoder that is slow for some numbers."""

    def refuse(raw: bytes) -> None:
        raise AssertionError(f"decoded as if it were plain: {raw[:40]!r}")

    monkeypatch.setattr(payloads, "_read", refuse)


@pytest.mark.usefixtures("no_slow_path")
@pytest.mark.parametrize("number", SLOW)
@pytest.mark.parametrize("form", ["{}", "[1,{}]", '{{"a":[{{"b":{}}}],"c":2}}'])
def test_a_number_that_takes_long_is_read_another_way(number: str, form: str) -> None:
    text = form.format(number)
    assert admit(text.encode()) == text
    value_of(text)


@pytest.mark.usefixtures("no_slow_path")
@pytest.mark.parametrize("number", ["1e400", "-1e309", "9" * 309, "9" * 400 + ".5", "0.1e310"])
def test_the_other_way_refuses_what_the_plain_one_refuses(number: str) -> None:
    for text in (number, f"[1e300,{number}]", f'{{"a":"b","c":{number}}}'):
        with pytest.raises(InvalidData, match="range"):
            admit(text.encode())


def test_what_is_usual_goes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "_read_slow_numbers", None)
    plain = [0, -1, 2**63, 1.5, 0.1 + 0.2, 1e22, 1e99, -1e-99, "text", {"a": [None, True]}]
    for value in plain:
        assert value_of(json.dumps(value)) == value


NUMBERS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-"]),
    st.integers(0, 10**25).map(str) | st.sampled_from(["1" * 308, "9007199254740993", "4" * 900]),
    st.sampled_from(["", ".5", ".0", "." + "0" * 30 + "1", "." + "7" * 400]),
    st.integers(-1_100, 400).map("e{}".format) | st.sampled_from(["", "e0000308", "E+7", "e-0"]),
)


def _plainly(raw: bytes) -> Any:
    """What msgspec alone says; it takes integers of any size."""
    value = msgspec.json.decode(raw)
    for number in value:
        float(number)
    return value


@given(st.lists(NUMBERS, min_size=1, max_size=4))
def test_a_number_is_the_same_value_both_ways(numbers: list[str]) -> None:
    text = f"[{','.join(numbers)}]"
    try:
        expected = _plainly(text.encode())
    except (msgspec.DecodeError, OverflowError):
        with pytest.raises(InvalidData):
            admit(text.encode())
        return
    assert admit(text.encode()) == text
    assert repr(value_of(text)) == repr(expected)
    assert payloads._read_slow_numbers(text.encode()) == expected


def test_content_is_compared_without_the_slow_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    monkeypatch.setattr(payloads, "_read_slow_numbers", read.append)
    content_digest(type="x.a", data="[1e308]")
    assert read == [b"[1e308]"]


def test_a_key_that_came_before_the_other_way_is_still_the_same_content() -> None:
    text = '{"b":[1e308,5e-324,1.5],"a":123456789012345678901234567890}'
    canonical = msgspec.json.encode(msgspec.json.decode(text), order="sorted")
    again = canonical.decode()
    assert content_digest(type="x.a", data=text) == content_digest(type="x.a", data=again)
    assert msgspec.json.encode(value_of(text), order="sorted") == canonical


def test_a_long_run_of_digits_is_looked_at_from_its_start_only() -> None:
    """From every digit on, it would be as many times its length: 15 ms for 64 KiB."""
    assert payloads._LONG_NUMBERS.findall(b"1" * 400 + b",-" + b"2" * 310) == [
        b"1" * 400, b"-" + b"2" * 310,
    ]  # fmt: skip
    assert payloads._LONG_NUMBERS.pattern.startswith(b"(?<![")


@pytest.mark.parametrize(
    "raw", [b'["\\"' * 70, b'["' + b'\\"' * 500, b"[" * 70 + b'"\\', b"]" * 70]
)
def test_text_with_an_open_end_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidData):
        admit(raw + b"[" * 70)
    with pytest.raises(InvalidData):
        admit(raw)


# --- calls that hold numbers outside of data ---------------------------------

HUGE = ",".join(["1e308"] * 900)
LADEN = {
    "the same member again and again": '{"expect":{' + ",".join(['"within":1e308'] * 400) + "}}",
    "in each event": '{"events":[' + ",".join(['{"within":1e-308,"data":1}'] * 400) + "]}",
    "data again and again": '{"a":1,' + ",".join(['"data":1e308'] * 400) + "}",
    "no JSON in the end": '{"expect":{' + ",".join(['"within":1e308'] * 400),
    "beside much data": f'{{"data":[{HUGE}],"a":[{HUGE}]}}',
    "no object": f"[{HUGE}]",
}
FREE = {
    "in data": f'{{"channel":"a","data":[{HUGE}]}}',
    "in a payload": f'{{"channel":"a","payload":[{HUGE}]}}',
    "in a schema": f'{{"schema":{{"enum":[{HUGE}]}}}}',
    "in the data of events": f'{{"events":[{{"data":[{HUGE}]}},{{"data":[{HUGE}]}}]}}',
    "in a string": f'{{"expect":"{HUGE}"}}',
    "in strings of a list": f'["{HUGE}"]',
    "64": '{"pad":"' + "x" * 5_000 + '","a":[' + ",".join(["1e308"] * 64) + "]}",
    "plain numbers": '{"a":[' + ",".join(["1e99"] * 2_000) + "]}",
    "a short text": '{"a":[' + ",".join(["1e308"] * 100) + "]}",
}


@pytest.mark.parametrize("what", sorted(LADEN))
def test_a_call_that_is_laden_with_numbers_beside_its_data_is_found(what: str) -> None:
    assert payloads.is_laden(LADEN[what].encode())


@pytest.mark.parametrize("what", sorted(FREE))
def test_what_data_and_strings_hold_is_free(what: str) -> None:
    assert not payloads.is_laden(FREE[what].encode())


def test_one_number_more_than_is_free_is_too_many() -> None:
    text = FREE["64"]
    assert payloads.is_laden(text.replace("1e308]", "1e308,1e308]").encode())
