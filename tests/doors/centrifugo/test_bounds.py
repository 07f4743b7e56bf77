"""What one client may cost: answers that wait, commands that are read, joins that are told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from clawnet.core.limits import Bucket
from clawnet.doors.centrifugo import client, commands, joins, recovery
from clawnet.doors.centrifugo.backlog import CONNECT_MAX_BYTES
from clawnet.doors.centrifugo.client import PUBLISHES_MAX
from clawnet.doors.centrifugo.connecting import SUBS_MAX
from clawnet.doors.centrifugo.delta import _Base, _Readers
from clawnet.doors.centrifugo.json import JsonEncoding
from clawnet.doors.centrifugo.protobuf import (
    FIELDS_MAX,
    ProtobufEncoding,
    decode_commands,
    delimited,
)
from clawnet.doors.centrifugo.recovery import Start
from clawnet.doors.centrifugo.socket import AT_ONCE_BYTES, CentrifugoSocket
from clawnet.doors.centrifugo.wire import (
    COMMANDS_MAX,
    BadCommand,
    ClientInfo,
    Command,
    ConnectRequest,
    Encoding,
    Reply,
    SubscribeRequest,
)
from clawnet.hub.settings import ChannelSettings, HubSettings, LimitSettings
from clawnet.hub.subscriptions import State
from clawnet.testing.running import Running
from tests.doors.centrifugo.backend import NAMESPACES, Pipe, line, serving
from tests.doors.centrifugo.sockets import gone, socket
from tests.doors.centrifugo.test_ws_pressure import Nowhere
from tests.doors.ws.frames_made import text


def lines(*said: dict[str, Any]) -> bytes:
    return "\n".join(json.dumps(one) for one in said).encode()


def ids(pipe: Pipe) -> list[int]:
    return [frame["id"] for frame in pipe.frames if "id" in frame]


class Counting(JsonEncoding):
    """Counts what it reads."""

    def __init__(self) -> None:
        super().__init__(line)
        self.read = 0

    def command(self, piece: bytes) -> Command:
        self.read += 1
        return super().command(piece)


# --- answers that wait ---------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        {"subscribe": {"channel": "public.a", "recover": True}},
        {"unsubscribe": {"channel": "public.a"}},
        {"history": {"channel": "public.a", "limit": 10}},
        {"presence": {"channel": "public.a"}},
    ],
    ids=lambda command: next(iter(command)),
)
async def test_a_client_that_does_not_read_is_not_answered_until_it_does(
    command: dict[str, Any],
) -> None:
    async with serving() as backend:
        pipe = await backend.client("alice")
        pipe.is_full = True
        pipe.client.hear(lines({"id": 2, **command}, {"id": 3, **command}))
        await backend.rig.settle()
        assert ids(pipe) == [1]
        assert pipe.client.is_holding
        pipe.is_full = False
        pipe.client.go_on()
        await backend.rig.settle()
        assert ids(pipe) == [1, 2, 3]
        assert not pipe.client.is_holding


async def test_commands_of_one_message_wait_as_soon_as_the_answers_are_too_many() -> None:
    async with serving() as backend:
        pipe = await backend.client("alice")
        before = len(pipe.told)

        def say(frames: bytes) -> None:
            pipe.told += frames
            pipe.is_full = True

        pipe.say = say  # type: ignore[method-assign]
        stats = {"presence_stats": {"channel": "public.a"}}
        pipe.client.hear(lines(*({"id": n, **stats} for n in range(2, 50))))
        for answered in range(2, 50):
            await backend.rig.settle()
            assert ids(pipe)[-1] == answered
            pipe.is_full = False
            pipe.client.go_on()
        assert len(pipe.told) > before


class Sink(Nowhere):
    """A transport that notes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None: ...
    def abort(self) -> None: ...


