"""Asks through the chat's own doors: Socket.IO as C2CP v1 and v2 speak it, by WebSocket and by
polling, and REST."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.rights.asking import PATIENCE_S
from tests.rights.population import Asker

SEPARATOR = "\x1e"
CODES = {"unauthenticated": "?", "forbidden": "-", "not_found": "-", "invalid_channel": "!"}


class Over(Exception):
    """The hub ended the connection."""


class Socketio:
    """A client that is in: it keeps every event, and knows the answers to its own."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.text = ""
        self.answers: dict[int, Any] = {}
        self.is_over = False
        self._last = 0

    async def send_packets(self, *packets: str) -> None:
        raise NotImplementedError

    async def receive(self) -> list[str]:
        """The next packets. Raises Over."""
        raise NotImplementedError

    async def send(self, name: str, data: Any = None) -> int:
        self._last += 1
        await self.send_packets(f"42{self._last}{json.dumps([name, data])}")
        return self._last

    async def ask(self, name: str, data: Any = None) -> Any:
        """Send an event and wait for its answer. Raises Over."""
        number = await self.send(name, data)
        await self.until(lambda: number in self.answers)
        return self.answers.pop(number)

    async def until(self, is_there: Callable[[], bool]) -> None:
        """Take packets until there is what is waited for. Raises Over, TimeoutError."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_there():
                for packet in await self.receive():
                    await self._take(packet)

    async def rest(self) -> None:
        """Take everything that the hub has to say now; also its last words."""
        try:
            for _ in range(2):
                await self.ask("latency_ping" if self.version == 1 else "room_list", {"limit": 1})
        except Over:
            pass

    async def heard_of(self, text: str, *, times: int = 1) -> None:
        """Wait until a text came so many times."""
        await self.until(lambda: self.text.count(text) >= times)

    def of(self, name: str) -> list[Any]:
        return [data for of, data in self.heard if of == name]

    version = 2

    async def _take(self, packet: str) -> None:
        if packet == "2":
            await self.send_packets("3")
        elif packet.startswith("41"):
            self.is_over = True
            raise Over
        elif packet.startswith(("42", "43")):
            start = packet.index("[")
            said = json.loads(packet[start:])
            if packet.startswith("43"):
                self.answers[int(packet[2:start])] = said[0] if said else None
                # What is answered was given, too.
                self.text += packet
            else:
                self.heard.append((said[0], said[1] if len(said) > 1 else None))
                self.text += packet


class ByWebsocket(Socketio):
    def __init__(self, connection: ClientConnection) -> None:
        super().__init__()
        self.connection = connection

    async def send_packets(self, *packets: str) -> None:
        try:
            for packet in packets:
                await self.connection.send(packet)
        except ConnectionClosed:
            self.is_over = True
            raise Over from None

    async def receive(self) -> list[str]:
        try:
            return [str(await self.connection.recv())]
        except ConnectionClosed:
            self.is_over = True
            raise Over from None


class ByPolling(Socketio):
    def __init__(self, client: httpx.AsyncClient) -> None:
        super().__init__()
        self.client = client
        self.params = {"EIO": "4", "transport": "polling"}

    async def send_packets(self, *packets: str) -> None:
        content = SEPARATOR.join(packets)
        self._look(await self.client.post("/socket.io/", params=self.params, content=content))

    async def receive(self) -> list[str]:
        answer = self._look(await self.client.get("/socket.io/", params=self.params))
        return answer.text.split(SEPARATOR)

    def _look(self, answer: httpx.Response) -> httpx.Response:
        if answer.status_code != 200:
            self.is_over = True
            raise Over
        return answer


@asynccontextmanager
async def socketio(
    asker: Asker, account: str, *, version: int = 2, is_polling: bool = False, **auth: Any
) -> AsyncIterator[Socketio | None]:
    """A client that speaks for an account; None if it is not let in."""
    made: Socketio
    said = {"agent_id": account, "protocol": version, **auth}
    if asker.token is not None:
        said["token"] = asker.token
    headers = {name: text for name, text in asker.headers.items() if name != "authorization"}
    if is_polling:
        async with httpx.AsyncClient(
            base_url=asker.running.url, headers=headers, timeout=PATIENCE_S, trust_env=False
        ) as client:
            made = ByPolling(client)
            opened = await client.get("/socket.io/", params=made.params)
            made.params["sid"] = json.loads(opened.text[1:])["sid"]
            yield await _entered(made, version, said)
        return
    url = asker.running.url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
    async with connect(
        url, additional_headers=headers, proxy=None, compression=None, close_timeout=1
    ) as connection:
        made = ByWebsocket(connection)
        assert (await made.receive())[0].startswith("0")
        yield await _entered(made, version, said)


async def _entered(made: Socketio, version: int, auth: dict[str, Any]) -> Socketio | None:
    made.version = version
    await made.send_packets("40" + json.dumps(auth))
    first, *more = await made.receive()
    if first.startswith("44"):
        return None
    assert first.startswith("40"), first
    for packet in more:
        await made._take(packet)
    # It follows from here on.
    # (v1 says so by the list of its tasks, the last of what it is told of as it begins.)
    await made.until(lambda: bool(made.of("session" if version == 2 else "task_update")))
    return made


def sign(answer: Any) -> str:
    """What an answer of either version means."""
    if answer["ok"]:
        return "w"
    error = answer["error"]
    code: str = error["code"] if isinstance(error, dict) else answer["code"]
    return CODES.get(code, code)
