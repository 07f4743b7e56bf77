"""W3C trace context as it is admitted, and chains of events as a tree, whatever they claim."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.core.trace import (
    Branch,
    Link,
    admit_traceparent,
    chain_keys,
    follow_up,
    trace_id_from,
    trace_id_of,
    tree,
)
from clawnet.testing.drafts import draft

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
GOOD = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("given_text", "kept"),
    [
        (GOOD, GOOD),
        (f" \t{GOOD} ", GOOD),
        (f"00-{TRACE_ID}-00f067aa0ba902b7-00", f"00-{TRACE_ID}-00f067aa0ba902b7-00"),
        # Of a newer version the first four fields count.
        (f"cc-{TRACE_ID}-00f067aa0ba902b7-01-what-comes", GOOD),
        (f"cc-{TRACE_ID}-00f067aa0ba902b7-01", GOOD),
        (None, None),
        ("", None),
        (f"ff-{TRACE_ID}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE_ID}-00f067aa0ba902b7-01-more", None),
        (f"00-{TRACE_ID.upper()}-00f067aa0ba902b7-01", None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE_ID}-{'0' * 16}-01", None),
        (f"00-{TRACE_ID[1:]}-00f067aa0ba902b7-01", None),
        (f"{GOOD}\n", None),
        (f'{GOOD}","data":"', None),
        (f"cc-{TRACE_ID}-00f067aa0ba902b7-01-{'x' * 600}", None),
    ],
)
def test_a_traceparent_is_kept_or_ignored(given_text: str | None, kept: str | None) -> None:
    assert admit_traceparent(given_text) == kept


@given(
    st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{30,33}-[0-9a-f]{16}-[0-9a-f]{2}")
)
def test_what_is_kept_can_stand_in_an_envelope(text: str) -> None:
    kept = admit_traceparent(text)
    assert kept is None or re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", kept)


def test_a_trace_is_named_by_its_id_or_a_whole_traceparent() -> None:
    assert trace_id_from(TRACE_ID) == trace_id_from(GOOD) == trace_id_of(GOOD) == TRACE_ID
    for text in ("", "0" * 32, TRACE_ID.upper(), TRACE_ID + "0", "evt_1", GOOD[:-1]):
        assert trace_id_from(text) is None


def test_only_events_of_a_chain_have_keys() -> None:
    assert chain_keys(draft()) == ()
    assert chain_keys(draft(correlation_id="c")) == ("c:c",)
    assert chain_keys(draft(traceparent=GOOD)) == (f"t:{TRACE_ID}",)
    both = draft(correlation_id=TRACE_ID, traceparent=GOOD)
    assert chain_keys(both) == (f"c:{TRACE_ID}", f"t:{TRACE_ID}")


def test_what_follows_takes_over_the_chain_or_begins_one() -> None:
    first = follow_up(b'{"seq":1,"id":"evt_1","data":{"correlation_id":"no"}}')
    assert (first.correlation_id, first.causation_id, first.traceparent) == ("evt_1", "evt_1", None)
    body = f'{{"seq":2,"id":"evt_2","correlation_id":"c","traceparent":"{GOOD}","data":1}}'
    second = follow_up(body.encode())
    assert (second.correlation_id, second.causation_id) == ("c", "evt_2")
    assert second.traceparent == GOOD


# --- the tree ---------------------------------------------------------------


def link(seq: int, *, cause: str | None = None, chain: str | None = None) -> Link:
    return Link(seq=seq, id=f"e{seq}", causation_id=cause, correlation_id=chain)


def drawn(*links: Link) -> list[tuple[int, int, str | None]]:
    return [(branch.seq, branch.depth, branch.absent) for branch in tree(links)]


def test_an_event_hangs_below_its_cause_and_siblings_come_by_seq() -> None:
    links = [
        link(5, cause="e2"),
        link(1),
        link(4, cause="e1"),
        link(3, cause="e2"),
        link(2, cause="e1", chain="e1"),
    ]
    assert drawn(*links) == [(1, 0, None), (2, 1, None), (3, 2, None), (5, 2, None), (4, 1, None)]


def test_without_a_cause_it_hangs_below_the_event_whose_id_names_the_chain() -> None:
    links = [link(1, chain="e1"), link(2, chain="e1"), link(3, chain="job")]
    assert drawn(*links) == [(1, 0, None), (2, 1, None), (3, 0, None)]


def test_a_cause_that_is_not_there_is_named() -> None:
    assert drawn(link(1, cause="gone", chain="c"), link(2, cause="e1")) == [
        (1, 0, "gone"),
        (2, 1, None),
    ]


def test_who_claims_to_be_caused_by_itself_or_by_what_comes_later_is_a_root() -> None:
    assert drawn(link(1, cause="e1")) == [(1, 0, None)]
    assert drawn(link(1, cause="e2"), link(2, cause="e1")) == [(1, 0, None), (2, 1, None)]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=12))
def test_whatever_is_claimed_each_event_is_shown_once_behind_its_cause(
    claims: list[tuple[int, int]],
) -> None:
    links = [
        link(seq, cause=f"e{cause}" if cause else None, chain=f"e{chain}" if chain else None)
        for seq, (cause, chain) in enumerate(claims, 1)
    ]
    branches = tree(links)
    assert sorted(branch.seq for branch in branches) == [one.seq for one in links]
    path: list[Branch] = []
    by_seq = {one.seq: one for one in links}
    for branch in branches:
        del path[branch.depth :]
        assert len(path) == branch.depth
        if path:
            parent, one = path[-1], by_seq[branch.seq]
            assert parent.seq < branch.seq
            assert f"e{parent.seq}" in (one.causation_id, one.correlation_id)
        path.append(branch)


def test_a_chain_may_be_as_deep_as_it_has_events() -> None:
    links = [link(seq, cause=f"e{seq - 1}") for seq in range(1, 5_001)]
    assert tree(links)[-1].depth == 4_999
