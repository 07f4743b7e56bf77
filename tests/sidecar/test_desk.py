"""The desk: a task runs once, a result is told until it is taken, and nothing outlives its task."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import msgspec
import pytest

from clawnet.client.backoff import Backoff
from clawnet.client.errors import HubUnreachable, UnexpectedAnswer
from clawnet.core.errors import Conflict, NotFound, Unauthenticated, Unavailable
from clawnet.sidecar import desk as desk_module
from clawnet.sidecar import outputs, processes
from clawnet.sidecar import work as work_module
from clawnet.sidecar.desk import Desk
from clawnet.sidecar.journal import Journal, Result
from clawnet.sidecar.settings import SidecarSettings
from clawnet.sidecar.work import Machine, Turns
from clawnet.testing.models import ScriptedProvider
from tests.cli.test_wake import check_gone
from tests.sidecar.tasks import FakeHub, task

NOTE = "import os, sys; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n'); print('ran')"
SLEEP = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(600)"


class Rig:
    """A desk on a folder; again() is the same after a crash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hub = FakeHub()
        self.ran = folder / "ran"
        self.journals: list[Journal] = []
        self.again()

    def again(self, **more: Any) -> None:
        settings = SidecarSettings(
            server="http://127.0.0.1:1",
            agent_id="bob",
            state_dir=self.folder,
            exec_allow=((sys.executable, "-ISc"),),
            grace_s=0.05,
            concurrency=2,
            **more,
        )
        self.machine = machine = Machine(
            settings=settings, folder=self.folder, hub=lambda: cast(Any, self.hub)
        )
        if self.journals:
            # What one of its threads still writes must be in the file before it is read.
            self.journals[-1].close()
        self.journal = Journal(self.folder)
        self.journals.append(self.journal)
        self.desk = Desk(
            self.journal, machine, backoff=lambda: Backoff(first_s=0.001, most_s=0.002)
        )

    def command(self, code: str) -> str:
        return f'{sys.executable} -ISc "{code}" {self.ran}'

    def offer(self, *names: str, code: str = NOTE, **more: Any) -> None:
        for name in names:
            given = task(name, self.command(code), **more)
            self.desk.heard("task.submitted", msgspec.Raw(msgspec.json.encode(given)))

    @asynccontextmanager
    async def telling(self) -> AsyncIterator[None]:
        loop = asyncio.create_task(self.desk.tell())
        try:
            yield
            await self.hub.until(lambda: not self.desk.running and not self.desk.untold)
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            await self.desk.end()

    @property
    def runs(self) -> int:
        return len(self.ran.read_text().splitlines()) if self.ran.exists() else 0


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(outputs, "PIECES_PER_S", 100.0)  # time is real here
    # The sweep looks at the whole machine, where another run of these tests has a t1 as well.
    monkeypatch.setattr(processes, "MARK", f"CLAW_TASK_ID_{uuid4().hex}")
    made = Rig(tmp_path)
    yield made
    made.journal.close()


async def test_a_task_that_is_sent_again_and_again_runs_once(rig: Rig) -> None:
    async with rig.telling():
        rig.offer("t1", "t1")
        await rig.hub.until(lambda: bool(rig.hub.updates))
        rig.offer("t1")
        await rig.hub.until(lambda: bool(rig.hub.results))
        rig.offer("t1")
    assert rig.runs == 1
    assert [status for _, status, _ in rig.hub.updates].count("accepted") == 1
    assert rig.hub.results == [("t1", "completed", "ran\n")]
    # Nor after a restart; a hub that lost the end of it hears it again, without the output.
    rig.again()
    rig.hub.tasks = [task("t1", rig.command(NOTE))]
    rig.offer("t1")
    taking = asyncio.create_task(rig.desk.take())
    await rig.hub.until(lambda: len(rig.hub.results) == 2)
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    await rig.desk.end()
    assert rig.hub.results[1] == ("t1", "completed", None) and rig.runs == 1


async def test_what_the_hub_takes_back_before_it_begins_never_runs(rig: Rig) -> None:
    for error in (Conflict("ended", reason="ended"), NotFound("gone")):
        rig.hub.refusals["update"] = [error]
        rig.offer("t1")
        await rig.hub.until(lambda: not rig.hub.refusals["update"])
        await rig.desk.end()
        assert rig.runs == 0 and rig.journal.entry("t1") is None
    assert rig.hub.results == []


