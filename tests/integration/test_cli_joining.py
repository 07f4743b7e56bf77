"""Joining a hub with the real program: invitations, self-registration, worlds and blocks."""

import hashlib
import json
import stat
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import HubProcess, Program, running_hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("hub")
    with running_hub(Program(folder / "home"), folder / "data", "--dev") as hub:
        yield hub


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Program]:
    """Another user's machine: it knows no hub and has no token."""
    made = Program(tmp_path / "agent")
    yield made
    made.end()


def redeem(url: str, **body: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{url}/api/v1/invitations/redeem",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=20) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found


def test_a_link_is_all_that_a_new_agent_needs(hub: HubProcess, agent: Program) -> None:
    done = hub.try_claw("invite", "--as", "alpha")
    link = done.stdout.decode().strip()
    assert link.startswith(f"{hub.url}/join#inv_") and "\n" not in link
    assert "Invitation in_" in done.stderr.decode()
    joined = agent.run("join", link, "--as", "alpha", "--handle", "Al")
    assert (joined.returncode, joined.stdout.decode()) == (0, f"joined {hub.url} as alpha\n")
    assert "claw inbox" in joined.stderr.decode()
    assert agent.ok("whoami").strip() == "alpha"
    agent.ok("pub", "public.lobby", "hello")
    kept = agent.home / "config" / "clawnet"
    assert [path.name for path in kept.iterdir()] == ["credentials.json"]
    assert stat.S_IMODE((kept / "credentials.json").stat().st_mode) == 0o600
    again = agent.run("join", link, "--as", "alpha")
    assert again.returncode == 77
    assert again.stderr.decode().startswith("claw: This invitation cannot be used (any more).\n")
    assert agent.ok("whoami").strip() == "alpha", "a refused join loses no token"
    table = hub.claw("account", "list")
    assert "PROOF" in table and "invitation" in table


def test_whose_answer_was_lost_just_runs_it_again(hub: HubProcess, agent: Program) -> None:
    link = hub.claw("invite").strip()
    secret = link.partition("#")[2]
    kept = agent.home / "config" / "clawnet" / "joining.json"
    kept.parent.mkdir(parents=True)
    nonce = "0123456789abcdef"
    kept.write_text(json.dumps({hashlib.sha256(secret.encode()).hexdigest(): nonce}))
    redeem(hub.url, secret=secret, id="beta", nonce=nonce)
    agent.ok("join", link, "--as", "beta")
    assert agent.ok("whoami").strip() == "beta"
    assert not kept.exists()


def test_a_link_to_nobody_says_what_is_wrong(agent: Program) -> None:
    unreachable = agent.run("join", "http://127.0.0.1:1/join#inv_x", "--as", "x")
    assert unreachable.returncode == 69
    assert unreachable.stderr.decode().count("\n") == 2
    bare = agent.run("join", "http://127.0.0.1:1/join", "--as", "x")
    assert bare.returncode == 2 and "quotes" in bare.stderr.decode()


def test_a_link_of_plain_http_to_elsewhere_is_warned_of(agent: Program) -> None:
    # .invalid never resolves (RFC 2606).
    done = agent.run("join", "http://hub.invalid/join#inv_x", "--as", "x")
    assert done.returncode == 69
    assert done.stderr.decode().startswith("The link is plain http:")


def test_invitations_are_listed_and_revoked(hub: HubProcess, agent: Program) -> None:
    made = json.loads(hub.claw("invite", "--role", "warden", "--expires-in", "1h", "--json"))
    assert made["role"] == "warden" and "#inv_" in made["link"]
    assert made["id"] in hub.claw("invite", "list")
    assert "#inv_" not in hub.claw("invite", "list", "--json")
    hub.claw("invite", "revoke", made["id"])
    assert agent.run("join", made["link"], "--as", "gamma").returncode == 77
    assert hub.try_claw("invite", "revoke", made["id"]).returncode == 1
    assert hub.try_claw("invite", "--expires-in", "31d").returncode == 65
    worker = hub.account("worker-w")
    assert hub.try_claw("invite", token=worker).returncode == 77


def test_on_a_hub_for_development_one_registers_oneself(hub: HubProcess, agent: Program) -> None:
    at = {"CLAWNET_SERVER": hub.url}
    done = agent.ok("dev-register", "--user", "dora", env=at)
    assert done == f"registered at {hub.url} as dora\n"
    assert agent.ok("whoami").strip() == "dora"
    assert agent.run("dev-register", "--user", "dora", env=at).returncode == 1
    again = agent.run("dev-register", "--user", "dan", env=at)
    assert "forgotten here" in again.stderr.decode()


def test_a_world_has_an_admin_of_its_own(hub: HubProcess) -> None:
    token = hub.claw("world", "create", "lab").strip()
    me = json.loads(hub.claw("whoami", "--json", token=token))
    assert (me["world"], me["account"]["id"]) == ("lab", "admin")
    listed = json.loads(hub.claw("world", "list", "--json"))["worlds"]
    assert [world["id"] for world in listed] == ["lab", "main"]
    assert hub.try_claw("world", "list", token=token).returncode == 77
    assert hub.try_claw("world", "create", "lab").returncode == 1


def test_who_is_blocked_writes_no_more(hub: HubProcess) -> None:
    eve, bob = hub.account("eve"), hub.account("bob")
    assert hub.claw("block", "eve", token=bob) == "eve is blocked\n"
    assert hub.claw("block", "eve", token=bob) == "eve was blocked already\n"
    assert "eve" in hub.claw("blocks", token=bob)
    assert hub.try_claw("pub", "agent.bob.inbox", "x", token=eve).returncode == 77
    assert hub.claw("unblock", "eve", token=bob) == "eve may write to you again\n"
    hub.claw("pub", "agent.bob.inbox", "x", token=eve)
    assert hub.try_claw("block", "nobody-here", token=bob).returncode == 1
