"""Following live: server-sent events and JSON lines, with their beginnings, gaps and ends."""

from __future__ import annotations

import asyncio
import json

import pytest

from clawnet.core.calls.grants import Lock, Revoke, Unlock
from clawnet.core.calls.tokens import RevokeToken
from clawnet.core.live import End
from clawnet.doors.http.routes.streams import LineShape, SseShape
from clawnet.doors.http.settings import HttpSettings
from tests.doors.http.conftest import LOBBY, STREAM, Api, Stream, check_problem, settled

LIVE = f"{STREAM}?channels=public.lobby"


async def test_events_come_as_they_are_published(api: Api) -> None:
    async with api.client.stream("GET", LIVE) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-store"
        stream = Stream(response)
        made = await api.publish({"text": "hi"})
        event = await stream.event()
    assert event["event"] == "chat.message"
    envelope = json.loads(event["data"])
    assert envelope["id"] == made["id"]
    assert envelope["data"] == {"text": "hi"}
    assert event["id"].endswith(f"-{made['seq']}")


async def test_a_stream_begins_with_its_position(api: Api) -> None:
    await api.say("before")
    async with api.client.stream("GET", LIVE) as response:
        stream = Stream(response)
        assert (await stream.line()).startswith("retry: ")
        name, _, cursor = (await stream.line()).partition(": ")
        assert (name, await stream.line()) == ("id", "")
    await api.say("meanwhile")
    async with api.client.stream("GET", LIVE, headers={"Last-Event-ID": cursor}) as response:
        event = await Stream(response).event()
    assert json.loads(event["data"])["data"] == "meanwhile"


async def test_who_comes_back_by_its_last_id_misses_nothing(api: Api) -> None:
    for n in range(1, 4):
        await api.say(n)
    async with api.client.stream("GET", f"{LIVE}&since=all") as response:
        stream = Stream(response)
        first = await stream.event()
        assert json.loads(first["data"])["data"] == 1
    await api.say(4)
    headers = {"Last-Event-ID": first["id"]}
    # The URL still says since=all: the header is what the client has seen.
    async with api.client.stream("GET", f"{LIVE}&since=all", headers=headers) as response:
        stream = Stream(response)
        seen = [json.loads((await stream.event())["data"])["data"] for _ in range(3)]
    assert seen == [2, 3, 4]


async def test_a_stream_without_a_past_does_not_claim_a_position(api: Api) -> None:
    """An id given before the past was written would make a reconnect skip it."""
    await api.say(1)
    async with api.client.stream("GET", f"{LIVE}&since=all") as response:
        stream = Stream(response)
        assert (await stream.line()).startswith("retry: ")
        assert await stream.line() == ""
        assert (await stream.event())["id"].endswith("-" + str(api.hub.fanout.position))


async def test_several_channels_and_patterns_are_one_stream(api: Api) -> None:
    headers = await api.bearer()
    path = f"{STREAM}?channels=public.lobby,agent.alice.%3E"
    async with api.client.stream("GET", path, headers=headers) as response:
        stream = Stream(response)
        await api.say(1)
        await api.say(2, channel="agent.alice.notes")
        await api.say(3, channel="public.other")
        await api.say(4)
        got = [json.loads((await stream.event())["data"]) for _ in range(3)]
    assert [(one["channel"], one["data"]) for one in got] == [
        ("public.lobby", 1),
        ("agent.alice.notes", 2),
        ("public.lobby", 4),
    ]


async def test_a_gap_is_told_before_what_comes_behind_it(api: Api) -> None:
    for n in range(1, 6):
        await api.say(n)
    trim = api.hub.storage.engine.trim_channel
    await api.hub.committer.run(lambda: trim("main", "public.lobby", keep=2))
    async with api.client.stream("GET", f"{LIVE}&since=1") as response:
        stream = Stream(response)
        gap = await stream.event()
        assert gap["event"] == "gap"
        assert json.loads(gap["data"])["first"] == 2
        assert json.loads(gap["data"])["last"] == 3
        assert json.loads((await stream.event())["data"])["offset"] == 4
    async with api.client.stream("GET", "/sub/public.lobby?since=1") as response:
        stream = Stream(response)
        assert (await stream.json())["gap"]["first"] == 2
        assert (await stream.json())["offset"] == 4


async def test_lines_are_native_envelopes(api: Api) -> None:
    async with api.client.stream("GET", "/sub/public.lobby") as response:
        assert response.headers["content-type"] == "application/x-ndjson"
        made = await api.publish("hi")
        envelope = await Stream(response).json()
    assert (envelope["id"], envelope["data"]) == (made["id"], "hi")


@pytest.mark.parametrize("past", [0, 2, 5])
async def test_count_ends_the_stream_behind_the_nth_event(api: Api, past: int) -> None:
    for n in range(past):
        await api.say(n)
    async with api.client.stream("GET", "/sub/public.lobby?since=all&count=3") as response:
        stream = Stream(response)
        for n in range(past, 4):
            await api.say(n)
        assert [(await stream.json())["data"] for _ in range(3)] == [0, 1, 2]
        assert await stream.is_over()
    await settled(lambda: not api.hub.sessions)


