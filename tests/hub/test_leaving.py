"""A session that has ended and whose door still drains what is queued: it follows nothing and
counts for nothing, and a revoke takes back what its client has not been sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import DeleteAccount, UpdateAccount
from clawnet.core.calls.grants import Grant, Lock, Revoke, Unlock
from clawnet.core.calls.tokens import RevokeToken
from clawnet.core.live import End
from clawnet.hub.sessions import ENDED_PER_TURN, NO_PROGRESS_MAX_S
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.testing.hubs import HubRig, session_of, started_hub
from clawnet.testing.outlets import RecordingOutlet

SECRET = "agent.ada.x"


async def closing(
    rig: HubRig, caller: Caller, *channels: str, end: End | None = End.EXPIRED
) -> RecordingOutlet:
    """A connection that its door is closing, by the hub's word or (None) its own; not all of
    what it wrote is sent."""
    outlet = rig.connect(caller, *channels)
    outlet.unsent_bytes = 10
    session = session_of(outlet)
    if end is None:
        session.leave()
    else:
        session.end(end)
    return outlet


async def revoked(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.hub.call(Revoke(account="bob", channel=SECRET), caller=ada)


async def token_revoked(rig: HubRig, ada: Caller, bob: Caller) -> None:
    assert bob.token_id is not None
    await rig.hub.call(RevokeToken(id=bob.token_id), caller=HUB)


async def deleted(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.hub.call(DeleteAccount(id="bob"), caller=HUB)


async def demoted(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.hub.call(UpdateAccount(id="bob", role="worker"), caller=HUB)


async def locked(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.hub.call(Lock(channel=SECRET), caller=ada)


Taking = Callable[[HubRig, Caller, Caller], Awaitable[None]]
TAKINGS: dict[str, Taking] = {
    "a grant": revoked,
    "a token": token_revoked,
    "an account": deleted,
    "a role": demoted,
    "a lock": locked,
}


async def let_in(rig: HubRig, ada: Caller, how: str) -> None:
    """What bob has before it is taken; nothing else gives it to him."""
    if how == "a role":
        await rig.hub.call(UpdateAccount(id="bob", role="warden"), caller=HUB)
    elif how == "a lock":
        await rig.hub.call(Unlock(channel=SECRET), caller=ada)
    else:
        await rig.hub.call(Grant(account="bob", channel=SECRET), caller=ada)


@pytest.mark.parametrize("end", [End.EXPIRED, End.SLOW, None], ids=str)
@pytest.mark.parametrize("how", TAKINGS)
async def test_what_a_closing_connection_has_queued_is_taken_back(
    rig: HubRig, ada: Caller, bob: Caller, how: str, end: End | None
) -> None:
    await let_in(rig, ada, how)
    for channels in ((SECRET,), ("agent.*.x",), (SECRET, "public.a")):
        outlet = await closing(rig, rig.hub.directory.refresh(bob), *channels, end=end)
        assert outlet.retracted == 0
        await rig.settle()
        if channels == (SECRET, "public.a"):
            await TAKINGS[how](rig, ada, bob)
            assert outlet.retracted == 1
    assert [session.outlet.retracted for session in rig.hub.leaving] == [1, 1, 1]  # type: ignore[attr-defined]


async def test_so_is_an_answer_that_was_given_before(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await let_in(rig, ada, "a grant")
    outlet = rig.connect(bob, "public.a")
    outlet.unsent_bytes = 10
    session_of(outlet).given(SECRET)
    session_of(outlet).end(End.EXPIRED)
    await revoked(rig, ada, bob)
    assert outlet.retracted == 1


async def test_so_is_what_many_subscriptions_gave_while_they_end(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    """They end in turns; a revoke between two of them ends none a second time."""
    await let_in(rig, ada, "a grant")
    outlet = rig.connect(bob)
    outlet.unsent_bytes = 10
    for n in range(2 * ENDED_PER_TURN):
        rig.subscribe(outlet, f"public.n{n}")
    rig.subscribe(outlet, SECRET)
    session = session_of(outlet)
    session.end(End.EXPIRED)
    assert session.subscriptions
    rig.hub.rights_changed("main", "bob", narrowed=SECRET)
    assert outlet.retracted == 0, "nothing is hidden from bob yet"
    await revoked(rig, ada, bob)
    assert (outlet.retracted, outlet.endings, outlet.drops) == (1, [], [])


async def test_what_does_not_concern_it_costs_a_closing_connection_nothing(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await let_in(rig, ada, "a grant")
    await rig.hub.call(Grant(account="bob", channel="agent.ada.y"), caller=ada)
    eve = await rig.account("eve")
    outlet = await closing(rig, bob, SECRET)
    other = await closing(rig, eve, "public.a")
    await rig.hub.call(Revoke(account="bob", channel="agent.ada.y"), caller=ada)
    await rig.hub.call(Lock(channel="agent.ada.z"), caller=ada)
    await rig.hub.call(Grant(account="bob", channel=SECRET), caller=ada)
    await token_revoked(rig, ada, await rig.caller("bob"))
    assert outlet.retracted == 0
    await revoked(rig, ada, bob)
    assert (outlet.retracted, other.retracted) == (1, 0)


# --- for the rest it is gone --------------------------------------------------------------------


async def test_a_closing_session_is_gone_for_presence_and_limits() -> None:
    limits = LimitSettings(enabled=True, sessions_per_account_max=1)
    async with started_hub(HubSettings(limits=limits)) as rig:
        ada, bob = await rig.account("ada"), await rig.account("bob")
        outlet = await closing(rig, bob, "public.a")
        assert rig.hub.sessions == {}
        again = rig.connect(bob, "public.a")
        await rig.publish(ada, "public.a", "late")
        await rig.settle()
        assert (outlet.data, again.data) == ([], ["late"])
        session_of(again).close()
        await rig.clock.pass_time(13)
        assert rig.hub.presence.status("main", "bob") == "offline"


async def test_a_closing_session_is_kept_until_its_connection_is_gone(
    rig: HubRig, bob: Caller
) -> None:
    for end in (End.EXPIRED, None):
        outlet = await closing(rig, bob, "public.a", end=end)
        session = session_of(outlet)
        assert rig.hub.leaving == {session}
        session.leave()
        session.close()
        session.close()
        session.leave()
        assert rig.hub.leaving == set()


async def test_what_was_all_sent_or_is_gone_is_not_kept(rig: HubRig, bob: Caller) -> None:
    ended, left, lost = (rig.connect(bob, "public.a") for _ in range(3))
    session_of(ended).end(End.EXPIRED)
    session_of(left).leave()
    lost.unsent_bytes = 10
    session_of(lost).close()
    assert rig.hub.leaving == set()


async def test_a_closing_connection_whose_client_takes_nothing_is_cut(
    rig: HubRig, bob: Caller
) -> None:
    outlet = await closing(rig, bob, "public.a")
    for _ in range(3):
        await rig.clock.pass_time(NO_PROGRESS_MAX_S - 2)
        outlet.unsent_bytes -= 1
    assert outlet.retracted == 0
    await rig.clock.pass_time(NO_PROGRESS_MAX_S + 3)
    assert outlet.retracted >= 1


async def test_a_hub_that_closes_waits_for_none_and_keeps_none(rig: HubRig, bob: Caller) -> None:
    before = await closing(rig, bob, "public.a")
    during = rig.connect(bob, "public.a")
    during.unsent_bytes = 10
    hub = rig.hub
    async with asyncio.timeout(5):
        await rig.restart()
    assert (before.end, during.end) == (End.EXPIRED, End.SHUTDOWN)
    assert hub.leaving == set()
    session_of(during).close()
    assert hub.leaving == set()
