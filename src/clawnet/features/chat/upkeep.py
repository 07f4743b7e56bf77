"""Keeping rooms in line with accounts: who is gone owns none, and #ops has the masters in it.

What follows from a change of an account is done behind it, under the lock of changes; what takes
rights away is in force in memory at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import HUB, Caller
from clawnet.core.errors import ClawError
from clawnet.core.events import Stored
from clawnet.core.units import Delete
from clawnet.features.chat.rooms import OPS, ROOM_VERBS, RoomRecord, Rooms, grant_put, room_put
from clawnet.hub.accounts import EVENTS as ACCOUNT_EVENTS
from clawnet.hub.directory import GrantRecord

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

BY_HUB = "hub"


class Reconcile(msgspec.Struct, frozen=True, kw_only=True):
    """The hub's own: bring the rooms of a world in line with its accounts. Rooms of who is gone
    get another owner, and #ops (made if `make_ops`) has the masters as its members."""

    make_ops: bool = False
    gone: tuple[str, ...] = ()
    """Who was taken out of #ops in memory, for what is stored to follow."""


class _Gone(msgspec.Struct):
    account: str


class Upkeep:
    """The handler of Reconcile, and what brings it about."""

    def __init__(self, hub: Hub, rooms: Rooms) -> None:
        self._hub = hub
        self._rooms = rooms
        self._due: dict[str, tuple[str, ...]] = {}

    def register(self) -> None:
        self._hub.handle(Reconcile, self.reconcile, is_change=True)
        self._hub.follow_rights(self._rights_changed)

    def stored(self, stored: list[Stored]) -> None:
        """Learn that an account is gone or a master."""
        for event in stored:
            if event.channel == ACCOUNT_EVENTS:
                self._follow(event)

    def is_master(self, world: str, account: str) -> bool:
        """Whether a living account is a master."""
        found = self._hub.directory.account(world, account)
        return found is not None and not found.is_deleted and found.role == "master"

    def _follow(self, event: Stored) -> None:
        # Imported events may have these types and stand in this channel as well.
        if not event.type.startswith("account.") or '"imported":' in event.head:
            return
        if event.type == "account.deleted":
            gone = msgspec.json.decode(event.data, type=_Gone).account
            is_due = bool(self._rooms.owned(event.world, gone))
        else:
            has_ops = self._rooms.get(event.world, OPS) is not None
            is_due = has_ops and '"master"' in event.data
        if is_due:
            self._hub.spawn(self._reconciled(event.world))

    async def meet_ops(self, world: str) -> None:
        """Make #ops if it is not there; who is a master is in it."""
        if self._rooms.get(world, OPS) is None:
            voice = msgspec.structs.replace(HUB, world=world)
            await self._hub.call(Reconcile(make_ops=True), caller=voice)

    def _rights_changed(self, world: str, account: str) -> None:
        """Who was put out of its own room leaves it to another. A master that is none any more is
        out of #ops at once, before that is stored."""
        owned = self._rooms.owned(world, account)
        if not all(self._rooms.is_member(world, name, account) for name in owned):
            self._hub.spawn(self._reconciled(world))
        grant = self._hub.directory.grant(world, account, f"room.{OPS}")
        if grant is None or grant.granted_by != BY_HUB or self.is_master(world, account):
            return
        self._hub.directory.remove_grant(world, account, grant.channel)
        self._hub.rights_changed(world, account, narrowed=grant.channel, widened=grant.channel)
        self._hub.spawn(self._reconciled(world, gone=(account,)))

    async def _reconciled(self, world: str, gone: tuple[str, ...] = ()) -> None:
        voice = msgspec.structs.replace(HUB, world=world)
        try:
            await self._hub.call(Reconcile(gone=gone), caller=voice)
        except ClawError:
            # The hub stops or its disk is full: the next start does it (see load()).
            return

    def load(self) -> None:
        """In memory at once: who is no master any more is not in #ops."""
        for room in self._rooms.all():
            if room.name == OPS:
                strangers = self._strangers(room)
                for account in strangers:
                    self._hub.directory.remove_grant(room.world, account, room.channel)
                self._due[room.world] = tuple(strangers)
            elif self._is_left(room):
                self._due.setdefault(room.world, ())

    async def catch_up(self) -> None:
        """Store what load() found; when the hub is ready."""
        due, self._due = self._due, {}
        for world, gone in due.items():
            await self._reconciled(world, gone)

    def _is_left(self, room: RoomRecord) -> bool:
        """Whether the owner is gone from a room."""
        is_there = self._hub.directory.has_account(room.world, room.owner)
        is_there = is_there and self._rooms.is_member(room.world, room.name, room.owner)
        return room.owner != "" and not is_there

    def _strangers(self, ops: RoomRecord) -> list[str]:
        members = self._hub.directory.members(ops.world, ops.channel)
        return [
            account
            for account, grant in members.items()
            if grant.granted_by == BY_HUB and not self.is_master(ops.world, account)
        ]

    async def reconcile(self, call: Reconcile, caller: Caller) -> None:
        """By the hub itself, and by a master that comes to #ops."""
        hub = self._hub
        world = caller.world
        for room in self._rooms.all():
            if room.world == world and room.name != OPS and self._is_left(room):
                after = msgspec.structs.replace(room, owner=self._rooms.heir(room))
                await hub.change(room_put(after))
                self._rooms.put(after)
        ops = self._rooms.get(world, OPS)
        for account in call.gone:
            if not self._rooms.is_member(world, OPS, account):
                voice = msgspec.structs.replace(HUB, world=world)
                told = {"account": account, "room": OPS}
                await hub.change(
                    Delete(f"grant/{world}/{account}/room.{OPS}"),
                    events=(hub.note(voice, f"room.{OPS}", "room.left", told),),
                    is_narrowing=True,
                )
        if ops is None:
            if not call.make_ops or self._rooms.is_known(world, OPS):
                return
            ops = msgspec.structs.replace(
                self._rooms.new(OPS, "", world), private=True, topic="The masters of this world."
            )
            await hub.change(room_put(ops))
            self._rooms.put(ops)
        await self._let_in_masters(ops)

    async def _let_in_masters(self, ops: RoomRecord) -> None:
        hub = self._hub
        members = hub.directory.members(ops.world, ops.channel)
        new = [
            GrantRecord(
                world=ops.world,
                account=account.id,
                channel=ops.channel,
                verbs=list(ROOM_VERBS),
                from_offset=None,
                granted_by=BY_HUB,
                created_ms=hub.clock.wall_ms(),
            )
            for account in hub.directory.accounts(ops.world)
            if account.role == "master" and account.id not in members
        ]
        if not new:
            return
        await hub.change(*[grant_put(grant) for grant in new])
        for grant in new:
            if self.is_master(ops.world, grant.account):
                hub.directory.put_grant(grant)
                hub.rights_changed(ops.world, grant.account, widened=ops.channel)
