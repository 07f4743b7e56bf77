"""Engine.IO by polling: GET fetches what is sent, POST brings what the client says.

Statuses, bodies and what ends a session are those of engine.io's server (transports/polling.ts).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs

import msgspec
from starlette.types import Receive, Send

from clawnet.core.errors import Forbidden, NotFound, PayloadTooLarge
from clawnet.doors.connections import Connection
from clawnet.doors.gate import check_origin, read_head
from clawnet.doors.http.answers import JSON, NO_SNIFF, NO_STORE, Answer, Plain, encode
from clawnet.doors.http.body import read_body
from clawnet.doors.http.describe import operation
from clawnet.doors.http.outlet import transport_of
from clawnet.doors.http.request import Request, gone_away
from clawnet.doors.socketio.door import SocketioDoor
from clawnet.doors.socketio.engine import EngineLink
from clawnet.doors.socketio.packets import CLOSE, messages_of
from clawnet.doors.ws.socket import COMMANDS_PER_TURN

TEXT = (b"content-type", b"text/plain; charset=UTF-8")
HTML = (b"content-type", b"text/html")
PIECE_BYTES = 65_536

UNKNOWN_TRANSPORT = (0, "Transport unknown")
UNKNOWN_SID = (1, "Session ID unknown")
BAD_HANDSHAKE_METHOD = (2, "Bad handshake method")
BAD_REQUEST = (3, "Bad request")
FORBIDDEN = (4, "Forbidden")
UNSUPPORTED_PROTOCOL = (5, "Unsupported protocol version")

Protocol = Annotated[Literal["4"], msgspec.Meta(description="The version of Engine.IO.")]
Transport = Annotated[
    Literal["polling"],
    msgspec.Meta(description="A WebSocket is opened at this path with `transport=websocket`."),
]
Sid = Annotated[
    str, msgspec.Meta(description="The session, as the first answer named it; none for that one.")
]
QUERY: Mapping[str, Any] = {"EIO": Protocol, "transport": Transport, "sid": Sid}


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """What engine.io's server says for a request that it does not take."""

    code: Annotated[int, msgspec.Meta(ge=0, le=5)]
    message: str


@operation(
    tag="Socket.IO clients",
    is_open=True,
    answer=str,
    media_type="text/plain; charset=UTF-8",
    query=QUERY,
    refusal=Refused,
    refusal_statuses=(400, 403),
)
async def receive(request: Request) -> Answer:
    """Begin a Socket.IO session, or fetch what was sent to it.

    Without `sid` the answer opens a session; with it, it is what waits for the client, as soon as
    something does: Engine.IO messages, joined by the character U+001E.
    """
    door = _door_of(request)
    query = _query_of(request)
    refused = _check(request, query)
    if refused is not None:
        return refused
    sid = query.get("sid")
    if sid is None:
        if query.get("EIO") != "4":
            return refusal(UNSUPPORTED_PROTOCOL)
        admitted = request.scope.get("state", {}).get("admitted")
        address = "" if admitted is None else admitted.client
        link = door.open(address=address, is_local=request.is_local)
        return Plain(200, link.hello(upgrades=["websocket"]), (TEXT, NO_STORE, NO_SNIFF))
    link_or = _link_of(door, sid)
    return link_or if isinstance(link_or, Plain) else Polled(door, link_or)


@operation(
    tag="Socket.IO clients",
    is_open=True,
    body=str,
    body_media_type="text/plain; charset=UTF-8",
    answer=str,
    media_type="text/html",
    query=QUERY,
    errors=(PayloadTooLarge,),
    refusal=Refused,
    refusal_statuses=(400, 403),
)
async def send(request: Request) -> Answer:
    """Say something in a Socket.IO session: Engine.IO messages, joined by U+001E."""
    door = _door_of(request)
    query = _query_of(request)
    refused = _check(request, query)
    if refused is not None:
        return refused
    sid = query.get("sid")
    if sid is None:
        return refusal(BAD_HANDSHAKE_METHOD)
    link = _link_of(door, sid)
    if isinstance(link, Plain):
        return link
    if link.is_posting:
        link.fail("data request overlap")
        return refusal(BAD_REQUEST)
    link.is_posting = True
    try:
        limit = door.settings.max_http_buffer_bytes
        if not link.is_in:
            # Who has not said who it is may not have the hub hold much.
            limit = min(limit, door.connections.settings.message_max_bytes)
        payload = await read_body(request.receive, request.headers, max_bytes=limit)
        if not await _heard(link, payload):
            return refusal(BAD_REQUEST)
    finally:
        link.is_posting = False
    return Plain(200, b"ok", (HTML, NO_STORE, NO_SNIFF))


