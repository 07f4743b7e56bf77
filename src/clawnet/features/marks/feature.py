"""Keeps the marks of all accounts, written behind.

What a crash loses is a tenth of a second of acknowledgements; what they were of is told again.
"""

from __future__ import annotations

import asyncio

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.marks import MARKS_EVERY_S, OpenMarks
from clawnet.core.errors import ClawError, Forbidden
from clawnet.core.marks import Mark, Marks
from clawnet.core.units import Delete, Put, Unit
from clawnet.hub.features import Feature
from clawnet.hub.hub import Hub
from clawnet.ports.log import State

KIND = "marks"
PUTS_PER_UNIT_MAX = 200

_Key = tuple[str, str]


class MarksFeature(Feature):
    """State `marks/<world>/<account>`: each channel's epoch and floor."""

    _hub: Hub

    def __init__(self) -> None:
        self._stored: dict[_Key, dict[str, Mark]] = {}
        """What was read at the start of accounts that nobody asked for yet."""
        self._marks: dict[_Key, Marks] = {}
        self._dirty: dict[_Key, None] = {}
        self._orphans: list[Delete] = []
        self._wake = asyncio.Event()

    def register(self, hub: Hub) -> None:
        self._hub = hub
        hub.handle(OpenMarks, self.open)

    async def load(self) -> None:
        await self._hub.storage.read(self._load)

    def _load(self, state: State) -> None:
        for entry in state.scan(KIND):
            _, world, account = entry.key.split("/", 2)
            if self._hub.directory.has_account(world, account):
                marks = msgspec.json.decode(entry.value, type=dict[str, Mark])
                self._stored[world, account] = marks
            else:
                # An account was deleted, and its id is never given again.
                self._orphans.append(Delete(entry.key))
                self._wake.set()

    async def open(self, call: OpenMarks, caller: Caller) -> Marks:
        """The account's marks, the same object for all that ask."""
        if not caller.is_hub:
            raise Forbidden("Marks are kept by the hub.", next="Use chat_ack of C2CP instead.")
        key = (caller.world, call.account)
        marks = self._marks.get(key)
        if marks is None:
            stored = self._stored.pop(key, {})
            marks = Marks(stored, on_change=lambda: self._changed(key))
            self._marks[key] = marks
        return marks

    def _changed(self, key: _Key) -> None:
        self._dirty[key] = None
        self._wake.set()

    async def run(self) -> None:
        while True:
            # No deadline: there is nothing to do until a mark moves.
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(MARKS_EVERY_S)
            try:
                await self._store()
            except ClawError:
                # A full disk: what was acknowledged is told again after a crash, and no later.
                self._wake.set()
                await asyncio.sleep(1.0)

    async def flush(self) -> None:
        await self._store()

    async def _store(self) -> None:
        while self._orphans:
            some = self._orphans[-PUTS_PER_UNIT_MAX:]
            await self._hub.committer.commit(Unit(changes=tuple(some)))
            del self._orphans[-PUTS_PER_UNIT_MAX:]
        while self._dirty:
            keys = list(self._dirty)[:PUTS_PER_UNIT_MAX]
            for key in keys:
                del self._dirty[key]
            puts = tuple(
                Put(f"{KIND}/{world}/{account}", self._text(world, account), None)
                for world, account in keys
                if self._hub.directory.has_account(world, account)
            )
            if not puts:
                continue
            try:
                await self._hub.committer.commit(Unit(changes=puts))
            except ClawError:
                self._dirty = dict.fromkeys(keys) | self._dirty
                raise

    def _text(self, world: str, account: str) -> str:
        return msgspec.json.encode(self._marks[world, account].by_channel).decode()
