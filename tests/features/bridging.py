"""A hub with a bridge to a fake Centrifugo that reads the configuration we ship."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from clawnet.core.callers import Caller
from clawnet.features import attach_all
from clawnet.features.bridge.centrifugo import Centrifugo
from clawnet.features.bridge.feature import BridgeFeature
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.ports.log import Engine
from clawnet.testing.centrifugo import FakeCentrifugo, FakeClient
from clawnet.testing.clocks import FakeRandomness
from clawnet.testing.hubs import FaultyEngine, HubRig, make_hub

CONFIG: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "deploy" / "centrifugo" / "config.json").read_text()
)
KEY = "the api key"
UNLIMITED = HubSettings(limits=LimitSettings(enabled=False))


class BridgeRig(HubRig):
    """Its hub has a bridge, after a restart too; what it logs as published is the fake's."""

    fake: FakeCentrifugo
    bridge: BridgeFeature

    def attach(self) -> None:
        attach_all(self.hub)
        client = Centrifugo(
            "http://centrifugo:8000/api", key=KEY, timeout_s=5.0, transport=self.fake
        )
        self.bridge = BridgeFeature(client)
        self.hub.attach(self.bridge)

    async def _start(self, settings: HubSettings | None) -> None:
        self._starts += 1
        self.hub = make_hub(
            self.engine, self.clock, settings or self.hub.settings, seed=f"hub {self._starts}"
        )
        self.attach()
        await self.hub.start()

    async def told(self) -> None:
        """Wait until Centrifugo was told of everything so far."""
        async with asyncio.timeout(600):
            while self.bridge.lag or self._is_telling:
                # Its retries are timers of the loop.
                await self.clock.pass_time(0.05)

    @property
    def _is_telling(self) -> bool:
        """Orders may still be told again when nothing is left to tell."""
        bridge = self.bridge
        return bool(bridge._pending or bridge._orders or bridge._rights < bridge._rights_head)

    async def held_up(self, caller: Caller) -> None:
        """Take Centrifugo away while the bridge has something to tell: what is published from
        here on waits together, and goes out together."""
        await self.told()
        self.fake.is_down = True
        await self.publish(caller, "public.first", "held up")
        await self.clock.pass_time(1)

    def on(self, channel: str) -> list[Any]:
        """The payloads that Centrifugo was given to tell on a channel."""
        return [data["payload"] for name, data in self.fake.published if name == channel]

    async def follower(self, user: str, *channels: str) -> FakeClient:
        """Somebody who is on these channels already, past the proxies."""
        client = await self.fake.connect(user)
        client.channels.update(channels)
        return client


@asynccontextmanager
async def bridged(
    engine: Engine, clock: Any, settings: HubSettings = UNLIMITED
) -> AsyncIterator[BridgeRig]:
    faulty = FaultyEngine(engine)
    hub = make_hub(faulty, clock, settings)
    rig = BridgeRig(hub, clock, faulty)
    rig.fake = FakeCentrifugo(CONFIG, key=KEY)
    rig.attach()
    await hub.start()
    try:
        yield rig
    finally:
        faulty.is_full = faulty.is_broken = False
        rig.fake.is_down = rig.fake.is_slow = False
        await rig.hub.close()
        await asyncio.to_thread(engine.close)


def memory_engine(clock: Any) -> Engine:
    from clawnet.engines.memory import MemoryEngine

    return MemoryEngine(clock=clock, randomness=FakeRandomness("engine"))
