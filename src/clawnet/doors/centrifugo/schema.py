"""The fields of Centrifugo's protobuf messages: their numbers, names and kinds.

Read in centrifugal/protocol (definitions/client.proto). What is not here is passed over when it
comes and never said.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from clawnet.doors.centrifugo.wire import (
    NO_DATA,
    ChannelRequest,
    ClientInfo,
    Command,
    ConnectRequest,
    ConnectResult,
    Disconnect,
    EmptyRequest,
    EmptyResult,
    Error,
    HistoryRequest,
    HistoryResult,
    Presence,
    PresenceResult,
    PresenceStatsResult,
    Publication,
    PublishRequest,
    Push,
    Refresh,
    RefreshRequest,
    RefreshResult,
    Reply,
    RpcRequest,
    RpcResult,
    SendRequest,
    StreamPosition,
    SubRefreshRequest,
    SubRefreshResult,
    Subscribe,
    SubscribeRequest,
    SubscribeResult,
    Unsubscribe,
)


class EmulationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What carries the commands of a client whose own connection only goes the other way."""

    node: str = ""
    session: str = ""
    data: Raw = NO_DATA


class PushedConnect(ConnectResult, frozen=True, kw_only=True):
    """A key of the table: pushed, a ConnectResult has other numbers than as an answer."""


UINT32, UINT64, INT32, INT64, BOOL = "uint32", "uint64", "int32", "int64", "bool"
TEXT = "text"
JSON = "json"
"""Bytes that the other side takes for JSON; a Raw here."""
NOTED = "noted"
"""A message that nothing here understands: a Raw says that there was one."""


class Many:
    """A repeated field."""

    def __init__(self, of: type[msgspec.Struct]) -> None:
        self.of = of


class Map:
    """A map from text."""

    def __init__(self, to: type[msgspec.Struct] | str) -> None:
        self.to = to


Kind = str | type[msgspec.Struct] | Many | Map

