"""/asyncapi.json: AsyncAPI 3.0 of the live streams, from the commands' own types and the answers'.

Two channels at one address: the native WebSocket, and server-sent events.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

import clawnet
from clawnet.core.calls.consumers import DeliveryName
from clawnet.core.calls.reading import Gap
from clawnet.core.errors import ERRORS, ClawError
from clawnet.core.events import Event
from clawnet.doors.ws.codes import OF_END, SILENT, UNAUTHENTICATED
from clawnet.doors.ws.commands import Command, Id

Json = dict[str, Any]

PATH = "/api/v1/events/stream"
_REF = "#/components/schemas/{name}"


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An error as frames show it; further members are facts. See /openapi.json's Problem."""

    code: str
    message: str
    retryable: bool
    next: str
    retry_after_s: float | None = None


class Ok(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="ok"):
    """A command was carried out; the other members are of the command's kind."""

    id: Id = None
    account: str | None = None
    subscription: int | None = None
    channels: list[str] | None = None
    cursor: str | None = None
    subscriptions: list[int] | None = None
    event_id: str | None = None
    seq: int | None = None
    offset: int | None = None
    epoch: str | None = None
    deduped: bool | None = None
    acked: int | None = None
    floor: str | None = None
    stale: list[DeliveryName] | None = None


class Pong(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="pong"):
    """The answer to a ping."""

    id: Id = None


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """A command was refused."""

    error: Refusal
    id: Id = None


class EventFrame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="event"):
    """An event. `cursor` is there exactly if all before it has been written; resume with it."""

    event: Event
    cursor: str | None = None


class GapFrame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="gap"):
    """Events that were asked for and can no longer be had."""

    subscription: int
    channel: str
    first: int
    last: int
    oldest: int
    reason: Literal["retention", "epoch"]


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="ended"):
    """A subscription is over, and why."""

    subscription: int
    error: Refusal


class Dropped(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="dropped"):
    """A subscription goes on without one of its channels, and why."""

    subscription: int
    channel: str
    error: Refusal


class StreamDropped(msgspec.Struct, frozen=True, kw_only=True):
    """The data of `event: dropped`."""

    channel: str
    error: Refusal


class Farewell(msgspec.Struct, frozen=True, kw_only=True):
    """The data of `event: close`: whether to come back."""

    reason: Literal["shutdown", "slow", "expired", "revoked", "replaced"]
    reconnect: bool


ANSWERS: tuple[type[msgspec.Struct], ...] = (
    Ok, Pong, Failed, EventFrame, GapFrame, Ended, Dropped,
)  # fmt: skip
SSE: dict[str, type[msgspec.Struct]] = {
    "event": Event,
    "gap": Gap,
    "ended": Refusal,
    "dropped": StreamDropped,
    "close": Farewell,
}
"""The streams' events by name; an event of the log has its own type as its name."""


def build() -> Json:
    """The document, but for its servers."""
    commands: tuple[type[msgspec.Struct], ...] = get_args(Command)
    every = [*commands, *ANSWERS, *SSE.values()]
    codes = [ClawError.code, *(error.code for error in ERRORS)]
    _, schemas = msgspec.json.schema_components(every, ref_template=_REF)
    schemas["Refusal"]["properties"]["code"]["examples"] = codes
    closes = [*OF_END.values(), SILENT, UNAUTHENTICATED]
    receive = {kind.__name__: _message(kind) for kind in commands}
    send = {kind.__name__: _message(kind) for kind in ANSWERS}
    streamed = {
        f"Sse{kind.__name__}": {**_message(kind), "name": name} for name, kind in SSE.items()
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Clawnet live streams",
            "version": clawnet.__version__,
            "description": "One JSON object per WebSocket text frame; or server-sent events. "
            "What happened before, or was missed, comes first if `since` says from where.",
        },
        "defaultContentType": "application/json",
        "servers": {},
        "channels": {
            "websocket": {
                "address": PATH,
                "title": "The native WebSocket",
                "description": "Show the token in the header Authorization, or by the command "
                "auth. Close codes: " + "; ".join(f"{code} {why}" for code, why in closes) + ".",
                "servers": [{"$ref": "#/servers/websocket"}],
                "messages": {
                    name: {"$ref": f"#/components/messages/{name}"} for name in (*receive, *send)
                },
            },
            "sse": {
                "address": PATH,
                "title": "Server-sent events",
                "description": "`id` is the cursor; Last-Event-ID resumes behind it.",
                "servers": [{"$ref": "#/servers/sse"}],
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in streamed},
            },
        },
        "operations": {
            "command": _operation("receive", "websocket", receive, "What a client says."),
            "answer": _operation("send", "websocket", send, "What the hub says."),
            "stream": _operation("send", "sse", streamed, "What the hub streams."),
        },
        "components": {
            "schemas": schemas,
            "messages": {**receive, **send, **streamed},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def fill_in(document: bytes, url: str) -> bytes:
    """The built document with the servers at this URL."""
    scheme, _, place = url.partition("://")
    members = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
    servers = {
        "websocket": _server(place, "wss" if scheme == "https" else "ws"),
        "sse": _server(place, scheme),
    }
    members["servers"] = msgspec.Raw(msgspec.json.encode(servers))
    return msgspec.json.format(msgspec.json.encode(members), indent=1) + b"\n"


def _server(place: str, protocol: str) -> Json:
    host, _, path = place.partition("/")
    return {
        "host": host,
        **({"pathname": f"/{path}"} if path else {}),
        "protocol": protocol,
        "description": f"{protocol}://{place}{PATH}",
        "security": [{"$ref": "#/components/securitySchemes/bearer"}],
    }


def _message(kind: type[msgspec.Struct]) -> Json:
    name = kind.__name__
    tag = kind.__struct_config__.tag
    return {
        "name": str(tag or name),
        "summary": (kind.__doc__ or name).strip().splitlines()[0],
        "payload": {"$ref": _REF.format(name=name)},
    }


def _operation(action: str, channel: str, messages: Json, summary: str) -> Json:
    return {
        "action": action,
        "summary": summary,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    }
