"""The seam in front of every HTTP request: limits, the gate, and the hand-over of upgrades.

A subclass of uvicorn's HttpToolsProtocol, given to it as `http=`. uvicorn
alone has no limit on a request's head, no timer before the first response,
drops the bytes behind an upgrade request and lets `ws=` classes skip every
check. What a request means is the ASGI app's affair.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast

import httptools
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from clawnet.core.callers import Caller
from clawnet.core.errors import BadRequest, ClawError, HeadersTooLarge, NotFound, Unavailable
from clawnet.core.live import End
from clawnet.doors import problem
from clawnet.doors.connections import Connection, Connections, Standing
from clawnet.doors.gate import Admitted, Gate, Head, admit, read_head

HEAD_PIECE_BYTES = 2_048
BODY_PIECE_BYTES = 16_384
"""How much is parsed at once. A parser that was given everything that had arrived would start
every pipelined request in it: 256 KB of them held the loop for 0.3 s."""

_log = logging.getLogger(__name__)


class Upgrade(NamedTuple):
    """A WebSocket upgrade request that the gate admitted. Header names are in lower case."""

    path: str
    query: str
    method: str
    http_version: str
    headers: list[tuple[bytes, bytes]]
    admitted: Admitted


class LiveProtocol(Connection, Protocol):
    """What takes over a connection. It writes its own handshake in connection_made()."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, with the transport that spoke HTTP until now."""

    def data_received(self, data: bytes) -> None:
        """Bytes, the first of which may have come with the upgrade request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An upgrade refused with a status of its own."""

    error: ClawError
    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()


UpgradeDoor = Callable[[Upgrade], LiveProtocol | Refusal]
"""Accepts an upgrade with a protocol, or refuses it. Raises ClawError to refuse as well."""


@dataclass(slots=True, kw_only=True)
class Seam:
    """What all connections of a server share.

    `upgrades` maps an exact path to the door that takes its WebSocket
    upgrades. `authenticate` tells by a token whether a connection counts as
    unauthenticated; the app authenticates each request itself.
    """

    gate: Gate
    connections: Connections
    upgrades: Mapping[str, UpgradeDoor] = field(default_factory=dict)
    authenticate: Callable[[str], Caller] | None = None
    is_stopping: bool = False