TABLE: dict[type[msgspec.Struct], tuple[tuple[int, str, Kind], ...]] = {
    StreamPosition: ((1, "offset", UINT64), (2, "epoch", TEXT)),
    ClientInfo: (
        (1, "user", TEXT),
        (2, "client", TEXT),
        (3, "conn_info", JSON),
        (4, "chan_info", JSON),
    ),
    Publication: (
        (4, "data", JSON),
        (5, "info", ClientInfo),
        (6, "offset", UINT64),
        (7, "tags", Map(TEXT)),
        (8, "delta", BOOL),
        (9, "time", INT64),
        (10, "channel", TEXT),
        (14, "epoch", TEXT),
    ),
    SubscribeRequest: (
        (1, "channel", TEXT),
        (2, "token", TEXT),
        (3, "recover", BOOL),
        (6, "epoch", TEXT),
        (7, "offset", UINT64),
        (8, "data", JSON),
        (9, "positioned", BOOL),
        (10, "recoverable", BOOL),
        (11, "join_leave", BOOL),
        (12, "delta", TEXT),
        (13, "tf", NOTED),
        (14, "flag", INT64),
        (15, "type", INT32),
    ),
    ConnectRequest: (
        (1, "token", TEXT),
        (2, "data", JSON),
        (3, "subs", Map(SubscribeRequest)),
        (4, "name", TEXT),
        (5, "version", TEXT),
        (6, "headers", Map(TEXT)),
        (7, "flag", INT64),
    ),
    ChannelRequest: ((1, "channel", TEXT),),
    PublishRequest: ((1, "channel", TEXT), (2, "data", JSON)),
    HistoryRequest: (
        (1, "channel", TEXT),
        (7, "limit", INT32),
        (8, "since", StreamPosition),
        (9, "reverse", BOOL),
    ),
    RefreshRequest: ((1, "token", TEXT),),
    SubRefreshRequest: ((1, "channel", TEXT), (2, "token", TEXT)),
    RpcRequest: ((1, "data", JSON), (2, "method", TEXT)),
    SendRequest: ((1, "data", JSON),),
    EmptyRequest: (),
    EmulationRequest: ((1, "node", TEXT), (2, "session", TEXT), (3, "data", JSON)),
    Command: (
        (1, "id", UINT32),
        (4, "connect", ConnectRequest),
        (5, "subscribe", SubscribeRequest),
        (6, "unsubscribe", ChannelRequest),
        (7, "publish", PublishRequest),
        (8, "presence", ChannelRequest),
        (9, "presence_stats", ChannelRequest),
        (10, "history", HistoryRequest),
        (11, "ping", EmptyRequest),
        (12, "send", SendRequest),
        (13, "rpc", RpcRequest),
        (14, "refresh", RefreshRequest),
        (15, "sub_refresh", SubRefreshRequest),
    ),
    Error: ((1, "code", UINT32), (2, "message", TEXT), (3, "temporary", BOOL)),
    SubscribeResult: (
        (1, "expires", BOOL),
        (2, "ttl", UINT32),
        (3, "recoverable", BOOL),
        (6, "epoch", TEXT),
        (7, "publications", Many(Publication)),
        (8, "recovered", BOOL),
        (9, "offset", UINT64),
        (10, "positioned", BOOL),
        (11, "data", JSON),
        (12, "was_recovering", BOOL),
        (13, "delta", BOOL),
    ),
    ConnectResult: (
        (1, "client", TEXT),
        (2, "version", TEXT),
        (3, "expires", BOOL),
        (4, "ttl", UINT32),
        (5, "data", JSON),
        (6, "subs", Map(SubscribeResult)),
        (7, "ping", UINT32),
        (8, "pong", BOOL),
        (9, "session", TEXT),
        (10, "node", TEXT),
        (11, "time", INT64),
    ),
    PushedConnect: (
        (1, "client", TEXT),
        (2, "version", TEXT),
        (3, "data", JSON),
        (4, "subs", Map(SubscribeResult)),
        (5, "expires", BOOL),
        (6, "ttl", UINT32),
        (7, "ping", UINT32),
        (8, "pong", BOOL),
        (9, "session", TEXT),
        (10, "node", TEXT),
        (11, "time", INT64),
    ),
    EmptyResult: (),
    PresenceResult: ((1, "presence", Map(ClientInfo)),),
    PresenceStatsResult: ((1, "num_clients", UINT32), (2, "num_users", UINT32)),
    HistoryResult: (
        (1, "publications", Many(Publication)),
        (2, "epoch", TEXT),
        (3, "offset", UINT64),
    ),
    RpcResult: ((1, "data", JSON),),
    RefreshResult: (
        (1, "client", TEXT),
        (2, "version", TEXT),
        (3, "expires", BOOL),
        (4, "ttl", UINT32),
    ),
    SubRefreshResult: ((1, "expires", BOOL), (2, "ttl", UINT32)),
    Reply: (
        (1, "id", UINT32),
        (2, "error", Error),
        (5, "connect", ConnectResult),
        (6, "subscribe", SubscribeResult),
        (7, "unsubscribe", EmptyResult),
        (8, "publish", EmptyResult),
        (9, "presence", PresenceResult),
        (10, "presence_stats", PresenceStatsResult),
        (11, "history", HistoryResult),
        (13, "rpc", RpcResult),
        (14, "refresh", RefreshResult),
        (15, "sub_refresh", SubRefreshResult),
    ),
    Presence: ((1, "info", ClientInfo),),
    Unsubscribe: ((2, "code", UINT32), (3, "reason", TEXT)),
    Subscribe: (
        (1, "recoverable", BOOL),
        (4, "epoch", TEXT),
        (5, "offset", UINT64),
        (6, "positioned", BOOL),
        (7, "data", JSON),
    ),
    Disconnect: ((1, "code", UINT32), (2, "reason", TEXT), (3, "reconnect", BOOL)),
    Refresh: ((1, "expires", BOOL), (2, "ttl", UINT32)),
    Push: (
        (2, "channel", TEXT),
        (4, "pub", Publication),
        (5, "join", Presence),
        (6, "leave", Presence),
        (7, "unsubscribe", Unsubscribe),
        (9, "subscribe", Subscribe),
        (10, "connect", PushedConnect),
        (11, "disconnect", Disconnect),
        (12, "refresh", Refresh),
    ),
}
