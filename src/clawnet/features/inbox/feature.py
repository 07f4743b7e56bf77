"""Puts the inbox's parts together as the one feature that the hub knows.

A part is built with the hub and has those methods of hub.features.Feature that it needs.
"""

from __future__ import annotations

from clawnet.core.events import Stored
from clawnet.features.inbox.inbox import Inbox
from clawnet.features.inbox.leases import Leases
from clawnet.features.inbox.receipts import Receipts
from clawnet.hub.features import Feature
from clawnet.hub.hub import Hub


class InboxFeature(Feature):
    """Registers its parts, and hands on to each what concerns it."""

    leases: Leases
    receipts: Receipts
    inbox: Inbox

    def register(self, hub: Hub) -> None:
        self.leases = Leases(hub)
        self.leases.register()
        self.receipts = Receipts(hub, self.leases)
        self.receipts.register()
        self.inbox = Inbox(hub, receipts=self.receipts, leases=self.leases)
        self.inbox.register()

    async def load(self) -> None:
        await self.receipts.load()
        await self.inbox.load()

    async def run(self) -> None:
        await self.receipts.run()

    async def flush(self) -> None:
        # What is acknowledged is stored when that is answered; receipts are written behind.
        await self.receipts.flush()

    def stored(self, stored: list[Stored]) -> None:
        self.receipts.stored(stored)
        self.inbox.stored(stored)
