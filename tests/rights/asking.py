"""Asks one question of one asker through one door, and answers in the signs of the matrix."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlencode

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from clawnet.core.calls.consumers import Ack, CreateConsumer, DeleteConsumer, DeliveryName, Fetch
from clawnet.core.calls.live import Subscribe
from clawnet.core.calls.publishing import PublishBatch
from clawnet.core.calls.reading import Gap, ListChannels, ReadEvent, ReadHistory
from clawnet.core.channels import parse
from clawnet.core.cursors import AfterOffset
from clawnet.core.errors import ClawError
from clawnet.core.live import End
from clawnet.core.rights import Allowed, Verb, decide
from clawnet.testing.running import Running
from tests.rights.population import Asker, Seed, say

SIGNS = {200: "w", 201: "w", 400: "!", 401: "?", 403: "-", 404: "0"}
PATIENCE_S = 10.0
"""How long a stream may be silent; only a failing test waits for it."""
BATCH_FIRST = "public.batches"
"""Where the first event of a batch goes, which must not be stored if the second is refused."""


def sign(error: ClawError | httpx.Response) -> str:
    status = error.status_code if isinstance(error, httpx.Response) else error.status
    return SIGNS.get(status, str(status))


def said(text: str) -> set[str]:
    """The data of every event in a text of envelopes, as JSON."""
    return set(re.findall(r'"data":("(?:[^"\\]|\\.)*")', text))


def shown(found: set[str], seeds: list[Seed]) -> str:
    """Which of the seeds were found: r for all, 3 for those from offset 3 on, 0 for none."""
    offsets = [seed.offset for seed in seeds if seed.mark in found]
    if not offsets:
        return "0"
    if len(offsets) == len(seeds):
        return "r"
    is_tail = offsets == [seed.offset for seed in seeds if seed.offset >= offsets[0]]
    return str(offsets[0]) if is_tail else "some"


async def attempt(work: Callable[[], Awaitable[str]]) -> str:
    """The sign of what a call answers or raises."""
    try:
        return await work()
    except ClawError as error:
        return sign(error)


class Sink:
    """An Outlet that keeps everything."""

    def __init__(self) -> None:
        self.text = ""
        self.notes: list[Any] = []

    def write(self, frames: bytes) -> None:
        self.text += frames.decode()

    def unsent(self) -> int:
        return 0

    def gap(self, number: int, gap: Gap) -> None:
        self.notes.append(gap)

    def ended(self, number: int, error: ClawError) -> None:
        self.notes.append(error)

    def retract(self) -> None:
        """Nothing is ever queued here."""

    def dropped(self, number: int, channel: str, error: ClawError) -> None:
        self.notes.append((channel, error))

    def close(self, end: End) -> None:
        self.notes.append(end)


class Plain:
    """Envelopes, one per line."""

    key = "plain"

    def frame(self, body: bytes, cursor: bytes | None) -> bytes:
        return body + b"\n"


PLAIN = Plain()


async def turns(n: int = 8) -> None:
    """Let the loop turn; over the memory engine everything settles within a few."""
    for _ in range(n):
        await asyncio.sleep(0)


# --- the decision alone -------------------------------------------------------------------------


async def decided(asker: Asker, channel: str, verb: Verb) -> str:
    caller = asker.caller()
    decision = decide(caller, verb, parse(channel), asker.running.hub.directory)
    if not isinstance(decision, Allowed):
        return "?" if caller.is_anonymous else "-"
    if verb is Verb.PUBLISH:
        return "w"
    return str(decision.from_offset) if decision.from_offset else "r"


# --- the hub's calls ----------------------------------------------------------------------------


async def hub_publish(asker: Asker, channel: str, text: str) -> str:
    await asker.running.hub.publish_wait(asker.caller(), say(channel, text, type="x.tried"))
    return "w"


async def hub_session_publish(asker: Asker, channel: str, text: str) -> str:
    hub = asker.running.hub
    session = hub.open(asker.caller(), Sink(), PLAIN)
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    session.publish(say(channel, text, type="x.tried"), done.set_result)
    outcome = await done
    session.close()
    return sign(outcome) if isinstance(outcome, ClawError) else "w"


async def hub_batch(asker: Asker, channel: str, text: str) -> str:
    events = [say(BATCH_FIRST, text, type="x.tried"), say(channel, text, type="x.tried")]
    await asker.running.hub.call(PublishBatch(events=events), caller=asker.caller())
    return "w"


async def hub_history(asker: Asker, channel: str, seeds: list[Seed], **how: Any) -> str:
    call = ReadHistory(channel=channel, limit=1_000, **how)
    page = await asker.running.hub.call(call, caller=asker.caller())
    return shown(said(page.body.decode()), seeds)


async def hub_event(asker: Asker, event_id: str) -> str:
    body = await asker.running.hub.call(ReadEvent(id=event_id), caller=asker.caller())
    return body.decode()


async def hub_list(asker: Asker) -> set[str]:
    page = await asker.running.hub.call(ListChannels(limit=1_000), caller=asker.caller())
    return {channel.name for channel in page.channels}


async def hub_follow(asker: Asker, channels: Iterable[str], *, live: Callable[[], Any]) -> str:
    """What a subscription is given of the past, and of what `live` publishes."""
    sink = Sink()
    session = asker.running.hub.open(asker.caller(), sink, PLAIN)
    try:
        session.subscribe(Subscribe(channels=tuple(channels), since=AfterOffset(0)))
        await turns()
        await live()
        await turns()
    finally:
        session.close()
    return sink.text


async def hub_consume(asker: Asker, channels: list[str]) -> str:
    """Everything that a new consumer is given."""
    hub, caller = asker.running.hub, asker.caller()
    await hub.call(CreateConsumer(name="m", channels=channels, since="all"), caller=caller)
    text = ""
    try:
        while True:
            fetched = await hub.call(Fetch(name="m", limit=256), caller=caller)
            if not fetched.deliveries:
                return text
            text += "\n".join(bytes(d.event).decode() for d in fetched.deliveries)
            names = [DeliveryName(seq=d.seq, attempt=d.attempt) for d in fetched.deliveries]
            await hub.call(Ack(name="m", deliveries=names), caller=caller)
    finally:
        await hub.call(DeleteConsumer(name="m"), caller=caller)


# --- HTTP ---------------------------------------------------------------------------------------


class Http:
    """One asker's HTTP client: a connection that is kept, and httpx for what streams.

    Thousands of cells are asked over the first; httpx alone would take longer than the hub.
    """

    def __init__(self, asker: Asker) -> None:
        self.client = httpx.AsyncClient(
            base_url=asker.running.url, headers=asker.headers, timeout=PATIENCE_S, trust_env=False
        )
        head = {"host": f"127.0.0.1:{asker.running.port}", **asker.headers}
        self._head = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        self._port = asker.running.port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """One request. `body` is sent as JSON, or as it is if it is bytes."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._ask(method, path, body)

    async def _ask(self, method: str, path: str, body: Any) -> httpx.Response:
        """Raises TimeoutError. Of a stream only the head is read; _streams has the rest."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        content = (
            body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        )
        kind = "" if isinstance(body, bytes) else "content-type: application/json\r\n"
        head = (
            f"{method} {path} HTTP/1.1\r\n{self._head}{kind}content-length: {len(content)}\r\n\r\n"
        )
        writer.write(head.encode() + content)
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in rest if line)
        answer = await reader.readexactly(int(headers.get("content-length", 0)))
        return httpx.Response(int(first.split()[1]), headers=headers, content=answer)

    async def close(self) -> None:
        await self.client.aclose()
        await self._hang_up()

    async def _hang_up(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            await self._streams[1].wait_closed()
            self._streams = None

    async def publish(self, channel: str, text: str) -> str:
        path = f"/api/v1/channels/{quote(channel, safe='')}/events"
        return sign(await self.ask("POST", path, {"data": text, "type": "x.tried"}))

    async def shell(self, channel: str, text: str) -> str:
        path = f"/pub/{quote(channel, safe='')}?type=x.tried"
        return sign(await self.ask("POST", path, text.encode()))

    async def batch(self, channel: str, text: str) -> str:
        events = [
            {"channel": name, "data": text, "type": "x.tried"} for name in (BATCH_FIRST, channel)
        ]
        return sign(await self.ask("POST", "/api/v1/events/batch", {"events": events}))

    async def history(self, channel: str, seeds: list[Seed], *, how: str = "") -> str:
        path = f"/api/v1/channels/{quote(channel, safe='')}/events?limit=1000{how}"
        found = await self.ask("GET", path)
        return shown(said(found.text), seeds) if found.status_code == 200 else sign(found)

    async def event(self, event_id: str) -> httpx.Response:
        return await self.ask("GET", f"/api/v1/events/{event_id}")

    async def listed(self) -> set[str] | str:
        found = await self.ask("GET", "/api/v1/channels?limit=1000")
        if found.status_code != 200:
            return sign(found)
        return {channel["name"] for channel in found.json()["channels"]}

    async def stream(self, path: str, params: dict[str, Any], last: str | None) -> str:
        """What a stream gives until `last` comes, or the sign of its refusal."""
        async with asyncio.timeout(PATIENCE_S):
            found = await self._ask("GET", f"{path}?{urlencode(params)}", None)
            if found.status_code != 200:
                return sign(found)
            if "content-length" in found.headers:
                return found.text
            assert found.headers["transfer-encoding"] == "chunked" and self._streams is not None
            reader, given = self._streams[0], b""
            while not given or (last is not None and last.encode() not in given):
                size = int(await reader.readline(), 16)
                given += (await reader.readexactly(size + 2))[:size]
                if not size:
                    break
        await self._hang_up()
        return given.decode()

    async def consume(self, channels: list[str]) -> str:
        """What a new consumer is first given, or the sign of its refusal."""
        consumer = {"name": "h", "channels": channels, "since": "all"}
        made = await self.ask("POST", "/api/v1/consumers", consumer)
        if made.status_code != 201:
            return sign(made)
        fetched = await self.ask("POST", "/api/v1/consumers/h/fetch", {"limit": 256})
        assert fetched.status_code == 200, fetched.text
        assert (await self.ask("DELETE", "/api/v1/consumers/h")).status_code == 200
        return fetched.text


@asynccontextmanager
async def http(asker: Asker) -> AsyncIterator[Http]:
    made = Http(asker)
    try:
        yield made
    finally:
        await made.close()


# --- the native WebSocket -----------------------------------------------------------------------


class Socket:
    """A connection that keeps all frames, and knows which answer belongs to which command."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.answers: dict[int, dict[str, Any]] = {}
        self.frames: list[dict[str, Any]] = []
        self.text = ""
        self._last = 0

    async def send(self, action: str, **members: Any) -> int:
        self._last += 1
        command = {"action": action, "id": self._last, **members}
        await self.connection.send(json.dumps(command))
        return self._last

    async def ask(self, action: str, **members: Any) -> dict[str, Any]:
        """Send and wait for the answer. Events that come meanwhile are kept."""
        number = await self.send(action, **members)
        await self.until(lambda: number in self.answers)
        return self.answers[number]

    async def until(self, is_there: Callable[[], bool]) -> None:
        """Take frames until there is what is waited for. Raises ConnectionClosed, TimeoutError."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_there():
                text = str(await self.connection.recv())
                frame = json.loads(text)
                self.frames.append(frame)
                if frame["type"] == "event":
                    self.text += text
                elif "id" in frame:
                    self.answers[frame["id"]] = frame

    async def answered(self, count: int) -> None:
        """Wait until so many commands were answered."""
        await self.until(lambda: len(self.answers) == count)

    async def heard(self, text: str) -> None:
        """Wait for an event with this in it."""
        await self.until(lambda: text in self.text)

    async def rest(self) -> None:
        """Take everything that the hub has to say now: a few rounds of ping."""
        for _ in range(3):
            await self.ask("ping")

    async def closed(self) -> int | None:
        """Take frames until the connection ends; the code of its close."""
        try:
            await self.until(lambda: False)
        except ConnectionClosed as over:
            return over.rcvd.code if over.rcvd else None
        raise AssertionError("the connection stayed open")

    def sign(self, number: int) -> str:
        answer = self.answers[number]
        if answer["type"] == "ok":
            return "w"
        codes = {"unauthenticated": "?", "forbidden": "-", "invalid_channel": "!"}
        return codes.get(answer["error"]["code"], answer["error"]["code"])


@asynccontextmanager
async def socket(asker: Asker) -> AsyncIterator[Socket | None]:
    """A connection; None if the token was refused at the handshake."""
    try:
        opened = await connect(
            asker.running.ws_url,
            additional_headers=asker.headers,
            proxy=None,
            compression=None,
            # A connection that a test has stalled answers no close.
            close_timeout=1,
        )
    except InvalidStatus as refused:
        assert refused.response.status_code == 401
        yield None
        return
    async with opened:
        yield Socket(opened)


def of(running: Running, token: str | None) -> Asker:
    """An asker outside of the matrix."""
    return Asker("-", running, token)


def covers(pattern: str, channel: str) -> bool:
    """Whether a pattern covers a name; written a second time, apart from the hub's."""
    parts = ["[^.]+" if part == "*" else re.escape(part) for part in pattern.split(".")]
    if parts[-1] == ">":
        parts[-1] = ".+"
    return re.fullmatch(r"\.".join(parts), channel) is not None
