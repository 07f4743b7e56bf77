"""Whatever a client says, it gets an answer or an end, and nobody else notices."""

import json
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

from clawnet.doors.centrifugo.json import JsonEncoding
from clawnet.doors.centrifugo.wire import BadCommand, Command
from clawnet.doors.ws.frames import text_frame
from clawnet.testing.running import Running
from tests.doors.centrifugo.sockets import Socket, socket

ENCODING = JsonEncoding(text_frame)
METHODS = [name for name in Command.__struct_fields__ if name not in ("id", "connect")]
TOKENS: dict[int, str] = {}
NAMES = [
    "", "chat:x", "public.a", "global", "agent.alice.x", "agent.bob.x", "#alice", "$x", "bare:x",
    "cache:x", "nowhere:x", "a b", ">", "*", "\x00", "x" * 300, "room.r", "dm.alice.bob", "é:x",
]  # fmt: skip
numbers = st.integers() | st.sampled_from([0, 1, -1, 2**31, 2**32, 2**63, 2**64, 2**70])
values = st.recursive(
    st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
positions = st.fixed_dictionaries(
    {}, optional={"offset": numbers, "epoch": st.sampled_from(["", "_", "x", "a.1"])}
)
requests = st.fixed_dictionaries(
    {"channel": st.sampled_from(NAMES)},
    optional={
        "data": values,
        "token": st.sampled_from(["", "x", "a.b.c"]) | st.text(max_size=9),
        "recover": st.booleans(),
        "offset": numbers,
        "epoch": st.sampled_from(["", "_", "x"]),
        "limit": numbers,
        "since": positions,
        "reverse": st.booleans(),
        "join_leave": st.booleans(),
        "delta": st.sampled_from(["", "fossil", "other"]),
        "flag": numbers,
        "type": numbers,
        "method": st.text(max_size=5),
    },
)
commands = st.builds(
    lambda number, method, request: {"id": number, method: request},
    st.integers(1, 2**32 - 1),
    st.sampled_from(METHODS),
    requests | values,
)


@given(st.binary(max_size=200))
@example(b"\xff{}")
@example(b"{}\n\xff")
@example(b'{"id":1e400}')
@example(b'{"id":1,"connect":{"token":"\\ud800"}}')
@example(b'{"id":1,"connect":{"token":"\xff"}}')
def test_bytes_are_commands_or_refused(message: bytes) -> None:
    try:
        assert all(isinstance(command, Command) for command in ENCODING.decode(message))
    except BadCommand:
        pass


@given(st.lists(commands | values, min_size=1, max_size=3))
def test_json_is_commands_or_refused(lines: list[Any]) -> None:
    try:
        ENCODING.decode("\n".join(json.dumps(line) for line in lines).encode())
    except BadCommand:
        pass


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
async def test_every_command_is_answered_or_ends_its_own_connection(
    hub: Running, data: st.DataObject
) -> None:
    said = data.draw(st.lists(commands, min_size=1, max_size=4))
    if hub.hub.directory.account("main", "alice") is None:
        TOKENS[id(hub)] = await hub.token("alice")
    token = TOKENS[id(hub)]
    async with socket(hub, token) as hostile, socket(hub, token) as witness:
        await hostile.say(*said)
        marker = {"id": 2**32 - 1, "unsubscribe": {"channel": "public.marker"}}
        await hostile.say(marker)
        await _answered_or_over(hostile, marker["id"])
        assert await witness.done(unsubscribe={"channel": "public.a"}) == {}


async def _answered_or_over(hostile: Socket, marker: Any) -> None:
    try:
        while True:
            reply = await hostile.hear()
            if reply.get("id") == marker:
                return
            error = reply.get("error")
            # What the hub did not foresee would be answered as its own failure.
            assert error is None or error["code"] != 100, reply
    except ConnectionClosed:
        code = hostile.inner.close_code
        assert code in (3500, 3501, 3508), code
