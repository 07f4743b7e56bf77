"""Timers: once a second it is looked which are due, in every world.

system.timer.second is a signal, never stored. The others are events whose dedupe key is their
moment: another hub on the same engine, or a wall clock that was set back, comes upon the event
that is there. What falls into a time in which no hub ran, or that the wall's clock leapt over, is
not told later. They go by the wall's clock, for they are about the time of day.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from clawnet.core.callers import HUB
from clawnet.core.errors import ClawError, DedupeConflict
from clawnet.core.events import Draft
from clawnet.core.units import Unit
from clawnet.features.timers.moments import SECOND, due_at, told_at
from clawnet.hub.features import Feature
from clawnet.hub.hub import Hub
from clawnet.hub.worlds import MAIN

TYPE = "timer.fired"
LATE_MAX_S = 5
"""A moment that the loop was too busy to meet is told this late; what is longer past was leapt
over, by a clock or by a machine that slept."""
_EARLY_MS = 2

_log = logging.getLogger(__name__)


class TimersFeature(Feature):
    """Runs while the hub is ready."""

    def __init__(self) -> None:
        self._hub: Hub

    def register(self, hub: Hub) -> None:
        self._hub = hub

    async def run(self) -> None:
        """Wake at every full second of the wall's clock."""
        clock = self._hub.clock
        last = clock.wall_ms() // 1000
        while True:
            # A little later than the second, so that rounding does not wake it before.
            await asyncio.sleep((1000 - clock.wall_ms() % 1000 + _EARLY_MS) / 1000)
            now = clock.wall_ms() // 1000
            if now == last or not self._hub.is_ready:
                last = now
                continue
            first = last + 1 if last < now <= last + LATE_MAX_S else now
            last = now
            self._tell_second(now)
            for second in range(first, now + 1):
                await self._tell(second)

    def _worlds(self) -> list[str]:
        # Each has its admin, whom nobody can delete.
        return sorted({MAIN} | {account.world for account in self._hub.directory.all_accounts()})

    def _tell_second(self, second: int) -> None:
        data = msgspec.json.encode(told_at(second, "second"))
        # Only where somebody is connected: what is not stored is for nobody else.
        for world in {world for world, _ in self._hub.sessions}:
            self._hub.signal(msgspec.structs.replace(HUB, world=world), SECOND, TYPE, data)

    async def _tell(self, second: int) -> None:
        """Tell of all that one moment is the moment of. A world's are one unit."""
        due = due_at(second)
        if not due:
            return
        for world in self._worlds():
            drafts = tuple(self._draft(world, channel, event, second) for channel, event in due)
            try:
                await self._hub.committer.commit(Unit(drafts=drafts))
            except DedupeConflict as error:
                # Another version of the hub told of it in other words; it was told.
                _log.info("a timer was told already: %s", error.message)
            except ClawError as error:
                _log.warning("timers of %d were not told: %s", second, error.message)

    def _draft(self, world: str, channel: str, event: str, second: int) -> Draft:
        return self._hub.publishing.render(
            msgspec.structs.replace(HUB, world=world),
            channel,
            type=TYPE,
            data=msgspec.json.encode(told_at(second, event)).decode(),
            dedupe_key=f"timer:{second}",
        )
