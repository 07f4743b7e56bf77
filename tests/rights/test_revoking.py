"""After a revoke was acknowledged nothing of the revoked is stored or given, through any door."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from clawnet.doors.ws.connection import LiveConnection
from clawnet.hub.interceptors import Interceptor, Proposed, Verdict
from tests.rights.asking import PATIENCE_S, Socket, turns
from tests.rights.world import World

Taking = Callable[[World], Awaitable[None]]


async def membership(world: World) -> None:
    await world.revoke("max", "greta", "room.team")


async def the_token(world: World) -> None:
    await world.revoke_token("greta")


async def the_account(world: World) -> None:
    await world.does("max", "DELETE", "/accounts/greta")


TAKINGS: dict[str, tuple[Taking, int]] = {
    "membership": (membership, 403),
    "token": (the_token, 401),
    "account": (the_account, 401),
}
ways = pytest.mark.parametrize("taken", TAKINGS)


@pytest.fixture
async def team(world: World) -> World:
    """greta is a member of room.team."""
    await world.grant("max", "greta", "room.team", "publish", "read")
    await world.grant("max", "olga", "room.team", "publish", "read")
    return world


class Thinker:
    """An interceptor that does not answer before it is let."""

    def __init__(self, world: World, channel: str) -> None:
        self.entered = asyncio.Event()
        self.may_answer = asyncio.Event()
        world.hub.intercept(
            Interceptor(name="thinker", channels=(channel,), intercept=self._ask, timeout_s=5.0)
        )

    async def _ask(self, proposed: Proposed) -> Verdict:
        self.entered.set()
        await self.may_answer.wait()
        return None


# --- while an event is on its way ---------------------------------------------------------------


async def by_event(world: World) -> int:
    answer = await world.ask("greta", "POST", "/channels/room.team/events", {"data": "late"})
    return answer.status_code


async def by_batch(world: World) -> int:
    events = [{"channel": name, "data": "late"} for name in ("public.news", "room.team")]
    return (await world.ask("greta", "POST", "/events/batch", {"events": events})).status_code


async def by_shell(world: World) -> int:
    client = await world.http("greta")
    return (await client.ask("POST", "/pub/room.team", b"late")).status_code


async def by_websocket(world: World) -> int:
    """A refusal's status; 401 also for a connection that ends without an answer."""
    socket = await world.socket("greta")
    number = await socket.send("publish", channel="room.team", data="late")
    try:
        await socket.until(lambda: number in socket.answers)
    except Exception as ended:
        if type(ended).__name__.startswith("ConnectionClosed"):
            return 401
        raise
    answer = socket.answers[number]
    codes = {"forbidden": 403, "unauthenticated": 401}
    return 201 if answer["type"] == "ok" else codes[answer["error"]["code"]]


DOORS = {"event": by_event, "batch": by_batch, "shell": by_shell, "websocket": by_websocket}


@ways
@pytest.mark.parametrize("door", DOORS)
async def test_while_an_interceptor_thinks(team: World, door: str, taken: str) -> None:
    thinker = Thinker(team, "room.team")
    take, status = TAKINGS[taken]
    publishing = asyncio.ensure_future(DOORS[door](team))
    await thinker.entered.wait()
    await take(team)
    thinker.may_answer.set()
    assert await publishing == status
    assert await team.stored("room.team") == []
    assert await team.stored("public.news") == [], "the rest of the batch neither"


@pytest.mark.parametrize("door", DOORS)
async def test_a_block_while_an_interceptor_thinks(world: World, door: str) -> None:
    """The same for an inbox whose owner has enough."""
    thinker = Thinker(world, "agent.olga.inbox")

    async def send() -> int:
        client = await world.http("greta")
        path = {
            "event": "/api/v1/channels/agent.olga.inbox/events",
            "batch": "/api/v1/events/batch",
            "shell": "/pub/agent.olga.inbox",
        }.get(door)
        if path is None:
            socket = await world.socket("greta")
            answer = await socket.ask("publish", channel="agent.olga.inbox", data="late")
            return 403 if answer.get("error", {}).get("code") == "forbidden" else 201
        body: Any = {"data": "late"}
        if door == "batch":
            body = {"events": [{"channel": "agent.olga.inbox", "data": "late"}]}
        return (await client.ask("POST", path, body)).status_code

    publishing = asyncio.ensure_future(send())
    await thinker.entered.wait()
    await world.does("olga", "PUT", "/blocks/greta")
    thinker.may_answer.set()
    assert await publishing == 403
    assert await world.stored("agent.olga.inbox") == []


