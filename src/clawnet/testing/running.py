"""A hub with its server in this process, on a free port: what tests of doors run against."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from clawnet.app.clocks import SystemClock, SystemRandomness
from clawnet.app.config import EngineName
from clawnet.app.engines import open_engine
from clawnet.core.callers import HUB
from clawnet.core.calls.accounts import AccountKind, CreateAccount, Role
from clawnet.core.calls.tokens import CreateToken, TokenCreated
from clawnet.core.errors import Conflict
from clawnet.doors.centrifugo.door import CentrifugoDoor
from clawnet.doors.centrifugo.settings import CentrifugoSettings
from clawnet.doors.connections import Connections
from clawnet.doors.gate import Gate
from clawnet.doors.http.app import HttpDoor, build_app
from clawnet.doors.protocol import Seam
from clawnet.doors.server import HubServer, ServerSettings
from clawnet.doors.socketio.door import SocketioDoor
from clawnet.doors.socketio.settings import SocketioSettings
from clawnet.doors.tls import TlsContext
from clawnet.doors.wheel import Wheel
from clawnet.doors.ws.door import PATH, WebSocketDoor
from clawnet.features import FeatureSettings, attach_all
from clawnet.hub.hub import Hub
from clawnet.hub.settings import HubSettings
from clawnet.ports.clock import Clock
from clawnet.ports.log import Engine

MakeApp = Callable[[Hub], Any]


LAST_TURNS = 5


@dataclass(kw_only=True)
class Running:
    """A running hub. `url` is http://127.0.0.1:<port>, `ws_url` the native WebSocket."""

    hub: Hub
    server: HubServer
    connections: Connections
    centrifugo: CentrifugoDoor
    socketio: SocketioDoor
    url: str
    ws_url: str
    port: int
    serving: asyncio.Task[None]

    async def token(
        self,
        account: str = "alice",
        *,
        role: Role = "worker",
        kind: AccountKind = "agent",
        scopes: list[str] | None = None,
        expires_in_s: float | None = None,
    ) -> str:
        """A token of an account, which is made if need be."""
        made = await self.new_token(
            account, role=role, kind=kind, scopes=scopes, expires_in_s=expires_in_s
        )
        return made.token

    async def new_token(
        self,
        account: str = "alice",
        *,
        role: Role = "worker",
        kind: AccountKind = "agent",
        scopes: list[str] | None = None,
        expires_in_s: float | None = None,
    ) -> TokenCreated:
        """token() with its id, as for revoking it."""
        try:
            await self.hub.call(CreateAccount(id=account, role=role, kind=kind), caller=HUB)
        except Conflict:
            pass
        made: TokenCreated = await self.hub.call(
            CreateToken(account=account, scopes=scopes or ["*"], expires_in_s=expires_in_s),
            caller=HUB,
        )
        return made

    def pass_time(self, seconds: float) -> None:
        """Let the server's timers (heads, pings, silence) see time pass, at once."""
        self.connections.wheel.advance(seconds)

    async def stop(self) -> None:
        """Stop in order, as SIGTERM would."""
        self.server.stop()
        await self.serving


@asynccontextmanager
async def running_hub(
    engine: EngineName | Engine = "memory",
    *,
    settings: HubSettings | None = None,
    server: ServerSettings | None = None,
    make_app: MakeApp | None = None,
    data_dir: Path | None = None,
    clock: Clock | None = None,
    tls: TlsContext | None = None,
    features: FeatureSettings | None = None,
    centrifugo: CentrifugoSettings | None = None,
    socketio: SocketioSettings | None = None,
) -> AsyncIterator[Running]:
    """Run a hub on a free port of 127.0.0.1 until the block ends.

    `engine` is "memory", "sqlite" or an engine; without `data_dir` its files are
    gone with the block. `make_app` makes another ASGI app for plain requests
    than the HTTP door.
    """
    chosen = server or ServerSettings(port=0)
    clock = clock or SystemClock()
    randomness = SystemRandomness()
    scratch = None
    if isinstance(engine, str):
        if data_dir is None:
            scratch = TemporaryDirectory(prefix="clawnet-")
            data_dir = Path(scratch.name)
        engine = open_engine(engine, data_dir, clock=clock, randomness=randomness)
    hub = Hub(
        engine,
        clock=clock,
        randomness=randomness,
        pepper=b"pepper",
        settings=settings,
    )
    attach_all(hub, features or FeatureSettings(has_timers=False))
    await hub.start()
    gate = Gate(chosen.gate)
    connections = Connections(chosen.connections, Wheel())
    door = WebSocketDoor(hub, connections)
    centrifugo_door = CentrifugoDoor(hub, connections, centrifugo or CentrifugoSettings())
    socketio_door = SocketioDoor(hub, connections, socketio or SocketioSettings())
    seam = Seam(
        gate=gate,
        connections=connections,
        upgrades={PATH: door.take, **centrifugo_door.upgrades, **socketio_door.upgrades},
        authenticate=hub.authenticate,
    )
    origins = gate.allowed_origins
    if make_app is None:
        app = build_app(hub, origins=origins, centrifugo=centrifugo_door, socketio=socketio_door)
    else:
        app = make_app(hub)
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def stop_accepting() -> None:
        if isinstance(app, HttpDoor):
            app.stop()
        await hub.stop_accepting()

    async def close() -> None:
        await door.close()
        await centrifugo_door.close()
        await socketio_door.close()
        await hub.close()

    running_server = HubServer(
        app,
        settings=chosen,
        seam=seam,
        tls=tls,
        on_listening=listening.set_result,
        on_stop_accepting=stop_accepting,
        on_drain=hub.drain,
        on_close=close,
        handles_signals=False,
    )
    serving = asyncio.create_task(running_server.serve())
    first: set[asyncio.Future[Any]] = {serving, listening}
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        await serving
    url = await listening
    running = Running(
        hub=hub,
        server=running_server,
        connections=connections,
        centrifugo=centrifugo_door,
        socketio=socketio_door,
        url=url,
        ws_url=url.replace("http", "ws", 1) + PATH,
        port=int(url.rpartition(":")[2]),
        serving=serving,
    )
    try:
        yield running
    finally:
        await running.stop()
        for _ in range(LAST_TURNS):
            # What was accepted or aborted as the hub stopped is closed in the turns behind it.
            await asyncio.sleep(0)
        if scratch is not None:
            scratch.cleanup()
