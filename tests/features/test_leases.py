"""Wake leases: held by a process for a while, never by a flag."""

from __future__ import annotations

from typing import Any

import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import CreateAccount
from clawnet.core.calls.inbox import ReadInbox
from clawnet.core.calls.presence import ReadPresence
from clawnet.core.calls.tokens import Done, RevokeToken
from clawnet.core.calls.wake import EndWake, HoldWake, ReadWake, WakeInfo
from clawnet.core.errors import BadRequest, ClawError, Forbidden, NotFound, Unauthenticated
from clawnet.features.inbox import InboxFeature, leases
from clawnet.testing.hubs import HubRig, session_of


async def hold(rig: HubRig, caller: Caller, **named: Any) -> WakeInfo:
    made: WakeInfo = await rig.hub.call(HoldWake(**named), caller=caller)
    return made


async def wake(rig: HubRig, caller: Caller, account: str = "bob") -> WakeInfo:
    found: WakeInfo = await rig.hub.call(ReadWake(account=account), caller=caller)
    return found


@pytest.mark.parametrize(
    "named",
    [
        {"ttl_s": 4.9},
        {"ttl_s": 300.1},
        {"ttl_s": float("nan")},
        {"how": ""},
        {"how": "x" * 65},
        {"how": "a\nb"},
        {"how": "\x1b[2J"},
    ],
)
async def test_a_lease_out_of_bounds_is_refused(rig: HubRig, bob: Caller, named: Any) -> None:
    with pytest.raises(BadRequest):
        await hold(rig, bob, **named)
    assert not (await wake(rig, bob)).held


async def test_only_reading_tokens_and_accounts_hold_and_look(rig: HubRig, bob: Caller) -> None:
    writer = await rig.caller("bob", scopes=["events:write"])
    for call in (HoldWake(), ReadWake(account="bob")):
        with pytest.raises(Forbidden):
            await rig.hub.call(call, caller=writer)
        with pytest.raises(ClawError):
            await rig.hub.call(call, caller=Caller(account=None))


