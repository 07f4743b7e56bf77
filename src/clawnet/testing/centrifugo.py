"""A Centrifugo v5 as its docs and sources have it, as far as a hub behind it can tell.

It reads the configuration that deploy/centrifugo generates, asks the hub's proxies what that says
must be asked, and answers the HTTP API. It can be down, slow, break off half way and fail in part.
What the real one does beyond this was not tried; docs/centrifugo-in-front.md says so.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any, Literal

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COMMON = {"transport": "websocket", "protocol": "json", "encoding": "json"}
IDEMPOTENCY_S = 300.0
NEWS_S = 0.01
"""What the network may take."""


class FakeClient:
    """A connection to it. `received` are the publications, `ended` how it was disconnected."""

    def __init__(self, id: str, user: str, meta: dict[str, Any] | None) -> None:
        self.id = id
        self.user = user
        self.meta = meta
        self.channels: set[str] = set()
        self.received: list[tuple[str, Any]] = []
        self.unsubscribed: list[str] = []
        self.ended: tuple[int, str] | None = None

    def read(self, channel: str) -> list[Any]:
        """The data that it was given on a channel."""
        return [data for name, data in self.received if name == channel]


class Refused(Exception):
    """A client's command was answered with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code


class FakeCentrifugo(httpx.AsyncBaseTransport):
    """At the other end of the bridge's HTTP client, and a client of the hub's proxies."""

    def __init__(
        self,
        config: dict[str, Any],
        *,
        key: str,
        hub: httpx.AsyncBaseTransport | None = None,
        proxy_headers: dict[str, str] | None = None,
    ) -> None:
        """`hub` answers what is asked at the proxies' addresses."""
        self.config = config
        self.key = key
        self.hub = hub
        self.proxy_headers = proxy_headers or {}
        self.clients: dict[str, FakeClient] = {}
        self.history: dict[str, list[Any]] = defaultdict(list)
        self.published: list[tuple[str, Any]] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.batches = 0
        self.is_down = False
        self.is_slow = False
        self.status = 200
        self.failing: set[str] = set()
        """Channels on which it cannot publish now."""
        self.fails_once: set[str] = set()
        """Channels on which the next publish fails, and only that."""
        self.breaks_after: int | None = None
        """How many more commands it runs before its connections break, once."""
        self.gives_up: Literal["before", "behind"] | None = None
        """Whether it ends the connection of the next publish that it asks about, as when its own
        client leaves: before the answer is written, or while that is on its way."""
        self._seen: dict[tuple[str, str], float] = {}

    def serve(self, app: ASGIApp) -> None:
        """Ask this hub, over connections that may end."""

        async def connected(scope: Scope, receive: Receive, send: Send) -> None:
            is_asked = scope["path"] == "/proxy/publish"
            gives_up = self.gives_up if is_asked else None
            is_ended = gives_up == "before"

            async def sent(message: Message) -> None:
                nonlocal is_ended
                await send(message)
                if gives_up is not None and message["type"] == "http.response.body":
                    # The news takes its time.
                    asyncio.get_running_loop().call_later(NEWS_S, end)

            def end() -> None:
                nonlocal is_ended
                is_ended = True

            await app({**scope, "state": {"is_closing": lambda: is_ended}}, receive, sent)

        self.hub = httpx.ASGITransport(connected)

    # --- what clients do ----------------------------------------------------

    async def connect(
        self, user: str | None = None, *, data: Any = None, meta: dict[str, Any] | None = None
    ) -> FakeClient:
        """A connection: with a token of `user` that it verified itself, or by the connect proxy."""
        name = f"client-{len(self.clients) + 1}"
        if user is None:
            result = await self._ask("connect", {"client": name, "data": data})
            user, meta = result["user"], result.get("meta")
        client = self.clients[name] = FakeClient(name, user, meta)
        return client

    async def subscribe(self, client: FakeClient, channel: str) -> None:
        """Raises Refused."""
        rules = self._rules(channel)
        if not rules.get("proxy_subscribe"):
            raise Refused(103, "permission denied")
        await self._ask("subscribe", self._about(client, channel))
        client.channels.add(channel)

    async def publish(self, client: FakeClient, channel: str, data: Any) -> None:
        """Raises Refused."""
        rules = self._rules(channel)
        if not rules.get("proxy_publish"):
            raise Refused(103, "permission denied")
        result = await self._ask("publish", {**self._about(client, channel), "data": data})
        self._deliver(channel, result.get("data", data))

    async def refresh(self, client: FakeClient) -> dict[str, Any]:
        """What it asks when a connection's time is over."""
        about = self._about(client, "")
        del about["channel"]
        result = await self._ask("refresh", about)
        if result.get("expired"):
            self._end(client, 3005, "connection expired")
        return result

    def _about(self, client: FakeClient, channel: str) -> dict[str, Any]:
        about: dict[str, Any] = {"client": client.id, "user": client.user, "channel": channel}
        if client.meta is not None and self.config.get("proxy_include_connection_meta"):
            about["meta"] = client.meta
        return about

    async def _ask(self, what: str, about: dict[str, Any]) -> dict[str, Any]:
        """Ask the hub. As the real one, an answer that is none is an internal error."""
        endpoint = self.config[f"proxy_{what}_endpoint"]
        body = {**COMMON, **about}
        self.asked.append((what, body))
        async with httpx.AsyncClient(transport=self.hub) as client:
            answer = await client.post(endpoint, json=body, headers=self.proxy_headers)
        is_lost = what == "publish" and self.gives_up is not None
        if is_lost:
            self.gives_up = None
        if is_lost or answer.status_code != 200:
            raise Refused(100, "internal server error")
        said = answer.json()
        if "error" in said:
            assert 400 <= said["error"]["code"] <= 1999, "Centrifugo takes no other codes here"
            raise Refused(said["error"]["code"], said["error"]["message"])
        result: dict[str, Any] = said["result"]
        return result

    # --- what it knows ------------------------------------------------------

    def _rules(self, channel: str) -> dict[str, Any]:
        """The options of a channel's namespace, or those of none. Raises Refused(102)."""
        name, boundary, _ = channel.partition(self.config.get("channel_namespace_boundary", ":"))
        if not boundary:
            return self.config
        for namespace in self.config["namespaces"]:
            if namespace["name"] == name:
                rules: dict[str, Any] = namespace
                return rules
        raise Refused(102, "unknown channel")

    def _deliver(self, channel: str, data: Any) -> None:
        self.published.append((channel, data))
        size = self._rules(channel).get("history_size", 0)
        self.history[channel] = [*self.history[channel], data][-size:] if size else []
        for client in self.clients.values():
            if channel in client.channels and client.ended is None:
                client.received.append((channel, data))

    def _end(self, client: FakeClient, code: int, reason: str) -> None:
        client.ended = (code, reason)
        client.channels.clear()

    # --- its HTTP API -------------------------------------------------------

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The HTTP API; what it does, it does even if nobody hears the answer."""
        if self.is_down:
            raise httpx.ConnectError("nobody listens", request=request)
        if self.is_slow:
            # Longer than anybody waits for it.
            await asyncio.sleep(3_600)
        body = await request.aread()
        if self.status != 200:
            return httpx.Response(self.status, stream=_Body(b"not now"))
        if request.headers.get("x-api-key") != self.key:
            return httpx.Response(401, stream=_Body(b"Unauthorized"))
        assert request.url.path == "/api/batch", "the bridge speaks in batches"
        self.batches += 1
        replies = []
        for command in json.loads(body)["commands"]:
            if self.breaks_after is not None:
                if self.breaks_after == 0:
                    self.breaks_after = None
                    raise httpx.ReadError("the connection broke", request=request)
                self.breaks_after -= 1
            replies.append(self._run(command))
        return httpx.Response(200, stream=_Body(json.dumps({"replies": replies}).encode()))

    def _run(self, command: dict[str, Any]) -> dict[str, Any]:
        ((method, call),) = command.items()
        try:
            return {method: getattr(self, f"_api_{method}")(call)}
        except Refused as refused:
            return {"error": {"code": refused.code, "message": str(refused)}}

    def _api_publish(self, call: dict[str, Any]) -> dict[str, Any]:
        channel = call["channel"]
        self._rules(channel)
        if channel in self.failing:
            raise Refused(100, "internal server error")
        if channel in self.fails_once:
            self.fails_once.discard(channel)
            raise Refused(100, "internal server error")
        now_s = asyncio.get_running_loop().time()
        key = (channel, call.get("idempotency_key", ""))
        if key[1]:
            if now_s - self._seen.get(key, -IDEMPOTENCY_S) < IDEMPOTENCY_S:
                return {}
            self._seen[key] = now_s
        self._deliver(channel, call["data"])
        return {}

    def _api_unsubscribe(self, call: dict[str, Any]) -> dict[str, Any]:
        self._rules(call["channel"])
        for client in self.clients.values():
            if client.user == call["user"] and call["channel"] in client.channels:
                client.channels.discard(call["channel"])
                client.unsubscribed.append(call["channel"])
        return {}

    def _api_disconnect(self, call: dict[str, Any]) -> dict[str, Any]:
        how = call.get("disconnect") or {"code": 3503, "reason": "force disconnect"}
        for client in self.clients.values():
            if client.user == call["user"] and client.ended is None:
                self._end(client, how["code"], how["reason"])
        return {}

    def _api_presence(self, call: dict[str, Any]) -> dict[str, Any]:
        if not self._rules(call["channel"]).get("presence"):
            raise Refused(108, "not available")
        there = [c for c in self.clients.values() if call["channel"] in c.channels]
        return {"presence": {c.id: {"user": c.user, "client": c.id} for c in there}}


class _Body(httpx.AsyncByteStream):
    """A body in two pieces, as a network may cut it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        middle = len(self._body) // 2
        for piece in (self._body[:middle], self._body[middle:]):
            yield piece
