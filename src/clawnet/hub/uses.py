"""When each token was last used: observational, so it costs the hot path one set's entry.

Kept in memory, exact to a second, and written at most once a minute and when the hub closes;
a kill loses the last minute of it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.errors import ClawError
from clawnet.core.units import Delete, Put, Unit
from clawnet.hub.features import Feature

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub
    from clawnet.ports.log import State

WRITE_EVERY_S = 60
CHANGES_PER_UNIT = 256

_log = logging.getLogger(__name__)


class Uses(Feature):
    """Doors add the id of every token that is shown to `marks`; ListTokens shows the result."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.marks: set[str] = set()
        self._last_ms: dict[str, int] = {}
        self._unwritten: set[str] = set()
        self._written: set[str] = set()

    async def load(self) -> None:
        """Take up what an earlier run wrote."""
        await self._hub.storage.read(self._load)

    def _load(self, state: State) -> None:
        for entry in state.scan("used"):
            token_id = entry.key.removeprefix("used/")
            self._written.add(token_id)
            self._last_ms[token_id] = msgspec.json.decode(entry.value, type=int)

    def last_ms(self, token_id: str) -> int | None:
        """When a token was last used, by the trusted time; None if that is not known."""
        return self._last_ms.get(token_id)

    def settle(self) -> None:
        """Give what was marked its time; an open connection uses its token all the while."""
        for (_, account), sessions in self._hub.sessions.items():
            if account is not None:
                self.marks |= {s.caller.token_id for s in sessions if s.caller.token_id}
        self._stamp()

    def _stamp(self) -> None:
        if not self.marks:
            return
        self._last_ms.update(dict.fromkeys(self.marks, self._hub.retention.now_ms()))
        self._unwritten |= self.marks
        self.marks.clear()

    async def run(self) -> None:
        """Stamp once a second, write once a minute."""
        while True:
            for _ in range(WRITE_EVERY_S):
                await asyncio.sleep(1.0)
                self._stamp()
            try:
                await self.flush()
            except ClawError as error:
                _log.warning("the last use of tokens is not written: %s", error.message)

    async def flush(self) -> None:
        """Write what changed, and forget what belongs to tokens that are gone."""
        self.settle()
        directory = self._hub.directory
        for gone in [one for one in self._last_ms if directory.token(one) is None]:
            del self._last_ms[gone]
        changes: list[Put | Delete] = [
            Delete(f"used/{one}") for one in self._written if one not in self._last_ms
        ]
        # A JWT's is not worth a write: it is over when the next one would come.
        self._unwritten = {
            one for one in self._unwritten if one in self._last_ms and one.startswith("tok_")
        }
        changes += [Put(f"used/{one}", str(self._last_ms[one])) for one in self._unwritten]
        for start in range(0, len(changes), CHANGES_PER_UNIT):
            part = tuple(changes[start : start + CHANGES_PER_UNIT])
            # Before the commit: a use while it waits is to be written the next time.
            ids = {change.key.removeprefix("used/") for change in part}
            missing = self._unwritten & ids
            self._unwritten -= ids
            try:
                await self._hub.committer.commit(Unit(changes=part))
            except ClawError:
                self._unwritten |= missing
                raise
            for change in part:
                token_id = change.key.removeprefix("used/")
                if isinstance(change, Put):
                    self._written.add(token_id)
                else:
                    self._written.discard(token_id)
