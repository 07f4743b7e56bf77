"""The unidirectional transports: connect once, then listen; over real connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from centrifuge.protocol import client_pb2
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect

from clawnet.doors.centrifugo.settings import CentrifugoSettings
from clawnet.doors.centrifugo.uni_socket import UNI_PATH, connect_request
from clawnet.doors.centrifugo.wire import BadCommand, ConnectRequest
from clawnet.testing.running import running_hub
from tests.doors.centrifugo.streaming import BINARY, LOBBY, UNLIMITED, WAIT_MAX_S, Feed, Rig

KINDS = ("uni_http_stream", "uni_sse", "uni_sse posted", "protobuf", "uni_websocket")
FOLLOW: dict[str, Any] = {"subs": {LOBBY: {}}}


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    # The first ping comes after 12.5 to 25 s, and unidirectional clients answer none.
    async with (
        running_hub(settings=UNLIMITED, centrifugo=CentrifugoSettings(ping_s=25)) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=WAIT_MAX_S) as client,
    ):
        yield Rig(running, client)


class SocketFeed:
    """What Feed is, of a WebSocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_MAX_S):
            text = await self.socket.recv(decode=False)
        assert b"\n" not in text
        message: dict[str, Any] = json.loads(text)
        return message

    async def rest(self) -> list[dict[str, Any]]:
        """The end, told as the other transports tell it."""
        async with asyncio.timeout(WAIT_MAX_S):
            await self.socket.wait_closed()
        return [{"disconnect": {"code": self.socket.close_code}}]


@asynccontextmanager
async def follow(
    rig: Rig, kind: str, request: dict[str, Any], *, query: str = ""
) -> AsyncIterator[Feed | SocketFeed]:
    """Connect by a ConnectRequest."""
    text = json.dumps(request)
    if kind == "uni_websocket":
        url = f"ws://127.0.0.1:{rig.running.port}{UNI_PATH}{query}"
        async with connect(url, proxy=None) as socket:
            await socket.send(text)
            yield SocketFeed(socket)
        return
    how: dict[str, Any] = {"content": text}
    method, path = "POST", f"/connection/uni_http_stream{query}"
    if kind == "uni_sse":
        method, path, how = "GET", f"/connection/uni_sse?cf_connect={quote(text)}", {}
    elif kind == "uni_sse posted":
        path = "/connection/uni_sse"
    elif kind == "protobuf":
        subs = request.get("subs", {})
        body = client_pb2.ConnectRequest(token=request.get("token", ""), subs=subs)
        how = {"content": body.SerializeToString(), "headers": BINARY}
    async with rig.client.stream(method, path, **how) as response:
        assert response.status_code == 200, await response.aread()
        form = "protobuf" if kind == "protobuf" else "sse" if "sse" in kind else "http_stream"
        yield Feed(response, form, is_uni=True)


async def asked(rig: Rig, account: str = "alice", **members: Any) -> dict[str, Any]:
    return {"token": await rig.running.token(account), **FOLLOW, **members}


@pytest.mark.parametrize("kind", KINDS)
async def test_pushes_come_without_a_wrapper(rig: Rig, kind: str) -> None:
    async with follow(rig, kind, await asked(rig)) as feed:
        hello = (await feed.next())["connect"]
        assert hello["client"] and hello["version"] and hello["ping"] == 25
        assert "pong" not in hello, "nobody can answer"
        assert "session" not in hello and "node" not in hello, "nobody may speak for it"
        assert hello["subs"][LOBBY]["recoverable"] is True
        await rig.say({"n": 1})
        said = await feed.next()
        assert said["channel"] == LOBBY
        assert said["pub"]["data"]["payload"] == {"n": 1} and said["pub"]["offset"] == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_listener_is_pinged_and_need_not_answer(rig: Rig, kind: str) -> None:
    async with follow(rig, kind, await asked(rig)) as feed:
        await feed.next()
        for _ in range(3):
            rig.running.pass_time(25.5)
            assert await feed.next() == {}
        await rig.say("still there")
        message = await feed.next()
        assert message["pub"]["data"]["payload"] == "still there"


