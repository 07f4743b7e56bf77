"""A hub for the streamed transports, and clients made of httpx and of nothing of the hub's."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
from centrifuge.protocol import client_pb2
from google.protobuf.json_format import MessageToDict, ParseDict
from msgspec import Raw

from clawnet.core.callers import Caller
from clawnet.core.calls.publishing import Publish
from clawnet.doors.centrifugo.transport import StreamTransport
from clawnet.hub.settings import HubSettings, LimitSettings, RetentionSettings
from clawnet.testing.running import Running

LOBBY = "public.lobby"
WAIT_MAX_S = 20.0
"""How long a test waits for what must come: only reached when the test fails."""

BINARY = {"Content-Type": "application/octet-stream"}
_RAW = ("data", "conn_info", "chan_info")
_LONG = ("offset", "time")


UNLIMITED = HubSettings(
    limits=LimitSettings(enabled=False),
    retention=RetentionSettings(events_per_channel_max=1_000_000),
)


class Rig:
    """A running hub and a client of its HTTP."""

    def __init__(self, running: Running, client: httpx.AsyncClient) -> None:
        self.running = running
        self.hub = running.hub
        self.client = client
        self.door = running.centrifugo
        self._speaker: Caller | None = None

    async def connect(self, account: str = "alice") -> dict[str, Any]:
        """A connect command with an account's token."""
        return {"id": 1, "connect": {"token": await self.running.token(account)}}

    async def say(self, data: Any) -> int:
        """Have zoe publish in the lobby; the offset."""
        if self._speaker is None:
            self._speaker = self.hub.authenticate(await self.running.token("zoe"))
        call = Publish(channel=LOBBY, data=Raw(json.dumps(data).encode()))
        return (await self.hub.publish_wait(self._speaker, call)).offset

    async def settled(self, what: Any) -> None:
        async with asyncio.timeout(WAIT_MAX_S):
            while not what():  # noqa: ASYNC110 (the hub has no event for what a test looks at)
                await asyncio.sleep(0)

    @property
    def transport(self) -> StreamTransport:
        """Of the only client."""
        (client,) = self.door.clients.all()
        assert isinstance(client.wire, StreamTransport)
        return client.wire


class Feed:
    """A streamed answer, message by message. `kind` is http_stream, sse or protobuf."""

    def __init__(self, response: httpx.Response, kind: str, *, is_uni: bool = False) -> None:
        self.response = response
        self.head = b""
        """What came before the first event of a sse."""
        self._kind = kind
        self._is_uni = is_uni
        self._pieces = response.aiter_bytes()
        self._held = b""

    async def next(self) -> dict[str, Any]:
        """The next message; {} is a ping."""
        async with asyncio.timeout(WAIT_MAX_S):
            while (taken := self._take()) is None:
                self._held += await anext(self._pieces)
        return taken

    async def rest(self) -> list[dict[str, Any]]:
        """Everything up to the end of the answer."""
        async with asyncio.timeout(WAIT_MAX_S):
            async for piece in self._pieces:
                self._held += piece
        found = []
        while (taken := self._take()) is not None:
            found.append(taken)
        assert not self._held, "the stream ends with whole messages"
        return found

    def _take(self) -> dict[str, Any] | None:
        if self._kind == "protobuf":
            return self._take_binary()
        if self._kind == "sse":
            if not self.head:
                if len(self._held) < 2:
                    return None
                self.head, self._held = self._held[:2], self._held[2:]
            text, mark, rest = self._held.partition(b"\n\n")
            if not mark:
                return None
            assert text.startswith(b"data: ") and b"\n" not in text and b"\r" not in text
            text = text.removeprefix(b"data: ")
        else:
            text, mark, rest = self._held.partition(b"\n")
            if not mark:
                return None
        self._held = rest
        message: dict[str, Any] = json.loads(text)
        return message

    def _take_binary(self) -> dict[str, Any] | None:
        length = 0
        for at, byte in enumerate(self._held):
            length |= (byte & 0x7F) << 7 * at
            if byte < 0x80:
                break
        else:
            return None
        start = at + 1
        if len(self._held) < start + length:
            return None
        body, self._held = self._held[start : start + length], self._held[start + length :]
        of = client_pb2.Push if self._is_uni else client_pb2.Reply
        return _plain(MessageToDict(of.FromString(body), preserving_proto_field_name=True))


