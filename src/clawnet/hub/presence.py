"""Presence: an account is online while it holds a live session, and a moment longer.

A return within `offline_after_s` tells nobody anything; changes are batched
into one event a second on system.presence.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.presence import PresenceInfo, PresenceList, ReadPresence
from clawnet.core.errors import BadRequest, ClawError
from clawnet.core.times import rfc3339
from clawnet.core.units import Unit
from clawnet.hub.accounts import need_account

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

CHANNEL = "system.presence"
BATCH_EVERY_S = 1.0
CHANGES_PER_EVENT_MAX = 500

_Key = tuple[str, str]


class Presence:
    """Counts sessions by account."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._sessions: dict[_Key, int] = {}
        self._online: dict[_Key, int] = {}
        """When each became online, ms."""
        self._leaving: dict[_Key, float] = {}
        """When each will count as offline, by the steady clock."""
        self._changes: dict[_Key, str] = {}

    def register(self) -> None:
        self._hub.handle(ReadPresence, self.read)

    def connected(self, world: str, account: str) -> None:
        """A session of the account began."""
        key = (world, account)
        self._sessions[key] = self._sessions.get(key, 0) + 1
        self._leaving.pop(key, None)
        if key not in self._online:
            self._online[key] = self._hub.clock.wall_ms()
            self._changes[key] = "online"

    def disconnected(self, world: str, account: str) -> None:
        """A session of the account ended."""
        key = (world, account)
        left = self._sessions.get(key, 0) - 1
        if left > 0:
            self._sessions[key] = left
        else:
            self._sessions.pop(key, None)
            after_s = self._hub.settings.presence.offline_after_s
            self._leaving[key] = self._hub.clock.steady_s() + after_s

    async def run(self) -> None:
        """Once a second: let go who stayed away, and tell of the changes."""
        while True:
            await asyncio.sleep(BATCH_EVERY_S)
            self.tick()

    def tick(self) -> None:
        """One round of run(): at most one event per 500 changes and world."""
        now_s = self._hub.clock.steady_s()
        for key in [key for key, due_s in self._leaving.items() if due_s <= now_s]:
            del self._leaving[key]
            if self._online.pop(key, None) is not None:
                if self._changes.get(key) == "online":
                    # Came and went before anybody was told: nobody is told of either.
                    del self._changes[key]
                else:
                    self._changes[key] = "offline"
        if self._changes and self._hub.state == "ready":
            # Who has left again already is told of only if it comes back in time.
            held = {
                key: status
                for key, status in self._changes.items()
                if status == "online" and key in self._leaving
            }
            changes = {k: status for k, status in self._changes.items() if k not in held}
            self._changes = held
            if changes:
                self._tell(changes)

    def _tell(self, changes: dict[_Key, str]) -> None:
        now = rfc3339(self._hub.clock.wall_ms())
        by_world: dict[str, list[dict[str, str]]] = {}
        for (world, account), status in changes.items():
            found = self._hub.directory.account(world, account)
            told = {
                "account": account,
                "handle": found.handle if found else account,
                "status": status,
                "since": now,
            }
            by_world.setdefault(world, []).append(told)
        for world, told_all in by_world.items():
            voice = msgspec.structs.replace(HUB, world=world)
            for start in range(0, len(told_all), CHANGES_PER_EVENT_MAX):
                data = {"changes": told_all[start : start + CHANGES_PER_EVENT_MAX]}
                draft = self._hub.publishing.render(
                    voice,
                    CHANNEL,
                    type="presence.changed",
                    data=msgspec.json.encode(data).decode(),
                )
                try:
                    self._hub.committer.submit(Unit(drafts=(draft,)), lambda _: None)
                except ClawError:
                    # Storage is full or failed: presence can be read, its event is lost.
                    return

    async def read(self, call: ReadPresence, caller: Caller) -> PresenceList:
        """Who is online in the caller's world."""
        need_account(caller)
        caller.need("events:read")
        if not 1 <= call.limit <= 1_000:
            raise BadRequest("limit must be 1 to 1000.", next="Ask for several pages instead.")
        behind = sorted(
            account
            for world, account in self._online
            if world == caller.world and account > call.after
        )
        page = behind[: call.limit]
        infos = []
        for account in page:
            found = self._hub.directory.account(caller.world, account)
            infos.append(
                PresenceInfo(
                    account=account,
                    handle=found.handle if found else account,
                    status="online",
                    since=rfc3339(self._online[(caller.world, account)]),
                )
            )
        following = page[-1] if len(behind) > len(page) else None
        return PresenceList(accounts=infos, next=following)
