"""The life of a task: every status has a deadline, and what comes of it is said aloud."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.controls import ChangeControls
from clawnet.core.calls.grants import Grant
from clawnet.core.calls.tasks import (
    OUTPUT_MAX_BYTES,
    ApproveTask,
    CancelTask,
    ListTasks,
    TaskInfo,
)
from clawnet.core.calls.tracing import ReadTrace
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    Conflict,
    DedupeConflict,
    InvalidData,
    NotFound,
    PayloadTooLarge,
    RateLimited,
)
from clawnet.features import FeatureSettings
from clawnet.features.tasks import TasksFeature
from clawnet.features.tasks.record import digests_of
from clawnet.features.tasks.settings import TasksSettings
from clawnet.testing.hubs import HubRig, session_of, started_hub
from clawnet.testing.outlets import RecordingOutlet
from tests.features.tasks_asking import (
    dispatch,
    finish,
    follow,
    given,
    let_dispatch,
    read,
    reason_of,
    said,
    signals,
    stored,
    take,
    update,
)

BOX = "agent.bob.tasks"
SYSTEM = "system.tasks"


@pytest.fixture
async def session(rig: HubRig, bob: Caller) -> RecordingOutlet:
    """Bob is there."""
    return await follow(rig, bob)


async def cancel(rig: HubRig, caller: Caller, task: TaskInfo) -> TaskInfo:
    info: TaskInfo = await rig.hub.call(CancelTask(task_id=task.task_id), caller=caller)
    return info


async def test_a_task_goes_from_its_giver_to_its_worker_and_back(
    rig: HubRig, master: Caller, bob: Caller, session: RecordingOutlet
) -> None:
    for who in ("boss", "bob", "ada"):
        if who == "ada":
            await rig.account("ada")
        grant = Grant(account=who, channel="room.alpha", verbs=["publish", "read"])
        await rig.hub.call(grant, caller=master)
    task = await given(
        rig, master, room="#alpha", args=msgspec.Raw(b'{"a":\n1}'), causation_id="evt_before"
    )
    assert (task.status, task.fence, task.revision, task.room) == ("submitted", 1, 1, "room.alpha")
    assert (task.from_id, task.to, task.timeout_s) == ("boss", "bob", 300.0)
    assert [task.digest] == digests_of(
        ["bob"], kind="openclaw", command="say hello", args=task.args, timeout_s=300.0
    )
    await update(rig, bob, task)
    assert (await update(rig, bob, task, "running", output="one", piece=0)).status == "running"
    await update(rig, bob, task, "running", output="two", piece=1)
    ended = await finish(rig, bob, task, output="hello", exit_code=0, said="SUCCESS")
    assert (ended.status, ended.output, ended.due) == ("completed", "hello", None)
    assert await read(rig, master, task) == ended
    statuses = ["submitted", "accepted", "running", "completed"]
    for channel in (BOX, "agent.boss.tasks", "room.alpha", SYSTEM):
        assert said(rig, task, channel) == statuses
        bodies = [msgspec.json.decode(e.data, type=TaskInfo) for e in stored(rig, task, channel)]
        assert [body.revision for body in bodies] == [1, 2, 3, 4]
        assert bodies[-1] == ended
    assert "\n" not in stored(rig, task, BOX)[0].text()
    first, *later = [msgspec.json.decode(e.text()) for e in stored(rig, task, BOX)]
    assert first["actor"]["id"] == "hub"
    assert first["causation_id"] == "evt_before"
    assert {event["correlation_id"] for event in (first, *later)} == {task.correlation_id}
    assert {event["causation_id"] for event in later} == {first["id"]}
    rooms = [msgspec.json.decode(e.text())["room"] for e in stored(rig, task, "room.alpha")]
    assert rooms == ["alpha"] * 4
    # Pieces of output are shown to who is live, and stored nowhere.
    assert [data["output"] for data in signals(session, "task.output")] == ["one", "two"]
    state = rig.engine.real.scan("task")
    assert len(state) == 1 and '"one"' not in state[0].value and '"hello"' in state[0].value


async def test_a_task_is_one_chain_of_causes(
    rig: HubRig, master: Caller, bob: Caller, session: RecordingOutlet
) -> None:
    task = await given(rig, master, correlation_id="cor_mine")
    await update(rig, bob, task)
    await finish(rig, bob, task)
    first = stored(rig, task, BOX)[0].id
    trace = await rig.hub.call(ReadTrace(id="cor_mine"), caller=bob)
    events = [msgspec.json.decode(line) for line in trace.body.splitlines()]
    assert [event["type"] for event in events] == [
        "task.submitted",
        "task.accepted",
        "task.completed",
    ]
    assert trace.roots == [first] and trace.absent == []


async def test_what_the_hub_remembers_of_ended_tasks_is_bounded(
    rig: HubRig, master: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawnet.features.tasks.book.STALE_MAX", 8)
    monkeypatch.setattr("clawnet.features.tasks.timekeeping.KEPT_MAX", 2)
    (feature,) = [one for one in rig.hub.features if isinstance(one, TasksFeature)]
    book = feature._book
    for _ in range(60):
        await cancel(rig, master, await given(rig, master))
        await rig.clock.pass_time(11)
        assert len(book._heap) <= 2 * (len(book.tasks) + 1) + 8
    assert len(book.tasks) <= 3
    for table in (book.given, book.taken, book.queued, book.submitted, book.given_bytes):
        assert not table
    monkeypatch.setattr("clawnet.features.tasks.dispatching.DISPATCH_MAX_BYTES", 4_000)
    with pytest.raises(PayloadTooLarge):
        await dispatch(rig, master, ["bob", "boss"], command="x" * 3_000)
    monkeypatch.setattr("clawnet.features.tasks.dispatching.OPEN_MAX_BYTES", 5_000)
    await given(rig, master, command="x" * 3_000)
    with pytest.raises(RateLimited):
        await given(rig, master, command="x" * 3_000)


async def test_every_status_has_a_deadline_and_an_event(
    rig: HubRig, master: Caller, bob: Caller
) -> None:
    await rig.hub.call(ChangeControls(command_riskylist=["danger"]), caller=master)
    held = await given(rig, master, command="danger", timeout_s=5)
    queued = await given(rig, master)
    assert (held.status, queued.status) == ("awaiting_approval", "queued")
    assert held.due is not None and queued.due is not None
    rig.clock.advance(86_390)
    await rig.clock.pass_time(2)
    assert (await read(rig, master, queued)).status == "queued"
    await rig.clock.pass_time(15)
    for task, end in ((held, "rejected"), (queued, "delivery_failed")):
        assert (await read(rig, master, task)).status == end
        assert said(rig, task, SYSTEM) == [task.status, end] == said(rig, task, "agent.boss.tasks")
    await follow(rig, bob)
    sent, silent, slow, asking = [await given(rig, master, timeout_s=1_000) for _ in range(4)]
    await update(rig, bob, silent)
    await update(rig, bob, slow, "running")
    await update(rig, bob, asking, "input_required")
    await rig.clock.pass_time(110)
    await update(rig, bob, slow, "running")
    await rig.clock.pass_time(12)
    assert (await read(rig, master, sent)).status == "delivery_failed"
    for task in (silent, asking):
        lost = await read(rig, master, task)
        assert (lost.status, lost.fence) == ("outcome_unknown", 2)
    for _ in range(8):
        assert (await update(rig, bob, slow, "running")).due is not None
        await rig.clock.pass_time(115)
    late = await read(rig, master, slow)
    assert (late.status, late.fence) == ("timed_out", 2)
    assert said(rig, slow, BOX) == ["submitted", "running", "timed_out"]
    assert late.reason is not None


async def test_a_worker_that_lost_its_lease_changes_nothing(
    rig: HubRig, master: Caller, bob: Caller, session: RecordingOutlet
) -> None:
    task = await given(rig, master)
    await update(rig, bob, task)
    for fence in (0, 2):
        with pytest.raises(Conflict) as wrong:
            await finish(rig, bob, task, fence=fence)
        assert reason_of(wrong.value) == "lease_lost"
    await rig.clock.pass_time(121)
    before = await read(rig, bob, task)
    for late in (finish(rig, bob, task, output="late"), update(rig, bob, task, "running")):
        with pytest.raises(Conflict) as refused:
            await late
        assert reason_of(refused.value) == "lease_lost"
    with pytest.raises(Conflict):
        await finish(rig, bob, before, output="late")
    assert await read(rig, bob, task) == before
    assert said(rig, task, BOX) == ["submitted", "accepted", "outcome_unknown"]


async def test_repeating_a_call_is_safe(
    rig: HubRig, master: Caller, bob: Caller, session: RecordingOutlet
) -> None:
    task = await given(rig, master, dedupe_key="k")
    again = await dispatch(rig, master, dedupe_key="k")
    assert again.deduped and again.task_ids == [task.task_id]
    with pytest.raises(DedupeConflict):
        await dispatch(rig, master, dedupe_key="k", command="other")
    other = await given(rig, bob, dedupe_key="k")
    assert other.task_id != task.task_id
    assert said(rig, other, BOX) == ["submitted"]
    accepted = await update(rig, bob, task)
    assert (await update(rig, bob, task)).revision == accepted.revision
    await update(rig, bob, task, "running")
    assert (await update(rig, bob, task)).status == "running"
    done = await finish(rig, bob, task, "failed", error="no", exit_code=1)
    assert await finish(rig, bob, task, "failed", error="no", exit_code=1) == done
    for different in ({"error": "other", "exit_code": 1}, {"error": "no", "exit_code": 2}):
        with pytest.raises(Conflict) as refused:
            await finish(rig, bob, task, "failed", **different)
        assert reason_of(refused.value) == "ended"
    with pytest.raises(Conflict):
        await update(rig, bob, task, "running")
    with pytest.raises(Conflict):
        await cancel(rig, master, task)
    gone = await cancel(rig, master, other)
    assert await cancel(rig, master, other) == gone
    assert (gone.status, gone.fence) == ("cancelled", 2)
    assert said(rig, task, BOX) == ["submitted", "accepted", "running", "failed"]
    rig.engine.is_full = True
    with pytest.raises(ClawError):
        await dispatch(rig, master, dedupe_key="full")
    rig.engine.is_full = False
    assert not (await dispatch(rig, master, dedupe_key="full", command="else")).deduped
    both = await asyncio.gather(*(dispatch(rig, master, dedupe_key="two") for _ in range(3)))
    assert len({done.task_ids[0] for done in both}) == 1
    assert [done.deduped for done in both] == [False, True, True]


async def test_of_cancel_and_finish_at_one_moment_exactly_one_wins(
    rig: HubRig, master: Caller, bob: Caller, session: RecordingOutlet
) -> None:
    for first in ("cancel", "finish"):
        task = await given(rig, master)
        await update(rig, bob, task)
        both = [cancel(rig, master, task), finish(rig, bob, task)]
        ran = both if first == "cancel" else both[::-1]
        outcomes = await asyncio.gather(*ran, return_exceptions=True)
        won, lost = outcomes
        assert isinstance(won, TaskInfo) and isinstance(lost, Conflict)
        assert reason_of(lost) == "ended"
        assert (await read(rig, bob, task)).status == won.status
        assert won.status == ("cancelled" if first == "cancel" else "completed")
        assert said(rig, task, BOX) == ["submitted", "accepted", won.status]
    task = await given(rig, master)
    moves = [update(rig, bob, task), finish(rig, bob, task), update(rig, bob, task, "running")]
    results = await asyncio.gather(*moves, return_exceptions=True)
    assert (await read(rig, bob, task)).status == "completed"
    assert [type(result) for result in results] == [TaskInfo, TaskInfo, Conflict]


async def test_what_nobody_acknowledges_is_sent_again_and_then_said_to_have_failed(
    rig: HubRig, master: Caller, bob: Caller, session: RecordingOutlet
) -> None:
    task = await given(rig, master)
    counts = []
    for wait_s in (1.9, 0.2, 4, 8, 16, 30, 55):
        await rig.clock.pass_time(wait_s)
        counts.append(len(signals(session, "task.submitted")))
    assert counts == [0, 1, 2, 3, 4, 5, 5]
    assert signals(session, "task.submitted")[0]["fence"] == 1
    await rig.clock.pass_time(6)
    assert said(rig, task, BOX) == ["submitted", "delivery_failed"]
    quiet = await given(rig, master)
    await update(rig, bob, quiet)
    await rig.clock.pass_time(20)
    assert len(signals(session, "task.submitted")) == 5


async def test_the_queue_of_an_offline_worker_is_sent_in_order_when_it_comes(
    rig: HubRig, master: Caller, bob: Caller
) -> None:
    tasks = [await given(rig, master, command=f"{n}") for n in range(300)]
    assert {task.status for task in tasks} == {"queued"}
    session = await follow(rig, bob)
    newest = await given(rig, master, command="new")
    assert newest.status == "queued"
    await rig.clock.pass_time(3)
    frames = [frame for frame in session.frames if "offset" in frame.event]
    sent = [f.data["command"] for f in frames if f.event["type"] == "task.submitted"]
    assert sent == [*(str(n) for n in range(300)), "new"]
    session_of(session).close()
    await update(rig, bob, tasks[0])
    await rig.clock.pass_time(15)
    assert said(rig, tasks[1], BOX) == ["queued", "submitted", "queued"]
    assert said(rig, tasks[0], BOX) == ["queued", "submitted", "accepted"]
    # A worker without a session takes them by a call, the oldest first.
    taken = await take(rig, bob)
    assert [task.command for task in taken] == [str(n) for n in range(1, 51)]
    assert {task.status for task in taken} == {"submitted"}
    assert [task.task_id for task in await take(rig, bob)] == [task.task_id for task in taken]
    done = await finish(rig, bob, taken[0])
    assert done.status == "completed"


async def test_a_denied_command_is_rejected_and_a_risky_one_waits_for_its_bytes(
    rig: HubRig, master: Caller, bob: Caller, session: RecordingOutlet
) -> None:
    lists = ChangeControls(command_denylist=["rm -rf"], command_riskylist=["deploy"])
    await rig.hub.call(lists, caller=master)
    for command, args in (
        ("please rm  -rf /", None),
        ("RM -RF /", None),
        ("run", b'{"argv":["rm","-rf","/"]}'),
        ("run", b'["r\\u006d -rf"]'),
    ):
        more: dict[str, Any] = {} if args is None else {"args": msgspec.Raw(args)}
        denied = await given(rig, bob, command=command, **more)
        assert denied.status == "rejected" and "deny list" in (denied.reason or "")
        assert said(rig, denied, SYSTEM) == ["rejected"]
    risky = await given(rig, bob, command="deploy now", timeout_s=10)
    assert risky.status == "awaiting_approval"
    assert signals(session, "task.submitted") == [] and await take(rig, bob) == []
    with pytest.raises(Conflict) as early:
        await update(rig, bob, risky)
    assert reason_of(early.value) == "approval"

    async def approve(digest: str, caller: Caller = master) -> TaskInfo:
        call = ApproveTask(task_id=risky.task_id, digest=digest)
        info: TaskInfo = await rig.hub.call(call, caller=caller)
        return info

    (other,) = digests_of(
        ["bob"], kind="openclaw", command="deploy later", args=msgspec.UNSET, timeout_s=10.0
    )
    for wrong in (other, "", risky.digest.upper()):
        with pytest.raises(Conflict) as refused:
            await approve(wrong)
        assert reason_of(refused.value) == "digest"
    with pytest.raises(ClawError, match="master"):
        await approve(risky.digest, bob)
    approved = await approve(risky.digest)
    assert (approved.status, (approved.reason or "")[:17]) == ("submitted", "Approved by boss.")
    assert await approve(risky.digest) == approved
    await update(rig, bob, risky)
    assert said(rig, risky, SYSTEM) == ["awaiting_approval", "submitted", "approved", "accepted"]
    plain = await given(rig, master)
    with pytest.raises(Conflict):
        await rig.hub.call(ApproveTask(task_id=plain.task_id, digest=plain.digest), caller=master)


async def test_what_is_no_task_is_refused(rig: HubRig, master: Caller, bob: Caller) -> None:
    refused: list[tuple[type[ClawError], dict[str, Any]]] = [
        (BadRequest, {"command": " \n"}),
        (PayloadTooLarge, {"command": "x" * 16_385}),
        (PayloadTooLarge, {"command": "\x00" * 16_000}),
        (PayloadTooLarge, {"args": msgspec.Raw(b'"' + b"x" * 16_384 + b'"')}),
        (InvalidData, {"args": msgspec.Raw(b"{nonsense")}),
        (BadRequest, {"timeout_s": 0.0}),
        (BadRequest, {"timeout_s": float("nan")}),
        (BadRequest, {"timeout_s": 1e9}),
        (BadRequest, {"dedupe_key": ""}),
        (BadRequest, {"correlation_id": "x" * 201}),
        (BadRequest, {"to": []}),
        (BadRequest, {"to": ["bob"] * 1_001}),
        (NotFound, {"to": "nobody"}),
        (NotFound, {"to": ["bob", "all"]}),
        (NotFound, {"to": "\x1b[2J"}),
        (ClawError, {"room": "no such room"}),
    ]
    for error, named in refused:
        with pytest.raises(error):
            await dispatch(rig, master, **{"dedupe_key": "k", **named})
    # Nothing of them is left, not even the key.
    assert rig.engine.real.scan("task") == []
    twice = await dispatch(rig, master, ["bob", "@BOB", "boss"], dedupe_key="k")
    assert [task.to for task in twice.tasks] == ["bob", "boss"]
    huge = "\n" * (OUTPUT_MAX_BYTES // 2 + 1)
    await follow(rig, bob)
    task = await given(rig, master)
    with pytest.raises(PayloadTooLarge):
        await update(rig, bob, task, "running", output=huge)
    with pytest.raises(BadRequest):
        await finish(rig, bob, task, said="a\nb")
    with pytest.raises(BadRequest):
        await finish(rig, bob, task, exit_code=1 << 60)
    done = await finish(rig, bob, task, output=huge, error="e" * 10_000)
    assert done.output is not None and done.output.endswith("[cut by the hub]")
    assert len(msgspec.json.encode(done.output)) <= OUTPUT_MAX_BYTES + 2
    assert await finish(rig, bob, task, output=huge, error="e" * 10_000) == done


async def test_budgets_hold() -> None:
    settings = TasksSettings(
        dispatches_per_s=0.001, dispatches_burst=3, open_per_account_max=4, command_denylist=["no"]
    )

    async with started_hub(features=FeatureSettings(tasks=settings)) as rig:
        boss = await rig.account("boss", role="master")
        chief = await rig.account("chief", role="master")
        for who in ("ada", "bob", "eve"):
            await rig.account(who)
        await dispatch(rig, boss, ["ada", "bob"], dedupe_key="k")
        with pytest.raises(RateLimited) as limited:
            await dispatch(rig, boss, ["ada", "bob"])
        assert limited.value.retry_after_s is not None
        # A repeat costs nothing, and what was refused took nothing.
        assert (await dispatch(rig, boss, ["ada", "bob"], dedupe_key="k")).deduped
        assert (await given(rig, boss, command="say no")).status == "rejected"
        assert [(await given(rig, chief)).status for _ in range(3)] == ["queued"] * 3
        rig.clock.advance(4_000)
        await rig.clock.pass_time(1)
        with pytest.raises(RateLimited) as full:
            await dispatch(rig, boss, "bob")
        assert full.value.facts["reason"] == "open_tasks"
        await dispatch(rig, chief, "ada")
        with pytest.raises(RateLimited) as own:
            await dispatch(rig, chief, "eve")
        assert own.value.facts["reason"] == "open_tasks"
        text = rig.hub.metrics()
        assert "clawnet_tasks_open 6" in text and "clawnet_tasks_rejected 1" in text


async def test_all_is_every_agent_that_takes_work_from_the_caller(
    rig: HubRig, master: Caller, ada: Caller, bob: Caller, warden: Caller
) -> None:
    await rig.account("human", kind="human")
    eve = await rig.account("eve")
    made = await dispatch(rig, master, "all", dedupe_key="k")
    assert [task.to for task in made.tasks] == ["ada", "bob", "eve"]
    assert len({task.correlation_id for task in made.tasks}) == 1
    await rig.account("new")
    again = await dispatch(rig, master, "all", dedupe_key="k")
    assert again.deduped and again.task_ids == made.task_ids
    with pytest.raises(NotFound):
        await dispatch(rig, ada, "all")
    await let_dispatch(rig, eve, "ada")
    assert [task.to for task in (await dispatch(rig, ada, "all")).tasks] == ["eve"]


async def test_lists_come_newest_first_in_pages(
    rig: HubRig, master: Caller, ada: Caller, bob: Caller, session: RecordingOutlet
) -> None:
    tasks = [await given(rig, master, command=f"{n}") for n in range(7)]
    await finish(rig, bob, tasks[2])
    own = await given(rig, ada, "ada")

    async def listed(caller: Caller, **named: Any) -> list[str]:
        found: list[str] = []
        after: str | None = None
        while True:
            call = ListTasks(after=after, limit=3, **named)
            page = await rig.hub.call(call, caller=caller)
            assert len(page.tasks) <= 3
            found += [task.task_id for task in page.tasks]
            after = page.next
            if after is None:
                return found

    ids = [task.task_id for task in tasks]
    assert await listed(master) == [own.task_id, *ids[::-1]]
    assert await listed(bob) == ids[::-1]
    assert await listed(ada) == [own.task_id]
    assert await listed(bob, status="completed") == [ids[2]]
    assert await listed(bob, is_open=False) == [ids[2]]
    assert len(await listed(bob, is_open=True)) == 6
    assert await listed(master, agent="Ada") == [own.task_id]
    assert await listed(bob, agent="ada") == await listed(bob, room="global") == []
    for limit in (0, 201):
        with pytest.raises(BadRequest):
            await rig.hub.call(ListTasks(limit=limit), caller=bob)


async def test_waiting_for_a_task_ends_with_it(
    rig: HubRig, master: Caller, bob: Caller, session: RecordingOutlet
) -> None:
    task = await given(rig, master)
    before_s = rig.clock.steady_s()
    assert (await read(rig, master, task, wait_s=5)).status == "submitted"
    assert rig.clock.steady_s() - before_s == pytest.approx(5, abs=0.1)
    waits = asyncio.ensure_future(read(rig, master, task, wait_s=60))
    await rig.settle()
    await update(rig, bob, task)
    await rig.settle()
    assert not waits.done()
    await finish(rig, bob, task)
    assert (await waits).status == "completed"
    with pytest.raises(BadRequest):
        await read(rig, master, task, wait_s=61)


async def test_what_has_ended_is_kept_within_bounds(
    rig: HubRig, master: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawnet.features.tasks.timekeeping.KEPT_MAX", 3)
    await follow(rig, bob)
    tasks = [await given(rig, master, dedupe_key=f"{n}") for n in range(5)]
    for task in tasks:
        await finish(rig, bob, task)
    await rig.clock.pass_time(11)
    for task in tasks[:2]:
        with pytest.raises(NotFound):
            await read(rig, master, task)
    assert len(rig.engine.real.scan("task")) == 3
    # The key is free again with its task, and not before.
    assert not (await dispatch(rig, master, dedupe_key="0")).deduped
    assert (await dispatch(rig, master, dedupe_key="4")).deduped
    rig.clock.advance(31 * 86_400)
    await rig.clock.pass_time(25)
    with pytest.raises(NotFound):
        await read(rig, master, tasks[4])
