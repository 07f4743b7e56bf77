"""Tasks outlive the hub: every open status goes on after a stop and after a kill."""

from __future__ import annotations

import msgspec
import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import DeleteAccount
from clawnet.core.calls.controls import ChangeControls
from clawnet.core.calls.tasks import ApproveTask, TaskInfo
from clawnet.core.errors import Conflict, DedupeConflict
from clawnet.testing.hubs import HubRig
from tests.features.tasks_asking import (
    dispatch,
    finish,
    follow,
    given,
    let_dispatch,
    read,
    reason_of,
    said,
    take,
    update,
)

BOX = "agent.bob.tasks"


def undated(task: TaskInfo) -> TaskInfo:
    return msgspec.structs.replace(task, due=None)


@pytest.mark.parametrize("how", ["restart", "crash"])
async def test_every_open_status_goes_on(
    rig: HubRig, master: Caller, ada: Caller, bob: Caller, how: str
) -> None:
    await rig.hub.call(ChangeControls(command_riskylist=["danger"]), caller=master)
    await follow(rig, bob)
    risky = await given(rig, master, command="danger", dedupe_key="k")
    queued = await given(rig, master, "ada")
    sent, accepted, running, asking, ended = [await given(rig, master) for _ in range(5)]
    await update(rig, bob, accepted)
    await update(rig, bob, running, "running")
    await update(rig, bob, asking, "input_required")
    await finish(rig, bob, ended, output="x")
    everything = [risky, queued, sent, accepted, running, asking, ended]
    before = [await read(rig, master, task) for task in everything]
    await rig.clock.pass_time(50)
    await update(rig, bob, running, "running")
    renewed = await read(rig, master, running)
    await (rig.restart() if how == "restart" else rig.crash())
    master, bob, ada = [await rig.caller(who) for who in ("boss", "bob", "ada")]
    after = [await read(rig, master, task) for task in everything]
    before[4] = renewed
    assert renewed.due != running.due
    assert [undated(task) for task in after] == [undated(task) for task in before]
    # Who was heard of before is heard of no later: the times of a lease only grow.
    assert all((now.due or "") >= (then.due or "") for now, then in zip(after, before, strict=True))
    # The same dispatch again gives the same task, another one is refused.
    again = await dispatch(rig, master, command="danger", dedupe_key="k")
    assert again.deduped and again.task_ids == [risky.task_id]
    with pytest.raises(DedupeConflict):
        await dispatch(rig, master, command="else", dedupe_key="k")
    # Nobody counts as gone before it had time to come back.
    await rig.clock.pass_time(5)
    assert (await read(rig, master, sent)).status == "submitted"
    await rig.clock.pass_time(7)
    assert (await read(rig, master, sent)).status == "queued"
    assert [task.task_id for task in await take(rig, bob)] == [sent.task_id]
    assert [task.task_id for task in await take(rig, ada)] == [queued.task_id]
    await update(rig, bob, sent)
    call = ApproveTask(task_id=risky.task_id, digest=risky.digest)
    assert (await rig.hub.call(call, caller=master)).status == "submitted"
    assert (await finish(rig, bob, accepted)).status == "completed"
    assert (await update(rig, bob, asking, "running")).status == "running"
    newest = await given(rig, master)
    assert newest.task_id > max(task.task_id for task in everything)
    # The lease goes on by the hub's clock: it is over when it would have been.
    await rig.clock.pass_time(109)
    assert (await read(rig, master, running)).status == "outcome_unknown"
    assert (await read(rig, master, asking)).status == "running"
    assert said(rig, running, BOX) == ["submitted", "running", "outcome_unknown"]
    await rig.hub.close()


