"""Grants and locks: given by who owns, taken back at once, and never brought back by a race."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.accounts import DeleteAccount
from clawnet.core.calls.grants import Grant, ListGrants, Lock, Revoke, Unlock
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.errors import BadRequest, ClawError, Forbidden, NotFound, Unauthenticated
from clawnet.testing.hubs import HubRig

SECRET = "agent.ada.x"


async def may_read(rig: HubRig, caller: Caller, channel: str = SECRET) -> bool:
    try:
        await rig.hub.call(ReadHistory(channel=channel), caller=caller)
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize(
    "call, error",
    [
        (Grant(account="bob", channel="agent.boss.x"), Forbidden),
        (Grant(account="bob", channel="agent.*.x"), Forbidden),
        (Grant(account="bob", channel="agent.>"), Forbidden),
        (Grant(account="bob", channel="*.>"), Forbidden),
        (Grant(account="bob", channel="room.r"), Forbidden),
        (Grant(account="bob", channel="room.*"), Forbidden),
        (Grant(account="bob", channel="free:x"), Forbidden),
        (Grant(account="bob", channel="system.accounts"), Forbidden),
        (Grant(account="bob", channel="dm.ada.bob"), Forbidden),
        (Grant(account="bob", channel="agent.ada.inbox"), Forbidden),
        (Grant(account="bob", channel="public.a"), BadRequest),
        (Grant(account="bob", channel="agent.ada.public.x"), BadRequest),
        (Grant(account="bob", channel="x", verbs=["publish"]), BadRequest),
        (Grant(account="bob", channel="x", verbs=[]), BadRequest),
        (Grant(account="gone", channel="x"), NotFound),
        (Revoke(account="bob", channel="agent.boss.x"), Forbidden),
        (Unlock(channel="agent.boss.x"), Forbidden),
        (Unlock(channel="agent.ada.inbox"), Forbidden),
        (Unlock(channel="public.a"), Forbidden),
        (Lock(channel="agent.boss.x"), Forbidden),
        (Lock(channel="room.r"), Forbidden),
    ],
    ids=repr,
)
async def test_one_gives_only_what_is_ones_own(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller, call: Any, error: type[ClawError]
) -> None:
    with pytest.raises(error):
        await rig.hub.call(call, caller=ada)
    assert (await rig.hub.call(ListGrants(), caller=master)).grants == []


async def test_a_master_cannot_open_what_belongs_to_an_agent(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller
) -> None:
    for call in (
        Grant(account="bob", channel=SECRET),
        Grant(account="boss", channel="agent.ada.>"),
        Unlock(channel=SECRET),
        Grant(account="boss", channel="dm.ada.bob"),
    ):
        with pytest.raises(Forbidden):
            await rig.hub.call(call, caller=master)
    await rig.hub.call(Grant(account="bob", channel="room.r"), caller=master)


async def test_the_scope_is_needed(rig: HubRig, ada: Caller, bob: Caller) -> None:
    narrow = await rig.caller("ada", scopes=["events:read", "events:write", "tokens:write"])
    for call in (
        Grant(account="bob", channel="x"),
        Revoke(account="bob", channel="x"),
        Unlock(channel="x"),
        Lock(channel="x"),
    ):
        with pytest.raises(Forbidden):
            await rig.hub.call(call, caller=narrow)
        with pytest.raises(Unauthenticated):
            await rig.hub.call(call, caller=rig.hub.anonymous(is_local=True))


@pytest.mark.parametrize("channel", ["x", SECRET, "agent.ada.>", "agent.ada.*"])
async def test_a_grant_opens_and_its_revoke_closes(
    rig: HubRig, ada: Caller, bob: Caller, channel: str
) -> None:
    await rig.publish(ada, SECRET, 1)
    assert not await may_read(rig, bob)
    await rig.hub.call(Grant(account="BOB", channel=channel), caller=ada)
    assert await may_read(rig, bob)
    await rig.crash()
    assert await may_read(rig, bob)
    assert not await may_read(rig, bob, "agent.ada.inbox")
    assert (await rig.hub.call(Revoke(account="bob", channel=channel), caller=ada)).changed
    assert not await may_read(rig, bob)
    assert not (await rig.hub.call(Revoke(account="bob", channel=channel), caller=ada)).changed
    await rig.crash()
    assert not await may_read(rig, bob)


async def test_a_grant_is_in_force_only_after_its_commit(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    granting = asyncio.ensure_future(rig.hub.call(Grant(account="bob", channel="x"), caller=ada))
    rig.engine.is_full = True
    with pytest.raises(ClawError):
        await granting
    assert not await may_read(rig, bob)


async def test_some_verbs_can_be_taken_back_alone(rig: HubRig, bob: Caller, master: Caller) -> None:
    grant = Grant(account="bob", channel="room.r", verbs=["publish", "read"])
    await rig.hub.call(grant, caller=master)
    await rig.publish(bob, "room.r", 1)
    revoke = Revoke(account="bob", channel="room.r", verbs=["publish"])
    await rig.hub.call(revoke, caller=master)
    with pytest.raises(Forbidden):
        await rig.publish(bob, "room.r", 2)
    assert await may_read(rig, bob, "room.r")
    await rig.crash()
    with pytest.raises(Forbidden):
        await rig.publish(bob, "room.r", 2)


@pytest.mark.parametrize("times", [1, 3])
async def test_the_last_word_holds_of_grants_and_revokes_at_once(
    rig: HubRig, ada: Caller, bob: Caller, times: int
) -> None:
    grant, revoke = Grant(account="bob", channel="x"), Revoke(account="bob", channel="x")
    for calls, expected in (((grant, revoke), False), ((revoke, grant), True)):
        await asyncio.gather(*(rig.hub.call(call, caller=ada) for call in calls * times))
        assert await may_read(rig, bob) is expected
        await rig.crash()
        assert await may_read(rig, bob) is expected


async def test_the_last_word_holds_of_locks_and_unlocks_at_once(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    unlock, lock = Unlock(channel="x"), Lock(channel=SECRET)
    for calls, expected in (((unlock, lock), False), ((lock, unlock), True)):
        await asyncio.gather(*(rig.hub.call(call, caller=ada) for call in calls * 2))
        assert await may_read(rig, bob) is expected
        await rig.crash()
        assert await may_read(rig, bob) is expected


async def test_a_change_goes_on_if_who_asked_goes_away(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    asking = asyncio.ensure_future(rig.hub.call(Grant(account="bob", channel="x"), caller=ada))
    await asyncio.sleep(0)
    asking.cancel()
    await rig.settle()
    assert asking.cancelled()
    assert await may_read(rig, bob)


async def test_grants_are_listed_for_whom_they_concern(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller
) -> None:
    eve = await rig.account("eve")
    await rig.hub.call(Grant(account="bob", channel="x"), caller=ada)
    await rig.hub.call(Grant(account="eve", channel="y"), caller=ada)
    await rig.hub.call(Grant(account="eve", channel="z"), caller=bob)

    async def listed(caller: Caller, **named: Any) -> list[str]:
        found = await rig.hub.call(ListGrants(**named), caller=caller)
        return [f"{grant.account} {grant.channel}" for grant in found.grants]

    assert await listed(ada) == ["bob agent.ada.x", "eve agent.ada.y"]
    assert await listed(bob) == ["bob agent.ada.x", "eve agent.bob.z"]
    assert await listed(eve) == ["eve agent.ada.y", "eve agent.bob.z"]
    assert len(await listed(master)) == 3
    assert await listed(master, account="EVE", channel="agent.bob.z") == ["eve agent.bob.z"]
    assert await listed(await rig.account("zed")) == []


async def test_every_change_has_its_event(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller
) -> None:
    outlet = rig.connect(master, "system.grants")
    for call in (
        Grant(account="bob", channel="x"),
        Revoke(account="bob", channel="x"),
        Unlock(channel="x"),
        Lock(channel="x"),
    ):
        await rig.hub.call(call, caller=ada)
    assert [
        (frame.event["type"], frame.data["by"], frame.data["channel"]) for frame in outlet.frames
    ] == [
        (name, "ada", SECRET)
        for name in ("grant.given", "grant.revoked", "channel.unlocked", "channel.locked")
    ]


async def test_a_revoke_names_an_account_that_is_or_was_there(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller
) -> None:
    with pytest.raises(NotFound, match="no account 'nobody'"):
        await rig.hub.call(Revoke(account="nobody", channel="x"), caller=ada)
    await rig.hub.call(DeleteAccount(id="bob"), caller=master)
    assert not (await rig.hub.call(Revoke(account="bob", channel="x"), caller=ada)).changed
