"""The bridge on the durable engine: what it has told survives, and what it has not is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clawnet.core.calls.grants import Grant, Revoke
from clawnet.engines.sqlite.engine import SqliteEngine
from clawnet.testing.clocks import FakeRandomness
from clawnet.testing.loops import LoopClock
from tests.features.bridging import BridgeRig, bridged


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[BridgeRig]:
    clock = LoopClock()
    engine = SqliteEngine(
        tmp_path, clock=clock, randomness=FakeRandomness("engine"), ballast_bytes=4096
    )
    async with bridged(engine, clock) as made:
        yield made


async def test_a_killed_hub_tells_what_it_had_not(rig: BridgeRig) -> None:
    ada, _ = await rig.account("ada"), await rig.account("bob")
    await rig.hub.call(Grant(account="bob", channel="plan", verbs=["read"]), caller=ada)
    await rig.fill(ada, "public.news", 3)
    await rig.told()
    follower = await rig.follower("bob", "agent.ada.plan")
    rig.fake.is_down = True
    await rig.fill(ada, "public.news", 700)
    await rig.hub.call(Revoke(account="bob", channel="plan"), caller=ada)
    await rig.publish(ada, "agent.ada.plan", "a secret")
    await rig.crash()
    rig.fake.is_down = False
    await rig.told()
    assert rig.on("public.news") == [1, 2, 3, *range(1, 701)]
    assert follower.unsubscribed == ["agent.ada.plan"] and follower.received == []


async def test_a_hub_that_stopped_in_order_repeats_nothing(rig: BridgeRig) -> None:
    ada = await rig.account("ada")
    await rig.fill(ada, "public.news", 50)
    await rig.told()
    # So that a repetition would be seen.
    rig.fake._seen.clear()
    await rig.restart()
    ada = await rig.caller("ada")
    await rig.publish(ada, "public.news", "next")
    await rig.told()
    assert rig.on("public.news") == [*range(1, 51), "next"]
