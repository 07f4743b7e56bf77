"""Marks against a set of offsets, under any history of acknowledgements."""

from __future__ import annotations

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from clawnet.features.inbox.marks import Marks, merged

SPANS = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 6)).map(lambda pair: (pair[0], sum(pair))),
    max_size=6,
)
EMPTY = Marks(world="main", account="ada", channel="agent.ada.inbox", epoch="e.1")


def offsets(spans: list[tuple[int, int]]) -> set[int]:
    return {offset for first, last in spans for offset in range(first, last + 1)}


@given(st.lists(SPANS, max_size=5), st.integers(1, 50), st.integers(0, 50), st.integers(0, 50))
@example([[(1, 3)], [(5, 5)], [(4, 4)]], 1, 50, 4)
@example([[(2, 3), (7, 9)]], 3, 8, 8)
def test_marks_are_a_set_of_offsets(
    acks: list[list[tuple[int, int]]], first: int, last: int, good: int
) -> None:
    marks, acked = EMPTY, set()
    for spans in acks:
        marks = marks.adding(spans)
        acked |= offsets(spans)
    assert {n for n in range(1, 60) if marks.has(n)} == acked
    unread = marks.unread(first, last)
    assert offsets(unread) == set(range(first, last + 1)) - acked
    assert marks.count(first, last) == len(offsets(unread))
    # As few spans as there can be, in order: what is stored stays small.
    for spans in (unread, list(marks.ranges)):
        assert merged(spans) == spans
    assert not marks.ranges or marks.ranges[0][0] > marks.floor + 1
    cut = marks.cut(good, epoch="f.1")
    assert {n for n in range(1, 60) if cut.has(n)} == {n for n in acked if n <= good}
    assert cut.epoch == "f.1" and cut.adding([]) == cut
    assert msgspec.json.decode(msgspec.json.encode(marks), type=Marks) == marks
    assert marks.adding([span for spans in acks for span in spans]) == marks
