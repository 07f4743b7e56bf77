"""Who may give work, see it and do it; and what becomes of it when a right ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import DeleteAccount, UpdateAccount
from clawnet.core.calls.controls import ChangeControls
from clawnet.core.calls.grants import Grant, Revoke
from clawnet.core.calls.tasks import (
    ApproveTask,
    CancelTask,
    ListTasks,
    TakeTasks,
    TaskInfo,
)
from clawnet.core.calls.tokens import RevokeToken
from clawnet.core.calls.worlds import CreateWorld
from clawnet.core.errors import (
    ClawError,
    Conflict,
    DiskFull,
    Forbidden,
    NotFound,
    Unauthenticated,
)
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


async def revoke(rig: HubRig, owner: Caller, account: str) -> None:
    call = Revoke(account=account, channel=f"agent.{owner.account}.tasks", verbs=["dispatch"])
    await rig.hub.call(call, caller=owner)


async def join(rig: HubRig, master: Caller, account: str, **named: Any) -> None:
    """Let an account write in and read room.alpha."""
    verbs: list[Any] = ["publish", "read"]
    call = Grant(account=account, channel="room.alpha", verbs=verbs, **named)
    await rig.hub.call(call, caller=master)


async def elsewhere(rig: HubRig) -> Caller:
    """A master of another world."""
    admin = await rig.account("admin", role="master")
    made = await rig.hub.call(CreateWorld(id="other"), caller=admin)
    return rig.hub.authenticate(made.token)


async def listed(rig: HubRig, caller: Caller, **named: Any) -> list[str]:
    page = await rig.hub.call(ListTasks(**named), caller=caller)
    return [task.task_id for task in page.tasks]


async def test_only_who_has_the_right_gives_work(
    rig: HubRig, master: Caller, ada: Caller, bob: Caller, warden: Caller
) -> None:
    outside = await rig.account("outside", kind="ext")
    made = await rig.hub.call(
        CreateWorld(id="other"), caller=await rig.account("admin", role="master")
    )
    stranger = rig.hub.authenticate(made.token)
    narrowed = await rig.caller("boss", scopes=["events:read", "events:write"])
    refused: list[tuple[Caller, type[ClawError]]] = [
        (ada, Forbidden),
        (warden, Forbidden),
        (outside, Forbidden),
        (narrowed, Forbidden),
        (stranger, NotFound),
        (HUB, Forbidden),
        (Caller(account=None), Unauthenticated),
    ]
    for caller, error in refused:
        for to in ("bob", ["bob", "bob"]):
            with pytest.raises(error):
                await dispatch(rig, caller, to, dedupe_key="k")
    for caller in (narrowed, outside, Caller(account=None), ada, warden):
        with pytest.raises(ClawError):
            await dispatch(rig, caller, "all")
    # Of several the first that is refused refuses all.
    with pytest.raises(Forbidden):
        await dispatch(rig, ada, ["ada", "bob"])
    assert rig.engine.real.scan("task") == []
    await let_dispatch(rig, bob, "ada")
    for caller, to in ((master, "bob"), (ada, "ada"), (ada, "bob"), (bob, "bob"), (warden, "eye")):
        assert (await given(rig, caller, to)).to == to
    with pytest.raises(Forbidden):
        await dispatch(rig, await rig.caller("ada", scopes=["events:write"]), "bob")
    with pytest.raises(Forbidden):
        await dispatch(rig, outside, "outside")


async def test_a_task_is_told_only_where_its_giver_may_write(
    rig: HubRig, master: Caller, ada: Caller, bob: Caller
) -> None:
    await join(rig, master, "bob")
    for room in ("alpha", "room.alpha", "#alpha", "dm.bob.boss"):
        with pytest.raises(Forbidden):
            await dispatch(rig, ada, "ada", room=room)
    task = await given(rig, bob, room="global")
    assert task.room == "public.lobby"
    assert await read(rig, ada, task) == task
    assert (await given(rig, bob, room="dm.ada.bob")).room == "dm.ada.bob"


async def test_who_is_not_concerned_sees_nothing(
    rig: HubRig, master: Caller, ada: Caller, bob: Caller, warden: Caller
) -> None:
    eve = await rig.account("eve")
    late = await rig.account("late")
    await join(rig, master, "boss")
    await join(rig, master, "ada")
    session = rig.connect(eve, "agent.*.tasks", "room.*")
    with pytest.raises(Forbidden):
        rig.connect(eve, "system.tasks")
    task = await given(rig, master, room="alpha")
    await rig.publish(master, "room.alpha", {"text": "next"})
    await join(rig, master, "late", from_offset=2)
    await update(rig, bob, task)
    for caller in (eve, late):
        for call in (
            read(rig, caller, task),
            read(rig, caller, task, wait_s=5),
            update(rig, caller, task),
            finish(rig, caller, task),
            rig.hub.call(CancelTask(task_id=task.task_id), caller=caller),
        ):
            with pytest.raises(NotFound):
                await call
        for named in ({}, {"room": "alpha"}, {"agent": "bob"}, {"is_open": True}):
            assert await listed(rig, caller, **named) == []
        assert await take(rig, caller) == []
        with pytest.raises(Forbidden):
            await rig.hub.call(ApproveTask(task_id=task.task_id, digest=task.digest), caller=caller)
    assert not [frame for frame in session.frames if frame.event["type"].startswith("task.")]
    # A member of its room sees it, and does nothing to it.
    for caller in (ada, warden, master, bob):
        assert (await read(rig, caller, task)).status == "accepted"
        assert await listed(rig, caller) == [task.task_id]
    assert await listed(rig, ada, room="#alpha") == [task.task_id]
    for caller in (ada, warden, master):
        for call in (update(rig, caller, task), finish(rig, caller, task)):
            with pytest.raises(Forbidden):
                await call
    for caller in (ada, warden):
        with pytest.raises(Forbidden):
            await rig.hub.call(CancelTask(task_id=task.task_id), caller=caller)
    narrowed = await rig.caller("bob", scopes=["events:read"])
    assert (await read(rig, narrowed, task)).to == "bob"
    for call in (update(rig, narrowed, task), finish(rig, narrowed, task), take(rig, narrowed)):
        with pytest.raises(Forbidden):
            await call
    working = await rig.caller("bob", scopes=["tasks:write"])
    assert (await finish(rig, working, task)).status == "completed"
    none = await rig.caller("bob", scopes=["grants:write"])
    with pytest.raises(NotFound):
        await read(rig, none, task)
    nobody = Caller(account=None)
    for request in (TakeTasks(), ListTasks(), CancelTask(task_id=task.task_id)):
        with pytest.raises(Unauthenticated):
            await rig.hub.call(request, caller=nobody)


async def test_another_world_sees_nothing(rig: HubRig, master: Caller, bob: Caller) -> None:
    made = await rig.hub.call(
        CreateWorld(id="other"), caller=await rig.account("admin", role="master")
    )
    stranger = rig.hub.authenticate(made.token)
    task = await given(rig, master, room="global")
    with pytest.raises(NotFound):
        await read(rig, stranger, task)
    assert await listed(rig, stranger) == [] == await listed(rig, stranger, room="global")
    with pytest.raises(NotFound):
        await rig.hub.call(CancelTask(task_id=task.task_id), caller=stranger)


@pytest.mark.parametrize("how", ["revoked", "demoted"])
async def test_a_right_that_ends_takes_back_what_nobody_works_on(
    rig: HubRig, master: Caller, ada: Caller, bob: Caller, how: str
) -> None:
    await rig.hub.call(ChangeControls(command_riskylist=["danger"]), caller=master)
    if how == "demoted":
        await rig.hub.call(UpdateAccount(id="ada", role="master"), caller=HUB)
        ada = await rig.caller("ada")
    else:
        await let_dispatch(rig, bob, "ada")
    queued = await given(rig, ada)
    risky = await given(rig, ada, command="danger")
    await follow(rig, bob)
    await rig.clock.pass_time(2)
    sent, accepted = await given(rig, ada), await given(rig, ada)
    await update(rig, bob, accepted)
    other = await given(rig, master)
    if how == "revoked":
        end = revoke(rig, bob, "ada")
    else:
        end = rig.hub.call(UpdateAccount(id="ada", role="worker"), caller=HUB)
    await end
    # All of it is said before the revoke is answered.
    heads = rig.engine.real.last_seq
    for task in (queued, risky, sent):
        gone = await read(rig, master, task)
        assert gone.status == "cancelled" and gone.fence == 2 and "ada" in (gone.reason or "")
        assert said(rig, task, BOX)[-1] == "cancelled" == said(rig, task, "system.tasks")[-1]
        with pytest.raises(Conflict) as late:
            await update(rig, bob, task)
        assert reason_of(late.value) == "ended"
    with pytest.raises(Conflict):
        await rig.hub.call(ApproveTask(task_id=risky.task_id, digest=risky.digest), caller=master)
    assert rig.engine.real.last_seq == heads
    assert (await finish(rig, bob, accepted)).status == "completed"
    assert (await read(rig, master, other)).status == "submitted"
    with pytest.raises(Forbidden):
        await dispatch(rig, ada)


async def test_a_revoke_at_the_same_moment_leaves_nothing_to_do(
    rig: HubRig, bob: Caller, ada: Caller
) -> None:
    """A dispatch that was queued before the revoke is stored, and taken back at once."""
    await follow(rig, bob)
    for turns in range(8):
        await let_dispatch(rig, bob, "ada")
        dispatching = asyncio.ensure_future(given(rig, ada))
        for _ in range(turns):
            await asyncio.sleep(0)
        await revoke(rig, bob, "ada")
        (outcome,) = await asyncio.gather(dispatching, return_exceptions=True)
        await rig.settle()
        if isinstance(outcome, TaskInfo):
            assert said(rig, outcome, BOX) == ["submitted", "cancelled"]
            assert await take(rig, bob) == []
            with pytest.raises(Conflict):
                await update(rig, bob, outcome)
            assert (await read(rig, bob, outcome)).status == "cancelled"
        else:
            assert isinstance(outcome, Forbidden)
    assert await listed(rig, bob, is_open=True) == []


async def test_a_dispatch_that_waited_for_its_twin_is_asked_for_its_right_again(
    rig: HubRig, bob: Caller, ada: Caller
) -> None:
    await let_dispatch(rig, bob, "ada")
    token = await rig.caller("ada")
    first = asyncio.ensure_future(dispatch(rig, ada, dedupe_key="k"))
    second = asyncio.ensure_future(dispatch(rig, token, dedupe_key="k"))
    await asyncio.sleep(0)
    rig.hub.directory.remove_grant("main", "ada", BOX)
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["Dispatched", "Forbidden"]


async def test_a_deleted_account_ends_what_it_gave_and_what_it_should_do(
    rig: HubRig, master: Caller, ada: Caller, bob: Caller
) -> None:
    await let_dispatch(rig, bob, "ada")
    await follow(rig, bob)
    sent, running = await given(rig, ada), await given(rig, ada)
    await update(rig, bob, running, "running")
    await rig.hub.call(DeleteAccount(id="ada"), caller=HUB)
    for task in (sent, running):
        assert (await read(rig, bob, task)).status == "cancelled"
        assert said(rig, task, BOX)[-1] == "cancelled"
    with pytest.raises(Conflict):
        await finish(rig, bob, running)
    waiting, working = await given(rig, master), await given(rig, master)
    await update(rig, bob, working)
    await rig.hub.call(DeleteAccount(id="bob"), caller=HUB)
    assert (await read(rig, master, waiting)).status == "delivery_failed"
    assert (await read(rig, master, working)).status == "outcome_unknown"
    for task in (waiting, working):
        assert said(rig, task, "agent.boss.tasks")[-1] == (await read(rig, master, task)).status


async def test_a_wait_ends_with_the_right_to_see(
    rig: HubRig, master: Caller, ada: Caller, bob: Caller
) -> None:
    await join(rig, master, "boss")
    await join(rig, master, "ada")
    task = await given(rig, master, room="alpha")
    waits = asyncio.ensure_future(read(rig, ada, task, wait_s=60))
    own = asyncio.ensure_future(read(rig, bob, task, wait_s=60))
    await rig.settle()
    await rig.hub.call(Revoke(account="ada", channel="room.alpha"), caller=master)
    assert bob.token_id is not None
    await rig.hub.call(RevokeToken(id=bob.token_id), caller=bob)
    before_s = rig.clock.steady_s()
    with pytest.raises(NotFound):
        await waits
    with pytest.raises(Unauthenticated):
        await own
    assert rig.clock.steady_s() - before_s < 1


async def test_what_could_not_be_taken_back_yet_is_not_begun_either(
    rig: HubRig, master: Caller, ada: Caller, bob: Caller
) -> None:
    await rig.hub.call(ChangeControls(command_riskylist=["danger"]), caller=master)
    await let_dispatch(rig, bob, "ada")
    await follow(rig, bob)
    sent, risky = await given(rig, ada), await given(rig, ada, command="danger")
    rig.engine.is_full = True
    with pytest.raises(DiskFull):
        await revoke(rig, bob, "ada")
    rig.engine.is_full = False
    assert (await read(rig, bob, sent)).status == "submitted"
    for call in (
        update(rig, bob, sent),
        finish(rig, bob, sent),
        rig.hub.call(ApproveTask(task_id=risky.task_id, digest=risky.digest), caller=master),
    ):
        with pytest.raises(Conflict) as refused:
            await call
        assert reason_of(refused.value) == "ended"
    assert await take(rig, bob) == []
    await rig.clock.pass_time(3)
    for task, before in ((sent, "submitted"), (risky, "awaiting_approval")):
        assert said(rig, task, BOX) == [before, "cancelled"]
