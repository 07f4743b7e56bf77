"""What a consumer does not forget: over restarts, kills, a full disk and a log put back."""

from __future__ import annotations

import msgspec
import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.consumers import (
    Ack,
    CreateConsumer,
    DeleteConsumer,
    DeliveryName,
    Fetch,
    Fetched,
    ListConsumers,
)
from clawnet.core.calls.grants import Grant, Revoke
from clawnet.core.calls.reading import Gap
from clawnet.core.errors import DiskFull, NotFound
from clawnet.core.positions import EpochStart
from clawnet.hub.consumer import GAPS_MAX
from clawnet.testing.hubs import Gate, HubRig


async def create(rig: HubRig, caller: Caller, max_attempts: int = 5) -> None:
    call = CreateConsumer(
        name="c", channels=["public.>"], since="all", ack_wait_s=5, max_attempts=max_attempts
    )
    await rig.hub.call(call, caller=caller)


async def fetch(rig: HubRig, caller: Caller, limit: int = 64) -> Fetched:
    fetched: Fetched = await rig.hub.call(Fetch(name="c", limit=limit), caller=caller)
    return fetched


def pairs(fetched: Fetched) -> list[tuple[object, int]]:
    return [(msgspec.json.decode(d.event)["data"], d.attempt) for d in fetched.deliveries]


async def ack(rig: HubRig, caller: Caller, fetched: Fetched, *at: int) -> None:
    named = [fetched.deliveries[i] for i in at]
    call = Ack(name="c", deliveries=[DeliveryName(seq=d.seq, attempt=d.attempt) for d in named])
    await rig.hub.call(call, caller=caller)


async def test_a_restart_goes_on_at_the_floor_with_the_attempts(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada)
    await rig.fill(ada, "public.a", 5)
    first = await fetch(rig, ada, limit=4)
    await ack(rig, ada, first, 0, 2)
    await rig.restart()
    # Nobody holds the others any more, so they are due at once.
    assert pairs(await fetch(rig, ada)) == [(2, 2), (4, 2), (5, 1)]


async def test_a_kill_repeats_and_never_skips(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada)
    await rig.fill(ada, "public.a", 5)
    first = await fetch(rig, ada, limit=4)
    await ack(rig, ada, first, 0, 1)
    await rig.crash()
    # What was not written down within 100 ms may come again, as if for the first time.
    again = await fetch(rig, ada)
    assert [data for data, _ in pairs(again)] == [1, 2, 3, 4, 5]


async def test_floors_are_stored_within_a_moment(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada)
    await rig.fill(ada, "public.a", 5)
    await ack(rig, ada, await fetch(rig, ada, limit=3), 0, 1)
    await rig.clock.pass_time(0.25)
    await rig.crash()
    assert pairs(await fetch(rig, ada)) == [(3, 2), (4, 1), (5, 1)]


async def test_the_attempt_is_stored_before_the_second_delivery(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada, max_attempts=3)
    await rig.publish(ada, "public.a", "poison")
    await fetch(rig, ada)
    rig.clock.advance(6)
    assert pairs(await fetch(rig, ada)) == [("poison", 2)]
    await rig.crash()
    assert pairs(await fetch(rig, ada)) == [("poison", 3)]
    await rig.crash()
    # An event that kills whoever handles it ends as a dead letter all the same.
    assert pairs(await fetch(rig, ada)) == []
    assert rig.engine.channel("main", "agent.ada.dead-letter").last == 1


async def test_a_deleted_consumer_stays_deleted(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada)
    await rig.hub.call(DeleteConsumer(name="c"), caller=ada)
    await rig.crash()
    with pytest.raises(NotFound):
        await fetch(rig, ada)


