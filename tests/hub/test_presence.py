"""Presence: who is connected, told in batches, and not of every blink."""

from __future__ import annotations

from typing import Any

import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.presence import ReadPresence
from clawnet.core.errors import BadRequest, Forbidden, Unauthenticated
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
