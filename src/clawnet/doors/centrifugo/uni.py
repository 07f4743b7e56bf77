"""Unidirectional streams over HTTP: connect once, then only listen. Made for `curl -N`.

uni_http_stream takes a ConnectRequest in the body, uni_sse in the URL or the body. Frames are
pushes without the wrapper: {"connect":…}, {"channel":…,"pub":…}, {} for a ping, {"disconnect":…}.
"""

from __future__ import annotations

from clawnet.core.errors import BadRequest, NotFound
from clawnet.doors.centrifugo.streams import (
    EVENTS,
    HEADERS,
    JSON_LINES,
    PROTOBUF,
    SSE_HEAD,
    Connecting,
    ConnectText,
    Envelope,
    Format,
    body_of,
    connect_of,
    door_of,
    encoding_of,
    opened,
    parameters_of,
    says_protobuf,
    streamed,
)
from clawnet.doors.centrifugo.uni_socket import connect_request
from clawnet.doors.centrifugo.wire import BadCommand, ConnectRequest
from clawnet.doors.http.answers import Answer, Plain
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request


@operation(
    tag="Centrifugo clients",
    is_open=True,
    is_stream=True,
    body=Connecting,
    answer=str,
    query={"cf_protocol": Format, "format": Format, "envelope": Envelope},
    errors=(NotFound,),
)
async def uni_http_stream(request: Request) -> Answer:
    """Follow channels by one request.

    The body is a ConnectRequest with a token, and the channels to follow in `subs`; the answer is
    pushes, one JSON object a line or each behind its length in protobuf.
    """
    parameters = parameters_of(request)
    is_protobuf = says_protobuf(request, parameters)
    key = "protobuf-bare-uni" if is_protobuf else "json-line-uni"
    encoding = encoding_of(door_of(request), key)
    asked = _asked(await body_of(request), is_protobuf=is_protobuf)
    transport = opened(request, encoding, kind="uni_http_stream", parameters=parameters)
    transport.client.connect_uni(asked)
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
async def uni_sse(request: Request) -> Answer:
    """Follow channels by server-sent events.

    `cf_connect` is a ConnectRequest as JSON; each push is the data of an event.
    """
    return await _uni_sse(request)


@operation(
    tag="Centrifugo clients",
    is_open=True,
    is_stream=True,
    body=Connecting,
    answer=str,
    media_type="text/event-stream; charset=utf-8",
    query={"envelope": Envelope},
    errors=(NotFound,),
)
async def uni_sse_posted(request: Request) -> Answer:
    """Follow channels by server-sent events, with the ConnectRequest in the body."""
    return await _uni_sse(request)


async def _uni_sse(request: Request) -> Answer:
    parameters = parameters_of(request)
    if request.method == "HEAD":
        return Plain(200, b"", [EVENTS, *HEADERS])
    encoding = encoding_of(door_of(request), "json-sse-uni")
    asked = _asked(await connect_of(request, parameters), is_protobuf=False)
    transport = opened(request, encoding, kind="uni_sse", parameters=parameters)
    transport.greet(SSE_HEAD)
    transport.client.connect_uni(asked)
    return streamed(request, transport, [EVENTS])


def _asked(message: bytes, *, is_protobuf: bool) -> ConnectRequest:
    """Raises BadRequest."""
    try:
        return connect_request(message, is_protobuf=is_protobuf)
    except BadCommand as error:
        raise BadRequest(
            f"What was sent is no ConnectRequest: {error}.",
            next='Send a JSON object such as {"token":"…","subs":{"public.lobby":{}}}.',
        ) from None
