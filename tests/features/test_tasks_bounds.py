"""What a task, an answer and a round of the hub take: each has a bound, and says what it left."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.controls import ChangeControls
from clawnet.core.calls.grants import Grant, Revoke
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.calls.tasks import ApproveTask, ListTasks, TaskInfo
from clawnet.core.errors import Conflict, NotFound, PayloadTooLarge
from clawnet.features.tasks import TasksFeature
from clawnet.features.tasks.record import CUT
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.testing.hubs import HubRig, started_hub
from tests.features.tasks_asking import (
    dispatch,
    finish,
    follow,
    given,
    let_dispatch,
    read,
    said,
    stored,
    take,
    update,
)

BOX = "agent.bob.tasks"
RAW = msgspec.Raw(b'["' + b"a" * 16_000 + b'"]')


def feature_of(rig: HubRig) -> TasksFeature:
    (found,) = [one for one in rig.hub.features if isinstance(one, TasksFeature)]
    return found


def page_text(page: Any) -> bytes:
    return bytes(page.body)


async def revoke(rig: HubRig, owner: Caller, account: str) -> None:
    call = Revoke(account=account, channel=f"agent.{owner.account}.tasks", verbs=["dispatch"])
    await rig.hub.call(call, caller=owner)


async def test_no_event_of_a_task_is_larger_than_an_event_may_be(
    rig: HubRig, master: Caller, bob: Caller
) -> None:
    await follow(rig, bob)
    named: dict[str, Any] = {"command": "\u20ac" * 10_900, "args": RAW, "room": "global"}
    task = await given(rig, master, dedupe_key="k" * 128, **named)
    await update(rig, bob, task)
    told = {"output": "o" * 50_000, "error": "\U0001f525" * 2_000, "said": "\u20ac" * 64}
    done = await finish(rig, bob, task, "failed", exit_code=-1, **told)
    assert done.output is not None and done.output.endswith(CUT) and len(done.output) > 4_000
    # The same word again is a repeat, also where it was cut.
    assert await finish(rig, bob, task, "failed", exit_code=-1, **told) == done
    for channel in (BOX, "agent.boss.tasks", "system.tasks", "public.lobby"):
        events = stored(rig, task, channel)
        assert len(events) == 3
        assert max(len(event.data) for event in events) <= 65_536
    small = await given(rig, master)
    whole = await finish(rig, bob, small, output="o" * 49_152)
    assert whole.output == "o" * 49_152


async def test_a_command_that_leaves_no_room_for_its_result_is_refused() -> None:
    limits = LimitSettings(enabled=False, data_max_bytes=2_000)
    async with started_hub(HubSettings(limits=limits)) as rig:
        boss = await rig.account("boss", role="master")
        bob = await rig.account("bob")
        with pytest.raises(PayloadTooLarge):
            await given(rig, boss, command="x" * 8_000)
        task = await given(rig, boss, command="x" * 2_000)
        await follow(rig, bob)
        (sent,) = await take(rig, bob)
        await finish(rig, bob, sent, output="o" * 40_000)
        assert max(len(event.data) for event in stored(rig, task, BOX)) <= 16_384


async def test_who_lets_an_account_dispatch_lets_it_read_no_more(
    rig: HubRig, master: Caller, bob: Caller, ada: Caller
) -> None:
    secret = await given(rig, master, command="before")
    now = len(stored(rig, secret, BOX)) + 1
    await rig.hub.call(Grant(account="ada", channel=BOX, from_offset=now), caller=bob)
    await let_dispatch(rig, bob, "ada")
    await given(rig, ada, command="after")
    read_back = await rig.hub.call(ReadHistory(channel=BOX), caller=ada)
    assert b"before" not in page_text(read_back)
    assert b"after" in page_text(read_back)
    # Who says it anew opens all of it.
    await rig.hub.call(Grant(account="ada", channel=BOX), caller=bob)
    read_back = await rig.hub.call(ReadHistory(channel=BOX), caller=ada)
    assert b"before" in page_text(read_back)


async def test_what_was_denied_since_it_was_given_is_not_approved(
    rig: HubRig, master: Caller, bob: Caller
) -> None:
    await follow(rig, bob)
    await rig.hub.call(ChangeControls(command_riskylist=["danger"]), caller=master)
    risky = await given(rig, master, command="danger")
    await rig.hub.call(ChangeControls(command_denylist=["danger"]), caller=master)
    call = ApproveTask(task_id=risky.task_id, digest=risky.digest)
    assert (await rig.hub.call(call, caller=master)).status == "rejected"
    assert said(rig, risky, BOX) == ["awaiting_approval", "rejected"]
    assert said(rig, risky, "system.tasks") == ["awaiting_approval", "rejected"]


async def test_of_very_many_tasks_that_are_taken_back_none_is_sent_or_begun(
    rig: HubRig, bob: Caller, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawnet.features.tasks.timekeeping.ENDED_AT_ONCE", 2)
    monkeypatch.setattr("clawnet.features.tasks.timekeeping.AT_ONCE", 3)
    await let_dispatch(rig, bob, "ada")
    queued = [await given(rig, ada) for _ in range(10)]
    await revoke(rig, bob, "ada")
    # The answer is there; a part of them is ended behind it.
    assert (await read(rig, bob, queued[1])).status == "cancelled"
    assert (await read(rig, bob, queued[9])).status == "queued"
    for task in queued[2:]:
        with pytest.raises(Conflict):
            await update(rig, bob, task)
    await follow(rig, bob)
    feature_of(rig)._timekeeping._follow_presence()
    await rig.clock.pass_time(2)
    assert await take(rig, bob) == []
    for task in queued:
        assert said(rig, task, BOX) == ["queued", "cancelled"]


async def test_when_very_many_workers_come_at_once_a_round_sends_a_part_of_their_work(
    rig: HubRig, master: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawnet.features.tasks.timekeeping.AT_ONCE", 3)
    workers = [await rig.account(f"w{n}") for n in range(4)]
    tasks = [await given(rig, master, f"w{n}") for n in (0, 0, 1, 1, 2, 2, 3, 3)]
    keeping = feature_of(rig)._timekeeping
    for worker in workers:
        await follow(rig, worker)
    assert keeping._follow_presence()
    await rig.settle()
    sent = [task for task in tasks if (await read(rig, master, task)).status == "submitted"]
    assert len(sent) == 3
    await rig.clock.pass_time(4)
    for task in tasks:
        assert said(rig, task, f"agent.{task.to}.tasks") == ["queued", "submitted"]


async def test_nobodys_dedupe_keys_are_forgotten_because_somebody_else_gives_much(
    rig: HubRig, master: Caller, bob: Caller, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawnet.features.tasks.timekeeping.KEPT_MAX", 4)
    await follow(rig, bob)
    await follow(rig, ada)
    first = await given(rig, master, dedupe_key="k")
    await finish(rig, bob, first)
    own = []
    for _ in range(8):
        own.append(await given(rig, ada, "ada"))
        await finish(rig, ada, own[-1])
        await rig.clock.pass_time(2)
    await rig.clock.pass_time(11)
    assert (await dispatch(rig, master, dedupe_key="k")).deduped
    with pytest.raises(NotFound):
        await read(rig, ada, own[0])
    assert (await read(rig, ada, own[-1])).status == "completed"
    # Too many bytes go the same way.
    monkeypatch.setattr("clawnet.features.tasks.timekeeping.KEPT_MAX_BYTES", 5_000)
    large = await given(rig, ada, "ada")
    await finish(rig, ada, large, output="x" * 6_000)
    await rig.clock.pass_time(11)
    assert (await dispatch(rig, master, dedupe_key="k")).deduped
    with pytest.raises(NotFound):
        await read(rig, ada, large)


async def test_an_answer_with_several_tasks_is_bounded(
    rig: HubRig, master: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("working", "seeing"):
        monkeypatch.setattr(f"clawnet.features.tasks.{module}.ANSWER_MAX_BYTES", 10_000)
    given_ = [await given(rig, master, command="x" * 4_000) for _ in range(5)]
    ids = [task.task_id for task in given_]
    first = await take(rig, bob)
    assert [task.task_id for task in first] == ids[:2]
    for task in first:
        await update(rig, bob, task)
    assert [task.task_id for task in await take(rig, bob)] == ids[2:4]
    found: list[TaskInfo] = []
    after: str | None = None
    for _ in range(9):
        page = await rig.hub.call(ListTasks(after=after), caller=master)
        assert len(page.tasks) <= 2
        found += page.tasks
        after = page.next
        if after is None:
            break
    assert [task.task_id for task in found] == ids[::-1]