async def test_other_worlds_are_not_seen(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await hold(rig, bob)
    elsewhere = Caller(account="ada", world="other")
    with pytest.raises(NotFound):
        await wake(rig, elsewhere)
    with pytest.raises(NotFound):
        await wake(rig, ada, "nobody")


async def test_nobody_holds_one_before_a_process_says_so(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    rig.connect(bob, "agent.bob.inbox")
    await rig.clock.pass_time(120)
    found = await wake(rig, ada)
    assert (found.held, found.how, found.until, found.ended) == (False, None, None, None)
    assert found.reason == (
        "no process of bob has held a wake lease since the hub started 2 minutes ago"
    )


async def test_a_lease_ends_by_time_and_is_renewed(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await hold(rig, bob, how="claw wake", ttl_s=10)
    await rig.clock.pass_time(9)
    await hold(rig, bob, how="claw wake", ttl_s=10)
    await rig.clock.pass_time(9)
    found = await wake(rig, ada)
    assert found.held
    assert found.how == "claw wake"
    assert found.until == "2027-01-15T08:00:19.000Z"
    await rig.clock.pass_time(181)
    found = await wake(rig, ada)
    assert not found.held
    assert found.ended == "2027-01-15T08:00:19.000Z"
    assert found.reason == (
        "no process of bob holds a wake lease; the last one ended 3 minutes ago"
    )


async def test_a_lease_that_is_over_is_noticed_without_a_look(rig: HubRig, bob: Caller) -> None:
    await hold(rig, bob, ttl_s=5)
    [held] = [f.leases for f in rig.hub._features if isinstance(f, InboxFeature)]
    await rig.clock.pass_time(7)
    assert held._held == {}


async def test_a_lease_ends_when_its_process_says_so(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await hold(rig, bob)
    other = await rig.caller("bob")
    assert await rig.hub.call(EndWake(), caller=other) == Done(changed=False)
    assert (await wake(rig, ada)).held
    assert await rig.hub.call(EndWake(), caller=bob) == Done(changed=True)
    assert not (await wake(rig, ada)).held


async def test_a_lease_ends_with_its_token_and_not_with_another(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller
) -> None:
    other = await rig.caller("bob")
    await hold(rig, bob, ttl_s=300)
    await hold(rig, other, ttl_s=300)
    assert bob.token_id is not None and other.token_id is not None
    await rig.hub.call(RevokeToken(id=other.token_id), caller=master)
    assert (await wake(rig, ada)).held
    await rig.hub.call(RevokeToken(id=bob.token_id), caller=master)
    assert not (await wake(rig, ada)).held


async def test_a_lease_ends_with_the_hub(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await hold(rig, bob, ttl_s=300)
    await rig.restart()
    assert not (await wake(rig, await rig.caller("ada"))).held
    assert rig.engine.scan("wake") == []


async def test_who_waits_at_its_inbox_can_be_woken_meanwhile(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    waiting = rig.hub.spawn(rig.hub.call(ReadInbox(wait_s=30), caller=bob))
    await rig.settle()
    assert (await wake(rig, ada)).held
    await rig.publish(ada, "agent.bob.inbox", 1)
    await waiting
    assert not (await wake(rig, ada)).held


async def test_a_wait_at_the_inbox_ends_with_its_token(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    short = await rig.caller("bob", expires_in_s=10)
    waiting = rig.hub.spawn(rig.hub.call(ReadInbox(wait_s=60), caller=short))
    await rig.clock.pass_time(9)
    assert (await wake(rig, ada)).held
    await rig.clock.pass_time(1.1)
    assert not (await wake(rig, ada)).held
    with pytest.raises(Unauthenticated):
        await waiting


async def present(rig: HubRig, caller: Caller) -> list[str]:
    found = await rig.hub.call(ReadPresence(), caller=caller)
    return [info.account for info in found.accounts]


async def test_who_holds_a_lease_is_present(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller
) -> None:
    other = await rig.caller("bob")
    assert await present(rig, ada) == []
    for _ in range(3):
        await hold(rig, bob, ttl_s=30)
        await hold(rig, other, ttl_s=300)
        await rig.clock.pass_time(20)
        assert await present(rig, ada) == ["bob"]
    await rig.hub.call(EndWake(), caller=bob)
    await rig.clock.pass_time(20)
    assert await present(rig, ada) == ["bob"]
    assert other.token_id is not None
    await rig.hub.call(RevokeToken(id=other.token_id), caller=master)
    await rig.clock.pass_time(12)
    assert await present(rig, ada) == []
    # A connection of its own does not end with the lease, nor the lease with the connection.
    outlet = rig.connect(bob)
    await hold(rig, bob, ttl_s=30)
    session_of(outlet).close()
    await rig.clock.pass_time(20)
    assert await present(rig, ada) == ["bob"]
    await rig.clock.pass_time(22)
    assert await present(rig, ada) == []


async def test_who_waits_at_its_inbox_is_present(rig: HubRig, ada: Caller, bob: Caller) -> None:
    waiting = rig.hub.spawn(rig.hub.call(ReadInbox(wait_s=30), caller=bob))
    await rig.clock.pass_time(2)
    assert await present(rig, ada) == ["bob"]
    await rig.clock.pass_time(29)
    await waiting
    await rig.clock.pass_time(12)
    assert await present(rig, ada) == []


async def test_leases_are_bounded(
    rig: HubRig, ada: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASES_PER_ACCOUNT_MAX", 5)
    for _ in range(5):
        await hold(rig, await rig.caller("bob"), ttl_s=20)
    with pytest.raises(BadRequest):
        await hold(rig, bob)
    await rig.clock.pass_time(21)
    assert (await hold(rig, bob)).held
    await rig.hub.call(CreateAccount(id="dora"), caller=HUB)
    assert (await hold(rig, await rig.caller("dora"))).held
