"""A hub with a shared secret, and what agents of its fleet do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from clawnet.core.callers import STRANGER, Caller
from clawnet.core.calls.fleet import Enrol, Enrolled
from clawnet.features import FeatureSettings
from clawnet.features.fleet.settings import FleetSettings
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.testing.hubs import HubRig, started_hub

SECRET = "a secret that the fleet shares"
FREE = HubSettings(limits=LimitSettings(enabled=False))


@asynccontextmanager
async def fleet(
    *, is_loopback: bool = True, hub: HubSettings = FREE, **named: Any
) -> AsyncIterator[HubRig]:
    """A hub whose fleet settings have these members."""
    settings = FleetSettings(**{"secret": SECRET, **named})
    async with started_hub(
        hub, is_loopback=is_loopback, features=FeatureSettings(fleet=settings)
    ) as rig:
        await rig.settle()
        yield rig


async def enrol(rig: HubRig, agent_id: str = "ada", **named: Any) -> Enrolled:
    """As a request from this machine."""
    call = Enrol(**{"secret": SECRET, "agent_id": agent_id, "is_local": True, **named})
    enrolled: Enrolled = await rig.hub.call(call, caller=STRANGER)
    return enrolled


def caller_of(rig: HubRig, enrolled: Enrolled) -> Caller:
    return rig.hub.authenticate(enrolled.session_token)
