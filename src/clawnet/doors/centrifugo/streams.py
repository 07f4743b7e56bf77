"""A Centrifugo client on a streamed HTTP response: what it is told goes out here, and what it says
comes in by POST /emulation (emulation.py).

http_stream: one reply a line, or each behind its length in protobuf. sse: server-sent events.
Status, headers and framing are those of centrifuge's handler_http_stream.go and handler_sse.go.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal
from urllib.parse import unquote_to_bytes

import msgspec

from clawnet.core.errors import BadRequest, NotFound
from clawnet.doors.centrifugo.client import Client
from clawnet.doors.centrifugo.door import CentrifugoDoor
from clawnet.doors.centrifugo.json import JsonEncoding
from clawnet.doors.centrifugo.protobuf import ProtobufEncoding
from clawnet.doors.centrifugo.transport import Streamed, StreamTransport
from clawnet.doors.centrifugo.wire import Encoding
from clawnet.doors.gate import check_origin, read_head
from clawnet.doors.http.answers import NO_SNIFF, Answer, Header, Plain
from clawnet.doors.http.body import read_body
from clawnet.doors.http.describe import operation
from clawnet.doors.http.query import PARAMETERS_MAX
from clawnet.doors.http.request import Request

BINARY = b"application/octet-stream"
SSE_HEAD = b"\r\n"
"""Comes before everything, so that a browser sees the stream open."""

HEADERS: list[Header] = [
    # Words of Centrifugo; reverse proxies of the nginx family collect a stream without the first.
    (b"x-accel-buffering", b"no"),
    (b"cache-control", b"private, no-cache, no-store, must-revalidate, max-age=0"),
    (b"pragma", b"no-cache"),
    (b"expire", b"0"),
    NO_SNIFF,
]
JSON_LINES = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
PROTOBUF = (b"content-type", BINARY)

_SECRETS = frozenset({"token", "access_token", "api_key", "apikey", "authorization", "jwt"})
ConnectText = Annotated[str, msgspec.Meta(description="The connect command(s), URL-encoded.")]
Envelope = Annotated[
    Literal["raw"],
    msgspec.Meta(description="Show the bare payload on the hub's own channels, too."),
]
Format = Annotated[
    Literal["json", "protobuf"],
    msgspec.Meta(description="As Content-Type application/octet-stream says."),
]


class Connecting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who connects, and by what. Members that are not known are passed over."""

    token: str = ""
    name: str = ""
    version: str = ""
    data: Any = None
    subs: Annotated[
        dict[str, Any],
        msgspec.Meta(description="Channels, each with `recover`, `offset` and `epoch` or {}."),
    ] = {}


class ConnectCommand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client says first; further commands may follow, one a line."""

    id: Annotated[int, msgspec.Meta(ge=1)]
    connect: Connecting


def line(body: bytes) -> bytes:
    """A framing: an object a line."""
    return body + b"\n"


def sse(body: bytes) -> bytes:
    """A framing: a server-sent event. The encoding has left no line's end inside."""
    return b"data: %b\n\n" % body


def bare(body: bytes) -> bytes:
    """A framing: none, for messages that have their length before them."""
    return body


@operation(
    tag="Centrifugo clients",
    is_open=True,
    is_stream=True,
    body=ConnectCommand,
    answer=str,
    query={"cf_protocol": Format, "format": Format, "envelope": Envelope},
    errors=(NotFound,),
)
async def http_stream(request: Request) -> Answer:
    """Connect a Centrifugo client by http_stream.

    The body is the connect command, in JSON or in protobuf; the answer is replies and pushes, one
    JSON object a line or each behind its length. Further commands go to /emulation.
    """
    parameters = parameters_of(request)
    is_protobuf = says_protobuf(request, parameters)
    encoding = encoding_of(door_of(request), "protobuf-bare" if is_protobuf else "json-line")
    message = await body_of(request)
    transport = opened(request, encoding, kind="http_stream", parameters=parameters)
    transport.take(message)
    return streamed(request, transport, [PROTOBUF if is_protobuf else JSON_LINES])


@operation(
    tag="Centrifugo clients",
    is_open=True,
    is_stream=True,
    answer=str,
    media_type="text/event-stream; charset=utf-8",
    query={"cf_connect": ConnectText, "envelope": Envelope},
    errors=(NotFound,),
)
async def sse_stream(request: Request) -> Answer:
    """Connect a Centrifugo client by server-sent events.

    Each reply and push is the data of an event. Further commands go to /emulation.
    """
    return await _sse(request)


@operation(
    tag="Centrifugo clients",
    is_open=True,
    is_stream=True,
    body=ConnectCommand,
    answer=str,
    media_type="text/event-stream; charset=utf-8",
    query={"envelope": Envelope},
    errors=(NotFound,),
)
async def sse_stream_posted(request: Request) -> Answer:
    """Connect a Centrifugo client by server-sent events, with the command in the body."""
    return await _sse(request)


