"""Access requests: who is told, who may not ask, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.access import (
    CHANNEL,
    REASON_MAX_CHARS,
    AccessRequest,
    ListPrivate,
    RequestAccess,
)
from clawnet.core.calls.accounts import Block
from clawnet.core.calls.adverts import Advertise
from clawnet.core.calls.grants import Grant, Lock, Unlock
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    Forbidden,
    InvalidChannel,
    NotFound,
    RateLimited,
    Unauthenticated,
)
from clawnet.hub.settings import ChannelSettings, HubSettings, LimitSettings
from clawnet.testing.hubs import HubRig

PLANS = "agent.ada.plans"


async def ask(rig: HubRig, caller: Caller, channel: str = PLANS, reason: str = "") -> AccessRequest:
    told: AccessRequest = await rig.hub.call(
        RequestAccess(channel=channel, reason=reason), caller=caller
    )
    return told


async def private(rig: HubRig, caller: Caller) -> list[str]:
    found = await rig.hub.call(ListPrivate(), caller=caller)
    return list(found.channels)


async def test_the_owner_is_told_in_its_inbox_by_the_requester(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    inbox = rig.connect(ada, "agent.ada.inbox")
    public = rig.connect(ada, CHANNEL)
    told = await ask(rig, bob, reason="we work together")
    await rig.settle()
    (frame,) = inbox.frames
    assert frame.event["id"] == told.id
    assert frame.event["actor"]["id"] == "bob"
    assert frame.event["type"] == "x.access_request"
    assert frame.data == {
        "type": "access_request",
        "requester": "bob",
        "targetChannel": PLANS,
        "targetType": "agent",
        "targetOwner": "ada",
        "targetAgent": "ada",
        "reason": "we work together",
        "timestamp": told.timestamp_ms,
    }
    assert public.frames == [], "what is not advertised is nobody's business"
    assert not told.is_public


async def test_a_request_for_an_advertised_channel_is_public(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await rig.hub.call(Advertise(channel=PLANS), caller=ada)
    public = rig.connect(ada, CHANNEL)
    assert (await ask(rig, bob)).is_public
    await rig.settle()
    assert [frame.data["requester"] for frame in public.frames] == ["bob"]


async def test_whom_the_owner_blocked_cannot_ask(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.hub.call(Advertise(channel=PLANS), caller=ada)
    await rig.hub.call(Block(account="bob"), caller=ada)
    outlet = rig.connect(ada, "agent.ada.inbox", CHANNEL)
    with pytest.raises(Forbidden):
        await ask(rig, bob)
    await rig.settle()
    assert outlet.frames == [], "and is not heard elsewhere either"


@pytest.mark.parametrize(
    ("channel", "error"),
    [
        ("public.news", BadRequest),
        ("agent.ada.public.news", BadRequest),
        ("system.timer.day", BadRequest),
        ("agent.ada.inbox", Forbidden),
        ("room.team", Forbidden),
        ("dm.ada.bob", Forbidden),
        ("system.accounts", Forbidden),
        ("agent.nobody.plans", NotFound),
        ("agent.ada", InvalidChannel),
        ("agent.ada.*", InvalidChannel),
        ("", InvalidChannel),
    ],
)
async def test_what_nobody_can_be_let_into_cannot_be_asked_for(
    rig: HubRig, ada: Caller, bob: Caller, channel: str, error: type[ClawError]
) -> None:
    with pytest.raises(error):
        await ask(rig, bob, channel)


async def test_who_has_access_need_not_ask(rig: HubRig, ada: Caller, bob: Caller) -> None:
    with pytest.raises(BadRequest, match="you already have access to this channel"):
        await ask(rig, ada)
    await rig.hub.call(Grant(account="bob", channel=PLANS), caller=ada)
    with pytest.raises(BadRequest, match="you already have access to this channel"):
        await ask(rig, bob)


async def test_what_is_open_need_not_be_asked_for(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.hub.call(Unlock(channel=PLANS), caller=ada)
    with pytest.raises(BadRequest, match="channel is not locked, access is public"):
        await ask(rig, bob)
    await rig.hub.call(Lock(channel=PLANS), caller=ada)
    await ask(rig, bob)


async def test_asking_needs_a_token_that_may_write(rig: HubRig, ada: Caller, bob: Caller) -> None:
    with pytest.raises(Unauthenticated):
        await ask(rig, rig.hub.anonymous(is_local=True))
    with pytest.raises(Forbidden):
        await ask(rig, await rig.caller("bob", scopes=["events:read"]))


async def test_a_reason_is_bounded(rig: HubRig, ada: Caller, bob: Caller) -> None:
    with pytest.raises(BadRequest):
        await ask(rig, bob, reason="x" * (REASON_MAX_CHARS + 1))


async def test_ones_private_channels_are_those_in_use_locked_or_granted(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    for channel in ("agent.ada.used", "agent.ada.opened", "agent.ada.public.news"):
        await rig.publish(ada, channel)
    await rig.publish(bob, "agent.bob.used")
    await rig.publish(bob, "agent.ada.inbox")
    await rig.hub.call(Unlock(channel="agent.ada.opened"), caller=ada)
    await rig.hub.call(Lock(channel="agent.ada.locked"), caller=ada)
    await rig.hub.call(Grant(account="bob", channel="agent.ada.granted"), caller=ada)
    await rig.hub.call(Grant(account="bob", channel="agent.ada.team.*"), caller=ada)
    assert await private(rig, ada) == ["agent.ada.granted", "agent.ada.locked", "agent.ada.used"]
    assert await private(rig, bob) == ["agent.bob.used"]
    await rig.restart()
    again = await rig.caller("ada")
    assert await private(rig, again) == ["agent.ada.granted", "agent.ada.locked", "agent.ada.used"]


async def test_many_private_channels_are_all_listed(rig: HubRig, ada: Caller) -> None:
    names = [f"agent.ada.c{number:04}" for number in range(1_200)]
    for name in names:
        await rig.publish(ada, name)
    assert await private(rig, ada) == names


class TestOpenByDefault:
    @pytest.fixture
    def settings(self) -> HubSettings:
        return HubSettings(
            channels=ChannelSettings(default_read="anyone"), limits=LimitSettings(enabled=False)
        )

    async def test_only_what_is_locked_is_private(
        self, rig: HubRig, ada: Caller, bob: Caller
    ) -> None:
        await rig.publish(ada, "agent.ada.used")
        await rig.hub.call(Lock(channel=PLANS), caller=ada)
        assert await private(rig, ada) == [PLANS]
        await ask(rig, bob)
        with pytest.raises(BadRequest, match="access is public"):
            await ask(rig, bob, "agent.ada.used")


class TestLimited:
    @pytest.fixture
    def settings(self) -> HubSettings:
        return HubSettings()

    async def test_one_channel_is_asked_for_once_a_minute(
        self, rig: HubRig, ada: Caller, bob: Caller
    ) -> None:
        await ask(rig, bob)
        with pytest.raises(RateLimited, match="this channel") as met:
            await ask(rig, bob)
        # The rate is that of the limit that was met: one a minute.
        assert met.value.facts["limit_per_s"] == pytest.approx(1 / 60)
        rig.clock.advance(61)
        await ask(rig, bob)

    async def test_an_account_does_not_ask_everybody_for_everything(
        self, rig: HubRig, ada: Caller, bob: Caller
    ) -> None:
        outcomes: list[Any] = []
        for number in range(30):
            try:
                outcomes.append(await ask(rig, bob, f"agent.ada.c{number}"))
            except RateLimited as error:
                outcomes.append(error)
        assert sum(isinstance(one, AccessRequest) for one in outcomes) == 10
        assert {one.facts["limit_per_s"] for one in outcomes[10:]} == {0.2}
