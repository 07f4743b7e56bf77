"""What all v1 connections of a door share: their shapes, and who is told of the fleet when."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from clawnet.core.callers import HUB
from clawnet.core.calls.fleet import Fleet, FleetAgent, ReadFleet
from clawnet.core.errors import ClawError
from clawnet.doors.socketio.v1_shapes import Shape1, Shape1Traffic, frame
from clawnet.hub.hub import Hub

if TYPE_CHECKING:
    from clawnet.doors.socketio.conversation import Conversations
    from clawnet.doors.socketio.v1 import Version1

TICK_S = 1.0
WORKERS_EVERY_S = 10.0

_log = logging.getLogger(__name__)


class Shared1:
    """Made when the first v1 connection comes."""

    def __init__(self, door: Conversations) -> None:
        self.hub: Hub = door.hub
        self.shape = Shape1(door.hub)
        self.traffic = Shape1Traffic(door.hub)
        self.all: set[Version1] = set()
        self._told: dict[tuple[str, bool], int] = {}
        """Which revision of the fleet was told last, by world and whether to workers."""
        self._workers_s = 0.0
        door.hub.presence.follow(self._presence)
        door.hub.spawn(self._run())

    async def fleet(self, world: str) -> Fleet:
        """The fleet of a world, whole. Raises ClawError."""
        voice = msgspec.structs.replace(HUB, world=world)
        found: Fleet = await self.hub.call(ReadFleet(), caller=voice)
        return found

    def begin(self, version: Version1, fleet: Fleet) -> None:
        """A connection begins: it is told of the fleet as it is, and from now on of changes."""
        self.all.add(version)
        self._told.setdefault((version.world, version.is_worker), fleet.revision)
        if version.is_reader:
            version.send(self.fleet_update(fleet, for_worker=version.is_worker))

    def fleet_update(self, fleet: Fleet, *, for_worker: bool) -> bytes:
        """The frame that tells of the fleet."""
        return frame("fleet_update", [_shown(agent, not for_worker) for agent in fleet.agents])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self._count_as_given()
                await self.tell_fleet()
            except ClawError as error:
                # The hub is stopping, or storage failed.
                _log.debug("the fleet is not told of: %s", error.message)
            except Exception:  # a defect in one round must not end the others
                _log.exception("telling of the fleet failed")

    async def tell_fleet(self) -> None:
        """One round: to masters and who looks on every second, to workers every ten."""
        now_s = self.hub.clock.steady_s()
        is_workers_turn = now_s - self._workers_s >= WORKERS_EVERY_S
        if is_workers_turn:
            self._workers_s = now_s
        for world in {version.world for version in self.all}:
            fleet = await self.fleet(world)
            for for_worker in (False, True) if is_workers_turn else (False,):
                if self._told.get((world, for_worker)) == fleet.revision:
                    continue
                self._told[world, for_worker] = fleet.revision
                said = self.fleet_update(fleet, for_worker=for_worker)
                for version in list(self.all):
                    is_meant = version.world == world and version.is_worker is for_worker
                    if is_meant and version.is_reader:
                        version.send(said)

    def _count_as_given(self) -> None:
        """What a client has taken counts as handled: v1 has no word for it."""
        for shape in (self.shape, self.traffic):
            fresh, shape.fresh = shape.fresh, set()
            for version in self.all:
                version.written(fresh)

    def _presence(self, world: str, account: str, status: str) -> None:
        """A member of rooms went away: their members are told."""
        if status != "offline":
            return
        for grant in list(self.hub.directory.grants_of(world, account)):
            if not grant.channel.startswith("room.") or "*" in grant.channel:
                continue
            readers = [v for v in self.all if v.world == world and v.may_read(grant.channel)]
            if readers:
                room = grant.channel.removeprefix("room.")
                said = self.shape.room_update(world, room, account, "leave")
                for version in readers:
                    version.send(said, of=grant.channel)


def _shown(agent: FleetAgent, sees_all: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": agent.given_id,
        "handle": agent.handle,
        "role": agent.role,
        "status": agent.status,
        "specs": agent.specs | agent.resource_usage,
        "last_seen": agent.last_seen,
        "capabilities": agent.capabilities,
    }
    if sees_all:
        shown |= {"cron": agent.cron, "sessions": agent.sessions}
    return shown
