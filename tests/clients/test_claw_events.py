"""What the published `claw.events` CLI says to a hub, by a stand-in (see claw_events.mjs)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import read_line
from tests.clients.conftest import Hub
from tests.clients.node import HERE, NoNode, node


class Cli:
    """The commands of one user, with a configuration of its own."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub = hub
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def _command(self, *arguments: str) -> list[str]:
        return [node(), str(HERE / "claw_events.mjs"), "--config", str(self._folder),
                "--server", self.hub.url, *arguments]  # fmt: skip

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(*arguments), capture_output=True, text=True, timeout=20, check=False
        )

    def ok(self, *arguments: str) -> Any:
        done = self.run(*arguments)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return json.loads(done.stdout)

    def fails(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 1, (done.stdout, done.stderr)
        return str(json.loads(done.stderr)["error"])

    def start(self, *arguments: str, subscriptions: int = 1) -> subprocess.Popen[bytes]:
        """Run what listens, and wait until it does."""
        process = subprocess.Popen(
            self._command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._running.append(process)
        for _ in range(subscriptions):
            line = read_line(process, stderr=True)
            assert line.startswith("Subscribed to "), line
        return process

    def end(self) -> None:
        for process in self._running:
            process.kill()
            process.communicate()


class Users:
    def __init__(self, hub: Hub, folder: Path) -> None:
        self._hub = hub
        self._folder = folder
        self.made: list[Cli] = []

    def __call__(self, username: str) -> Cli:
        """A user that has registered as `dev-register` does."""
        cli = Cli(self._hub, self._folder / username)
        self.made.append(cli)
        assert cli.ok("dev-register", "--user", username) == {"username": username}
        return cli


@pytest.fixture
def user(hub: Hub, tmp_path: Path) -> Iterator[Users]:
    try:
        node()
    except NoNode as why:
        pytest.skip(str(why))
    users = Users(hub, tmp_path)
    yield users
    for cli in users.made:
        cli.end()


def test_what_is_published_is_listened_to(user: Users) -> None:
    ann, ben = user("cli-ann"), user("cli-ben")
    assert ann.ok("whoami")["authenticated"]
    listening = ben.start("sub", "public.cli", "public.townsquare", subscriptions=2)

    said = ann.ok("pub", "public.cli", "hello", "world")["said"]
    ann.ok("pub", "public.townsquare", '{"n": 1}')

    assert said["ok"] is True
    first, second = (json.loads(read_line(listening)) for _ in range(2))
    assert (first["channel"], first["payload"], first["sender"]) == (
        "public.cli", "hello world", "cli-ann",
    )  # fmt: skip
    assert (second["channel"], second["payload"]) == ("public.townsquare", {"n": 1})


def test_a_command_is_run_for_every_event_or_for_several_at_once(user: Users) -> None:
    cat = user("cli-cat")
    single = cat.start("subexec", "public.cli-exec", "--", "echo", "got")
    batch = cat.start("subexec", "--buffer", "2", "public.cli-exec", "--", "echo")

    cat.ok("pub", "public.cli-exec", "one")
    cat.ok("pub", "public.cli-exec", "two")

    payloads = {json.loads(read_line(single).removeprefix("got "))["payload"] for _ in range(2)}
    assert payloads == {"one", "two"}
    together = json.loads(read_line(batch))
    assert [one["payload"] for one in together["messages"]] == ["one", "two"]


def test_locks_grants_and_requests(user: Users) -> None:
    dan, eve = user("cli-dan"), user("cli-eve")
    channel = "agent.cli-dan.diary"
    assert dan.ok("unlock", channel) == {"ok": True, "unlocked": True, "channel": channel}
    eve.start("sub", channel)
    assert dan.ok("lock", channel) == {"ok": True, "locked": True, "channel": channel}
    assert "own" in eve.fails("lock", channel)
    refused = eve.run("sub", channel)
    assert refused.returncode == 1
    assert "permission denied" in refused.stderr

    asked = eve.ok("request", channel, "to", "learn")
    granted = dan.ok("grant", "cli-eve", channel)
    listening = eve.start("sub", channel)
    dan.ok("pub", channel, "for the granted")

    assert asked["ok"]
    assert asked["request"]["requester"] == "cli-eve"
    assert asked["request"]["reason"] == "to learn"
    assert granted == {"ok": True, "granted": True, "target": "cli-eve", "channel": channel}
    assert json.loads(read_line(listening))["payload"] == "for the granted"
    assert dan.ok("revoke", "cli-eve", channel)["revoked"] is True
    assert listening.wait(timeout=15) == 1
    assert "403" in eve.fails("pub", channel, "no")


def test_advertisements_are_set_found_enforced_and_removed(user: Users) -> None:
    fay = user("cli-fay")
    channel = "agent.cli-fay.weather"
    schema = {"type": "object", "required": ["t"], "properties": {"t": {"type": "number"}}}

    made = fay.ok(
        "advertise", "set", "--channel", channel, "--desc", "Weather of Fayetteville",
        "--schema", json.dumps(schema),
    )  # fmt: skip

    assert made["data"]["schema"] == schema
    assert fay.ok("advertise", "search", "Fayetteville")["count"] == 1
    assert channel in [one["channel"] for one in fay.ok("advertise", "list")["channels"]]
    assert channel in [one["channel"] for one in fay.ok("advertise", "list", "cli-fay")["channels"]]
    assert "Fayetteville" in json.dumps(fay.ok("advertise", "show", channel))
    assert fay.ok("validate", '{"t": 1}', "--channel", channel)["schema"] == schema
    fay.ok("pub", channel, '{"t": 21.5}')
    assert "Schema validation failed" in fay.fails("pub", channel, '{"t": "warm"}')
    assert fay.ok("advertise", "delete", channel)["ok"] is True
    assert fay.ok("advertise", "search", "Fayetteville")["count"] == 0


def test_without_a_token_nothing_is_published(hub: Hub, tmp_path: Path) -> None:
    try:
        node()
    except NoNode as why:
        pytest.skip(str(why))
    stranger = Cli(hub, tmp_path)

    assert stranger.fails("pub", "public.cli", "x") == "Authentication required"
    assert stranger.fails("--token", "nonsense", "pub", "public.cli", "x").startswith("401")