async def test_a_socket_that_is_full_goes_on_when_it_has_drained(hub: Running) -> None:
    door = hub.centrifugo
    made = CentrifugoSocket(
        door.sockets,
        encoding=door.encodings["json-ws"],
        handshake=b"",
        address="127.0.0.1",
        is_local=True,
        is_raw=False,
    )
    hub.connections.enter(made)
    sink = Sink()
    made.connection_made(sink)
    connect = {"id": 1, "connect": {"token": await hub.token("alice")}}
    made.data_received(text(json.dumps(connect)))
    made.pause_writing()
    sink.written.clear()
    stats = {"presence_stats": {"channel": "public.a"}}
    made.client.hear(lines({"id": 2, **stats}, {"id": 3, **stats}))
    await turns()
    assert not sink.written
    made.resume_writing()
    await turns()
    assert b"".join(sink.written).count(b'"presence_stats"') == 2
    sink.written.clear()
    made.say(b"x" * AT_ONCE_BYTES)
    assert not sink.written, "what is small is joined at the end of the turn"
    made.say(b"y")
    made.say(b"x" * (AT_ONCE_BYTES + 1))
    assert sum(map(len, sink.written)) == 2 * AT_ONCE_BYTES + 2, "the transport knows of it at once"
    made.connection_lost(None)


async def turns(count: int = 20) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_publishes_that_wait_for_their_commit_are_bounded() -> None:
    async with serving() as backend:
        pipe = await backend.client("alice")
        slots = [pipe.client.reserve() for _ in range(PUBLISHES_MAX - 1)]
        publish = {"publish": {"channel": "public.a", "data": 1}}
        pipe.client.hear(lines(*({"id": n, **publish} for n in (2, 3, 4))))
        await backend.rig.settle()
        outbox = pipe.client._outbox
        assert outbox is not None
        assert len(outbox) == PUBLISHES_MAX, "one more is taken, and the others wait"
        assert pipe.client.is_holding
        for slot in slots:
            pipe.client.settle(slot, Reply(id=1))
        await backend.rig.settle()
        assert ids(pipe)[-3:] == [2, 3, 4]


# --- commands that are read -----------------------------------------------------


async def test_commands_are_read_when_it_is_their_turn() -> None:
    async with serving() as backend:
        pipe = await backend.client("alice")
        encoding = Counting()
        pipe.encoding = encoding
        pipe.client.hear(lines(*({"id": n, "rpc": {}} for n in range(2, 1_002))))
        assert encoding.read <= client.COMMANDS_PER_TURN + 1
        await backend.rig.settle()
        while pipe.client.is_holding:
            await backend.rig.settle()
        assert ids(pipe) == list(range(1, 1_002))


async def test_who_is_not_connected_is_read_one_command() -> None:
    async with serving() as backend:
        pipe = Pipe(backend.door)
        encoding = Counting()
        pipe.encoding = encoding
        pipe.client.hear(b"{}\n" * 1_000)
        assert encoding.read == 1
        assert pipe.ended_with == (3501, "bad request")


async def test_a_connect_that_is_too_long_is_not_read() -> None:
    async with serving() as backend:
        for padding in ("", "\n{}"):
            pipe = Pipe(backend.door)
            encoding = Counting()
            pipe.encoding = encoding
            connect = {"id": 1, "connect": {"name": "x" * CONNECT_MAX_BYTES}}
            pipe.client.hear(lines(connect) + padding.encode())
            assert encoding.read == 0
            assert pipe.ended_with == (3501, "bad request")


@pytest.mark.parametrize("form", ["json", "protobuf"])
def test_a_message_holds_so_many_commands_and_no_more(form: str) -> None:
    encoding: Encoding = JsonEncoding(line) if form == "json" else ProtobufEncoding(line)
    one = b'{"id":1}\n' if form == "json" else delimited(b"\x08\x01")
    assert len(encoding.decode(one * COMMANDS_MAX)) == COMMANDS_MAX
    with pytest.raises(BadCommand, match="too many commands"):
        encoding.decode(one * (COMMANDS_MAX + 1))