@pytest.mark.parametrize("kind", KINDS)
async def test_who_comes_back_is_given_what_it_missed_in_connect(rig: Rig, kind: str) -> None:
    async with follow(rig, kind, await asked(rig)) as feed:
        was = (await feed.next())["connect"]["subs"][LOBBY]
    for n in range(3):
        await rig.say(n)
    place = {"recover": True, "offset": was.get("offset", 0), "epoch": was["epoch"]}
    async with follow(rig, kind, await asked(rig, subs={LOBBY: place})) as feed:
        now = (await feed.next())["connect"]["subs"][LOBBY]
        assert now["recovered"] is True
        assert [one["data"]["payload"] for one in now["publications"]] == [0, 1, 2]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_hub_that_stops_says_so(rig: Rig, kind: str) -> None:
    async with follow(rig, kind, await asked(rig)) as feed:
        await feed.next()
        stopping = asyncio.create_task(rig.running.stop())
        (last,) = await feed.rest()
        await stopping
    assert last["disconnect"]["code"] == 3001


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wrong_token_ends_it_for_good(rig: Rig, kind: str) -> None:
    async with follow(rig, kind, {"token": "nonsense", **FOLLOW}) as feed:
        (last,) = await feed.rest()
    assert last["disconnect"]["code"] == 3500
    assert not rig.hub.sessions and not rig.door.clients.all()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_channel_that_is_not_ones_own_is_not_heard(rig: Rig, kind: str) -> None:
    await rig.running.token("bob")
    async with follow(rig, kind, await asked(rig, subs={"agent.bob.inbox": {}})) as feed:
        (last,) = await feed.rest()
    assert last["disconnect"]["code"] == 3507
    assert not rig.hub.sessions and not rig.door.clients.all()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_listener_that_goes_away_is_forgotten(rig: Rig, kind: str) -> None:
    async with follow(rig, kind, await asked(rig)) as feed:
        await feed.next()
        assert rig.door.clients.stats("main", LOBBY) == (1, 1)
    await rig.settled(lambda: not rig.hub.sessions and not rig.door.clients.all())
    assert rig.door.clients.stats("main", LOBBY) == (0, 0)


async def test_a_listener_cannot_be_spoken_for(rig: Rig) -> None:
    async with follow(rig, "uni_http_stream", await asked(rig)) as feed:
        hello = (await feed.next())["connect"]
        said = {"node": rig.door.node, "data": '{"id":1,"publish":{"channel":"x"}}'}
        for session in ("", hello["client"]):
            answer = await rig.client.post("/emulation", json={"session": session, **said})
            assert answer.status_code == 404


async def test_the_bare_payload_is_shown_to_who_asks(rig: Rig) -> None:
    for kind in ("uni_http_stream", "uni_websocket"):
        async with follow(rig, kind, await asked(rig), query="?envelope=raw") as feed:
            await feed.next()
            await rig.say({"n": 1})
            assert (await feed.next())["pub"]["data"] == {"n": 1}


@pytest.mark.parametrize("path", ["/connection/uni_http_stream", "/connection/uni_sse"])
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"token":1}', b"\xff", b'{"subs":[]}'])
async def test_what_is_no_connect_request_is_400(rig: Rig, path: str, body: bytes) -> None:
    assert (await rig.client.post(path, content=body)).status_code == 400
    answer = await rig.client.post(
        "/connection/uni_http_stream", content=b"\x0a\x05", headers=BINARY
    )
    assert answer.status_code == 400
    assert not rig.door.clients.all()


@pytest.mark.parametrize("message", ["{", "[]", "", '{"token":1}'])
async def test_what_is_no_connect_request_closes_a_websocket(rig: Rig, message: str) -> None:
    url = f"ws://127.0.0.1:{rig.running.port}{UNI_PATH}"
    async with connect(url, proxy=None) as socket:
        await socket.send(message)
        assert await SocketFeed(socket).rest() == [{"disconnect": {"code": 3501}}]


async def test_what_a_listener_says_on_a_websocket_is_passed_over(rig: Rig) -> None:
    async with follow(rig, "uni_websocket", await asked(rig)) as feed:
        assert isinstance(feed, SocketFeed)
        await feed.next()
        for text in ("{", json.dumps(await asked(rig)), '{"id":2,"publish":{"channel":"x"}}'):
            await feed.socket.send(text)
        await rig.say("next")
        assert (await feed.next())["pub"]["offset"] == 1


async def test_a_websocket_may_listen_in_protobuf(rig: Rig) -> None:
    url = f"ws://127.0.0.1:{rig.running.port}{UNI_PATH}?cf_protocol=protobuf"
    request = client_pb2.ConnectRequest(token=await rig.running.token(), subs={LOBBY: {}})
    async with connect(url, proxy=None) as socket, asyncio.timeout(WAIT_MAX_S):
        await socket.send(request.SerializeToString())
        frame = await socket.recv(decode=False)
        hello = client_pb2.Push.FromString(frame[2 if frame[0] >= 0x80 else 1 :])
        assert hello.connect.client and hello.connect.subs[LOBBY].recoverable


async def test_a_token_in_the_address_of_a_websocket_is_refused(rig: Rig) -> None:
    answer = await rig.client.get(
        f"{UNI_PATH}?token=x",
        headers={
            "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        },
    )  # fmt: skip
    assert answer.status_code == 400


@given(st.binary(max_size=100), st.booleans())
def test_any_bytes_are_a_connect_request_or_a_bad_command(message: bytes, is_binary: bool) -> None:
    try:
        request = connect_request(message, is_protobuf=is_binary)
    except BadCommand:
        return
    assert isinstance(request, ConnectRequest)
