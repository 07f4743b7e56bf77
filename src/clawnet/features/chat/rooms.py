"""The rooms of each world in memory: what is known of them, and who may know it.

Who is in a room is the directory's to say (a grant of its channel); here is what the room itself
is. Only membership and upkeep change a record.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.chat import ROOM_NAME_MAX_CHARS, RoomInfo
from clawnet.core.channels import LOBBY
from clawnet.core.chat import GLOBAL, room_channel
from clawnet.core.errors import BadRequest, NotFound
from clawnet.core.times import rfc3339
from clawnet.core.units import Put
from clawnet.hub.vault import put

if TYPE_CHECKING:
    from clawnet.hub.directory import GrantRecord
    from clawnet.hub.hub import Hub

KIND = "room"
ROOM_VERBS = ("publish", "read")
OPS = "ops"
"""The room of a world's masters. It is made when one of them first comes to it."""


class RoomRecord(msgspec.Struct, frozen=True, kw_only=True):
    """As stored under `room/<world>/<name>`. `owner` is "" if nobody is left to own it.

    With `history: all` a member reads from `opened_from` on: who inherits a room opens no more
    of it than it was let into itself.
    """

    world: str
    name: str
    owner: str
    private: bool
    topic: str
    history: Literal["joined", "all"]
    created_ms: int
    invited: list[str] = []
    opened_from: int = 0

    @property
    def channel(self) -> str:
        return f"room.{self.name}"

    @property
    def key(self) -> str:
        return f"{self.world}/{self.name}"


class Rooms:
    """All records, and the questions that need the directory beside them."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._rooms: dict[tuple[str, str], RoomRecord] = {}
        self._names: dict[str, list[str]] = {}
        self._owned: dict[tuple[str, str], set[str]] = {}

    def put(self, record: RoomRecord) -> None:
        """Take up a record, or the newer one of a room."""
        key = (record.world, record.name)
        before = self._rooms.get(key)
        if before is None:
            insort(self._names.setdefault(record.world, []), record.name)
        elif before.owner != record.owner:
            self._owned.get((record.world, before.owner), set()).discard(record.name)
        self._rooms[key] = record
        if record.owner:
            self._owned.setdefault((record.world, record.owner), set()).add(record.name)

    def all(self) -> list[RoomRecord]:
        return list(self._rooms.values())

    def get(self, world: str, name: str) -> RoomRecord | None:
        return self._rooms.get((world, name))

    def of_channel(self, world: str, channel: str) -> RoomRecord | None:
        """The record of a channel's room."""
        return self._rooms.get((world, channel[5:])) if channel.startswith("room.") else None

    def owned(self, world: str, account: str) -> list[str]:
        """The names of an account's own rooms."""
        return sorted(self._owned.get((world, account), ()))

    def behind(self, world: str, after: str) -> Iterator[RoomRecord]:
        """The rooms of a world by name, behind `after`."""
        names = self._names.get(world, [])
        index = bisect_right(names, after)
        while index < len(names):
            name = names[index]
            yield self._rooms[(world, name)]
            # Rooms may be made while a long list is looked through.
            index = bisect_right(names, name, lo=index)

    def is_member(self, world: str, name: str, account: str | None) -> bool:
        return account in self._hub.directory.members(world, f"room.{name}")

    def is_full_member(self, world: str, name: str, account: str | None) -> bool:
        """Whether an account may also speak there: one that a master let only read may not."""
        grant = self._hub.directory.members(world, f"room.{name}").get(account or "")
        return grant is not None and is_full(grant)

    def is_owner(self, room: RoomRecord, account: str | None) -> bool:
        """Whether a room is an account's to rule. Who was put out of it owns nothing there."""
        is_its = room.owner != "" and room.owner == account
        return is_its and self.is_member(room.world, room.name, account)

    def is_known(self, world: str, name: str) -> bool:
        """Whether the name stands for something: a room, or a channel that somebody was let into
        or spoke in before there was a room. That one is nobody's to open."""
        channel = f"room.{name}"
        return (
            (world, name) in self._rooms
            or bool(self._hub.directory.members(world, channel))
            or self._hub.storage.engine.channel(world, channel) is not None
        )

    def found(self, world: str, name: str) -> RoomRecord | None:
        """The record, or for a channel without one what it counts as: private and nobody's."""
        record = self._rooms.get((world, name))
        if record is None and self.is_known(world, name):
            return RoomRecord(
                world=world,
                name=name,
                owner="",
                private=True,
                topic="",
                history="joined",
                created_ms=0,
            )
        return record

    def new(self, name: str, owner: str, world: str) -> RoomRecord:
        """A public room as it begins; put() takes it up."""
        return RoomRecord(
            world=world,
            name=name,
            owner=owner,
            private=False,
            topic="",
            history="joined",
            created_ms=self._hub.clock.wall_ms(),
        )

    def heir(self, room: RoomRecord) -> str:
        """Who owns a room after its owner: who of its members has been in it longest."""
        members = self._hub.directory.members(room.world, room.channel).values()
        left = [grant for grant in members if grant.account != room.owner and is_full(grant)]
        return (
            min(left, key=lambda grant: (grant.created_ms, grant.account)).account if left else ""
        )

    def visible(self, caller: Caller, name: str) -> RoomRecord:
        """A room the caller may know of: a public one, its own, and any to a master.

        Raises NotFound, the same whether it is hidden or is not there.
        """
        room = self.found(caller.world, name)
        if room is not None and (
            not room.private
            or caller.role == "master"
            or self.is_member(caller.world, name, caller.account)
        ):
            return room
        raise hidden(name)

    def info(self, room: RoomRecord, caller: Caller) -> RoomInfo:
        """The room as the caller sees it."""
        head = self._hub.storage.engine.channel(room.world, room.channel)
        members = self._hub.directory.members(room.world, room.channel)
        return RoomInfo(
            room=room.name,
            channel=room.channel,
            private=room.private,
            topic=room.topic,
            owner=room.owner,
            history=room.history,
            created=rfc3339(room.created_ms),
            members=len(members),
            member=caller.account in members,
            last=head.last if head else 0,
        )

    def lobby(self, caller: Caller) -> RoomInfo:
        """The global room, in which everyone is."""
        head = self._hub.storage.engine.channel(caller.world, LOBBY)
        return RoomInfo(
            room=GLOBAL,
            channel=LOBBY,
            private=False,
            topic="",
            owner="hub",
            history="all",
            created=rfc3339(0),
            members=self._hub.directory.account_count(caller.world),
            member=not caller.is_anonymous,
            last=head.last if head else 0,
        )