SLOW = {
    "event": ("/api/v1/channels/room.team/events", b'{"data":"late"}'),
    "batch": ("/api/v1/events/batch", b'{"events":[{"channel":"room.team","data":"late"}]}'),
    "shell": ("/pub/room.team", b'"late"'),
}


@ways
@pytest.mark.parametrize("door", SLOW)
async def test_while_the_body_is_on_its_way(team: World, door: str, taken: str) -> None:
    """The token was good when the head came; what counts is when the event is queued."""
    take, status = TAKINGS[taken]
    path, body = SLOW[door]
    answer = await slowly(team, "POST", path, body, between=lambda: take(team))
    assert answer == status
    assert await team.stored("room.team") == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/grants", {"account": "walt", "channel": "shared"}),
        ("DELETE", "/grants", {"account": "walt", "channel": "kept"}),
        ("POST", "/tokens", {}),
        ("POST", "/consumers", {"name": "c", "channels": ["public.>"]}),
    ],
)
async def test_a_call_whose_token_ends_while_its_body_comes(
    world: World, method: str, path: str, body: Any
) -> None:
    await world.grant("greta", "walt", "kept")
    before = await world.does("max", "GET", "/grants")
    raw = json.dumps(body).encode()
    answer = await slowly(
        world, method, f"/api/v1{path}", raw, between=lambda: world.revoke_token("greta")
    )
    assert answer == 401
    assert await world.does("max", "GET", "/grants") == before
    assert (await world.does("max", "GET", "/tokens?account=greta"))["tokens"] == []


