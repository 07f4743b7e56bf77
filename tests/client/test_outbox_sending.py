"""The outbox's sending, in front of a hub that plays its part: it answers as it is told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawnet.client import Client, Refusal
from clawnet.client.backoff import Backoff
from clawnet.client.outbox import DEFECTS_MAX
from clawnet.client.outbox_store import Store
from clawnet.core.errors import (
    ClawError,
    DiskFull,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Refused,
    Unauthenticated,
    Unavailable,
)
from tests.client.outbox_waiting import flush_for_ever, until

Answer = tuple[int, dict[str, Any]]


class Scripted:
    """A hub that answers batches as told; without a word left it takes all."""

    def __init__(self, *answers: ClawError | Callable[[list[Any]], ClawError | None]) -> None:
        self.answers = list(answers)
        self.batches: list[list[Any]] = []
        self.taken: list[Any] = []
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Scripted"]:
        async with asyncio.timeout(20):
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            try:
                yield self
            finally:
                server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = head.partition("content-length: ")[2].partition("\r")[0]
        body = await reader.readexactly(int(length or 0))
        status, answer = self._batch(msgspec.json.decode(body)["events"]) if body else _me()
        raw = msgspec.json.encode(answer)
        writer.write(b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
                     % (status, len(raw), raw))  # fmt: skip
        await writer.drain()
        writer.close()

    def _batch(self, events: list[Any]) -> Answer:
        self.batches.append([event["data"] for event in events])
        answer = self.answers[0] if self.answers else None
        if callable(answer):
            answer = answer(events)
        elif self.answers:
            self.answers.pop(0)
        if isinstance(answer, ClawError):
            return answer.status, answer.as_dict()
        self.taken += [event["data"] for event in events]
        place = {"id": "evt", "seq": 1, "offset": 1, "epoch": "e.1", "deduped": False}
        return 201, {"events": [place for _ in events]}

    def client(self, folder: Path, *, pause_s: float = 0.001) -> Client:
        def backoff() -> Backoff:
            return Backoff(first_s=pause_s, most_s=10 * pause_s)

        return Client(self.url, "claw_t", outbox=folder / "outbox.db", backoff=backoff)


def _me() -> Answer:
    account = {"id": "a", "name": "a", "handle": "a", "role": "worker", "kind": "agent",
               "world": "main", "created": "2026-01-01T00:00:00.000Z"}  # fmt: skip
    return 200, {"account": account, "token": None, "token_id": None, "scopes": ["*"],
                 "world": "main", "cursor": "e-0"}  # fmt: skip


async def fill(client: Client, *events: tuple[str, Any]) -> None:
    """Enqueue all in one commit, so that they are sent together."""
    await asyncio.gather(*(client.enqueue(channel, data) for channel, data in events))


async def test_a_channel_that_the_hub_cannot_serve_now_does_not_stall_the_others(
    tmp_path: Path,
) -> None:
    is_open = asyncio.Event()

    def slow(events: list[Any]) -> ClawError | None:
        for index, event in enumerate(events):
            if event["channel"] == "public.slow" and not is_open.is_set():
                return Unavailable("The interceptor does not answer.", index=index)
        return None

    async with Scripted(slow).serving() as hub, hub.client(tmp_path) as client:
        await fill(client, ("public.slow", "s1"), ("public.a", 1), ("public.slow", "s2"),
                   ("public.a", 2))  # fmt: skip
        await until(lambda: hub.taken == [1, 2] and client.outbox.pending == 2)
        is_open.set()
        assert await client.outbox.flush(10) == 0
    assert hub.taken == [1, 2, "s1", "s2"]


async def test_a_rate_limit_makes_batches_smaller_and_keeps_the_order(tmp_path: Path) -> None:
    troubles = [RateLimited("Slow down.", retry_after_s=0.01), OutcomeUnknown("?"), DiskFull("!")]
    async with Scripted(*troubles).serving() as hub, hub.client(tmp_path) as client:
        await fill(client, *(("public.a", number) for number in range(50)))
        assert await client.outbox.flush(10) == 0
    assert hub.taken == list(range(50))
    assert [len(batch) for batch in hub.batches[:4]] == [50, 50, 50, 50]
    assert await _refused(tmp_path, hub.url) == []


async def test_a_refusal_that_names_no_event_is_found_by_sending_them_alone(tmp_path: Path) -> None:
    def vague(events: list[Any]) -> ClawError | None:
        return Refused("One is bad.") if "bad" in [event["data"] for event in events] else None

    async with Scripted(vague).serving() as hub, hub.client(tmp_path) as client:
        await fill(client, ("public.a", 1), ("public.a", "bad"), ("public.a", 2))
        assert await client.outbox.flush(10) == 0
    assert hub.taken == [1, 2]
    assert [refusal.code for refusal in await _refused(tmp_path, hub.url)] == ["refused"]


async def test_an_event_that_breaks_the_hub_again_and_again_is_given_up(tmp_path: Path) -> None:
    def broken(events: list[Any]) -> ClawError | None:
        return ClawError("It failed.") if "bad" in [event["data"] for event in events] else None

    async with Scripted(broken).serving() as hub, hub.client(tmp_path) as client:
        await fill(client, ("public.a", 1), ("public.a", "bad"), ("public.a", 2))
        assert await client.outbox.flush(10) == 0
    assert hub.taken == [1, 2]
    assert hub.batches.count(["bad"]) == DEFECTS_MAX
    assert [refusal.code for refusal in await _refused(tmp_path, hub.url)] == ["internal"]


async def test_a_token_that_ends_while_events_are_sent_loses_none(tmp_path: Path) -> None:
    async with Scripted(Unauthenticated("Gone.")).serving() as hub, hub.client(tmp_path) as client:
        await fill(client, ("public.a", 1), ("public.a", 2))
        await until(lambda: isinstance(client.outbox.trouble, Unauthenticated))
        assert client.outbox.pending == 2
        assert await client.outbox.refused() == []
        assert await client.outbox.flush(10) == 0
    assert hub.taken == [1, 2]


async def test_what_is_enqueued_meanwhile_does_not_hasten_a_hub_in_trouble(tmp_path: Path) -> None:
    hub = Scripted(Unavailable("Not yet."))
    async with hub.serving(), hub.client(tmp_path, pause_s=1_000) as client:
        await client.enqueue("public.a", 0)
        await until(lambda: client.outbox.trouble is not None)
        for number in range(1, 6):
            await client.enqueue("public.a", number)
            for _ in range(20):
                await asyncio.sleep(0)
        assert await client.outbox.refused() == []
        assert len(hub.batches) == 1
        # Who waits for it does.
        assert await client.outbox.flush(10) == 0
    assert hub.taken == list(range(6))


async def test_who_meets_what_is_no_hub_on_sending_lets_others_try(tmp_path: Path) -> None:
    """As behind a proxy of its own, which lets a question through and no event."""
    hub = Scripted(lambda _: NotFound("A proxy says no."))
    async with hub.serving(), hub.client(tmp_path) as stuck, hub.client(tmp_path) as good:
        await stuck.enqueue("public.a", 1)
        with pytest.raises(NotFound):
            await stuck.outbox.flush(10)
        trying = asyncio.create_task(flush_for_ever(stuck))
        await until(lambda: isinstance(good.outbox.trouble, NotFound))
        hub.answers.clear()
        assert await good.outbox.flush(10) == 0
        trying.cancel()
    assert hub.taken == [1]


def test_one_at_a_time_may_send(tmp_path: Path) -> None:
    one, two = (Store(tmp_path / "o.db", "http://127.0.0.1:1") for _ in range(2))
    assert one.try_lock()
    assert one.try_lock()
    assert not two.try_lock()
    one.close()
    assert two.try_lock()
    two.close()


async def test_what_asks_for_an_answer_goes_alone(tmp_path: Path) -> None:
    async with Scripted(Unavailable("Not yet.")).serving() as hub, hub.client(tmp_path) as client:
        one = client.enqueue("public.a", 1)
        two = client.enqueue("public.a", 2, reply_within_s=5)
        three = client.enqueue("public.a", 3)
        await asyncio.gather(one, two, three)
        assert await client.outbox.flush(10) == 0
    assert hub.batches == [[1], [1], [2], [3]]


async def _refused(folder: Path, url: str) -> list[Refusal]:
    store = Store(folder / "outbox.db", url)
    try:
        return store.refused()
    finally:
        store.close()