@pytest.mark.parametrize(
    "field",
    [b"\x08\x01", b"\x78\x00", b"\x7a\x00", b"\x98\x06\x00", b"\x32\x00"],
    ids=["known", "unknown", "unknown bytes", "unknown far", "message"],
)
def test_a_protobuf_command_has_so_many_fields_and_no_more(field: bytes) -> None:
    decode_commands(delimited(field * FIELDS_MAX))
    with pytest.raises(BadCommand, match="too many fields"):
        decode_commands(delimited(field * (FIELDS_MAX + 1)))


def test_the_fields_of_messages_inside_count_too() -> None:
    # connect{headers: {"": ""}} with as many entries of two fields as would be too many.
    entry = b"\x32" + delimited(b"\x0a\x00\x12\x00")
    connect = b"\x22" + delimited(entry * (FIELDS_MAX // 3 + 1))
    with pytest.raises(BadCommand, match="too many fields"):
        decode_commands(delimited(connect))


def test_a_connect_in_protobuf_has_room_for_all_that_it_may_ask() -> None:
    request = b"\x0a\x01c\x20\x01\x32\x01e\x38\x09"
    subs = b"".join(
        b"\x1a" + delimited(b"\x0a" + delimited(b"public.c%d" % n) + b"\x12" + delimited(request))
        for n in range(SUBS_MAX)
    )
    (command,) = decode_commands(delimited(b"\x08\x01\x22" + delimited(subs)))
    assert command.connect is not None
    assert len(command.connect.subs) == SUBS_MAX


# --- what a connect may ask, and leaving -----------------------------------------


async def test_a_connect_asks_for_so_many_channels_and_no_more() -> None:
    async with serving() as backend:
        token = await backend.token("alice")
        for count, is_fine in ((SUBS_MAX, True), (SUBS_MAX + 1, False)):
            pipe = Pipe(backend.door)
            wanted: dict[str, Any] = {f"public.c{n}": {} for n in range(count)}
            backend.say(pipe, {"id": 1, "connect": {"token": token, "subs": wanted}})
            await backend.rig.settle()
            (answer,) = pipe.frames
            assert ("connect" in answer) is is_fine
            if not is_fine:
                assert answer["error"]["code"] == 106


async def test_connects_with_many_channels_are_rationed() -> None:
    limits = HubSettings(
        limits=LimitSettings(calls_burst=10, calls_per_s=0.001),
        channels=ChannelSettings(namespaces=NAMESPACES),
    )
    async with serving(hub_settings=limits) as backend:
        token = await backend.token("alice")
        asked = ConnectRequest(
            token=token, subs={f"public.c{n}": SubscribeRequest() for n in range(SUBS_MAX)}
        )
        ends = []
        for _ in range(2):
            pipe = Pipe(backend.door)
            pipe.client.is_uni = True
            pipe.client.connect_uni(asked)
            await backend.rig.settle()
            ends.append(pipe.ended_with)
        assert ends == [None, (3013, "too many requests")]


def test_what_does_not_fit_into_the_answer_to_a_connect_follows_it() -> None:
    body = b'{"seq":9,"channel":"public.a","offset":%d,"data":1}'
    start = Start(offset=3, epoch="e", after=5, bodies=[body % 4, body % 5], is_recovered=True)
    streamed = recovery.streamed(start)
    assert (streamed.bodies, streamed.after) == ([], 3)
    assert (streamed.offset, streamed.is_recovered) == (3, True)
    nothing = Start(offset=3, epoch="e", after=3)
    assert recovery.streamed(nothing) is nothing


async def test_reading_the_log_to_subscribe_is_rationed() -> None:
    limits = HubSettings(
        limits=LimitSettings(calls_burst=3, calls_per_s=0.001),
        channels=ChannelSettings(namespaces=NAMESPACES),
    )
    async with serving(hub_settings=limits) as backend:
        pipe = await backend.client("alice")
        publish = {"channel": "public.a", "data": 1}
        backend.say(pipe, {"id": 2, "publish": publish})
        await backend.rig.settle()
        said = []
        for n in range(5):
            again = {"channel": "public.a", "recover": True}
            said += [{"id": 10 + n, "subscribe": again}]
            said += [{"id": 20 + n, "unsubscribe": {"channel": "public.a"}}]
        pipe.client.hear(lines(*said))
        await backend.rig.settle()
        errors = [frame["error"] for frame in pipe.frames if "error" in frame]
        assert errors[0]["code"] == 111 and errors[0]["temporary"]
        assert pipe.client.is_waiting, "and it waits a little before more is refused"


async def test_who_comes_and_goes_too_often_is_refused_for_a_while() -> None:
    limits = HubSettings(channels=ChannelSettings(namespaces=NAMESPACES))
    async with serving(hub_settings=limits) as backend:
        pipe = await backend.client("alice", "public.a", "public.b")
        assert pipe.client.left is None, "thousands may be followed, and it is not counted"
        backend.say(pipe, {"id": 4, "unsubscribe": {"channel": "public.a"}})
        now_s = backend.hub.clock.steady_s()
        bucket = pipe.client.left
        assert bucket is not None
        assert bucket.burst == commands.LEFT_BURST
        assert bucket.wait_s(commands.LEFT_BURST, now_s=now_s) > 0, "one was taken"
        pipe.client.left = Bucket(rate_per_s=0.001, burst=1, now_s=now_s)
        backend.say(pipe, {"id": 5, "unsubscribe": {"channel": "public.b"}})
        backend.say(pipe, {"id": 6, "subscribe": {"channel": "public.a"}})
        assert pipe.frames[-2] == {"id": 5, "unsubscribe": {}}
        assert (pipe.frames[-1]["id"], pipe.frames[-1]["error"]["code"]) == (6, 111)
        assert pipe.client.is_waiting, "and it waits a little before more is refused"


async def test_many_subscriptions_are_taken_out_in_turns_but_nothing_is_delivered(
    hub: Running,
) -> None:
    count = 1_000
    async with socket(hub, await hub.token("bob")) as bob:
        for start in range(0, count, 500):
            asked = (
                {"id": n + 2, "subscribe": {"channel": f"public.c{n}"}}
                for n in range(start, start + 500)
            )
            await bob.say(*asked)
            for _ in range(500):
                await bob.hear()
        (found,) = hub.centrifugo.clients.all()
        assert found.session is not None
        found.lost()
        assert found.session.is_closed
        assert not hub.centrifugo.clients.all()
        assert 0 < found.num_subs < count, "some of them, in this turn"
        assert hub.centrifugo.clients.presence("main", f"public.c{count - 1}") == {}
        assert hub.centrifugo.clients.stats("main", f"public.c{count - 1}") == (0, 0)
        await turns(count)
        assert not found.num_subs and not found.session.subscriptions
        assert hub.centrifugo.clients.num_channels == 0
        assert hub.hub.fanout.subscribers("main", f"public.c{count - 1}") == 0
    await gone(hub)


async def test_a_disconnected_client_is_out_of_the_hub_before_it_is_told() -> None:
    async with serving() as backend:
        pipe = await backend.client("alice", "public.a")
        closed: list[bool] = []
        session = pipe.client.session
        assert session is not None
        pipe.finish = lambda code, reason: closed.append(session.is_closed)  # type: ignore[method-assign]
        pipe.client.disconnect()
        assert closed == [True]
        assert not session.subscriptions


# --- joins that are told -----------------------------------------------------------


async def test_who_comes_and_goes_within_a_turn_is_not_told_of() -> None:
    async with serving() as backend:
        watcher = await backend.client("alice")
        backend.say(watcher, {"id": 2, "subscribe": {"channel": "public.a", "join_leave": True}})
        await backend.rig.settle()
        guest = await backend.client("bob")
        before = len(watcher.frames)
        for _ in range(20):
            backend.say(guest, {"id": 2, "subscribe": {"channel": "public.a"}})
            backend.say(guest, {"id": 3, "unsubscribe": {"channel": "public.a"}})
        assert ids(guest).count(3) == 20
        await backend.rig.settle()
        assert len(watcher.frames) == before


async def test_joins_of_one_turn_are_one_write_to_each_watcher_in_turns() -> None:
    async with serving() as backend:
        token = await backend.token("alice")
        watchers = []
        for _ in range(joins.WATCHERS_PER_TURN + 3):
            pipe = Pipe(backend.door)
            backend.say(pipe, {"id": 1, "connect": {"token": token}})
            subscribe = {"channel": "public.a", "join_leave": True}
            backend.say(pipe, {"id": 2, "subscribe": subscribe})
            watchers.append(pipe)
        seen: list[bytes] = []
        for pipe in watchers:
            pipe.say = seen.append  # type: ignore[method-assign, assignment]
        attendance = backend.door.clients._channels["main", "public.a"]
        assert attendance.watchers is not None
        await backend.rig.settle()
        told = attendance.watchers
        told._ready_s = 0.0
        told._is_due = False
        told._news.clear()
        told._came.clear()
        seen.clear()
        for n in range(5):
            who = watchers[0].client.info_on("public.a")
            told.note(msgspec.structs.replace(who, client=f"c{n}"), is_join=True)
        told._tell()
        assert len(seen) == joins.WATCHERS_PER_TURN, "the others in the next turn"
        assert all(frames is seen[0] for frames in seen), "built once"
        assert seen[0].count(b'"join"') == 5
        await backend.rig.settle()
        assert len(seen) == len(watchers)


def test_who_begins_to_watch_is_told_of_nobody_that_came_before() -> None:
    info = ClientInfo(user="u", client="c")
    frames = joins._Frames({5: (info, True), 6: (info, False)})
    encoding = JsonEncoding(line)
    assert frames.behind(4, encoding, "a").count(b"\n") == 2
    assert frames.behind(5, encoding, "a").count(b"\n") == 1
    assert frames.behind(6, encoding, "a") == b""


async def test_presence_of_many_costs_more_than_one_call() -> None:
    limits = HubSettings(
        limits=LimitSettings(calls_burst=4, calls_per_s=0.001),
        channels=ChannelSettings(namespaces=NAMESPACES),
    )
    async with serving(hub_settings=limits) as backend:
        pipe = await backend.client("alice", "public.a")
        attendance = backend.door.clients._channels["main", "public.a"]
        others = [Pipe(backend.door).client for _ in range(3 * commands.MEMBERS_PER_CALL)]
        attendance.members.update(dict.fromkeys(others))
        backend.say(pipe, {"id": 5, "presence": {"channel": "public.a"}})
        backend.say(pipe, {"id": 6, "presence": {"channel": "public.a"}})
        await backend.rig.settle()
        assert "presence" in pipe.frames[-2]
        assert pipe.frames[-1]["error"]["code"] == 111


# --- who is not read, and who is not live ------------------------------------------


@pytest.mark.parametrize("why", ["held", "paused", "silent"])
async def test_only_who_is_read_is_ended_for_silence(why: str) -> None:
    async with serving() as backend:
        pipe = await backend.client("alice")
        found, settings = pipe.client, backend.door.settings
        assert found.session is not None
        found.is_pinged = True
        now_s = backend.door.connections.wheel.now_s
        found.next_s = now_s + settings.ping_s - settings.pong_timeout_s - 1
        found.is_holding = why == "held"
        found.session.is_paused = why == "paused"
        found.on_time()
        assert pipe.ended_with == ((3012, "no pong") if why == "silent" else None)


async def test_only_who_is_live_is_promoted_to_patches() -> None:
    class Reader:
        def __init__(self, state: State) -> None:
            self.state = state

    async with serving() as backend:
        deltas = backend.door.deltas(JsonEncoding(line), is_raw=False)
        live, behind = Reader(State.LIVE), Reader(State.CATCHING_UP)
        readers: Any = _Readers()
        readers.fresh.add(live)
        readers.fresh.add(behind)
        deltas._promote_soon(("main", "diff:a"), readers, _Base("e", 1, b"x"))
        promoted: list[Any] = [reader for _, reader, _ in deltas._promoted]
        assert promoted == [live]
        deltas._promoted.clear()
