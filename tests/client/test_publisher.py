"""Pipelined publishes against a server that plays its part word by word."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from clawnet.client import Client, HubUnreachable, UnexpectedAnswer
from clawnet.client.backoff import Backoff
from clawnet.client.publisher import IN_FLIGHT_MAX
from clawnet.client.wire import PUBLISH_MAX_BYTES, encode_publish
from clawnet.core.calls.publishing import Published
from clawnet.core.errors import Forbidden, RateLimited, Unauthenticated

Part = Callable[["Stage", ServerConnection], Awaitable[None]]


class Stage:
    """Plays one part for each connection, and remembers what came."""

    def __init__(self, *parts: Part | int) -> None:
        self.parts = list(parts)
        self.url = ""
        self.came: list[dict[str, Any]] = []
        self.seq = 0
        self._awaited = (0, asyncio.Event())

    @property
    def numbers(self) -> list[Any]:
        return [command["data"] for command in self.came]

    async def hear(self, connection: ServerConnection) -> dict[str, Any]:
        command: dict[str, Any] = json.loads(await connection.recv())
        assert command["action"] == "publish"
        self.came.append(command)
        count, event = self._awaited
        if len(self.came) >= count:
            event.set()
        return command

    async def has_come(self, count: int) -> None:
        """Wait until so many publishes were heard."""
        self._awaited = (count, asyncio.Event())
        if len(self.came) < count:
            await self._awaited[1].wait()

    def ok(self, command: dict[str, Any]) -> str:
        self.seq += 1
        return json.dumps({"type": "ok", "id": command["id"], "event_id": f"evt_{self.seq}",
                           "seq": self.seq, "offset": self.seq, "epoch": "e.1",
                           "deduped": False, "not_yet_known": 1})  # fmt: skip

    def client(self) -> Client:
        return Client(self.url, "claw_t", backoff=lambda: Backoff(first_s=0.01, most_s=0.05))


def error(command: dict[str, Any], code: str, **more: Any) -> str:
    return json.dumps({"type": "error", "id": command["id"],
                       "error": {"code": code, "message": "Said why.", **more}})  # fmt: skip


@asynccontextmanager
async def playing(*parts: Part | int) -> AsyncIterator[Stage]:
    """A server; a number in place of a part refuses the handshake with that status."""
    stage = Stage(*parts)

    def refuse(_: ServerConnection, request: Request) -> Response | None:
        assert request.path == "/api/v1/events/stream"
        assert request.headers["Authorization"] == "Bearer claw_t"
        if stage.parts and isinstance(stage.parts[0], int):
            return Response(stage.parts.pop(0), "No", Headers(), b"{}")  # type: ignore[arg-type]
        return None

    async def play(connection: ServerConnection) -> None:
        part = stage.parts.pop(0)
        assert not isinstance(part, int)
        await part(stage, connection)

    async with serve(play, "127.0.0.1", 0, process_request=refuse) as server:
        [sock, *_] = server.sockets
        stage.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        async with asyncio.timeout(20):
            yield stage


async def obliging(stage: Stage, connection: ServerConnection) -> None:
    async for text in connection:
        command = json.loads(text)
        stage.came.append(command)
        await connection.send(stage.ok(command))


def dropping(answered: int, *, unanswered: int, close: int | None = None) -> Part:
    """Answers so many, takes so many more, and is gone."""

    async def part(stage: Stage, connection: ServerConnection) -> None:
        for _ in range(answered):
            await connection.send(stage.ok(await stage.hear(connection)))
        for _ in range(unanswered):
            await stage.hear(connection)
        if close is None:
            connection.transport.abort()
        else:
            await connection.close(close, "said why")

    return part


def burst(client: Client, count: int, **more: Any) -> list[asyncio.Task[Published]]:
    return [asyncio.create_task(client.publish("public.a", n, **more)) for n in range(count)]


async def test_a_lost_answer_is_asked_for_again_under_the_same_key() -> None:
    async with playing(dropping(0, unanswered=1), obliging) as stage, stage.client() as client:
        assert (await client.publish("public.a", 1, type="x.y", correlation_id="c")).seq == 1
    first, second = stage.came
    assert first == second
    assert first["dedupe_key"]
    assert (first["channel"], first["type"], first["correlation_id"]) == ("public.a", "x.y", "c")
    assert "causation_id" not in first


async def test_all_that_is_unanswered_is_sent_again_in_order() -> None:
    parts = (dropping(20, unanswered=10, close=1001), dropping(3, unanswered=2), obliging)
    async with playing(*parts) as stage, stage.client() as client:
        published = await asyncio.gather(*burst(client, 60))
    assert [one.seq for one in published] == list(range(1, 61))
    # 20 to 29 were unanswered; a returning client begins slowly, with the first of them.
    assert stage.numbers[:30] == list(range(30))
    assert stage.numbers[30:35] == [20, 21, 22, 23, 24]
    assert stage.numbers[35:] == list(range(23, 60))
    keys = {command["data"]: command["dedupe_key"] for command in stage.came}
    assert all(keys[command["data"]] == command["dedupe_key"] for command in stage.came)
    assert len(set(keys.values())) == 60


async def test_one_connection_carries_all_and_is_made_at_the_first_publish() -> None:
    async with playing(obliging) as stage, stage.client() as client:
        assert len(stage.parts) == 1
        await asyncio.gather(*burst(client, 2_000))
        await asyncio.gather(*burst(client, 10))
    assert stage.numbers == [*range(2_000), *range(10)]


async def test_no_more_are_on_their_way_than_may_be() -> None:
    most = IN_FLIGHT_MAX - 1  # answers that open the window

    async def part(stage: Stage, connection: ServerConnection) -> None:
        for _ in range(most):
            await connection.send(stage.ok(await stage.hear(connection)))
        held = [await stage.hear(connection) for _ in range(IN_FLIGHT_MAX)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await stage.hear(connection)
        for command in held:
            await connection.send(stage.ok(command))
        await obliging(stage, connection)

    async with playing(part) as stage, stage.client() as client:
        published = await asyncio.gather(*burst(client, 1_000))
    assert [one.seq for one in published] == list(range(1, 1_001))


async def test_a_rate_limit_halts_all_and_what_was_refused_goes_first() -> None:
    times: list[float] = []

    async def part(stage: Stage, connection: ServerConnection) -> None:
        clock = asyncio.get_running_loop().time
        for _ in range(4):
            await connection.send(stage.ok(await stage.hear(connection)))
        refused = [await stage.hear(connection) for _ in range(5)]
        times.append(clock())
        for command in refused:
            await connection.send(error(command, "rate_limited", retry_after_s=0.3))
        again = await stage.hear(connection)
        times.append(clock())
        with pytest.raises(TimeoutError):  # one alone tries whether it works again
            async with asyncio.timeout(0.1):
                await stage.hear(connection)
        await connection.send(stage.ok(again))
        await obliging(stage, connection)

    async with playing(part) as stage, stage.client() as client:
        await asyncio.gather(*burst(client, 40))
    assert stage.numbers == [*range(9), *range(4, 40)]
    assert times[1] - times[0] >= 0.3


async def test_a_limit_beyond_the_deadline_is_told_at_once() -> None:
    async def part(stage: Stage, connection: ServerConnection) -> None:
        await connection.send(error(await stage.hear(connection), "rate_limited", retry_after_s=60))
        await connection.wait_closed()

    async with playing(part) as stage, stage.client() as client:
        with pytest.raises(RateLimited) as caught:
            async with asyncio.timeout(5):
                await client.publish("public.a", 1, within_s=10)
    assert caught.value.retry_after_s == 60


async def test_a_refusal_is_of_one_publish() -> None:
    async def part(stage: Stage, connection: ServerConnection) -> None:
        async for text in connection:
            command = json.loads(text)
            is_bad = command["data"] == 3
            await connection.send(error(command, "forbidden") if is_bad else stage.ok(command))

    async with playing(part) as stage, stage.client() as client:
        got = await asyncio.gather(*burst(client, 6), return_exceptions=True)
    assert [type(one) for one in got] == [Published] * 3 + [Forbidden] + [Published] * 2


@pytest.mark.parametrize("close", [4403, 4401])
async def test_a_revoked_token_fails_all_with_the_hubs_reason(close: int) -> None:
    parts = (dropping(5, unanswered=2, close=close), 401)
    async with playing(*parts) as stage, stage.client() as client:
        got = await asyncio.gather(*burst(client, 20), return_exceptions=True)
    assert [type(one) for one in got] == [Published] * 5 + [Unauthenticated] * 15


async def test_one_of_many_is_cancelled_and_the_others_go_on() -> None:
    held = asyncio.Event()

    async def part(stage: Stage, connection: ServerConnection) -> None:
        for _ in range(10):
            await connection.send(stage.ok(await stage.hear(connection)))
        await stage.hear(connection)  # 10 is on its way and not answered
        await held.wait()
        connection.transport.abort()

    async with playing(part, obliging) as stage, stage.client() as client:
        tasks = burst(client, 40)
        await stage.has_come(11)
        tasks[10].cancel()
        tasks[30].cancel()
        held.set()
        got = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = [asyncio.CancelledError if n in (10, 30) else Published for n in range(40)]
    assert [type(one) for one in got] == kinds
    assert stage.numbers == [*range(11), *(n for n in range(11, 40) if n != 30)]


async def test_a_cancelled_one_gives_its_place_to_the_next() -> None:
    async def part(stage: Stage, connection: ServerConnection) -> None:
        await stage.hear(connection)  # the first is never answered; the window is 1
        await obliging(stage, connection)

    async with playing(part) as stage, stage.client() as client:
        first, second, third = burst(client, 3)
        await stage.has_come(1)
        first.cancel()
        second.cancel()
        assert (await third).seq == 1
    assert stage.numbers == [0, 2]


async def test_when_no_answer_comes_the_key_is_told() -> None:
    async def part(_: Stage, connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with playing(part) as stage, stage.client() as client:
        with pytest.raises(HubUnreachable, match=r"did not answer.*not known") as caught:
            await client.publish("public.a", 1, dedupe_key="k", within_s=0.1)
    assert caught.value.facts["dedupe_key"] == "k"


async def test_without_a_hub_all_fail_in_their_time() -> None:
    client = Client("http://127.0.0.1:9", backoff=lambda: Backoff(first_s=0.01, most_s=0.02))
    async with asyncio.timeout(2):
        got = await asyncio.gather(*burst(client, 500, within_s=0.2), return_exceptions=True)
    assert {type(one) for one in got} == {HubUnreachable}
    assert len({getattr(one, "facts", {})["dedupe_key"] for one in got}) == 500
    assert not any("not known" in str(one) for one in got)  # nothing was sent
    await client.aclose()


async def test_whatever_never_reached_the_hub_can_be_published_again_under_its_key() -> None:
    client = Client("http://127.0.0.1:9", backoff=lambda: Backoff(first_s=0.01, most_s=0.02))
    large = "x" * PUBLISH_MAX_BYTES
    batch: list[dict[str, Any]] = [
        {"channel": "public.a", "data": 1, "dedupe_key": "b-1"},
        {"channel": "public.a", "data": 2},
    ]
    async with asyncio.timeout(5), client:
        for data in ("small", large):
            for given in ("k", None):
                with pytest.raises(HubUnreachable) as caught:
                    await client.publish("public.a", data, dedupe_key=given, within_s=0.05)
                key = caught.value.facts["dedupe_key"]
                assert key == given or (given is None and len(key) > 10)
        with pytest.raises(HubUnreachable) as caught:
            await client.publish_batch(batch, within_s=0.05)
        keys = caught.value.facts["dedupe_keys"]
        assert keys[0] == "b-1" and len(set(keys)) == 2


async def test_a_hub_that_starts_is_waited_for() -> None:
    async with playing(503, 502, obliging) as stage, stage.client() as client:
        assert (await client.publish("public.a", 1)).seq == 1


async def test_waiting_behind_others_is_no_time_lost() -> None:
    async def part(stage: Stage, connection: ServerConnection) -> None:
        await connection.send(stage.ok(await stage.hear(connection)))
        while True:
            await stage.hear(connection)

    async with playing(part) as stage, stage.client() as client:
        # With the first answer two may be on their way. When their time is up the
        # next two are sent, and not given up.
        all_of_them = asyncio.gather(*burst(client, 5, within_s=0.1), return_exceptions=True)
        assert [type(one) for one in await all_of_them] == [Published] + [HubUnreachable] * 4
        assert stage.numbers == [0, 1, 2, 3, 4]
        await asyncio.gather(*burst(client, 4, within_s=0.1), return_exceptions=True)
    assert stage.numbers == [0, 1, 2, 3, 4, 0, 1, 2, 3]


async def test_a_handshake_that_hangs_costs_no_more_than_the_publishs_time() -> None:
    async def hear_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hear_only, "127.0.0.1", 0) as server:
        client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with asyncio.timeout(2):
            got = await asyncio.gather(*burst(client, 3, within_s=0.1), return_exceptions=True)
        assert [type(one) for one in got] == [HubUnreachable] * 3
        await client.aclose()


async def test_closing_fails_what_waits() -> None:
    async def part(stage: Stage, connection: ServerConnection) -> None:
        await stage.hear(connection)
        await connection.wait_closed()

    async with playing(part, obliging) as stage:
        client = stage.client()
        tasks = burst(client, 3)
        await stage.has_come(1)
        await client.aclose()
        got = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in got] == [HubUnreachable] * 3
        facts = [getattr(one, "facts", {}) for one in got]
        assert facts[0]["dedupe_key"] == stage.came[0]["dedupe_key"]
        assert len({one["dedupe_key"] for one in facts}) == 3
        assert ["not known" in str(one) for one in got] == [True, False, False]
        await client.aclose()
        # As with HTTP, a client that is used again opens anew.
        assert (await client.publish("public.a", 9)).seq == 1
        await client.aclose()


async def test_what_is_no_frame_is_said_to_all() -> None:
    async def part(stage: Stage, connection: ServerConnection) -> None:
        await stage.hear(connection)
        await connection.send("[")
        await connection.wait_closed()

    async with playing(part, obliging) as stage, stage.client() as client:
        got = await asyncio.gather(*burst(client, 3), return_exceptions=True)
        assert [type(one) for one in got] == [UnexpectedAnswer] * 3
        assert (await client.publish("public.a", 1)).seq == 1


@pytest.mark.parametrize(
    "data",
    ["x" * PUBLISH_MAX_BYTES, msgspec.Raw(b"{"), msgspec.Raw(b'"\xff"'), msgspec.Raw(b"[" * 9_999)],
    ids=["long", "malformed", "not-utf-8", "deep"],
)
def test_what_no_frame_holds_is_told(data: Any) -> None:
    assert encode_publish({"channel": "public.a", "data": data}) is None
    assert encode_publish({"channel": "public.a", "data": 1}) is not None
