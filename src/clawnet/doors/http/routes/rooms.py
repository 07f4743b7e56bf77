"""Rooms: list, make, change, join, leave, invite, who is in them, what was said there.

A room is its name; the global room is `global`, and the history of a direct channel is that of
the room `dm.<a>.<b>`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.chat import (
    ChatPage,
    CreateRoom,
    InviteToRoom,
    JoinRoom,
    LeaveRoom,
    ListMembers,
    ListRooms,
    ReadChat,
    ReadRoom,
    RoomInfo,
    RoomInvited,
    RoomJoined,
    RoomLeft,
    RoomList,
    RoomMembers,
    UpdateRoom,
)
from clawnet.core.errors import BadRequest, Conflict, InvalidChannel
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.describe import After, Limit, operation
from clawnet.doors.http.request import Request


class RoomChanges(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of an update; the path names the room."""

    topic: str | None = None
    private: bool | None = None
    history: Literal["joined", "all"] | None = None


class LeaveBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`account`: whom to put out, by the owner or a master; left out: oneself."""

    account: str | None = None


class InviteBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    agent: str


class JoinBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing is to be said; `{}` is taken."""


_create = msgspec.json.Decoder(CreateRoom)
_update = msgspec.json.Decoder(RoomChanges)
_join = msgspec.json.Decoder(JoinBody)
_leave = msgspec.json.Decoder(LeaveBody)
_invite = msgspec.json.Decoder(InviteBody)


def chatting(request: Request) -> Caller:
    """Who asks, within the limits of chat. Raises Unauthenticated, RateLimited."""
    caller = request.caller()
    request.door.limits.take_chat(caller, request.scope)
    return caller


def _reading(request: Request) -> Caller:
    """As chatting(), and without a token where reading needs none."""
    caller = request.reader()
    request.door.limits.take_chat(caller, request.scope)
    return caller


async def _asked(request: Request, call: Any, caller: Caller, *, status: int = 200) -> Answer:
    return json_answer(await request.call(call, caller), status=status)


@operation(tag="chat", answer=RoomList, query={"after": After, "limit": Limit}, is_public=True)
async def list_all(request: Request) -> Answer:
    """List the rooms: the global one, the public ones, and the caller's own."""
    caller = _reading(request)
    query = request.query("after", "limit")
    call = ListRooms(after=query.text("after") or "", limit=query.integer("limit", 100))
    return await _asked(request, call, caller)


@operation(
    tag="chat",
    body=CreateRoom,
    example={"room": "alpha", "topic": "what we build"},
    answer=RoomInfo,
    status=201,
    errors=(Conflict, InvalidChannel),
)
async def create(request: Request) -> Answer:
    """Make a room.

    The caller owns it and is its first member. A private one is there for its members alone.
    """
    caller = chatting(request)
    request.query()
    return await _asked(request, await request.body(_create), caller, status=201)


@operation(tag="chat", errors=(InvalidChannel,), answer=RoomInfo, is_public=True)
async def read(request: Request) -> Answer:
    """Read a room."""
    caller = _reading(request)
    request.query()
    return await _asked(request, ReadRoom(room=request.member("id")), caller)


@operation(
    tag="chat",
    errors=(InvalidChannel,),
    body=RoomChanges,
    example={"topic": "what we test"},
    answer=RoomInfo,
)
async def update(request: Request) -> Answer:
    """Change a room: its topic by members, the rest by its owner or a master."""
    caller = chatting(request)
    request.query()
    body = await request.body(_update)
    if body.topic is None and body.private is None and body.history is None:
        raise BadRequest(
            "There is nothing to change.", next="Give a topic, private, history or several."
        )
    call = UpdateRoom(
        room=request.member("id"), topic=body.topic, private=body.private, history=body.history
    )
    return await _asked(request, call, caller)


@operation(
    tag="chat", errors=(InvalidChannel,), body=JoinBody, is_body_optional=True, answer=RoomJoined
)
async def join(request: Request) -> Answer:
    """Become a member of a public room, or of a private one by invitation.

    An unknown room is made. Joining twice changes nothing.
    """
    caller = chatting(request)
    request.query()
    await request.body(_join, default=JoinBody())
    return await _asked(request, JoinRoom(room=request.member("id")), caller)


@operation(
    tag="chat", errors=(InvalidChannel,), body=LeaveBody, is_body_optional=True, answer=RoomLeft
)
async def leave(request: Request) -> Answer:
    """Be a member no more, at once; or put somebody out, by the owner or a master."""
    caller = chatting(request)
    request.query()
    body = await request.body(_leave, default=LeaveBody())
    call = LeaveRoom(room=request.member("id"), account=body.account)
    return await _asked(request, call, caller)


@operation(
    tag="chat",
    errors=(InvalidChannel,),
    body=InviteBody,
    example={"agent": "bob"},
    answer=RoomInvited,
)
async def invite(request: Request) -> Answer:
    """Let an account join a private room; it is told in its inbox."""
    caller = chatting(request)
    request.query()
    body = await request.body(_invite)
    call = InviteToRoom(room=request.member("id"), agent=body.agent)
    return await _asked(request, call, caller)


@operation(tag="chat", errors=(InvalidChannel,), answer=RoomMembers)
async def members(request: Request) -> Answer:
    """List who is in a room: for its members and masters."""
    caller = chatting(request)
    request.query()
    return await _asked(request, ListMembers(room=request.member("id")), caller)


@operation(
    tag="chat",
    errors=(InvalidChannel,),
    answer=ChatPage,
    query={
        "after": Annotated[
            int, msgspec.Meta(ge=0, description="An offset: what was said behind it.")
        ],
        "epoch": Annotated[str, msgspec.Meta(description="The epoch that `after` is of.")],
        "before": Annotated[
            int, msgspec.Meta(ge=0, description="An offset: the newest that was said before it.")
        ],
        "limit": Limit,
    },
    is_public=True,
    example_members={"id": "global"},
)
async def history(request: Request) -> Answer:
    """Read what was said in a room, oldest first; without `after` and `before` the newest."""
    caller = _reading(request)
    query = request.query("after", "epoch", "before", "limit")
    call = ReadChat(
        channel=request.member("id"),
        after=query.maybe_integer("after"),
        epoch=query.text("epoch"),
        before=query.maybe_integer("before"),
        limit=query.integer("limit", 100),
    )
    return await _asked(request, call, caller)