async def _sse(request: Request) -> Answer:
    parameters = parameters_of(request)
    if request.method == "HEAD":
        return Plain(200, b"", [EVENTS, *HEADERS])
    encoding = encoding_of(door_of(request), "json-sse")
    message = await connect_of(request, parameters)
    transport = opened(request, encoding, kind="sse", parameters=parameters)
    transport.greet(SSE_HEAD)
    transport.take(message)
    return streamed(request, transport, [EVENTS])


# --- what all streams of this door need ------------------------------------------


def door_of(request: Request) -> CentrifugoDoor:
    """Raises NotFound where there is none."""
    door = request.door.centrifugo
    if door is None:
        raise NotFound("Centrifugo's protocol is not spoken at this address.")
    return door


def encoding_of(door: CentrifugoDoor, key: str) -> Encoding:
    """One encoding for all connections of a kind: frames are built once for each."""
    found = door.encodings.get(key)
    if found is None:
        form, framing, *rest = key.split("-")
        of = {"line": line, "sse": sse, "bare": bare}[framing]
        kind = ProtobufEncoding if form == "protobuf" else JsonEncoding
        found = door.encodings[key] = kind(of, is_uni=rest == ["uni"])
        assert found.key == key
    return found


def opened(
    request: Request, encoding: Encoding, *, kind: str, parameters: dict[str, str]
) -> StreamTransport:
    """A transport with its client, to be given what the client says first. Nothing may be awaited
    between this and the answer: only the answer ends the client when the connection does."""
    door = door_of(request)
    transport = StreamTransport(door, encoding, high_bytes=request.door.settings.stream_high_bytes)
    transport.client = Client(
        door,
        transport,
        transport=kind,
        is_local=request.is_local,
        is_raw=parameters.get("envelope") == "raw",
        is_uni=kind.startswith("uni_"),
    )
    return transport


def streamed(request: Request, transport: StreamTransport, headers: list[Header]) -> Streamed:
    """The answer that carries an opened transport."""
    return Streamed(transport, headers + HEADERS, request.door.stopped())


def parameters_of(request: Request) -> dict[str, str]:
    """The query string of a request. Raises BadRequest, for a token among the parameters too."""
    return parsed(request.scope.get("query_string", b""))


def parsed(raw: bytes) -> dict[str, str]:
    """The parameters of a query string; of one that comes twice, the first. Unknown ones are no
    error, as in Centrifugo: applications add their own to the address. Raises BadRequest."""
    parts = [part for part in raw.split(b"&") if part]
    if len(parts) > PARAMETERS_MAX:
        raise BadRequest(f"The query string has more than {PARAMETERS_MAX} parameters.")
    found: dict[str, str] = {}
    for part in parts:
        name, _, value = part.partition(b"=")
        key = _plain(name)
        if key.lower() in _SECRETS:
            raise BadRequest(
                "A token does not belong in a URL, where logs and histories keep it.",
                next="Put it into the connect command, and replace this one.",
            )
        found.setdefault(key, _plain(value))
    return found


def says_protobuf(request: Request, parameters: dict[str, str]) -> bool:
    """Whether the client speaks protobuf; else JSON, whatever its content type is."""
    said = parameters.get("cf_protocol") or parameters.get("format")
    if said is not None:
        return said == "protobuf"
    return is_binary(request)


def is_binary(request: Request) -> bool:
    """Whether the body is said to be protobuf."""
    given = request.headers.get(b"content-type", b"")
    return given.partition(b";")[0].strip().lower() == BINARY


async def body_of(request: Request) -> bytes:
    """The body, as large as a WebSocket's message may be. Raises PayloadTooLarge, ClientGone."""
    limit = door_of(request).connections.settings.message_max_bytes
    return await read_body(request.receive, request.headers, max_bytes=limit)


async def connect_of(request: Request, parameters: dict[str, str]) -> bytes:
    """What a client of server-sent events says first: in the URL, since a browser's EventSource
    can do no other, or in the body. Raises BadRequest, Forbidden, PayloadTooLarge, ClientGone."""
    if request.method == "POST":
        return await body_of(request)
    refuse_other_sites(request, request.door.origins)
    message = parameters.get("cf_connect", "")
    if not message:
        raise BadRequest(
            "There is no connect command.", next="Give it as ?cf_connect=<URL-encoded JSON>."
        )
    return message.encode()


def refuse_other_sites(request: Request, allowed: Collection[str]) -> None:
    """A page of another site may not connect in its user's stead: this GET can do what a POST
    can. Raises Forbidden."""
    admitted = request.scope.get("state", {}).get("admitted")
    head = read_head(
        peer="", method=request.method, is_upgrade=False, headers=request.scope["headers"]
    )
    host, port = ("", None) if admitted is None else (admitted.host, admitted.port)
    check_origin(head, allowed, host=host, port=port)


def _plain(text: bytes) -> str:
    try:
        return unquote_to_bytes(text.replace(b"+", b" ")).decode()
    except UnicodeError:
        raise BadRequest("The query string is not UTF-8.") from None
