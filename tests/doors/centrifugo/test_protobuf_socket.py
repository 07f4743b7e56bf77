"""Protobuf on /connection/websocket, chosen in each of the three ways."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from centrifuge.protocol import client_pb2
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from clawnet.doors.centrifugo.door import PATH
from clawnet.testing.running import running_hub
from tests.doors.centrifugo.streaming import LOBBY, UNLIMITED, WAIT_MAX_S, Rig, written


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with (
        running_hub(settings=UNLIMITED) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False) as client,
    ):
        yield Rig(running, client)


def replies(frame: bytes) -> list[client_pb2.Reply]:
    found = []
    while frame:
        length = at = 0
        while True:
            length |= (frame[at] & 0x7F) << 7 * at
            at += 1
            if frame[at - 1] < 0x80:
                break
        found.append(client_pb2.Reply.FromString(frame[at : at + length]))
        frame = frame[at + length :]
    return found


@pytest.mark.parametrize("how", ["subprotocol", "?cf_protocol=protobuf", "?format=protobuf"])
async def test_commands_of_one_frame_are_answered_in_protobuf(rig: Rig, how: str) -> None:
    query = "" if how == "subprotocol" else how
    offered = ["centrifuge-protobuf"] if how == "subprotocol" else None
    url = f"ws://127.0.0.1:{rig.running.port}{PATH}{query}"
    async with connect(url, proxy=None, subprotocols=offered) as socket:  # type: ignore[arg-type]
        assert socket.subprotocol == (offered[0] if offered else None)
        commands = [await rig.connect(), {"id": 2, "subscribe": {"channel": LOBBY}}]
        await socket.send(b"".join(written(one) for one in commands))
        await socket.send(written({"id": 3, "publish": {"channel": LOBBY, "data": {"n": 1}}}))
        heard: list[client_pb2.Reply] = []
        async with asyncio.timeout(WAIT_MAX_S):
            while len(heard) < 4:
                frame = await socket.recv()
                assert isinstance(frame, bytes), "protobuf goes in binary frames"
                heard += replies(frame)
        assert [one.id for one in heard[:2]] == [1, 2]
        assert heard[0].connect.client and heard[1].subscribe.recoverable
        (pushed,) = [one.push for one in heard if one.HasField("push")]
        assert pushed.channel == LOBBY and pushed.pub.offset == 1
        assert json.loads(pushed.pub.data)["payload"] == {"n": 1}
        assert {one.id for one in heard} == {0, 1, 2, 3}


async def test_data_that_is_no_json_is_refused_with_107(rig: Rig) -> None:
    url = f"ws://127.0.0.1:{rig.running.port}{PATH}?cf_protocol=protobuf"
    async with connect(url, proxy=None) as socket, asyncio.timeout(WAIT_MAX_S):
        await socket.send(written(await rig.connect()))
        await socket.recv()
        for data in (b"\xff{x", b"", b"{} {}", b"NaN"):
            command = client_pb2.Command(id=2, publish={"channel": LOBBY, "data": data})
            body = command.SerializeToString()
            await socket.send(bytes([len(body)]) + body)
            frame = await socket.recv(decode=False)
            (reply,) = replies(frame)
            assert reply.error.code == 107, (data, reply)
    assert await rig.say("first") == 1, "nothing of it was stored"


@pytest.mark.parametrize("frame", [b"", b"\x05", b"\xff" * 12, b"\x02\x0b\x0c"], ids=ascii)
async def test_bytes_that_are_no_commands_close_it(rig: Rig, frame: bytes) -> None:
    url = f"ws://127.0.0.1:{rig.running.port}{PATH}?cf_protocol=protobuf"
    async with connect(url, proxy=None) as socket, asyncio.timeout(WAIT_MAX_S):
        await socket.send(frame)
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 3501
