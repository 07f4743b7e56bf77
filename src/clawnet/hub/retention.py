"""Retention: trims the log by age and, per channel, by count; and holds the trusted time.

Ages are measured with core.trust, so a wall clock that jumps trims nothing at once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.errors import ClawError
from clawnet.core.events import Stored
from clawnet.core.trust import TrustedClock
from clawnet.core.units import Put, Unit

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

TRIM_EVERY_S = 60.0
SLACK = 0.25
"""A channel is trimmed by count when it exceeds the bound by this part of it."""
MEMORY_KEEP = 1_000
_KEY = "clock/trusted"

_log = logging.getLogger(__name__)


class Retention:
    """Runs in the background; every trim goes through the committer in small pieces."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        settings = hub.settings.retention
        self._keep = settings.events_per_channel_max
        self._keep_types = frozenset(settings.keep_types)
        self._age_max_ms = int(settings.age_max_days * 86_400_000)
        self._clock = TrustedClock(
            wall_ms=hub.clock.wall_ms(), steady_s=hub.clock.steady_s(), last_trusted_ms=None
        )
        self._counts: dict[tuple[str, str], int] = {}
        self._full: set[tuple[str, str]] = set()
        self._trimming: asyncio.Event = asyncio.Event()

    async def load(self) -> None:
        """Take up the trusted time of the run before."""
        hub = self._hub
        if self._keep is None and not hub.storage.engine.is_durable:
            self._keep = MEMORY_KEEP
        entries = await hub.storage.read(lambda engine: engine.scan("clock"))
        if entries:
            self._clock = TrustedClock(
                wall_ms=hub.clock.wall_ms(),
                steady_s=hub.clock.steady_s(),
                last_trusted_ms=msgspec.json.decode(entries[0].value, type=int),
            )

    def now_ms(self) -> int:
        """The time by which things age and expire."""
        clock = self._hub.clock
        return self._clock.now_ms(wall_ms=clock.wall_ms(), steady_s=clock.steady_s())

    def stored(self, stored: list[Stored]) -> None:
        """Notice channels that outgrow their bound."""
        keep = self._keep
        if keep is None:
            return
        counts = self._counts
        slack = max(int(keep * SLACK), 1)
        for event in stored:
            key = (event.world, event.channel)
            count = counts.get(key, 0) + 1
            if count >= slack:
                # What was there before this run counts from the first look on.
                self._full.add(key)
                self._trimming.set()
                count = 0
            counts[key] = count

    async def run(self) -> None:
        """Trim full channels as they fill, and old events once a minute."""
        loop = asyncio.get_running_loop()
        next_age = loop.time() + TRIM_EVERY_S
        while True:
            try:
                async with asyncio.timeout_at(next_age):
                    await self._trimming.wait()
            except TimeoutError:
                next_age = loop.time() + TRIM_EVERY_S
                await self._attempt(self.trim_old())
                await self._attempt(self.record())
            self._trimming.clear()
            await self._attempt(self.trim_full())

    async def _attempt(self, work: object) -> None:
        try:
            await work  # type: ignore[misc]
        except ClawError as error:
            _log.warning("trimming waits: %s", error.message)

    async def trim_old(self) -> int:
        """Remove what is older than the retention; returns how many events."""
        hub = self._hub
        # Events bear the wall's time. Where that was set back, what is new now would look
        # old by the trusted time, so an event is old only by both.
        before_ms = min(self.now_ms(), hub.clock.wall_ms()) - self._age_max_ms
        seq = await hub.storage.read(lambda log: log.seq_before(before_ms))
        total = 0
        while seq >= hub.storage.engine.first_seq:
            removed = await hub.committer.run(
                lambda: hub.storage.engine.trim_before(seq, keep_types=self._keep_types)
            )
            if not removed:
                break
            total += removed
            await asyncio.sleep(0)
        return total

    async def trim_full(self) -> int:
        """Cut the channels that outgrew their bound; returns how many events."""
        hub = self._hub
        keep = self._keep
        total = 0
        while self._full and keep is not None:
            world, name = self._full.pop()
            while removed := await hub.committer.run(
                lambda: hub.storage.engine.trim_channel(world, name, keep=keep)  # noqa: B023
            ):
                total += removed
        return total

    async def record(self) -> None:
        """Store the trusted time for the next run."""
        value = str(self.now_ms())
        await self._hub.committer.commit(Unit(changes=(Put(_KEY, value),)))
