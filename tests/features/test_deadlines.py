"""Deadlines: who ends them, who cannot, and what becomes of silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import Block, DeleteAccount
from clawnet.core.calls.grants import Grant
from clawnet.core.calls.publishing import PublishBatch, Published
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.errors import BadRequest, ClawError, Refused, TooManyExpectations
from clawnet.core.events import Event, Expect
from clawnet.features.deadlines import DeadlinesFeature
from clawnet.features.deadlines.expectation import Expectation
from clawnet.hub.interceptors import Deny, Interceptor, Patch, Proposed, Verdict
from clawnet.hub.settings import HubSettings
from clawnet.testing.hubs import HubRig, event, started_hub

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


async def missed(rig: HubRig, account: str = "ada") -> list[Event]:
    """The missed answers in an account's inbox."""
    reader = await rig.caller(account)
    page = await rig.hub.call(ReadHistory(channel=f"agent.{account}.inbox"), caller=reader)
    lines = page.body.split(b"\n") if page.body else []
    events = [msgspec.json.decode(line, type=Event) for line in lines]
    return [event for event in events if event.type == "expectation.missed"]


async def ask(rig: HubRig, caller: Caller, channel: str = INBOX, **named: Any) -> Published:
    return await rig.publish(caller, channel, "?", **{"expect": SOON, **named})


@pytest.fixture
async def cleo(rig: HubRig) -> Caller:
    return await rig.account("cleo")


# --- what does not end it ---------------------------------------------------


async def test_a_third_account_cannot_end_it(
    rig: HubRig, ada: Caller, bob: Caller, cleo: Caller
) -> None:
    asked = await ask(rig, ada)
    for channel in ("agent.ada.inbox", "public.lobby", INBOX):
        await rig.publish(cleo, channel, "!", correlation_id=asked.correlation_id)
        await rig.publish(cleo, channel, "!", causation_id=asked.id)
    assert open_count(rig) == 1
    await rig.clock.pass_time(31)
    assert len(await missed(rig)) == 1


async def test_a_warden_that_reads_the_inbox_is_not_the_addressee(
    rig: HubRig, ada: Caller, bob: Caller, warden: Caller
) -> None:
    asked = await ask(rig, ada)
    await rig.publish(warden, "agent.ada.inbox", "!", causation_id=asked.id)
    assert open_count(rig) == 1
    direct = await ask(rig, ada, "dm.ada.bob")
    await rig.publish(warden, "agent.ada.inbox", "!", causation_id=direct.id)
    assert open_count(rig) == 2


async def test_the_senders_own_words_do_not_end_it(rig: HubRig, ada: Caller, bob: Caller) -> None:
    asked = await ask(rig, ada)
    own = await ask(rig, ada, "public.lobby")
    await rig.publish(ada, INBOX, "?!", correlation_id=asked.correlation_id)
    await rig.publish(ada, INBOX, "?!", causation_id=asked.id)
    await rig.publish(ada, "public.lobby", "?!", causation_id=own.id)
    assert open_count(rig) == 2