async def _heard(link: EngineLink, payload: bytes) -> bool:
    """Have a body's messages handled, each when it may be; whether the session stands them."""
    was_closed = False
    for count, message in enumerate(messages_of(payload), 1):
        while link.must_wait() and not link.is_over:
            await link.room()
        if link.is_over:
            # A goodbye may be said twice in one body, and what is said behind ours is no fault.
            return not link.is_failed and (was_closed or link.is_polling)
        was_closed = message == CLOSE
        link.hear(message)
        if count % COMMANDS_PER_TURN == 0:
            # A body may hold half a million.
            await asyncio.sleep(0)
    return not link.is_failed


class Polled:
    """The answer to a GET: what waits, as soon as something does."""

    __slots__ = ("_door", "_link", "is_sending", "transport", "waiter")

    def __init__(self, door: SocketioDoor, link: EngineLink) -> None:
        self._door = door
        self._link = link
        self.waiter: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport | None = None
        self.is_sending = False

    async def __call__(self, receive: Receive, send: Send) -> None:
        link = self._link
        self.transport = transport_of(send)
        if self.transport is not None:
            connection: Connection = self.transport.get_protocol()  # type: ignore[assignment]
            self._door.connections.promote(connection, link.standing)
        if not link.poll(self):
            await refusal(BAD_REQUEST)(receive, send)
            return
        try:
            if not link.is_due:
                await self._wait(receive)
            payload = link.take()
            if payload is None:
                await refusal(UNKNOWN_SID)(receive, send)
            else:
                await self._send(send, payload)
        finally:
            link.polled(self)

    async def _wait(self, receive: Receive) -> None:
        """Until there is something; a ping is, at the latest."""
        self.waiter = asyncio.get_running_loop().create_future()
        watch = asyncio.create_task(gone_away(receive))
        watch.add_done_callback(self._gone)
        try:
            await self.waiter
        finally:
            self.waiter = None
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    def _gone(self, watch: asyncio.Task[None]) -> None:
        """The client dropped its poll: as with engine.io's server, the session is over."""
        if not watch.cancelled() and self.waiter is not None:
            self._link.fail("the poll was dropped")

    async def _send(self, send: Send, payload: bytes) -> None:
        """In pieces, so that a reader who is slow but reads is seen to read."""
        length = (b"content-length", b"%d" % len(payload))
        headers = [TEXT, NO_STORE, NO_SNIFF, length]
        self.is_sending = True
        try:
            # No deadline: the hub ends a session that makes no progress, which cuts this.
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for at in range(0, len(payload), PIECE_BYTES):
                more = at + PIECE_BYTES < len(payload)
                piece = payload[at : at + PIECE_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": more})
                self._link.taken()
        finally:
            self.is_sending = False


def refusal(what: tuple[int, str]) -> Plain:
    """An answer as engine.io's server gives it."""
    code, message = what
    status = 403 if what is FORBIDDEN else 400
    return Plain(status, encode({"code": code, "message": message}), (JSON, NO_STORE, NO_SNIFF))


def _door_of(request: Request) -> SocketioDoor:
    """Raises NotFound where there is none."""
    door = request.door.socketio
    if door is None:
        raise NotFound("Socket.IO is not spoken at this address.")
    return door


def _query_of(request: Request) -> dict[str, str]:
    """The parameters, the first of each; clients add their own (`t`, `b64`)."""
    raw: bytes = request.scope.get("query_string", b"")
    found = parse_qs(raw.decode("latin-1"), keep_blank_values=True)
    return {name: values[0] for name, values in found.items()}


def _check(request: Request, query: Mapping[str, str]) -> Plain | None:
    """What is wrong with a request of whatever kind, in the order of engine.io's server."""
    if query.get("transport") != "polling":
        # A WebSocket is no request of this app; what names one here is no upgrade.
        known = query.get("transport") == "websocket"
        return refusal(BAD_REQUEST if known else UNKNOWN_TRANSPORT)
    if request.method not in ("GET", "POST"):
        return refusal(BAD_HANDSHAKE_METHOD)
    admitted = request.scope.get("state", {}).get("admitted")
    head = read_head(
        peer="", method=request.method, is_upgrade=False, headers=request.scope["headers"]
    )
    host, port = ("", None) if admitted is None else (admitted.host, admitted.port)
    try:
        # The gate asks it of a POST; here a GET begins something, too.
        check_origin(head, request.door.origins, host=host, port=port)
    except Forbidden:
        return refusal(FORBIDDEN)
    return None


def _link_of(door: SocketioDoor, sid: str) -> EngineLink | Plain:
    link = door.links.by_secret.get(sid)
    if link is None:
        return refusal(UNKNOWN_SID)
    # It has gone over to a WebSocket.
    return link if link.is_polling else refusal(BAD_REQUEST)
