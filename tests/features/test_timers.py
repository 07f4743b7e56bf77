"""Timers: each moment is told once, in its words, and none that nobody was there for."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.publishing import Publish
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.calls.worlds import CreateWorld
from clawnet.core.channels import Kind, parse
from clawnet.core.errors import ClawError
from clawnet.core.rights import Allowed, Verb, decide
from clawnet.features import attach_all
from clawnet.features.timers.moments import CHANNELS, due_at, told_at
from clawnet.hub.tokens import bootstrap_admin
from clawnet.testing.hubs import HubRig, event, make_hub

MINUTE = "system.timer.minute"
HOUR = "system.timer.hour"


def second(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


async def told(rig: HubRig, channel: str) -> list[str]:
    """The moments that are in the log."""
    caller = rig.hub.authenticate(await rig.token("ada"))
    page = await rig.hub.call(ReadHistory(channel=channel, limit=1_000), caller=caller)
    return [str(json.loads(line)["data"]["iso"]) for line in page.body.splitlines()]


@pytest.mark.parametrize(
    ("moment", "channels"),
    [
        ("2026-11-21T09:05:07", []),
        ("2026-11-21T09:05:00", ["minute"]),
        ("2026-11-21T09:00:00", ["minute", "hour"]),
        ("2026-11-21T00:00:00", ["minute", "hour", "day", "week.saturday"]),
        ("2026-11-01T00:00:00", ["minute", "hour", "day", "week.sunday", "monthly.november"]),
        (
            "2027-01-01T00:00:00",
            ["minute", "hour", "day", "week.friday", "monthly.january", "yearly"],
        ),
        ("2028-02-29T00:00:00", ["minute", "hour", "day", "week.tuesday"]),
    ],
)
def test_a_moment_is_that_of_these_timers(moment: str, channels: list[str]) -> None:
    due = [channel for channel, _ in due_at(second(moment))]
    assert due == [f"system.timer.{name}" for name in channels]
    assert set(due) <= set(CHANNELS)


def test_what_is_told_is_what_claw_events_told() -> None:
    at = second("2026-02-01T01:30:00")
    assert told_at(at, "minute") == {
        "timestamp": "2026-02-01T01:30:00.000Z",
        "iso": "2026-02-01T01:30:00.000Z",
        "unix": at * 1000,
        "year": 2026,
        "month": 2,
        "day": 1,
        "hour": 1,
        "minute": 30,
        "second": 0,
        "event": "minute",
    }


@given(st.integers(0, 4_000_000_000))
def test_what_is_due_depends_on_the_moment_alone(at: int) -> None:
    assert due_at(at) == due_at(at)
    assert {channel for channel, _ in due_at(at)} <= set(CHANNELS)
    assert told_at(at, "second")["unix"] == at * 1000


def test_timers_are_read_by_accounts_and_told_by_the_hub_alone() -> None:
    class Facts:
        anonymous_read = True
        default_read = True

    worker = Caller(account="ada")
    for name in CHANNELS:
        channel = parse(name)
        assert channel.kind is Kind.SYSTEM_OPEN
        assert isinstance(decide(worker, Verb.READ, channel, Facts()), Allowed)  # type: ignore[arg-type]
        assert not isinstance(decide(worker, Verb.PUBLISH, channel, Facts()), Allowed)  # type: ignore[arg-type]


async def test_nobody_else_can_tell_the_time(rig: HubRig, ada: Caller, master: Caller) -> None:
    for caller in (ada, master):
        with pytest.raises(ClawError):
            await rig.hub.publish_wait(caller, event(MINUTE, "now"))
        with pytest.raises(ClawError):
            await rig.hub.publish_wait(
                caller, Publish(channel="public.a", data=event("x").data, type="timer.fired")
            )


async def test_every_second_is_a_signal_to_who_is_there_and_is_not_stored(
    rig: HubRig, ada: Caller
) -> None:
    outlet = rig.connect(ada, "system.timer.second")
    await rig.clock.pass_time(5.5)
    assert [frame.data["second"] for frame in outlet.frames] == [1, 2, 3, 4, 5]
    assert all("offset" not in frame.event for frame in outlet.frames)
    assert outlet.frames[0].event["type"] == "timer.fired"
    assert outlet.frames[0].event["source"] == "system"
    assert rig.engine.channel("main", "system.timer.second") is None


async def test_each_minute_is_told_once_and_stored(rig: HubRig, ada: Caller) -> None:
    outlet = rig.connect(ada, MINUTE)
    start = rig.clock.wall_ms() // 60_000
    await rig.clock.pass_time(185)
    assert [frame.data["unix"] // 60_000 for frame in outlet.frames] == [
        start + 1, start + 2, start + 3,
    ]  # fmt: skip
    assert outlet.offsets(MINUTE) == [1, 2, 3]
    assert len(await told(rig, MINUTE)) == 3


async def test_each_world_has_its_own_timers(rig: HubRig, ada: Caller) -> None:
    token = await bootstrap_admin(rig.hub, None)
    assert token is not None
    made = await rig.hub.call(CreateWorld(id="other"), caller=rig.hub.authenticate(token))
    admin = rig.hub.authenticate(made.token)
    here, there = rig.connect(ada, MINUTE), rig.connect(admin, MINUTE)
    await rig.clock.pass_time(61)
    assert [frame.event["world"] for frame in (*here.frames, *there.frames)] == ["main", "other"]


@pytest.mark.parametrize("how", ["restart", "crash"])
async def test_a_restart_tells_nothing_that_is_not_due(rig: HubRig, ada: Caller, how: str) -> None:
    await rig.clock.pass_time(61)
    for _ in range(3):
        await (rig.restart() if how == "restart" else rig.crash())
        await rig.clock.pass_time(2)
    assert len(await told(rig, MINUTE)) == 1
    await rig.clock.pass_time(60)
    assert len(await told(rig, MINUTE)) == 2


async def test_what_fell_into_the_time_without_a_hub_is_not_told_later(
    rig: HubRig, ada: Caller
) -> None:
    await rig.hub.stop_accepting()
    await rig.hub.drain()
    await rig.hub.close()
    await rig.clock.pass_time(3 * 3600 + 30)
    await rig._start(None)
    await rig.clock.pass_time(31)
    moments = await told(rig, MINUTE)
    assert len(moments) == 1
    assert await told(rig, HOUR) == []


async def test_a_hub_that_starts_within_the_second_it_stopped_in_tells_it_once(
    rig: HubRig, ada: Caller
) -> None:
    await rig.clock.pass_time(60.1)
    assert len(await told(rig, MINUTE)) == 1
    rig.clock.jump(-0.4)
    await rig.restart()
    await rig.clock.pass_time(1)
    assert len(await told(rig, MINUTE)) == 1


async def test_two_hubs_on_one_engine_tell_each_moment_once(rig: HubRig, ada: Caller) -> None:
    other = make_hub(rig.engine, rig.clock, rig.hub.settings, seed="other")
    attach_all(other)
    await other.start()
    try:
        await rig.clock.pass_time(125)
        moments = await told(rig, MINUTE)
        assert len(moments) == len(set(moments)) == 2
    finally:
        await other.close()


async def test_a_clock_set_back_tells_no_moment_again(rig: HubRig, ada: Caller) -> None:
    await rig.clock.pass_time(185)
    before = await told(rig, MINUTE)
    rig.clock.jump(-150)
    await rig.clock.pass_time(149)
    assert await told(rig, MINUTE) == before
    await rig.clock.pass_time(60)
    assert len(await told(rig, MINUTE)) == len(before) + 1


async def test_a_clock_that_leaps_ahead_tells_nothing_of_what_it_left_out(
    rig: HubRig, ada: Caller
) -> None:
    outlet = rig.connect(ada, MINUTE, HOUR, "system.timer.day")
    rig.clock.jump(10 * 86_400 + 5)
    await rig.clock.pass_time(50)
    assert outlet.frames == []
    await rig.clock.pass_time(10)
    assert [frame.channel for frame in outlet.frames] == [MINUTE]


async def test_a_busy_loop_is_a_little_late_and_leaves_nothing_out(
    rig: HubRig, ada: Caller
) -> None:
    outlet = rig.connect(ada, MINUTE)
    await rig.clock.pass_time(58.5)
    rig.clock.advance(3)
    await rig.clock.pass_time(1)
    assert [frame.data["second"] for frame in outlet.frames] == [0]


async def test_a_hub_that_takes_no_more_tells_no_time(rig: HubRig, ada: Caller) -> None:
    await rig.hub.stop_accepting()
    await rig.clock.pass_time(125)
    assert rig.engine.channel("main", MINUTE) is None


async def test_a_full_disk_ends_no_timer(rig: HubRig, ada: Caller) -> None:
    rig.engine.is_full = True
    await rig.clock.pass_time(61)
    rig.engine.is_full = False
    await rig.clock.pass_time(60)
    assert len(await told(rig, MINUTE)) == 1


async def test_the_voice_is_the_hubs(rig: HubRig, ada: Caller) -> None:
    outlet = rig.connect(ada, MINUTE)
    await rig.clock.pass_time(61)
    (frame,) = outlet.frames
    assert frame.event["actor"]["id"] == HUB.account
