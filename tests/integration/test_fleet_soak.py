"""Agents of all kinds, a sidecar and a warden, while hub and all are killed: nothing is lost,
nothing is stored twice, every task ends."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.fleet import Fleet

SOAK_S = float(os.environ.get("FLEET_SOAK_S", "600"))
DEEDS = ("say", "slow", "fail", "hang", "lose")


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    made = Fleet(tmp_path, seed=5)
    try:
        yield made
    finally:
        made.program.end()


async def test_a_hub_killed_under_a_fleet_loses_and_doubles_nothing(fleet: Fleet) -> None:
    await fleet.start(v1=1, v2=2, native=2, sidecars=1)
    await fleet.run(seconds=2.4, kill_every_s=1.2, pause_s=0.03, only_hub=True)
    seen = await fleet.check()
    await fleet.close()
    assert seen["kills"] == {"hub": 1}
    assert seen["acknowledged"] > 20 and seen["tasks"]["completed"] > 3


@pytest.mark.soak
async def test_a_fleet_under_random_kills_loses_and_doubles_nothing(fleet: Fleet) -> None:
    await fleet.start(v1=5, v2=7, native=6, sidecars=2)
    await fleet.run(seconds=SOAK_S, kill_every_s=6.0, pause_s=0.2, deeds=DEEDS)
    seen = await fleet.check()
    await fleet.close()
    print(seen)