async def test_an_answer_that_the_sender_cannot_read_ends_nothing(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    asked = await ask(rig, ada)
    await rig.publish(bob, "agent.bob.diary", "!", correlation_id=asked.correlation_id)
    assert open_count(rig) == 1
    await rig.hub.call(Grant(account="ada", channel="agent.bob.diary"), caller=bob)
    await rig.publish(bob, "agent.bob.diary", "!", correlation_id=asked.correlation_id)
    assert open_count(rig) == 0


async def test_who_may_not_read_the_channel_cannot_end_it(
    rig: HubRig, ada: Caller, bob: Caller, cleo: Caller
) -> None:
    await rig.hub.call(Grant(account="bob", channel="agent.ada.plans"), caller=ada)
    asked = await ask(rig, ada, "agent.ada.plans")
    await rig.publish(cleo, "agent.ada.inbox", "!", causation_id=asked.id)
    assert open_count(rig) == 1
    await rig.publish(bob, "agent.ada.inbox", "!", causation_id=asked.id)
    assert open_count(rig) == 0


async def test_an_unrelated_answer_ends_nothing(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await ask(rig, ada)
    await rig.publish(bob, "agent.ada.inbox", "!", correlation_id="another")
    await rig.publish(bob, "agent.ada.inbox", "!")
    assert open_count(rig) == 1


async def test_a_refused_answer_ends_nothing(rig: HubRig, ada: Caller, bob: Caller) -> None:
    asked = await ask(rig, ada)
    await rig.hub.call(Block(account="bob"), caller=ada)
    with pytest.raises(ClawError):
        await rig.publish(bob, "agent.ada.inbox", "!", causation_id=asked.id)
    rig.engine.is_full = True
    with pytest.raises(ClawError):
        await rig.publish(bob, "public.lobby", "!", causation_id=asked.id)
    rig.engine.is_full = False
    assert open_count(rig) == 1


# --- what opens none --------------------------------------------------------


async def refuse(proposed: Proposed) -> Verdict:
    return Deny("Not this.")


async def patch(proposed: Proposed) -> Verdict:
    return Patch('"patched"')


async def test_what_an_interceptor_refuses_opens_none(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    rig.hub.intercept(Interceptor(name="no", channels=(INBOX,), intercept=refuse))
    with pytest.raises(Refused):
        await ask(rig, ada)
    with pytest.raises(Refused):
        await rig.hub.call(PublishBatch(events=[event(INBOX, 1, expect=SOON)]), caller=ada)
    assert open_count(rig) == 0
    rig.hub.intercept(Interceptor(name="no", channels=(INBOX,), intercept=patch))
    first = await ask(rig, ada, dedupe_key="k")
    again = await ask(rig, ada, dedupe_key="k")
    assert first.correlation_id == again.correlation_id is not None
    assert open_count(rig) == 1


@pytest.mark.parametrize("seconds", [0.0, 0.05, -1.0, 30 * 86_400 + 1, float("inf")])
async def test_a_time_out_of_bounds_is_refused(
    rig: HubRig, ada: Caller, bob: Caller, seconds: float
) -> None:
    with pytest.raises(BadRequest):
        await ask(rig, ada, expect=Expect(reply_within_s=seconds))
    assert open_count(rig) == 0


async def test_a_refused_batch_opens_none(rig: HubRig, ada: Caller, bob: Caller) -> None:
    events = [event(INBOX, 1, expect=SOON), event("agent.bob.inbox.x", 2)]
    with pytest.raises(ClawError):
        await rig.hub.call(PublishBatch(events=events), caller=ada)
    rig.engine.is_full = True
    with pytest.raises(ClawError):
        await rig.hub.call(PublishBatch(events=events[:1]), caller=ada)
    rig.engine.is_full = False
    assert open_count(rig) == 0
    assert not deadlines(rig)._opening
    assert not deadlines(rig)._on_way


async def test_a_repeat_opens_none(rig: HubRig, ada: Caller, bob: Caller) -> None:
    first = await ask(rig, ada, dedupe_key="k")
    again = await ask(rig, ada, dedupe_key="k")
    assert again.deduped
    assert again.correlation_id == first.correlation_id
    assert open_count(rig) == 1
    await rig.publish(bob, "agent.ada.inbox", "!", causation_id=first.id)
    assert (await ask(rig, ada, dedupe_key="k")).deduped
    assert open_count(rig) == 0


async def test_a_repeat_in_a_batch_with_something_new_opens_none(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    first = await ask(rig, ada, dedupe_key="k")
    await rig.publish(bob, "agent.ada.inbox", "!", causation_id=first.id)
    events = [event(INBOX, "?", expect=SOON, dedupe_key="k"), event(INBOX, "new", expect=SOON)]
    answer = await rig.hub.call(PublishBatch(events=events), caller=ada)
    assert [one.deduped for one in answer.events] == [True, False]
    assert open_count(rig) == 1
    await rig.clock.pass_time(31)
    assert [e.causation_id for e in await missed(rig)] == [answer.events[1].id]


@pytest.mark.parametrize("is_first_expecting", [True, False])
async def test_a_repeat_within_its_own_batch_opens_none(
    rig: HubRig, ada: Caller, bob: Caller, is_first_expecting: bool
) -> None:
    first = event(
        INBOX, 1, dedupe_key="k", correlation_id="c", expect=SOON if is_first_expecting else None
    )
    again = event(INBOX, 1, dedupe_key="k", correlation_id="c", expect=SOON)
    asked = await rig.hub.call(PublishBatch(events=[first, again]), caller=ada)
    assert [one.deduped for one in asked.events] == [False, True]
    assert open_count(rig) == int(is_first_expecting)
    if not is_first_expecting:
        # A start takes up what is stored, and would tell of one that nobody opened.
        await rig.crash()
    await rig.clock.pass_time(31)
    told = [asked.events[0].id] if is_first_expecting else []
    assert [e.causation_id for e in await missed(rig)] == told
    assert open_count(rig) == 0


async def test_one_that_was_stored_anew_meanwhile_is_still_told(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    asked = await ask(rig, ada)
    [one] = deadlines(rig).open._by_key.values()
    # Whatever put it there again: only a key that is gone was answered.
    one.revision += 5
    await rig.clock.pass_time(40)
    assert [e.causation_id for e in await missed(rig)] == [asked.id]
    assert open_count(rig) == 0


async def test_an_account_waits_for_so_many_answers_only(settings: HubSettings) -> None:
    async with started_hub(settings) as rig:
        deadlines(rig)._open_max = 3
        ada, _ = await rig.account("ada"), await rig.account("bob")
        cleo = await rig.account("cleo")
        waiting = [asyncio.create_task(ask(rig, ada, dedupe_key=str(n))) for n in range(5)]
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in done] == [Published] * 3 + [TooManyExpectations] * 2
        assert open_count(rig) == 3
        # A repeat opens nothing, another account is not concerned, and without expect all goes.
        assert (await ask(rig, ada, dedupe_key="1")).deduped
        await ask(rig, cleo)
        await rig.publish(ada, INBOX, "and this")
        await rig.clock.pass_time(31)
        await ask(rig, ada)


async def test_a_batch_that_goes_beyond_the_limit_counts_for_nothing(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    deadlines(rig)._open_max = 3
    events = [event(INBOX, n, expect=SOON) for n in range(4)]
    with pytest.raises(TooManyExpectations) as refused:
        await rig.hub.call(PublishBatch(events=events), caller=ada)
    assert refused.value.facts["index"] == 3
    assert open_count(rig) == 0
    await rig.hub.call(PublishBatch(events=events[:3]), caller=ada)
    assert open_count(rig) == 3


# --- what ends it -----------------------------------------------------------


@pytest.mark.parametrize("named", ["correlation", "causation"])
@pytest.mark.parametrize("asked_on", [INBOX, "dm.ada.bob", "public.lobby"])
async def test_the_addressees_answer_ends_it(
    rig: HubRig, ada: Caller, bob: Caller, asked_on: str, named: str
) -> None:
    asked = await ask(rig, ada, asked_on)
    by = {"correlation_id": asked.correlation_id} if named == "correlation" else {}
    await rig.publish(bob, "agent.ada.inbox", "!", **(by or {"causation_id": asked.id}))
    assert open_count(rig) == 0
    await rig.clock.pass_time(31)
    assert await missed(rig) == []


async def test_anybody_who_reads_a_public_channel_may_answer(
    rig: HubRig, ada: Caller, cleo: Caller
) -> None:
    asked = await ask(rig, ada, "public.lobby", correlation_id="mine")
    assert asked.correlation_id is None
    await rig.publish(cleo, "public.lobby", "!", correlation_id="mine")
    assert open_count(rig) == 0


async def test_one_answer_ends_all_of_a_correlation(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await ask(rig, ada, correlation_id="chain")
    await ask(rig, ada, correlation_id="chain")
    await rig.publish(bob, "agent.ada.inbox", "!", correlation_id="chain")
    assert open_count(rig) == 0


async def test_an_answer_in_a_batch_ends_it(rig: HubRig, ada: Caller, bob: Caller) -> None:
    events = [event(INBOX, n, expect=SOON) for n in range(3)]
    asked = await rig.hub.call(PublishBatch(events=events), caller=ada)
    assert len({one.correlation_id for one in asked.events}) == 3
    replies = [
        event("agent.ada.inbox", "!", causation_id=asked.events[0].id),
        event("agent.ada.inbox", "unrelated"),
        event("agent.ada.inbox", "!", correlation_id=asked.events[2].correlation_id),
    ]
    await rig.hub.call(PublishBatch(events=replies), caller=bob)
    assert open_count(rig) == 1
    await rig.clock.pass_time(31)
    assert [e.causation_id for e in await missed(rig)] == [asked.events[1].id]


# --- silence ----------------------------------------------------------------


async def test_silence_is_told_in_the_senders_inbox_once(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    asked = await ask(rig, ada, traceparent=trace)
    await rig.clock.pass_time(29)
    assert await missed(rig) == []
    await rig.clock.pass_time(1.5)
    await rig.clock.pass_time(1_000)
    [told] = await missed(rig)
    assert told.actor.id == "hub"
    assert told.correlation_id == asked.correlation_id
    assert told.causation_id == asked.id
    assert told.traceparent == trace
    data = msgspec.json.decode(told.data)
    assert data.pop("due") == "2027-01-15T08:00:30.000Z"
    assert data == {
        "event_id": asked.id,
        "channel": INBOX,
        "correlation_id": asked.correlation_id,
        "reply_within_s": 30.0,
    }
    assert open_count(rig) == 0


async def test_the_answer_and_the_envelope_have_the_same_correlation(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = rig.connect(bob, INBOX)
    asked = await ask(rig, ada)
    assert asked.correlation_id is not None
    assert f'"correlation_id":"{asked.correlation_id}"'.encode() in outlet.writes[0]


async def test_each_is_missed_in_its_time(rig: HubRig, ada: Caller, bob: Caller) -> None:
    late = await ask(rig, ada, expect=Expect(reply_within_s=60))
    soon = await ask(rig, ada, expect=Expect(reply_within_s=1))
    await rig.clock.pass_time(2)
    assert [e.causation_id for e in await missed(rig)] == [soon.id]
    await rig.clock.pass_time(60)
    assert [e.causation_id for e in await missed(rig)] == [soon.id, late.id]


async def test_a_late_answer_is_stored_and_changes_nothing(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    asked = await ask(rig, ada)
    await rig.clock.pass_time(31)
    await rig.publish(bob, "agent.ada.inbox", "!", causation_id=asked.id)
    assert len(await missed(rig)) == 1
    assert open_count(rig) == 0


async def test_nobody_is_told_for_an_account_that_is_gone(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await ask(rig, ada)
    await rig.hub.call(DeleteAccount(id="ada"), caller=HUB)
    position = rig.hub.fanout.position
    await rig.clock.pass_time(31)
    assert open_count(rig) == 0
    assert rig.hub.fanout.position == position


async def test_a_jump_of_the_wall_misses_nothing(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await ask(rig, ada)
    rig.clock.jump(86_400)
    await rig.clock.pass_time(20)
    assert await missed(rig) == []
    rig.clock.jump(-2 * 86_400)
    await rig.clock.pass_time(11)
    assert len(await missed(rig)) == 1


async def test_a_full_disk_tells_later(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await ask(rig, ada)
    rig.engine.is_full = True
    await rig.clock.pass_time(60)
    assert len(deadlines(rig).open) == 1
    rig.engine.is_full = False
    await rig.clock.pass_time(5)
    assert len(await missed(rig)) == 1
    assert open_count(rig) == 0


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("is_answer_first", [True, False])
async def test_answer_and_deadline_at_once_are_one_of_the_two(
    rig: HubRig, ada: Caller, bob: Caller, turns: int, is_answer_first: bool
) -> None:
    asked = await ask(rig, ada)
    [one] = deadlines(rig).open._by_key.values()
    feature = deadlines(rig)
    answer = rig.publish(bob, "agent.ada.inbox", "!", causation_id=asked.id)
    if is_answer_first:
        answering = asyncio.create_task(answer)
        missing = asyncio.create_task(feature._miss([one]))
    else:
        missing = asyncio.create_task(feature._miss([one]))
        for _ in range(turns):
            await asyncio.sleep(0)
        answering = asyncio.create_task(answer)
    await asyncio.gather(answering, missing)
    page = await rig.hub.call(
        ReadHistory(channel="agent.ada.inbox"), caller=await rig.caller("ada")
    )
    types = [msgspec.json.decode(line)["type"] for line in page.body.split(b"\n")]
    # Never the answer and then, behind it, that it was missed.
    assert types in (["x.message"], ["expectation.missed", "x.message"])
    if is_answer_first or turns > 5:
        assert len(types) == (1 if is_answer_first else 2)
    assert open_count(rig) == 0


async def test_thousands_of_open_ones_cost_nothing_per_tick(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    feature = deadlines(rig)
    feature._open_max = 5_000
    for start in range(0, 3_000, 1_000):
        events = [
            event(INBOX, n, expect=Expect(reply_within_s=1_000 + n))
            for n in range(start, start + 1_000)
        ]
        await rig.hub.call(PublishBatch(events=events), caller=ada)
    looked: list[int] = []
    due = feature.open.due

    def counted(now_ms: int, limit: int) -> list[Expectation]:
        found = due(now_ms, limit)
        looked.append(len(found))
        return found

    feature.open.due = counted  # type: ignore[method-assign]
    await rig.clock.pass_time(900)
    assert sum(looked) == 0
    assert len(looked) < 200
    await rig.clock.pass_time(4_000)
    assert open_count(rig) == 0
    assert sum(looked) == 3_000
    assert len(feature.open._heap) == 0


async def test_answered_ones_do_not_pile_up_in_the_heap(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    for _ in range(20):
        events = [event(INBOX, n, expect=SOON) for n in range(500)]
        asked = await rig.hub.call(PublishBatch(events=events), caller=ada)
        replies = [event("public.r", "!", causation_id=one.id) for one in asked.events]
        await rig.hub.call(PublishBatch(events=replies), caller=bob)
    assert open_count(rig) == 0
    assert len(deadlines(rig).open._heap) <= 3_000


# --- restarts ---------------------------------------------------------------


@pytest.fixture(params=["restart", "crash"])
async def again(request: pytest.FixtureRequest, rig: HubRig) -> AsyncIterator[Any]:
    yield getattr(rig, request.param)


async def test_a_restart_before_it_is_due_loses_nothing(
    rig: HubRig, ada: Caller, bob: Caller, again: Any
) -> None:
    asked = await ask(rig, ada)
    keyed = await ask(rig, ada, dedupe_key="k")
    await again()
    assert open_count(rig) == 2
    bob = await rig.caller("bob")
    await rig.publish(bob, "agent.ada.inbox", "!", causation_id=keyed.id)
    assert open_count(rig) == 1
    await rig.clock.pass_time(31)
    [told] = await missed(rig)
    assert told.causation_id == asked.id


async def test_what_was_due_meanwhile_is_told_once_after_the_start(
    rig: HubRig, ada: Caller, bob: Caller, again: Any
) -> None:
    asked = await ask(rig, ada)
    rig.clock.advance(40)
    await again()
    await rig.clock.pass_time(1)
    await again()
    await rig.clock.pass_time(100)
    assert [e.causation_id for e in await missed(rig)] == [asked.id]


async def test_a_hub_that_was_down_for_long_leaves_time_to_answer(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    asked = await ask(rig, ada)
    rig.clock.jump(3_600)
    await rig.restart()
    await rig.publish(await rig.caller("bob"), "agent.ada.inbox", "!", causation_id=asked.id)
    await rig.clock.pass_time(100)
    assert await missed(rig) == []
