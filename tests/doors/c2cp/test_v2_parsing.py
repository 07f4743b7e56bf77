"""Whatever a client says ends in an answer: of all that may come, only documented errors do."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawnet.app.clocks import SystemRandomness
from clawnet.core.errors import BadRequest, ClawError, Unauthenticated
from clawnet.core.marks import ABOVE_MAX, CHANNELS_MAX, Marks
from clawnet.doors.socketio import v2_requests as requests
from clawnet.doors.socketio.acks import OFFSET_MAX, Numbers, Place
from clawnet.doors.socketio.handshake import read_auth
from clawnet.doors.socketio.packets import bounds
from clawnet.doors.ws.frames import text_frame
from tests.doors.c2cp.conftest import Enter

NAMES = (
    "token auth_token agent_id role specs agent_metadata system_stats protocol capabilities world "
    "since to_type to_id payload text dedupe_key id channel offset epoch limit room topic private "
    "status is_typing to kind command args timeout_s task_id fence output piece digest error "
    "resource_usage cron_snapshot sessions causation_id correlation_id exit_code agent history"
).split()
WORDS = ["global", "room", "dm", "online", "running", "completed", "1", "2", "*", "../x", "", "\n"]
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    plain | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=6)
    ),
    max_leaves=12,
)
STRUCTS = [
    kind
    for kind in vars(requests).values()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
]


@settings(max_examples=150)
@given(values)
def test_every_auth_is_understood_or_refused(auth: Any) -> None:
    try:
        asked = read_auth(auth)
    except (BadRequest, Unauthenticated) as error:
        assert error.message.isprintable()
        return
    assert asked.version in (1, 2)


@settings(max_examples=150)
@given(st.lists(values, max_size=2))
def test_every_event_is_understood_or_refused(args: list[Any]) -> None:
    for kind in STRUCTS:
        try:
            requests.read(args, kind)
        except BadRequest as error:
            assert error.message.isprintable()


async def test_no_event_ends_in_a_defect(enter: Enter) -> None:
    ada = await enter("ada")
    strange: list[Any] = [
        {},
        {"payload": {"text": "x", "n": 2**70, "f": 1e308, "deep": [[[[{}]]]]}},
        {"payload": {"text": "\x00\ud7ff\u2028"}, "dedupe_key": "\n", "to_id": "\n"},
        {"to": ["x"] * 5, "command": "", "args": 2**70, "room": "\n", "timeout_s": -1.0},
        {"to": "all", "command": "x", "timeout_s": 1e300},
        {"room": "x" * 300, "agent": "@", "status": "running", "task_id": "../x", "fence": 1},
        {"channel": "room.\n", "offset": 2**53, "epoch": "../..", "limit": 1, "id": "evt_x"},
        {"status": "idle", "text": "\n" * 100, "resource_usage": {"x": 2**70}, "sessions": [1e9]},
        {"task_id": "t", "fence": 2**53, "status": "completed", "output": "x" * 100_000},
        {"is_typing": True, "to_type": "dm", "to_id": "dm.a.b"},
    ]
    for name in ada.talk.dialect.handlers:  # type: ignore[attr-defined]
        for data in strange:
            answer = await ada.call(name, data)
            assert isinstance(answer["ok"], bool)
            if not answer["ok"]:
                assert answer["error"]["code"] not in ("internal", "unauthenticated"), (name, data)


@given(st.lists(st.binary(max_size=300) | st.just(b"x" * 70_000), max_size=6))
@settings(max_examples=50)
def test_joined_frames_are_taken_apart_as_they_were_joined(payloads: list[bytes]) -> None:
    joined = b"".join(map(text_frame, payloads))
    assert [joined[start:end] for _, start, end in bounds(joined)] == payloads


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(0, 40))
@settings(max_examples=100)
def test_a_floor_is_the_last_before_the_first_that_is_not_acknowledged(
    offsets: list[int], put: int
) -> None:
    marks = Marks({}, on_change=lambda: None)
    marks.put("c", 0, epoch="e")
    for offset in offsets:
        marks.take("c", offset, epoch="e")
    marks.put("c", put, epoch="e")
    done = {*offsets, *range(1, put + 1)}
    floor = next(offset for offset in range(50) if offset + 1 not in done)
    assert marks.floor("c") == floor
    assert all(marks.has("c", offset) == (offset in done) for offset in range(1, 45))


def test_what_is_remembered_is_bounded() -> None:
    marks = Marks({}, on_change=lambda: None)
    marks.put("c", 0, epoch="e")
    for offset in range(2, ABOVE_MAX + 100):
        marks.take("c", offset, epoch="e")
    assert not marks.has("c", ABOVE_MAX + 50)
    # Of all channels together, too; what is acknowledged up to the floor makes room again.
    several = Marks({}, on_change=lambda: None)
    for name in "abcdefghijkl":
        several.put(name, 0, epoch="e")
        for offset in range(2, ABOVE_MAX):
            several.take(name, offset, epoch="e")
    assert several.has("a", ABOVE_MAX - 1)
    assert not several.has("l", 2)
    several.take("a", 1, epoch="e")
    assert several.floor("a") == ABOVE_MAX - 1
    several.put("b", 10, epoch="e")
    several.take("l", 2, epoch="e")
    assert several.has("l", 2)
    for number in range(CHANNELS_MAX + 5):
        marks.put(f"c{number}", 1, epoch="e")
    assert len(marks.by_channel) == CHANNELS_MAX
    assert marks.floor("c") is None
    numbers = Numbers(SystemRandomness())
    first = numbers.id_of("main", "room.a", 7)
    assert first is not None
    assert first < 2**53
    assert numbers.place_of(first) == Place("main", "room.a", 7)
    assert numbers.id_of("main", "room.a", OFFSET_MAX + 1) is None
    signals = [numbers.signal_id() for _ in range(3)]
    assert len(set(signals)) == 3
    assert [numbers.place_of(one) for one in signals] == [None] * 3


def test_a_refusal_of_the_handshake_is_a_claw_error() -> None:
    with pytest.raises(ClawError):
        read_auth({"token": "x", "protocol": True})
