"""The ASGI app: hot routes first, then the router, and one place where errors become answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from clawnet.core.buckets import Buckets
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    MethodNotAllowed,
    NotFound,
    Unauthenticated,
)
from clawnet.doors.centrifugo.api import no_such_method
from clawnet.doors.centrifugo.door import CentrifugoDoor
from clawnet.doors.centrifugo.routes import ROUTES as CENTRIFUGO
from clawnet.doors.http.answers import Answer, Plain
from clawnet.doors.http.body import ClientGone
from clawnet.doors.http.claw_events.health import Probe
from clawnet.doors.http.claw_events.routes import ROUTES as CLAW_EVENTS
from clawnet.doors.http.claw_events.settings import ClawEventsSettings
from clawnet.doors.http.describe import Routes
from clawnet.doors.http.documents.place import check_public_url
from clawnet.doors.http.documents.shelf import Shelf
from clawnet.doors.http.limits import RouteLimits
from clawnet.doors.http.problem import problem_answer, unexpected
from clawnet.doors.http.publishing import DESCRIBED, Publishing
from clawnet.doors.http.request import Request
from clawnet.doors.http.routes import (
    accounts,
    archive,
    audit,
    channels,
    consumers,
    documents,
    events,
    fleet,
    grants,
    health,
    inbox,
    invitations,
    legacy,
    legacy_auth,
    logs,
    messages,
    oauth,
    receipts,
    restoring,
    rooms,
    settings,
    streams,
    tasks,
    tokens,
    traces,
    wake,
    worlds,
)
from clawnet.doors.http.settings import HttpSettings
from clawnet.doors.socketio import polling
from clawnet.doors.socketio.door import SocketioDoor
from clawnet.hub.hub import Hub

Endpoint = Callable[[Request], Awaitable[Answer]]

PATH_MAX_BYTES = 8_192
CORS_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
CORS_EXPOSED = (
    "Retry-After", "RateLimit", "RateLimit-Policy",
    "Clawnet-Events", "Clawnet-Left-Out", "Clawnet-Gaps",
)  # fmt: skip
CORS_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID")

ROUTES: Mapping[str, Mapping[str, Endpoint]] = {
    "/api/v1/channels": {"GET": channels.list_all},
    "/api/v1/channels/{channel}/events": {"GET": events.history},
    "/api/v1/channels/{channel}/lock": {"POST": channels.lock},
    "/api/v1/channels/{channel}/unlock": {"POST": channels.unlock},
    "/api/v1/events/stream": {"GET": streams.events},
    "/api/v1/events/batch": {},
    "/api/v1/events/{id}": {"GET": events.event},
    "/api/v1/traces/{id}": {"GET": traces.trace},
    "/api/v1/events/{id}/receipt": {"GET": receipts.read},
    "/api/v1/consumers": {"GET": consumers.list_all, "POST": consumers.create},
    "/api/v1/consumers/{name}": {"GET": consumers.read, "DELETE": consumers.delete},
    "/api/v1/consumers/{name}/fetch": {"POST": consumers.fetch},
    "/api/v1/consumers/{name}/ack": {"POST": consumers.ack},
    "/api/v1/consumers/{name}/nack": {"POST": consumers.nack},
    "/api/v1/accounts": {"GET": accounts.list_all, "POST": accounts.create},
    "/api/v1/accounts/{id}": {
        "GET": accounts.read,
        "PATCH": accounts.update,
        "DELETE": accounts.delete,
    },
    "/api/v1/tokens": {"GET": tokens.list_all, "POST": tokens.create},
    "/api/v1/tokens/jwt": {"POST": tokens.issue},
    "/api/v1/tokens/{id}": {"DELETE": tokens.revoke},
    "/api/v1/grants": {"GET": grants.list_all, "POST": grants.give, "DELETE": grants.revoke},
    "/api/v1/export": {"GET": archive.export},
    "/api/v1/import": {"POST": archive.take_in},
    "/api/v1/inbox": {"GET": inbox.read},
    "/api/v1/inbox/ack": {"POST": inbox.ack},
    "/api/v1/inbox/woken": {"POST": receipts.confirm},
    "/api/v1/wake": {"PUT": wake.hold, "DELETE": wake.end},
    "/api/v1/accounts/{id}/wake": {"GET": wake.read},
    "/api/v1/invitations": {"GET": invitations.list_all, "POST": invitations.create},
    "/api/v1/invitations/redeem": {"POST": invitations.redeem},
    "/api/v1/invitations/{id}": {"DELETE": invitations.revoke},
    "/api/v1/register": {"POST": invitations.register},
    "/api/v1/worlds": {"GET": worlds.list_all, "POST": worlds.create},
    "/api/v1/audit/key": {"GET": audit.key},
    "/api/v1/restore": {"GET": restoring.read},
    "/api/v1/restore/events": {"POST": restoring.take_in},
    "/api/v1/restore/done": {"POST": restoring.done},
    "/join": {"GET": invitations.page},
    "/api/v1/me": {"GET": accounts.me},
    "/api/v1/presence": {"GET": accounts.presence, "POST": fleet.set_status},
    "/api/v1/enrol": {"POST": fleet.enrol},
    "/api/v1/fleet": {"GET": fleet.read},
    "/api/v1/fleet/report": {"POST": fleet.report},
    "/api/v1/fleet/{id}": {"GET": fleet.read_one},
    "/api/auth/token": {"POST": legacy_auth.token},
    "/api/auth/verify": {"POST": legacy_auth.verify},
    "/api/auth/revoke": {"POST": legacy_auth.revoke},
    "/api/auth/logout": {"POST": legacy_auth.logout},
    "/api/v1/blocks": {"GET": accounts.blocks},
    "/api/v1/blocks/{account}": {"PUT": accounts.block, "DELETE": accounts.unblock},
    "/api/v1/rooms": {"GET": rooms.list_all, "POST": rooms.create},
    "/api/v1/rooms/{id}": {"GET": rooms.read, "PATCH": rooms.update},
    "/api/v1/rooms/{id}/join": {"POST": rooms.join},
    "/api/v1/rooms/{id}/leave": {"POST": rooms.leave},
    "/api/v1/rooms/{id}/invite": {"POST": rooms.invite},
    "/api/v1/rooms/{id}/members": {"GET": rooms.members},
    "/api/v1/rooms/{id}/history": {"GET": rooms.history},
    "/api/v1/messages": {"POST": messages.send},
    "/api/v1/messages/{id}": {"DELETE": messages.delete},
    "/api/v1/typing": {"POST": messages.typing},
    "/api/v1/handles": {"POST": messages.handle},
    "/api/v1/tasks": {"GET": tasks.list_all, "POST": tasks.dispatch},
    "/api/v1/tasks/take": {"POST": tasks.take},
    "/api/v1/tasks/{id}": {"GET": tasks.read},
    "/api/v1/tasks/{id}/update": {"POST": tasks.update},
    "/api/v1/tasks/{id}/result": {"POST": tasks.result},
    "/api/v1/tasks/{id}/cancel": {"POST": tasks.cancel},
    "/api/v1/tasks/{id}/approve": {"POST": tasks.approve},
    "/api/v1/logs": {"GET": logs.read},
    "/api/v1/settings": {"GET": settings.read, "PATCH": settings.change},
    "/api/metrics": {"GET": legacy.metrics},
    "/api/traffic": {"GET": legacy.traffic},
    "/api/logs/{kind}": {"GET": legacy.logs},
    "/api/agents/{id}": {"GET": legacy.agent},
    "/api/settings": {"GET": legacy.settings, "POST": legacy.change_settings},
    "/api/v1/instructions": {"GET": documents.instruct},
    "/oauth/token": {"POST": oauth.token},
    "/.well-known/oauth-authorization-server": {"GET": oauth.metadata},
    "/": {"GET": documents.front},
    "/openapi.json": {"GET": documents.openapi},
    "/asyncapi.json": {"GET": documents.asyncapi},
    "/docs": {"GET": documents.docs},
    "/skill.md": {"GET": documents.skill},
    "/llms.txt": {"GET": documents.llms},
    "/healthz": {"GET": health.alive},
    "/readyz": {"GET": health.ready},
    "/version": {"GET": health.version},
    "/metrics": {"GET": health.metrics},
    "/pub/{channel}": {},
    "/sub/{channel}": {"GET": streams.lines},
    "/socket.io/": {"GET": polling.receive, "POST": polling.send},
    **CLAW_EVENTS,
    **CENTRIFUGO,
}
"""Every path but what HOT adds, and the endpoints of its methods. HEAD and OPTIONS follow."""

ALIASES: Mapping[str, str] = {"/socket.io": "/socket.io/"}
"""Further spellings of paths, which the documents leave out."""

HOT: Mapping[str, str] = {
    "/api/v1/channels/{channel}/events": "POST",
    "/api/v1/events/batch": "POST",
    "/pub/{channel}": "POST",
}
"""Methods that clawnet.doors.http.publishing answers before the router is asked."""


def build_app(
    hub: Hub,
    *,
    settings: HttpSettings | None = None,
    claw_events: ClawEventsSettings | None = None,
    centrifugo: CentrifugoDoor | None = None,
    socketio: SocketioDoor | None = None,
    origins: Collection[str] = (),
    public_url: str | None = None,
    beside: Routes | None = None,
) -> HttpDoor:
    """The ASGI app of a hub. `origins` are the sites whose pages may read answers (CORS).

    `public_url` is what clients call this hub, if not what they ask by; `beside` are routes that
    something in front of this app answers, for the documents. Raises BadConfiguration.
    """
    return HttpDoor(
        hub,
        settings=settings or HttpSettings(),
        claw_events=claw_events or ClawEventsSettings(),
        centrifugo=centrifugo,
        socketio=socketio,
        origins=origins,
        public_url=public_url,
        beside=beside,
    )


def described(beside: Routes) -> Routes:
    """Every path and method that is answered at this address, with what describes it."""
    hot = {path: {"POST": endpoint} for path, endpoint in DESCRIBED.items()}
    found: dict[str, dict[str, Callable[..., Any]]] = {}
    for routes in (ROUTES, hot, beside):
        for path, methods in routes.items():
            found.setdefault(path, {}).update(methods)
    return found


class HttpDoor:
    """The door. Call stop() when the hub stops, so that long polls are answered at once."""

    def __init__(
        self,
        hub: Hub,
        *,
        settings: HttpSettings,
        claw_events: ClawEventsSettings,
        centrifugo: CentrifugoDoor | None = None,
        socketio: SocketioDoor | None = None,
        origins: Collection[str] = (),
        public_url: str | None = None,
        beside: Routes | None = None,
    ) -> None:
        self.hub = hub
        self.settings = settings
        self.claw_events = claw_events
        self.centrifugo = centrifugo
        """Its streams and its server API; None where only the hub's own HTTP is served."""
        self.socketio = socketio
        """Its polling; None as above."""
        self.origins = frozenset(origins)
        self.public_url = None if public_url is None else check_public_url(public_url)
        self.shelf = Shelf(lambda: described(beside or {}))
        self.publishing = Publishing(hub)
        self.claw_publishes = Buckets(
            rate_per_s=claw_events.publish_per_s, burst=claw_events.publish_burst
        )
        self.limits = RouteLimits(hub, settings)
        self.probe = Probe(hub)
        self._is_stopping = False
        self._stopped: asyncio.Future[None] | None = None
        routes = [
            Route(path, _Dispatch(self, methods, hot=HOT.get(path)))
            for path, methods in ROUTES.items()
        ]
        routes += [
            Route(alias, _Dispatch(self, ROUTES[path], hot=None)) for alias, path in ALIASES.items()
        ]
        # A redirect would turn a POST into a GET for many clients: a wrong path is a 404.
        self._router = Router(routes, redirect_slashes=False)
        self._app: ASGIApp = self._answer
        if origins:
            self._app = CORSMiddleware(
                self._answer,
                allow_origins=sorted(origins),
                allow_methods=list(CORS_METHODS),
                allow_headers=list(CORS_HEADERS),
                expose_headers=list(CORS_EXPOSED),
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._app(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            # WebSockets were handed over before the app is asked; here is none.
            await send({"type": "websocket.close", "code": 1000})

    def stopped(self) -> asyncio.Future[None]:
        """Done when the hub stops: whoever waits for something else gives up then."""
        if self._stopped is None:
            self._stopped = asyncio.get_running_loop().create_future()
            if self._is_stopping:
                self._stopped.set_result(None)
        return self._stopped

    def stop(self) -> None:
        """Answer what waits (long polls) with 503 and Retry-After. Streams are the hub's to end."""
        self._is_stopping = True
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        error: ClawError
        headers: tuple[tuple[bytes, bytes], ...] = ()
        try:
            raw_path = scope.get("raw_path") or quote(scope["path"]).encode()
            if scope["method"] == "POST" and await self.publishing.answer(
                raw_path, scope, receive, send
            ):
                return
            await self._route(raw_path, scope, receive, send)
            return
        except ClientGone:
            return
        except Unauthenticated as refused:
            error = self.limits.told(refused, scope)
        except ClawError as refused:
            error = refused
        except _NotAllowed as refused:
            error, headers = refused.error, refused.headers
        except Exception as failure:  # the top of a request: logged, and told without details
            error = unexpected(failure, method=scope["method"], path=scope["path"])
        await problem_answer(error, headers=headers)(receive, send)

    async def _route(self, raw_path: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        if len(raw_path) > PATH_MAX_BYTES:
            raise BadRequest("The path is too long.")
        # Matched as it was sent: a %2F belongs to a name and divides nothing.
        encoded = {**scope, "path": raw_path.decode("latin-1"), "root_path": "", "app": self}
        try:
            await self._router(encoded, receive, send)
        except HTTPException:
            request = Request(self, scope, receive, send)
            told = no_such_method(request, scope["path"]) if scope["method"] == "POST" else None
            if told is None:
                raise NotFound(
                    "There is no such path on this hub.",
                    next="Every path is in /docs; /skill.md and /llms.txt say how to begin.",
                ) from None
            await told(receive, send)


class _NotAllowed(Exception):
    """A method that a path does not have."""

    def __init__(self, method: str, allowed: bytes) -> None:
        self.error = MethodNotAllowed(f"This path has no {ascii(method[:20])}.")
        self.headers = ((b"allow", allowed),)


class _Dispatch:
    """All methods of one path. An ASGI app, so that starlette hands it every method."""

    def __init__(self, door: HttpDoor, methods: Mapping[str, Endpoint], *, hot: str | None) -> None:
        self._door = door
        self._methods = dict(methods)
        if "GET" in methods:
            # The server leaves out the body of an answer to HEAD.
            self._methods["HEAD"] = methods["GET"]
        names = {*self._methods, "OPTIONS"} | ({hot} if hot else set())
        self._allow = ", ".join(sorted(names)).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        endpoint = self._methods.get(method)
        if endpoint is not None:
            answer = await endpoint(Request(self._door, scope, receive, send))
            await answer(receive, send)
        elif method == "OPTIONS":
            await Plain(204, headers=((b"allow", self._allow),))(receive, send)
        else:
            raise _NotAllowed(method, self._allow)


async def _lifespan(receive: Receive, send: Send) -> None:
    """The hub's life is the app's affair, not the server's; say yes to both questions."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
