"""Chat as Client offers it: rooms, direct messages, handles, and who is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from clawnet.client.http import new_dedupe_key, segment
from clawnet.core.calls.chat import (
    ChatDeleted,
    ChatPage,
    ChatSent,
    HandleSet,
    RoomInfo,
    RoomInvited,
    RoomJoined,
    RoomLeft,
    RoomList,
    RoomMembers,
)
from clawnet.core.calls.presence import PresenceInfo

if TYPE_CHECKING:
    from clawnet.client.client import Client

SEND_WITHIN_S = 30.0
_PAGE = 100
_ROOMS = "/api/v1/rooms"


class ChatCalls:
    """The part of Client that has to do with chat. A `room` is its name, `global` or `dm.*`."""

    @property
    def _chat(self) -> Client:
        return cast("Client", self)

    async def send_chat(
        self,
        text: str,
        *,
        room: str | None = None,
        to: str | None = None,
        dedupe_key: str | None = None,
        payload: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        within_s: float = SEND_WITHIN_S,
    ) -> ChatSent:
        """Say something in a room, to one account, or (with neither) to everybody.

        A text that begins with `/` is a command (`//` says `/`). Repeated under one dedupe key
        until `within_s` is over, as publish() is. `payload` is what the message has beside `text`.
        """
        to_type, to_id = target(room, to)
        body = {
            "to_type": to_type,
            "to_id": to_id,
            "payload": {**(payload or {}), "text": text},
            "dedupe_key": dedupe_key or new_dedupe_key(),
            "correlation_id": correlation_id,
            "causation_id": causation_id,
        }
        given = {name: value for name, value in body.items() if value is not None}
        return await self._chat.request(
            "POST", "/api/v1/messages", given, ChatSent, within_s=within_s
        )

    async def chat_history(
        self,
        room: str = "global",
        *,
        after: int | None = None,
        epoch: str | None = None,
        before: int | None = None,
        limit: int = _PAGE,
    ) -> ChatPage:
        """What was said there, oldest first: behind `after`, or the newest before `before`."""
        query = {"after": after, "epoch": epoch, "before": before, "limit": limit}
        path = f"{_ROOMS}/{segment(room)}/history"
        return await self._chat.request("GET", path, None, ChatPage, query=query)

    async def rooms(self) -> list[RoomInfo]:
        """The public rooms and one's own."""
        found: list[RoomInfo] = []
        after: str | None = None
        while True:
            query = {"after": after, "limit": _PAGE}
            page = await self._chat.request("GET", _ROOMS, None, RoomList, query=query)
            found += page.rooms
            after = page.next
            if after is None:
                return found

    async def room(self, name: str) -> RoomInfo:
        return await self._chat.request("GET", f"{_ROOMS}/{segment(name)}", None, RoomInfo)

    async def create_room(
        self,
        room: str,
        *,
        private: bool = False,
        topic: str = "",
        history: Literal["joined", "all"] = "joined",
    ) -> RoomInfo:
        """Make a room, with this account as its owner. Raises Conflict if it is there."""
        body = {"room": room, "private": private, "topic": topic, "history": history}
        return await self._chat.request("POST", _ROOMS, body, RoomInfo)

    async def update_room(
        self,
        room: str,
        *,
        topic: str | None = None,
        private: bool | None = None,
        history: Literal["joined", "all"] | None = None,
    ) -> RoomInfo:
        body = {"topic": topic, "private": private, "history": history}
        given = {name: value for name, value in body.items() if value is not None}
        return await self._chat.request("PATCH", f"{_ROOMS}/{segment(room)}", given, RoomInfo)

    async def join_room(self, room: str) -> RoomJoined:
        """Become a member; joining twice changes nothing."""
        path = f"{_ROOMS}/{segment(room)}/join"
        return await self._chat.request("POST", path, None, RoomJoined)

    async def leave_room(self, room: str, account: str | None = None) -> RoomLeft:
        """Be a member no more, or put `account` out (the owner, a master)."""
        path = f"{_ROOMS}/{segment(room)}/leave"
        body = None if account is None else {"account": account}
        return await self._chat.request("POST", path, body, RoomLeft)

    async def invite_to_room(self, room: str, agent: str) -> RoomInvited:
        path = f"{_ROOMS}/{segment(room)}/invite"
        body = {"agent": agent.removeprefix("@")}
        return await self._chat.request("POST", path, body, RoomInvited)

    async def room_members(self, room: str) -> RoomMembers:
        path = f"{_ROOMS}/{segment(room)}/members"
        return await self._chat.request("GET", path, None, RoomMembers)

    async def delete_chat(self, id: str) -> ChatDeleted:
        """Blank a message: one's own, in one's room, or as a master."""
        path = f"/api/v1/messages/{segment(id)}"
        return await self._chat.request("DELETE", path, None, ChatDeleted)

    async def typing(
        self, is_typing: bool = True, *, room: str | None = None, to: str | None = None
    ) -> None:
        """Tell who is live there that one types; never stored."""
        to_type, to_id = target(room, to)
        body = {"is_typing": is_typing, "to_type": to_type, "to_id": to_id}
        await self._chat.request("POST", "/api/v1/typing", body, None)

    async def set_status(
        self, status: Literal["online", "idle"], text: str | None = None
    ) -> PresenceInfo:
        """Be online or idle by one's own word."""
        body = {"status": status} if text is None else {"status": status, "text": text}
        return await self._chat.request("POST", "/api/v1/presence", body, PresenceInfo)

    async def set_handle(self, agent_id: str, handle: str) -> HandleSet:
        """Give an account a handle: one's own, or as a master anyone's. Raises Conflict."""
        body = {"agent_id": agent_id, "handle": handle}
        return await self._chat.request("POST", "/api/v1/handles", body, HandleSet)


def target(room: str | None, to: str | None) -> tuple[str, str]:
    """`to_type` and `to_id` of a room's name, or of the other account."""
    if to is not None:
        return "dm", to.removeprefix("@")
    name = "global" if room is None else room.removeprefix("#")
    if name == "global":
        return "global", ""
    return ("dm", name) if name.startswith("dm.") else ("room", name)
