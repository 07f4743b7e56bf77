"""The bridge: every event reaches Centrifugo in order, and who may not follow any more is told."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from msgspec import Raw

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import CreateAccount, DeleteAccount, UpdateAccount
from clawnet.core.calls.grants import Grant, Lock, Revoke, Unlock
from clawnet.core.calls.publishing import DoorPublish, Published
from clawnet.core.calls.tokens import CreateToken, RevokeToken
from clawnet.core.claw import via
from clawnet.core.errors import BadConfiguration, ClawError
from clawnet.core.events import Origin
from clawnet.core.positions import EpochStart
from clawnet.core.units import Delete, Unit
from clawnet.features.bridge.centrifugo import Centrifugo
from clawnet.hub.lanes import Lane
from clawnet.testing.hubs import FaultyEngine
from clawnet.testing.loops import LoopClock
from tests.features.bridging import BridgeRig, bridged, memory_engine


@pytest.fixture
async def rig() -> AsyncIterator[BridgeRig]:
    clock = LoopClock()
    async with bridged(memory_engine(clock), clock) as made:
        yield made


@pytest.fixture
async def ada(rig: BridgeRig) -> Caller:
    return await rig.account("ada")


@pytest.fixture
async def bob(rig: BridgeRig) -> Caller:
    return await rig.account("bob")


# --- events -------------------------------------------------------------------


async def test_an_event_is_published_as_claw_events_reads_it(rig: BridgeRig, ada: Caller) -> None:
    published = await rig.publish(ada, "public.news", {"n": 1})
    await rig.told()
    ((name, data),) = [one for one in rig.fake.published if one[0] == "public.news"]
    assert name == "public.news"
    assert data["payload"] == {"n": 1}
    assert data["_claw"]["sender"] == "ada" and data["_claw"]["id"] == published.id
    # Within the test's first second, by the hub's clock.
    assert 0 <= data["_claw"]["timestamp"] - 1_800_000_000_000 < 1_000


async def test_what_its_clients_cannot_follow_is_not_published(rig: BridgeRig, ada: Caller) -> None:
    await rig.publish(ada, "agent.ada.diary", "private, and asked about when one subscribes")
    await rig.hub.call(CreateAccount(id="eve"), caller=HUB)
    await rig.told()
    names = {name for name, _ in rig.fake.published}
    assert "agent.ada.diary" in names and "system.accounts" in names
    assert all(name.partition(".")[0] in ("public", "agent", "system") for name in names)


async def test_another_world_stays_out(rig: BridgeRig) -> None:
    there = Caller(account="hub", is_hub=True, world="other")
    await rig.publish(there, "public.news", "theirs")
    await rig.told()
    assert rig.on("public.news") == []


async def test_what_centrifugo_told_itself_is_not_told_twice(rig: BridgeRig, ada: Caller) -> None:
    def answered(published: Published | ClawError) -> None:
        assert isinstance(published, Published)
        rig.hub.told.owe(published.id)
        rig.hub.told.settle(published.id, is_told=True)

    for number, name in enumerate(("public.lobby", "public.townsquare", None)):
        origin = None if name is None else Origin(via=via(name))
        call = DoorPublish(channel="public.lobby", data=Raw(b"%d" % number), origin=origin)
        rig.hub.publish(ada, call, lane=Lane(), reply=answered)
    await rig.hub.drain()
    await rig.told()
    # Each name of the lobby is a channel of its own there.
    assert rig.on("public.lobby") == [1, 2]
    assert rig.on("public.townsquare") == [0, 2]


async def test_a_channels_events_stay_in_order(rig: BridgeRig, ada: Caller) -> None:
    for number in range(40):
        await rig.publish(ada, f"public.{number % 4}", number)
    await rig.told()
    for number in range(4):
        assert rig.on(f"public.{number}") == list(range(number, 40, 4))


async def test_an_event_that_fails_is_not_overtaken(rig: BridgeRig, ada: Caller) -> None:
    rig.fake.failing.add("public.a")
    for number in range(5):
        await rig.publish(ada, "public.a", number)
        await rig.publish(ada, "public.b", number)
    await rig.clock.pass_time(30)
    assert rig.on("public.a") == []
    rig.fake.failing.clear()
    await rig.told()
    assert rig.on("public.a") == rig.on("public.b") == [0, 1, 2, 3, 4]


async def test_one_that_fails_once_comes_before_those_behind_it(
    rig: BridgeRig, ada: Caller
) -> None:
    await rig.held_up(ada)
    for number in range(5):
        await rig.publish(ada, "public.a", number)
        await rig.publish(ada, "public.b", number)
    rig.fake.fails_once.add("public.a")
    rig.fake.is_down = False
    await rig.told()
    assert rig.on("public.a") == rig.on("public.b") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("fault", ["down", "slow", "error 502", "not authorised"])
async def test_events_wait_while_it_does_not_answer(
    rig: BridgeRig, ada: Caller, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.told()
    fake = rig.fake
    fake.is_down, fake.is_slow = fault == "down", fault == "slow"
    fake.status = 502 if "502" in fault else 200
    key, fake.key = fake.key, "another" if fault == "not authorised" else fake.key
    with caplog.at_level(logging.WARNING):
        # The publish itself waits for nobody.
        await rig.fill(ada, "public.news", 20)
        await rig.clock.pass_time(600)
    assert rig.on("public.news") == []
    waits = [record for record in caplog.records if "they wait" in record.message]
    assert len(waits) == 1, "it is said once, and not with every retry"
    fake.is_down = fake.is_slow = False
    fake.status, fake.key = 200, key
    await rig.told()
    assert rig.on("public.news") == list(range(1, 21))


@pytest.mark.parametrize("after", range(9))
async def test_what_broke_off_half_way_is_repeated_and_told_once(
    rig: BridgeRig, ada: Caller, after: int
) -> None:
    await rig.held_up(ada)
    for number in range(3):
        for channel in "abcd":
            await rig.publish(ada, f"public.{channel}", number)
    rig.fake.breaks_after = after
    rig.fake.is_down = False
    await rig.told()
    for channel in "abcd":
        assert rig.on(f"public.{channel}") == [0, 1, 2]


async def test_an_event_that_can_never_pass_holds_nobody_up(
    rig: BridgeRig, ada: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.held_up(ada)
    await rig.publish(ada, "public.a", "poison")
    await rig.publish(ada, "public.b", "good")
    await rig.publish(ada, "public.a", "good")
    answer = rig.fake.handle_async_request

    async def picky(request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        if b"poison" in body:
            return httpx.Response(400, content=b"")
        return await answer(request)

    monkeypatch.setattr(rig.fake, "handle_async_request", picky)
    rig.fake.is_down = False
    await rig.told()
    assert rig.on("public.a") == rig.on("public.b") == ["good"]
    assert any("for good" in record.message for record in caplog.records)


@pytest.mark.parametrize("how", ["restart", "crash"])
async def test_a_hub_that_comes_back_goes_on_where_it_was(
    rig: BridgeRig, ada: Caller, how: str
) -> None:
    await rig.fill(ada, "public.news", 5)
    await rig.told()
    rig.fake.is_down = True
    await rig.fill(ada, "public.news", 5)
    # Long enough for its place to be stored, and for several vain attempts.
    await rig.clock.pass_time(5)
    await (rig.restart() if how == "restart" else rig.crash())
    rig.fake.is_down = False
    await rig.told()
    assert rig.on("public.news") == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("turns", [1, 5, 10, 20, 40, 80])
async def test_a_hub_that_is_killed_meanwhile_loses_nothing(
    rig: BridgeRig, ada: Caller, turns: int
) -> None:
    import asyncio

    rig.fake.is_down = True
    await rig.fill(ada, "public.news", 30)
    rig.fake.is_down = False
    await rig.clock.pass_time(0.1)
    for _ in range(turns):
        await asyncio.sleep(0)
    await rig.crash()
    await rig.told()
    assert rig.on("public.news") == list(range(1, 31))


async def test_a_first_run_begins_with_what_is_said_from_then_on(
    rig: BridgeRig, ada: Caller
) -> None:
    await rig.fill(ada, "public.news", 3)
    await rig.told()
    # As on a hub that had no bridge before.
    await rig.hub.committer.commit(Unit(changes=(Delete("bridge/centrifugo"),)))
    rig.fake.published.clear()
    rig.fake._seen.clear()
    await rig.crash()
    # Killed before the first event: where it began was stored at once.
    rig.fake.is_down = True
    await rig.publish(await rig.caller("ada"), "public.news", "from now on")
    await rig.crash()
    rig.fake.is_down = False
    await rig.told()
    assert rig.on("public.news") == ["from now on"]


async def test_a_full_disk_keeps_no_hub_with_a_bridge_from_starting() -> None:
    clock = LoopClock()
    engine = memory_engine(clock)
    full = FaultyEngine(engine)
    full.is_full = True
    async with bridged(full, clock) as rig:
        full.is_full = False
        await rig.publish(await rig.account("ada"), "public.news", 1)
        await rig.told()
        assert rig.on("public.news") == [1]


async def test_events_that_were_trimmed_before_are_named_in_the_log(
    rig: BridgeRig, ada: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.told()
    rig.fake.is_down = True
    await rig.clock.pass_time(20)
    await rig.fill(ada, "public.news", 10)
    rig.engine.trim_channel("main", "public.news", keep=3)
    rig.fake.is_down = False
    await rig.told()
    assert rig.on("public.news")[-3:] == [8, 9, 10]
    if len(rig.on("public.news")) < 10:
        assert any("public.news: offsets" in record.message for record in caplog.records)


# --- narrowings ---------------------------------------------------------------


async def granted(rig: BridgeRig, ada: Caller, bob: Caller) -> None:
    await rig.hub.call(Grant(account="bob", channel="plan", verbs=["read"]), caller=ada)
    await rig.told()


@pytest.mark.parametrize("is_down", [False, True])
async def test_who_lost_a_grant_is_unsubscribed(
    rig: BridgeRig, ada: Caller, bob: Caller, is_down: bool
) -> None:
    await granted(rig, ada, bob)
    follower = await rig.follower("bob", "agent.ada.plan", "public.news")
    rig.fake.is_down = is_down
    # It is acknowledged without waiting for Centrifugo.
    done = await rig.hub.call(Revoke(account="bob", channel="plan"), caller=ada)
    assert done.changed
    await rig.clock.pass_time(100)
    rig.fake.is_down = False
    await rig.told()
    assert follower.unsubscribed == ["agent.ada.plan"]
    assert follower.channels == {"public.news"} and follower.ended is None


async def test_nothing_said_after_a_revoke_reaches_the_revoked(
    rig: BridgeRig, ada: Caller, bob: Caller
) -> None:
    await granted(rig, ada, bob)
    follower = await rig.follower("bob", "agent.ada.plan")
    rig.fake.is_down = True
    await rig.publish(ada, "agent.ada.plan", "before")
    await rig.hub.call(Revoke(account="bob", channel="plan"), caller=ada)
    await rig.publish(ada, "agent.ada.plan", "after")
    await rig.clock.pass_time(50)
    rig.fake.is_down = False
    await rig.told()
    assert rig.on("agent.ada.plan") == ["before", "after"]
    assert follower.read("agent.ada.plan") == []


async def test_a_revoke_survives_a_crash_of_the_hub_while_centrifugo_is_down(
    rig: BridgeRig, ada: Caller, bob: Caller
) -> None:
    await granted(rig, ada, bob)
    follower = await rig.follower("bob", "agent.ada.plan")
    rig.fake.is_down = True
    await rig.hub.call(Revoke(account="bob", channel="plan"), caller=ada)
    await rig.clock.pass_time(5)
    await rig.crash()
    rig.fake.is_down = False
    await rig.told()
    assert follower.unsubscribed == ["agent.ada.plan"]


async def test_a_subscription_on_its_way_at_the_revoke_ends_too(
    rig: BridgeRig, ada: Caller, bob: Caller
) -> None:
    await granted(rig, ada, bob)
    await rig.hub.call(Revoke(account="bob", channel="plan"), caller=ada)
    await rig.told()
    # The hub had been asked before; Centrifugo lets it in only now.
    late = await rig.follower("bob", "agent.ada.plan")
    await rig.clock.pass_time(10)
    await rig.told()
    assert late.channels == set()


async def test_a_right_that_was_given_again_is_not_taken(
    rig: BridgeRig, ada: Caller, bob: Caller
) -> None:
    await granted(rig, ada, bob)
    follower = await rig.follower("bob", "agent.ada.plan")
    rig.fake.is_down = True
    await rig.hub.call(Revoke(account="bob", channel="plan"), caller=ada)
    await rig.hub.call(Grant(account="bob", channel="plan", verbs=["read"]), caller=ada)
    rig.fake.is_down = False
    await rig.told()
    assert follower.channels == {"agent.ada.plan"}


async def test_a_lost_pattern_makes_the_account_come_back_and_be_asked_again(
    rig: BridgeRig, ada: Caller, bob: Caller
) -> None:
    grant = Grant(account="bob", channel="agent.ada.work.>", verbs=["read"])
    await rig.hub.call(grant, caller=ada)
    follower = await rig.follower("bob", "agent.ada.work.x")
    await rig.hub.call(Revoke(account="bob", channel="agent.ada.work.>"), caller=ada)
    await rig.told()
    assert follower.ended == (4000, "rights changed")


async def test_a_lock_empties_the_channel_of_all_but_the_granted(
    rig: BridgeRig, ada: Caller, bob: Caller
) -> None:
    await rig.account("eve")
    await rig.hub.call(Unlock(channel="plan"), caller=ada)
    await granted(rig, ada, bob)
    there = {who: await rig.follower(who, "agent.ada.plan") for who in ("ada", "bob", "eve", "x")}
    await rig.hub.call(Lock(channel="plan"), caller=ada)
    await rig.told()
    stays = {who for who, client in there.items() if client.channels}
    assert stays == {"ada", "bob"}


async def test_a_lock_holds_where_centrifugo_keeps_no_presence(
    rig: BridgeRig, ada: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.hub.call(Unlock(channel="plan"), caller=ada)
    follower = await rig.follower("bob", "agent.ada.plan")
    without = {"name": "agent", "proxy_subscribe": True}
    monkeypatch.setitem(rig.fake.config, "namespaces", [without])
    await rig.hub.call(Lock(channel="plan"), caller=ada)
    await rig.clock.pass_time(1)
    assert follower.channels == set()


async def test_a_revoked_token_ends_the_accounts_connections(rig: BridgeRig, ada: Caller) -> None:
    made = await rig.hub.call(CreateToken(account="ada"), caller=HUB)
    follower, other = await rig.follower("ada", "public.a"), await rig.follower("bob", "public.a")
    await rig.hub.call(RevokeToken(id=made.id), caller=ada)
    await rig.told()
    assert follower.ended == (4001, "token revoked") and other.ended is None


async def test_a_deleted_account_stays_away(rig: BridgeRig, ada: Caller, bob: Caller) -> None:
    follower = await rig.follower("bob", "public.a")
    await rig.hub.call(DeleteAccount(id="bob"), caller=HUB)
    await rig.told()
    assert follower.ended == (4500, "account deleted")


async def test_who_is_no_warden_any_more_begins_anew(rig: BridgeRig) -> None:
    await rig.account("eye", role="warden")
    follower = await rig.follower("eye", "room.secret")
    await rig.hub.call(UpdateAccount(id="eye", role="worker"), caller=HUB)
    await rig.told()
    assert follower.ended == (4000, "rights changed")


async def test_what_is_given_and_renamed_ends_nothing(
    rig: BridgeRig, ada: Caller, bob: Caller
) -> None:
    follower = await rig.follower("bob", "agent.ada.plan")
    await granted(rig, ada, bob)
    await rig.hub.call(UpdateAccount(id="bob", handle="Bobby"), caller=bob)
    await rig.hub.call(Unlock(channel="plan"), caller=ada)
    await rig.told()
    assert follower.channels and follower.ended is None


async def test_narrowings_that_were_trimmed_unread_let_everybody_begin_anew(
    rig: BridgeRig, ada: Caller, bob: Caller
) -> None:
    await granted(rig, ada, bob)
    follower = await rig.follower("bob", "agent.ada.plan")
    rig.fake.is_down = True
    await rig.clock.pass_time(60)
    # Away from the log before they were read: the bridge reads on only when it is answered.
    for _ in range(2):
        await rig.hub.call(Revoke(account="bob", channel="plan"), caller=ada)
        await rig.crash()
        rig.engine.trim_channel("main", "system.grants", keep=0)
    rig.fake.is_down = False
    await rig.told()
    assert not follower.channels


# --- what it is told ----------------------------------------------------------


async def test_how_far_behind_it_is_can_be_watched(rig: BridgeRig, ada: Caller) -> None:
    def lag() -> int:
        (text,) = re.findall(r"(?m)^clawnet_bridge_lag_events (\d+)$", rig.hub.metrics())
        return int(text)

    await rig.told()
    assert lag() == 0
    rig.fake.is_down = True
    for number in range(7):
        await rig.publish(ada, "public.news", number)
    await rig.clock.pass_time(1)
    assert lag() == 7
    rig.fake.is_down = False
    await rig.told()
    assert lag() == 0


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("centrifugo:8000/api", "k"),
        ("ftp://centrifugo/api", "k"),
        ("http://", "k"),
        ("http://user:secret@centrifugo/api", "k"),
        ("http://centrifugo:8000/api", None),
        ("http://centrifugo:8000/api", ""),
    ],
)
def test_a_bridge_to_nowhere_is_refused_at_the_start(url: str, key: str | None) -> None:
    with pytest.raises(BadConfiguration):
        Centrifugo(url, key=key, timeout_s=1.0)


# --- a kill, a restore ---------------------------------------------------------


async def test_what_is_to_be_told_once_more_survives_a_kill(rig: BridgeRig) -> None:
    ada, _ = await rig.account("ada"), await rig.account("bob")
    await rig.hub.call(Grant(account="bob", channel="plan", verbs=["read"]), caller=ada)
    follower = await rig.follower("bob", "agent.ada.plan")
    await rig.told()
    await rig.clock.pass_time(30)
    await rig.hub.call(Revoke(account="bob", channel="plan"), caller=ada)
    await rig.told()
    # Its question was asked before the revoke, and comes into force only now.
    follower.channels.add("agent.ada.plan")
    # How far it is, is stored; the second telling is not due yet.
    await rig.clock.pass_time(3)
    assert follower.unsubscribed == ["agent.ada.plan"]
    await rig.crash()
    await rig.told()
    await rig.clock.pass_time(1)
    assert follower.unsubscribed == ["agent.ada.plan"] * 2


async def test_after_a_restore_what_is_new_is_told(rig: BridgeRig) -> None:
    ada, _ = await rig.account("ada"), await rig.account("bob")
    await rig.hub.call(Grant(account="bob", channel="plan", verbs=["read"]), caller=ada)
    places = [await rig.publish(ada, "public.news", n) for n in range(1, 6)]
    await rig.hub.call(Revoke(account="bob", channel="plan"), caller=ada)
    await rig.told()
    follower = await rig.follower("bob", "agent.ada.plan")
    # What is told twice was told, and how far it is, is stored.
    await rig.clock.pass_time(30)
    follower.channels.add("agent.ada.plan")
    follower.unsubscribed.clear()
    # So that a repetition is seen.
    rig.fake._seen.clear()
    lineage = (EpochStart(rig.hub.log_epoch, 1), EpochStart("restored", places[3].seq))
    vars(rig.engine)["epochs"] = lineage
    vars(rig.engine)["epoch"] = "restored"
    await rig.crash()
    await rig.told()
    # The log was not really cut: what lies behind the branch stands for what is new there.
    assert rig.on("public.news") == [1, 2, 3, 4, 5, 4, 5]
    assert follower.unsubscribed == ["agent.ada.plan"]