@pytest.mark.parametrize("at", range(12))
async def test_deleted_at_any_await_of_a_fetch_it_does_not_come_back(
    rig: HubRig, ada: Caller, at: int
) -> None:
    await create(rig, ada)
    await rig.fill(ada, "public.a", 3)
    await fetch(rig, ada)
    rig.clock.advance(6)
    await rig.publish(ada, "public.a", 4)
    gate = Gate(rig.hub, at=at, action=lambda: rig.hub.call(DeleteConsumer(name="c"), caller=ada))
    try:
        await fetch(rig, ada)
    except NotFound:
        assert gate.was_reached
    await gate.open()
    if gate.was_reached:
        await rig.clock.pass_time(1)
        await rig.crash()
        assert (await rig.hub.call(ListConsumers(), caller=ada)).consumers == []


async def test_a_full_disk_delays_a_second_delivery_and_loses_no_dead_letter(
    rig: HubRig, ada: Caller
) -> None:
    await create(rig, ada, max_attempts=1)
    await rig.publish(ada, "public.a", "poison")
    await fetch(rig, ada)
    rig.clock.advance(6)
    rig.engine.is_full = True
    for _ in range(3):
        with pytest.raises(DiskFull):
            await fetch(rig, ada)
    rig.engine.is_full = False
    assert pairs(await fetch(rig, ada)) == []
    assert rig.engine.channel("main", "agent.ada.dead-letter").last == 1


async def test_an_attempt_that_could_not_be_stored_is_not_counted(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada, max_attempts=2)
    await rig.publish(ada, "public.a", 1)
    await fetch(rig, ada)
    rig.clock.advance(6)
    rig.engine.is_full = True
    for _ in range(3):
        with pytest.raises(DiskFull):
            await fetch(rig, ada)
        await rig.clock.pass_time(2)
    rig.engine.is_full = False
    assert pairs(await fetch(rig, ada)) == [(1, 2)]


async def test_floors_that_could_not_be_stored_are_stored_later(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada)
    await rig.fill(ada, "public.a", 3)
    rig.engine.is_full = True
    fetched = await fetch(rig, ada)
    await ack(rig, ada, fetched, 0, 1, 2)
    await rig.clock.pass_time(3)
    rig.engine.is_full = False
    await rig.clock.pass_time(3)
    await rig.crash()
    assert pairs(await fetch(rig, ada)) == []


async def test_a_log_that_was_put_back_is_told_and_read_on_from_the_branch(
    rig: HubRig, ada: Caller
) -> None:
    await create(rig, ada)
    done = await rig.fill(ada, "public.a", 6)
    await fetch(rig, ada, limit=4)
    await rig.clock.pass_time(1)
    branch = done[1].seq
    lineage = (EpochStart(rig.hub.log_epoch, 1), EpochStart("restored", branch + 1))
    vars(rig.engine)["epochs"] = lineage
    await rig.crash()
    fetched = await fetch(rig, ada)
    lost = Gap(
        channel="public.>", first=branch + 1, last=done[3].seq, oldest=branch + 1, reason="epoch"
    )
    assert fetched.gaps == [lost]
    # The log was not really cut here, so what follows the branch is read anew.
    assert pairs(fetched) == [(1, 2), (2, 2), (3, 1), (4, 1), (5, 1), (6, 1)]
    await ack(rig, ada, fetched, 0, 1)
    assert (await fetch(rig, ada)).gaps == [lost]
    await ack(rig, ada, fetched, 2)
    assert (await fetch(rig, ada)).gaps == []


async def trim(rig: HubRig, channel: str, keep: int) -> None:
    await rig.hub.committer.run(lambda: rig.engine.trim_channel("main", channel, keep=keep))


async def test_what_retention_took_is_told_until_what_follows_is_acknowledged(
    rig: HubRig, ada: Caller
) -> None:
    await create(rig, ada)
    await rig.fill(ada, "public.a", 20)
    await trim(rig, "public.a", 5)
    fetched = await fetch(rig, ada)
    lost = Gap(channel="public.a", first=1, last=15, oldest=16)
    assert (fetched.gap, fetched.gaps) == (lost, [lost])
    assert [data for data, _ in pairs(fetched)] == [16, 17, 18, 19, 20]
    # The answer may have been lost, and the hub may be killed: it is told again.
    assert (await fetch(rig, ada)).gaps == [lost]
    await rig.clock.pass_time(1)
    await rig.crash()
    fetched = await fetch(rig, ada)
    assert fetched.gaps == [lost]
    await ack(rig, ada, fetched, 0)
    assert ((await fetch(rig, ada)).gap, (await fetch(rig, ada)).gaps) == (None, [])
    await rig.clock.pass_time(1)
    await rig.crash()
    assert (await fetch(rig, ada)).gaps == []


