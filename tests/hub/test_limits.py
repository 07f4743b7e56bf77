"""Limits per account: one account's flood is its own trouble."""

from __future__ import annotations

import msgspec
import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.accounts import Me
from clawnet.core.calls.publishing import PublishBatch
from clawnet.core.errors import RateLimited, TooManySubscriptions
from clawnet.hub.settings import ChannelSettings, HubSettings, LimitSettings, NamespaceSettings
from clawnet.testing.hubs import HubRig, event


@pytest.fixture
def settings() -> HubSettings:
    return HubSettings(
        limits=LimitSettings(
            publish_per_s=10,
            publish_burst=20,
            calls_per_s=2,
            calls_burst=6,
            subscriptions_per_session_max=5,
            sessions_per_account_max=3,
        ),
        channels=ChannelSettings(
            anonymous_subscriptions_max=2, namespaces={"chat": NamespaceSettings()}
        ),
    )


async def flood(rig: HubRig, caller: Caller, n: int) -> int:
    passed = 0
    for i in range(n):
        try:
            await rig.publish(caller, "public.x", i)
            passed += 1
        except RateLimited:
            pass
    return passed


async def test_a_flood_is_stopped_and_told_how_long_to_wait(rig: HubRig, ada: Caller) -> None:
    assert await flood(rig, ada, 50) == 20
    with pytest.raises(RateLimited) as caught:
        await rig.publish(ada, "public.x")
    assert caught.value.retry_after_s == pytest.approx(0.1)
    await rig.clock.pass_time((caught.value.retry_after_s or 0) + 0.001)
    await rig.publish(ada, "public.x")


async def test_one_accounts_flood_spends_nobody_elses_bucket(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await flood(rig, ada, 50)
    assert await flood(rig, bob, 20) == 20


async def test_the_server_api_is_not_limited_and_insecure_mode_is(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    backend = msgspec.structs.replace(ada, rules_free=True)
    assert await flood(rig, backend, 50) == 50
    with_ticket = msgspec.structs.replace(bob, tickets=frozenset({"chat:1"}))
    assert await flood(rig, with_ticket, 50) == 20
    anybody = msgspec.structs.replace(await rig.account("eve"), rules_free=True, is_confined=True)
    passed = 0
    for n in range(50):
        try:
            await rig.publish(anybody, "chat:1", n)
            passed += 1
        except RateLimited:
            pass
    assert passed == 20


async def test_more_tokens_are_not_more_publishes(rig: HubRig, ada: Caller) -> None:
    other = await rig.caller("ada")
    assert await flood(rig, ada, 20) + await flood(rig, other, 20) == 20


async def test_signals_and_publishes_share_a_bucket(rig: HubRig, ada: Caller) -> None:
    for _ in range(20):
        rig.hub.signal(ada, "public.x", "x.typing", b"1")
    with pytest.raises(RateLimited):
        await rig.publish(ada, "public.x")


async def test_a_refused_batch_takes_nothing_from_the_bucket(rig: HubRig, ada: Caller) -> None:
    """Else whoever waits as told, and tries again, would never get its batch through."""
    await flood(rig, ada, 10)
    batch = PublishBatch(events=[event("public.x", n) for n in range(15)])
    with pytest.raises(RateLimited) as caught:
        await rig.hub.call(batch, caller=ada)
    assert caught.value.retry_after_s == pytest.approx(0.5)
    await rig.clock.pass_time((caught.value.retry_after_s or 0) + 0.001)
    assert len((await rig.hub.call(batch, caller=ada)).events) == 15


async def test_a_batch_larger_than_the_burst_passes_from_a_full_bucket(
    rig: HubRig, ada: Caller
) -> None:
    batch = PublishBatch(events=[event("public.x", n) for n in range(100)])
    assert len((await rig.hub.call(batch, caller=ada)).events) == 100
    with pytest.raises(RateLimited):
        await rig.publish(ada, "public.x")


async def test_calls_have_a_limit_of_their_own(rig: HubRig, ada: Caller, bob: Caller) -> None:
    for _ in range(6):
        await rig.hub.call(Me(), caller=ada)
    with pytest.raises(RateLimited) as caught:
        await rig.hub.call(Me(), caller=ada)
    assert caught.value.retry_after_s == pytest.approx(0.5)
    await rig.hub.call(Me(), caller=bob)
    await rig.publish(ada, "public.x")


async def test_idle_buckets_are_forgotten(rig: HubRig) -> None:
    for n in range(300):
        rig.hub.ration.take_publish(Caller(account=f"a{n}"), 1)
    assert len(rig.hub.ration._publishes) >= 300
    await rig.clock.pass_time(5)
    assert len(rig.hub.ration._publishes) == 0


async def test_a_connection_follows_so_many_channels(rig: HubRig, ada: Caller) -> None:
    outlet = rig.connect(ada, "public.a", "public.b", "public.>")
    with pytest.raises(TooManySubscriptions):
        rig.subscribe(outlet, "public.c", "public.d", "public.e")
    rig.subscribe(outlet, "public.c", "public.d")
    with pytest.raises(TooManySubscriptions):
        rig.subscribe(outlet, "public.e")
    assert outlet.session is not None
    outlet.session.unsubscribe(1)
    rig.subscribe(outlet, "public.e", "public.f", "public.g")


async def test_an_account_holds_so_many_connections(rig: HubRig, ada: Caller, bob: Caller) -> None:
    outlets = [rig.connect(ada) for _ in range(3)]
    with pytest.raises(TooManySubscriptions):
        rig.connect(await rig.caller("ada"))
    rig.connect(bob)
    assert outlets[0].session is not None
    outlets[0].session.close()
    rig.connect(ada)


async def test_without_a_token_only_a_few_channels_are_followed(rig: HubRig) -> None:
    outlet = rig.connect(rig.hub.anonymous(is_local=True), "public.a", "public.b")
    with pytest.raises(TooManySubscriptions):
        rig.subscribe(outlet, "public.c")