async def slowly(
    world: World, method: str, path: str, body: bytes, *, between: Callable[[], Awaitable[None]]
) -> int:
    """Send greta's request in two halves, and act between them; the status of the answer."""
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{world.running.port}\r\n"
        f"authorization: Bearer {world.tokens['greta']}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", world.running.port)
    writer.write(head.encode() + body[: len(body) // 2])
    # The hub has read the first half before it answers another connection's second request.
    for _ in range(2):
        await world.does("walt", "GET", "/me")
    await between()
    writer.write(body[len(body) // 2 :])
    async with asyncio.timeout(PATIENCE_S):
        status = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return int(status.split()[1])


@ways
async def test_a_flood_ends_with_the_revoke(team: World, taken: str) -> None:
    """What was sent before and not yet handled is refused; nothing is stored behind the answer."""
    take, _ = TAKINGS[taken]
    socket = await team.socket("greta")
    for n in range(2_000):
        await socket.send("publish", channel="room.team", data=n)
    await take(team)
    count = len(await team.stored("room.team"))
    try:
        await socket.rest()
    except Exception as ended:
        assert type(ended).__name__.startswith("ConnectionClosed")
    assert len(await team.stored("room.team")) == count
    accepted = sum(answer["type"] == "ok" for answer in socket.answers.values())
    assert accepted <= count + 3, "no more were acknowledged than stored (and three pings)"


# --- while somebody reads -----------------------------------------------------------------------


async def everyone_listens(team: World) -> list[Socket]:
    """greta on a WebSocket in every manner: by name, with others, and by patterns."""
    sockets = []
    for channels in (["room.team"], ["room.team", "public.news"], ["room.*"], [">"]):
        socket = await team.socket("greta")
        await socket.ask("subscribe", channels=channels)
        sockets.append(socket)
    return sockets


async def test_a_live_subscriber_hears_nothing_more(team: World) -> None:
    sockets = await everyone_listens(team)
    client = await team.http("greta")
    async with client.client.stream(
        "GET", "/api/v1/events/stream", params={"channels": "room.team"}
    ) as stream:
        await team.publish("olga", "room.team", "early")
        await membership(team)
        await team.publish("olga", "room.team", "late")
        text = "".join([piece async for piece in stream.aiter_text()])
    assert '"early"' in text
    assert "event: ended" in text
    for socket in sockets:
        await socket.rest()
        text += socket.text
        assert '"early"' in socket.text
    assert '"late"' not in text


async def test_who_is_let_in_again_hears_what_comes_then(team: World) -> None:
    (socket, *_) = await everyone_listens(team)
    await membership(team)
    await team.publish("olga", "room.team", "between")
    await team.grant("max", "greta", "room.team", "read")
    assert (await socket.ask("subscribe", channels=["room.team"]))["type"] == "ok"
    await team.publish("olga", "room.team", "after")
    await socket.heard('"after"')
    assert '"between"' not in socket.text


@pytest.mark.parametrize("pattern", ["agent.olga.open", "agent.olga.*", ">"])
async def test_a_lock_ends_what_the_unlock_began(world: World, pattern: str) -> None:
    await world.does("olga", "POST", "/channels/agent.olga.open/unlock")
    await world.publish("olga", "agent.olga.open", "first")
    socket = await world.socket("walt")
    await socket.ask("subscribe", channels=[pattern], since="all")
    await socket.heard('"first"')
    await world.does("olga", "POST", "/channels/agent.olga.open/lock")
    await world.publish("olga", "agent.olga.open", "late")
    await socket.rest()
    assert '"late"' not in socket.text


async def test_a_long_poll_is_not_answered_with_what_came_later(team: World) -> None:
    polling = asyncio.ensure_future(
        team.ask("greta", "GET", "/channels/room.team/events?since=0&wait=30")
    )
    await team.does("walt", "GET", "/me")
    await membership(team)
    await team.publish("olga", "room.team", "late")
    answer = await polling
    assert answer.status_code == 403
    assert "late" not in answer.text


@ways
async def test_a_waiting_fetch_is_given_nothing(team: World, taken: str) -> None:
    take, _ = TAKINGS[taken]
    consumer = {"name": "c", "channels": ["room.team", "public.>"]}
    await team.does("greta", "POST", "/consumers", consumer)
    fetching = asyncio.ensure_future(
        team.ask("greta", "POST", "/consumers/c/fetch", {"wait_s": 30})
    )
    await team.does("walt", "GET", "/me")
    await take(team)
    await team.publish("olga", "room.team", "late")
    await team.publish("olga", "public.news", "for all")
    answer = await fetching
    assert "late" not in answer.text
    assert ("for all" in answer.text) == (taken == "membership")


async def test_what_was_not_acknowledged_does_not_come_again(team: World) -> None:
    """Nor does it go to the dead letters, which are the account's own to read."""
    consumer = {"name": "c", "channels": ["room.team"], "ack_wait_s": 0.1, "max_attempts": 1}
    await team.does("greta", "POST", "/consumers", consumer)
    await team.publish("olga", "room.team", "once")
    first = await team.does("greta", "POST", "/consumers/c/fetch", {})
    given = [{"seq": d["seq"], "attempt": d["attempt"]} for d in first["deliveries"]]
    await team.does("greta", "POST", "/consumers/c/nack", {"deliveries": given})
    await membership(team)
    again = await team.does("greta", "POST", "/consumers/c/fetch", {})
    assert again["deliveries"] == []
    letters = await team.does("greta", "GET", "/channels/agent.greta.dead-letter/events")
    assert letters["events"] == []


@ways
@pytest.mark.parametrize("pattern", ["room.team", "room.*"])
async def test_a_revoke_while_catching_up(team: World, taken: str, pattern: str) -> None:
    """A reader that does not keep up is given nothing from the log behind the revoke.

    What the hub had handed to the network before may still arrive, and then the end of it:
    behind the frame that says so, nothing.
    """
    take, _ = TAKINGS[taken]
    events = [{"channel": "room.team", "data": "x" * 4_000} for _ in range(100)]
    for _ in range(10):
        await team.does("olga", "POST", "/events/batch", {"events": events})
    socket = await team.socket("greta")
    await socket.send("subscribe", channels=[pattern], since="all")
    while not team.hub.slow:
        await turns(1)
    await take(team)
    await team.publish("olga", "room.team", "late")
    ended = 0
    try:
        await socket.rest()
    except Exception as over:
        assert type(over).__name__.startswith("ConnectionClosed")
    kinds = [frame["type"] for frame in socket.frames]
    assert kinds.count("event") < 1_000, "it was not read to its end before the revoke"
    assert '"late"' not in socket.text
    for n, kind in enumerate(kinds):
        if kind in ("ended", "dropped"):
            ended = n
    assert "event" not in kinds[ended:] or not ended


@pytest.mark.parametrize("pattern", ["room.team", "room.*"])
async def test_what_waits_in_the_hub_for_a_slow_reader_is_taken_back(
    team: World, pattern: str
) -> None:
    """Bytes that the hub still holds when it answers the revoke are not handed out afterwards."""
    events = [{"channel": "room.team", "data": "x" * 4_000} for _ in range(100)]
    for _ in range(10):
        await team.does("olga", "POST", "/events/batch", {"events": events})
    socket = await team.socket("greta")
    await socket.send("subscribe", channels=[pattern], since="all")
    while not team.hub.slow:
        await turns(1)
    (connection,) = [c for c in team.running.connections.all if isinstance(c, LiveConnection)]
    await membership(team)
    transport = connection._transport
    assert transport is None or transport.is_closing() or not transport.get_write_buffer_size()
