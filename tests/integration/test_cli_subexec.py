"""`claw subexec` against a real hub: a command for each event, in order, and none left behind."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from tests.cli.program import HubProcess, Program, finish, read_line, running_hub
from tests.cli.test_wake import check_gone

FOLLOWING = "claw: following "


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("hub")
    with running_hub(Program(folder / "home"), folder / "data") as hub:
        yield hub


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    return "public." + request.node.name.replace("[", "-").replace("]", "").lower()[:200]


def script(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "command.py"
    file.write_text("import json, os, sys, time, signal\n" + text)
    return [sys.executable, str(file)]


def started(hub: HubProcess, *words: str) -> Popen[bytes]:
    process = hub.start_claw("subexec", *words)
    assert read_line(process, stderr=True).startswith(FOLLOWING)
    return process


def end(process: Popen[bytes], number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
    process.send_signal(number)
    return finish(process)


TELL = """
print(json.dumps({"in": sys.stdin.read(), "args": sys.argv[1:],
    **{k: v for k, v in os.environ.items() if k in ("CLAW_CHANNEL", "CLAW_SENDER", "CLAW_MESSAGE",
       "CLAW_TIMESTAMP", "CLAW_EVENT_ID", "CLAW_COUNT")}}), flush=True)
"""


def test_the_event_is_on_standard_input_and_in_variables(
    hub: HubProcess, channel: str, tmp_path: Path
) -> None:
    evil = "$(touch evil); `touch evil` 'x' \"y\" && --json"
    command = script(tmp_path, TELL)
    process = started(hub, "--count", "2", channel, "--", *command, "--token", "-t", "a b", "$HOME")
    hub.claw("pub", channel, "--", evil)
    hub.claw("pub", channel, '{"a": [1, 2.50]}')
    code, out, err = finish(process)
    assert (code, err) == (0, "")
    first, second = (json.loads(line) for line in out.splitlines())
    # Everything behind -- is the command's, as it stands.
    assert first["args"] == ["--token", "-t", "a b", "$HOME"]
    event = json.loads(first["in"])
    assert event["payload"] == first["CLAW_MESSAGE"] == evil
    assert list(event) == ["channel", "sender", "payload", "timestamp", "id", "offset"]
    assert (first["CLAW_CHANNEL"], first["CLAW_SENDER"]) == (channel, "admin")
    assert (first["CLAW_EVENT_ID"], first["CLAW_TIMESTAMP"]) == (event["id"], event["timestamp"])
    assert second["CLAW_MESSAGE"] == '{"a": [1, 2.50]}' and second["CLAW_COUNT"] == "1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_a_buffer_is_one_command_for_many_and_the_rest_is_handed_over_at_the_end(
    hub: HubProcess, channel: str, tmp_path: Path, number: signal.Signals
) -> None:
    for payload in range(4):
        hub.claw("pub", channel, str(payload))
    # It takes so long that all that was there has come when it tells.
    command = script(tmp_path, f"time.sleep(0.5)\n{TELL}")
    process = started(hub, "--buffer", "3", "--since", "all", channel, "--", *command)
    first = json.loads(read_line(process))
    assert [json.loads(line)["payload"] for line in first["in"].splitlines()] == [0, 1, 2]
    assert (first["CLAW_COUNT"], first["CLAW_MESSAGE"]) == ("3", "2")
    code, out, _ = end(process, number)
    assert code == (130 if number == signal.SIGINT else 0)
    assert json.loads(json.loads(out)["in"])["payload"] == 3


def test_a_signal_that_comes_twice_at_once_is_one(
    hub: HubProcess, channel: str, tmp_path: Path
) -> None:
    for payload in range(2):
        hub.claw("pub", channel, str(payload))
    # As timeout(1) sends it: to its child, and then to the child's group.
    command = script(tmp_path, f"time.sleep(0.5)\n{TELL}")
    process = started(hub, "--buffer", "1", "--since", "all", channel, "--", *command)
    assert json.loads(read_line(process))["CLAW_MESSAGE"] == "0"
    process.send_signal(signal.SIGINT)
    code, out, _ = end(process)
    # Of two signals at once either may be seen first.
    assert code in (0, 130) and json.loads(out)["CLAW_MESSAGE"] == "1"


def test_with_a_count_what_is_gathered_is_handed_over_at_the_end(
    hub: HubProcess, channel: str, tmp_path: Path
) -> None:
    for payload in range(5):
        hub.claw("pub", channel, str(payload))
    words = ["--buffer", "3", "--since", "all", "--count", "5", channel]
    code, out, _ = finish(started(hub, *words, "--", *script(tmp_path, TELL)))
    assert code == 0
    assert [json.loads(line)["CLAW_COUNT"] for line in out.splitlines()] == ["3", "2"]


def test_silence_for_the_timeout_ends_a_batch(
    hub: HubProcess, channel: str, tmp_path: Path
) -> None:
    for payload in range(5):
        hub.claw("pub", channel, str(payload))
    process = started(
        hub, "--timeout", "300", "--since", "all", channel, "--", *script(tmp_path, TELL)
    )
    told = json.loads(read_line(process))
    assert told["CLAW_COUNT"] == "5"
    hub.claw("pub", channel, "6")
    assert json.loads(read_line(process))["CLAW_COUNT"] == "1"
    assert end(process)[0] == 0


def test_a_command_that_fails_is_told_and_the_following_goes_on(
    hub: HubProcess, channel: str, tmp_path: Path
) -> None:
    command = script(tmp_path, "print(os.environ['CLAW_MESSAGE'], flush=True); sys.exit(3)")
    process = started(hub, "--count", "2", channel, "--", *command)
    one = json.loads(hub.claw("--json", "pub", channel, "one"))
    hub.claw("pub", channel, "two")
    code, out, err = finish(process)
    assert code == 0 and out.split() == ["one", "two"]
    assert f"ended with exit code 3 for {one['id']}" in err


def test_a_command_need_not_read_what_it_is_given(hub: HubProcess, channel: str) -> None:
    process = started(hub, "--count", "2", channel, "--", "true")
    hub.claw("pub", channel, "-", stdin=b"x" * 60_000)
    hub.claw("pub", channel, "two")
    assert finish(process) == (0, "", "")


def test_text_with_a_nul_is_on_standard_input_only(
    hub: HubProcess, channel: str, tmp_path: Path
) -> None:
    process = started(hub, "--count", "1", channel, "--", *script(tmp_path, TELL))
    hub.claw("pub", channel, "-", stdin=b"a\x00b")
    code, out, _ = finish(process)
    told = json.loads(out)
    assert code == 0 and "CLAW_MESSAGE" not in told
    assert json.loads(told["in"])["payload"] == "a\x00b"


@pytest.mark.parametrize("most", [1, 2])
def test_no_more_commands_run_at_once_than_allowed(
    hub: HubProcess, channel: str, tmp_path: Path, most: int
) -> None:
    for payload in range(4):
        hub.claw("pub", channel, str(payload))
    counting = """