def is_full(grant: GrantRecord) -> bool:
    """Whether a grant of a room's channel is all of a membership."""
    return set(ROOM_VERBS) <= set(grant.verbs)


def room_put(room: RoomRecord) -> Put:
    """The change that stores a room."""
    return put(KIND, room.key, room)


def grant_put(grant: GrantRecord) -> Put:
    """The change that stores a membership."""
    return put("grant", f"{grant.world}/{grant.account}/{grant.channel}", grant)


def hidden(name: str) -> NotFound:
    """What is told of a room that is not there for who asks."""
    return NotFound(
        f"There is no room {ascii(name)}, or it is private and you are not in it.",
        next="claw room list shows the rooms you can join; a private one needs an invitation.",
    )


def room_name(given: str) -> str:
    """A room's name as it is kept; `global` for the lobby. Raises BadRequest, InvalidChannel."""
    channel = room_channel(given)
    if channel == LOBBY:
        return GLOBAL
    if not channel.startswith("room."):
        raise BadRequest(
            f"{ascii(given[:80])} is no room: a direct channel has just its two.",
            next="Give a room's name.",
        )
    name = channel[5:]
    if len(name) > ROOM_NAME_MAX_CHARS:
        raise BadRequest(
            f"A room's name has at most {ROOM_NAME_MAX_CHARS} characters.", next="Shorten it."
        )
    return name


def need_room(given: str) -> str:
    """As room_name(), and BadRequest for the lobby, which is everyone's."""
    name = room_name(given)
    if name == GLOBAL:
        raise BadRequest(
            "The global room is everyone's: it cannot be made, joined or left.",
            next="Name another room.",
        )
    return name
