"""Reading the chat, deleting from it, and seeing which rooms there are and who is in them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.chat import (
    MEMBERS_MAX,
    ChatDeleted,
    ChatPage,
    DeleteChat,
    ListMembers,
    ListRooms,
    Member,
    ReadChat,
    ReadRoom,
    RoomInfo,
    RoomList,
    RoomMembers,
)
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.channels import parse
from clawnet.core.chat import GLOBAL, ChatEnvelope, envelope, is_chat, room_channel
from clawnet.core.cursors import AfterOffset
from clawnet.core.errors import BadRequest, DedupeConflict, Forbidden, NotFound
from clawnet.core.events import Event, Stored, seq_of
from clawnet.core.ids import seq_from_id
from clawnet.core.rights import Allowed, Verb, decide, may_read_event
from clawnet.core.times import rfc3339
from clawnet.core.trace import correlation_key, follow_up
from clawnet.core.units import Unit
from clawnet.features.chat.names import reader_of
from clawnet.features.chat.rooms import OPS, RoomRecord, Rooms, room_name
from clawnet.hub.accounts import need_account

if TYPE_CHECKING:
    from clawnet.features.chat.upkeep import Upkeep
    from clawnet.hub.directory import Account
    from clawnet.hub.hub import Hub

PAGE_MAX = 1_000
COPIES_CHUNKS_MAX = 4
"""So many reads of a message's chain look for copies of it."""
ROOMS_PER_TURN = 500


