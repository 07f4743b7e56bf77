"""Clients of /connection/websocket for tests, made of `websockets` and of nothing of the hub's."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from clawnet.core.calls.publishing import BATCH_MAX_EVENTS, Publish, PublishBatch
from clawnet.hub.settings import (
    ChannelSettings,
    HubSettings,
    LimitSettings,
    NamespaceSettings,
    RetentionSettings,
    TokenSettings,
)
from clawnet.testing.running import Running, running_hub

WAIT_MAX_S = 20.0
"""How long a test waits for what must come: only reached when the test fails."""

KEY = "k" * 32
PATH = "/connection/websocket"
OPEN = {"publish": "accounts", "read": "accounts"}
NAMESPACES = {
    "": NamespaceSettings(publish="accounts", read="granted"),
    "chat": NamespaceSettings(publish="subscribers", read="accounts"),
    "open": NamespaceSettings(publish="nobody", read="anyone"),
    "bare": NamespaceSettings(publish="accounts", read="accounts", history_size=0),
    "cache": NamespaceSettings(publish="accounts", read="accounts", recovery_mode="cache"),
    "busy": NamespaceSettings(publish="accounts", read="accounts", force_push_join_leave=True),
    "quiet": NamespaceSettings(
        publish="accounts", read="accounts", presence="nobody", join_leave=False
    ),
    "diff": NamespaceSettings(publish="accounts", read="accounts", allowed_delta_types=["fossil"]),
}
SETTINGS = HubSettings(
    channels=ChannelSettings(namespaces=NAMESPACES),
    limits=LimitSettings(enabled=False),
    # The memory engine keeps fewer by itself than the tests of long absences need.
    retention=RetentionSettings(events_per_channel_max=100_000),
    tokens=TokenSettings(jwt_key=KEY),
)


def door_of(
    settings: HubSettings = SETTINGS, *args: Any, **named: Any
) -> AbstractAsyncContextManager[Running]:
    """A running hub with these settings."""
    return running_hub(*args, settings=settings, **named)


def foreign(**claims: Any) -> str:
    """A token that an application's own backend signed."""

    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    signed = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}"
    mac = hmac.new(KEY.encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


class Socket:
    """One connection. What comes is taken apart into single replies and pushes."""

    def __init__(self, inner: ClientConnection) -> None:
        self.inner = inner
        self.waiting: list[dict[str, Any]] = []
        self._ids = itertools.count(1)

    async def say(self, *commands: dict[str, Any]) -> None:
        """Send commands in one frame."""
        await self.inner.send("\n".join(json.dumps(command) for command in commands))

    async def hear(self) -> dict[str, Any]:
        """The next reply or push; {} is a ping."""
        async with asyncio.timeout(WAIT_MAX_S):
            while not self.waiting:
                frame = await self.inner.recv()
                assert isinstance(frame, str), "JSON comes in text frames"
                assert not frame.endswith("\n")
                self.waiting = [json.loads(line) for line in frame.split("\n")]
        return self.waiting.pop(0)

    async def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and hear what comes next, which must be its answer."""
        number = next(self._ids)
        await self.say({"id": number, **command})
        reply = await self.hear()
        assert reply.pop("id", None) == number, reply
        return reply

    async def done(self, **command: Any) -> dict[str, Any]:
        """ask() for what must succeed; the result."""
        (method,) = command
        reply = await self.ask(**command)
        assert list(reply) == [method], reply
        result: dict[str, Any] = reply[method]
        return result

    async def refused(self, **command: Any) -> dict[str, Any]:
        """ask() for what must fail; the error."""
        reply = await self.ask(**command)
        assert list(reply) == ["error"], reply
        assert reply["error"]["message"], "an error says what it is"
        error: dict[str, Any] = reply["error"]
        return error

    async def connect(self, token: str | None = None, **request: Any) -> dict[str, Any]:
        given = {} if token is None else {"token": token}
        return await self.done(connect={**given, **request})

    async def subscribe(self, channel: str, **request: Any) -> dict[str, Any]:
        return await self.done(subscribe={"channel": channel, **request})

    async def push(self, kind: str = "pub") -> dict[str, Any]:
        """The next thing that comes, which must be a push of that kind; with its channel."""
        heard = await self.hear()
        assert list(heard) == ["push"], heard
        push: dict[str, Any] = heard["push"]
        assert kind in push, push
        return {**push[kind], "in": push.get("channel")}

    async def closed(self) -> tuple[int | None, str | None]:
        """Wait for the end; the close code and reason."""
        try:
            while True:
                await self.hear()
        except ConnectionClosed:
            pass
        return self.inner.close_code, self.inner.close_reason


async def fill(running: Running, channel: str, count: int, *, start: int = 1) -> None:
    """Alice publishes `{"n": start}` and so on."""
    alice = running.hub.authenticate(await running.token("alice"))
    events = [
        Publish(channel=channel, data=msgspec.Raw(b'{"n":%d}' % n))
        for n in range(start, start + count)
    ]
    for first in range(0, count, BATCH_MAX_EVENTS):
        batch = PublishBatch(events=events[first : first + BATCH_MAX_EVENTS])
        await running.hub.call(batch, caller=alice)


async def gone(running: Running) -> None:
    """Wait until the hub has let go of every connection."""
    empty = asyncio.Event()
    running.connections.on_empty = empty.set
    if running.connections.all:
        async with asyncio.timeout(WAIT_MAX_S):
            await empty.wait()
    # The registry is told first.
    await asyncio.sleep(0)


@asynccontextmanager
async def socket(
    running: Running, token: str | None = None, *, query: str = "", connects: bool | None = None
) -> AsyncIterator[Socket]:
    """A connection, connected if there is a token (or `connects`)."""
    url = running.url.replace("http", "ws", 1) + PATH + (f"?{query}" if query else "")
    async with connect(url, max_size=None, compression=None) as inner:
        made = Socket(inner)
        if connects if connects is not None else token is not None:
            await made.connect(token)
        yield made


def pass_until_ping(running: Running) -> float:
    """Let time pass until the only client is pinged; how much it was."""
    (client,) = running.centrifugo.clients.all()
    passed_s = 0.0
    while not client.is_pinged:
        assert passed_s < 60, "a ping is due"
        running.pass_time(0.5)
        passed_s += 0.5
    return passed_s
