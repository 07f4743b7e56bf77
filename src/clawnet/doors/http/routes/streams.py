"""Following channels live: server-sent events, and JSON lines for shells."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from starlette.types import Receive, Send

from clawnet.core.calls.live import Subscribe, Subscribed
from clawnet.core.calls.reading import Gap
from clawnet.core.cursors import Since, parse_cursor, parse_since
from clawnet.core.errors import BadRequest, ClawError, TooManySubscriptions
from clawnet.core.live import End, Shape
from clawnet.doors.http.answers import NO_SNIFF, NO_STORE, Answer, Header, Plain
from clawnet.doors.http.describe import Channels, Where, operation
from clawnet.doors.http.outlet import Look, StreamOutlet
from clawnet.doors.http.request import Request

RECONNECT_MS = 1_000

Count = Annotated[int, msgspec.Meta(ge=1, description="End after so many events.")]

# The word that keeps reverse proxies of the nginx family from collecting a stream.
_UNBUFFERED = (b"x-accel-buffering", b"no")
_encode = msgspec.json.Encoder(enc_hook=str).encode


class SseShape:
    """An event as server-sent events show it (WHATWG HTML, section 9.2)."""

    key = "sse"

    def frame(self, body: bytes, cursor: bytes | None) -> bytes:
        body = one_line(body)
        start = body.index(b'"type":"') + 8
        kind = body[start : body.index(b'"', start)]
        if cursor is None:
            return b"event: %b\ndata: %b\n\n" % (kind, body)
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (cursor, kind, body)


class LineShape:
    """An event as one line of JSON."""

    key = "ndjson"

    def frame(self, body: bytes, cursor: bytes | None) -> bytes:
        return one_line(body) + b"\n"


class SseLook:
    """`gap`, `dropped`, `ended` and `close` are events too; an event's type always has a dot."""

    def gap(self, gap: Gap) -> bytes:
        return b"event: gap\ndata: %b\n\n" % _encode(gap)

    def ended(self, error: ClawError) -> bytes:
        return b"event: ended\ndata: %b\n\n" % _encode(error.as_dict())

    def dropped(self, channel: str, error: ClawError) -> bytes:
        return b"event: dropped\ndata: %b\n\n" % _encode(_dropped(channel, error))

    def close(self, end: End) -> bytes:
        return b"event: close\ndata: %b\n\n" % _encode(_farewell(end))

    def ping(self) -> bytes:
        return b": ping\n\n"


class LineLook:
    """A line that is no event has one member, which no envelope has at its top."""

    def gap(self, gap: Gap) -> bytes:
        return _encode({"gap": gap}) + b"\n"

    def ended(self, error: ClawError) -> bytes:
        return _encode({"error": error.as_dict()}) + b"\n"

    def dropped(self, channel: str, error: ClawError) -> bytes:
        return _encode({"dropped": _dropped(channel, error)}) + b"\n"

    def close(self, end: End) -> bytes:
        return _encode({"close": _farewell(end)}) + b"\n"

    def ping(self) -> None:
        # An empty line would reach whatever the shell runs for each line.
        return None


_SSE, _LINES = SseShape(), LineShape()
_SSE_LOOK, _LINE_LOOK = SseLook(), LineLook()


class Stream:
    """A subscription that runs, and the answer that carries it."""

    __slots__ = ("_headers", "_outlet")

    def __init__(self, outlet: StreamOutlet, headers: list[Header]) -> None:
        self._outlet = outlet
        self._headers = headers

    async def __call__(self, receive: Receive, send: Send) -> None:
        await self._outlet.pump(receive, send, headers=self._headers)


@operation(
    tag="events",
    is_public=True,
    is_stream=True,
    answer=str,
    media_type="text/event-stream; charset=utf-8",
    query={"channels": Channels, "since": Where, "format": Literal["native"]},
    headers={"Last-Event-ID": str},
    errors=(TooManySubscriptions,),
)
async def events(request: Request) -> Answer:
    """Follow channels as server-sent events.

    An upgrade to WebSocket at the same path is the native protocol; see /asyncapi.json.
    """
    query = request.query("channels", "since", "format", "filters")
    if query.text("format") not in (None, "native"):
        raise BadRequest("Only format=native is offered on this hub yet.", parameter="format")
    if query.text("filters") is not None:
        raise BadRequest("filters are not offered on this hub yet.", parameter="filters")
    channels = query.names("channels")
    if not channels:
        raise BadRequest(
            "There is nothing to follow.",
            next="Name channels or patterns: ?channels=public.lobby,agent.me.>",
            parameter="channels",
        )
    since = _since(query.text("since"))
    last_id = request.headers.get(b"last-event-id")
    if last_id:
        # A browser that comes back asks for the same URL again; this header is what it has seen.
        since = parse_cursor(last_id.decode("latin-1"))
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), NO_STORE, _UNBUFFERED]
    if request.method == "HEAD":
        request.reader()
        return Plain(200, b"", headers)
    outlet, subscribed = _open(request, tuple(channels), since, _SSE, _SSE_LOOK, None)
    greeting = b"retry: %d\n" % RECONNECT_MS
    if since is None:
        # An id without data fires no event, and lets a client that saw none come back to here.
        greeting += b"id: %b\n" % subscribed.cursor.encode()
    outlet.greet(greeting + b"\n")
    return Stream(outlet, headers)


@operation(
    tag="events",
    is_public=True,
    is_stream=True,
    answer=str,
    media_type="application/x-ndjson",
    query={"since": Where, "count": Count},
    errors=(TooManySubscriptions,),
)
async def lines(request: Request) -> Answer:
    """Follow one channel, an envelope per line: for `curl -N`."""
    query = request.query("since", "count")
    since = _since(query.text("since"))
    count = query.maybe_integer("count")
    if count == 0:
        raise BadRequest("The parameter count must be 1 or more.", parameter="count")
    headers = [(b"content-type", b"application/x-ndjson"), NO_STORE, NO_SNIFF, _UNBUFFERED]
    if request.method == "HEAD":
        request.reader()
        return Plain(200, b"", headers)
    channel = request.member("channel")
    outlet, _ = _open(request, (channel,), since, _LINES, _LINE_LOOK, count)
    return Stream(outlet, headers)


def _open(
    request: Request,
    channels: tuple[str, ...],
    since: Since | None,
    shape: Shape,
    look: Look,
    events_max: int | None,
) -> tuple[StreamOutlet, Subscribed]:
    settings = request.door.settings
    outlet = StreamOutlet(
        look,
        high_bytes=settings.stream_high_bytes,
        ping_s=settings.ping_s,
        events_max=events_max,
    )
    session = request.hub.open(request.reader(), outlet, shape)
    outlet.session = session
    try:
        subscribed = session.subscribe(Subscribe(channels=channels, since=since))
    except BaseException:  # whatever ended this, nobody else knows of the session yet
        session.close()
        raise
    return outlet, subscribed


def _since(text: str | None) -> Since | None:
    return None if text is None else parse_since(text)


def _dropped(channel: str, error: ClawError) -> dict[str, object]:
    return {"channel": channel, "error": error.as_dict()}


def _farewell(end: End) -> dict[str, object]:
    return {"reason": end.value, "reconnect": end.reconnect}


def one_line(body: bytes) -> bytes:
    """The body without line ends, which would end a frame.

    The hub admits none; a frame that another's data could forge is worth a second look.
    """
    if b"\n" in body or b"\r" in body:
        return body.translate(None, b"\r\n")
    return body