class Reading:
    """Handlers of the calls that change no room."""

    def __init__(self, hub: Hub, rooms: Rooms, upkeep: Upkeep) -> None:
        self._hub = hub
        self._rooms = rooms
        self._upkeep = upkeep

    def register(self) -> None:
        hub = self._hub
        hub.handle(ReadChat, self.read)
        hub.handle(DeleteChat, self.delete)
        hub.handle(ListRooms, self.list_rooms)
        hub.handle(ReadRoom, self.read_room)
        hub.handle(ListMembers, self.list_members)

    async def read(self, call: ReadChat, caller: Caller) -> ChatPage:
        """Raises Forbidden, BadRequest, InvalidChannel. Also for who has no account: ReadHistory
        gives them what anyone may read."""
        channel = room_channel(call.channel)
        if call.after is not None and call.before is not None:
            raise BadRequest("after and before exclude each other.", next="Give one of them.")
        for place in (call.after, call.before):
            if place is not None and place < 0:
                raise BadRequest("An offset is 0 or more.", next="Correct it.")
        is_behind = call.after is not None
        page = await self._hub.call(
            ReadHistory(
                channel=channel,
                since=AfterOffset(call.after, call.epoch) if call.after is not None else None,
                before=call.before,
                limit=call.limit,
                reverse=not is_behind,
            ),
            caller=caller,
        )
        found: list[ChatEnvelope] = []
        for line in page.body.split(b"\n") if page.count else ():
            shown = envelope(msgspec.json.decode(line, type=Event), reader=caller.account)
            if shown is not None:
                found.append(shown)
        if not is_behind:
            found.reverse()
        head = self._hub.storage.engine.channel(caller.world, channel)
        last = head.last if head else 0
        if is_behind:
            following = page.next or 0
        else:
            following = found[-1].offset if found else min(last, (call.before or last + 1) - 1)
        return ChatPage(
            channel=channel,
            epoch=page.epoch,
            events=found,
            next=following,
            is_end=following >= last,
            gap=page.gaps[0] if page.gaps else None,
        )

    # --- deleting -----------------------------------------------------------

    async def delete(self, call: DeleteChat, caller: Caller) -> ChatDeleted:
        """Raises NotFound, Forbidden, BadRequest. NotFound also for who may not read it."""
        hub = self._hub
        need_account(caller)
        caller.need("events:write")
        body = await self._found(call, caller)
        copies = [] if body is None else await self._copies(body, caller.world)
        # No await from here to the queue: the rights are those of this moment.
        hub.refuse_unless_ready()
        caller = hub.directory.refresh(caller)
        missing = NotFound(
            "There is no such message.", next="Give its id, or its channel and offset."
        )
        if body is None:
            raise missing
        event = msgspec.json.decode(body, type=Event)
        is_said = event.actor.id != HUB.account or event.imported is not None
        if not is_chat(event.channel) or not is_said:
            raise missing
        if not self._may_delete(event, caller):
            if not may_read_event(caller, body, hub.directory):
                raise missing
            raise Forbidden(
                "Only its author, while it may read there, the owner of its room or a master"
                " deletes a message.",
                next="Ask a master to delete it.",
            )
        done = ChatDeleted(id=event.id, channel=event.channel, offset=event.offset)
        unchanged = msgspec.structs.replace(done, changed=False)
        if event.deleted:
            return unchanged
        told = {
            "id": event.id,
            "channel": event.channel,
            "offset": event.offset,
            "by": caller.account,
        }
        voice = msgspec.structs.replace(HUB, world=caller.world)
        draft = hub.publishing.render(
            voice,
            event.channel,
            type="chat.deleted",
            data=msgspec.json.encode(told).decode(),
            dedupe_key=f"deleted:{event.id}",
            causation_id=event.id,
        )
        try:
            committed = await hub.committer.commit(
                Unit(drafts=(draft,), blanks=(event.seq, *copies))
            )
        except DedupeConflict:
            # Somebody else deleted it at the same moment.
            return unchanged
        return done if isinstance(committed.events[0], Stored) else unchanged

    async def _found(self, call: DeleteChat, caller: Caller) -> bytes | None:
        """The message, of the caller's world only."""
        world = caller.world
        if call.id is not None:
            seq = seq_from_id(call.id)
            if seq is None:
                return None
            body = await self._hub.storage.read(lambda log: log.get(world, seq))
            # The id comes right behind the place.
            is_meant = body is not None and f'"id":"{call.id}"'.encode() in body[:600]
            return body if is_meant else None
        if call.channel is None or call.offset is None or call.offset < 1:
            raise BadRequest(
                "Which message is not said.", next="Give its id, or its channel and offset."
            )
        name, after = room_channel(call.channel), call.offset - 1
        chunk = await self._hub.storage.read(
            lambda log: log.read_channel(world, name, after=after, limit=1)
        )
        # What was trimmed is not there; the event behind it is another one.
        return chunk.body if chunk.count and chunk.offset == call.offset else None

    async def _copies(self, body: bytes, world: str) -> list[int]:
        """The seqs of dead letters that hold the message."""
        link = follow_up(body)
        key = correlation_key(link.correlation_id)
        found: list[int] = []
        after = seq_of(body)
        for _ in range(COPIES_CHUNKS_MAX):
            chunk = await self._hub.storage.read(
                lambda log, after=after: log.correlated(world, key, after_seq=after)  # type: ignore[misc]
            )
            for line in chunk.body.split(b"\n") if chunk.count else ():
                if b'"type":"consumer.dead_lettered"' in line:
                    event = msgspec.json.decode(line, type=Event)
                    is_copy = event.causation_id == link.causation_id
                    if is_copy and event.type == "consumer.dead_lettered":
                        found.append(event.seq)
            if chunk.is_end:
                break
            after = chunk.seq
        return found

    def _may_delete(self, event: Event, caller: Caller) -> bool:
        if caller.role == "master":
            return True
        if event.actor.id == caller.account and event.imported is None:
            # Who was put out brings nothing about there any more, with its own words either.
            account = self._hub.directory.account(caller.world, event.actor.id)
            place = parse(event.channel)
            return account is not None and isinstance(
                decide(reader_of(account), Verb.READ, place, self._hub.directory), Allowed
            )
        room = self._rooms.of_channel(caller.world, event.channel)
        return room is not None and self._rooms.is_owner(room, caller.account)

    # --- rooms --------------------------------------------------------------

    async def list_rooms(self, call: ListRooms, caller: Caller) -> RoomList:
        caller.need("events:read")
        if not 1 <= call.limit <= PAGE_MAX:
            raise BadRequest(f"limit must be 1 to {PAGE_MAX}.", next="Ask for several pages.")
        if caller.is_anonymous:
            # Where reading needs no token there is the global room, and no other.
            return RoomList(rooms=[] if call.after else [self._rooms.lobby(caller)])
        own = need_account(caller)
        found: list[RoomInfo] = []
        after = call.after.strip().lower()
        if not after:
            found.append(self._rooms.lobby(caller))
        # The lobby comes before all others, whatever its name.
        behind = self._rooms.behind(caller.world, "" if after == GLOBAL else after)
        for looked, room in enumerate(behind, start=1):
            if looked % ROOMS_PER_TURN == 0:
                # Many rooms that the caller may not know of must not hold up the loop.
                await asyncio.sleep(0)
                caller = self._hub.directory.refresh(caller)
            if room.private and not self._rooms.is_member(room.world, room.name, own):
                continue
            if len(found) == call.limit:
                return RoomList(rooms=found, next=found[-1].room)
            found.append(self._rooms.info(room, caller))
        return RoomList(rooms=found)

    async def read_room(self, call: ReadRoom, caller: Caller) -> RoomInfo:
        """Raises NotFound, BadRequest, InvalidChannel."""
        caller.need("events:read")
        name = room_name(call.room)
        if name == GLOBAL:
            return self._rooms.lobby(caller)
        need_account(caller)
        if name == OPS:
            await self._meet_ops(caller)
        return self._rooms.info(self._rooms.visible(caller, name), caller)

    async def list_members(self, call: ListMembers, caller: Caller) -> RoomMembers:
        """Raises NotFound, Forbidden, BadRequest, InvalidChannel."""
        own = need_account(caller)
        caller.need("events:read")
        channel = room_channel(call.room)
        directory = self._hub.directory
        world = caller.world
        peers = parse(channel).peers
        if peers is not None:
            if own not in peers:
                raise Forbidden(
                    "Only the two whose ids it names see this channel.",
                    next="Name a room that you are in.",
                )
            return self._members(channel, world, dict.fromkeys(peers, 0), None)
        name = room_name(call.room)
        if name == GLOBAL:
            every = {a.id: a.created_ms for a in directory.accounts(world)[:MEMBERS_MAX]}
            return self._members(GLOBAL, world, every, None)
        if name == OPS:
            await self._meet_ops(caller)
        room = self._rooms.visible(caller, name)
        members = directory.members(world, room.channel)
        if own not in members and caller.role != "master":
            raise Forbidden(
                f"Only its members see who is in {name}.",
                next=f"Join it first: claw room join {name}.",
            )
        since = {account: grant.created_ms for account, grant in members.items()}
        return self._members(name, world, since, room)

    async def _meet_ops(self, caller: Caller) -> None:
        """A master that looks finds #ops made, and itself in it."""
        if caller.role == "master" and not caller.is_hub:
            await self._upkeep.meet_ops(caller.world)

    def _members(
        self, shown: str, world: str, since: dict[str, int], room: RoomRecord | None
    ) -> RoomMembers:
        found = []
        for name in sorted(since):
            account: Account | None = self._hub.directory.account(world, name)
            if account is None or account.is_deleted:
                continue
            found.append(
                Member(
                    id=name,
                    handle=account.handle,
                    role=account.role,
                    status=self._hub.presence.status(world, name),
                    since=rfc3339(since[name] or account.created_ms),
                    owner=room is not None and room.owner == name,
                )
            )
        return RoomMembers(room=shown, members=found)
