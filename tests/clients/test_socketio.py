"""The real clients of Socket.IO, python's and npm's, by every transport, against an echo.

What is said on the connection (C2CP) is other tests' affair; here it is the way there.
"""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import socketio

from clawnet.core.live import End
from clawnet.doors.socketio import packets
from clawnet.testing.running import Running, running_hub
from tests.clients.node import Node, NoNode, node
from tests.doors.socketio.clients import Talks, settle

WAIT_MAX_S = 15.0
PUSHED = 200
TRANSPORTS = pytest.mark.parametrize(
    "transports", [["polling"], ["websocket"], ["polling", "websocket"]], ids="+".join
)


@pytest.fixture
async def hub() -> AsyncIterator[Running]:
    _collect()
    async with running_hub() as running:
        yield running
    _collect()


def _collect() -> None:
    """Free what a client that polls left of the hub's connections. In two of six whole runs asyncio
    warned of two such that were never closed, in the set-up of a later test; alone it never did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def talks(hub: Running) -> Talks:
    return Talks(hub)


class Person:
    """A client of python's."""

    def __init__(self, hub: Running, transports: list[str]) -> None:
        self._hub = hub
        self._transports = transports
        self.heard: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.client = socketio.AsyncClient(
            reconnection_delay=0.02, reconnection_delay_max=0.1, randomization_factor=0
        )
        for name in ("connect", "disconnect", "connect_error"):
            self._note(name)
        self.client.on("*", self._event)

    def _note(self, name: str) -> None:
        def note(*args: Any) -> None:
            self.heard.put_nowait((name, *args))

        self.client.on(name, note)

    def _event(self, name: str, *args: Any) -> dict[str, Any]:
        self.heard.put_nowait((name, *args))
        return {"ok": True, "name": name}

    async def connect(self, token: str = "good") -> None:
        auth = {"token": token}
        await self.client.connect(self._hub.url, auth=auth, transports=self._transports)

    async def hear(self, name: str) -> tuple[Any, ...]:
        """The next of that name; others before it are passed over."""
        async with asyncio.timeout(WAIT_MAX_S):
            while (found := await self.heard.get())[0] != name:
                pass
        return found


@asynccontextmanager
async def person(hub: Running, transports: list[str]) -> AsyncIterator[Person]:
    made = Person(hub, transports)
    try:
        yield made
    finally:
        await made.client.shutdown()


@TRANSPORTS
async def test_pythons_client(hub: Running, talks: Talks, transports: list[str]) -> None:
    async with person(hub, transports) as ann:
        with pytest.raises(socketio.exceptions.ConnectionError):
            await ann.connect("bad")
        assert (await ann.hear("connect_error"))[1]["message"] == "Unauthorized"
        await ann.connect()
        await ann.hear("connect")
        assert await ann.hear("welcome") == ("welcome", "in")
        assert ann.client.transport() == transports[-1]

        # Acknowledgements in both directions, and something large.
        assert await ann.client.call("x", {"a": "ä"}) == [{"a": "ä"}]
        await ann.client.emit("ask", "?")
        assert await ann.hear("asked") == ("asked", "?")
        assert await ann.hear("acked") == ("acked", 7 << 32 | 5, {"ok": True, "name": "asked"})
        (back,) = await ann.client.call("x", "y" * 500_000)
        assert back == "y" * 500_000
        refused = await ann.client.call("x", b"bytes")
        assert refused["error"]["code"] == "bad_request"

        # The hub ends it, as when it stops: the client comes back by itself.
        talks.last.link.close(End.SHUTDOWN)
        await ann.hear("disconnect")
        await ann.hear("welcome")
        # It disconnects the client: that stays away.
        talks.last.link.disconnect()
        assert (await ann.hear("disconnect"))[1] == "server disconnect"
        await settle(lambda: not hub.socketio.links.by_secret)
        assert not ann.client.connected
        assert [talk.is_lost for talk in talks.all] == [True] * 3


