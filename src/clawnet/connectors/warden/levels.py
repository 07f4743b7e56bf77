"""Where the warden keeps events now: Supabase, else files, else memory; and the way back up.

What went down a level goes up again in the order in which it came, before anything newer is kept
there, so a level that was away misses nothing and has nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from clawnet.connectors.warden.jsonl import JsonLines
from clawnet.connectors.warden.keeping import Down, Place, merged
from clawnet.core.events import Event

Level = Literal["supabase", "jsonl", "memory"]
HELD_MAX = 10_000
"""More than so many are not taken into memory: they stay in the hub's log."""


class Levels:
    """Used by one task at a time. `top` is Supabase or None; `files` are the level below it, and
    the top one without it. `told` hears of each change of level and why."""

    def __init__(
        self,
        top: Place | None,
        files: JsonLines,
        *,
        told: Callable[[Level, str], None],
        held_max: int = HELD_MAX,
    ) -> None:
        self._top = top
        self._files = files
        self._told = told
        self._held: list[Event] = []
        self._held_max = held_max
        self._is_spooled = top is not None
        """Whether files may hold what the top one lacks; at the start that is not known."""
        self.level: Level = "jsonl" if top is None else "supabase"

    @property
    def has_room(self) -> bool:
        """Whether more can be taken now."""
        return len(self._held) < self._held_max

    @property
    def is_for_good(self) -> bool:
        """Whether all that was taken outlives this process."""
        return not self._held

    @property
    def is_top(self) -> bool:
        return self.level == ("jsonl" if self._top is None else "supabase")

    async def keep(self, events: Sequence[Event]) -> None:
        """Take events, on the best level there is."""
        if self.level == "supabase":
            assert self._top is not None
            try:
                await self._unspool()
                await self._top.keep(events)
                return
            except Down as why:
                self._go("jsonl", str(why))
        if self.level == "jsonl":
            try:
                await self._files.keep(events)
                self._is_spooled = True
                return
            except Down as why:
                self._go("memory", str(why))
        self._held += events

    async def climb(self) -> None:
        """Try the levels above, taking along what waits here."""
        if self.level == "memory":
            try:
                await self._files.keep(self._held)
            except Down:
                # Files are away; the top one may take what is held, if the files hold nothing.
                if self._top is None or self._is_spooled:
                    return
                try:
                    await self._top.keep(self._held)
                except Down:
                    return
                self._held.clear()
                self._go("supabase", "it takes events again")
                return
            self._held.clear()
            self._is_spooled = True
            self._go("jsonl", "files can be written again")
        if self.level == "jsonl" and self._top is not None:
            try:
                await self._unspool()
            except Down:
                return
            self._go("supabase", "it takes events again")

    async def newest(self, world: str, limit: int) -> list[Event]:
        """The newest of all levels, oldest first. Raises Down if the top one cannot be read."""
        above: list[Event] = [] if self._top is None else await self._top.newest(world, limit)
        below = await self._files.newest(world, limit)
        held = [event for event in self._held if event.world == world]
        return merged(above, below, held)[-limit:]

    async def close(self) -> None:
        """Bring down to disk what is held, if that can be done."""
        if self._held:
            # To disk alone: what goes up from there may take longer than who ends it waits.
            try:
                await self._files.keep(self._held)
                self._held.clear()
            except Down as why:
                self._told("memory", f"{len(self._held)} events are read again later: {why}")
        if self._top is not None:
            await self._top.close()

    async def _unspool(self) -> None:
        """Take what files hold to the top level, oldest first. Raises Down."""
        assert self._top is not None
        if not self._is_spooled:
            return
        while (found := await self._files.take()) is not None:
            path, events = found
            await self._top.keep(events)
            await self._files.remove(path)
        self._is_spooled = False

    def _go(self, level: Level, why: str) -> None:
        self.level = level
        self._told(level, why)