async def test_a_worker_that_the_hub_could_not_hear_keeps_its_task(
    rig: HubRig, master: Caller, bob: Caller
) -> None:
    await follow(rig, bob)
    sent, live, slow = [await given(rig, master, timeout_s=t) for t in (1_000, 1_000, 120)]
    await update(rig, bob, live)
    await update(rig, bob, slow)
    # So short after the last one a renewal of the lease is in memory alone.
    await rig.clock.pass_time(39)
    await update(rig, bob, live, "running")
    await update(rig, bob, slow, "running")
    await rig.clock.pass_time(76)
    await rig.crash()
    bob = await rig.caller("bob")
    await follow(rig, bob)
    await rig.clock.pass_time(50)
    assert (await update(rig, bob, sent)).status == "accepted"
    assert (await update(rig, bob, live, "running")).status == "running"
    assert (await finish(rig, bob, slow, output="in time")).status == "completed"
    # It has as long as at the beginning, and no longer.
    await rig.clock.pass_time(125)
    assert (await read(rig, bob, live)).status == "outcome_unknown"


async def test_a_clock_that_is_put_ahead_makes_no_worker_late(
    rig: HubRig, master: Caller, bob: Caller
) -> None:
    await follow(rig, bob)
    sent, accepted, running = [await given(rig, master, timeout_s=200) for _ in range(3)]
    await update(rig, bob, accepted)
    await update(rig, bob, running, "running")
    for _ in range(3):
        await rig.clock.pass_time(20)
        rig.clock.jump(55)
        await rig.clock.pass_time(2)
    for task, status in ((sent, "accepted"), (accepted, "running"), (running, "running")):
        assert (await read(rig, bob, task)).status != "outcome_unknown"
        assert (await update(rig, bob, task, status)).status == status
    # By time that passes each ends as if the clock had always been right.
    await rig.clock.pass_time(110)
    assert (await update(rig, bob, running, "running")).status == "running"
    await rig.clock.pass_time(30)
    assert (await read(rig, bob, accepted)).status == "outcome_unknown"
    await rig.clock.pass_time(60)
    assert (await read(rig, bob, running)).status == "timed_out"


async def test_what_ended_while_the_hub_was_away_is_said_at_its_start(
    rig: HubRig, master: Caller, bob: Caller
) -> None:
    await rig.account("eve")
    await let_dispatch(rig, bob, "eve")
    eve = await rig.caller("eve")
    lost = await given(rig, eve)
    late = await given(rig, master, command="late")
    # Killed between the deletion and what follows from it.
    rig.engine.is_full = True
    with pytest.raises(Exception, match="full"):
        await rig.hub.call(DeleteAccount(id="eve"), caller=HUB)
    rig.engine.is_full = False
    rig.clock.advance(86_401)
    await rig.clock.pass_time(3)
    assert (await read(rig, await rig.caller("boss"), late)).status == "delivery_failed"
    assert said(rig, lost, BOX) == ["queued", "cancelled"]
    await rig.crash()
    await rig.clock.pass_time(3)
    assert said(rig, lost, BOX) == ["queued", "cancelled"]


async def test_a_full_disk_delays_what_is_due_and_loses_nothing(
    rig: HubRig, master: Caller, bob: Caller
) -> None:
    await follow(rig, bob)
    task = await given(rig, master)
    await update(rig, bob, task)
    rig.engine.is_full = True
    await rig.clock.pass_time(125)
    assert (await read(rig, master, task)).status == "accepted"
    rig.engine.is_full = False
    await rig.clock.pass_time(3)
    assert said(rig, task, BOX) == ["submitted", "accepted", "outcome_unknown"]
    with pytest.raises(Conflict) as refused:
        await finish(rig, bob, task)
    assert reason_of(refused.value) == "lease_lost"


async def test_after_a_restart_the_chain_goes_on_at_the_dispatch(
    rig: HubRig, master: Caller, bob: Caller
) -> None:
    await follow(rig, bob)
    task = await given(rig, master, correlation_id="cor_x")
    await update(rig, bob, task)
    await rig.crash()
    bob = await rig.caller("bob")
    await finish(rig, bob, task)
    events = rig.engine.real._channels[("main", BOX)]  # type: ignore[attr-defined]
    first, *later = [msgspec.json.decode(event.text()) for event in events]
    assert [event["causation_id"] for event in later] == [first["id"]] * 2
    assert {event["correlation_id"] for event in (first, *later)} == {"cor_x"}
    # Newer tasks come behind it, whatever became of the clock.
    rig.clock.jump(-10_000)
    await rig.crash()
    assert (await given(rig, await rig.caller("bob"))).task_id > task.task_id
