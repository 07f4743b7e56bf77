"""`claw wake`: a process for each message, confirmed, acknowledged, ended with its group."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.program import PATIENCE_S, HubProcess, Program, finish, read_line, running_hub

WAITING = "claw: waiting for messages at "


class Agent(NamedTuple):
    name: str
    token: str

    @property
    def inbox(self) -> str:
        return f"agent.{self.name}.inbox"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("hub")
    with running_hub(Program(folder / "home"), folder / "data") as hub:
        yield hub


@pytest.fixture(scope="module")
def alice(hub: HubProcess) -> str:
    return hub.account("alice")


@pytest.fixture
def bob(hub: HubProcess, request: pytest.FixtureRequest) -> Agent:
    """An account for each test."""
    name = f"bob-{abs(hash(request.node.name)) % 10**9}"
    return Agent(name, hub.account(name))


def wake(hub: HubProcess, agent: Agent, *command: str, options: tuple[str, ...] = ()) -> (
    "subprocess.Popen[bytes]"
):  # fmt: skip
    process = hub.start_claw("wake", *options, "--", *command, token=agent.token)
    assert read_line(process, stderr=True).startswith(WAITING)
    return process


def send(hub: HubProcess, token: str, to: Agent, text: str, step: str = "woken") -> tuple[int, str]:
    done = hub.try_claw("pub", to.inbox, text, "--require", step, "--timeout", "15", token=token)
    return done.returncode, done.stdout.decode().split(": ")[-1].strip()


def end(process: "subprocess.Popen[bytes]", how: signal.Signals = signal.SIGTERM) -> tuple:
    process.send_signal(how)
    return finish(process)


def script(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "agent.py"
    file.write_text("import json, os, sys, time, signal, subprocess\n" + text)
    return [sys.executable, str(file)]


def check_gone(pid: int) -> None:
    """Assert that a process ends; a killed one that is not our child takes its time."""
    end_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return
        # A zombie that nobody reaped is dead enough.
        if state == "Z":
            return
        assert time.monotonic() < end_s, f"{pid} goes on"


def test_without_a_command_or_with_one_that_is_none_it_is_wrong_usage(
    hub: HubProcess, bob: Agent
) -> None:
    assert hub.try_claw("wake", token=bob.token).returncode == 2
    done = hub.try_claw("wake", "--", "no-such-program", token=bob.token)
    assert done.returncode == 2
    assert b"There is no program 'no-such-program' to start" in done.stderr
    assert hub.try_claw("wake", "--timeout", "0", "--", "true", token=bob.token).returncode == 2


def test_a_hub_that_is_not_there_or_refuses_is_said(hub: HubProcess, tmp_path: Path) -> None:
    assert hub.try_claw("wake", "--", "true", token="claw_wrong").returncode == 77
    environment = {"CLAWNET_SERVER": "http://127.0.0.1:9", "CLAWNET_TOKEN": "claw_x"}
    done = hub.program.run("wake", "--", "true", env=environment)
    assert (done.returncode, b"Traceback" in done.stderr) == (69, False)


def test_each_message_starts_the_command_and_nothing_is_run_by_a_shell(
    hub: HubProcess, alice: str, bob: Agent, tmp_path: Path
) -> None:
    told = script(
        tmp_path,
        "event = json.load(sys.stdin)\n"
        "names = ('CLAW_CHANNEL', 'CLAW_SENDER', 'CLAW_EVENT_ID')\n"
        "print(json.dumps([event['data'], sys.argv[1:], *(os.environ[n] for n in names)]))\n",
    )
    process = wake(hub, bob, *told, "$(touch x)", "; touch y", options=("--ttl", "5"))
    evil = "$(touch z); `touch z` \x1b[2J"
    for text in (evil, "two"):
        code, event_id = send(hub, alice, bob, text, "acted")
        assert code == 0
        line = json.loads(read_line(process))
        assert line == [text, ["$(touch x)", "; touch y"], bob.inbox, "alice", event_id]
    assert not list(tmp_path.glob("[xyz]"))
    inbox = json.loads(hub.claw("inbox", "--json", token=bob.token).splitlines()[-1])
    assert "two" not in json.dumps(inbox)
    assert end(process)[0] == 0


def test_the_command_finds_the_trace_of_its_message(
    hub: HubProcess, alice: str, bob: Agent, tmp_path: Path
) -> None:
    told = script(tmp_path, "print(json.dumps(os.environ.get('TRACEPARENT')), flush=True)\n")
    process = hub.program.start(
        "wake", "--", *told, env={**hub.environment(bob.token), "TRACEPARENT": "00-of-the-shell"}
    )
    assert read_line(process, stderr=True).startswith(WAITING)
    trace = f"00-{'c' * 32}-00f067aa0ba902b7-01"
    hub.claw("pub", "--traceparent", trace, bob.inbox, "traced", token=alice)
    assert json.loads(read_line(process)) == trace
    # What this process was started under is not where the next message comes from.
    hub.claw("pub", bob.inbox, "untraced", token=alice)
    assert json.loads(read_line(process)) is None
    assert end(process)[0] == 0


def test_woken_is_said_before_the_command_ends_and_a_failure_leaves_the_message(
    hub: HubProcess, alice: str, bob: Agent
) -> None:
    process = wake(hub, bob, "sh", "-c", "cat > /dev/null; exit 3")
    code, event_id = send(hub, alice, bob, "hello")
    assert code == 0
    said = read_line(process, stderr=True)
    assert said == f"claw: sh ended with exit code 3; {event_id} from alice stays in the inbox.\n"
    receipt = json.loads(hub.claw("receipt", event_id, "--json", token=alice))
    assert receipt["woken"] is not None
    assert receipt["acted"] is None
    assert "hello" in hub.claw("inbox", token=bob.token)
    assert end(process)[0] == 0


def test_a_command_that_runs_too_long_is_killed_with_its_children(
    hub: HubProcess, alice: str, bob: Agent, tmp_path: Path
) -> None:
    slow = script(
        tmp_path,
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(os.getpid(), child.pid, flush=True)\n"
        "time.sleep(600)\n",
    )
    process = wake(hub, bob, *slow, options=("--timeout", "1"))
    assert send(hub, alice, bob, "hello")[0] == 0
    pids = [int(pid) for pid in read_line(process).split()]
    assert "was killed after 1 s" in read_line(process, stderr=True)
    for pid in pids:
        check_gone(pid)
    assert end(process)[0] == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ending_it_ends_the_command_and_the_message_comes_again(
    hub: HubProcess, alice: str, bob: Agent, tmp_path: Path, how: signal.Signals
) -> None:
    slow = script(tmp_path, "print(os.getpid(), flush=True)\ntime.sleep(600)\n")
    process = wake(hub, bob, *slow)
    assert send(hub, alice, bob, "hello")[0] == 0
    pid = int(read_line(process))
    code, _, said = end(process, how)
    assert code == (130 if how == signal.SIGINT else 0)
    assert "Traceback" not in said
    check_gone(pid)
    wakes = json.loads(
        hub.claw("receipt", "--json", send(hub, alice, bob, "2", "stored")[1], token=alice)
    )
    assert f"no process of {bob.name} holds a wake lease; the last one ended" in wakes["reason"]
    process = wake(hub, bob, "cat")
    assert json.loads(read_line(process))["data"] == "hello"
    assert json.loads(read_line(process))["data"] == 2
    assert end(process)[0] == 0


def test_a_hub_that_is_killed_is_survived(hub: HubProcess, alice: str, bob: Agent) -> None:
    process = wake(hub, bob, "cat", options=("--ttl", "5"))
    assert send(hub, alice, bob, "before", "acted")[0] == 0
    assert json.loads(read_line(process))["data"] == "before"
    hub.kill()
    hub.start()
    assert send(hub, alice, bob, "after", "acted")[0] == 0
    assert json.loads(read_line(process))["data"] == "after"
    assert end(process)[0] == 0


def test_a_revoked_token_ends_it(hub: HubProcess, bob: Agent) -> None:
    process = wake(hub, bob, "cat", options=("--ttl", "5"))
    tokens = json.loads(hub.claw("token", "list", "--account", bob.name, "--json"))
    listed = tokens["tokens"] if isinstance(tokens, dict) else tokens
    for token in listed:
        hub.claw("token", "revoke", token["id"])
    code, _, said = finish(process)
    assert code == 77
    assert "Traceback" not in said
