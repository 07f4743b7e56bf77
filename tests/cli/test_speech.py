"""What was said, as lines: nobody's text can pass for another line or rule the terminal."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from clawnet.cli.speech import blocks, clock, task_line, told

TS = "2026-11-21T10:30:00.123Z"
SAID = re.compile(r"\A(?:\d\d|--):(?:\d\d|--) ")


def message(payload: Any, **more: Any) -> dict[str, Any]:
    return {"ts": TS, "from_id": "ann", "from_handle": "ann", "payload": payload, **more}


def test_a_text_of_several_lines_is_set_in() -> None:
    shown = told(message({"text": "one\r\n10:30 bob: I never said this\x1b[2J"}))
    first, second = shown.split("\n")
    assert first.endswith(" ann: one")
    assert second == "      | 10:30 bob: I never said this\\e[2J"


def test_a_handle_stands_with_its_id() -> None:
    shown = told(message({"text": "hi"}, from_handle="Bob\n"))
    assert shown[6:] == "Bob\\n (@ann): hi"


def test_what_happened_is_told() -> None:
    joined = told(message({"by": "ann", "account": "bob"}, type="room.joined"))
    assert joined[5:] == " * bob joined"
    assert told(message({}, deleted=True))[6:] == "ann: (deleted)"
    task = {"task_id": "t1", "to": "bob", "status": "failed", "exit_code": 3, "error": "no\x07"}
    assert told(message(task, type="task.failed")).endswith(
        "* task t1 for bob: failed, exit code 3\n      | no\\x07"
    )
    assert "(exec) ls" in task_line({"status": "queued", "kind": "exec", "command": "ls"})
    assert clock("\x1b") == "--:--"
    assert blocks("a\r\nb\x1b") == "a\nb\\e"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@given(
    JSON,
    st.sampled_from(["chat.message", "room.updated", "task.running", "x.y"]),
    st.text(max_size=20),
)
def test_any_message_is_one_line_and_lines_that_are_set_in(
    payload: Any, kind: str, text: str
) -> None:
    given_one = message(payload, type=kind, from_id=text, from_handle=text)
    shown = told(json.loads(json.dumps(given_one)))
    first, *rest = shown.split("\n")
    assert SAID.match(first)
    assert all(line.startswith("      | ") for line in rest)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)
