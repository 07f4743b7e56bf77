"""What is said on Centrifugo's client protocol, as types; no format and no transport.

Read in the sources of centrifugal/protocol and centrifuge. Names and numbers are the wire's.
What a client sends is decoded leniently (unknown members are ignored); what the hub says leaves
out what is zero, but for the members that have no default here. `Raw` is a JSON value as it came.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec
from msgspec import Raw

COMMANDS_MAX = 2_000
"""Of one message: as many subscribes as it has room for."""

NO_DATA = Raw(b"")
"""A member whose value is any JSON, and that is not there."""


class StreamPosition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A place in a channel."""

    offset: int = 0
    epoch: str = ""


class ClientInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who publishes or is there."""

    user: str
    client: str
    conn_info: Raw = NO_DATA
    chan_info: Raw = NO_DATA


class Publication(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event as subscribers see it. `time` is ms since 1970."""

    data: Raw
    info: ClientInfo | None = None
    offset: int = 0
    tags: dict[str, str] | None = None
    delta: bool = False
    time: int = 0
    channel: str = ""
    epoch: str = ""


# --- what a client says -----------------------------------------------------


class SubscribeRequest(msgspec.Struct, frozen=True, kw_only=True):
    channel: str = ""
    token: str = ""
    data: Raw = NO_DATA
    recover: bool = False
    offset: int = 0
    epoch: str = ""
    positioned: bool = False
    recoverable: bool = False
    join_leave: bool = False
    delta: str = ""
    tf: Raw = NO_DATA
    flag: int = 0
    type: int = 0


class ConnectRequest(msgspec.Struct, frozen=True, kw_only=True):
    token: str = ""
    data: Raw = NO_DATA
    name: str = ""
    version: str = ""
    headers: dict[str, str] = {}
    subs: dict[str, SubscribeRequest] = {}
    flag: int = 0


class ChannelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """unsubscribe, presence, presence_stats."""

    channel: str = ""


class PublishRequest(msgspec.Struct, frozen=True, kw_only=True):
    channel: str = ""
    data: Raw = NO_DATA


class HistoryRequest(msgspec.Struct, frozen=True, kw_only=True):
    channel: str = ""
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class RefreshRequest(msgspec.Struct, frozen=True, kw_only=True):
    token: str = ""


class SubRefreshRequest(msgspec.Struct, frozen=True, kw_only=True):
    channel: str = ""
    token: str = ""


class RpcRequest(msgspec.Struct, frozen=True, kw_only=True):
    method: str = ""
    data: Raw = NO_DATA


class SendRequest(msgspec.Struct, frozen=True, kw_only=True):
    data: Raw = NO_DATA


class EmptyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """ping."""


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One method at most; none at all, with id 0, is a pong."""

    id: int = 0
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: ChannelRequest | None = None
    publish: PublishRequest | None = None
    presence: ChannelRequest | None = None
    presence_stats: ChannelRequest | None = None
    history: HistoryRequest | None = None
    ping: EmptyRequest | None = None
    send: SendRequest | None = None
    rpc: RpcRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None


# --- what the hub answers ---------------------------------------------------


class Error(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    code: int
    message: str
    temporary: bool = False


class SubscribeResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    expires: bool = False
    ttl: int = 0
    recoverable: bool = False
    epoch: str = ""
    publications: list[Publication] = []
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    data: Raw = NO_DATA
    was_recovering: bool = False
    delta: bool = False


class ConnectResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    client: str
    version: str
    expires: bool = False
    ttl: int = 0
    data: Raw = NO_DATA
    subs: dict[str, SubscribeResult] = {}
    ping: int = 0
    pong: bool = False
    session: str = ""
    node: str = ""
    time: int = 0


class EmptyResult(msgspec.Struct, frozen=True, kw_only=True):
    """unsubscribe, publish."""


class PresenceResult(msgspec.Struct, frozen=True, kw_only=True):
    presence: dict[str, ClientInfo]


class PresenceStatsResult(msgspec.Struct, frozen=True, kw_only=True):
    num_clients: int
    num_users: int


class HistoryResult(msgspec.Struct, frozen=True, kw_only=True):
    publications: list[Publication]
    epoch: str
    offset: int


class RpcResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    data: Raw = NO_DATA


class RefreshResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    client: str
    version: str
    expires: bool = False
    ttl: int = 0


class SubRefreshResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    expires: bool = False
    ttl: int = 0


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to one command: an error, or the result of its method. An empty one is a ping."""

    id: int = 0
    error: Error | None = None
    connect: ConnectResult | None = None
    subscribe: SubscribeResult | None = None
    unsubscribe: EmptyResult | None = None
    publish: EmptyResult | None = None
    presence: PresenceResult | None = None
    presence_stats: PresenceStatsResult | None = None
    history: HistoryResult | None = None
    rpc: RpcResult | None = None
    refresh: RefreshResult | None = None
    sub_refresh: SubRefreshResult | None = None


# --- what the hub pushes ----------------------------------------------------


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """join, leave."""

    info: ClientInfo


class Unsubscribe(msgspec.Struct, frozen=True, kw_only=True):
    code: int
    reason: str


class Subscribe(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A server-side subscription was added."""

    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    data: Raw = NO_DATA


class Disconnect(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    code: int
    reason: str
    reconnect: bool = False


class Refresh(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    expires: bool = False
    ttl: int = 0


class Push(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that was not asked for. Unidirectional transports send it without the wrapper."""

    channel: str = ""
    pub: Publication | None = None
    join: Presence | None = None
    leave: Presence | None = None
    unsubscribe: Unsubscribe | None = None
    subscribe: Subscribe | None = None
    disconnect: Disconnect | None = None
    refresh: Refresh | None = None
    connect: ConnectResult | None = None


# --- how it is written ------------------------------------------------------


class BadCommand(Exception):
    """What came is no command; the client is disconnected with 3501."""


class Encoding(Protocol):
    """A format (JSON, protobuf) together with a transport's framing. One for each kind of
    connection, shared by all of them; what it returns are whole frames, to be joined as they are.
    """

    key: str
    """Names it, for the shapes that are built on it."""

    def split(self, message: bytes) -> list[bytes] | Iterator[bytes]:
        """The commands of one message as they came, in order; a single one in a list.

        Raises BadCommand, here or when it is gone through: for an empty message, too.
        """

    def command(self, piece: bytes) -> Command:
        """One of them. Raises BadCommand."""

    def decode(self, message: bytes) -> list[Command]:
        """All of them at once. Raises BadCommand."""

    def reply(self, reply: Reply) -> bytes: ...

    def push(self, push: Push) -> bytes: ...

    def publication(self, channel: str, publication: Publication) -> bytes:
        """push() of a publication; the hot path."""


class Wire(Protocol):
    """The transport under a Client. None of it waits; all of it is called on the loop."""

    encoding: Encoding

    @property
    def is_full(self) -> bool:
        """Whether the client has yet to take what was said, before more may be asked for it. When
        it has, the transport calls Client.go_on()."""

    def say(self, frames: bytes) -> None:
        """Queue an answer or a push behind what was said before in this turn."""

    def finish(self, code: int, reason: str) -> None:
        """End the connection with a disconnect code, after what was said."""

    def hold(self) -> None:
        """Take no more messages until release(): a command waits for the hub."""

    def release(self) -> None: ...
