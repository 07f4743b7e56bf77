"""Presence: who is connected, told in batches, and not of every blink."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.chat import SetStatus
from clawnet.core.calls.presence import ReadPresence
from clawnet.core.errors import BadRequest, Conflict, Forbidden, Unauthenticated
from clawnet.hub import presence
from clawnet.testing.hubs import HubRig, session_of
from clawnet.testing.outlets import RecordingOutlet


@pytest.fixture
async def watcher(rig: HubRig, warden: Caller) -> RecordingOutlet:
    """Follows presence, and has itself been told of already."""
    outlet = rig.connect(warden, "system.presence")
    await rig.clock.pass_time(2)
    outlet.frames.clear()
    return outlet


def changes(outlet: RecordingOutlet) -> list[list[tuple[str, str]]]:
    return [[(c["account"], c["status"]) for c in data["changes"]] for data in outlet.data]


async def online(rig: HubRig, caller: Caller) -> list[str]:
    found = await rig.hub.call(ReadPresence(), caller=caller)
    return [info.account for info in found.accounts]


async def test_who_comes_together_is_told_together(
    rig: HubRig, watcher: RecordingOutlet, ada: Caller, bob: Caller
) -> None:
    for caller in (bob, ada, ada):
        rig.connect(caller)
    await rig.clock.pass_time(5)
    assert [sorted(told) for told in changes(watcher)] == [[("ada", "online"), ("bob", "online")]]
    assert await online(rig, ada) == ["ada", "bob", "eye"]
    [frame] = watcher.frames
    assert frame.event["type"] == "presence.changed" and frame.event["actor"]["id"] == "hub"
    assert {change["handle"] for change in frame.data["changes"]} == {"ada", "bob"}


async def test_who_leaves_is_offline_ten_seconds_later(
    rig: HubRig, watcher: RecordingOutlet, ada: Caller
) -> None:
    outlet = rig.connect(ada)
    await rig.clock.pass_time(2)
    session_of(outlet).close()
    await rig.clock.pass_time(9)
    assert changes(watcher) == [[("ada", "online")]]
    assert await online(rig, ada) == ["ada", "eye"]
    await rig.clock.pass_time(3)
    assert changes(watcher) == [[("ada", "online")], [("ada", "offline")]]
    assert await online(rig, ada) == ["eye"]


async def test_a_return_within_ten_seconds_tells_nobody(
    rig: HubRig, watcher: RecordingOutlet, ada: Caller
) -> None:
    outlet = rig.connect(ada)
    await rig.clock.pass_time(2)
    for _ in range(5):
        session_of(outlet).close()
        await rig.clock.pass_time(8)
        outlet = rig.connect(ada)
    await rig.clock.pass_time(30)
    assert changes(watcher) == [[("ada", "online")]]


async def test_one_of_several_connections_may_end(
    rig: HubRig, watcher: RecordingOutlet, ada: Caller
) -> None:
    first, second = rig.connect(ada), rig.connect(ada)
    session_of(first).close()
    session_of(first).close()
    await rig.clock.pass_time(30)
    assert changes(watcher) == [[("ada", "online")]]
    session_of(second).close()
    await rig.clock.pass_time(30)
    assert changes(watcher)[-1] == [("ada", "offline")]


async def test_who_came_and_went_within_a_second_is_not_told_of(
    rig: HubRig, watcher: RecordingOutlet, ada: Caller
) -> None:
    session_of(rig.connect(ada)).close()
    await rig.clock.pass_time(30)
    assert changes(watcher) == []
    outlet = rig.connect(ada)
    session_of(outlet).close()
    await rig.clock.pass_time(5)
    rig.connect(ada)
    await rig.clock.pass_time(5)
    assert changes(watcher) == [[("ada", "online")]]


async def test_many_changes_are_cut_into_events_of_five_hundred(
    rig: HubRig, watcher: RecordingOutlet
) -> None:
    for n in range(1_001):
        rig.hub.presence.connected("main", f"a{n}")
    await rig.clock.pass_time(3)
    assert [len(told) for told in changes(watcher)] == [500, 500, 1]


async def test_without_a_token_nobody_is_online_or_sees_who_is(rig: HubRig, ada: Caller) -> None:
    nobody = rig.hub.anonymous(is_local=True)
    rig.connect(nobody)
    assert await online(rig, ada) == []
    with pytest.raises(Unauthenticated):
        await online(rig, nobody)
    with pytest.raises(Forbidden):
        await online(rig, await rig.caller("ada", scopes=["events:write"]))


async def test_it_is_read_in_pages(rig: HubRig, ada: Caller) -> None:
    for n in range(5):
        rig.hub.presence.connected("main", f"a{n}")
    seen: list[str] = []
    after: Any = ""
    while after is not None:
        page = await rig.hub.call(ReadPresence(after=after, limit=2), caller=ada)
        seen += [info.account for info in page.accounts]
        assert all(info.status == "online" for info in page.accounts)
        after = page.next
    assert seen == ["a0", "a1", "a2", "a3", "a4"]
    with pytest.raises(BadRequest):
        await rig.hub.call(ReadPresence(limit=0), caller=ada)


async def test_a_full_disk_costs_an_event_and_not_the_hub(
    rig: HubRig, watcher: RecordingOutlet, ada: Caller
) -> None:
    rig.engine.is_full = True
    rig.connect(ada)
    await rig.clock.pass_time(3)
    rig.engine.is_full = False
    assert changes(watcher) == []
    assert await online(rig, ada) == ["ada", "eye"]
    await rig.publish(ada, "public.a", 1)


async def test_when_who_was_seen_is_forgotten_with_its_account_and_no_sooner(
    rig: HubRig, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "TIMES_SLACK", 10)
    known = rig.hub.presence
    session_of(rig.connect(ada)).close()
    known.visited("main", "ada")
    seen_ms, visited_ms = known.last_seen_ms("main", "ada"), known.last_visit_ms("main", "ada")
    assert seen_ms is not None and visited_ms is not None
    rig.clock.advance(60)
    for n in range(1_000):
        # As accounts that were deleted: these are none (any more).
        known.connected("main", f"gone{n}")
        known.disconnected("main", f"gone{n}")
        known.visited("main", f"gone{n}")
    assert len(known._seen) <= 30 and len(known._visits) <= 30
    assert known.last_seen_ms("main", "ada") == seen_ms
    assert known.last_visit_ms("main", "ada") == visited_ms
    for n in range(100):
        other = await rig.account(f"living{n}")
        known.visited("main", str(other.account))
    assert all(known.last_visit_ms("main", f"living{n}") for n in range(100))


# --- idle --------------------------------------------------------------------

IDLE_S = 300.0


async def present(rig: HubRig, caller: Caller) -> dict[str, str]:
    found = await rig.hub.call(ReadPresence(), caller=caller)
    return {info.account: info.status for info in found.accounts}


@pytest.fixture
async def asleep(rig: HubRig, watcher: RecordingOutlet, ada: Caller) -> RecordingOutlet:
    """ada is connected and has done nothing for long; what she is told by."""
    outlet = rig.connect(ada, "public.a")
    await rig.clock.pass_time(2)
    rig.clock.advance(IDLE_S)
    await rig.clock.pass_time(2)
    return outlet


async def test_who_does_nothing_is_idle_and_still_there(
    rig: HubRig, watcher: RecordingOutlet, asleep: RecordingOutlet, bob: Caller
) -> None:
    assert (await present(rig, bob))["ada"] == "idle"
    assert ("ada", "idle") in [one for told in changes(watcher) for one in told]
    assert sum(one == ("ada", "idle") for told in changes(watcher) for one in told) == 1


async def test_who_is_given_events_only_is_idle(
    rig: HubRig, asleep: RecordingOutlet, bob: Caller
) -> None:
    await rig.publish(bob, "public.a", "wake up")
    await rig.clock.pass_time(2)
    assert (await present(rig, bob))["ada"] == "idle"


@pytest.mark.parametrize("how", ["publish", "signal", "call", "subscribe", "connect"])
async def test_whatever_it_does_wakes_it(
    rig: HubRig, watcher: RecordingOutlet, asleep: RecordingOutlet, ada: Caller, bob: Caller,
    how: str,
) -> None:  # fmt: skip
    watcher.frames.clear()
    if how == "publish":
        await rig.publish(ada, "public.a", 1)
    elif how == "signal":
        rig.hub.signal(ada, "public.a", "x.typing", b"1")
    elif how == "call":
        await rig.hub.call(ReadPresence(), caller=ada)
    elif how == "subscribe":
        rig.subscribe(asleep, "public.b")
    else:
        rig.connect(ada)
    await rig.clock.pass_time(2)
    assert (await present(rig, bob))["ada"] == "online"
    assert changes(watcher) == [[("ada", "online")]]


async def test_who_keeps_doing_something_is_never_idle(
    rig: HubRig, watcher: RecordingOutlet, ada: Caller, bob: Caller
) -> None:
    rig.connect(ada)
    for _ in range(5):
        await rig.publish(ada, "public.a", 1)
        rig.clock.advance(IDLE_S - 3)
        await rig.clock.pass_time(1)
        assert (await present(rig, bob))["ada"] == "online"


async def test_an_idle_one_that_goes_is_offline_and_comes_back_online(
    rig: HubRig, watcher: RecordingOutlet, asleep: RecordingOutlet, ada: Caller, bob: Caller
) -> None:
    watcher.frames.clear()
    assert asleep.session is not None
    asleep.session.close()
    await rig.clock.pass_time(12)
    assert "ada" not in await present(rig, bob)
    rig.connect(ada)
    await rig.clock.pass_time(2)
    assert changes(watcher) == [[("ada", "offline")], [("ada", "online")]]
    assert (await present(rig, bob))["ada"] == "online"


async def test_one_that_woke_and_left_before_anybody_was_told_is_told_as_gone(
    rig: HubRig, watcher: RecordingOutlet, asleep: RecordingOutlet, ada: Caller
) -> None:
    watcher.frames.clear()
    await rig.publish(ada, "public.a", 1)
    assert asleep.session is not None
    asleep.session.close()
    rig.clock.advance(60)
    await rig.clock.pass_time(2)
    assert [told for told in changes(watcher) if told] == [[("ada", "offline")]]


async def test_an_account_of_another_world_with_the_same_id_wakes_nobody(
    rig: HubRig, asleep: RecordingOutlet, ada: Caller, bob: Caller
) -> None:
    rig.hub.ration.take_call(msgspec.structs.replace(ada, world="other"))
    await rig.clock.pass_time(2)
    assert (await present(rig, bob))["ada"] == "idle"


# --- by one's own word ------------------------------------------------------


def told(outlet: RecordingOutlet) -> list[tuple[str, str, str | None]]:
    found = [(c["account"], c["status"], c.get("text")) for d in outlet.data for c in d["changes"]]
    outlet.frames.clear()
    return found


async def say(rig: HubRig, caller: Caller, status: Any, text: str | None = None) -> Any:
    return await rig.hub.call(SetStatus(status=status, text=text), caller=caller)


async def test_who_says_that_it_is_idle_is_idle_until_it_does_something(
    rig: HubRig, watcher: RecordingOutlet, ada: Caller, bob: Caller
) -> None:
    rig.connect(ada)
    await rig.clock.pass_time(2)
    told(watcher)
    # What it did a moment before does not wake it.
    await rig.hub.call(ReadPresence(), caller=ada)
    info = await say(rig, ada, "idle", "  at lunch ")
    assert (info.account, info.status, info.text) == ("ada", "idle", "at lunch")
    await rig.clock.pass_time(5)
    assert told(watcher) == [("ada", "idle", "at lunch")]
    [found] = [one for one in (await rig.hub.call(ReadPresence(), caller=bob)).accounts
               if one.account == "ada"]  # fmt: skip
    assert (found.status, found.text) == ("idle", "at lunch")
    await rig.publish(ada, "public.lobby", 2)
    await rig.clock.pass_time(2)
    assert told(watcher) == [("ada", "online", None)]
    assert rig.hub.presence.text("main", "ada") is None


async def test_a_text_alone_is_told_and_stays_through_idleness_and_ends_with_being_there(
    rig: HubRig, watcher: RecordingOutlet, ada: Caller
) -> None:
    outlet = rig.connect(ada)
    await rig.clock.pass_time(2)
    told(watcher)
    await say(rig, ada, "online", "reviewing")
    await rig.clock.pass_time(2)
    assert told(watcher) == [("ada", "online", "reviewing")]
    await say(rig, ada, "online", "reviewing")
    await rig.clock.pass_time(2)
    assert told(watcher) == []
    await rig.clock.pass_time(301)
    assert ("ada", "idle", "reviewing") in told(watcher)
    await say(rig, ada, "online", "")
    await rig.clock.pass_time(2)
    assert told(watcher) == [("ada", "online", None)]
    await say(rig, ada, "idle", "gone")
    session_of(outlet).close()
    await rig.clock.pass_time(13)
    assert told(watcher)[-1] == ("ada", "offline", None)
    rig.connect(ada)
    await rig.clock.pass_time(2)
    assert told(watcher) == [("ada", "online", None)]


@pytest.mark.parametrize("text", ["x" * 201, "a\nb", "\x1b[31m", "\u202eabc"])
async def test_a_text_that_cannot_be_shown_is_refused(rig: HubRig, ada: Caller, text: str) -> None:
    rig.connect(ada)
    with pytest.raises(BadRequest):
        await say(rig, ada, "idle", text)
    assert rig.hub.presence.status("main", "ada") == "online"


async def test_who_is_not_there_has_no_status_to_choose(rig: HubRig, ada: Caller) -> None:
    with pytest.raises(Conflict) as caught:
        await say(rig, ada, "idle")
    assert caught.value.facts["reason"] == "offline"
    with pytest.raises(Unauthenticated):
        await say(rig, rig.hub.anonymous(is_local=True), "idle")


async def test_followers_are_called_for_what_is_told_and_a_defect_of_one_harms_no_other(
    rig: HubRig, watcher: RecordingOutlet, ada: Caller
) -> None:
    seen: list[tuple[str, str, str]] = []

    def broken(world: str, account: str, status: str) -> None:
        raise RuntimeError(account)

    rig.hub.presence.follow(broken)
    rig.hub.presence.follow(lambda *one: seen.append(one))
    outlet = rig.connect(ada)
    await rig.clock.pass_time(2)
    # A return within ten seconds is told to nobody.
    for _ in range(3):
        session_of(outlet).close()
        await rig.clock.pass_time(9)
        outlet = rig.connect(ada)
    await say(rig, ada, "idle")
    await rig.clock.pass_time(2)
    session_of(outlet).close()
    await rig.clock.pass_time(13)
    assert seen == [("main", "ada", status) for status in ("online", "idle", "offline")]


async def test_the_newer_connection_of_an_agent_stays_there_when_the_older_one_is_ended(
    rig: HubRig, watcher: RecordingOutlet, ada: Caller
) -> None:
    older = rig.connect(ada)
    await rig.clock.pass_time(2)
    rig.connect(ada)
    session_of(older).close()
    await rig.clock.pass_time(60)
    assert told(watcher) == [("ada", "online", None)]
    assert rig.hub.presence.status("main", "ada") == "online"
