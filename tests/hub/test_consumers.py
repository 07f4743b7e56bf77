"""Durable consumers: every event at least once, acknowledged by name, and given up in the end."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.consumers import (
    IN_FLIGHT_MAX,
    Ack,
    Acked,
    ConsumerInfo,
    CreateConsumer,
    DeleteConsumer,
    Delivery,
    DeliveryName,
    Fetch,
    Fetched,
    ListConsumers,
    Nack,
    ReadConsumer,
)
from clawnet.core.calls.grants import Grant, Revoke
from clawnet.core.calls.tokens import RevokeToken
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    Conflict,
    Forbidden,
    InvalidChannel,
    NotFound,
    Unauthenticated,
)
from clawnet.testing.hubs import Gate, HubRig


async def create(rig: HubRig, caller: Caller, *channels: str, **named: Any) -> ConsumerInfo:
    call = CreateConsumer(name="c", channels=list(channels) or ["public.>"], **named)
    made: ConsumerInfo = await rig.hub.call(call, caller=caller)
    return made


async def fetch(rig: HubRig, caller: Caller, limit: int = 64, wait_s: float = 0) -> Fetched:
    call = Fetch(name="c", limit=limit, wait_s=wait_s)
    fetched: Fetched = await rig.hub.call(call, caller=caller)
    return fetched


def names(deliveries: list[Delivery]) -> list[DeliveryName]:
    return [DeliveryName(seq=d.seq, attempt=d.attempt) for d in deliveries]


async def ack(rig: HubRig, caller: Caller, deliveries: list[Delivery]) -> Acked:
    acked: Acked = await rig.hub.call(Ack(name="c", deliveries=names(deliveries)), caller=caller)
    return acked


def data(deliveries: list[Delivery]) -> list[Any]:
    return [msgspec.json.decode(d.event)["data"] for d in deliveries]


def tried(deliveries: list[Delivery]) -> list[int]:
    return [d.attempt for d in deliveries]


# --- refused -------------------------------------------------------------


@pytest.mark.parametrize(
    "named, error",
    [
        ({"name": "C"}, BadRequest),
        ({"name": ""}, BadRequest),
        ({"name": "c\n"}, BadRequest),
        ({"name": "c" * 65}, BadRequest),
        ({"channels": []}, BadRequest),
        ({"channels": ["public.a"] * 101}, BadRequest),
        ({"channels": ["public"]}, InvalidChannel),
        ({"channels": ["public.>.x"]}, InvalidChannel),
        ({"channels": ["agent.bob.x"]}, Forbidden),
        ({"channels": ["public.a", "dm.bob.boss"]}, Forbidden),
        ({"channels": ["agent.bob.inbox"]}, Forbidden),
        ({"ack_wait_s": 0.01}, BadRequest),
        ({"ack_wait_s": 3_601}, BadRequest),
        ({"ack_wait_s": float("nan")}, BadRequest),
        ({"max_attempts": 0}, BadRequest),
        ({"max_attempts": 101}, BadRequest),
        ({"since": "120"}, BadRequest),
        ({"since": "nonsense"}, BadRequest),
    ],
    ids=str,
)
async def test_a_bad_consumer_is_refused(
    rig: HubRig, ada: Caller, named: dict[str, Any], error: type[ClawError]
) -> None:
    call = CreateConsumer(**{"name": "c", "channels": ["public.a"], **named})
    with pytest.raises(error):
        await rig.hub.call(call, caller=ada)
    listed = await rig.hub.call(ListConsumers(), caller=ada)
    assert listed.consumers == []


async def test_a_consumer_is_its_owners_alone(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await create(rig, ada)
    for call in (Fetch(name="c"), ReadConsumer(name="c"), DeleteConsumer(name="c")):
        with pytest.raises(NotFound):
            await rig.hub.call(call, caller=bob)
    with pytest.raises(Unauthenticated):
        await create(rig, rig.hub.anonymous(is_local=True))
    with pytest.raises(Forbidden):
        await create(rig, await rig.caller("ada", scopes=["events:write"]))
    await create(rig, bob, "public.other")
    assert (await rig.hub.call(ReadConsumer(name="c"), caller=ada)).channels == ["public.>"]


async def test_the_same_again_is_no_error_and_other_settings_are_a_conflict(
    rig: HubRig, ada: Caller
) -> None:
    made = await create(rig, ada, "public.a", max_attempts=3)
    assert await create(rig, ada, "public.a", max_attempts=3) == made
    for named in ({"max_attempts": 4}, {"max_attempts": 3, "ack_wait_s": 1.0}):
        with pytest.raises(Conflict):
            await create(rig, ada, "public.a", **named)
    with pytest.raises(Conflict):
        await create(rig, ada, "public.b", max_attempts=3)


@pytest.mark.parametrize("limit", [0, 257, -1])
async def test_a_fetch_is_bounded(rig: HubRig, ada: Caller, limit: int) -> None:
    await create(rig, ada)
    with pytest.raises(BadRequest):
        await fetch(rig, ada, limit)
    with pytest.raises(BadRequest):
        await fetch(rig, ada, wait_s=61)


# --- deliver and acknowledge ---------------------------------------------


@pytest.mark.parametrize(
    "since, expected", [(None, [4]), ("all", [1, 2, 3, 4]), ("15s", [3, 4]), ("cursor", [3, 4])]
)
async def test_it_begins_where_it_was_told(
    rig: HubRig, ada: Caller, since: str | None, expected: list[int]
) -> None:
    for n in (1, 2, 3):
        done = await rig.publish(ada, "public.a", n)
        if n == 2 and since == "cursor":
            since = f"{rig.hub.log_epoch}-{done.seq}"
        await rig.clock.pass_time(10)
    await create(rig, ada, since=since)
    await rig.publish(ada, "public.a", 4)
    given = data((await fetch(rig, ada)).deliveries)
    assert given[-len(expected) :] == expected
    assert since == "15s" or given == expected


async def test_it_gives_what_it_follows_in_the_order_of_the_log(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await create(rig, ada, "public.a", "agent.*.public.>")
    for n in range(5):
        for channel in ("public.a", "public.b", "agent.bob.public.x", "agent.bob.x"):
            await rig.publish(bob, channel, f"{channel} {n}")
    fetched = await fetch(rig, ada)
    seqs = [delivery.seq for delivery in fetched.deliveries]
    assert seqs == sorted(seqs)
    assert data(fetched.deliveries) == [
        f"{channel} {n}" for n in range(5) for channel in ("public.a", "agent.bob.public.x")
    ]
    assert tried(fetched.deliveries) == [1] * 10


async def test_what_is_acknowledged_does_not_come_again(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada, since="all", ack_wait_s=5)
    await rig.fill(ada, "public.a", 6)
    fetched = await fetch(rig, ada, limit=4)
    acked = await ack(rig, ada, [fetched.deliveries[i] for i in (0, 1, 3)])
    assert (acked.acked, acked.stale) == (3, [])
    assert acked.floor == f"{rig.hub.log_epoch}-{fetched.deliveries[2].seq - 1}"
    rig.clock.advance(6)
    again = await fetch(rig, ada)
    assert list(zip(data(again.deliveries), tried(again.deliveries), strict=True)) == [
        (3, 2),
        (5, 1),
        (6, 1),
    ]
    await ack(rig, ada, again.deliveries)
    info = await rig.hub.call(ReadConsumer(name="c"), caller=ada)
    assert (info.in_flight, info.lag) == (0, 0)


async def test_before_the_wait_is_over_nothing_comes_again(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada, since="all", ack_wait_s=5)
    await rig.fill(ada, "public.a", 2)
    await fetch(rig, ada)
    rig.clock.advance(4.9)
    assert (await fetch(rig, ada)).deliveries == []


async def test_a_stale_acknowledgement_changes_nothing_and_is_named(
    rig: HubRig, ada: Caller
) -> None:
    await create(rig, ada, since="all", ack_wait_s=5)
    await rig.fill(ada, "public.a", 2)
    first = (await fetch(rig, ada)).deliveries
    rig.clock.advance(5)
    expired = await ack(rig, ada, first)
    assert expired.acked == 0 and expired.stale == names(first)
    second = (await fetch(rig, ada)).deliveries
    assert tried(second) == [2, 2]
    late = await ack(rig, ada, first)
    assert late.acked == 0
    never = [DeliveryName(seq=first[0].seq, attempt=3), DeliveryName(seq=10**9, attempt=1)]
    unknown = await rig.hub.call(Ack(name="c", deliveries=never), caller=ada)
    assert unknown.stale == never
    assert (await ack(rig, ada, second)).acked == 2
    assert (await ack(rig, ada, second)).acked == 0


async def test_a_nack_makes_it_due_after_its_delay(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada, since="all", ack_wait_s=60)
    await rig.fill(ada, "public.a", 2)
    first = (await fetch(rig, ada)).deliveries
    await rig.hub.call(Nack(name="c", deliveries=names(first)[:1]), caller=ada)
    await rig.hub.call(Nack(name="c", deliveries=names(first)[1:], delay_s=10), caller=ada)
    assert data((await fetch(rig, ada)).deliveries) == [1]
    rig.clock.advance(10)
    again = (await fetch(rig, ada)).deliveries
    assert (data(again), tried(again)) == ([2], [2])
    stale = await rig.hub.call(Nack(name="c", deliveries=names(first)), caller=ada)
    assert stale.acked == 0


async def test_after_the_last_attempt_the_event_is_a_dead_letter(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await create(rig, ada, since="all", ack_wait_s=5, max_attempts=2)
    done = await rig.publish(bob, "public.a", {"poison": True})
    outlet = rig.connect(ada, "agent.ada.dead-letter")
    for attempt in (1, 2):
        assert tried((await fetch(rig, ada)).deliveries) == [attempt]
        rig.clock.advance(5)
    assert (await fetch(rig, ada)).deliveries == []
    [frame] = outlet.frames
    assert frame.event["type"] == "consumer.dead_lettered"
    assert frame.event["actor"]["id"] == "hub"
    assert frame.data["consumer"] == "c" and frame.data["attempts"] == 2
    assert frame.data["event"]["id"] == done.id
    assert frame.data["event"]["data"] == {"poison": True}
    rig.clock.advance(50)
    assert (await fetch(rig, ada)).deliveries == []
    assert len(outlet.frames) == 1


async def test_a_dead_letter_does_not_become_one_again(rig: HubRig, ada: Caller) -> None:
    """Else each would hold the one before it, for ever."""
    await create(rig, ada, "agent.ada.>", since="all", ack_wait_s=5, max_attempts=1)
    await rig.publish(ada, "agent.ada.x", "poison")
    for _ in range(6):
        await fetch(rig, ada)
        rig.clock.advance(6)
    assert rig.engine.channel("main", "agent.ada.dead-letter").last == 1


# --- limits and rivals ---------------------------------------------------


async def test_at_most_256_are_in_flight(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada, since="all", ack_wait_s=600)
    await rig.fill(ada, "public.a", 300)
    first = (await fetch(rig, ada, limit=200)).deliveries
    second = (await fetch(rig, ada, limit=200)).deliveries
    assert (len(first), len(second)) == (200, IN_FLIGHT_MAX - 200)
    assert (await fetch(rig, ada)).deliveries == []
    await ack(rig, ada, first[:10])
    assert data((await fetch(rig, ada)).deliveries) == list(range(257, 267))


async def test_two_fetches_at_once_never_share_a_delivery(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada, since="all", ack_wait_s=5)
    await rig.fill(ada, "public.a", 30)
    for at in range(4):
        gate = Gate(rig.hub, at=at, action=lambda: asyncio.sleep(0))
        fetched = await asyncio.gather(*(fetch(rig, ada, limit=5) for _ in range(6)))
        await gate.open()
        given = [d.seq for one in fetched for d in one.deliveries]
        assert len(given) == len(set(given)) == 30
        assert {d.attempt for one in fetched for d in one.deliveries} == {at + 1}
        rig.clock.advance(6)


async def test_rights_lost_meanwhile_end_the_deliveries(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await rig.fill(ada, "agent.ada.x", 3)
    await rig.hub.call(Grant(account="bob", channel="x", from_offset=2), caller=ada)
    await create(rig, bob, ">", since="all", ack_wait_s=5)
    await rig.publish(ada, "public.a", "open")
    assert data((await fetch(rig, bob)).deliveries)[-3:] == [2, 3, "open"]
    await rig.publish(ada, "agent.ada.x", 4)
    await rig.hub.call(Revoke(account="bob", channel="x"), caller=ada)
    rig.clock.advance(6)
    again = (await fetch(rig, bob)).deliveries
    assert "open" in data(again)
    assert not any(said in (2, 3, 4) for said in data(again))
    assert (await rig.hub.call(ReadConsumer(name="c"), caller=bob)).in_flight == len(again)


# --- waiting -------------------------------------------------------------


async def test_a_waiting_fetch_is_answered_by_a_publish(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada, "public.a")
    fetching = asyncio.ensure_future(fetch(rig, ada, wait_s=60))
    await rig.publish(ada, "public.other", 0)
    await rig.settle()
    assert not fetching.done()
    await rig.publish(ada, "public.a", 1)
    await rig.settle()
    assert data(fetching.result().deliveries) == [1]
    assert not rig.hub.consumers._waiters


async def test_a_publish_wakes_only_the_fetches_that_may_get_it(
    rig: HubRig, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, channel in (("one", "public.a"), ("many", "public.*"), ("other", "public.b.>")):
        await rig.hub.call(CreateConsumer(name=name, channels=[channel]), caller=ada)
    looked: list[str] = []
    take = rig.hub.consumers._take

    async def noted(consumer: Any, caller: Caller, limit: int) -> list[Delivery]:
        looked.append(consumer.name)
        return await take(consumer, caller, limit)

    monkeypatch.setattr(rig.hub.consumers, "_take", noted)
    waiting = {
        name: asyncio.ensure_future(rig.hub.call(Fetch(name=name, wait_s=60), caller=ada))
        for name in ("one", "many", "other")
    }
    await rig.settle()
    for channel, woken in (("agent.ada.x", []), ("public.c", ["many"]), ("public.b.x", ["other"])):
        looked.clear()
        await rig.publish(ada, channel)
        await rig.settle()
        assert looked == woken
    assert not waiting["one"].done()
    # It ends at its deadline, at the head of the log.
    assert (await waiting["one"]).lag == 0


async def test_a_waiting_fetch_ends_with_its_token(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada, "public.a")
    fetching = asyncio.ensure_future(fetch(rig, ada, wait_s=60))
    await rig.settle()
    assert ada.token_id is not None
    await rig.hub.call(RevokeToken(id=ada.token_id), caller=HUB)
    await rig.settle()
    assert isinstance(fetching.exception(), Unauthenticated)


async def test_rights_of_others_wake_no_fetch(
    rig: HubRig, ada: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(rig, ada, "public.a")
    looked: list[str] = []
    take = rig.hub.consumers._take

    async def noted(consumer: Any, caller: Caller, limit: int) -> list[Delivery]:
        looked.append(consumer.account)
        return await take(consumer, caller, limit)

    monkeypatch.setattr(rig.hub.consumers, "_take", noted)
    fetching = asyncio.ensure_future(fetch(rig, ada, wait_s=60))
    await rig.settle()
    looked.clear()
    token = await rig.caller("bob")
    await rig.hub.call(RevokeToken(id=token.token_id or ""), caller=HUB)
    await rig.settle()
    assert looked == []
    own = await rig.caller("ada")
    await rig.hub.call(RevokeToken(id=own.token_id or ""), caller=HUB)
    await rig.settle()
    assert looked == ["ada"]
    assert not fetching.done()
    await fetching


async def test_a_waiting_fetch_ends_when_its_token_expires(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada, "public.a")
    short = await rig.caller("ada", expires_in_s=10)
    fetching = asyncio.ensure_future(fetch(rig, short, wait_s=60))
    await rig.clock.pass_time(10.1)
    assert isinstance(fetching.exception(), Unauthenticated)


async def test_an_ack_makes_room_for_a_waiting_fetch(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada)
    await rig.fill(ada, "public.a", IN_FLIGHT_MAX + 1)
    held = (await fetch(rig, ada, IN_FLIGHT_MAX)).deliveries
    fetching = asyncio.ensure_future(fetch(rig, ada, wait_s=20))
    await rig.settle()
    await ack(rig, ada, held[:1])
    await rig.settle()
    assert data(fetching.result().deliveries) == [IN_FLIGHT_MAX + 1]


async def test_a_waiting_fetch_is_answered_by_what_falls_due(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada, since="all", ack_wait_s=5)
    await rig.publish(ada, "public.a", 1)
    await fetch(rig, ada)
    begun = rig.clock.steady_s()
    assert tried((await fetch(rig, ada, wait_s=60)).deliveries) == [2]
    assert rig.clock.steady_s() - begun == pytest.approx(5, abs=0.1)


async def test_a_wait_for_nothing_ends_empty_in_time(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada)
    begun = rig.clock.steady_s()
    assert (await fetch(rig, ada, wait_s=7)).deliveries == []
    assert rig.clock.steady_s() - begun == pytest.approx(7, abs=0.1)


async def test_a_publish_at_any_await_of_a_waiting_fetch_is_not_slept_through(
    rig: HubRig, ada: Caller
) -> None:
    await create(rig, ada)
    for at in range(8):
        gate = Gate(rig.hub, at=at, action=lambda: rig.publish(ada, "public.a", 1))
        fetching = asyncio.ensure_future(fetch(rig, ada, wait_s=60))
        await rig.settle()
        if not gate.was_reached:
            await rig.publish(ada, "public.a", 1)
            await rig.settle()
        assert data(fetching.result().deliveries) == [1]
        await gate.open()
    assert at == 7


async def test_deleting_it_ends_the_wait(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada)
    fetching = asyncio.ensure_future(fetch(rig, ada, wait_s=60))
    await rig.settle()
    await rig.hub.call(DeleteConsumer(name="c"), caller=ada)
    await rig.settle()
    with pytest.raises(NotFound):
        fetching.result()
    with pytest.raises(NotFound):
        await fetch(rig, ada)


async def test_the_lag_is_how_far_the_log_is_ahead(rig: HubRig, ada: Caller) -> None:
    await create(rig, ada)
    await rig.fill(ada, "public.a", 10)
    assert (await rig.hub.call(ReadConsumer(name="c"), caller=ada)).lag == 10
    assert (await fetch(rig, ada, limit=4)).lag == 6
    assert 'consumer="main/ada/c"} 6' in rig.hub.metrics()