place = sys.argv[1]
open(os.path.join(place, str(os.getpid())), "w").close()
time.sleep(0.3)
print(len(os.listdir(place)), flush=True)
os.unlink(os.path.join(place, str(os.getpid())))
"""
    place = tmp_path / "running"
    place.mkdir()
    words = ["--concurrency", str(most), "--since", "all", "--count", "4", channel]
    process = started(hub, *words, "--", *script(tmp_path, counting), str(place))
    code, out, _ = finish(process)
    assert code == 0 and len(out.split()) == 4
    assert max(int(number) for number in out.split()) <= most


def test_with_one_at_a_time_they_run_in_the_order_of_the_events(
    hub: HubProcess, channel: str, tmp_path: Path
) -> None:
    for payload in range(8):
        hub.claw("pub", channel, str(payload))
    command = script(tmp_path, "print(os.environ['CLAW_MESSAGE'])")
    words = ["--since", "all", "--count", "8", channel]
    assert finish(started(hub, *words, "--", *command))[1].split() == list("01234567")


HASTY = """
import sys
from clawnet.cli import executing
from clawnet.cli.main import main

# Whoever waits all of FINISH_S is not done when the test is.
executing.FINISH_S, executing.GRACE_S, executing.SAME_SIGNAL_S = 600.0, 0.3, 0.0
sys.exit(main())
"""


def test_a_command_that_does_not_end_dies_with_the_second_signal(
    hub: HubProcess, channel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubborn = """
child = os.fork()
if child == 0:
    time.sleep(60)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), child, flush=True)
time.sleep(60)
"""
    hub.claw("pub", channel, "go")
    monkeypatch.setattr(f"{Program.__module__}.CLAW", [sys.executable, "-c", HASTY])
    words = ["--since", "all", channel, "--", *script(tmp_path, stubborn)]
    process = started(hub, *words)
    pids = [int(pid) for pid in read_line(process).split()]
    process.send_signal(signal.SIGINT)
    code, out, err = end(process)
    # Of two signals at once either may be seen first.
    assert code in (0, 130) and out == "" and "not handled" not in err
    for pid in pids:
        check_gone(pid)


def test_every_second_runs_a_command_though_it_is_only_a_signal(
    hub: HubProcess, tmp_path: Path
) -> None:
    process = started(hub, "--count", "1", "system.timer.second", "--", *script(tmp_path, TELL))
    code, out, _ = finish(process)
    told = json.loads(out)
    assert code == 0 and told["CLAW_CHANNEL"] == "system.timer.second"
    assert json.loads(told["CLAW_MESSAGE"])["event"] and "CLAW_EVENT_ID" not in told


def test_what_comes_while_the_hub_is_away_is_not_lost(tmp_path: Path) -> None:
    with running_hub(Program(tmp_path / "home"), tmp_path / "data") as hub:
        command = script(tmp_path, "print(os.environ['CLAW_MESSAGE'], flush=True)")
        process = started(hub, "--count", "2", "public.lobby", "--", *command)
        hub.claw("pub", "public.lobby", "before")
        assert read_line(process) == "before\n"
        hub.kill()
        hub.start()
        hub.claw("pub", "public.lobby", "after")
        assert finish(process)[:2] == (0, "after\n")


def test_a_channel_that_may_not_be_read_ends_it(hub: HubProcess) -> None:
    token = hub.account("stranger")
    done = hub.try_claw("subexec", "agent.other.secret", "--", "true", token=token)
    assert done.returncode == 77 and done.stdout == b""


def test_an_unreachable_hub_is_one_line_and_69(tmp_path: Path) -> None:
    program = Program(tmp_path)
    done = program.run("-s", "http://127.0.0.1:1", "subexec", "public.a", "--", "true")
    assert done.returncode == 69 and b"Traceback" not in done.stderr
    assert done.stderr.startswith(b"claw: No hub answers at http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["public.a"], "There is no command"),
        (["public.a", "--"], "There is no command"),
        (["--", "true"], "Missing argument"),
        (["public.a", "--", "no-such-program-anywhere"], "There is no program"),
        (["--buffer", "0", "public.a", "--", "true"], "--buffer"),
        (["--timeout", "x", "public.a", "--", "true"], "--timeout"),
        (["--concurrency", "0", "public.a", "--", "true"], "--concurrency"),
    ],
    ids=lambda value: "-".join(value)[:30] if isinstance(value, list) else "",
)
def test_wrong_usage_is_said_before_the_hub_is_asked(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from clawnet.cli.main import main

    assert main(["-s", "http://127.0.0.1:1", "subexec", *words]) == 2
    assert said in capsys.readouterr().err