async def test_an_ack_of_what_came_before_a_gap_leaves_it(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada)
    await rig.fill(ada, "public.a", 2)
    before = await fetch(rig, ada)
    await rig.fill(ada, "public.a", 10)
    await trim(rig, "public.a", 4)
    assert len((await fetch(rig, ada)).gaps) == 1
    await ack(rig, ada, before, 0, 1)
    assert (await fetch(rig, ada)).gaps == [
        Gap(channel="public.a", first=3, last=8, oldest=9),
    ]


async def test_gaps_of_several_channels_and_places_are_all_told(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada)
    for channel in ("public.a", "public.b"):
        await rig.fill(ada, channel, 5)
        await trim(rig, channel, 2)
    assert len(pairs(await fetch(rig, ada))) == 4
    await rig.fill(ada, "public.a", 5)
    await trim(rig, "public.a", 1)
    told = [(gap.channel, gap.first, gap.last) for gap in (await fetch(rig, ada)).gaps]
    # What was delivered in between is in none of them.
    assert told == [("public.a", 1, 3), ("public.b", 1, 3), ("public.a", 6, 9)]


async def test_gaps_that_touch_are_one_and_too_many_are_one_of_the_log(
    rig: HubRig, ada: Caller
) -> None:
    await create(rig, ada)
    for n in range(GAPS_MAX + 3):
        await rig.fill(ada, f"public.c{n}", 2)
        await trim(rig, f"public.c{n}", 1)
    seqs = []
    while page := (await fetch(rig, ada)).deliveries:
        seqs += [delivery.seq for delivery in page]
    gaps = (await fetch(rig, ada)).gaps
    assert len({gap.channel for gap in gaps}) == len(gaps) == GAPS_MAX + 1
    assert gaps[-1].channel == ">" and gaps[-1].last >= seqs[-1] - 1


async def test_a_gap_below_what_a_grant_opens_is_none(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await rig.fill(ada, "agent.ada.x", 6)
    await rig.hub.call(Grant(account="bob", channel="agent.ada.x", from_offset=3), caller=ada)
    call = CreateConsumer(name="c", channels=["agent.ada.>"], since="all")
    await rig.hub.call(call, caller=bob)
    await trim(rig, "agent.ada.x", 2)
    lost = Gap(channel="agent.ada.x", first=3, last=4, oldest=5)
    assert (await fetch(rig, bob)).gaps == [lost]
    await rig.hub.call(Revoke(account="bob", channel="agent.ada.x"), caller=ada)
    assert (await fetch(rig, bob)).gaps == []


async def test_a_gap_that_was_told_does_not_cut_a_wait_short(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada)
    await rig.fill(ada, "public.a", 3)
    await trim(rig, "public.a", 1)
    await fetch(rig, ada)
    start_s = rig.clock.steady_s()
    fetched = await rig.hub.call(Fetch(name="c", wait_s=3), caller=ada)
    assert rig.clock.steady_s() - start_s >= 3 and len(fetched.gaps) == 1


async def test_a_consumer_from_a_foreign_cursor_is_told_of_it(rig: HubRig, ada: Caller) -> None:
    await rig.fill(ada, "public.a", 2)
    call = CreateConsumer(name="c", channels=["public.>"], since="foreign-7")
    await rig.hub.call(call, caller=ada)
    fetched = await fetch(rig, ada)
    assert fetched.gap == Gap(channel="public.>", first=1, last=7, oldest=1, reason="epoch")
    assert [data for data, _ in pairs(fetched)] == [1, 2]