async def test_forged_line_ends_make_no_frames(api: Api) -> None:
    headers = await api.bearer() | {"Content-Type": "application/json"}
    forged = 'x\n\nevent: chat.message\ndata: {"forged":true}\n\n'
    raw = b'{"data":{"a":\r\n\n\n1,\t"b":' + json.dumps(forged).encode() + b"\n}\r\n}"
    async with (
        api.client.stream("GET", LIVE) as events,
        api.client.stream("GET", "/sub/public.lobby") as lines,
    ):
        event_stream, line_stream = Stream(events), Stream(lines)
        assert (await api.client.post(LOBBY, content=raw, headers=headers)).status_code == 201
        await api.client.post("/pub/public.lobby", content=forged.encode(), headers=headers)
        await api.say("last")
        first, second, third = [await event_stream.event() for _ in range(3)]
        assert json.loads(first["data"])["data"] == {"a": 1, "b": forged}
        assert json.loads(second["data"])["data"] == forged.removesuffix("\n")
        assert json.loads(third["data"])["data"] == "last"
        offsets = [(await line_stream.json())["offset"] for _ in range(3)]
    assert offsets == [1, 2, 3]


def test_a_frame_is_one_frame_whatever_its_body() -> None:
    body = b'{"seq":1,\n\n"type":"x.y",\r"data": 1}\r\n'
    frame = SseShape().frame(body, b"e-1")
    assert frame == b'id: e-1\nevent: x.y\ndata: {"seq":1,"type":"x.y","data": 1}\n\n'
    assert SseShape().frame(body, None).startswith(b"event: x.y\n")
    assert LineShape().frame(body, b"e-1").count(b"\n") == 1


def test_a_channel_cannot_forge_the_type() -> None:
    body = b'{"seq":1,"channel":"a\\",\\"type\\":\\"z","type":"x.y","data":1}'
    assert b"\nevent: x.y\n" in SseShape().frame(body, b"e-1")


@pytest.mark.parametrize(
    "query",
    [
        "",
        "channels=",
        "channels=public.a,,public.b",
        "channels=public.a&since=never",
        "channels=public.a,public.b&since=5",
        "channels=public.a&format=crucible",
        "channels=public.a&filters=%5B%5D",
        "channels=public.a&channels=public.b",
        "channels=public.a&follow=1",
    ],
)
async def test_what_cannot_be_followed_is_refused_before_the_stream_begins(
    api: Api, query: str
) -> None:
    answer = await api.client.get(f"{STREAM}?{query}", headers=await api.bearer())
    check_problem(answer, 400, "bad_request")
    assert not api.hub.sessions


@pytest.mark.parametrize("last_id", ["5", "x", "e-99999999999999999999", "%00", "a b"])
async def test_a_last_id_that_is_no_cursor_is_refused(api: Api, last_id: str) -> None:
    answer = await api.client.get(LIVE, headers={"Last-Event-ID": last_id})
    check_problem(answer, 400, "bad_request")


@pytest.mark.parametrize("query", ["count=0", "count=-1", "count=x", "since=x", "limit=1"])
async def test_lines_that_cannot_be_had_are_refused(api: Api, query: str) -> None:
    check_problem(await api.client.get(f"/sub/public.lobby?{query}"), 400, "bad_request")


# --- ends -------------------------------------------------------------------


async def test_a_stream_ends_with_the_right_to_it(api: Api) -> None:
    owner = api.hub.authenticate(await api.running.token("alice"))
    channel = "agent.alice.notes"
    await api.hub.call(Unlock(channel=channel), caller=owner)
    bob = await api.bearer("bob")
    path = f"{STREAM}?channels={channel}"
    async with (
        api.client.stream("GET", path, headers=bob) as events,
        api.client.stream("GET", f"/sub/{channel}", headers=bob) as lines,
    ):
        event_stream, line_stream = Stream(events), Stream(lines)
        await api.say("open", channel=channel)
        assert (await event_stream.event())["event"] == "x.message"
        assert (await line_stream.json())["data"] == "open"
        await api.hub.call(Lock(channel=channel), caller=owner)
        await api.say("closed", channel=channel)
        ended = await event_stream.event()
        assert ended["event"] == "ended"
        assert json.loads(ended["data"])["code"] == "forbidden"
        assert await event_stream.is_over()
        assert (await line_stream.json())["error"]["code"] == "forbidden"
        assert await line_stream.is_over()
    await settled(lambda: not api.hub.sessions)


