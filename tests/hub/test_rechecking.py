"""What waits unsent and may hold something of the revoked is taken back, whatever brought it
there; and a change of rights costs by what it concerns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import UpdateAccount
from clawnet.core.calls.grants import Grant, Lock, Revoke, Unlock
from clawnet.core.cursors import AfterOffset
from clawnet.core.rights import Verb, decide
from clawnet.hub import rechecking
from clawnet.hub.settings import ChannelSettings, HubSettings, LimitSettings, NamespaceSettings
from clawnet.testing.hubs import HubRig, session_of
from clawnet.testing.outlets import RecordingOutlet

SECRET = "agent.ada.x"


@pytest.fixture
def settings() -> HubSettings:
    named = {
        "past": NamespaceSettings(read="accounts", publish="accounts", history="granted"),
        "live": NamespaceSettings(read="accounts", publish="accounts", history="nobody"),
        "some": NamespaceSettings(read="granted", publish="accounts", history="nobody"),
    }
    return HubSettings(
        limits=LimitSettings(enabled=False), channels=ChannelSettings(namespaces=named)
    )


async def grant(rig: HubRig, by: Caller, channel: str = SECRET, **named: Any) -> None:
    await rig.hub.call(Grant(account="bob", channel=channel, **named), caller=by)


async def revoke(rig: HubRig, by: Caller, channel: str = SECRET, **named: Any) -> None:
    await rig.hub.call(Revoke(account="bob", channel=channel, **named), caller=by)


def lagging(rig: HubRig, caller: Caller, *channels: str) -> RecordingOutlet:
    """A connection whose client has not taken all."""
    outlet = rig.connect(caller, *channels)
    outlet.unsent_bytes = 10
    return outlet


def answered(outlet: RecordingOutlet) -> None:
    session_of(outlet).given(SECRET)


def left(outlet: RecordingOutlet) -> None:
    session = session_of(outlet)
    (number,) = [s.number for s in session.subscriptions.values() if SECRET in s.exact]
    session.unsubscribe(number)


GIVEN: dict[str, tuple[tuple[str, ...], Callable[[RecordingOutlet], None]]] = {
    "an answer": (("public.a",), answered),
    "a subscription that was left": ((SECRET,), left),
    "one of several": ((SECRET, "public.a"), left),
    "a pattern that was left": (
        ("agent.*.x",),
        lambda outlet: session_of(outlet).unsubscribe(1),
    ),
}


@pytest.mark.parametrize("how", GIVEN)
async def test_what_is_unsent_and_may_hold_the_revoked_is_taken_back(
    rig: HubRig, ada: Caller, bob: Caller, how: str
) -> None:
    await grant(rig, ada)
    channels, act = GIVEN[how]
    outlet = lagging(rig, bob, *channels)
    act(outlet)
    await revoke(rig, ada)
    assert outlet.retracted == 1


@pytest.mark.parametrize("how", GIVEN)
async def test_nothing_is_taken_back_for_a_right_to_something_else(
    rig: HubRig, ada: Caller, bob: Caller, how: str
) -> None:
    await grant(rig, ada)
    await grant(rig, ada, "agent.ada.y")
    channels, act = GIVEN[how]
    outlet = lagging(rig, bob, *channels)
    act(outlet)
    await revoke(rig, ada, "agent.ada.y")
    await rig.hub.call(Lock(channel="agent.ada.z"), caller=ada)
    assert outlet.retracted == 0


async def test_what_was_taken_by_the_client_is_not_taken_back(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await grant(rig, ada)
    outlet = lagging(rig, bob, "public.a")
    answered(outlet)
    outlet.unsent_bytes = 0
    session_of(outlet).given("public.b")
    outlet.unsent_bytes = 10
    await revoke(rig, ada)
    assert outlet.retracted == 0


@pytest.mark.parametrize("pattern", ["agent.ada.*", "agent.ada.>"])
async def test_a_pattern_that_was_revoked_takes_back_what_it_covers(
    rig: HubRig, ada: Caller, bob: Caller, pattern: str
) -> None:
    await grant(rig, ada, pattern)
    outlet, other = lagging(rig, bob, "public.a"), lagging(rig, bob, "public.a")
    answered(outlet)
    session_of(other).given("agent.eve.x")
    await revoke(rig, ada, pattern)
    assert (outlet.retracted, other.retracted) == (1, 0)


async def test_a_role_taken_away_takes_back_all_that_is_unsent(
    rig: HubRig, ada: Caller, warden: Caller
) -> None:
    outlet = lagging(rig, warden, "public.a")
    answered(outlet)
    await rig.hub.call(UpdateAccount(id="eye", role="worker"), caller=HUB)
    assert outlet.retracted == 1


async def test_a_lock_takes_back_what_was_open(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.hub.call(Unlock(channel=SECRET), caller=ada)
    outlet, owner = lagging(rig, bob, "public.a"), lagging(rig, ada, "public.a")
    answered(outlet)
    answered(owner)
    await rig.hub.call(Lock(channel=SECRET), caller=ada)
    assert (outlet.retracted, owner.retracted) == (1, 0)


async def test_a_history_that_was_revoked_is_taken_back_and_the_subscription_stays(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller
) -> None:
    await grant(rig, master, "past:a")
    outlet = lagging(rig, bob, "past:a")
    await revoke(rig, master, "past:a")
    assert outlet.retracted == 1
    assert outlet.endings == []


async def test_a_grant_that_opens_less_than_before_takes_back_what_is_unsent(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await rig.fill(ada, SECRET, 9)
    await grant(rig, ada)
    outlet = lagging(rig, bob, "public.a")
    answered(outlet)
    await grant(rig, ada)
    assert outlet.retracted == 0
    await grant(rig, ada, from_offset=8)
    assert outlet.retracted == 1


async def test_of_a_client_that_was_given_very_much_all_may_be_revoked(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await grant(rig, ada)
    outlet = lagging(rig, bob, "public.a")
    answered(outlet)
    for n in range(3 * rechecking.NOTED_MAX):
        session_of(outlet).given(f"public.n{n}")
    noted = session_of(outlet).noted
    assert noted is not None and len(noted) <= rechecking.NOTED_MAX
    await revoke(rig, ada)
    assert outlet.retracted == 1


# --- what it costs ------------------------------------------------------------------------------


async def asked(
    rig: HubRig, monkeypatch: pytest.MonkeyPatch, change: Callable[[], Awaitable[Any]]
) -> int:
    """How many decisions the sessions took anew."""
    count = 0

    def counted(*given: Any) -> Any:
        nonlocal count
        count += given[1] is Verb.SUBSCRIBE
        return decide(*given)

    with monkeypatch.context() as patch:
        patch.setattr("clawnet.hub.rechecking.decide", counted)
        await change()
    return count


async def test_only_what_a_change_concerns_is_decided_anew(
    rig: HubRig, ada: Caller, bob: Caller, warden: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlet = rig.connect(bob, "public.first")
    for n in range(50):
        rig.subscribe(outlet, f"public.n{n}")
    assert await asked(rig, monkeypatch, lambda: grant(rig, ada)) == 0
    assert await asked(rig, monkeypatch, lambda: revoke(rig, ada)) == 0
    assert await asked(rig, monkeypatch, lambda: grant(rig, ada, "agent.ada.>")) == 0
    rig.subscribe(outlet, SECRET)
    assert await asked(rig, monkeypatch, lambda: grant(rig, ada)) == 1
    unlock = Unlock(channel=SECRET)
    assert await asked(rig, monkeypatch, lambda: rig.hub.call(unlock, caller=ada)) == 1
    role = UpdateAccount(id="bob", role="warden")
    assert await asked(rig, monkeypatch, lambda: rig.hub.call(role, caller=HUB)) == 52
    assert outlet.endings == []


async def test_a_pattern_ends_each_subscription_that_it_covers_and_no_other(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await grant(rig, ada, "agent.ada.*")
    await grant(rig, ada, "agent.ada.z.deep")
    outlet = rig.connect(bob, "agent.ada.x", "agent.ada.y", "agent.ada.z.deep", "public.a")
    await revoke(rig, ada, "agent.ada.*")
    assert [name for _, name, _ in outlet.drops] == ["agent.ada.x", "agent.ada.y"]


# --- whose past is not shown --------------------------------------------------------------------


@pytest.mark.parametrize("channels", [("live:a",), ("live:a", "public.a"), (">",)], ids=str)
async def test_a_past_that_may_not_be_read_is_not_replayed(
    rig: HubRig, ada: Caller, bob: Caller, channels: tuple[str, ...]
) -> None:
    await rig.fill(ada, "live:a", 3)
    await rig.fill(ada, "public.a", 2)
    outlet = rig.connect(bob, *channels, since=AfterOffset(0))
    await rig.settle()
    assert outlet.offsets("live:a") == []
    await rig.fill(ada, "live:a", 2)
    await rig.settle()
    assert outlet.offsets("live:a") == [4, 5]
    if channels != ("live:a",):
        assert outlet.offsets("public.a") == [1, 2]
    if channels != (">",):
        assert [(gap.channel, gap.first, gap.last) for _, gap in outlet.gaps] == [("live:a", 1, 3)]


async def test_a_slow_reader_is_given_what_came_since_it_follows(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await rig.fill(ada, "live:a", 3)
    outlet = rig.connect(bob, "live:a")
    session_of(outlet).pause()
    await rig.fill(ada, "live:a", 4)
    session_of(outlet).resume()
    await rig.settle()
    assert outlet.offsets("live:a") == [4, 5, 6, 7]


async def test_a_history_revoked_while_it_is_replayed_goes_on_behind_the_subscribe(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller
) -> None:
    await grant(rig, master, "past:a")
    await rig.fill(ada, "past:a", 5)
    outlet = rig.connect(bob, "past:a", since=AfterOffset(0))
    session_of(outlet).pause()
    await revoke(rig, master, "past:a")
    await rig.fill(ada, "past:a", 1)
    session_of(outlet).resume()
    await rig.settle()
    assert outlet.offsets("past:a") == [6]


async def test_a_grant_from_an_offset_holds_where_there_is_no_past(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller
) -> None:
    await rig.fill(ada, "some:a", 5)
    await grant(rig, master, "some:a", from_offset=5)
    outlet = rig.connect(bob, "public.a")
    session = session_of(outlet)
    session.is_merged = False
    # As a door does that has looked at how far back it may go.
    session.follow("some:a", after=2)
    await rig.settle()
    assert outlet.offsets("some:a") == [5]
