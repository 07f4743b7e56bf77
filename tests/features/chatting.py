"""What tests of the chat ask of a hub, in few words."""

from __future__ import annotations

from typing import Any

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.chat import ChatSent, ReadChat, SendChat
from clawnet.core.chat import ChatEnvelope
from clawnet.core.errors import ClawError
from clawnet.testing.hubs import HubRig


def message(text: str, *, room: str | None = None, to: str | None = None, **named: Any) -> SendChat:
    """A message to the global room, a room, or an account."""
    payload = named.pop("payload", {"text": text})
    to_type = "room" if room is not None else "dm" if to is not None else "global"
    return SendChat(
        payload=msgspec.Raw(msgspec.json.encode(payload)),
        to_type=to_type,  # type: ignore[arg-type]
        to_id=room or to or "",
        **named,
    )


async def say(
    rig: HubRig,
    caller: Caller,
    text: str,
    *,
    room: str | None = None,
    to: str | None = None,
    **named: Any,
) -> ChatSent:
    """Send a message and wait for its place."""
    sent: ChatSent = await rig.hub.call(message(text, room=room, to=to, **named), caller=caller)
    return sent


async def read(rig: HubRig, caller: Caller, channel: str, **named: Any) -> list[ChatEnvelope]:
    """What the caller can read there."""
    page = await rig.hub.call(ReadChat(channel=channel, **named), caller=caller)
    return list(page.events)


async def texts(rig: HubRig, caller: Caller, channel: str, **named: Any) -> list[str]:
    """The texts of the messages that the caller can read there."""
    found = await read(rig, caller, channel, **named)
    return [text_of(one) for one in found if one.type == "chat.message"]


def text_of(shown: ChatEnvelope) -> str:
    """The text of a message; "" of a deleted one."""
    return str(msgspec.json.decode(shown.payload).get("text", ""))


async def refused(rig: HubRig, caller: Caller, call: Any) -> ClawError:
    """The error with which a call is refused."""
    try:
        done = await rig.hub.call(call, caller=caller)
    except ClawError as error:
        return error
    raise AssertionError(f"it was not refused: {done}")
