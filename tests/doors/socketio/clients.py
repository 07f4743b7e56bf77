"""A raw client of Engine.IO, by polling and WebSocket, and talks that tests look at."""

import asyncio
import json
from typing import Any

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect

from clawnet.core.callers import Caller
from clawnet.core.calls.live import Subscribe
from clawnet.core.calls.reading import Gap
from clawnet.core.errors import ClawError, Forbidden, Unauthenticated
from clawnet.doors.socketio import packets
from clawnet.doors.socketio.talk import Link
from clawnet.testing.running import Running

WAIT_MAX_S = 20.0
"""How long a test waits for what must come: only reached when the test fails."""

SEPARATOR = "\x1e"


class Echo:
    """Lets in who has no token or a good one; answers what it is sent."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.auth: Any = None
        self.events: list[tuple[str, list[Any], int | None]] = []
        self.acks: list[tuple[int, list[Any]]] = []
        self.is_held = False
        self.is_lost = False

    async def connect(self, auth: Any) -> None:
        self.auth = auth
        token = (auth or {}).get("token")
        if token == "bad":
            raise Unauthenticated("The token is not valid.")
        if token == "slow":
            await asyncio.Event().wait()
        if token == "no":
            raise Forbidden("Not you.", next="Be another.")

    def begin(self) -> None:
        self.link.emit("welcome", "in")

    def event(self, name: str, args: list[Any], ack_id: int | None) -> None:
        self.events.append((name, args, ack_id))
        if name == "emit":
            self.link.emit(*args)
        elif name == "ask":
            # Its acknowledgement is the client's to give.
            self.link.write(packets.event("asked", tuple(args), id=7 << 32 | 5))
        elif name == "bye":
            self.link.disconnect()
        elif name == "fail":
            raise RuntimeError("a defect")
        if ack_id is not None:
            self.link.acknowledge(ack_id, args)

    def acknowledged(self, id: int, args: list[Any]) -> None:
        self.acks.append((id, args))
        self.link.emit("acked", id, *args)

    def is_waiting(self) -> bool:
        return self.is_held

    def gap(self, number: int, gap: Gap) -> None: ...
    def ended(self, number: int, error: ClawError) -> None: ...
    def dropped(self, number: int, channel: str, error: ClawError) -> None: ...

    def lost(self) -> None:
        assert not self.is_lost, "told once"
        self.is_lost = True


class _Shape:
    key = "test"

    def frame(self, body: bytes, cursor: bytes | None) -> bytes:
        return packets.event("event", (msgspec.Raw(body),))


SHAPE = _Shape()


class Reader(Echo):
    """Follows a channel with the rights of an account."""

    channel = "public.lobby"

    def __init__(self, running: Running, caller: Caller, link: Link) -> None:
        super().__init__(link)
        self._running = running
        self._caller = caller

    async def connect(self, auth: Any) -> None:
        await super().connect(auth)
        self.link.session = self._running.hub.open(self._caller, self.link, SHAPE)

    def begin(self) -> None:
        session = self.link.session
        assert session is not None
        session.subscribe(Subscribe(channels=(self.channel,)))


class Talks:
    """Makes the talks of a door and keeps them."""

    def __init__(self, running: Running) -> None:
        self.all: list[Echo] = []
        self._running = running
        self.caller: Caller | None = None
        """Whose rights the next clients have in the hub; None: they only echo."""
        running.socketio.talk = self

    def __call__(self, link: Link) -> Echo:
        made = Echo(link) if self.caller is None else Reader(self._running, self.caller, link)
        self.all.append(made)
        return made

    @property
    def last(self) -> Echo:
        return self.all[-1]


class Polling:
    """A client that polls."""

    def __init__(self, running: Running, *, path: str = "/socket.io/", **headers: str) -> None:
        self.running = running
        self.http = httpx.AsyncClient(
            base_url=running.url, headers=headers, timeout=WAIT_MAX_S, trust_env=False
        )
        self.path = path
        self.opened: dict[str, Any] = {}

    async def __aenter__(self) -> "Polling":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    @property
    def query(self) -> dict[str, str]:
        found = {"EIO": "4", "transport": "polling"}
        return found | ({"sid": self.opened["sid"]} if self.opened else {})

    async def ask(
        self, method: str, content: bytes | None = None, *, query: dict[str, str] | None = None
    ) -> httpx.Response:
        return await self.http.request(method, self.path, params=query, content=content)

    async def open(self) -> "Polling":
        answer = await self.ask("GET", query=self.query)
        assert answer.status_code == 200, answer.text
        assert answer.text.startswith("0")
        self.opened = json.loads(answer.text[1:])
        return self

    async def get(self) -> list[str]:
        answer = await self.ask("GET", query=self.query)
        assert answer.status_code == 200, answer.text
        return answer.text.split(SEPARATOR)

    async def post(self, *messages: str) -> None:
        answer = await self.ask("POST", SEPARATOR.join(messages).encode(), query=self.query)
        assert (answer.status_code, answer.text) == (200, "ok"), answer.text

    async def enter(self, auth: Any = None) -> "Polling":
        """Open, CONNECT, and read what the hub says to that."""
        await self.open()
        await self.post("40" + ("" if auth is None else json.dumps(auth)))
        first = (await self.get())[0]
        assert first.startswith('40{"sid":'), first
        return self

    def ws_url(self) -> str:
        return ws_url(self.running, self.opened["sid"])


def ws_url(running: Running, sid: str | None = None) -> str:
    url = running.url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
    return url if sid is None else f"{url}&sid={sid}"


def dial(running: Running, sid: str | None = None) -> connect:
    return connect(ws_url(running, sid), max_size=None, proxy=None)


async def hear(socket: ClientConnection) -> str:
    async with asyncio.timeout(WAIT_MAX_S):
        said = await socket.recv()
    assert isinstance(said, str)
    return said


async def enter(socket: ClientConnection, auth: Any = None) -> None:
    """CONNECT on a WebSocket that a client begins with."""
    assert (await hear(socket)).startswith("0{")
    await socket.send("40" + ("" if auth is None else json.dumps(auth)))
    assert (await hear(socket)).startswith('40{"sid":')


async def closed(socket: ClientConnection) -> tuple[int | None, str | None]:
    """Wait for the end; the close code and reason."""
    async with asyncio.timeout(WAIT_MAX_S):
        await socket.wait_closed()
    return socket.close_code, socket.close_reason


def event(name: str, *args: Any, id: int | None = None) -> str:
    return f"42{'' if id is None else id}{json.dumps([name, *args], separators=(',', ':'))}"


async def settle(what: Any) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(WAIT_MAX_S):
        while not what():  # noqa: ASYNC110 (the hub has no event for what a test looks at)
            await asyncio.sleep(0)
