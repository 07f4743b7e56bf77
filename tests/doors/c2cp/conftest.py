"""What is said over Socket.IO, without its transports: the clients are objects, time passes at
once, and the hub has all its features."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from clawnet.core.callers import HUB
from clawnet.core.calls.accounts import CreateAccount
from clawnet.doors.socketio.conversation import Conversations
from clawnet.features import FeatureSettings
from clawnet.features.fleet.settings import FleetSettings
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.testing.hubs import HubRig, started_hub
from clawnet.testing.links import Heard, RecordingLink
from clawnet.testing.loops import TimelessLoop

SECRET = "a secret that all agents share"


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], Any]]:
    return {"timeless": TimelessLoop}


@pytest.fixture
def settings() -> HubSettings:
    return HubSettings(limits=LimitSettings(enabled=False))


@pytest.fixture
async def rig(settings: HubSettings) -> AsyncIterator[HubRig]:
    features = FeatureSettings(fleet=FleetSettings(secret=SECRET), has_timers=False)
    async with started_hub(settings, features=features) as made:
        yield made


@pytest.fixture
def talks(rig: HubRig) -> Conversations:
    return Conversations(rig.hub)


Enter = Callable[..., Awaitable[RecordingLink]]


@pytest.fixture
def enter(rig: HubRig, talks: Conversations) -> Enter:
    """Connect an agent over v2, making its account the first time. `acks`: see RecordingLink."""
    tokens: dict[str, str] = {}

    async def connect(
        agent: str,
        *,
        role: str = "worker",
        acks: Callable[[Heard], bool] = lambda heard: heard.name == "chat_message",
        **auth: Any,
    ) -> RecordingLink:
        if agent not in tokens:
            if not rig.hub.directory.has_account("main", agent):
                await rig.hub.call(CreateAccount(id=agent, role=role), caller=HUB)  # type: ignore[arg-type]
            tokens[agent] = await rig.token(agent)
        link = RecordingLink(rig, talks)
        link.acks = acks
        asked = {"token": tokens[agent], "agent_id": agent, "protocol": 2} | auth
        assert await link.connect(**asked), link.refused
        return link

    return connect
