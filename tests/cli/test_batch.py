"""What `claw subexec` gathers, and what a command is told: pure, with a clock of the test's own."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.cli.batch import (
    BATCH_MAX_BYTES,
    BATCH_MAX_EVENTS,
    VALUE_MAX_BYTES,
    Batch,
    environment_of,
    message_text,
    stdin_of,
)
from clawnet.cli.lines import Line, TracedLine


def line(payload: object = "hi", number: int = 1) -> Line:
    raw = msgspec.Raw(json.dumps(payload).encode())
    return Line("public.a", "ada", raw, "2026-11-21T00:00:00.000Z", f"evt_{number}", number)


def test_without_options_every_event_is_a_batch() -> None:
    batch = Batch(size=None, pause_s=None)
    batch.add(line(), now_s=0)
    assert batch.is_full and batch.due_in_s(now_s=1_000) is None
    assert batch.take() == [line()] and not batch.is_full and batch.take() == []


def test_a_buffer_is_full_with_so_many_and_never_due_before() -> None:
    batch = Batch(size=3, pause_s=None)
    for number in (1, 2):
        batch.add(line(number=number), now_s=0)
        assert not batch.is_full and batch.due_in_s(now_s=10_000) is None
    batch.add(line(number=3), now_s=0)
    assert batch.is_full
    assert [one.offset for one in batch.take()] == [1, 2, 3]


def test_every_event_puts_off_when_a_batch_is_due() -> None:
    batch = Batch(size=None, pause_s=5.0)
    assert batch.due_in_s(now_s=0) is None
    batch.add(line(), now_s=1)
    assert batch.due_in_s(now_s=5) == 1
    batch.add(line(), now_s=5)
    assert batch.due_in_s(now_s=5) == 5 and batch.due_in_s(now_s=100) == 0
    assert len(batch.take()) == 2 and batch.due_in_s(now_s=100) is None


def test_a_batch_that_waits_for_silence_is_full_at_some_point() -> None:
    batch = Batch(size=None, pause_s=5.0)
    for _ in range(BATCH_MAX_EVENTS - 1):
        batch.add(line(), now_s=0)
    assert not batch.is_full
    batch.add(line(), now_s=0)
    assert batch.is_full
    batch.take()
    batch.add(line("x" * BATCH_MAX_BYTES), now_s=0)
    assert batch.is_full


def test_a_command_reads_a_line_for_each_event() -> None:
    found = stdin_of([line({"a": 1}), line("b", 2)]).decode().splitlines()
    when = "2026-11-21T00:00:00.000Z"
    told = f'"timestamp":"{when}","id":"evt_1","offset":1'
    assert found[0] == f'{{"channel":"public.a","sender":"ada","payload":{{"a": 1}},{told}}}'
    assert json.loads(found[1])["payload"] == "b" and len(found) == 2


def test_the_variables_are_those_of_the_newest_event() -> None:
    base = {"PATH": "/bin", "CLAW_TOKEN": "t", "CLAW_MESSAGE": "of another", "TRACEPARENT": "old"}
    told = environment_of([line("a"), line("b", 2)], base)
    assert told == {
        "PATH": "/bin",
        "CLAW_TOKEN": "t",
        "CLAW_CHANNEL": "public.a",
        "CLAW_SENDER": "ada",
        "CLAW_MESSAGE": "b",
        "CLAW_TIMESTAMP": "2026-11-21T00:00:00.000Z",
        "CLAW_EVENT_ID": "evt_2",
        "CLAW_COUNT": "2",
    }
    traced = TracedLine("c", "s", msgspec.Raw(b"1"), traceparent="00-1-2-00")
    assert environment_of([traced], {})["TRACEPARENT"] == "00-1-2-00"


def test_a_signal_has_neither_time_nor_id() -> None:
    told = environment_of([Line("c", "hub", msgspec.Raw(b"{}"))], {"CLAW_EVENT_ID": "stale"})
    assert told == {
        "CLAW_CHANNEL": "c", "CLAW_SENDER": "hub", "CLAW_MESSAGE": "{}", "CLAW_COUNT": "1",
    }  # fmt: skip


@pytest.mark.parametrize("value", ["a\0b", "x" * (VALUE_MAX_BYTES + 1), "é" * VALUE_MAX_BYTES])
def test_what_no_variable_can_hold_is_left_out_and_never_cut(value: str) -> None:
    told = environment_of([line(value)], {"CLAW_MESSAGE": "stale"})
    assert "CLAW_MESSAGE" not in told and told["CLAW_SENDER"] == "ada"
    assert json.loads(stdin_of([line(value)]))["payload"] == value


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_whatever_comes_can_be_told_to_a_command(value: object) -> None:
    told = environment_of([line(value)], {})
    assert all("\0" not in text for text in told.values())
    expected = value if isinstance(value, str) else json.dumps(value)
    if "\0" not in expected and not any("\ud800" <= char <= "\udfff" for char in expected):
        assert told["CLAW_MESSAGE"] == expected


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b'"a\\nb"', "a\nb"), (b'{"a": 1}', '{"a": 1}'), (b"12", "12"), (b'"\\ud800"', None)],
)
def test_text_is_told_as_it_is_and_all_else_as_json(raw: bytes, text: str | None) -> None:
    assert message_text(msgspec.Raw(raw)) == text
