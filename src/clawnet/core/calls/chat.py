"""Chat: rooms, direct messages, the global room; who is in them and what was said."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clawnet.core.calls.reading import Gap
from clawnet.core.chat import ChatEnvelope, ToType

TEXT_MAX_CHARS = 16_384
TOPIC_MAX_CHARS = 500
ROOM_NAME_MAX_CHARS = 80
MEMBERS_MAX = 10_000

RoomName = Annotated[str, Meta(description="Lower-case letters, digits, _ and -.")]


class SendChat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Say something. `payload` is an object with `text`; a text that begins with one `/` is a
    command and is not stored, `//` is a text that begins with `/`.

    An unknown room is made, public, with the sender as its member (rooms.auto_create).
    The same `dedupe_key` twice is one message.
    """

    payload: msgspec.Raw
    to_type: ToType = "global"
    to_id: str = ""
    dedupe_key: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None


class CommandDone(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a slash command did, in a sentence for who gave it. `task_ids` are of those that give
    work; `data` is its answer for programs."""

    name: str
    text: str
    task_ids: list[str] = []
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class ChatSent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the message stands; of a command what it did, and no place."""

    channel: str
    id: str | None = None
    offset: int | None = None
    epoch: str | None = None
    seq: int | None = None
    deduped: bool = False
    command: CommandDone | None = None


class DeleteChat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Blank a message: by its author, the owner of its room or a master. Given by `id`, or by its
    channel (`global`, a room's name, `room.*`, `dm.*`) and `offset`."""

    id: str | None = None
    channel: str | None = None
    offset: int | None = None


class ChatDeleted(msgspec.Struct, frozen=True, kw_only=True):
    """The message of this `id` and place is blank for every reader. `changed` is False if it was
    before."""

    id: str
    channel: str
    offset: int
    changed: bool = True


class ReadChat(msgspec.Struct, frozen=True, kw_only=True):
    """What was said in `global`, a room (`alpha`, `room.alpha`) or `dm.<a>.<b>`, oldest first.

    Behind `after` (an offset, of `epoch` if given), or the newest `limit` before `before`.
    """

    channel: str
    after: int | None = None
    epoch: str | None = None
    before: int | None = None
    limit: int = 100


class ChatPage(msgspec.Struct, frozen=True, kw_only=True):
    """Messages and what else happened there (`type` tells), oldest first. `next` is the offset to
    go on behind, `is_end` that nothing more is there now."""

    channel: str
    epoch: str | None
    events: list[ChatEnvelope]
    next: int
    is_end: bool
    gap: Gap | None = None


class RoomInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A room as one of its world sees it. `last` is the offset of its newest event, `member`
    whether the asker is in it."""

    room: str
    channel: str
    private: bool
    topic: str
    owner: str
    history: Literal["joined", "all"]
    created: str
    members: int
    member: bool
    last: int


class ListRooms(msgspec.Struct, frozen=True, kw_only=True):
    """The public rooms and the caller's own, by name, behind `after`; the global room first."""

    after: str = ""
    limit: int = 100


class RoomList(msgspec.Struct, frozen=True, kw_only=True):
    rooms: list[RoomInfo]
    next: str | None = None


class ReadRoom(msgspec.Struct, frozen=True, kw_only=True):
    """One room. A private one is not there for who is not in it. Answered with RoomInfo."""

    room: str


class CreateRoom(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a room with the caller as owner and first member. Answered with RoomInfo."""

    room: RoomName
    private: bool = False
    topic: str = ""
    history: Literal["joined", "all"] = "joined"


class UpdateRoom(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Change a room: its topic by members, the rest by its owner or a master. RoomInfo."""

    room: str
    topic: str | None = None
    private: bool | None = None
    history: Literal["joined", "all"] | None = None


class JoinRoom(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Become a member of a public room, or of a private one by invitation; an unknown one is made
    (rooms.auto_create). Joining twice changes nothing. Answered with RoomJoined."""

    room: RoomName


class RoomJoined(msgspec.Struct, frozen=True, kw_only=True):
    """`offset` is that of the newest event of before: what comes behind it may be read."""

    room: str
    channel: str
    offset: int
    members: list[str]
    changed: bool = True


class LeaveRoom(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Be a member no more, at once. Answered with RoomLeft."""

    room: str
    account: str | None = None
    """Whom to put out, by the owner or a master; unset: oneself."""


class RoomLeft(msgspec.Struct, frozen=True, kw_only=True):
    room: str
    account: str
    changed: bool = True


class InviteToRoom(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let an account join a private room; told in its inbox. By any member. RoomInvited."""

    room: str
    agent: str


class RoomInvited(msgspec.Struct, frozen=True, kw_only=True):
    room: str
    agent: str
    changed: bool = True


class ListMembers(msgspec.Struct, frozen=True, kw_only=True):
    """Who is in a room; only its members and masters may ask. Answered with RoomMembers."""

    room: str


class Member(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    handle: str
    role: str
    status: str
    since: str
    owner: bool = False


class RoomMembers(msgspec.Struct, frozen=True, kw_only=True):
    room: str
    members: list[Member]


class Typing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell who is live there that the caller types; never stored. Answered with None."""

    is_typing: bool
    to_type: ToType = "global"
    to_id: str = ""


class SetStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Be `online` or `idle` by one's own word, with a text of one's own. Answered with
    PresenceInfo of core.calls.presence."""

    status: Literal["online", "idle"]
    text: str | None = None


class SetHandle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give an account a handle: its own, or anyone's by a master, who creates the account if it
    is new. Refused as Conflict if taken, as Forbidden if it is somebody else's account."""

    agent_id: str
    handle: str


class HandleSet(msgspec.Struct, frozen=True, kw_only=True):
    agent_id: str
    handle: str
    created: bool = False
    changed: bool = True
