"""What OpenClaw prints is read in every shape, and whatever else it prints is no harm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.core.calls.fleet import REPORT_MAX_BYTES
from clawnet.sidecar.openclaw import OpenClaw, read_cron, read_turn, session_key
from clawnet.sidecar.processes import End, Ran


def ran(stdout: Any = b"", stderr: bytes = b"", *, code: int = 0, end: End = "exited") -> Ran:
    raw = stdout if isinstance(stdout, bytes) else json.dumps(stdout).encode()
    return Ran(end=end, exit_code=code, stdout=raw, stderr=stderr, dropped_bytes=0)


PAYLOADS = {"payloads": [{"text": "first"}, {"text": "second"}]}


@pytest.mark.parametrize(
    ("said", "output"),
    [
        (PAYLOADS, "first"),
        ({"runId": "r", "status": "ok", "result": PAYLOADS}, "first"),
        ({**PAYLOADS, "result": "later"}, "first"),
        ({"payloads": [], "result": "text"}, "text"),
        ({"result": {"text": "inner"}}, "inner"),
        ({"final": "last"}, "last"),
        ({"result": {}, "final": "last"}, "last"),
        ({"payloads": [{"text": ""}]}, ""),
    ],
)
def test_an_answer_is_found_in_every_shape(said: Any, output: str) -> None:
    result = read_turn(ran(said), timeout_s=5)
    assert (result.status, result.output, result.exit_code) == ("completed", output, 0)
    behind = b"a log line\n{odd\n" + json.dumps(said, indent=2).encode() + b"\n"
    assert read_turn(ran(behind), timeout_s=5).output == output


@pytest.mark.parametrize(
    ("how", "status"),
    [
        (ran({"runId": "r1", "error": {"message": "closed"}}, code=1), "outcome_unknown"),
        (ran({"runId": "r1", "status": "accepted"}), "outcome_unknown"),
        (ran(b"", b"accepted runId=r1\nconnection closed", code=1), "outcome_unknown"),
        (ran(PAYLOADS, code=-9, end="stopped"), "outcome_unknown"),
        (ran(PAYLOADS, code=-15, end="timed_out"), "timed_out"),
        (ran({"runId": "r1", "status": "error", "summary": "no"}, code=1), "failed"),
        (ran({"status": "error", "result": "half"}), "failed"),
        (ran(PAYLOADS, b"crashed", code=2), "failed"),
        (ran(b"", b"connection refused", code=1), "failed"),
        (ran(b"<html>"), "failed"),
        (ran(b""), "failed"),
        (ran([1]), "failed"),
    ],
)
def test_every_other_end_has_its_status_and_a_reason(how: Ran, status: str) -> None:
    result = read_turn(how, timeout_s=5)
    assert result.status == status and result.error


@given(st.binary(max_size=300), st.binary(max_size=50), st.integers(-20, 255))
def test_any_output_is_some_result_that_can_be_sent(out: bytes, err: bytes, code: int) -> None:
    for raw in (out, b"{" + out + b"}", b'{"result": "\\ud800' + out + b'"}'):
        result = read_turn(ran(raw, err, code=code), timeout_s=1)
        assert result.status in ("completed", "failed", "outcome_unknown")
        (result.output or "").encode()
        read_cron(raw)


def test_deeply_nested_output_is_not_followed() -> None:
    deep = b'{"result":' * 50_000 + b"1" + b"}" * 50_000
    assert read_turn(ran(deep), timeout_s=1).status == "failed"
    assert read_turn(ran(b"\n{" * 100_000), timeout_s=1).status == "failed"
    assert read_cron(deep) is None


def test_cron_jobs_keep_their_status_whatever_it_is() -> None:
    jobs = [
        {"id": "a", "name": "n", "status": status, "state": {"nextRunAtMs": 5, "lastRunAtMs": True}}
        for status in ("disabled", "running", "ok", "error", "skipped", "idle", "odd", 7)
    ]
    for raw in (jobs, {"jobs": jobs}):
        found = read_cron(json.dumps(raw).encode())
        assert found is not None
        assert [job["status"] for job in found] == [
            "disabled", "running", "ok", "error", "skipped", "idle", "odd", "7",
        ]  # fmt: skip
        assert found[0] == {"id": "a", "name": "n", "status": "disabled", "next_run_ms": 5}
    older = [
        {"jobId": "x", "enabled": False},
        {"id": "y", "state": {"runningAtMs": 1}, "schedule": {"expr": "* * * * *"}},
        {"id": "z", "state": {"lastStatus": "error"}},
        {"id": "w"},
    ]
    read = read_cron(json.dumps(older).encode())
    assert read is not None
    assert [job["status"] for job in read] == ["disabled", "running", "error", "idle"]
    assert read[1]["schedule"] == "* * * * *"
    assert read_cron(b"null") is None and read_cron(b'"x"') is None
    assert len(read_cron(json.dumps([{}] * 5_000).encode()) or []) == 100
    # However long their names are, a report with them is not refused for its size.
    long = [{"id": str(number), "name": "\1" * 500, "status": "ok"} for number in range(100)]
    cut = read_cron(json.dumps(long).encode())
    assert cut and len(json.dumps(cut)) < REPORT_MAX_BYTES // 2 + 1_000


def test_a_conversation_is_a_room_and_a_sender_and_nothing_breaks_out_of_its_key() -> None:
    assert session_key("room.ops", "boss") == "agent:main:clawnet-room-ops-boss"
    assert session_key(None, "boss") == "agent:main:clawnet-direct-boss"
    assert session_key("dm.ann.bob", "a-b") == "agent:main:clawnet-dm-ann-bob-a-b"
    odd = session_key("x:y agent:root", "b/../c")
    assert odd.startswith("agent:main:clawnet-x-y-agent-root-b-c.")
    # Two conversations never have one key, whatever the rooms and senders are called.
    rooms = [None, "room.direct", "room.a", "room.a-b", "room.a.b", "dm.a.b", "room.dm", "public.a"]
    rooms += ["direct", "room.A", "dm.a-b.c", "dm.a.b-c"]
    senders = ["a", "b", "a-b", "b-a", "-a", "a-", "room-a", "a-b-c", "c"]
    keys = {session_key(room, sender) for room in rooms for sender in senders}
    assert len(keys) == len(rooms) * len(senders)
    assert session_key("room." + "x" * 200, "a") != session_key("room." + "x" * 201, "a")
    older = OpenClaw(path="/bin/oc", version="1", is_current=False)
    assert older.argv(
        agent_id="bob", sender="boss", room=None, text="--help", file="", timeout_s=1
    ) == ["/bin/oc", "agent", "--session-id", "clawnet-bob-boss", "--message", "--help",
          "--local", "--json"]  # fmt: skip
    keys = {
        older.conversation(agent_id="bob", room=room, sender="boss") for room in (None, "room.a")
    }
    assert keys == {"clawnet-bob-boss"}
