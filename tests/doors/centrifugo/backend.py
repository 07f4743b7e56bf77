"""A hub with the Centrifugo door, its server API and proxies, asked as a backend asks them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from clawnet.core.callers import HUB
from clawnet.core.calls.accounts import CreateAccount
from clawnet.core.calls.tokens import CreateToken
from clawnet.core.calls.worlds import CreateWorld
from clawnet.core.errors import Conflict
from clawnet.doors.centrifugo.client import Client
from clawnet.doors.centrifugo.door import CentrifugoDoor
from clawnet.doors.centrifugo.json import JsonEncoding
from clawnet.doors.centrifugo.outlet import ClientOutlet
from clawnet.doors.centrifugo.settings import CentrifugoSettings
from clawnet.doors.centrifugo.wire import Encoding
from clawnet.doors.connections import Connections, ConnectionSettings
from clawnet.doors.http.app import build_app
from clawnet.doors.wheel import Wheel
from clawnet.hub.settings import (
    ChannelSettings,
    HubSettings,
    LimitSettings,
    NamespaceSettings,
)
from clawnet.hub.tokens import bootstrap_admin
from clawnet.testing.hubs import HubRig, started_hub

KEY = "the key of the server API"
SECRET = "what Centrifugo shows"
NAMESPACES = {
    "chat": NamespaceSettings(publish="granted", read="accounts"),
    "bare": NamespaceSettings(history_size=0, presence="nobody"),
    "closed": NamespaceSettings(publish="nobody", read="granted"),
}


def line(message: bytes) -> bytes:
    return message + b"\n"


class Pipe(ClientOutlet):
    """A client whose transport writes down what it is told."""

    def __init__(self, door: CentrifugoDoor) -> None:
        self.encoding: Encoding = JsonEncoding(line)
        self.told = b""
        self.ended_with: tuple[int, str] | None = None
        self.client = Client(door, self, transport="websocket", is_local=True, is_raw=False)

    is_full = False

    def say(self, frames: bytes) -> None:
        self.told += frames

    write = say

    def finish(self, code: int, reason: str) -> None:
        self.ended_with = (code, reason)
        self.client.lost()

    def hold(self) -> None: ...
    def release(self) -> None: ...
    def retract(self) -> None: ...

    def unsent(self) -> int:
        return 0

    @property
    def frames(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.told.splitlines()]

    def pushed(self, kind: str) -> list[dict[str, Any]]:
        """The pushes of a kind."""
        return [f["push"] for f in self.frames if kind in f.get("push", {})]


class Backend:
    """`ask` shows the key, `http` shows what a test wants."""

    def __init__(self, rig: HubRig, door: CentrifugoDoor, http: httpx.AsyncClient) -> None:
        self.rig = rig
        self.hub = rig.hub
        self.door = door
        self.http = http

    async def ask(self, method: str, body: Any = None, **headers: str) -> Any:
        """A method's answer, which is 200 whatever it says."""
        answer = await self.http.post(
            f"/api/{method}", json=body or {}, headers={"X-API-Key": KEY, **headers}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def batch(self, *commands: Any, **more: Any) -> list[Any]:
        """The replies to a batch. Publishing goes this way, whose own path is shared."""
        answer = await self.ask("batch", {"commands": commands, **more})
        replies: list[Any] = answer["replies"]
        return replies

    async def publish(self, channel: str, data: Any, **more: Any) -> Any:
        (reply,) = await self.batch({"publish": {"channel": channel, "data": data, **more}})
        return reply.get("publish", reply)

    async def proxy(self, what: str, body: Any, *, secret: str | None = SECRET) -> Any:
        """What Centrifugo is answered."""
        headers = {} if secret is None else {"X-Clawnet-Proxy-Secret": secret}
        answer = await self.http.post(f"/proxy/{what}", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def token(self, account: str, **more: Any) -> str:
        try:
            await self.hub.call(CreateAccount(id=account), caller=HUB)
        except Conflict:
            pass
        made = await self.hub.call(CreateToken(account=account, **more), caller=HUB)
        return str(made.token)

    async def other_world(self) -> str:
        """Another world; its admin's token."""
        admin = await bootstrap_admin(self.hub, None)
        assert admin is not None
        caller = self.hub.authenticate(admin)
        return str((await self.hub.call(CreateWorld(id="other"), caller=caller)).token)

    async def client(self, account: str, *channels: str, token: str | None = None) -> Pipe:
        """A connected client of an account."""
        pipe = Pipe(self.door)
        self.say(pipe, {"id": 1, "connect": {"token": token or await self.token(account)}})
        await self.rig.settle()
        assert "connect" in pipe.frames[0], pipe.frames
        for number, channel in enumerate(channels):
            self.say(pipe, {"id": number + 2, "subscribe": {"channel": channel}})
            await self.rig.settle()
            assert "subscribe" in pipe.frames[-1], pipe.frames
        return pipe

    @staticmethod
    def say(pipe: Pipe, command: Any) -> None:
        pipe.client.receive(pipe.encoding.decode(json.dumps(command).encode()))


@asynccontextmanager
async def serving(
    *,
    settings: CentrifugoSettings | None = None,
    hub_settings: HubSettings | None = None,
    is_loopback: bool = True,
) -> AsyncIterator[Backend]:
    hub_settings = hub_settings or HubSettings(
        limits=LimitSettings(enabled=False), channels=ChannelSettings(namespaces=NAMESPACES)
    )
    settings = settings or CentrifugoSettings(api_key=KEY, proxy_secret=SECRET)
    async with started_hub(hub_settings, is_loopback=is_loopback) as rig:
        door = CentrifugoDoor(rig.hub, Connections(ConnectionSettings(), Wheel()), settings)
        transport = httpx.ASGITransport(build_app(rig.hub, centrifugo=door))
        async with httpx.AsyncClient(transport=transport, base_url="http://hub") as http:
            yield Backend(rig, door, http)
        await door.close()