class HubProtocol(HttpToolsProtocol):
    """One connection as long as it speaks HTTP.

    Every request's scope has `state["admitted"]`, the gate's verdict
    (clawnet.doors.gate.Admitted), `state["is_closing"]`, which tells at any
    time whether the connection ends, and `client` as trusted proxies told it.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        seam: Seam,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # Whatever handlers somebody hangs up: the address of a browser's stream holds a token.
        self.access_log = False
        self.seam = seam
        self.wheel_slot = -1
        self.standing = Standing.SILENT
        self.address: str | None = None
        self._is_in_head = True
        self._head_bytes = 0
        self._head_since_s = seam.connections.wheel.now_s
        self._held = bytearray()
        self._body_moved = False
        self._asked: tuple[Head, Admitted | ClawError] | None = None

    # --- the connection -----------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connections = self.seam.connections
        peer = self._peer()
        # All connections of a proxy come from its address: there it says nothing.
        self.address = None if self.seam.gate.is_proxy(peer) else peer
        if self.seam.is_stopping or not connections.enter(self):
            self._answer(
                Unavailable("The hub has no room for another connection.", retry_after_s=1.0)
            )
            return
        connections.wheel.set(self, connections.settings.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self.seam.connections.leave(self)
        self._held.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._held:
            self._held += data
        elif not self.transport.is_closing():
            rest = self._feed(data)
            if rest:
                self._held += rest

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._held and not self.pipeline and not self.transport.is_closing():
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._held and not self.transport.is_closing():
            data = bytes(self._held)
            self._held.clear()
            rest = self._feed(data)
            if rest:
                self._held += rest

    def _feed(self, data: bytes) -> bytes:
        """Parse in pieces; what is left when requests queue up waits for their responses."""
        at = 0
        while at < len(data):
            if self.pipeline:
                self.flow.pause_reading()
                return data[at:]
            # In a body, too: each piece of it sets the count back, trailers do not.
            room = self.seam.connections.settings.head_max_bytes - self._head_bytes
            if room <= 0:
                self._answer(HeadersTooLarge("The request's head is too large."))
                return b""
            size = min(HEAD_PIECE_BYTES if self._is_in_head else BODY_PIECE_BYTES, room)
            piece = data if size >= len(data) and not at else data[at : at + size]
            # Counted before: the callbacks set it back when this piece ends the head.
            self._head_bytes += len(piece)
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    self._hand_over(piece[upgrade.args[0] :] + data[at + len(piece) :])
                elif (cycle := self._cycle()) is not None:
                    # An upgrade that nobody offers (h2c) is ignored, but what follows is not HTTP.
                    cycle.keep_alive = False
                return b""
            except httptools.HttpParserError as error:
                self._unreadable(error)
                return b""
            if self.transport.is_closing():
                return b""
            at += len(piece)
        return b""

    # --- parser callbacks ---------------------------------------------------

    def on_message_begin(self) -> None:
        if not self._is_in_head:
            # A further request. What of this piece belongs to the one before is not known;
            # counting from the next piece on is generous by one piece at most.
            self._is_in_head = True
            self._head_bytes = 0
            self._head_since_s = self.seam.connections.wheel.now_s
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._body_moved = True
        self._head_bytes = 0
        verdict = self._verdict(is_upgrade=self._is_websocket())
        self._believe(verdict)
        app = self.app
        if isinstance(verdict, ClawError):
            self.app = _refusing(verdict)
        else:
            port = self.client[1] if self.client else 0
            self.scope["client"] = (verdict.client, port)
            self.scope["state"]["admitted"] = verdict
            # The transport's own method: one of this object would refer back to it for ever.
            self.scope["state"]["is_closing"] = self.transport.is_closing
        try:
            super().on_headers_complete()
        finally:
            self.app = app

    def on_body(self, body: bytes) -> None:
        self._body_moved = True
        self._head_bytes = 0
        super().on_body(body)

    def _should_upgrade_to_ws(self) -> bool:
        return True

    def _is_websocket(self) -> bool:
        return bool(self.parser.should_upgrade()) and self._should_upgrade()

    # --- gate ---------------------------------------------------------------

    def _peer(self) -> str:
        return self.client[0] if self.client else ""

    def _verdict(self, *, is_upgrade: bool) -> Admitted | ClawError:
        head = read_head(
            peer=self._peer(),
            method=self.parser.get_method().decode("ascii"),
            is_upgrade=is_upgrade,
            headers=self.headers,
        )
        if self._asked is not None and self._asked[0] == head:
            # The requests of one connection are mostly alike.
            return self._asked[1]
        verdict: Admitted | ClawError
        try:
            verdict = admit(head, self.seam.gate)
        except ClawError as error:
            verdict = error
        self._asked = (head, verdict)
        return verdict

    def _believe(self, verdict: Admitted | ClawError) -> None:
        """Take note that the client said something complete, and whether it showed a token."""
        if self.standing is Standing.KNOWN:
            return
        connections = self.seam.connections
        connections.promote(self, Standing.ANONYMOUS)
        if isinstance(verdict, ClawError) or self.seam.authenticate is None:
            return
        token = bearer_of(self.headers)
        if token is not None:
            try:
                self.seam.authenticate(token)
            except ClawError:
                return
            connections.promote(self, Standing.KNOWN)

    # --- hand-over ----------------------------------------------------------

    def _hand_over(self, trailing: bytes) -> None:
        """Give the transport to the door that takes upgrades on this path."""
        if self._is_answering():
            # An upgrade behind an unanswered request: no answer could be told from the other.
            self.transport.close()
            return
        verdict = self._verdict(is_upgrade=True)
        outcome: LiveProtocol | Refusal
        try:
            if isinstance(verdict, ClawError):
                raise verdict
            if self.seam.is_stopping:
                raise Unavailable("The hub is stopping.", retry_after_s=1.0)
            url = httptools.parse_url(self.url)
            path = (url.path or b"").decode("ascii")
            door = self.seam.upgrades.get(path)
            if door is None:
                raise NotFound(
                    "There is no WebSocket on this path.", next="Use /api/v1/events/stream."
                )
            outcome = door(
                Upgrade(
                    path=path,
                    query=(url.query or b"").decode("ascii"),
                    method=self.parser.get_method().decode("ascii"),
                    http_version=self.parser.get_http_version(),
                    headers=self.headers,
                    admitted=verdict,
                )
            )
        except ClawError as error:
            self._answer(error)
            return
        except (UnicodeError, httptools.HttpParserError):
            self._answer(BadRequest("The request's target is not a URL."))
            return
        if isinstance(outcome, Refusal):
            self._answer(outcome.error, status=outcome.status, headers=outcome.headers)
            return
        self._become(outcome, trailing)

    def _become(self, live: LiveProtocol, trailing: bytes) -> None:
        transport, seam = self.transport, self.seam
        seam.connections.leave(self)
        self.connections.discard(self)
        self._unset_keepalive_if_required()
        # The parser and this object refer to each other: broken here, both are freed at once
        # (2.6 KB for each connection) and not by the next collection.
        self.parser = None  # type: ignore[assignment]
        if not seam.connections.enter(live):
            transport.write(
                problem.response_of(
                    Unavailable("The hub has no room for another connection.", retry_after_s=1.0)
                )
            )
            transport.close()
            live.abort()
            return
        transport.set_protocol(cast(asyncio.Protocol, live))
        live.connection_made(transport)
        if trailing:
            live.data_received(trailing)

    # --- refusals -----------------------------------------------------------

    def _cycle(self) -> RequestResponseCycle | None:
        """The newest request; uvicorn's own annotation hides that there may be none."""
        return self.cycle

    def _is_answering(self) -> bool:
        cycle = self._cycle()
        return cycle is not None and not cycle.response_complete

    def _unreadable(self, error: Exception) -> None:
        cause = error.__context__
        if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(
            cause, (httptools.HttpParserError, UnicodeError, AttributeError)
        ):
            # uvicorn's callbacks fail on strange targets; anything else is a defect of ours.
            _log.error("reading a request failed", exc_info=cause)
        self.send_400_response("The request is not HTTP.")

    def send_400_response(self, msg: str) -> None:
        self._answer(BadRequest(msg, next="Send an HTTP/1.1 request."))

    def _answer(
        self,
        error: ClawError,
        *,
        status: int | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        """Answer outside the app and end the connection."""
        if not self._is_answering():
            self.transport.write(problem.response_of(error, status=status, headers=headers))
        # Else the answer would land inside an earlier one.
        self.transport.close()

    # --- what the registry calls --------------------------------------------

    def on_time(self) -> float | None:
        """Close a connection whose head or body does not come."""
        settings = self.seam.connections.settings
        if self.transport.is_closing():
            return None
        if self._is_in_head:
            waited_s = self.seam.connections.wheel.now_s - self._head_since_s
            if waited_s < settings.head_timeout_s:
                return settings.head_timeout_s - waited_s
            self.transport.close()
            return None
        cycle = self._cycle()
        if cycle is not None and cycle.more_body and not self.flow.read_paused:
            if not self._body_moved:
                self.transport.close()
                return None
            self._body_moved = False
            return settings.body_stall_s
        return settings.head_timeout_s

    def stop_reading(self) -> None:
        self.flow.pause_reading()

    def close(self, end: End) -> None:
        self.shutdown()

    def abort(self) -> None:
        self.transport.abort()


def bearer_of(headers: list[tuple[bytes, bytes]]) -> str | None:
    """The token of an Authorization header; None if there is none or it is of another scheme."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return token.strip().decode("latin-1")
    return None


def _refusing(error: ClawError) -> Any:
    """An ASGI app that answers anything with this error and ends the connection."""

    async def refuse(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        body = problem.body_of(error)
        headers = [
            *problem.headers_of(error),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return refuse
