"""Who reads slower than is written falls back to the log, loses nothing, and ends if it stands."""

from __future__ import annotations

import pytest

from clawnet.core.callers import Caller
from clawnet.core.cursors import AfterOffset
from clawnet.core.live import End
from clawnet.hub import sessions
from clawnet.hub.lanes import Lane
from clawnet.testing.hubs import HubRig, event, session_of
from clawnet.testing.outlets import RecordingOutlet


async def burst(rig: HubRig, caller: Caller, *channels: str, n: int = 10) -> None:
    for i in range(n):
        for channel in channels:
            rig.hub.publish(caller, event(channel, i), lane=Lane(), reply=lambda _: None)
    await rig.hub.drain()


async def drain_all(rig: HubRig, outlet: RecordingOutlet) -> None:
    for _ in range(100):
        await rig.settle()
        if not session_of(outlet).is_paused:
            return
        outlet.drain()
    raise AssertionError("the reader never caught up")


def is_whole(outlet: RecordingOutlet, channel: str, last: int) -> None:
    assert outlet.offsets(channel) == list(range(1, last + 1)), outlet.told


FOLLOWED = [("public.a",), ("public.a", "public.b"), ("public.*",), ("public.a", "public.*")]


@pytest.mark.parametrize("channels", FOLLOWED, ids=str)
@pytest.mark.parametrize("high_water", [1, 3, 10, 11])
async def test_a_slow_reader_is_given_everything_once_in_order(
    rig: HubRig, ada: Caller, bob: Caller, channels: tuple[str, ...], high_water: int
) -> None:
    outlet = rig.connect(bob, *channels, high_water=high_water)
    for _ in range(4):
        await burst(rig, ada, "public.a", "public.b", n=7)
        outlet.drain()
        await burst(rig, ada, "public.a", "public.b", n=3)
    await drain_all(rig, outlet)
    is_whole(outlet, "public.a", 40)
    if channels != ("public.a",):
        is_whole(outlet, "public.b", 40)
    assert outlet.seqs == sorted(set(outlet.seqs))
    assert all(outlet.cursors)
    await burst(rig, ada, "public.a", n=1)
    await drain_all(rig, outlet)
    is_whole(outlet, "public.a", 41)


