"""claw trace: the tree as it is drawn."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from clawnet.cli.commands.trace import drawn


def event(seq: int, data: Any = None, *, cause: str | None = None, **more: Any) -> dict[str, Any]:
    made = {
        "seq": seq,
        "id": f"e{seq}",
        "ts": f"2026-01-01T00:00:0{seq % 10}.250Z",
        "channel": "public.a",
        "type": "x.message",
        "actor": {"id": "ada", "handle": "Ada"},
        "data": data,
        **more,
    }
    return made if cause is None else {**made, "causation_id": cause}


def lines(*events: dict[str, Any]) -> list[str]:
    return drawn({"id": "x", "events": list(events)})


def test_a_tree_is_indented_with_the_time_behind_its_beginning() -> None:
    assert lines(
        event(1, "hello"),
        event(2, {"n": 1}, cause="e1"),
        event(3, cause="e2"),
        event(4, "more", cause="e1"),
    ) == [
        "+0.000s  public.a  x.message  ada  hello",
        '  +1.000s  public.a  x.message  ada  {"n": 1}',
        "    +2.000s  public.a  x.message  ada  null",
        "  +3.000s  public.a  x.message  ada  more",
    ]


def test_a_cause_that_is_not_there_has_a_line_of_its_own() -> None:
    assert lines(event(1, cause="evt_x"), event(2, cause="e1"), event(3)) == [
        "(not visible or gone) evt_x",
        "  +0.000s  public.a  x.message  ada  null",
        "    +1.000s  public.a  x.message  ada  null",
        "+2.000s  public.a  x.message  ada  null",
    ]


def test_long_data_and_deep_trees_do_not_fill_the_terminal() -> None:
    chain = [event(1, "x" * 1_000)]
    chain += [event(seq, cause=f"e{seq - 1}") for seq in range(2, 101)]
    found = lines(*chain)
    assert found[0].endswith("x" * 59 + "…")
    assert max(map(len, found)) < 120
    assert found[-1].lstrip().startswith("[99] ")


@given(st.text(max_size=30), st.text(max_size=30))
def test_nothing_of_a_sender_is_obeyed_by_the_terminal(text: str, more: str) -> None:
    wire = json.loads(json.dumps([text, more]))
    hostile = event(
        1,
        {"a": wire[0] + "\x1b[2J\n(not visible or gone)\u202e"},
        cause="\x1b]0;" + wire[1],
        channel="\x9b" + wire[1],
    )
    shown = "\x00".join(lines(hostile)).replace("\x00", "")
    assert not any(char < " " or "\x7f" <= char <= "\x9f" or char == "\u202e" for char in shown)
    assert len(lines(hostile)) == 2
