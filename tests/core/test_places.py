"""Ids, cursors, `since`, and what a position still means after a restore."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.core.cursors import AfterOffset, Ago, Cursor, parse_cursor, parse_since
from clawnet.core.errors import BadRequest
from clawnet.core.ids import event_id, event_id_prefix, salt_of, seq_from_id
from clawnet.core.positions import EpochStart, Resolved, branch_of, resolve

SEQS = st.integers(0, 2**48 - 1)
TIMES = st.integers(0, 2**48 - 1)
SALTS = st.integers(0, 2**26 - 1)


@given(ts_ms=TIMES, seq=SEQS, salt=SALTS)
def test_an_id_is_a_uuid7_that_holds_its_time_and_seq(ts_ms: int, seq: int, salt: int) -> None:
    text = event_id(ts_ms=ts_ms, seq=seq, salt=salt)
    assert text.startswith("evt_")
    parsed = uuid.UUID(text[4:])
    assert str(parsed) == text[4:]
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == ts_ms
    assert seq_from_id(text) == seq
    assert text == event_id_prefix(ts_ms=ts_ms, salt=salt) + f"{seq:012x}"


@given(st.tuples(TIMES, SEQS, SALTS), st.tuples(TIMES, SEQS, SALTS))
def test_ids_differ_if_anything_differs(
    one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    ids = [event_id(ts_ms=t, seq=s, salt=x) for t, s, x in (one, other)]
    assert (ids[0] == ids[1]) is (one == other)


@given(st.text(max_size=60) | st.text("0123456789abcdef-evt_78", max_size=45))
def test_other_text_is_no_id(text: str) -> None:
    seq = seq_from_id(text)
    assert seq is None or 0 <= seq < 2**48


@pytest.mark.parametrize("spoil", ["{}\n", " {}", "{}0", "x{}", "{}-"])
def test_an_id_with_anything_around_it_is_none(spoil: str) -> None:
    assert seq_from_id(spoil.format(event_id(ts_ms=1, seq=2, salt=3))) is None


def test_two_epochs_have_different_salts_of_26_bits() -> None:
    salts = {salt_of(f"epoch{n}") for n in range(200)}
    assert len(salts) == 200
    assert all(0 <= salt < 2**26 for salt in salts)


@given(st.from_regex(r"[0-9a-z]{1,32}", fullmatch=True), st.integers(0, 10**15 - 1))
def test_a_cursor_comes_back_as_it_was_given(epoch: str, seq: int) -> None:
    cursor = Cursor(epoch, seq)
    assert parse_cursor(str(cursor)) == cursor
    assert parse_since(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "e-",
        "-1",
        "e-x",
        "E-1",
        "e--1",
        "e-1\n",
        "e-1.0",
        "e-" + "1" * 16,
        "e" * 33 + "-1",
        "e-١",
        "٣",
        "1.5",
        "-5",
        "+5",
        "5x",
        "m",
        "10 m",
        "5w",
        "ALL",
        "all ",
        "1e3",
        "9" * 16,
        "10m\n",
        "1h30m",
        "0x10",
        "é",
        "\x00",
        "9" * 10 + "s",
    ],
    ids=ascii,
)
def test_what_is_no_position_is_a_bad_request(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_since(text)


@pytest.mark.parametrize(
    "text, since",
    [
        ("all", AfterOffset(0)),
        ("0", AfterOffset(0)),
        ("120", AfterOffset(120)),
        ("0ms", Ago(0)),
        ("250ms", Ago(250)),
        ("10s", Ago(10_000)),
        ("10m", Ago(600_000)),
        ("2h", Ago(7_200_000)),
        ("3d", Ago(259_200_000)),
        ("abc-7", Cursor("abc", 7)),
    ],
)
def test_a_since_is_read(text: str, since: object) -> None:
    assert parse_since(text) == since


@given(st.text(max_size=50))
def test_any_text_is_a_position_or_a_bad_request(text: str) -> None:
    for parse in (parse_since, parse_cursor):
        try:
            parse(text)
        except BadRequest as error:
            assert error.message.isascii()


LINEAGE = (EpochStart("a", 1), EpochStart("b", 51), EpochStart("c", 31))
"""b was restored to 50, c to 30: of a and of b only what lies up to 30 still holds."""


@pytest.mark.parametrize(
    "cursor, seq, lost",
    [
        (Cursor("a", 0), 0, None),
        (Cursor("a", 30), 30, None),
        (Cursor("a", 31), 30, (31, 31)),
        (Cursor("a", 45), 30, (31, 45)),
        (Cursor("b", 30), 30, None),
        (Cursor("b", 70), 30, (31, 70)),
        (Cursor("c", 60), 60, None),
        (Cursor("c", 80), 80, None),
        (Cursor("c", 81), 80, (81, 81)),
        (Cursor("foreign", 0), 0, None),
        (Cursor("foreign", 9), 0, (1, 9)),
    ],
)
def test_a_cursor_over_restores(cursor: Cursor, seq: int, lost: tuple[int, int] | None) -> None:
    assert resolve(cursor, epochs=LINEAGE, last_seq=80) == Resolved(seq, lost)


@given(
    st.lists(st.integers(1, 100), max_size=6),
    st.integers(0, 6),
    st.integers(0, 120),
    st.integers(0, 120),
)
def test_a_position_holds_exactly_if_no_later_restore_cut_below_it(
    cuts: list[int], index: int, seq: int, last_seq: int
) -> None:
    epochs = [EpochStart("e0", 1)] + [EpochStart(f"e{n + 1}", cut) for n, cut in enumerate(cuts)]
    index = min(index, len(cuts))
    last_seq = max(last_seq, *(start.first_seq - 1 for start in epochs))
    resolved = resolve(Cursor(f"e{index}", seq), epochs=epochs, last_seq=last_seq)
    is_good = seq <= last_seq and all(seq < start.first_seq for start in epochs[index + 1 :])
    assert (resolved.lost is None) is is_good
    assert resolved.seq <= seq
    if resolved.lost is not None:
        assert resolved.lost == (resolved.seq + 1, seq)
    assert branch_of(f"e{index}", epochs=epochs, last_seq=last_seq) >= resolved.seq
