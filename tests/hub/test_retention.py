"""Retention: by age and count, never by a clock that jumped, and never what is to be kept."""

from __future__ import annotations

import pytest

from clawnet.core.callers import Caller
from clawnet.hub.lanes import Lane
from clawnet.hub.settings import HubSettings, LimitSettings, RetentionSettings
from clawnet.testing.hubs import HubRig, event

DAY_S = 86_400.0
YEAR_S = 365 * DAY_S


@pytest.fixture
def settings() -> HubSettings:
    return HubSettings(
        limits=LimitSettings(enabled=False),
        retention=RetentionSettings(
            age_max_days=30, events_per_channel_max=100, keep_types=["x.keep", "account.created"]
        ),
    )


def first(rig: HubRig, channel: str = "public.a") -> int:
    return int(rig.engine.channel("main", channel).first)


async def many(rig: HubRig, caller: Caller, channel: str, n: int) -> None:
    for i in range(n):
        rig.hub.publish(caller, event(channel, i), lane=Lane(), reply=lambda _: None)
    await rig.hub.drain()


async def run_days(rig: HubRig, days: int) -> None:
    """Days pass, with a look at the clock every hour as a running hub has it."""
    for _ in range(days * 24):
        rig.clock.advance(3_600)
        rig.hub.retention.now_ms()
    await rig.clock.pass_time(61)


async def test_old_events_go_and_young_ones_stay(rig: HubRig, ada: Caller) -> None:
    for n in range(30):
        await many(rig, ada, f"public.old{n}", 50)
    await run_days(rig, 29)
    assert first(rig, "public.old0") == 1
    await many(rig, ada, "public.young", 5)
    await run_days(rig, 2)
    assert first(rig, "public.young") == 1
    # The index of times is sparse: up to 1,024 events may go later than they could.
    assert first(rig, "public.old0") == first(rig, "public.old5") == 51
    await run_days(rig, 31)
    assert (first(rig, "public.old29"), first(rig, "public.young")) == (51, 6)
    # What is gone is never given again.
    assert (await rig.publish(ada, "public.old0")).offset == 51


async def test_types_to_keep_stay_for_ever(rig: HubRig, ada: Caller) -> None:
    await rig.publish(ada, "public.a", 1)
    kept = await rig.publish(ada, "public.a", 2, type="x.keep")
    await rig.publish(ada, "public.a", 3)
    await run_days(rig, 40)
    chunk = rig.engine.read_channel("main", "public.a")
    assert chunk.count == 1 and kept.id.encode() in chunk.body
    assert [(gap.first, gap.last) for gap in chunk.missing] == [(1, 1), (3, 3)]


@pytest.mark.parametrize("jump_s", [YEAR_S, -YEAR_S])
async def test_a_wall_clock_that_jumps_trims_nothing_at_once(
    rig: HubRig, ada: Caller, jump_s: float
) -> None:
    await many(rig, ada, "public.a", 5)
    rig.clock.jump(jump_s)
    for _ in range(20):
        await many(rig, ada, "public.a", 1)
        rig.clock.advance(3_000)
        await rig.clock.pass_time(61)
    assert first(rig) == 1
    await rig.restart()
    await rig.clock.pass_time(200)
    assert first(rig) == 1


async def test_what_is_new_after_a_jump_back_is_not_old(rig: HubRig, ada: Caller) -> None:
    """It bears the wall's time, which by the trusted time was a year ago."""
    await run_days(rig, 31)
    rig.clock.jump(-YEAR_S)
    await rig.publish(ada, "public.a", 1)
    await rig.clock.pass_time(200)
    assert first(rig) == 1


async def test_the_trusted_time_survives_a_kill(rig: HubRig, ada: Caller) -> None:
    await many(rig, ada, "public.a", 5)
    await rig.clock.pass_time(121)
    rig.clock.jump(YEAR_S)
    await rig.crash()
    await rig.clock.pass_time(200)
    assert first(rig) == 1


async def test_a_channel_keeps_its_newest(rig: HubRig, ada: Caller) -> None:
    await many(rig, ada, "public.a", 1_000)
    await many(rig, ada, "public.b", 90)
    await rig.settle()
    assert 1_000 - first(rig) + 1 in range(100, 126)
    assert first(rig, "public.b") == 1
    for _ in range(10):
        await many(rig, ada, "public.a", 40)
        await rig.settle()
        last = rig.engine.channel("main", "public.a").last
        assert 100 <= last - first(rig) + 1 <= 100 + 25 + 40


async def test_a_full_disk_delays_trimming_and_does_not_end_it(rig: HubRig, ada: Caller) -> None:
    await many(rig, ada, "public.a", 5)
    # The log's times are kept by the block: the hub's own timers must not share this one.
    await many(rig, ada, "public.more", 1_100)
    rig.engine.is_full = True
    await rig.clock.pass_time(300)
    rig.engine.is_full = False
    await run_days(rig, 31)
    assert first(rig) == 6
