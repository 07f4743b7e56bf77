"""Answers to many questions at once: how few are asked about, and in which order they come."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.publishing import PublishBatch, Published
from clawnet.core.errors import ClawError, TooManyExpectations
from clawnet.core.events import Draft, Expect
from clawnet.core.units import Unit
from clawnet.features.deadlines import DeadlinesFeature
from clawnet.features.deadlines.expectation import Expectation
from clawnet.features.deadlines.feature import ALIKE_PER_ACCOUNT_MAX
from clawnet.testing.hubs import HubRig, event

INBOX = "agent.bob.inbox"
SOON = Expect(reply_within_s=30)


def deadlines(rig: HubRig) -> DeadlinesFeature:
    [found] = [f for f in rig.hub._features if isinstance(f, DeadlinesFeature)]
    return found


def open_count(rig: HubRig) -> int:
    """How many are open, in memory and on disk alike."""
    stored = rig.engine.scan("expectation")
    assert len(stored) == len(deadlines(rig).open)
    return len(stored)


async def ask(rig: HubRig, caller: Caller, **named: Any) -> Published:
    return await rig.publish(caller, INBOX, "?", expect=SOON, **named)


@pytest.fixture
async def cleo(rig: HubRig) -> Caller:
    return await rig.account("cleo")


async def test_an_account_waits_for_few_answers_of_one_correlation(
    rig: HubRig, ada: Caller, bob: Caller, cleo: Caller
) -> None:
    events = [
        event(INBOX, n, expect=SOON, correlation_id="c") for n in range(ALIKE_PER_ACCOUNT_MAX + 1)
    ]
    with pytest.raises(TooManyExpectations) as refused:
        await rig.hub.call(PublishBatch(events=events), caller=ada)
    assert refused.value.facts == {"limit": ALIKE_PER_ACCOUNT_MAX, "index": ALIKE_PER_ACCOUNT_MAX}
    assert not deadlines(rig)._opening
    await rig.hub.call(PublishBatch(events=events[:-1]), caller=ada)
    with pytest.raises(TooManyExpectations):
        await ask(rig, ada, correlation_id="c")
    # Other accounts and other correlation ids are not concerned, and it is free again after.
    await ask(rig, cleo, correlation_id="c")
    await ask(rig, ada, correlation_id="d")
    await rig.publish(bob, "public.lobby", "!", correlation_id="c")
    await ask(rig, ada, correlation_id="c")
    assert open_count(rig) == 2


async def test_a_batch_of_answers_removes_each_once(
    rig: HubRig, ada: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(ALIKE_PER_ACCOUNT_MAX):
        await ask(rig, ada, correlation_id="c", dedupe_key=str(n))
    units: list[Unit] = []
    asked: list[Expectation] = []
    submit, is_answer = rig.hub.committer.submit, deadlines(rig)._is_answer

    def submitted(unit: Unit, reply: Any) -> None:
        units.append(unit)
        submit(unit, reply)

    def decided(one: Expectation, caller: Caller, draft: Draft) -> bool:
        asked.append(one)
        return is_answer(one, caller, draft)

    monkeypatch.setattr(rig.hub.committer, "submit", submitted)
    monkeypatch.setattr(deadlines(rig), "_is_answer", decided)
    replies = [event("public.lobby", n, correlation_id="c") for n in range(1_000)]
    await rig.hub.call(PublishBatch(events=replies), caller=bob)
    assert open_count(rig) == 0
    assert [len(unit.changes) for unit in units] == [ALIKE_PER_ACCOUNT_MAX]
    assert len(asked) == ALIKE_PER_ACCOUNT_MAX


async def test_a_repeated_answer_in_a_batch_leaves_it_to_the_new_one(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    old = event("public.lobby", "old", correlation_id="c", dedupe_key="k")
    await rig.hub.call(PublishBatch(events=[old]), caller=bob)
    await ask(rig, ada, correlation_id="c")
    await rig.hub.call(PublishBatch(events=[old]), caller=bob)
    assert open_count(rig) == 1
    new = event("public.lobby", "new", correlation_id="c")
    await rig.hub.call(PublishBatch(events=[old, new]), caller=bob)
    assert open_count(rig) == 0


async def test_an_answer_that_is_queued_right_behind_its_question_ends_it(
    rig: HubRig, ada: Caller, bob: Caller, cleo: Caller
) -> None:
    asking = asyncio.create_task(ask(rig, ada, correlation_id="c"))
    wrong = asyncio.create_task(rig.publish(cleo, "public.lobby", "!", correlation_id="c"))
    await asyncio.gather(asking, wrong)
    assert open_count(rig) == 1
    asking = asyncio.create_task(ask(rig, ada, correlation_id="d"))
    answering = asyncio.create_task(rig.publish(bob, "public.lobby", "!", correlation_id="d"))
    await asyncio.gather(asking, answering)
    assert open_count(rig) == 1
    assert not deadlines(rig)._opening
    [left] = deadlines(rig).open._by_key.values()
    assert left.record.correlation_id == "c"


async def test_a_question_that_was_refused_is_not_answered_by_what_was_queued_behind_it(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await ask(rig, ada, correlation_id="before")
    rig.engine.is_full = True
    asking = asyncio.create_task(ask(rig, ada, correlation_id="c", dedupe_key="k"))
    answering = asyncio.create_task(rig.publish(bob, "public.lobby", "!", correlation_id="c"))
    done = await asyncio.gather(asking, answering, return_exceptions=True)
    assert all(isinstance(one, ClawError) for one in done)
    assert not deadlines(rig)._opening
    rig.engine.is_full = False
    await ask(rig, ada, correlation_id="c", dedupe_key="k")
    assert open_count(rig) == 2