async def test_nothing_is_written_to_a_paused_session(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = rig.connect(bob, "public.a")
    rig.subscribe(outlet, "public.*")
    session_of(outlet).pause()
    session_of(outlet).pause()
    await burst(rig, ada, "public.a", "public.b")
    await rig.settle()
    assert outlet.told == []
    rig.subscribe(outlet, "public.c", since=AfterOffset(0))
    rig.subscribe(outlet, "public.d")
    await burst(rig, ada, "public.c", "public.d", n=2)
    assert outlet.told == []
    session_of(outlet).resume()
    await rig.settle()
    assert len(set(outlet.told)) == 24


async def test_every_subscription_of_a_slow_session_goes_on(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    """They wait for the same transport, so one event must wake them all."""
    outlet = rig.connect(bob)
    for name in "abc":
        rig.subscribe(outlet, f"public.{name}")
    for round_ in range(3):
        session_of(outlet).pause()
        await burst(rig, ada, "public.a", "public.b", "public.c", n=2)
        await rig.settle()
        session_of(outlet).resume()
        await rig.settle()
        for name in "abc":
            is_whole(outlet, f"public.{name}", 2 * (round_ + 1))
    await burst(rig, ada, "public.b", n=1)
    is_whole(outlet, "public.b", 7)


async def test_a_pause_right_after_the_resume_loses_nothing(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = rig.connect(bob)
    rig.subscribe(outlet, "public.a")
    rig.subscribe(outlet, "public.b")
    for _ in range(5):
        session_of(outlet).pause()
        await burst(rig, ada, "public.a", "public.b", n=2)
        session_of(outlet).resume()
        session_of(outlet).pause()
        await rig.settle()
        session_of(outlet).resume()
        await rig.settle()
    is_whole(outlet, "public.a", 10)
    is_whole(outlet, "public.b", 10)


async def test_one_slow_reader_does_not_hold_up_the_others(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    slow = rig.connect(bob, "public.a", high_water=1)
    fast = rig.connect(bob, "public.a")
    mixed = rig.connect(bob, "public.*", high_water=2)
    await burst(rig, ada, "public.a", n=50)
    is_whole(fast, "public.a", 50)
    await drain_all(rig, slow)
    await drain_all(rig, mixed)
    is_whole(slow, "public.a", 50)
    is_whole(mixed, "public.a", 50)


async def test_catching_up_stops_at_a_full_transport(
    rig: HubRig, ada: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "CHUNK_EVENTS", 5)
    await burst(rig, ada, "public.a", n=30)
    outlet = rig.connect(bob, "public.a", since=AfterOffset(0), high_water=5)
    for chunk in range(1, 6):
        await rig.settle()
        is_whole(outlet, "public.a", 5 * chunk)
        outlet.drain()


async def test_after_ten_seconds_without_progress_it_is_closed_to_come_back(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = rig.connect(bob, "public.a", high_water=1)
    await burst(rig, ada, "public.a", n=3)
    await rig.clock.pass_time(9.5)
    assert outlet.end is None
    await rig.clock.pass_time(2)
    assert outlet.end is End.SLOW and outlet.end.reconnect
    assert rig.hub.slow == set() and session_of(outlet).is_closed
    sent = len(outlet.frames)
    await burst(rig, ada, "public.a", n=3)
    session_of(outlet).resume()
    await rig.settle()
    assert len(outlet.frames) == sent


async def test_progress_however_slow_keeps_it_open(rig: HubRig, ada: Caller, bob: Caller) -> None:
    outlet = rig.connect(bob, "public.a", high_water=1)
    await burst(rig, ada, "public.a", n=3)
    for _ in range(5):
        await rig.clock.pass_time(8)
        outlet.drain()
        await burst(rig, ada, "public.a", n=1)
        await rig.settle()
    assert outlet.end is None
    await drain_all(rig, outlet)
    is_whole(outlet, "public.a", 8)


async def test_who_lags_beyond_retention_is_told_of_the_gap(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = rig.connect(bob, "public.a", high_water=1)
    await burst(rig, ada, "public.a", n=1)
    assert session_of(outlet).is_paused
    await burst(rig, ada, "public.a", n=20)
    engine = rig.engine
    await rig.hub.committer.run(lambda: engine.trim_channel("main", "public.a", keep=5))
    await drain_all(rig, outlet)
    assert outlet.told == ["public.a:1", "gap public.a 2-16"] + [
        f"public.a:{n}" for n in range(17, 22)
    ]


async def test_signals_are_dropped_for_who_lags(rig: HubRig, ada: Caller, bob: Caller) -> None:
    slow = rig.connect(bob, "public.a", high_water=1)
    mixed = rig.connect(bob, "public.*", high_water=1)
    fast = rig.connect(bob, "public.a")
    for n in range(5):
        rig.hub.signal(ada, "public.a", "x.typing", str(n).encode())
    assert fast.data == [0, 1, 2, 3, 4]
    await drain_all(rig, slow)
    await drain_all(rig, mixed)
    assert slow.data == mixed.data == [0]
    await burst(rig, ada, "public.a", n=1)
    is_whole(RecordingOutlet(frames=slow.frames[1:]), "public.a", 1)
    assert rig.hub.slow == {session_of(slow), session_of(mixed)}


async def test_a_session_that_closes_while_it_catches_up_leaves_nothing(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = rig.connect(bob, "public.a", "public.*", high_water=2)
    await burst(rig, ada, "public.a", n=20)
    session_of(outlet).close()
    await rig.settle()
    assert rig.hub.slow == set()
    world = rig.hub.fanout.world("main")
    await burst(rig, ada, "public.a", n=1)
    assert world.routes == {} and not any(world.members.values())


async def test_a_client_that_takes_something_is_not_closed_though_it_never_drains(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = rig.connect(bob, "public.a", high_water=1)
    outlet.unsent_bytes = 1_000
    await burst(rig, ada, "public.a", n=3)
    for _ in range(5):
        await rig.clock.pass_time(8)
        outlet.unsent_bytes -= 100
    assert outlet.end is None
    await rig.clock.pass_time(12)
    assert outlet.end is End.SLOW


async def test_a_closed_pattern_follower_is_forgotten(rig: HubRig, ada: Caller) -> None:
    for n in range(5):
        outlet = rig.connect(ada, "agent.ada.>")
        await burst(rig, ada, f"agent.ada.n{n}", n=1)
        assert rig.hub.fanout.subscribers("main", f"agent.ada.n{n}") == 1
        session_of(outlet).close()
        assert rig.hub.fanout.subscribers("main", f"agent.ada.n{n}") == 0
    world = rig.hub.fanout.world("main")
    assert world.routes == {} and not any(world.members.values())