async def test_a_result_is_told_until_it_is_taken_or_refused(rig: Rig) -> None:
    rig.hub.refusals["finish"] = [
        Unavailable("starting"),
        HubUnreachable("gone"),
        UnexpectedAnswer("a proxy's page"),
    ]
    async with rig.telling():
        rig.offer("t1")
        await rig.hub.until(lambda: bool(rig.hub.results))
    assert rig.hub.results == [("t1", "completed", "ran\n")] and rig.desk.untold == 0
    # A lost lease is the end of it: the result is not sent again.
    rig.hub.refusals["finish"] = [Conflict("late", reason="lease_lost")]
    async with rig.telling():
        rig.offer("t2")
        await rig.hub.until(lambda: rig.desk.untold == 0 and not rig.hub.refusals["finish"])
    assert len(rig.hub.results) == 1
    # One that the hub cannot take does not hold up the others.
    rig.hub.refusals["finish"] = [UnexpectedAnswer("odd")]
    rig.offer("t3", "t4")
    await rig.hub.until(lambda: rig.runs == 4)
    await rig.hub.until(lambda: rig.desk.untold == 2)
    with pytest.raises(UnexpectedAnswer):
        await rig.desk.tell_results()
    assert len(rig.hub.results) == 2 and rig.desk.untold == 1
    # Without a valid token it is for the sidecar to get another.
    rig.hub.refusals["finish"] = [Unauthenticated("revoked")]
    with pytest.raises(Unauthenticated):
        await rig.desk.tell()
    await rig.desk.end()


async def test_a_lost_lease_ends_what_runs_and_nothing_is_told_of_it(rig: Rig) -> None:
    async with rig.telling():
        rig.offer("t1", code=SLEEP)
        await rig.hub.until(lambda: any(text for _, _, text in rig.hub.updates))
        pid = int(next(text for _, _, text in rig.hub.updates if text))
        ended = task("t1", status="outcome_unknown", fence=2)
        rig.desk.heard("task.outcome_unknown", msgspec.Raw(msgspec.json.encode(ended)))
        await rig.hub.until(lambda: not rig.desk.running)
        check_gone(pid)
        # The same, learnt from the answer to an update instead.
        rig.hub.refusals["update"] = [None, Conflict("late", reason="lease_lost")]
        rig.offer("t2", code=SLEEP)
        await rig.hub.until(lambda: rig.desk.running == ["t2"])
        await rig.hub.until(lambda: rig.desk.running == [])
        # One that ended while the hub was out of reach is ended as soon as it is back.
        rig.offer("t3", code=SLEEP)
        await rig.hub.until(lambda: any(name == "t3" and text for name, _, text in rig.hub.updates))
        rig.hub.refusals["update"] = [Conflict("ended", reason="ended")]
        rig.desk.wake()
        await rig.hub.until(lambda: rig.desk.running == [])
    assert rig.hub.results == [] and rig.desk.untold == 0


async def test_at_the_end_children_end_and_are_told_of(rig: Rig) -> None:
    rig.offer("t1", "t2", "t3", code=SLEEP)  # two run, one waits
    await rig.hub.until(lambda: sum(1 for _, _, text in rig.hub.updates if text) == 2)
    pids = [int(text) for _, _, text in rig.hub.updates if text]
    await rig.desk.end()
    for pid in pids:
        check_gone(pid)
    await rig.desk.tell_results()
    assert sorted((name, status) for name, status, _ in rig.hub.results) == [
        ("t1", "failed"), ("t2", "failed"), ("t3", "failed"),
    ]  # fmt: skip


async def test_the_machines_own_limit_ends_a_command_whatever_the_dispatch_says(rig: Rig) -> None:
    rig.again(exec_timeout_s=0.05)
    async with rig.telling():
        rig.offer("t1", code=SLEEP, timeout_s=900.0)
        await rig.hub.until(lambda: bool(rig.hub.results))
    assert rig.hub.results[0][1] == "timed_out"


