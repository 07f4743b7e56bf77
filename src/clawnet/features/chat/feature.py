"""Answers core.calls.chat and follows what is said: the chat's parts, wired."""

from __future__ import annotations

import msgspec

from clawnet.core.chat import is_chat
from clawnet.core.events import CHAT_MESSAGE, Stored
from clawnet.features.chat.commands import Commands
from clawnet.features.chat.guard import Guard
from clawnet.features.chat.membership import Membership
from clawnet.features.chat.mentions import Mentions
from clawnet.features.chat.names import Names
from clawnet.features.chat.reading import Reading
from clawnet.features.chat.rooms import KIND, RoomRecord, Rooms
from clawnet.features.chat.sending import Sending
from clawnet.features.chat.settings import ChatSettings
from clawnet.features.chat.upkeep import Upkeep
from clawnet.hub.features import Feature
from clawnet.hub.hub import Hub


class ChatFeature(Feature):
    """Rooms and what is said in them."""

    def __init__(self, settings: ChatSettings) -> None:
        self._settings = settings
        self._hub: Hub
        self._rooms: Rooms
        self._membership: Membership
        self._upkeep: Upkeep
        self._mentions: Mentions
        self._guard: Guard

    def register(self, hub: Hub) -> None:
        """Answer the calls, and accompany messages that answer others."""
        settings = self._settings
        hub.controls.default(auto_create=settings.auto_create)
        self._hub = hub
        names = Names(hub)
        self._rooms = Rooms(hub)
        self._upkeep = Upkeep(hub, self._rooms)
        self._membership = Membership(hub, settings, rooms=self._rooms, upkeep=self._upkeep)
        self._mentions = Mentions(hub, names)
        self._guard = Guard(hub, settings)
        sending = Sending(
            hub,
            settings,
            rooms=self._rooms,
            membership=self._membership,
            guard=self._guard,
            commands=Commands(hub, names),
        )
        names.register()
        self._upkeep.register()
        self._membership.register()
        Reading(hub, self._rooms, self._upkeep).register()
        sending.register()
        hub.publishing.accompany(self._guard)

    async def load(self) -> None:
        """Take up the rooms, and what was left to do."""
        for entry in await self._hub.storage.read(lambda engine: engine.scan(KIND)):
            self._rooms.put(msgspec.json.decode(entry.value, type=RoomRecord))
        self._upkeep.load()
        await self._mentions.load()

    async def run(self) -> None:
        """Do what was left, then note now and then how far the mentions are."""
        await self._upkeep.catch_up()
        await self._mentions.run()

    async def flush(self) -> None:
        await self._mentions.flush()

    def stored(self, stored: list[Stored]) -> None:
        """First the guard: what it knows is asked for by answers that come next."""
        said = [e for e in stored if e.type == CHAT_MESSAGE and is_chat(e.channel)]
        if said:
            self._guard.said(said)
            self._mentions.said(said)
        self._membership.stored(stored)
        self._upkeep.stored(stored)
