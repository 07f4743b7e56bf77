"""Patches in Fossil's format: right, valid text, small, and made within a bound."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.doors.centrifugo import fossil
from tests.doors.centrifugo.patched import DIGITS, Patched


def patched(source: str, target: str) -> Patched:
    """A patch between two texts, applied, and seen to be right and text itself."""
    patch = fossil.create(source.encode(), target.encode(), is_text=True)
    patch.decode()
    done = Patched(source.encode(), patch)
    assert done.target == target.encode()
    return done


def test_a_known_patch_is_read_as_the_format_says() -> None:
    """Made by hand: 18 bytes; copy 6 from 0, insert "brave ", copy 6 from 6."""
    source, target = b"hello world!", b"hello brave world!"
    total = sum(int.from_bytes((target + b"\0\0")[i : i + 4], "big") for i in range(0, 20, 4))
    total %= 2**32
    checksum = ""
    while total:
        total, digit = divmod(total, 64)
        checksum = DIGITS[digit] + checksum
    patch = b"I\n6@0,6:brave 6@6," + checksum.encode() + b";"

    assert Patched(source, patch).target == target


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("", ""),
        ("", "a"),
        ("a", ""),
        ("a" * 100, "a" * 100),
        ("a" * 100, "a" * 99),
        ("a" * 99, "a" * 100),
        ("é" * 50, "è" * 50),
        ("x" + "é" * 50, "é" * 50 + "x"),
        ("0" * 63, "0" * 64),
        ("é" + "x" * 40, "ĩ" + "x" * 40),
        ("x" * 40 + "é", "x" * 40 + "è"),
        ("a" * 20 + "é" + "x" * 40 + "b" * 20, "c" * 20 + "ĩ" + "x" * 40 + "d" * 20),
    ],
    ids=range(12),
)
def test_texts_of_every_simple_kind_are_made(source: str, target: str) -> None:
    patched(source, target)


def test_what_did_not_change_costs_a_few_bytes() -> None:
    assert len(fossil.create(b"x" * 10_000, b"x" * 10_000, is_text=True)) < 25


texts = st.text(st.sampled_from('ab{}:,"é✓🎉\n'), max_size=300)


@given(texts, texts)
def test_any_text_is_made_of_any_other(source: str, target: str) -> None:
    patched(source, target)


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_any_bytes_are_made_of_any_others(source: bytes, target: bytes) -> None:
    patch = fossil.create(source, target, is_text=False)

    assert Patched(source, patch).target == target


@given(
    st.text(min_size=50, max_size=600),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 40), st.text(max_size=20)), max_size=8),
)
def test_an_edited_text_is_made_of_the_one_before(
    source: str, edits: list[tuple[int, int, str]]
) -> None:
    target = source
    for at, removed, inserted in edits:
        target = target[:at] + inserted + target[at + removed :]

    patched(source, target)


@given(
    st.lists(st.sampled_from(["é", "è", "ë", "漢", "漣", "🎉", "🎊", "a"]), max_size=200), st.data()
)
def test_a_code_point_is_never_cut(letters: list[str], data: st.DataObject) -> None:
    """Neighbours in the table share their first bytes, so that common ends lie inside of them."""
    other = [data.draw(st.sampled_from([a, "è", "漣", "🎊"])) for a in letters[:60]] + letters[60:]

    patched("".join(letters), "".join(other))


def document(chance: random.Random, rows: int) -> list[dict[str, Any]]:
    return [
        {"id": i, "name": f"agent-{chance.randrange(999)}", "load": chance.random(), "at": "çà"}
        for i in range(rows)
    ]


def text(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, ensure_ascii=False)


@pytest.mark.parametrize("rows", [20, 100, 500])
def test_many_edits_are_many_pieces_and_much_smaller_than_the_text(rows: int) -> None:
    chance = random.Random(rows)
    before = document(chance, rows)
    source = text(before)
    for row in before[:: rows // 10]:
        row["load"] = chance.random()
    before.insert(rows // 2, {"id": "new", "name": "in the middle"})
    del before[rows // 3]
    target = text(before)

    done = patched(source, target)
    patch = fossil.create(source.encode(), target.encode(), is_text=True)

    assert done.copies >= 10
    assert done.inserts >= 10
    assert len(patch) < 0.45 * len(target) * 20 / rows + 200


def test_rows_that_moved_are_copied() -> None:
    rows = document(random.Random(7), 40)
    source, target = text(rows), text(rows[20:] + rows[:20])

    done = patched(source, target)

    assert done.copies >= 2
    assert len(fossil.create(source.encode(), target.encode(), is_text=True)) < len(target) / 10


class CountingBytes(bytes):
    """Counts the pieces that are cut out of it: the search's steps."""

    cut = 0

    def __getitem__(self, key: Any) -> Any:
        type(self).cut += 1
        return super().__getitem__(key)


@pytest.mark.parametrize("kind", ["unlike", "shuffled", "of one letter", "of two letters"])
def test_the_work_is_bounded_whatever_the_texts(kind: str) -> None:
    """Counted, not timed: the pieces cut out of either text."""
    chance = random.Random(1)
    size = fossil.SOURCE_MAX_BYTES
    source = chance.randbytes(size)
    if kind == "unlike":
        target = chance.randbytes(size)
    elif kind == "shuffled":
        blocks = [source[i : i + 40] for i in range(0, size, 40)]
        chance.shuffle(blocks)
        target = b"".join(blocks)
    elif kind == "of one letter":
        source, target = b"a" * size, (b"a" * 20 + b"b") * (size // 21)
    else:
        source, target = (b"a" * 15 + b"b") * (size // 16), (b"a" * 20 + b"b") * (size // 21)
    CountingBytes.cut = 0

    patch = fossil.create(CountingBytes(source), CountingBytes(target), is_text=False)

    assert Patched(source, patch).target == target
    assert CountingBytes.cut < size / 16 + 3 * fossil.STEPS_MAX


def test_what_is_long_is_not_searched_but_its_ends_are_found() -> None:
    chance = random.Random(2)
    source = chance.randbytes(fossil.SOURCE_MAX_BYTES + 1)
    middle = source[5_000:5_100]
    target = source[:30_000] + b"new" + middle + source[30_000:]

    done = Patched(source, fossil.create(source, target, is_text=False))

    assert (done.target, done.copies, done.inserts) == (target, 2, 1)


def test_an_edit_costs_its_own_bytes_and_a_few_for_the_pieces_around_it() -> None:
    """Copies are grown to both sides, up to the edit itself."""
    letters = random.Random(3).randbytes(3_000).hex()
    target = letters
    for at in range(200, 5_800, 500):
        target = target[:at] + "!" + target[at + 1 :]

    done = patched(letters, target)

    assert (done.copies, done.inserts) == (13, 12)
    assert len(fossil.create(letters.encode(), target.encode(), is_text=True)) < 12 * 13 + 20


def test_of_places_that_look_alike_the_one_that_goes_on_is_copied() -> None:
    """Rows repeat; what follows an edit mostly stood behind the same text before."""
    rows = [f"| a row like all the others, but for its number {n:05} " for n in range(300)]
    source = "".join(rows)
    for at in range(10, 300, 30):
        rows[at] = rows[at].replace("others", "author")
    target = "".join(rows)

    done = patched(source, target)

    assert (done.copies, done.inserts) == (11, 10)
