"""The commands for chat, tasks, fleet and logs, as processes against one hub."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from clawnet.client import SyncClient
from clawnet.client.http import HubHttp
from clawnet.core.errors import Forbidden
from tests.cli.program import HubProcess, Program, finish, running_hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("hub")
    with running_hub(Program(folder / "home"), folder / "data", "--engine", "memory") as hub:
        yield hub


@pytest.fixture(scope="module")
def people(hub: HubProcess) -> dict[str, str]:
    """Tokens of workers."""
    client = HubHttp(hub.url, hub.admin_token)
    found = {}
    for who in ("ann", "bob", "eve"):
        client.call("POST", "/api/v1/accounts", body={"id": who})
        found[who] = client.call("POST", "/api/v1/tokens", body={"account": who})["token"]
    return found


class Here:
    """Commands in this process, as somebody."""

    def __init__(self, hub: HubProcess, token: str) -> None:
        self._hub = hub
        self._token = token

    def run(self, *words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        # Before the words, which may be a message.
        given = ("--server", self._hub.url, "--token", self._token)
        return self._hub.program.run_here(words[0], *given, *words[1:], stdin=stdin)

    def ok(self, *words: str, stdin: bytes | None = None) -> str:
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, (words, done.stderr.decode())
        return done.stdout.decode()

    def json(self, *words: str) -> Any:
        return json.loads(self.ok(words[0], "--json", *words[1:]))


def as_(hub: HubProcess, people: dict[str, str], who: str) -> Here:
    return Here(hub, hub.admin_token if who == "admin" else people[who])


def test_rooms_are_made_joined_and_left(hub: HubProcess, people: dict[str, str]) -> None:
    ann, bob, eve = (as_(hub, people, who) for who in ("ann", "bob", "eve"))
    assert ann.ok("room", "create", "lair", "--private") == "room lair is there (private)\n"
    hidden = eve.run("room", "show", "lair")
    assert hidden.returncode == 1 and b"There is no room" in hidden.stderr
    assert "lair" not in eve.ok("room", "list")
    assert eve.run("room", "join", "lair").returncode != 0
    assert ann.ok("room", "invite", "lair", "@bob") == "bob may join lair\n"
    assert bob.ok("room", "join", "lair").startswith("in lair with ")
    assert ann.ok("room", "topic", "lair", "what", "we", "build").endswith("what we build\n")
    assert "what we build" in bob.ok("room", "show", "lair")
    members = ann.json("room", "members", "lair")
    assert [one["id"] for one in members["members"]] == ["ann", "bob"]
    assert "bob" in ann.ok("room", "members", "lair")
    assert "lair" in ann.ok("room", "list")
    assert bob.ok("room", "leave", "lair") == "bob has left lair\n"
    # By handle as by id: whoever puts somebody out must not be told that it was not there.
    assert eve.ok("handle", "eve-of-lair") == "eve is eve-of-lair\n"
    assert ann.ok("room", "invite", "lair", "@eve-of-lair") == "eve may join lair\n"
    eve.ok("room", "join", "lair")
    assert ann.ok("room", "leave", "lair", "--account", "@eve-of-lair") == "eve has left lair\n"
    assert eve.run("room", "show", "lair").returncode == 1
    assert eve.ok("handle", "eve") == "eve is eve\n"


def test_a_direct_message_and_a_command_are_one_line_each(
    hub: HubProcess, people: dict[str, str]
) -> None:
    ann, bob, eve = (as_(hub, people, who) for who in ("ann", "bob", "eve"))
    assert ann.ok("dm", "@bob", "hi", "there").startswith("said on dm.ann.bob at offset ")
    assert ann.ok("dm", "bob", "-", stdin=b"from a pipe\n").startswith("said on dm.ann.bob")
    with SyncClient(hub.url, people["bob"]) as client:
        page = client.chat_history("dm.ann.bob")
    assert [json.loads(bytes(one.payload))["text"] for one in page.events] == [
        "hi there",
        "from a pipe",
    ]
    with SyncClient(hub.url, people["eve"]) as client, pytest.raises(Forbidden):
        client.chat_history("dm.ann.bob")
    assert "/help" in bob.ok("chat", "--msg", "/help")
    refused = eve.run("chat", "--msg", "/nonsense")
    assert refused.returncode == 65 and refused.stderr.startswith(b"claw: ")
    assert eve.run("dm", "@bob", "--nonsense", "x").returncode == 2
    twice = [ann.json("chat", "--msg", "once", "--key", "k") for _ in range(2)]
    assert twice[0]["id"] == twice[1]["id"] and twice[1]["deduped"]


def test_a_handle_is_taken_once(hub: HubProcess, people: dict[str, str]) -> None:
    eve, admin = as_(hub, people, "eve"), as_(hub, people, "admin")
    assert eve.ok("handle", "evi") == "eve is evi\n"
    taken = eve.run("handle", "ann")
    assert taken.returncode == 1 and b"ann" in taken.stderr
    assert eve.run("handle", "other", "--account", "ann").returncode == 77
    assert admin.ok("handle", "newcomer", "--account", "agent-7") == "agent-7 is newcomer\n"
    ann = as_(hub, people, "ann")
    assert ann.ok("dm", "@Newcomer", "hi").startswith("said on dm.agent-7.ann at offset 1: ")
    missing = ann.run("dm", "@nobody", "hi")
    assert missing.returncode == 1 and b"There is no account nobody" in missing.stderr


def test_work_is_given_waited_for_and_told(hub: HubProcess, people: dict[str, str]) -> None:
    ann, bob, admin = (as_(hub, people, who) for who in ("ann", "bob", "admin"))
    refused = ann.run("dispatch", "@bob", "look", "--kind", "custom")
    assert refused.returncode == 77
    assert bob.ok("grant", "ann", "--dispatch") == "ann may give you work\n"
    assert bob.run("grant", "ann", "notes", "--dispatch").returncode == 2
    waiting = hub.start_claw(
        "dispatch", "@bob", "look around", "--kind", "custom", "--timeout", "30", "--wait",
        token=people["ann"],
    )  # fmt: skip
    with SyncClient(hub.url, people["bob"]) as worker:
        tasks = taken(worker, 1)
        (task,) = tasks
        assert (task.command, task.timeout_s) == ("look around", 30)
        worker.update_task(task.task_id, task.fence, "accepted")
        worker.update_task(task.task_id, task.fence, "running", output="I see ", piece=1)
        assert read_some(waiting) == "I see "
        worker.finish_task(task.task_id, task.fence, "completed", output="I see a tree\x1b[2J")
        code, out, err = finish(waiting)
        assert (code, out) == (0, "a tree\x1b[2J\n"), err
        # The same as lines of a log, and as a list.
        assert f"task {task.task_id} for bob: completed" in admin.ok("logs", "tasks")
        assert "\\e[2J" in ann.ok("tasks", "show", task.task_id)
        assert "look around" in ann.ok("tasks", "list", "--agent", "@bob")
        assert task.task_id in ann.ok("tasks")
        assert task.task_id not in ann.ok("tasks", "--open", "--json")
        # What fails, says so by its exit code.
        waiting = hub.start_claw(
            "dispatch", "@bob", "fail", "--kind", "custom", "--wait", token=people["ann"]
        )
        (task,) = taken(worker, 1)
        worker.update_task(task.task_id, task.fence, "accepted")
        worker.finish_task(task.task_id, task.fence, "failed", error="no", exit_code=3)
        code, out, err = finish(waiting)
        assert (code, out) == (1, "") and "is failed (exit code 3)" in err
    assert ann.run("dispatch", "bob", "x", "--args", "{bare").returncode == 2
    answer = ann.json(
        "dispatch", "bob", "later", "--kind", "custom", "--args", '{"orchestrate": true}'
    )
    (task_id,) = answer["task_ids"]
    assert answer["tasks"][0]["args"] == {"orchestrate": True}
    assert ann.ok("tasks", "cancel", task_id) == f"task {task_id} is cancelled\n"
    ended = hub.try_claw("dispatch", "bob", "x", "--kind", "custom", "--room", "no-such-room",
                         "--wait", token=people["ann"])  # fmt: skip
    assert ended.returncode != 0
    assert bob.ok("revoke", "ann", "--dispatch").startswith("ann may no longer")
    assert ann.run("dispatch", "@bob", "look").returncode == 77


def test_a_risky_command_waits_for_a_master(hub: HubProcess, people: dict[str, str]) -> None:
    admin = as_(hub, people, "admin")
    client = HubHttp(hub.url, hub.admin_token)
    rules = {"command_riskylist": ["sudo"], "command_denylist": ["rm -rf"]}
    client.call("PATCH", "/api/v1/settings", body=rules)
    try:
        denied = hub.try_claw("dispatch", "bob", "rm -rf /", "--kind", "custom", "--wait")
        assert denied.returncode == 77, denied.stderr
        answer = admin.json("dispatch", "bob", "sudo ls", "--kind", "custom")
        (task_id,) = answer["task_ids"]
        assert answer["tasks"][0]["status"] == "awaiting_approval"
        assert admin.run("tasks", "approve", task_id).returncode == 2
        assert admin.run("tasks", "approve", task_id, "--digest", "other").returncode != 0
        assert admin.ok("tasks", "approve", task_id, "--yes").startswith(f"task {task_id} is ")
        admin.ok("tasks", "cancel", task_id)
    finally:
        client.call("PATCH", "/api/v1/settings", body={name: [] for name in rules})


def test_fleet_and_logs_are_shown(hub: HubProcess, people: dict[str, str]) -> None:
    admin, ann = as_(hub, people, "admin"), as_(hub, people, "ann")
    with SyncClient(hub.url, people["bob"]) as client:
        client.report(resource_usage={"cpu_percent": 12.4}, capabilities=["openclaw"])
        assert "bob" in [one.id for one in client.fleet().agents]
    shown = ann.ok("fleet", "--watch", "--every", "0.1", "--count", "2")
    assert shown.count("12 %") == 2 and "openclaw" in shown
    assert [one["id"] for one in ann.json("fleet")["agents"]].count("bob") == 1
    lines = admin.ok("logs", "server").splitlines()
    assert lines[0].endswith(" started, engine memory") and " info clawnet: clawnet " in lines[0]
    assert ann.run("logs").returncode == 77
    followed = admin.ok("logs", "tasks", "--follow", "--count", "1")
    assert followed.count("\n") == 1
    audit = admin.ok("logs", "audit", "--limit", "1")
    assert json.loads(audit)["hash"]


# --- sitting in a room --------------------------------------------------------


def test_each_line_of_a_pipe_is_said_and_comes_back(
    hub: HubProcess, people: dict[str, str]
) -> None:
    done = hub.try_claw("chat", "--room", "pipe", stdin=b"one\n//two\n/who\nthree",
                        token=people["ann"])  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" ")[2] for line in done.stdout.decode().splitlines()]
    assert [line for line in lines if line.startswith("ann: ")] == [
        "ann: one", "ann: /two", "ann: three",
    ]  # fmt: skip
    again = hub.try_claw("chat", "--room", "pipe", "--json", stdin=b"/quit\nnever said\n",
                         token=people["bob"])  # fmt: skip
    assert again.returncode == 0, again.stderr
    said = [json.loads(line) for line in again.stdout.decode().splitlines()]
    assert "never said" not in again.stdout.decode()
    assert all(one["channel"] == "room.pipe" for one in said)
    refused = hub.try_claw("chat", "--room", "Not a room!", stdin=b"x\n", token=people["ann"])
    assert refused.returncode == 65
    # A command's answer is JSON too; a line that was refused is told by the exit code.
    some = hub.try_claw("chat", "--room", "pipe", "--json", stdin=b"/who\n/nonsense\nsaid\n",
                        token=people["ann"])  # fmt: skip
    assert some.returncode == 65 and b"/nonsense is not a command" in some.stderr
    answers = [json.loads(line) for line in some.stdout.decode().splitlines()]
    assert [one["id"] for one in answers[-2]["command"]["data"]["members"]] == ["ann", "bob"]
    assert answers[-1]["payload"]["text"] == "said"
    left = hub.try_claw("chat", "--room", "pipe", stdin=b"/leave\nnever said\n",
                        token=people["ann"])  # fmt: skip
    assert left.returncode == 0 and left.stdout.decode().endswith("You left pipe.\n"), left.stderr


def test_a_terminal_keeps_its_line_below_what_comes_in(
    hub: HubProcess, people: dict[str, str]
) -> None:
    mine, theirs = pty.openpty()
    environment = {**hub.program.environment, **hub.environment(people["ann"]), "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "clawnet.cli.main", "chat", "--room", "tty"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        screen = until(mine, b"tty > ")
        os.write(mine, b"hello\x7f\x7fp!\r")
        screen += until(mine, b"ann: help!")
        with SyncClient(hub.url, people["bob"]) as bob:
            bob.join_room("tty")
            os.write(mine, b"half a li")
            until(mine, b"half a li")
            bob.typing(room="tty")
            until(mine, b"(bob types")
            bob.send_chat("look\x1b]0;owned\x07", room="tty")
            # What was typed is there again below.
            came = until(mine, b"bob: look\\e]0;owned\\x07", b"half a li")
        assert b"owned\x07" not in screen + came
        # Who has said it types no more, and who is silent neither.
        assert b"types" not in came.rpartition(b"bob: look")[2]
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
        until_closed(mine)
    finally:
        process.kill()
        process.wait()
        os.close(mine)


def until(descriptor: int, *marks: bytes, within_s: float = 15) -> bytes:
    """What a terminal shows until these came, one behind the other."""
    found, end_s = b"", time.monotonic() + within_s
    while not re.search(b".*".join(re.escape(mark) for mark in marks), found, re.DOTALL):
        ready, _, _ = select.select([descriptor], [], [], max(0.0, end_s - time.monotonic()))
        assert ready, found
        found += os.read(descriptor, 4_096)
    return found


def until_closed(descriptor: int) -> None:
    """Read until the program has let go of its terminal."""
    try:
        while select.select([descriptor], [], [], 15)[0] and os.read(descriptor, 4_096):
            pass
    except OSError:
        pass  # so Linux tells it


def taken(worker: SyncClient, count: int) -> list[Any]:
    """What is open for a worker, once it is there."""
    end_s = time.monotonic() + 15
    while time.monotonic() < end_s:
        tasks = worker.take_tasks().tasks
        if len(tasks) == count:
            return tasks
        time.sleep(0.02)
    raise AssertionError("no work came")


def read_some(process: Any) -> str:
    stream = process.stdout
    ready, _, _ = select.select([stream.fileno()], [], [], 15)
    assert ready
    return os.read(stream.fileno(), 4_096).decode()


def test_who_is_put_out_of_a_room_hears_nothing_more_and_is_told(
    hub: HubProcess, people: dict[str, str]
) -> None:
    with SyncClient(hub.url, people["ann"]) as ann:
        ann.create_room("inner", private=True)
        ann.invite_to_room("inner", "bob")
        mine, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "clawnet.cli.main", "chat", "--room", "inner", "--plain"],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env={**hub.program.environment, **hub.environment(people["bob"])},
        )  # fmt: skip
        os.close(theirs)
        try:
            until(mine, b"in inner with ")
            ann.send_chat("before", room="inner")
            until(mine, b"ann: before")
            ann.leave_room("inner", "bob")
            ann.send_chat("behind it", room="inner")
            assert process.wait(15) == 77
            rest = until(mine, b"claw: ")
            assert b"behind it" not in rest
        finally:
            process.kill()
            process.wait()
            os.close(mine)
