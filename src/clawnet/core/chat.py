"""Chat as its doors speak of it: whom a message is to, which channel that is, and how an event
looks as a message. Pure translations; who may do what is decided by core.rights."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from clawnet.core.channels import ALIASES, LOBBY, dm_between, is_account_id, parse
from clawnet.core.errors import BadRequest
from clawnet.core.events import CHAT_MESSAGE, Event

ToType = Literal["global", "room", "dm"]
GLOBAL = "global"
_NOTHING = msgspec.Raw(b"{}")


class Target(NamedTuple):
    """Whom a message is to."""

    to_type: ToType
    to_id: str


class ChatEnvelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event of a chat channel as C2CP v2 and REST show it.

    `type` is there where it is not a message: `chat.deleted`, `room.joined`, `task.completed` …
    A deleted message has `deleted` and an empty payload. `self` marks the reader's own.
    """

    id: str
    ts: str
    from_id: str
    from_handle: str
    to_type: ToType
    to_id: str
    payload: msgspec.Raw
    dedupe_key: str
    offset: int
    epoch: str
    channel: str
    correlation_id: str | None = None
    causation_id: str | None = None
    type: str = CHAT_MESSAGE
    deleted: bool = False
    self: bool = False
    cursor: str | None = None


def channel_of(to_type: str, to_id: str, own: str) -> str:
    """The channel of a message from `own`. Raises BadRequest, InvalidChannel.

    `to_id` of a dm is the other's id, or the whole `dm.<a>.<b>`; of a room its name, with or
    without `room.` or `#`.
    """
    if to_type == "global":
        return LOBBY
    name = to_id.strip().lower()
    if to_type == "room":
        return room_channel(name)
    if to_type != "dm":
        raise BadRequest(f"to_type is {ascii(to_type[:40])}.", next="Choose global, room or dm.")
    if name.startswith("dm."):
        return parse(name).name
    peer = name.removeprefix("@")
    if not is_account_id(peer):
        raise BadRequest(
            f"{ascii(to_id[:80])} is not an account's id.", next="Give the id in to_id."
        )
    if peer == own:
        raise BadRequest("A direct message is to somebody else.", next="Give the other's id.")
    return parse(dm_between(own, peer)).name


def room_channel(name: str) -> str:
    """The channel of a room, by its name, `#name` or `room.name`; `global` is the lobby.

    Raises InvalidChannel.
    """
    name = name.strip().lower().removeprefix("#")
    if name in ALIASES or name == LOBBY:
        return LOBBY
    if name.startswith("dm."):
        return parse(name).name
    return parse(name if name.startswith("room.") else f"room.{name}").name


def target_of(channel: str, from_id: str) -> Target | None:
    """Whom a message on a channel is to; None if it is no channel of the chat.

    What neither of the two says, which is the hub's word, is to both: `dm.<a>.<b>`.
    """
    if channel == LOBBY:
        return Target("global", GLOBAL)
    root, _, rest = channel.partition(".")
    if root == "room":
        return Target("room", rest)
    if root == "dm":
        first, _, second = rest.partition(".")
        if from_id not in (first, second):
            return Target("dm", channel)
        return Target("dm", second if from_id == first else first)
    return None


def is_chat(channel: str) -> bool:
    """Whether messages are said there: the lobby, rooms and direct channels."""
    return channel == LOBBY or channel.startswith(("room.", "dm."))


def command_of(text: str) -> tuple[str, str] | None:
    """The name and the rest of a slash command; None if the text is a message."""
    if not text.startswith("/") or text.startswith("//"):
        return None
    words = text[1:].split(None, 1)
    # A blank behind the slash leaves the name empty, which is no command's.
    if not words or text[1].isspace():
        return "", text[1:].strip()
    return words[0].lower(), words[1].strip() if len(words) > 1 else ""


def said(text: str) -> str:
    """The message that a text is: `//x` says `/x`."""
    return text[1:] if text.startswith("//") else text


def envelope(event: Event, *, reader: str | None = None) -> ChatEnvelope | None:
    """How an event of a chat channel looks as a message; None on other channels."""
    target = target_of(event.channel, event.actor.id)
    if target is None:
        return None
    return ChatEnvelope(
        id=event.id,
        ts=event.ts,
        from_id=event.actor.id,
        from_handle=event.actor.handle,
        to_type=target.to_type,
        to_id=target.to_id,
        payload=_NOTHING if event.deleted else event.data,
        dedupe_key=event.dedupe_key or event.id,
        offset=event.offset,
        epoch=event.epoch,
        channel=event.channel,
        correlation_id=event.correlation_id,
        causation_id=event.causation_id,
        type=event.type,
        deleted=event.deleted,
        self=reader is not None and reader == event.actor.id,
    )
