"""Saying something: SendChat and Typing. A message goes through the hub's publish like any other.

Messages of one account on one channel are stored in the order of the calls: where the room exists
nothing is awaited before Hub.publish, where it must be made first the later ones wait behind.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import msgspec

from clawnet.core.buckets import Buckets
from clawnet.core.callers import Caller
from clawnet.core.calls.chat import TEXT_MAX_CHARS, ChatSent, JoinRoom, SendChat, Typing
from clawnet.core.calls.publishing import Publish, Published
from clawnet.core.channels import Kind, parse
from clawnet.core.chat import channel_of, command_of, said
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    DedupeConflict,
    Forbidden,
    NotFound,
    RateLimited,
)
from clawnet.core.events import (
    CHAT_MESSAGE,
    Event,
    content_digest,
    dedupe_identity,
    quote_name,
)
from clawnet.core.rights import Allowed, Verb, decide, require
from clawnet.features.chat.guard import HOPS_MAX, marks_of
from clawnet.features.chat.rooms import OPS, hidden
from clawnet.hub.accounts import need_account
from clawnet.hub.lanes import Lane
from clawnet.hub.publishing import Voice

if TYPE_CHECKING:
    from clawnet.features.chat.commands import Commands
    from clawnet.features.chat.guard import Guard
    from clawnet.features.chat.membership import Membership
    from clawnet.features.chat.rooms import Rooms
    from clawnet.features.chat.settings import ChatSettings
    from clawnet.hub.hub import Hub

_Key = tuple[str, str, str]


class _Lane(Lane):
    __slots__ = ("__weakref__",)


class _Payload(msgspec.Struct):
    text: str


_payload = msgspec.json.Decoder(_Payload)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Sending:
    """Handlers of SendChat and Typing."""

    def __init__(
        self,
        hub: Hub,
        settings: ChatSettings,
        *,
        rooms: Rooms,
        membership: Membership,
        guard: Guard,
        commands: Commands,
    ) -> None:
        self._hub = hub
        self._rooms = rooms
        self._membership = membership
        self._guard = guard
        self._commands = commands
        self._rate = Buckets(rate_per_s=settings.messages_per_s, burst=settings.messages_burst)
        self._opening: dict[_Key, asyncio.Future[None]] = {}
        """The newest message of an account that waits for its room, by channel."""
        self._lanes: WeakValueDictionary[tuple[str, str], _Lane] = WeakValueDictionary()
        """A lane lives as long as a message of its account is under way."""

    def register(self) -> None:
        self._hub.handle(SendChat, self.send)
        self._hub.handle(Typing, self.typing)

    async def send(self, call: SendChat, caller: Caller) -> ChatSent:
        """Raises BadRequest, Forbidden, NotFound, RateLimited, and what a publish raises."""
        own = need_account(caller)
        text = _text_of(call.payload)
        channel = channel_of(call.to_type, call.to_id, own)
        self._take(caller)
        command = command_of(text)
        if command is not None:
            done = await self._commands.run(command, call, caller, channel)
            return ChatSent(channel=channel, command=done)
        # No await from here to the publish if the room is there: see the module.
        key = (caller.world, own, channel)
        before = self._opening.get(key)
        if before is None and not self._must_open(channel, caller):
            return await self._publish(call, caller, channel, text)
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opening[key] = mine
        try:
            if before is not None:
                # No deadline: whoever is before ends when its room is made or refused.
                await asyncio.wait([before])
                caller = self._hub.directory.refresh(caller)
            if self._must_open(channel, caller):
                await self._hub.call(JoinRoom(room=channel), caller=caller)
                caller = self._hub.directory.refresh(caller)
            return await self._publish(call, caller, channel, text, begun=mine)
        finally:
            _end(mine)
            if self._opening.get(key) is mine:
                del self._opening[key]

    def _must_open(self, channel: str, caller: Caller) -> bool:
        """Whether a room is to be made, or #ops to be entered, by this message.

        Raises NotFound, Forbidden where nobody is to be spoken to.
        """
        world = caller.world
        place = parse(channel)
        if place.kind is Kind.DM:
            for peer in place.peers or ():
                if not self._hub.directory.has_account(world, peer):
                    raise NotFound(
                        f"There is no account {peer}.",
                        next="Correct the id; claw account list shows who there is.",
                    )
            return False
        if place.kind is not Kind.ROOM:
            return False
        name = channel[5:]
        is_known = self._rooms.is_known(world, name)
        is_allowed = isinstance(decide(caller, Verb.PUBLISH, place, self._hub.directory), Allowed)
        # Who may write in all rooms makes one as anybody does, or it would be nobody's.
        if is_allowed and (is_known or not self._membership.may_create(world)):
            return False
        caller.need("events:write")
        if name == OPS and caller.role == "master":
            return True
        if not is_known:
            if self._membership.may_create(world):
                return True
            raise hidden(name)
        self._rooms.visible(caller, name)
        raise Forbidden(
            f"You are not in the room {name}.", next=f"Join it first: claw room join {name}."
        )

    async def _publish(
        self,
        call: SendChat,
        caller: Caller,
        channel: str,
        text: str,
        *,
        begun: asyncio.Future[None] | None = None,
    ) -> ChatSent:
        self._guard.check(caller.world, channel, caller.account or "", call.causation_id)
        data = self._data(call, caller, text)
        publish = Publish(
            channel=channel,
            data=data,
            type=CHAT_MESSAGE,
            dedupe_key=call.dedupe_key,
            correlation_id=call.correlation_id,
            causation_id=call.causation_id,
        )
        done: asyncio.Future[Published | ClawError] = asyncio.get_running_loop().create_future()

        def reply(outcome: Published | ClawError) -> None:
            if not done.done():
                done.set_result(outcome)

        of = (caller.world, caller.account or "")
        lane = self._lanes.get(of)
        if lane is None:
            lane = self._lanes[of] = _Lane()
        self._hub.publish(caller, publish, lane=lane, reply=reply)
        if begun is not None:
            # It has its place now: the next one need not wait for the disk.
            _end(begun)
        # No deadline: the committer answers every unit, also when storage fails.
        outcome = await done
        if isinstance(outcome, DedupeConflict) and call.causation_id is not None:
            outcome = await self._first(call, caller, channel, data) or outcome
        if isinstance(outcome, ClawError):
            raise outcome
        return ChatSent(
            channel=channel,
            id=outcome.id,
            offset=outcome.offset,
            epoch=outcome.epoch,
            seq=outcome.seq,
            deduped=outcome.deduped,
        )

    def _data(self, call: SendChat, caller: Caller, text: str) -> msgspec.Raw:
        """The payload as it is stored: `//x` says `/x`, and `hops` is the hub's own word."""
        hops = 0
        cause = self._guard.cause(caller.world, call.causation_id, by=caller.account or "")
        if cause is not None and self._guard.is_agent(caller.world, cause.actor_id):
            hops = min(cause.hops + 1, HOPS_MAX - 1)
        if not hops and not text.startswith("//") and not _has_hops(bytes(call.payload)):
            return call.payload
        members: dict[str, Any] = dict(_members.decode(call.payload))
        members["text"] = said(text)
        members.pop("hops", None)
        if hops:
            members["hops"] = hops
        return msgspec.Raw(msgspec.json.encode(members))

    async def _first(
        self, call: SendChat, caller: Caller, channel: str, data: msgspec.Raw
    ) -> Published | None:
        """The first message of a repeated key, if the two differ by nothing but their hops.

        The hub counts these from what it remembers, and may remember less than it did then.
        """
        assert call.dedupe_key is not None, "without a key nothing is repeated"
        identity = dedupe_identity(
            world=caller.world, actor_id=caller.account or "", channel=channel, key=call.dedupe_key
        )
        known = await self._hub.storage.read(lambda log: log.find(identity))
        if known is None:
            return None
        body = await self._hub.storage.read(lambda log: log.get(caller.world, known.seq))
        if body is None:
            return None
        first = msgspec.json.decode(body, type=Event)
        then, now = bytes(first.data).decode(), bytes(data).decode()
        if marks_of(then)[0] == marks_of(now)[0]:
            return None
        is_same = _without_hops(then) == _without_hops(now)
        current = self._hub.directory.refresh(caller)
        require(current, Verb.PUBLISH, parse(channel), self._hub.directory)
        if not is_same:
            return None
        return Published(
            id=known.id, seq=known.seq, offset=known.offset, epoch=known.epoch, deduped=True
        )

    async def typing(self, call: Typing, caller: Caller) -> None:
        """Raises Forbidden, BadRequest, InvalidChannel."""
        own = need_account(caller)
        channel = channel_of(call.to_type, call.to_id, own)
        self._hub.ration.take_publish(caller, 1)
        require(caller, Verb.PUBLISH, parse(channel), self._hub.directory)
        opening = Voice(caller, channel, self._hub.directory.version).open("chat.typing")
        data = {"from": own, "handle": caller.handle, "is_typing": call.is_typing}
        body = (
            f'{{"channel":{quote_name(channel)},{opening},'
            f'"data":{msgspec.json.encode(data).decode()}}}'
        )
        self._hub.fanout.signal(caller.world, channel, body.encode())

    def _take(self, caller: Caller) -> None:
        """Raises RateLimited with the time to wait."""
        if caller.is_hub or not self._hub.settings.limits.enabled:
            return
        key = (caller.world, caller.account)
        wait_s = self._rate.take(key, now_s=self._hub.clock.steady_s())
        if wait_s:
            raise RateLimited(
                f"This account may send {self._rate.rate_per_s:g} messages per second.",
                retry_after_s=wait_s,
                limit_per_s=self._rate.rate_per_s,
            )


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _text_of(payload: msgspec.Raw) -> str:
    """Raises BadRequest."""
    try:
        text = _payload.decode(payload).text
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # The last one is of what is nested so deeply that no reader would take it either.
        raise BadRequest(
            "The payload is no object with a text.", next='Send {"text": "…"} as the payload.'
        ) from None
    if not text.strip():
        raise BadRequest("The message is empty.", next='Send {"text": "…"} with something in it.')
    if len(text) > TEXT_MAX_CHARS:
        raise BadRequest(
            f"A message has at most {TEXT_MAX_CHARS} characters.",
            next="Send it in several messages, or keep it elsewhere and send a reference.",
        )
    return text


def _has_hops(payload: bytes) -> bool:
    """Whether the sender gives a hop count, however it spells the name."""
    if b'"hops"' in payload:
        return True
    # Nearly all messages end here: decoding each would be felt.
    return b"\\u" in payload and "hops" in _members.decode(payload)


def _without_hops(data: str) -> bytes:
    try:
        members: dict[str, Any] = dict(_members.decode(data))
    except msgspec.DecodeError:
        # It was blanked, so what it said is not known.
        return b""
    members.pop("hops", None)
    return content_digest(type=CHAT_MESSAGE, data=msgspec.json.encode(members).decode())