class Stream:
    """A client of http_stream or sse with emulation."""

    def __init__(self, client: httpx.AsyncClient, feed: Feed, kind: str) -> None:
        self.client = client
        self.feed = feed
        self.kind = kind
        self.session = ""
        self.node = ""
        self.pushes: list[dict[str, Any]] = []
        self._last_id = 1

    async def connected(self) -> dict[str, Any]:
        """The connect reply's result."""
        reply = await self.feed.next()
        assert reply["id"] == 1 and "connect" in reply, reply
        result: dict[str, Any] = reply["connect"]
        self.session, self.node = result["session"], result["node"]
        return result

    async def emulate(self, *commands: dict[str, Any], **instead: Any) -> httpx.Response:
        """POST commands; `instead` are other members of the request."""
        said = {"session": self.session, "node": self.node, **instead}
        if self.kind == "protobuf":
            data = instead.get("data", b"".join(written(one) for one in commands))
            body = client_pb2.EmulationRequest(**{**said, "data": data}).SerializeToString()
            return await self.client.post("/emulation", content=body, headers=BINARY)
        said.setdefault("data", "\n".join(json.dumps(one) for one in commands))
        return await self.client.post("/emulation", json=said)

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its reply; pushes that come before it are kept."""
        self._last_id += 1
        answer = await self.emulate({"id": self._last_id, method: params})
        assert answer.status_code == 204, answer.text
        while True:
            message = await self.feed.next()
            if message.get("id") == self._last_id:
                return message
            self.pushes.append(message)

    async def push(self) -> dict[str, Any]:
        """The next push."""
        if self.pushes:
            return self.pushes.pop(0)["push"]
        message = await self.feed.next()
        assert "push" in message, message
        push: dict[str, Any] = message["push"]
        return push


def written(command: dict[str, Any]) -> bytes:
    """A command in protobuf behind its length."""
    body = ParseDict(_packed(command), client_pb2.Command()).SerializeToString()
    return _varint(len(body)) + body


@asynccontextmanager
async def stream(
    client: httpx.AsyncClient, kind: str, *commands: dict[str, Any], query: str = "", **how: Any
) -> AsyncIterator[Stream]:
    """Open a stream by commands, the first of which should be connect with id 1."""
    if kind == "protobuf":
        body = b"".join(written(one) for one in commands)
        how = {"content": body, "headers": BINARY, **how}
        opening = client.stream(
            "POST", f"/connection/http_stream{query}", timeout=WAIT_MAX_S, **how
        )
    else:
        text = "\n".join(json.dumps(one) for one in commands)
        if kind == "sse":
            path = f"/connection/sse?cf_connect={quote(text)}{query.replace('?', '&')}"
            opening = client.stream("GET", path, timeout=WAIT_MAX_S, **how)
        else:
            how = {"content": text, "headers": {"Content-Type": "application/json"}, **how}
            path = f"/connection/http_stream{query}"
            opening = client.stream("POST", path, timeout=WAIT_MAX_S, **how)
    async with opening as response:
        assert response.status_code == 200, await response.aread()
        yield Stream(client, Feed(response, kind), kind)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _packed(value: Any) -> Any:
    """JSON payloads as protobuf's own JSON form wants bytes."""
    if not isinstance(value, dict):
        return value
    return {
        key: base64.b64encode(json.dumps(one).encode()).decode() if key in _RAW else _packed(one)
        for key, one in value.items()
    }


def _plain(value: Any) -> Any:
    """The other way round, with whole numbers as numbers."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: json.loads(base64.b64decode(one))
        if key in _RAW
        else int(one)
        if key in _LONG and not isinstance(one, dict)
        else _plain(one)
        for key, one in value.items()
    }
