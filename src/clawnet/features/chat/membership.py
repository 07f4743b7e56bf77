"""Making rooms and changing who is in them. All of it runs under the lock of changes.

Membership is a grant of the room's channel: it is put into memory after its commit, and taken out
of memory before. What a new member may read begins with its own `room.joined` event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.chat import (
    MEMBERS_MAX,
    TOPIC_MAX_CHARS,
    CreateRoom,
    InviteToRoom,
    JoinRoom,
    LeaveRoom,
    RoomInfo,
    RoomInvited,
    RoomJoined,
    RoomLeft,
    UpdateRoom,
)
from clawnet.core.channels import LOBBY
from clawnet.core.chat import GLOBAL
from clawnet.core.errors import BadRequest, ClawError, Conflict, Forbidden, NotFound
from clawnet.core.events import Draft, Stored
from clawnet.core.units import Delete, Put
from clawnet.features.chat.rooms import (
    OPS,
    ROOM_VERBS,
    RoomRecord,
    Rooms,
    grant_put,
    hidden,
    is_full,
    need_room,
    room_name,
    room_put,
)
from clawnet.features.chat.upkeep import Reconcile, Upkeep
from clawnet.hub.accounts import need_account
from clawnet.hub.directory import GrantRecord
from clawnet.hub.grants import GRANTS_PER_ACCOUNT_MAX

if TYPE_CHECKING:
    from clawnet.features.chat.settings import ChatSettings
    from clawnet.hub.hub import Hub

INVITED_MAX = 1_000


class Membership:
    """Handlers of the calls that change rooms."""

    def __init__(self, hub: Hub, settings: ChatSettings, *, rooms: Rooms, upkeep: Upkeep) -> None:
        self._hub = hub
        self._settings = settings
        self._rooms = rooms
        self._upkeep = upkeep
        self._joined: dict[tuple[str, str], int] = {}
        """Where the `room.joined` of the change that is being committed stands, by channel."""
        self._awaited: tuple[str, str] | None = None

    def register(self) -> None:
        hub = self._hub
        hub.handle(CreateRoom, self.create, is_change=True)
        hub.handle(UpdateRoom, self.update, is_change=True)
        hub.handle(JoinRoom, self.join, is_change=True)
        hub.handle(LeaveRoom, self.leave, is_change=True)
        hub.handle(InviteToRoom, self.invite, is_change=True)

    def may_create(self, world: str) -> bool:
        """Whether who writes to or joins an unknown room makes it."""
        return self._hub.controls.of(world).auto_create

    def stored(self, stored: list[Stored]) -> None:
        """Learn where a member's reading begins."""
        awaited = self._awaited
        if awaited is None:
            return
        for event in stored:
            if event.type == "room.joined" and (event.world, event.channel) == awaited:
                self._joined[awaited] = event.offset

    # --- making -------------------------------------------------------------

    async def create(self, call: CreateRoom, caller: Caller) -> RoomInfo:
        """Raises Conflict, Forbidden, BadRequest, InvalidChannel."""
        own = _need_writer(caller)
        name = need_room(call.room)
        _check_topic(call.topic)
        if name == OPS:
            raise _ops_is_kept()
        is_adopted = caller.role == "master" and self._rooms.get(caller.world, name) is None
        if self._rooms.is_known(caller.world, name) and not is_adopted:
            raise Conflict(
                f"The room {name} exists.", next="Choose another name, or join it.", reason="taken"
            )
        room = self._rooms.new(name, own, caller.world)
        room = msgspec.structs.replace(
            room, private=call.private, topic=call.topic, history=call.history
        )
        self._check_owned(caller)
        await self._enter(room, caller, is_new=True)
        return self._rooms.info(room, caller)

    async def update(self, call: UpdateRoom, caller: Caller) -> RoomInfo:
        """Raises Forbidden, NotFound, BadRequest."""
        own = _need_writer(caller)
        room = self._rooms.visible(caller, need_room(call.room))
        is_ruler = self._rules(room, caller)
        if not is_ruler and not self._rooms.is_full_member(room.world, room.name, own):
            raise _not_in(room)
        if not is_ruler and (call.private is not None or call.history is not None):
            raise Forbidden(
                f"Only the owner of {room.name} or a master changes that.",
                next=f"Ask {room.owner or 'a master'} for it; members set the topic.",
            )
        if room.name == OPS and call.private is False:
            raise _ops_is_kept()
        after = room
        if call.topic is not None:
            _check_topic(call.topic)
            after = msgspec.structs.replace(after, topic=call.topic)
        if call.private is not None:
            after = msgspec.structs.replace(after, private=call.private)
        if call.history is not None:
            after = msgspec.structs.replace(
                after,
                history=call.history,
                opened_from=self._opens_from(room, caller, call.history),
            )
        if after == room:
            return self._rooms.info(room, caller)
        is_narrowing = after.private and not room.private
        if is_narrowing:
            self._rooms.put(after)
        opened = self._opened(after) if after.history == "all" != room.history else []
        told = {
            "room": after.name,
            "topic": after.topic,
            "private": after.private,
            "history": after.history,
        }
        await self._hub.change(
            room_put(after),
            *[grant_put(grant) for grant in opened],
            events=(self._hub.note(caller, after.channel, "room.updated", told),),
            is_narrowing=is_narrowing,
        )
        self._rooms.put(after)
        for grant in opened:
            # Only of who is still in it: an account may have been put out in memory meanwhile.
            if self._rooms.is_member(after.world, after.name, grant.account):
                self._hub.directory.put_grant(grant)
                self._hub.rights_changed(after.world, grant.account, widened=after.channel)
        return self._rooms.info(after, caller)

    def _opens_from(self, room: RoomRecord, caller: Caller, history: str) -> int:
        """From where on `history: all` shows the room if this caller says so now."""
        if history != "all" or room.history == "all":
            return room.opened_from
        if caller.role == "master":
            return 0
        own = caller.account or ""
        opened = self._hub.directory.granted(room.world, own, room.channel, "read")
        if opened is None:
            raise _not_in(room)
        # 1 is the first event there is.
        return opened if opened > 1 else 0

    def _opened(self, room: RoomRecord) -> list[GrantRecord]:
        """The grants of members who saw less of the room, as they see it from now on."""
        members = self._hub.directory.members(room.world, room.channel).values()
        return [
            msgspec.structs.replace(grant, from_offset=room.opened_from or None)
            for grant in members
            if (grant.from_offset or 0) > room.opened_from
        ]

    # --- coming -------------------------------------------------------------

    async def join(self, call: JoinRoom, caller: Caller) -> RoomJoined:
        """Raises NotFound, Forbidden, BadRequest, InvalidChannel."""
        own = _need_writer(caller)
        name = room_name(call.room)
        if name == GLOBAL:
            return self._all(caller)
        world = caller.world
        if name == OPS and caller.role == "master":
            await self._upkeep.reconcile(Reconcile(make_ops=True), caller)
        grant = self._hub.directory.grant(world, own, f"room.{name}")
        if grant is not None and is_full(grant):
            return self._answer(name, grant, caller, changed=False)
        room = self._rooms.get(world, name)
        if room is None:
            if name == OPS or self._rooms.is_known(world, name) or not self.may_create(world):
                raise hidden(name)
            self._check_owned(caller)
            grant = await self._enter(self._rooms.new(name, own, world), caller, is_new=True)
            return self._answer(name, grant, caller)
        if room.private and own not in room.invited:
            # A master too: it administers and does not read what it was not let into.
            if grant is None:
                raise hidden(name)
            raise Forbidden(
                f"{name} is entered by invitation only.",
                next="Ask one of its members to invite you.",
            )
        grant = await self._enter(room, caller)
        return self._answer(name, grant, caller)

    async def _enter(
        self, room: RoomRecord, caller: Caller, *, is_new: bool = False
    ) -> GrantRecord:
        """Commit a member with its event, and the room if that changes by it."""
        hub = self._hub
        own = need_account(caller)
        world, channel = room.world, room.channel
        before = hub.directory.grant(world, own, channel)
        self._check_room_for_one(world, own, channel, before)
        changes: list[Put | Delete] = []
        after = room
        if own in room.invited:
            invited = [name for name in room.invited if name != own]
            after = msgspec.structs.replace(after, invited=invited)
        if not after.owner:
            after = msgspec.structs.replace(after, owner=own)
        if is_new or after != room:
            changes.append(room_put(after))
        events: list[Draft] = []
        if is_new:
            told = {
                "room": room.name,
                "private": room.private,
                "topic": room.topic,
                "history": room.history,
            }
            events.append(hub.note(caller, channel, "room.created", told))
        told_joined = {"account": own, "handle": caller.handle, "room": room.name}
        events.append(hub.note(caller, channel, "room.joined", told_joined))
        head = hub.storage.engine.channel(world, channel)
        first = (head.last if head else 0) + 1
        grant = GrantRecord(
            world=world,
            account=own,
            channel=channel,
            verbs=list(ROOM_VERBS),
            # Of who could read before, what it could read stays.
            from_offset=_lower(before, room.opened_from if room.history == "all" else first),
            granted_by=own,
            created_ms=hub.clock.wall_ms(),
        )
        self._awaited = (world, channel)
        try:
            await hub.change(*changes, grant_put(grant), events=tuple(events))
        finally:
            self._awaited = None
            stands = self._joined.pop((world, channel), None)
        # No await from here to the grant in memory. What was on its way when the member came
        # stands before its `room.joined`, and was said among the others.
        stored_from = grant.from_offset
        if stands is not None and grant.from_offset == first:
            grant = msgspec.structs.replace(grant, from_offset=stands - int(is_new))
        self._rooms.put(after)
        hub.directory.put_grant(grant)
        hub.rights_changed(world, own, widened=channel)
        if grant.from_offset != stored_from:
            try:
                await hub.change(grant_put(grant))
            except ClawError:
                # In force as it is. After a restart it opens what was being committed meanwhile.
                pass
        return grant

    async def invite(self, call: InviteToRoom, caller: Caller) -> RoomInvited:
        """Raises NotFound, Forbidden, BadRequest."""
        hub = self._hub
        own = _need_writer(caller)
        room = self._rooms.visible(caller, need_room(call.room))
        if room.name == OPS:
            raise _ops_is_kept()
        is_in = self._rooms.is_full_member(room.world, room.name, own)
        if not is_in and caller.role != "master":
            raise _not_in(room)
        agent = call.agent.strip().lower().removeprefix("@")
        if not hub.directory.has_account(room.world, agent):
            raise NotFound(f"There is no account {ascii(call.agent[:80])}.")
        if agent == own:
            raise BadRequest("Nobody invites itself.", next="Have a member invite you.")
        is_there = self._rooms.is_full_member(room.world, room.name, agent)
        if is_there or agent in room.invited:
            return RoomInvited(room=room.name, agent=agent, changed=False)
        if len(room.invited) >= INVITED_MAX:
            raise BadRequest(
                f"{INVITED_MAX} invitations to {room.name} are open.",
                next="Wait until some of them were taken up.",
            )
        after = msgspec.structs.replace(room, invited=[*room.invited, agent])
        told = {"account": agent, "room": room.name, "channel": room.channel}
        events = [hub.note(caller, room.channel, "room.invited", told)]
        if not hub.directory.is_blocked(room.world, agent, own):
            events.append(hub.note(caller, f"agent.{agent}.inbox", "room.invited", told))
        await hub.change(room_put(after), events=tuple(events))
        self._rooms.put(after)
        return RoomInvited(room=room.name, agent=agent)

    # --- going --------------------------------------------------------------

    async def leave(self, call: LeaveRoom, caller: Caller) -> RoomLeft:
        """In force in memory, on live subscriptions too, before it is stored."""
        own = _need_writer(caller)
        room = self._rooms.visible(caller, need_room(call.room))
        target = own if call.account is None else call.account.strip().lower().removeprefix("@")
        if target != own and not self._rules(room, caller):
            raise Forbidden(
                f"Only the owner of {room.name} or a master puts others out.",
                next=f"Ask {room.owner or 'a master'} for it.",
            )
        if room.name == OPS and self._upkeep.is_master(room.world, target):
            raise _ops_is_kept()
        was_invited = target in room.invited
        if not self._rooms.is_member(room.world, room.name, target) and not was_invited:
            return RoomLeft(room=room.name, account=target, changed=False)
        await self._take_out(room, target, caller)
        return RoomLeft(room=room.name, account=target)

    async def _take_out(self, room: RoomRecord, target: str, caller: Caller) -> None:
        hub = self._hub
        world, channel = room.world, room.channel
        was_member = self._rooms.is_member(world, room.name, target)
        hub.directory.remove_grant(world, target, channel)
        after = msgspec.structs.replace(room, invited=[a for a in room.invited if a != target])
        if room.owner == target:
            after = msgspec.structs.replace(after, owner=self._rooms.heir(after))
        changes: list[Put | Delete] = [Delete(f"grant/{world}/{target}/{channel}")]
        if after != room:
            changes.append(room_put(after))
            self._rooms.put(after)
        events: list[Draft] = []
        if was_member:
            hub.rights_changed(world, target, narrowed=channel, widened=channel)
            account = hub.directory.account(world, target)
            told = {
                "account": target,
                "handle": account.handle if account else target,
                "room": room.name,
                "owner": after.owner,
            }
            events.append(hub.note(caller, channel, "room.left", told))
        await hub.change(*changes, events=tuple(events), is_narrowing=True)

    # --- inside -------------------------------------------------------------

    def _rules(self, room: RoomRecord, caller: Caller) -> bool:
        return caller.role == "master" or self._rooms.is_owner(room, caller.account)

    def _check_owned(self, caller: Caller) -> None:
        limit = self._settings.rooms_per_account_max
        if len(self._rooms.owned(caller.world, caller.account or "")) >= limit:
            raise BadRequest(
                f"An account owns at most {limit} rooms.",
                next="Leave some of your rooms; they pass to another member.",
                limit=limit,
            )

    def _check_room_for_one(
        self, world: str, account: str, channel: str, before: GrantRecord | None
    ) -> None:
        if before is not None:
            return
        if len(self._hub.directory.members(world, channel)) >= MEMBERS_MAX:
            raise BadRequest(f"A room has at most {MEMBERS_MAX} members.", next="Join another one.")
        held = sum(1 for _ in self._hub.directory.grants_of(world, account))
        if held >= GRANTS_PER_ACCOUNT_MAX:
            raise BadRequest(
                f"An account holds at most {GRANTS_PER_ACCOUNT_MAX} grants.",
                next="Leave rooms that you do not need.",
            )

    def _answer(
        self, name: str, grant: GrantRecord, caller: Caller, *, changed: bool = True
    ) -> RoomJoined:
        return RoomJoined(
            room=name,
            channel=grant.channel,
            offset=max((grant.from_offset or 1) - 1, 0),
            members=sorted(self._hub.directory.members(caller.world, grant.channel)),
            changed=changed,
        )

    def _all(self, caller: Caller) -> RoomJoined:
        accounts = self._hub.directory.accounts(caller.world)
        members = [account.id for account in accounts[:MEMBERS_MAX]]
        return RoomJoined(room=GLOBAL, channel=LOBBY, offset=0, members=members, changed=False)


def _need_writer(caller: Caller) -> str:
    account = need_account(caller)
    caller.need("events:write")
    if caller.is_confined or caller.kind == "ext":
        raise Forbidden("Rooms are for the hub's own accounts.", next="Use an account's token.")
    return account


def _check_topic(topic: str) -> None:
    if len(topic) > TOPIC_MAX_CHARS or not topic.isprintable():
        raise BadRequest(
            f"A topic is one line of at most {TOPIC_MAX_CHARS} printable characters.",
            next="Shorten it.",
        )


def _ops_is_kept() -> Forbidden:
    return Forbidden(
        "The room ops is kept by the hub: its members are the masters of the world.",
        next="Choose another name; who is a master is in it.",
    )


def _not_in(room: RoomRecord) -> Forbidden:
    return Forbidden(
        f"You are not in the room {room.name}.", next=f"Join it first: claw room join {room.name}."
    )


def _lower(before: GrantRecord | None, first: int) -> int | None:
    if before is None or "read" not in before.verbs:
        return first or None
    return min(before.from_offset or 0, first) or None
