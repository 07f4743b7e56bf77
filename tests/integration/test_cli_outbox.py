"""claw pub --outbox and claw outbox, with a hub that is away and comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import HubProcess, Program, running_hub

CHANNEL = "public.o"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    with running_hub(Program(tmp_path / "home"), tmp_path / "data") as hub:
        yield hub


def ask(hub: HubProcess, *arguments: str, token: str) -> Any:
    return json.loads(hub.claw(*arguments, "--json", token=token))


def stored(hub: HubProcess, token: str, channel: str = CHANNEL) -> list[Any]:
    lines = hub.claw("history", channel, token=token).splitlines()
    return [json.loads(line)["payload"] for line in lines]


def test_what_is_published_without_a_hub_is_kept_and_sent_in_order(hub: HubProcess) -> None:
    token = hub.account("alice")
    hub.kill()
    for number in ("1", "2"):
        done = hub.try_claw("pub", "--outbox", CHANNEL, number, token=token)
        assert (done.returncode, done.stdout) == (0, b"")
        said = done.stderr.decode()
        assert said.startswith(f"kept: sent when the hub is back; {number} wait (No hub answers")
    kept = ask(hub, "pub", "--outbox", CHANNEL, "3", token=token)
    assert kept["is_kept"] is True
    assert kept["waiting"] == 3
    waiting = ask(hub, "outbox", "list", token=token)["waiting"]
    assert [(row["channel"], row["data"]) for row in waiting] == [(CHANNEL, n) for n in (1, 2, 3)]
    assert waiting[2]["dedupe_key"] == kept["dedupe_key"]

    done = hub.try_claw("outbox", "flush", token=token)
    assert done.returncode == 69
    assert done.stdout == b"0 sent, 0 refused, 3 wait\n"
    assert b"Traceback" not in done.stderr

    hub.start()
    assert hub.claw("pub", "--outbox", CHANNEL, "4", token=token).startswith(
        f"published on {CHANNEL} at offset 4: evt_"
    )
    assert stored(hub, token) == [1, 2, 3, 4]
    assert hub.claw("outbox", "list", token=token) == ""
    assert hub.claw("outbox", "flush", token=token) == "0 sent, 0 refused, 0 wait\n"


def test_flush_sends_and_tells_what_was_refused(hub: HubProcess) -> None:
    token, _ = hub.account("alice"), hub.account("bob")
    hub.kill()
    hub.claw("pub", "--outbox", "agent.bob.notes", "mine \x1b[31m", token=token)
    hub.claw("pub", "--outbox", "--type", "x.a", CHANNEL, '{"a": 1.50}', token=token)
    hub.start()
    done = hub.try_claw("outbox", "flush", token=token)
    assert (done.returncode, done.stdout) == (0, b"1 sent, 1 refused, 0 wait\n")
    assert b"refused on agent.bob.notes: " in done.stderr
    [refused] = ask(hub, "outbox", "refused", token=token)["refused"]
    assert (refused["channel"], refused["code"]) == ("agent.bob.notes", "forbidden")
    shown = hub.claw("outbox", "refused", token=token)
    assert "forbidden" in shown
    assert "\x1b" not in shown
    assert hub.claw("outbox", "refused", "--clear", "999", token=token) == "0 forgotten\n"
    assert hub.claw("outbox", "refused", "--clear", token=token) == "1 forgotten\n"
    assert ask(hub, "outbox", "refused", token=token)["refused"] == []


def test_a_refusal_of_what_is_published_now_is_its_outcome(hub: HubProcess) -> None:
    token, _ = hub.account("alice"), hub.account("bob")
    done = hub.try_claw("pub", "--outbox", "agent.bob.notes", "1", token=token)
    assert done.returncode == 77
    assert done.stdout == b""
    done = hub.try_claw("pub", "--outbox", CHANNEL, "1", token="claw_nobody")
    assert done.returncode == 77
    assert b"The event is kept in the outbox." in done.stderr
    assert len(ask(hub, "outbox", "list", token="claw_nobody")["waiting"]) == 1
    # Whoever looks with another token is told that something waits.
    assert b"1 more wait under another token" in hub.try_claw("outbox", "list", token=token).stderr


def test_what_cannot_be_is_usage_or_one_sentence(hub: HubProcess, tmp_path: Path) -> None:
    token = hub.account("alice")
    inbox = "agent.alice.inbox"
    done = hub.try_claw("pub", "--outbox", "--require", "woken", inbox, "1", token=token)
    assert done.returncode == 2
    for command in ("list", "flush", "refused"):
        assert hub.try_claw("outbox", command, token=token).returncode == 0
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"no database" * 500)
    done = hub.try_claw("outbox", "flush", "--file", str(broken), token=token)
    assert done.returncode == 65
    assert b"is damaged" in done.stderr
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "broken.db.damaged-1").exists()