async def test_after_a_crash_what_never_began_runs_and_what_did_has_an_unknown_outcome(
    rig: Rig,
) -> None:
    rig.journal.accept(task("new", rig.command(NOTE)))
    rig.journal.accept(task("begun", rig.command(NOTE)))
    rig.journal.start("begun")
    rig.again()
    await rig.desk.end_interrupted()
    async with rig.telling():
        rig.desk.resume()
        await rig.hub.until(lambda: len(rig.hub.results) == 2)
    assert {name: status for name, status, _ in rig.hub.results} == {
        "begun": "outcome_unknown", "new": "completed",
    }  # fmt: skip
    assert rig.runs == 1


async def test_automatic_answers_foreign_tasks_and_garbage_are_not_run(rig: Rig) -> None:
    async with rig.telling():
        rig.offer("auto", args={"auto": True})
        await rig.hub.until(lambda: bool(rig.hub.results))
        assert rig.hub.results == [("auto", "rejected", None)]
        rig.offer("other", to="ann")
        for kind, data in (("task.submitted", b"{}"), ("chat.message", b"1"), ("task.odd", b"[]")):
            rig.desk.heard(kind, msgspec.Raw(data))
        assert rig.desk.running == []
    assert rig.runs == 0


async def test_what_no_hub_gives_is_left_alone_and_10000_tasks_at_once_are_bounded(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    good = task("t1", rig.command(NOTE))
    for odd in (
        {"task_id": "t1\nERROR forged"}, {"task_id": ""}, {"task_id": "t" * 200},
        {"from_id": "boss\n"}, {"command": "x" * 20_000}, {"timeout_s": 0.0}, {"timeout_s": 1e9},
        {"args": {"x": "y" * 300_000}}, {"from_handle": "h" * 300_000},
    ):  # fmt: skip
        given = msgspec.json.decode(msgspec.json.encode(good)) | odd
        rig.desk.heard("task.submitted", msgspec.Raw(msgspec.json.encode(given)))
    deep = b'{"args":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    rig.desk.heard("task.submitted", msgspec.Raw(deep))
    assert rig.desk.running == []
    assert "\n" not in "".join(record.getMessage() for record in caplog.records)
    rig.offer(*(f"n{number}" for number in range(10_000)), args={"auto": True})
    assert len(rig.desk.running) == desk_module.WORKS_MAX
    await rig.desk.end()
    assert rig.runs == 0


async def test_a_task_that_the_hub_could_not_be_told_of_begins_when_it_is_back(rig: Rig) -> None:
    rig.hub.refusals["update"] = [HubUnreachable("gone"), Unauthenticated("revoked")]
    rig.offer("t1", "t2")
    await rig.hub.until(lambda: not rig.desk.running)
    assert rig.runs == 0 and len(rig.journal.unstarted()) == 2
    async with rig.telling():
        rig.offer("t1")
        rig.desk.wake()
        await rig.hub.until(lambda: len(rig.hub.results) == 2)
    assert rig.runs == 2


async def test_a_hub_that_is_back_is_not_kept_waiting(rig: Rig) -> None:
    rig.desk._backoff = lambda: Backoff(first_s=600, most_s=600)
    rig.hub.refusals |= {"finish": [HubUnreachable("gone")], "take": [HubUnreachable("gone")]}
    rig.hub.tasks = [task("t2", rig.command(NOTE))]
    taking = asyncio.create_task(rig.desk.take())
    async with rig.telling():
        rig.offer("t1")
        await rig.hub.until(lambda: not any(rig.hub.refusals.values()) and rig.desk.untold == 1)
        rig.desk.wake()
        await rig.hub.until(lambda: len(rig.hub.results) == 2)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)


async def test_a_result_is_on_disk_before_a_slow_hub_has_taken_the_last_output(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_module, "LAST_WORDS_WITHIN_S", 0.05)
    slow = asyncio.Event()

    async def hanging(task_id: str, fence: int, status: str, **more: Any) -> Any:
        if status == "running":
            await slow.wait()

    monkeypatch.setattr(rig.hub, "update_task", hanging)
    rig.offer("t1")
    await rig.hub.until(lambda: rig.desk.untold == 1)
    assert rig.desk.running == ["t1"], "its output is still being told"
    await rig.hub.until(lambda: not rig.desk.running)
    await rig.desk.tell_results()
    assert rig.hub.results == [("t1", "completed", "ran\n")]