async def test_what_is_pushed_while_pythons_client_upgrades_comes_once_and_in_order(
    hub: Running, talks: Talks
) -> None:
    async with person(hub, ["polling", "websocket"]) as ann:
        connecting = asyncio.create_task(ann.connect())
        await settle(lambda: talks.all and talks.last.link._stage.value == "in")  # type: ignore[attr-defined]
        for n in range(PUSHED):
            talks.last.link.emit("n", n)
            await asyncio.sleep(0)
        await connecting
        assert [(await ann.hear("n"))[1] for _ in range(PUSHED)] == list(range(PUSHED))
        await ann.client.call("x")
        assert ann.heard.empty()


@pytest.mark.parametrize("count", [17, 500])
async def test_pythons_client_is_given_a_backlog_by_polling(
    hub: Running, talks: Talks, count: int
) -> None:
    async with person(hub, ["polling"]) as ann:
        await ann.connect()
        talks.last.link.write(b"".join(packets.event("n", (n,)) for n in range(count)))
        assert [(await ann.hear("n"))[1] for _ in range(count)] == list(range(count))
        # As much the other way, in whatever bodies the client makes of it.
        for n in range(count):
            await ann.client.emit("y", n)
        assert await ann.client.call("x", "done") == ["done"]
        assert [args[0] for name, args, _ in talks.last.events if name == "y"] == list(range(count))
        assert len(talks.all) == 1


# --- npm ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def js() -> Iterator[Node]:
    """One process for all tests of this file."""
    try:
        node()
    except NoNode as why:
        pytest.skip(str(why))
    made = Node("socketio.mjs")
    yield made
    made.stop()


class Led:
    """A client in the process, led without holding up the loop that the hub runs on."""

    def __init__(self, js: Node, name: str) -> None:
        self._js = js
        self._name = name

    async def do(self, command: str, **arguments: Any) -> Any:
        return await asyncio.to_thread(self._js.do, command, client=self._name, **arguments)

    async def hear(self, event: str, **about: Any) -> dict[str, Any]:
        return await asyncio.to_thread(self._js.hear, event, who=self._name, **about)

    def unheard(self, event: str) -> list[dict[str, Any]]:
        return self._js.unheard(event, who=self._name)


@TRANSPORTS
async def test_npms_client(hub: Running, talks: Talks, js: Node, transports: list[str]) -> None:
    ann, ben = Led(js, "ann-" + "-".join(transports)), Led(js, "ben-" + "-".join(transports))
    await ben.do("open", url=hub.url, transports=transports, token="bad")
    refused = await ben.hear("connect_error")
    assert (refused["message"], refused["is_active"]) == ("Unauthorized", False)
    assert refused["data"]["code"] == "unauthenticated"
    await ben.do("close")

    await ann.do("open", url=hub.url, transports=transports, token="good")
    connected = await ann.hear("connect")
    assert connected["sid"] == talks.last.link.sid
    if len(transports) == 2:
        # What is pushed while it upgrades comes once and in order.
        for n in range(PUSHED):
            talks.last.link.emit("n", n)
            await asyncio.sleep(0)
        assert (await ann.hear("upgrade"))["name"] == "websocket"
        await ann.hear("heard", name="n", args=[PUSHED - 1])
        found = [e["args"][0] for e in ann.unheard("heard") if e["name"] == "n"]
        assert found == list(range(PUSHED - 1))
    else:
        assert (await ann.hear("heard"))["args"] == ["in"]

    assert await ann.do("ask", name="x", args=[{"a": "ä"}]) == [{"a": "ä"}]
    await ann.do("emit", name="ask", args=["?"])
    assert (await ann.hear("heard", name="asked"))["args"] == ["?"]
    acked = await ann.hear("heard", name="acked")
    assert acked["args"] == [7 << 32 | 5, {"ok": True, "name": "asked"}]
    assert await ann.do("size", name="x", size=500_000) == 500_000

    # The hub ends it, as when it stops: the client comes back by itself.
    talks.last.link.close(End.SHUTDOWN)
    assert "transport" in (await ann.hear("disconnect"))["reason"]
    await ann.hear("connect")
    # It disconnects the client: that stays away.
    await settle(lambda: not talks.last.is_lost)
    talks.last.link.disconnect()
    assert (await ann.hear("disconnect"))["reason"] == "io server disconnect"
    await settle(lambda: not hub.socketio.links.by_secret)
    assert all(talk.is_lost for talk in talks.all)
