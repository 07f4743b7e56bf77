"""What a client may say: messages to typed commands. Unknown members are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from clawnet.core import payloads
from clawnet.core.calls.consumers import Ack, DeliveryName
from clawnet.core.calls.live import Subscribe
from clawnet.core.calls.publishing import Publish
from clawnet.core.cursors import AfterOffset, Since, parse_since
from clawnet.core.errors import BadRequest

REASON_MAX_CHARS = 200

WholeNumber = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
"""What every JSON parser reads as written; without bounds msgspec takes thousands of digits."""
Id = WholeNumber | Annotated[str, msgspec.Meta(max_length=200)] | None
"""A client's own name for a command, given back in its answer."""


class AuthCommand(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="action",
    tag="auth",
):  # fmt: skip
    """Say who speaks. Comes before everything else but ping."""

    token: str
    id: Id = None


class SubscribeCommand(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="action",
    tag="subscribe",
):  # fmt: skip
    """Follow channels. `since` is a cursor, a duration, `all`, or an offset for each channel."""

    channels: list[str]
    since: str | WholeNumber | dict[str, WholeNumber | str] | None = None
    # A factory, because a schema can show no Raw as a default.
    filters: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    id: Id = None

    def call(self) -> Subscribe:
        """The hub's call. Raises BadRequest."""
        if bytes(self.filters) not in (b"null", b"[]"):
            raise BadRequest(
                "filters are not offered yet.", next="Leave filters out and choose by channel."
            )
        since: Since | dict[str, Since] | None
        if isinstance(self.since, dict):
            since = {channel: _since(place) for channel, place in self.since.items()}
        else:
            since = None if self.since is None else _since(self.since)
        return Subscribe(channels=tuple(self.channels), since=since)


class UnsubscribeCommand(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="action",
    tag="unsubscribe",
):  # fmt: skip
    """End a subscription by its number, or all that follow nothing but these channels."""

    channels: list[str] | None = None
    subscription: WholeNumber | None = None
    id: Id = None


# A subclass of the hub's call, so that the hot path makes one object and not two.
class PublishCommand(
    Publish, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="action",
    tag="publish", gc=False,
):  # fmt: skip
    """Publish an event; the answer comes when it is durable."""

    id: Id = None


class AckCommand(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="action",
    tag="ack",
):  # fmt: skip
    """Acknowledge deliveries of a durable consumer."""

    consumer: str
    deliveries: list[DeliveryName] | None = None
    cursor: str | None = None
    id: Id = None

    def call(self) -> Ack:
        """The hub's call. Raises BadRequest."""
        if (self.deliveries is None) == (self.cursor is None):
            raise BadRequest(
                "An ack names its deliveries, or a cursor.",
                next='Send "deliveries": [{"seq": …, "attempt": …}] as they were fetched.',
            )
        return Ack(name=self.consumer, deliveries=self.deliveries or [], cursor=self.cursor)


class PingCommand(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="action",
    tag="ping",
):  # fmt: skip
    """Ask for a pong. For clients that cannot send the protocol's own ping."""

    id: Id = None


Command = (
    AuthCommand | SubscribeCommand | UnsubscribeCommand | PublishCommand | AckCommand | PingCommand
)


class _OnlyId(msgspec.Struct, frozen=True):
    id: Id = None


_decode: Callable[[bytes], Command] = msgspec.json.Decoder(Command).decode
_decode_id = msgspec.json.Decoder(_OnlyId).decode


def parse(message: bytes) -> Command:
    """Read a message. Raises BadRequest with what is wrong where."""
    if payloads.is_laden(message):
        raise BadRequest("The message holds too many huge numbers outside of its data.")
    try:
        return _decode(message)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        reason = str(error).rstrip(".")[:REASON_MAX_CHARS]
        raise BadRequest(
            f"The message cannot be understood: {reason}.",
            next='Send a JSON object with an "action": auth, subscribe, unsubscribe, publish, '
            "ack or ping.",
        ) from None


def id_of(message: bytes) -> Any:
    """The id of a message that parse() refused, if that much can be read."""
    try:
        return _decode_id(message).id
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None


def _since(place: int | str) -> Since:
    if isinstance(place, int):
        if not 0 <= place < 10**15:
            raise BadRequest(f"{place} is not an offset.", next="Give an offset from 0 on.")
        return AfterOffset(place)
    return parse_since(place)
