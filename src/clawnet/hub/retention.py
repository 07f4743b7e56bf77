"""Retention: trims the log by age and, per channel, by count; and holds the trusted time.

What is kept how long is said by hub.keeping. Ages are measured with core.trust, so a wall clock
that jumps trims nothing at once.
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
from clawnet.hub.keeping import Keeping

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

TRIM_EVERY_S = 60.0
SLACK = 0.25
"""A channel is trimmed by count when it exceeds the bound by this part of it."""
MEMORY_KEEP = 1_000
CUTS_MAX = 10_000
"""Of so many channels it is remembered how far they were cut."""
_KEY = "clock/trusted"
_PAGE = 250

_Kind = tuple[str, str, int]
"""World, channel and the number of the rule in Keeping.bounds."""

_log = logging.getLogger(__name__)


class Retention:
    """Runs in the background; every trim goes through the committer in small pieces."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        settings = hub.settings.retention
        events_max = settings.events_per_channel_max
        if events_max is None and not hub.storage.engine.is_durable:
            events_max = MEMORY_KEEP
        self._keeping = Keeping(
            settings,
            events_max=events_max,
            namespaces=hub.settings.channels.namespaces,
            namespace_of=hub.directory.namespace_name,
        )
        self._clock = TrustedClock(
            wall_ms=hub.clock.wall_ms(), steady_s=hub.clock.steady_s(), last_trusted_ms=None
        )
        self._slacks = tuple(
            None if bound.events_max is None else max(int(bound.events_max * SLACK), 1)
            for bound in self._keeping.bounds
        )
        self._counts: dict[_Kind, int] = {}
        self._full: set[_Kind] = set()
        # By age, up to where the log holds nothing more that is so old; by kind, up to where its
        # channel holds nothing more that is too much. What a rule keeps is not looked at again.
        self._aged: dict[int, int] = {}
        self._cut: dict[_Kind, int] = {}
        self._trimming: asyncio.Event = asyncio.Event()

    async def load(self) -> None:
        """Take up the trusted time of the run before."""
        hub = self._hub
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
        keeping = self._keeping
        if not keeping.is_counting:
            return
        counts = self._counts
        has_rules, number, slack = keeping.has_rules, 0, self._slacks[0]
        for event in stored:
            # Asked for every event: without rules, which is the rule, nothing is looked up.
            if has_rules:
                number = keeping.number(event.channel, event.type)
                slack = self._slacks[number]
            if slack is None:
                continue
            key = (event.world, event.channel, number)
            count = counts.get(key, 0) + 1
            if count >= slack:
                self._full.add(key)
                self._trimming.set()
                count = 0
            counts[key] = count

    async def run(self) -> None:
        """Trim full channels as they fill, and old events once a minute."""
        loop = asyncio.get_running_loop()
        await self._attempt(self._find_full())
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
        """Remove what is older than its retention; returns how many events."""
        hub = self._hub
        # Events bear the wall's time. Where that was set back, what is new now would look
        # old by the trusted time, so an event is old only by both.
        now_ms = min(self.now_ms(), hub.clock.wall_ms())
        total = 0
        for age_ms in self._keeping.ages_ms:
            before_ms = now_ms - age_ms
            seq = await hub.storage.read(lambda log: log.seq_before(before_ms))  # noqa: B023
            if self._keeping.has_rules:
                total += await self._trim_aged(seq, age_ms)
            else:
                total += await self._trim_before(seq)
        return total

    async def _trim_before(self, seq: int) -> int:
        hub = self._hub
        total = 0
        while seq >= hub.storage.engine.first_seq:
            removed = await hub.committer.run(lambda: hub.storage.engine.trim_before(seq))
            if not removed:
                break
            total += removed
            await asyncio.sleep(0)
        return total

    async def _trim_aged(self, seq: int, age_ms: int) -> int:
        """Remove what need not be that old, up to `seq`."""
        hub, keeping = self._hub, self._keeping
        total = 0

        def is_due(channel: str, type: str) -> bool:
            return keeping.is_older_than(channel, type, age_ms)

        while (after := self._aged.get(age_ms, 0)) < seq:
            piece = await hub.committer.run(
                lambda: hub.storage.engine.trim_due(seq, after_seq=after, is_due=is_due)
            )
            self._aged[age_ms] = piece.place
            total += piece.removed
            await asyncio.sleep(0)
        return total

    async def trim_full(self) -> int:
        """Cut the channels that outgrew a bound; returns how many events."""
        hub = self._hub
        total = 0
        while self._full:
            world, name, number = kind = self._full.pop()
            keep = self._keeping.bounds[number].events_max
            assert keep is not None, "only what has a bound outgrows it"
            if len(self._keeping.numbers(name)) > 1:
                total += await self._cut_kind(kind, keep)
                continue
            while removed := await hub.committer.run(
                lambda: hub.storage.engine.trim_channel(world, name, keep=keep)  # noqa: B023
            ):
                total += removed
        return total

    async def _cut_kind(self, kind: _Kind, keep: int) -> int:
        """Of a channel's events that one rule governs, keep the newest."""
        hub, keeping = self._hub, self._keeping
        world, name, number = kind
        above = cut = self._cut.get(kind, 0)
        before: int | None = None
        total = 0

        def is_due(channel: str, type: str) -> bool:
            return keeping.number(channel, type) == number

        while True:
            piece = await hub.committer.run(
                lambda: hub.storage.engine.trim_channel_due(
                    world,
                    name,
                    is_due=is_due,
                    keep=keep,  # noqa: B023
                    before=before,  # noqa: B023
                    above=above,
                )
            )
            total += piece.removed
            if keep and keep == piece.kept:
                # All that is kept lies behind this place, so below it nothing of the kind is left.
                cut = max(cut, piece.place - 1)
            keep -= piece.kept
            before = piece.place
            if piece.is_end:
                self._cut.pop(kind, None)
                self._cut[kind] = cut
                # Whose place is forgotten is walked through again once, in pieces.
                while len(self._cut) > CUTS_MAX:
                    del self._cut[next(iter(self._cut))]
                return total
            await asyncio.sleep(0)

    async def _find_full(self) -> None:
        """Once, at the start: bounds may have been lowered since the run before."""
        hub, keeping = self._hub, self._keeping
        if not keeping.is_counting:
            return
        for world in {account.world for account in hub.directory.all_accounts()} | {"main"}:
            after = ""
            while page := await hub.storage.read(
                lambda log: log.channels(world, after=after, limit=_PAGE)  # noqa: B023
            ):
                await asyncio.sleep(0)
                after = page[-1].name
                for head in page:
                    for number in keeping.numbers(head.name):
                        keep = keeping.bounds[number].events_max
                        if keep is not None and head.last - head.first >= keep * (1 + SLACK):
                            self._full.add((world, head.name, number))
        if self._full:
            self._trimming.set()

    async def record(self) -> None:
        """Store the trusted time for the next run."""
        value = str(self.now_ms())
        await self._hub.committer.commit(Unit(changes=(Put(_KEY, value),)))
