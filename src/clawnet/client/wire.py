"""The native WebSocket's frames, as values. Pure.

Members that this version does not know are passed over, so that a newer hub
can say more to an older client.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from clawnet.client.errors import UnexpectedAnswer, from_members
from clawnet.core.calls.publishing import Published
from clawnet.core.calls.reading import Gap
from clawnet.core.errors import ClawError, Forbidden, Unauthenticated
from clawnet.core.events import Actor, Event

CLOSE_UNAUTHENTICATED = 4401
CLOSE_REVOKED = 4403
CLOSE_TERMINAL = range(4400, 4500)
"""Close codes after which coming back is pointless; all others mean: come back."""

_CLOSE_PROTOCOL = 1002

PUBLISH_MAX_BYTES = 65_536 + 8_192 - 32
"""The hub's limit for a message, less room for the id."""


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """What is told to whoever listens and kept by nobody: it has no place and no id."""

    channel: str
    type: str
    actor: Actor
    data: msgspec.Raw


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """Any frame of the hub: `type` says which members mean something.

    `event` is an event's or a signal's envelope; see decode_envelope().
    """

    type: str
    id: int | str | None = None
    event: msgspec.Raw = msgspec.Raw(b"")
    cursor: str | None = None
    subscription: int | None = None
    channels: list[str] | None = None
    channel: str | None = None
    first: int | None = None
    last: int | None = None
    oldest: int | None = None
    reason: str = "retention"
    error: dict[str, Any] | None = None

    @property
    def gap(self) -> Gap | None:
        """The gap that a `gap` frame tells of."""
        if self.channel is None or self.first is None or self.last is None:
            return None
        return Gap(
            channel=self.channel,
            first=self.first,
            last=self.last,
            oldest=self.last + 1 if self.oldest is None else self.oldest,
            reason=self.reason,
        )

    @property
    def failure(self) -> ClawError:
        """The error that an `error` or `ended` frame tells of."""
        return from_members(self.error or {"code": "internal", "message": "The hub gave no reason"})


class PublishAnswer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A frame of a connection that only publishes."""

    type: str
    id: int | str | None = None
    event_id: str = ""
    seq: int = 0
    offset: int = 0
    epoch: str = ""
    deduped: bool = False
    correlation_id: str | None = None
    error: dict[str, Any] | None = None

    @property
    def published(self) -> Published:
        return Published(
            id=self.event_id,
            seq=self.seq,
            offset=self.offset,
            epoch=self.epoch,
            deduped=self.deduped,
            correlation_id=self.correlation_id,
        )

    @property
    def failure(self) -> ClawError | None:
        """The refusal; None if the event is stored."""
        if self.type == "ok" and self.event_id:
            return None
        return from_members(self.error or {"code": "internal", "message": "The hub gave no reason"})


_decoder = msgspec.json.Decoder(Frame)
_publish_answer = msgspec.json.Decoder(PublishAnswer)
_event = msgspec.json.Decoder(Event)
_signal = msgspec.json.Decoder(Signal)
_PLACED = b'{"seq":'
"""How the envelope of everything begins that has a place in the log."""


def decode_frame(text: str | bytes) -> Frame:
    """Read a frame. Raises UnexpectedAnswer."""
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise UnexpectedAnswer(f"A frame cannot be read: {error}.") from None


def decode_envelope(raw: msgspec.Raw) -> Event | Signal:
    """Read what an `event` frame holds. Raises UnexpectedAnswer."""
    body = bytes(raw)
    try:
        return _event.decode(body) if body.startswith(_PLACED) else _signal.decode(body)
    except msgspec.DecodeError as error:
        raise UnexpectedAnswer(f"An event cannot be read: {error}.") from None


def decode_publish_answer(text: bytes) -> PublishAnswer:
    """Read an answer to a publish. Raises UnexpectedAnswer."""
    try:
        return _publish_answer.decode(text)
    except msgspec.DecodeError as error:
        raise UnexpectedAnswer(f"A frame cannot be read: {error}.") from None


def encode_publish(members: Mapping[str, Any]) -> bytes | None:
    """The command that publishes, still without an id; None if no frame can hold it.

    That is what is too long, and what a caller's own bytes (msgspec.Raw) make
    malformed: the hub's answer could not name it, or would end the connection.
    """
    command = msgspec.json.encode({"action": "publish", **members})
    if len(command) > PUBLISH_MAX_BYTES:
        return None
    try:
        command.decode()
        msgspec.json.decode(command, type=msgspec.Raw)
    except (UnicodeError, msgspec.DecodeError, RecursionError):
        return None
    return command


def encode_subscribe(
    *, channels: list[str], since: str | dict[str, int] | None, number: int
) -> str:
    """The command that opens a subscription."""
    command: dict[str, Any] = {"action": "subscribe", "channels": channels, "id": number}
    if since is not None:
        command["since"] = since
    return msgspec.json.encode(command).decode()


def error_of_close(code: int | None, reason: str) -> ClawError | None:
    """The exception for a close code that ends all; None if the client should come back."""
    said = reason or f"close code {code}"
    if code == CLOSE_UNAUTHENTICATED:
        return Unauthenticated(f"The hub ended the connection: {said}.")
    if code == CLOSE_REVOKED:
        return Forbidden(
            f"The hub ended the connection: {said}.",
            next="The token or its account was revoked; get a new token from the hub's operator.",
        )
    if code in CLOSE_TERMINAL or code == _CLOSE_PROTOCOL:
        return UnexpectedAnswer(f"The hub ended the connection: {said}.")
    return None


def data_of(event: Event | Signal) -> Any:
    """An event's or a signal's data, decoded. (`event.data` is its JSON as the sender wrote it.)"""
    return msgspec.json.decode(event.data)
