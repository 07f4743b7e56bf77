"""Changes of the directory: one after the other, and no narrowing is lost to a full disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from clawnet.core.callers import Caller
from clawnet.core.errors import ClawError, DiskFull, OutcomeUnknown, Unavailable
from clawnet.core.events import Draft
from clawnet.core.units import Delete, Put, Unit

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

UNSTORED_EVENTS_MAX = 1_000
"""So many events of revocations are kept while the disk is full; the revocations all are."""

_log = logging.getLogger(__name__)


class Changing:
    """The lock of changes, and the narrowings that are in force and not on disk yet."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._lock = asyncio.Lock()
        self._unstored: dict[str, Put | Delete] = {}
        self._unstored_events: tuple[Draft, ...] = ()

    async def run(
        self, handler: Callable[[Any, Caller], Awaitable[Any]], request: Any, caller: Caller
    ) -> Any:
        """Let a handler answer when no other change is under way."""
        # No deadline: the committer answers every unit, so the lock is always given back.
        async with self._lock:
            try:
                answer = await handler(request, self._hub.directory.refresh(caller))
            except (DiskFull, OutcomeUnknown, Unavailable):
                raise
            except ClawError:
                await self._store()
                raise
            await self._store()
            return answer

    async def commit(
        self,
        *changes: Put | Delete,
        events: tuple[Draft, ...],
        is_narrowing: bool,
        kept: tuple[Put | Delete, ...] | None,
    ) -> None:
        """See Hub.change()."""
        unit = Unit(
            drafts=(*self._unstored_events, *events),
            changes=(*self._unstored.values(), *changes),
            is_narrowing=is_narrowing,
        )
        try:
            await self._hub.committer.commit(unit)
        except (DiskFull, Unavailable):
            if is_narrowing:
                self._unstored.update({c.key: c for c in (changes if kept is None else kept)})
                unstored = (*self._unstored_events, *(events if kept is None else ()))
                self._unstored_events = unstored[-UNSTORED_EVENTS_MAX:]
            raise
        self._unstored, self._unstored_events = {}, ()

    @property
    def is_due(self) -> bool:
        """Whether something is to be stored, and nobody is at it."""
        return bool(self._unstored) and not self._lock.locked()

    async def retry(self) -> None:
        """Store what could not be stored when it came into force."""
        async with self._lock:
            try:
                await self._store()
            except ClawError as error:
                _log.warning("a revocation is not stored yet: %s", error.message)

    async def _store(self) -> None:
        """Under the lock."""
        if self._unstored:
            await self.commit(events=(), is_narrowing=True, kept=None)
