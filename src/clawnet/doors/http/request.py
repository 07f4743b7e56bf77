"""A request of the routes behind the router: who asks, what for, and the call to the hub."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.types import Receive, Scope, Send

from clawnet.core.callers import Caller
from clawnet.core.errors import BadRequest, Unauthenticated, Unavailable
from clawnet.doors.http.body import (
    CALL_MAX_BYTES,
    ClientGone,
    check_numbers,
    decode,
    need_json,
    read_body,
)
from clawnet.doors.http.query import Query, decoded
from clawnet.hub.hub import Hub

if TYPE_CHECKING:
    from clawnet.doors.http.app import HttpDoor

T = TypeVar("T")

# What would mean two different things if it came twice.
_SINGLE = frozenset(
    b"authorization content-type content-length idempotency-key last-event-id".split()
)


class Request:
    """One request. Path members stay encoded until member() is asked for them."""

    __slots__ = ("door", "headers", "hub", "method", "receive", "scope", "send")

    def __init__(self, door: HttpDoor, scope: Scope, receive: Receive, send: Send) -> None:
        self.door = door
        self.hub: Hub = door.hub
        self.scope = scope
        self.receive = receive
        self.send = send
        self.method: str = scope["method"]
        self.headers = header_map(scope)

    @property
    def is_local(self) -> bool:
        """The gate's verdict; without a gate in front nothing is local."""
        admitted = self.scope.get("state", {}).get("admitted")
        return admitted is not None and bool(admitted.is_local)

    def caller(self) -> Caller:
        """Who asks. Raises Unauthenticated without a valid token."""
        return self.hub.authenticate(bearer(self.headers))

    def reader(self) -> Caller:
        """Who asks; without any token a caller who may read what anyone may read.

        A token that is not valid is refused: it never makes its bearer anonymous.
        """
        if b"authorization" in self.headers:
            return self.caller()
        return self.hub.anonymous(is_local=self.is_local)

    def member(self, name: str) -> str:
        """A part of the path. Raises BadRequest."""
        return decoded(self.scope["path_params"][name], what=f"The {name} in the path")

    def query(self, *known: str) -> Query:
        """The query string, which may hold these parameters and no other. Raises BadRequest."""
        return Query(self.scope.get("query_string", b""), known)

    async def body(self, decoder: msgspec.json.Decoder[T], *, default: T | None = None) -> T:
        """The body as a typed value; `default` is for an empty one. Raises BadRequest,
        UnsupportedMediaType, PayloadTooLarge, ClientGone."""
        if default is None:
            need_json(self.headers)
        raw = await read_body(self.receive, self.headers, max_bytes=CALL_MAX_BYTES)
        if default is not None:
            if not raw:
                return default
            need_json(self.headers)
        value = decode(decoder, raw)
        check_numbers(value)
        return value

    async def call(self, request: Any, caller: Caller) -> Any:
        """Ask the hub, which looks at the caller anew: its body may have taken a while to come."""
        return await self.hub.call(request, caller=caller)

    async def attended(self, work: Coroutine[Any, Any, T]) -> T:
        """Await something long; give it up when the client goes or the hub stops.

        Raises ClientGone, Unavailable.
        """
        working = asyncio.create_task(work)
        gone = asyncio.create_task(gone_away(self.receive))
        stopped = self.door.stopped()
        try:
            # No deadline: the hub bounds every wait that a request can ask for.
            waited: set[asyncio.Future[Any]] = {working, gone, stopped}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            if gone.done():
                raise ClientGone
            raise Unavailable("The hub is stopping.", retry_after_s=1.0)
        finally:
            working.cancel()
            gone.cancel()
            await asyncio.gather(working, gone, return_exceptions=True)


async def gone_away(receive: Receive) -> None:
    """Ends when the client disconnects. What it still sends is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass


def header_map(scope: Scope) -> Mapping[bytes, bytes]:
    """The headers by name. Raises BadRequest for two of a kind where only one can hold."""
    pairs: list[tuple[bytes, bytes]] = scope["headers"]
    headers = dict(pairs)
    if len(headers) != len(pairs):
        seen: set[bytes] = set()
        for name, _ in pairs:
            if name in seen and name in _SINGLE:
                raise BadRequest(f"The header {name.decode('latin-1')} is given twice.")
            seen.add(name)
    return headers


def bearer(headers: Mapping[bytes, bytes]) -> str:
    """The token of the Authorization header. Raises Unauthenticated."""
    given = headers.get(b"authorization")
    if given is None:
        raise Unauthenticated("This needs a token.")
    scheme, _, token = given.partition(b" ")
    token = token.strip()
    if scheme.lower() != b"bearer" or not token:
        raise Unauthenticated(
            "The Authorization header holds no bearer token.",
            next="Send Authorization: Bearer <token>.",
        )
    return token.decode("latin-1")


def api_key(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The key of Centrifugo's server API that a request shows; None if it shows none.

    Whoever shows one, right or wrong, means that API, also at a path that others share.
    """
    given = headers.get(b"x-api-key")
    if given is not None:
        return given.strip()
    scheme, _, key = headers.get(b"authorization", b"").strip().partition(b" ")
    return key.strip() if scheme.lower() == b"apikey" else None


def traceparent(headers: Mapping[bytes, bytes]) -> str | None:
    """The header traceparent as it came; the hub ignores a malformed one, as W3C demands."""
    given = headers.get(b"traceparent")
    return None if given is None else given.decode("latin-1")


def idempotency_key(headers: Mapping[bytes, bytes], other: str | None, *, name: str) -> str | None:
    """The dedupe key: the header's, or `other` from the body or query. Raises BadRequest."""
    given = headers.get(b"idempotency-key")
    if given is None:
        return other
    try:
        key = given.decode("utf-8")
    except UnicodeError:
        raise BadRequest("The header Idempotency-Key is not UTF-8.") from None
    if other is not None and other != key:
        raise BadRequest(
            f"The header Idempotency-Key and {name} are two different keys.",
            next=f"Give one of them, or the same in both; it is {name} of the event.",
        )
    return key