async def test_a_stream_of_several_goes_on_without_the_one_that_was_revoked(api: Api) -> None:
    owner = api.hub.authenticate(await api.running.token("alice"))
    bob = await api.bearer("bob")
    grant = {"account": "bob", "channel": "agent.alice.notes"}
    answer = await api.client.post("/api/v1/grants", json=grant, headers=await api.bearer("alice"))
    assert answer.status_code == 201
    path = f"{STREAM}?channels=agent.alice.notes,public.lobby"
    async with api.client.stream("GET", path, headers=bob) as response:
        stream = Stream(response)
        await api.hub.call(Revoke(account="bob", channel="agent.alice.notes"), caller=owner)
        await api.say("hidden", channel="agent.alice.notes")
        await api.say("shown")
        told = await stream.event()
        assert told["event"] in ("dropped", "ended")
        if told["event"] == "dropped":
            assert json.loads(told["data"])["channel"] == "agent.alice.notes"
            assert json.loads((await stream.event())["data"])["data"] == "shown"


async def test_a_stream_ends_with_its_token(api: Api) -> None:
    made = await api.running.new_token("bob")
    headers = {"Authorization": f"Bearer {made.token}"}
    async with api.client.stream("GET", LIVE, headers=headers) as response:
        stream = Stream(response)
        caller = api.hub.authenticate(made.token)
        await api.hub.call(RevokeToken(id=made.id), caller=caller)
        closed = await stream.event()
        assert closed["event"] == "close"
        assert json.loads(closed["data"]) == {"reason": "revoked", "reconnect": False}
        assert await stream.is_over()


async def test_a_hub_that_stops_says_come_back(api: Api) -> None:
    async with (
        api.client.stream("GET", LIVE) as events,
        api.client.stream("GET", "/sub/public.lobby") as lines,
    ):
        event_stream, line_stream = Stream(events), Stream(lines)
        await api.say("last")
        await api.running.stop()
        assert json.loads((await event_stream.event())["data"])["data"] == "last"
        closed = await event_stream.event()
        assert closed["event"] == "close"
        assert json.loads(closed["data"]) == {"reason": End.SHUTDOWN.value, "reconnect": True}
        assert await event_stream.is_over()
        assert (await line_stream.json())["data"] == "last"
        assert (await line_stream.json())["close"]["reconnect"] is True
        assert await line_stream.is_over()


async def test_a_client_that_goes_away_releases_its_session_at_once(api: Api) -> None:
    wire = await api.raw()
    await wire.send(f"GET {LIVE} HTTP/1.1\r\nHost: 127.0.0.1:{api.running.port}\r\n\r\n")
    assert await wire.status() == 200
    assert api.hub.sessions
    await wire.close()
    # Nothing is published: it is the disconnect that is noticed, not a failed write.
    await settled(lambda: not api.hub.sessions)


class TestSilence:
    @pytest.fixture
    def http_settings(self) -> HttpSettings:
        return HttpSettings(ping_s=0.001)

    async def test_a_silent_stream_says_that_it_lives(self, api: Api) -> None:
        async with api.client.stream("GET", LIVE) as response:
            stream = Stream(response)
            pings = 0
            while pings < 3:
                pings += await stream.line() == ": ping"
            await api.say("hi")
            assert json.loads((await stream.event())["data"])["data"] == "hi"

    async def test_lines_are_never_empty(self, api: Api) -> None:
        async with (
            api.client.stream("GET", LIVE) as other,
            api.client.stream("GET", "/sub/public.lobby") as response,
        ):
            stream = Stream(other)
            while await stream.line() != ": ping":
                pass
            await api.say("hi")
            assert (await Stream(response).json())["data"] == "hi"


class TestSlowReader:
    @pytest.fixture
    def http_settings(self) -> HttpSettings:
        return HttpSettings(stream_high_bytes=20_000)

    @pytest.mark.parametrize("path", [LIVE, "/sub/public.lobby"])
    async def test_it_catches_up_without_loss(self, api: Api, path: str) -> None:
        wire = await api.raw(limit=4_096)
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{api.running.port}\r\n\r\n"
        await wire.send(request)
        assert await wire.status() == 200
        count = 400
        for n in range(count):
            await api.say({"n": n, "pad": "x" * 40_000})
        assert api.hub.slow, "more was published than fits between the hub and a reader at rest"
        offsets: list[int] = []
        text = b""
        async with asyncio.timeout(30):
            while len(offsets) < count:
                piece = await wire.reader.read(500_000)
                assert piece, "the stream ended early"
                text += piece
                *lines, text = text.split(b"\n")
                offsets += [
                    int(line.split(b'"offset":')[1].split(b",")[0])
                    for line in lines
                    if b'"offset":' in line
                ]
        assert offsets == list(range(1, count + 1))
        assert not api.hub.slow
        await wire.close()

    async def test_who_never_reads_is_cut_off(self, api: Api) -> None:
        wire = await api.raw(limit=4_096)
        await wire.send(f"GET {LIVE} HTTP/1.1\r\nHost: 127.0.0.1:{api.running.port}\r\n\r\n")
        assert await wire.status() == 200
        for n in range(400):
            await api.say({"n": n, "pad": "x" * 40_000})
        (session,) = api.hub.slow
        session.end(End.SLOW)
        await settled(lambda: not api.running.server.server_state.tasks)
        assert not api.hub.sessions
