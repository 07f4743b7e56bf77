"""Requirement 2, scenario Warden persistence: messages survive the restart of a volatile hub."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import HubProcess, Program

PATIENCE_S = 20.0


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path / "home")
    made.environment |= {"CLAWNET_ENGINE": "memory", "CLAWNET_WARDEN_RESTORES": "true"}
    yield made
    made.end()


def said(hub: HubProcess) -> list[str]:
    page = json.loads(hub.claw("history", "public.lobby", "--json"))
    return [event["data"]["text"] for event in page["events"]]


def wait_for_lines(folder: Path, count: int) -> None:
    """Until the warden's files hold so many messages."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        files = folder.glob("events/*.jsonl")
        held = sum(path.read_bytes().count(b'"type":"chat.message"') for path in files)
        if held == count:
            return
        time.sleep(0.05)
    raise AssertionError(f"the warden did not keep {count} messages")


def test_three_messages_are_in_the_history_after_a_volatile_hub_was_killed(
    program: Program, tmp_path: Path
) -> None:
    hub = HubProcess(program, tmp_path / "data")
    hub.start()
    folder = tmp_path / "warden"
    token = hub.claw("account", "create", "eye", "--role", "warden", "--with-token").strip()
    warden = hub.start_claw("warden", "--folder", str(folder), token=token)
    ids = []
    for n in range(3):
        sent = json.loads(hub.claw("pub", "public.lobby", json.dumps({"text": f"m{n}"}), "--json"))
        ids.append(sent["id"])
    wait_for_lines(folder, 3)
    for restart in (1, 2):
        hub.kill()
        hub.start()
        before = hub.try_claw("status")
        assert before.returncode == 0 or b"not ready: The hub is restoring." in before.stdout
        until_s = time.monotonic() + PATIENCE_S
        while hub.try_claw("status").returncode != 0 and time.monotonic() < until_s:
            time.sleep(0.1)
        assert said(hub) == [f"m{n}" for n in range(2 + restart)]
        hub.claw("pub", "public.lobby", json.dumps({"text": f"m{2 + restart}"}))
        wait_for_lines(folder, 3 + restart)
    warden.terminate()
    assert warden.wait(PATIENCE_S) == 0
    kept = [
        json.loads(line)["id"]
        for path in sorted(folder.glob("events/*.jsonl"))
        for line in path.read_text().splitlines()
        if '"type":"chat.message"' in line
    ]
    assert kept[:3] == ids
    assert len(set(kept)) == len(kept) == 5
    hub.stop()
