"""What the hub knows of the events that a broker in front was answered with."""

from __future__ import annotations

import asyncio

from clawnet.hub.told import Told
from clawnet.testing.loops import LoopClock


async def test_what_nobody_noted_was_not_told() -> None:
    LoopClock()
    assert not await Told().is_told("evt_1")


async def test_who_asks_early_waits_for_the_answer() -> None:
    clock, told = LoopClock(), Told()
    for event, is_told in (("evt_1", True), ("evt_2", False)):
        told.owe(event)
        asking = asyncio.create_task(told.is_told(event))
        await clock.pass_time(0.1)
        assert not asking.done()
        told.settle(event, is_told=is_told)
        assert await asking is is_told
    assert len(told) == 0


async def test_an_answer_that_is_never_settled_is_waited_for_a_second_only() -> None:
    clock, told = LoopClock(), Told()
    told.owe("evt_1")
    before_s = clock.steady_s()
    assert not await told.is_told("evt_1")
    assert clock.steady_s() - before_s == 1
    told.settle("evt_1", is_told=True)
    assert not await told.is_told("evt_1"), "it was published there meanwhile"


async def test_what_was_settled_is_said_once() -> None:
    LoopClock()
    told = Told()
    told.owe("evt_1")
    told.settle("evt_1", is_told=True)
    told.settle("evt_1", is_told=True)
    assert await told.is_told("evt_1")
    assert not await told.is_told("evt_1")


async def test_the_oldest_are_forgotten() -> None:
    LoopClock()
    told = Told(events_max=100)
    for number in range(150):
        told.owe(f"evt_{number}")
        told.settle(f"evt_{number}", is_told=True)
    assert len(told) == 100
    assert not await told.is_told("evt_49")
    assert await told.is_told("evt_50")
