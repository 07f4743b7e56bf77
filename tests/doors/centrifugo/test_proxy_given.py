"""Whether Centrifugo has the answer to a publish that it asked about: known on real connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from clawnet.core.callers import HUB
from clawnet.core.calls.accounts import CreateAccount
from clawnet.doors.centrifugo import proxy
from clawnet.doors.centrifugo.settings import CentrifugoSettings
from clawnet.hub.interceptors import Interceptor, Proposed
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.hub.told import Told
from clawnet.testing.clocks import FakeClock
from clawnet.testing.running import Running, running_hub

SECRET = "what Centrifugo shows"
WAIT_MAX_S = 20.0
"""Only reached when a test fails."""
BODY = json.dumps({"client": "c", "user": "ada", "channel": "public.news", "data": 1}).encode()
HEADERS = {"X-Clawnet-Proxy-Secret": SECRET, "Content-Type": "application/json"}


class Noting(Told):
    """Keeps what the door says."""

    def __init__(self) -> None:
        super().__init__()
        self.owed: list[str] = []
        self.settled: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()

    def owe(self, event: str) -> None:
        self.owed.append(event)
        super().owe(event)

    def settle(self, event: str, *, is_told: bool) -> None:
        self.settled.put_nowait((event, is_told))
        super().settle(event, is_told=is_told)

    async def next(self) -> tuple[str, bool]:
        async with asyncio.timeout(WAIT_MAX_S):
            return await self.settled.get()


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    # Its clock stands: however slow the machine is, no answer comes too late.
    async with running_hub(
        settings=HubSettings(limits=LimitSettings(enabled=False)),
        centrifugo=CentrifugoSettings(proxy_secret=SECRET),
        clock=FakeClock(),
    ) as made:
        await made.hub.call(CreateAccount(id="ada"), caller=HUB)
        yield made


@pytest.fixture
def told(running: Running) -> Noting:
    noting = running.hub.told = Noting()
    return noting


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_MAX_S):
        while not is_so():  # noqa: ASYNC110 (the registry has no event for it)
            await asyncio.sleep(0)


async def begin(running: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask over a connection of one's own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    head = [f"POST /proxy/publish HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\n"]
    head += [f"{name}: {value}\r\n" for name, value in HEADERS.items()]
    head += [f"Content-Length: {len(BODY)}\r\n\r\n"]
    writer.write("".join(head).encode() + BODY)
    await writer.drain()
    return reader, writer


async def test_an_answer_over_a_connection_that_stays_is_given(
    running: Running, told: Noting
) -> None:
    async with httpx.AsyncClient(base_url=running.url, headers=HEADERS) as client:
        for _ in range(3):
            answer = await client.post("/proxy/publish", content=BODY)
            event = answer.json()["result"]["data"]["_claw"]["id"]
            assert await told.next() == (event, True)
            assert await running.hub.told.is_told(event)


async def test_an_answer_for_a_connection_that_ended_meanwhile_is_not_given(
    running: Running, told: Noting
) -> None:
    goes_on = asyncio.Event()

    async def think(proposed: Proposed) -> None:
        await goes_on.wait()

    running.hub.intercept(
        Interceptor(name="slow", channels=("public.news",), intercept=think, timeout_s=5.0)
    )
    _, writer = await begin(running)
    await until(lambda: len(running.connections.all) == 1)
    writer.close()
    await until(lambda: len(running.connections.all) == 0)
    goes_on.set()
    assert await told.next() == (told.owed[0], False)
    assert not await running.hub.told.is_told(told.owed[0])


async def test_an_answer_that_crossed_with_the_connections_end_is_not_given(
    running: Running, told: Noting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "GIVEN_UP_S", 1.5)
    reader, writer = await begin(running)
    async with asyncio.timeout(WAIT_MAX_S):
        assert await reader.read(1)
    assert told.settled.empty(), "as long as that is not certain, it is not said"
    writer.close()
    await until(lambda: len(running.connections.all) == 0)
    assert await told.next() == (told.owed[0], False)


async def test_a_refusal_owes_nothing(running: Running, told: Noting) -> None:
    async with httpx.AsyncClient(base_url=running.url, headers=HEADERS) as client:
        for body in (BODY.replace(b"public.news", b"room.x"), BODY.replace(b"ada", b"eve"), b"{"):
            answer = await client.post("/proxy/publish", content=body)
            assert "error" in answer.json()
    assert told.owed == [] and told.settled.empty()
