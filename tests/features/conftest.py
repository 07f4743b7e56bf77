"""Tests here run on a loop in which time passes at once, and find a hub and its callers made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from clawnet.core.callers import Caller
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.testing.hubs import HubRig, started_hub
from clawnet.testing.loops import TimelessLoop


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], Any]]:
    if item.path.name.endswith("_durable.py"):
        # The durable engine works on threads, which take real time.
        return {"real": asyncio.new_event_loop}
    return {"timeless": TimelessLoop}


@pytest.fixture
def settings() -> HubSettings:
    """What a test's hub is told; a test module may have its own."""
    return HubSettings(limits=LimitSettings(enabled=False))


@pytest.fixture
async def rig(settings: HubSettings) -> AsyncIterator[HubRig]:
    async with started_hub(settings) as made:
        yield made


@pytest.fixture
async def ada(rig: HubRig) -> Caller:
    return await rig.account("ada")


@pytest.fixture
async def bob(rig: HubRig) -> Caller:
    return await rig.account("bob")


@pytest.fixture
async def master(rig: HubRig) -> Caller:
    return await rig.account("boss", role="master")


@pytest.fixture
async def warden(rig: HubRig) -> Caller:
    return await rig.account("eye", role="warden")
