"""Versions that a backend gives its publications: what is not newer than the newest is skipped."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.calls.publishing import Published
from clawnet.core.errors import ClawError
from clawnet.core.units import Delete, Put, Unit

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

KNOWN_MAX = 10_000
"""Of so many channels the newest version is known; of more, those that were silent longest are
forgotten, and take any version again."""
KIND = "centrifugo-version"
LANES = 64
"""Channels share so many lanes, in each of which one versioned publication runs at a time."""

_log = logging.getLogger(__name__)


class Version(msgspec.Struct, frozen=True):
    """The newest version that was published on a channel."""

    channel: str
    epoch: str
    version: int


class Versions:
    """The newest of each channel, in memory and stored under `centrifugo-version/<channel>`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._newest: OrderedDict[str, Version] | None = None
        self._lanes = tuple(asyncio.Lock() for _ in range(LANES))

    async def publish(
        self, version: Version, publish: Callable[[], Awaitable[Published]]
    ) -> Published | None:
        """Publish unless a version as new was; one after the other on a channel. None if so."""
        # No deadline: the committer answers every unit, so the lane is always given back.
        async with self._lanes[hash(version.channel) % LANES]:
            newest = (await self._known()).get(version.channel)
            is_same_epoch = newest is not None and newest.epoch == version.epoch
            if newest is not None and is_same_epoch and version.version <= newest.version:
                return None
            published = await publish()
            # Behind the event: a crash in between repeats what was not answered, and never takes
            # it for done.
            await self._remember(version)
            return published

    async def _known(self) -> OrderedDict[str, Version]:
        if self._newest is None:
            entries = await self._hub.storage.read(lambda engine: engine.scan(KIND))
            found = [msgspec.json.decode(entry.value, type=Version) for entry in entries]
            if self._newest is None:
                self._newest = OrderedDict((one.channel, one) for one in found)
        return self._newest

    async def _remember(self, version: Version) -> None:
        known = await self._known()
        known[version.channel] = version
        known.move_to_end(version.channel)
        key = f"{KIND}/{version.channel}"
        changes: list[Put | Delete] = [Put(key, msgspec.json.encode(version).decode())]
        while len(known) > KNOWN_MAX:
            oldest, _ = known.popitem(last=False)
            changes.append(Delete(f"{KIND}/{oldest}"))
        try:
            await self._hub.committer.commit(Unit(changes=tuple(changes)))
        except ClawError as error:
            # The event is stored, and in this run the version is known.
            _log.warning("the version of %s is not stored: %s", version.channel, error.message)