async def test_what_is_cancelled_before_it_begins_never_does(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = rig.journal.start

    def cancelled_meanwhile(task_id: str) -> None:
        start(task_id)
        rig.desk._works[task_id].lose()

    monkeypatch.setattr(rig.journal, "start", cancelled_meanwhile)
    async with rig.telling():
        rig.offer("t1")
    # Nor while the hub is slow to hear that it was accepted.
    monkeypatch.setattr(rig.hub, "update_task", lambda *_, **__: asyncio.Event().wait())
    rig.offer("t2")
    await rig.hub.until(lambda: rig.journal.entry("t2") is not None)
    ended = task("t2", status="cancelled")
    rig.desk.heard("task.cancelled", msgspec.Raw(msgspec.json.encode(ended)))
    await rig.hub.until(lambda: not rig.desk.running)
    assert rig.runs == 0 and rig.hub.results == [] and rig.journal.entry("t2") is None


async def test_an_orchestrated_turn_that_is_ended_in_the_middle_has_an_unknown_outcome(
    rig: Rig,
) -> None:
    class Hanging:
        """An OpenClaw whose turns last until they are ended."""

        turns = 0

        def conversation(self, **_: Any) -> str:
            return "one"

        async def turn(self, text: str, *, stop: asyncio.Event, **_: Any) -> Result:
            self.turns += 1
            await stop.wait()
            await asyncio.to_thread(int)  # ending processes takes its time
            return Result(status="outcome_unknown")

    claw = Hanging()
    rig.machine.openclaw = cast(Any, claw)
    rig.machine.model = ScriptedProvider(["goal", "plan", "PASS", None])
    wanted: dict[str, Any] = {"kind": "custom", "args": {"orchestrate": True}}
    rig.offer("t1", "t2", **wanted)
    await rig.hub.until(lambda: claw.turns == 1)
    await rig.desk.end()
    await rig.desk.tell_results()
    # The other had not begun.
    assert {name: status for name, status, _ in rig.hub.results} == {
        "t1": "outcome_unknown", "t2": "failed",
    }  # fmt: skip


def test_the_sweep_kills_what_carries_the_mark_and_never_itself() -> None:
    code = (
        "import subprocess, sys\n"
        "from clawnet.sidecar.processes import end_leftovers\n"
        "sleeper = [sys.executable, '-ISc', 'import time; time.sleep(600)']\n"
        "marked = subprocess.Popen(sleeper)\n"
        "other = subprocess.Popen(sleeper, env={'CLAW_TASK_ID': 'another'})\n"
        "print(end_leftovers({sys.argv[1]}), marked.wait(30), other.poll())\n"
        "other.kill()\n"
    )
    mark = uuid4().hex
    ran = subprocess.run(
        [sys.executable, "-c", code, mark],
        env={"CLAW_TASK_ID": mark},
        capture_output=True,
        timeout=60,
    )
    assert ran.stdout == b"1 -9 None\n", ran.stderr


async def test_what_is_too_much_is_left_to_the_hub_and_asked_for_when_there_is_room(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "WORKS_MAX", 2)
    taking = asyncio.create_task(rig.desk.take())
    async with rig.telling():
        rig.offer("t1", "t2", "t3")
        assert rig.desk.running == ["t1", "t2"]
        rig.hub.tasks = [task("t3", rig.command(NOTE))]
        await rig.hub.until(lambda: len(rig.hub.results) == 3)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
    assert rig.runs == 3


async def test_a_disk_that_cannot_be_written_runs_nothing(rig: Rig) -> None:
    rig.journal.close()
    rig.offer("t1")
    await rig.hub.until(lambda: not rig.desk.running)
    assert rig.runs == 0 and rig.hub.updates == []


async def test_turns_of_a_conversation_come_in_order_and_leave_nothing_behind() -> None:
    turns = Turns()
    first, second, third = (turns.join("room") for _ in range(3))
    other = turns.join("elsewhere")
    assert [place.done() for place in (first, second, third, other)] == [True, False, False, True]
    turns.leave("room", second)  # one that gave up
    assert not third.done()
    turns.leave("room", first)
    assert third.done()
    turns.leave("room", third)
    turns.leave("elsewhere", other)
    assert len(turns) == 0
