"""A subscription against a server that plays its part word by word."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from clawnet.client.address import parse_address
from clawnet.client.backoff import Backoff
from clawnet.client.subscription import Subscription
from clawnet.client.wire import data_of
from clawnet.core.calls.reading import Gap
from clawnet.core.errors import Forbidden, Unauthenticated

Part = Callable[[ServerConnection, Any], Awaitable[None]]


def event(offset: int, *, epoch: str = "e.1") -> str:
    return json.dumps(
        {"type": "event", "cursor": f"{epoch[0]}-{offset}", "event": {
            "seq": offset, "channel": "public.a", "offset": offset, "epoch": epoch,
            "id": f"evt_{offset}", "ts": "2026-01-01T00:00:00.000Z", "type": "x.y",
            "version": "1.0.0", "source": "agent", "actor": {"id": "a", "handle": "a"},
            "world": "main", "data": offset, "not_yet_known": True}}
    )  # fmt: skip


OK = json.dumps({"type": "ok", "id": 1, "subscription": 1, "channels": [], "cursor": "e-0"})
GAP = json.dumps({"type": "gap", "subscription": 1, "channel": "public.a", "first": 2, "last": 4,
                  "oldest": 5, "reason": "retention"})  # fmt: skip


def says(*frames: str, close: int | None = None) -> Part:
    """A connection that answers a subscribe with these frames, then ends or stays."""

    async def part(connection: ServerConnection, commands: list[Any]) -> None:
        commands.append(json.loads(await connection.recv()))
        for frame in frames:
            await connection.send(frame)
        if close is None:
            await connection.wait_closed()
        elif close == 0:
            connection.transport.abort()
        else:
            await connection.close(close, "said why")

    return part


class Theatre:
    """Plays one part for each connection."""

    def __init__(self, url: str, commands: list[Any]) -> None:
        self.url = url
        self.commands = commands
        self.slept: list[float] = []
        self.gaps: list[Gap] = []
        self.said: list[str] = []

    def subscription(self, **more: Any) -> Subscription:
        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)
            assert len(self.slept) < 50, "it goes on for ever"
            await asyncio.sleep(0)

        return Subscription(
            parse_address(self.url), "claw_t", ["public.a"], on_gap=self.gaps.append,
            on_state=self.said.append, sleep=sleep, backoff=Backoff(random=lambda: 1.0), **more,
        )  # fmt: skip

    @property
    def sinces(self) -> list[Any]:
        return [command.get("since") for command in self.commands]


@asynccontextmanager
async def theatre(*parts: Part | int) -> AsyncIterator[Theatre]:
    """A server; a number in place of a part refuses the handshake with that status."""
    left = list(parts)
    commands: list[Any] = []

    def refuse(_: ServerConnection, request: Request) -> Response | None:
        assert request.path == "/api/v1/events/stream"
        assert request.headers["Authorization"] == "Bearer claw_t"
        if left and isinstance(left[0], int):
            return Response(left.pop(0), "No", Headers(), b"{}")  # type: ignore[arg-type]
        return None

    async def play(connection: ServerConnection) -> None:
        part = left.pop(0)
        assert not isinstance(part, int)
        await part(connection, commands)

    async with serve(play, "127.0.0.1", 0, process_request=refuse) as server:
        [sock, *_] = server.sockets
        yield Theatre(f"http://127.0.0.1:{sock.getsockname()[1]}", commands)


async def numbers(events: Subscription, count: int) -> list[Any]:
    return [data_of(await anext(events)) for _ in range(count)]


async def test_it_comes_back_behind_the_last_event() -> None:
    async with (
        theatre(
            says(OK, event(1), event(2), close=1001),
            says(OK, event(3), close=0),
            says(OK, event(4)),
        ) as stage,
        stage.subscription() as events,
    ):
        assert await numbers(events, 4) == [1, 2, 3, 4]
    assert stage.sinces == [None, "e-2", "e-3"]
    assert stage.said == [
        f"The connection to {stage.url} was lost.",
        "Connected again.",
        f"The connection to {stage.url} was lost.",
        "Connected again.",
    ]


async def test_a_hub_that_repeats_itself_is_heard_once() -> None:
    async with (
        theatre(
            says(OK, event(1), event(1), event(2), close=0), says(OK, event(1), event(2), event(3))
        ) as stage,
        stage.subscription() as events,
    ):
        assert await numbers(events, 3) == [1, 2, 3]


async def test_offsets_of_a_new_epoch_are_new_events() -> None:
    async with (
        theatre(says(OK, event(1), event(2), event(1, epoch="f.1"))) as stage,
        stage.subscription() as events,
    ):
        assert await numbers(events, 3) == [1, 2, 1]


async def test_a_gap_is_told_once_and_in_its_place() -> None:
    async with (
        theatre(says(OK, event(1), GAP, close=0), says(OK, GAP, event(5))) as stage,
        stage.subscription() as events,
    ):
        assert await numbers(events, 1) == [1]
        assert stage.gaps == []
        assert await numbers(events, 1) == [5]
    assert stage.gaps == [Gap(channel="public.a", first=2, last=4, oldest=5)]


async def test_a_hub_that_drops_connections_at_once_is_not_hammered() -> None:
    async with (
        theatre(*[says(OK, close=1001)] * 6, says(OK, event(1))) as stage,
        stage.subscription() as events,
    ):
        assert await numbers(events, 1) == [1]
    assert len(stage.slept) == 6
    assert stage.slept == sorted(stage.slept)
    assert stage.slept[-1] > 1.0


@pytest.mark.parametrize(
    ("code", "error"), [(4401, Unauthenticated), (4403, Forbidden)]
)  # fmt: skip
async def test_a_terminal_close_ends_it(code: int, error: type[Exception]) -> None:
    async with theatre(says(OK, event(1), close=code)) as stage, stage.subscription() as events:
        assert await numbers(events, 1) == [1]
        for _ in range(2):
            with pytest.raises(error, match="said why"):
                await anext(events)
    assert stage.slept == []


@pytest.mark.parametrize(("status", "error"), [(401, Unauthenticated), (403, Forbidden)])
async def test_a_refused_handshake_ends_it(status: int, error: type[Exception]) -> None:
    async with theatre(status) as stage:
        with pytest.raises(error):
            await stage.subscription().__aenter__()


async def test_a_busy_hub_and_a_confused_proxy_are_waited_for() -> None:
    async with (
        theatre(says(OK, event(1), close=0), 503, 418, 502, says(OK, event(2))) as stage,
        stage.subscription() as events,
    ):
        assert await numbers(events, 2) == [1, 2]


async def test_what_is_no_hub_is_said_at_the_first_connection() -> None:
    async with theatre(418) as stage:
        with pytest.raises(Exception, match="status 418"):
            await stage.subscription().__aenter__()


async def test_an_ended_subscription_raises_why() -> None:
    ended = {"type": "ended", "subscription": 1, "error": {
        "code": "forbidden", "message": "Revoked.", "retryable": False, "next": "Ask.",
        "channel": "public.a"}}  # fmt: skip
    async with theatre(says(OK, json.dumps(ended))) as stage, stage.subscription() as events:
        with pytest.raises(Forbidden, match="Revoked") as caught:
            await anext(events)
    assert caught.value.facts["channel"] == "public.a"


async def test_an_end_that_may_pass_is_come_back_from() -> None:
    ended = {"type": "ended", "subscription": 1, "error": {
        "code": "unavailable", "message": "Busy.", "retryable": True, "next": "Wait."}}  # fmt: skip
    async with (
        theatre(says(OK, event(1), json.dumps(ended)), says(OK, event(2))) as stage,
        stage.subscription() as events,
    ):
        assert await numbers(events, 2) == [1, 2]
    assert len(stage.slept) == 1


async def test_a_closed_subscription_is_over() -> None:
    async with theatre(says(OK, event(1))) as stage:
        events = stage.subscription()
        assert await numbers(events, 1) == [1]
        await events.aclose()
        assert [event async for event in events] == []


async def test_signals_are_told_and_take_no_place() -> None:
    signal = {"type": "event", "event": {
        "channel": "public.a", "type": "x.typing", "version": "1.0.0", "source": "agent",
        "actor": {"id": "b", "handle": "b"}, "world": "main", "data": {"is": 1}}}  # fmt: skip
    heard: list[Any] = []
    async with (
        theatre(says(OK, event(1), json.dumps(signal), event(2))) as stage,
        stage.subscription(on_signal=lambda told: heard.append(data_of(told))) as events,
    ):
        assert await numbers(events, 2) == [1, 2]
    assert heard == [{"is": 1}]
    async with (
        theatre(says(OK, json.dumps(signal), event(1))) as stage,
        stage.subscription() as events,
    ):
        assert await numbers(events, 1) == [1]
        assert events.cursor == "e-1"
