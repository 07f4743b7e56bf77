"""What a backend says to the server API and what it is answered, as types. Names are the wire's.

Requests are read leniently: members that are not known are passed over. Bounds that a type can
state stand here; those by meaning in api_methods.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta, Raw

from clawnet.doors.centrifugo.wire import NO_DATA, StreamPosition

TARGETS_MAX = 1_000
"""Channels of one broadcast, commands of one batch, names of one whitelist."""

Count = Annotated[int, Meta(ge=0)]
Names = Annotated[list[str], Meta(max_length=TARGETS_MAX)]


def nothing() -> Raw:
    """A value that was left out. Made by a function, since a schema cannot show it."""
    return NO_DATA


class PublishCall(msgspec.Struct, frozen=True, kw_only=True):
    """`data` is any JSON value, or `b64data` the same in base64.

    `skip_history` makes it a signal: nothing is stored and there is no offset.
    `idempotency_key` holds for as long as its event is kept. With `version`, an event that is
    not newer than the channel's newest of the same `version_epoch` is skipped. `delta` is for
    the namespace to say here and changes nothing.
    """

    channel: str = ""
    data: Raw = msgspec.field(default_factory=nothing)
    b64data: str = ""
    skip_history: bool = False
    tags: dict[str, str] | None = None
    idempotency_key: str = ""
    delta: bool = False
    version: Count = 0
    version_epoch: str = ""


class BroadcastCall(msgspec.Struct, frozen=True, kw_only=True):
    """The same publication on several channels; see PublishCall."""

    channels: Names = []
    data: Raw = msgspec.field(default_factory=nothing)
    b64data: str = ""
    skip_history: bool = False
    tags: dict[str, str] | None = None
    idempotency_key: str = ""
    delta: bool = False
    version: Count = 0
    version_epoch: str = ""


class Since(msgspec.Struct, frozen=True, kw_only=True):
    """A place in a channel."""

    offset: Count = 0
    epoch: str = ""


class SubscribeCall(msgspec.Struct, frozen=True, kw_only=True):
    """Subscribe a user's connections; until `expire_at` (seconds since 1970), if that is given."""

    user: str = ""
    channel: str = ""
    info: Raw = msgspec.field(default_factory=nothing)
    b64info: str = ""
    client: str = ""
    session: str = ""
    data: Raw = msgspec.field(default_factory=nothing)
    b64data: str = ""
    recover_since: Since | None = None
    expire_at: Count = 0
    override: dict[str, Any] | None = None


class UnsubscribeCall(msgspec.Struct, frozen=True, kw_only=True):
    """Unsubscribe a user's connections from a channel."""

    user: str = ""
    channel: str = ""
    client: str = ""
    session: str = ""


class DisconnectWith(msgspec.Struct, frozen=True, kw_only=True):
    """The code and reason of a disconnect."""

    code: Annotated[int, Meta(ge=3000, le=4999)] = 3503
    reason: Annotated[str, Meta(max_length=123)] = "force disconnect"


class DisconnectCall(msgspec.Struct, frozen=True, kw_only=True):
    """End a user's connections; those of `whitelist` (client ids) stay."""

    user: str = ""
    client: str = ""
    session: str = ""
    whitelist: Names = []
    disconnect: DisconnectWith | None = None


class RefreshCall(msgspec.Struct, frozen=True, kw_only=True):
    """Set when a user's connections end (`expire_at`, seconds since 1970; 0: never), or end them
    as expired. What a connection is known as (`info`) does not change."""

    user: str = ""
    client: str = ""
    session: str = ""
    expired: bool = False
    expire_at: Count = 0
    info: Raw = msgspec.field(default_factory=nothing)


class ChannelCall(msgspec.Struct, frozen=True, kw_only=True):
    """presence, presence_stats, history_remove."""

    channel: str = ""


class HistoryCall(msgspec.Struct, frozen=True, kw_only=True):
    """`limit` 0 asks for the place alone, -1 for as much as one answer holds."""

    channel: str = ""
    limit: int = 0
    since: Since | None = None
    reverse: bool = False


class ChannelsCall(msgspec.Struct, frozen=True, kw_only=True):
    """The channels that are followed now; `pattern` is a glob."""

    pattern: Annotated[str, Meta(max_length=255)] = ""


class InfoCall(msgspec.Struct, frozen=True, kw_only=True):
    """info."""


class RpcCall(msgspec.Struct, frozen=True, kw_only=True):
    """Ask a registered method."""

    method: str = ""
    params: Raw = msgspec.field(default_factory=nothing)


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One command of a batch: exactly one of these."""

    publish: PublishCall | None = None
    broadcast: BroadcastCall | None = None
    subscribe: SubscribeCall | None = None
    unsubscribe: UnsubscribeCall | None = None
    disconnect: DisconnectCall | None = None
    refresh: RefreshCall | None = None
    presence: ChannelCall | None = None
    presence_stats: ChannelCall | None = None
    history: HistoryCall | None = None
    history_remove: ChannelCall | None = None
    channels: ChannelsCall | None = None
    info: InfoCall | None = None
    rpc: RpcCall | None = None

    def named(self) -> tuple[str, Any] | None:
        """The method and its request, if there is exactly one."""
        there = [
            (name, getattr(self, name))
            for name in self.__struct_fields__
            if getattr(self, name) is not None
        ]
        return there[0] if len(there) == 1 else None


class BatchCall(msgspec.Struct, frozen=True, kw_only=True):
    """Several commands, answered in their order; `parallel`: they need not run in it."""

    commands: Annotated[list[Command], Meta(max_length=TARGETS_MAX)] = []
    parallel: bool = False


# --- answers ----------------------------------------------------------------


class ApiError(msgspec.Struct, frozen=True, kw_only=True):
    """Why not."""

    code: int
    message: str


T = TypeVar("T")


class Result(msgspec.Struct, Generic[T], frozen=True, kw_only=True, omit_defaults=True):
    """What every method but batch is answered with: a result, or an error."""

    result: T | None = None
    error: ApiError | None = None


class EmptyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """It is done."""


class PublishAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where it lies; nothing of a channel without history."""

    offset: int = 0
    epoch: str = ""


class BroadcastAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One response for each channel, in order."""

    responses: list[Result[PublishAnswer]]


class PresenceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """By client id: `user`, `client`, `conn_info`, `chan_info`, as clients are told of it."""

    presence: dict[str, Any]


class PresenceStatsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How many are there."""

    num_clients: int
    num_users: int


class HistoryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Publications as clients read them; `offset` and `epoch` are those of the newest there is."""

    publications: list[Any]
    offset: int
    epoch: str


class ChannelNow(msgspec.Struct, frozen=True, kw_only=True):
    """Of a channel that is followed now."""

    num_clients: int


class ChannelsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """By name."""

    channels: dict[str, ChannelNow]


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """This hub, as Centrifugo counts. `uptime` is in seconds."""

    uid: str
    name: str
    version: str
    num_clients: int
    num_users: int
    num_subs: int
    num_channels: int
    uptime: int


class InfoAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """There is one node."""

    nodes: list[Node]


class RpcAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the method says."""

    data: Raw


class BatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One reply for each command, in order: `{"<method>": result}` or `{"error": …}`."""

    replies: list[dict[str, Any]]


def position(since: Since | None) -> StreamPosition | None:
    """A place as the client protocol has it."""
    return None if since is None else StreamPosition(offset=since.offset, epoch=since.epoch)
