"""The client library against a real hub that is killed, cut off, slow and strict."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawnet.client import Client, HubUnreachable, Subscription, data_of
from clawnet.client.backoff import Backoff
from clawnet.core.calls.publishing import Published
from clawnet.core.calls.reading import Gap
from clawnet.core.errors import (
    BadRequest,
    Conflict,
    DedupeConflict,
    Forbidden,
    InvalidChannel,
    InvalidData,
    NotFound,
    PayloadTooLarge,
    RateLimited,
    Unauthenticated,
)
from clawnet.core.events import Event
from tests.cli.program import HubProcess, Program, running_hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """One that is not hurt."""
    folder = tmp_path_factory.mktemp("hub")
    with running_hub(Program(folder / "home"), folder / "data", "--engine", "memory") as hub:
        yield hub


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[HubProcess]:
    """One to kill."""
    with running_hub(Program(tmp_path / "home"), tmp_path / "data") as hub:
        yield hub


def client_of(hub: HubProcess, token: str | None = None, *, url: str | None = None) -> Client:
    return Client(
        url or hub.url, token or hub.admin_token, backoff=lambda: Backoff(first_s=0.02, most_s=0.2)
    )


async def take(events: Subscription, count: int, *, within_s: float = 15) -> list[Event]:
    async with asyncio.timeout(within_s):
        return [await anext(events) for _ in range(count)]


def numbers(events: list[Event]) -> list[Any]:
    return [data_of(event) for event in events]


async def stored(hub: HubProcess, channel: str) -> list[Any]:
    """The data of all events of a channel."""
    found: list[Any] = []
    since: int | None = 0
    async with client_of(hub) as client:
        while True:
            page = await client.history(channel, since=since, limit=1_000)
            if not page.events:
                return found
            found += numbers(page.events)
            since = page.events[-1].offset


class Proxy:
    """Stands between client and hub; swallows answers or cuts connections when told to."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.swallow = 0
        self.url = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """End all connections, as a lost network would."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, up_writer}
        with contextlib.suppress(OSError):
            await asyncio.gather(
                self._pump(reader, up_writer, is_answer=False),
                self._pump(up_reader, writer, is_answer=True),
            )
        for each in (writer, up_writer):
            each.transport.abort()
            self._writers.discard(each)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        while data := await reader.read(65_536):
            if is_answer and self.swallow:
                self.swallow -= 1
                writer.transport.abort()
                return
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest.fixture
async def proxy(hub: HubProcess) -> AsyncIterator[Proxy]:
    proxy = Proxy(hub.port)
    await proxy.start()
    yield proxy
    await proxy.stop()


# --- publishing ---------------------------------------------------------------
async def test_a_lost_answer_does_not_double_the_event(hub: HubProcess, proxy: Proxy) -> None:
    async with client_of(hub, url=proxy.url) as client:
        await client.publish("public.lost", 0)
        proxy.swallow = 2  # this answer, and that to the next handshake
        published = await client.publish("public.lost", {"n": 1})
        assert published.deduped
        page = await client.history("public.lost")
    assert [event.offset for event in page.events] == [1, 2]
    assert proxy.swallow == 0


async def test_a_burst_through_a_bad_network_is_stored_once_and_in_order(
    hub: HubProcess, proxy: Proxy
) -> None:
    # An account of its own, so that its rate limit is far away: a refused one may be overtaken.
    async with client_of(hub, hub.account("bad"), url=proxy.url) as client:
        tasks = [asyncio.create_task(client.publish("public.bad", n)) for n in range(900)]
        for at in (10, 200, 500):
            await asyncio.wait([tasks[at]])
            proxy.cut()
        published = await asyncio.gather(*tasks)
    assert [one.offset for one in published] == list(range(1, 901))
    assert await stored(hub, "public.bad") == list(range(900))


async def test_two_thousand_at_once(durable: HubProcess) -> None:
    async with client_of(durable) as client:
        published = await asyncio.gather(*(client.publish("public.many", n) for n in range(2_000)))
    assert [one.offset for one in published] == list(range(1, 2_001))
    assert await stored(durable, "public.many") == list(range(2_000))


async def test_one_of_many_is_cancelled(hub: HubProcess) -> None:
    async with client_of(hub, hub.account("many")) as client:
        tasks = [asyncio.create_task(client.publish("public.many", n)) for n in range(300)]
        await asyncio.wait([tasks[20]])
        tasks[290].cancel()
        got = await asyncio.gather(*tasks, return_exceptions=True)
    assert [n for n, one in enumerate(got) if isinstance(one, BaseException)] == [290]
    assert await stored(hub, "public.many") == [n for n in range(300) if n != 290]


async def test_what_no_frame_holds_goes_by_http(hub: HubProcess) -> None:
    async with client_of(hub) as client:
        data = "x" * 65_000
        first = await client.publish("public.large", data)
        assert (first.offset, first.deduped) == (1, False)
        # Within the limit for data, though not with an envelope as long as this one.
        await client.publish("public.large", data, correlation_id="c" * 200)
        with pytest.raises(PayloadTooLarge):
            await client.publish("public.large", "x" * 80_000)
        with pytest.raises((InvalidData, BadRequest)):
            await client.publish("public.large", msgspec.Raw(b'{"a":'))
        with pytest.raises((InvalidData, BadRequest)):
            await client.publish("public.large", msgspec.Raw(b'"\xff"'))
        assert (await client.publish("public.large", 3)).offset == 3


async def test_a_token_revoked_in_a_burst_is_told_to_the_rest(hub: HubProcess) -> None:
    async with client_of(hub) as admin:
        await admin.create_account("leaving")
        made = await admin.create_token("leaving")
        async with client_of(hub, made.token) as client:
            tasks = [asyncio.create_task(client.publish("public.leave", n)) for n in range(5_000)]
            await asyncio.wait([tasks[30]])
            await admin.revoke_token(made.id)
            got = await asyncio.gather(*tasks, return_exceptions=True)
        done = [one for one in got if isinstance(one, Published)]
        assert 30 < len(done) < 5_000
        assert {type(one) for one in got if one not in done} == {Unauthenticated}
    assert (await stored(hub, "public.leave"))[: len(done)] == list(range(len(done)))


async def test_a_lost_answer_to_a_batch_does_not_double_it(hub: HubProcess, proxy: Proxy) -> None:
    async with client_of(hub, url=proxy.url) as client:
        await client.me()
        proxy.swallow = 1
        batch = [{"channel": "public.batch", "data": n} for n in range(3)]
        published = await client.publish_batch(batch)
        assert [one.offset for one in published] == [1, 2, 3]
        assert numbers((await client.history("public.batch")).events) == [0, 1, 2]


async def test_when_no_answer_comes_at_all_the_key_is_told(hub: HubProcess, proxy: Proxy) -> None:
    async with client_of(hub, url=proxy.url) as client:
        await client.publish("public.unsure", 0)
        proxy.swallow = 1_000
        with pytest.raises(HubUnreachable, match="not known") as caught:
            await client.publish("public.unsure", 1, within_s=0.5)
        proxy.swallow = 0
        key = caught.value.facts["dedupe_key"]
        assert (await client.publish("public.unsure", 1, dedupe_key=key)).deduped


async def test_a_key_is_good_for_one_content(hub: HubProcess) -> None:
    async with client_of(hub) as client:
        first = await client.publish("public.key", {"a": 1}, dedupe_key="k")
        again = await client.publish("public.key", {"a": 1}, dedupe_key="k")
        assert (again.id, again.deduped) == (first.id, True)
        with pytest.raises(DedupeConflict):
            await client.publish("public.key", {"a": 2}, dedupe_key="k")


async def test_refusals_come_as_what_they_are(hub: HubProcess) -> None:
    token = hub.account("refused")
    async with client_of(hub, token) as client:
        with pytest.raises(Forbidden):
            await client.publish("agent.admin.x", 1)
        with pytest.raises(InvalidChannel):
            await client.publish("Not A Channel", 1)
        with pytest.raises(NotFound):
            await client.account("nobody")
        with pytest.raises(Forbidden):
            await client.create_account("other")
    async with client_of(hub, "claw_wrong") as client:
        with pytest.raises(Unauthenticated):
            await client.publish("public.x", 1)


async def test_a_rate_limit_is_waited_out(tmp_path: Path) -> None:
    program = Program(tmp_path / "home")
    program.environment |= {
        "CLAWNET_LIMITS_PUBLISH_PER_S": "2",
        "CLAWNET_LIMITS_PUBLISH_BURST": "2",
    }
    with running_hub(program, tmp_path / "data", "--engine", "memory") as strict:
        async with client_of(strict) as client:
            offsets = [(await client.publish("public.fast", n)).offset for n in range(4)]
            assert offsets == [1, 2, 3, 4]
            with pytest.raises(RateLimited):
                for n in range(10):
                    await client.publish("public.fast", n, within_s=0.05)
        limited = [strict.try_claw("pub", "public.fast", "x").returncode for _ in range(5)]
        assert 75 in limited


async def test_a_rate_limit_in_a_burst_is_waited_out_in_order(tmp_path: Path) -> None:
    program = Program(tmp_path / "home")
    program.environment |= {
        "CLAWNET_LIMITS_PUBLISH_PER_S": "200",
        "CLAWNET_LIMITS_PUBLISH_BURST": "20",
    }
    with running_hub(program, tmp_path / "data", "--engine", "memory") as strict:
        async with client_of(strict) as client:
            await asyncio.gather(*(client.publish("public.burst", n) for n in range(200)))
            assert sorted(await stored(strict, "public.burst")) == list(range(200))


# --- subscribing --------------------------------------------------------------
async def test_what_is_published_after_entering_comes(hub: HubProcess) -> None:
    async with client_of(hub) as client, client.subscribe("public.enter") as events:
        for n in range(3):
            await client.publish("public.enter", n)
        assert numbers(await take(events, 3)) == [0, 1, 2]
        assert events.cursor is not None


async def test_a_cursor_continues_another_day(hub: HubProcess) -> None:
    async with client_of(hub) as client:
        for n in range(4):
            await client.publish("public.day", n)
        async with client.subscribe("public.day", since="all") as events:
            assert numbers(await take(events, 2)) == [0, 1]
        async with client.subscribe("public.day", since=events.cursor) as later:
            assert numbers(await take(later, 2)) == [2, 3]
        async with client.subscribe("public.day", since={"public.day": 3}) as behind:
            assert numbers(await take(behind, 1)) == [3]


async def test_a_cut_connection_loses_and_doubles_nothing(hub: HubProcess, proxy: Proxy) -> None:
    async with (
        client_of(hub) as sender,
        client_of(hub, url=proxy.url) as client,
        client.subscribe(["public.cut.*"]) as events,
    ):

        async def send() -> None:
            for n in range(120):
                await sender.publish(f"public.cut.{n % 3}", n)
                if n % 15 == 7:
                    proxy.cut()

        sending = asyncio.create_task(send())
        got = await take(events, 120)
        await sending
    assert numbers(got) == list(range(120))
    assert len({event.id for event in got}) == 120


async def test_waiting_can_be_broken_off_and_taken_up(hub: HubProcess) -> None:
    async with client_of(hub) as client, client.subscribe("public.wait") as events:
        for n in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await anext(events)
            await client.publish("public.wait", n)
            assert numbers(await take(events, 1)) == [n]


@pytest.mark.parametrize(
    ("channels", "error"),
    [("agent.admin.secret", Forbidden), ("Not A Channel", InvalidChannel), ([], BadRequest)],
)
async def test_what_cannot_be_followed_ends_it(
    channels: Any, error: type[Exception], hub: HubProcess
) -> None:
    token = hub.account(f"f{abs(hash(str(channels))) % 10**9}")
    async with client_of(hub, token) as client:
        with pytest.raises(error):
            async for _ in client.subscribe(channels):
                pass


async def test_a_wrong_token_ends_it(hub: HubProcess) -> None:
    async with client_of(hub, "claw_wrong") as client:
        with pytest.raises(Unauthenticated):
            async for _ in client.subscribe("public.x"):
                pass


async def test_a_revoked_token_and_a_lost_right_end_it(hub: HubProcess) -> None:
    async with client_of(hub) as admin:
        await admin.create_account("ending")
        first, second = [await admin.create_token("ending") for _ in range(2)]
        await admin.grant("ending", "news")
        async with client_of(hub, first.token) as one, client_of(hub, second.token) as two:
            events = one.subscribe("public.ending")
            news = two.subscribe("agent.admin.news")
            async with events, news:
                await admin.revoke_token(first.id)
                await admin.revoke("ending", "news")
                with pytest.raises((Forbidden, Unauthenticated)):
                    await take(events, 1)
                with pytest.raises(Forbidden):
                    await take(news, 1)
                with pytest.raises(Forbidden):
                    await take(news, 1)  # it stays ended


async def test_a_hub_that_is_not_there_is_waited_for_or_told(tmp_path: Path) -> None:
    client = Client("http://127.0.0.1:9", backoff=lambda: Backoff(first_s=0.01, most_s=0.02))
    said: list[str] = []
    with pytest.raises(HubUnreachable):
        await take(client.subscribe("public.x", is_patient=False), 1)
    with pytest.raises(TimeoutError):
        await take(client.subscribe("public.x", on_state=said.append), 1, within_s=0.3)
    assert len(said) == 1  # once, not for each of the attempts


# --- a hub that dies ----------------------------------------------------------
async def test_a_killed_hub_loses_nothing_that_was_acknowledged(durable: HubProcess) -> None:
    acked: list[int] = []
    async with (
        client_of(durable) as sender,
        client_of(durable) as client,
        client.subscribe("public.killed") as events,
    ):

        async def send() -> None:
            for n in range(200):
                await sender.publish("public.killed", n)
                acked.append(n)

        sending = asyncio.create_task(send())
        got: list[Event] = []
        for at in (50, 120):
            got += await take(events, at - len(got))
            await asyncio.to_thread(durable.kill)
            await asyncio.to_thread(durable.start)
        got += await take(events, 200 - len(got))
        await sending
    assert acked == list(range(200))
    assert numbers(got) == list(range(200))
    assert [event.offset for event in got] == list(range(1, 201))


async def test_a_hub_killed_in_a_burst_stores_each_once_and_in_order(durable: HubProcess) -> None:
    async with client_of(durable) as client:
        tasks = [asyncio.create_task(client.publish("public.burst", n)) for n in range(1_500)]
        for at in (100, 600):
            await asyncio.wait([tasks[at]])
            await asyncio.to_thread(durable.kill)
            await asyncio.to_thread(durable.start)
        published = await asyncio.gather(*tasks)
    assert [one.offset for one in published] == list(range(1, 1_501))
    assert await stored(durable, "public.burst") == list(range(1_500))


async def test_what_was_lost_is_told_as_a_gap(tmp_path: Path) -> None:
    """The memory engine forgets at its end; who resumes hears of it."""
    gaps: list[Gap] = []
    with running_hub(Program(tmp_path / "home"), tmp_path / "d", "--engine", "memory") as volatile:
        async with (
            client_of(volatile) as client,
            client.subscribe("public.gone", on_gap=gaps.append) as events,
        ):
            for n in range(3):
                await client.publish("public.gone", n)
            assert numbers(await take(events, 3)) == [0, 1, 2]
            await asyncio.to_thread(volatile.stop)
            await asyncio.to_thread(volatile.start)
            await client.publish("public.gone", "new")
            assert numbers(await take(events, 1)) == ["new"]
    assert [(gap.channel, gap.reason) for gap in gaps] == [("public.gone", "epoch")]


# --- consumers ----------------------------------------------------------------
async def test_a_consumer_goes_on_where_it_acknowledged(hub: HubProcess) -> None:
    async with client_of(hub) as client:
        for n in range(5):
            await client.publish("public.jobs", n)
        consumer = client.consumer("jobs", "public.jobs", since="all", ack_wait_s=1.0)
        seen = []
        async with asyncio.timeout(10), consumer:
            async for received in consumer:
                seen.append(data_of(received.event))
                assert await received.ack()
                if len(seen) == 3:
                    break
        again = client.consumer("jobs", "public.jobs", since="all", ack_wait_s=1.0)
        async with asyncio.timeout(10), again:
            for _ in range(2):
                received = await anext(again)
                seen.append(data_of(received.event))
                await received.ack()
    assert seen == [0, 1, 2, 3, 4]


async def test_what_is_given_back_comes_again_with_a_higher_attempt(hub: HubProcess) -> None:
    async with client_of(hub) as client, asyncio.timeout(10):
        await client.publish("public.nack", 1)
        async with client.consumer("nack", "public.nack", since="all") as consumer:
            first = await anext(consumer)
            assert await first.nack()
            second = await anext(consumer)
            assert (second.event.id, second.attempt) == (first.event.id, first.attempt + 1)
            assert not await first.ack()  # that delivery is over
            assert await second.ack()


async def test_what_is_not_acknowledged_comes_again(hub: HubProcess) -> None:
    async with client_of(hub) as client, asyncio.timeout(15):
        await client.publish("public.expire", 1)
        async with client.consumer("expire", "public.expire", since="all", ack_wait_s=1) as jobs:
            first = await anext(jobs)
            second = await anext(jobs)
            assert second.attempt == first.attempt + 1
            await second.ack()


async def test_a_consumers_name_means_one_thing(hub: HubProcess) -> None:
    async with client_of(hub) as client:
        await client.consumer("one", "public.one").create()
        with pytest.raises(Conflict):
            await client.consumer("one", "public.two").create()
        assert "one" in [info.name for info in await client.consumers()]
        await client.consumer("one", "public.one").delete()
        assert "one" not in [info.name for info in await client.consumers()]


async def test_a_consumer_survives_a_killed_hub(durable: HubProcess) -> None:
    async with client_of(durable) as client, asyncio.timeout(40):
        for n in range(30):
            await client.publish("public.tough", n)
        seen: list[int] = []
        async with client.consumer("tough", "public.tough", since="all", batch=5) as consumer:
            async for received in consumer:
                seen.append(data_of(received.event))
                await received.ack()
                if len(seen) == 12:
                    await asyncio.to_thread(durable.kill)
                    await asyncio.to_thread(durable.start)
                if set(seen) == set(range(30)):
                    break
    # At least once, and in order but for what the crash repeats.
    assert list(dict.fromkeys(seen)) == list(range(30))


# --- plain calls --------------------------------------------------------------
async def test_every_plain_call_answers(hub: HubProcess) -> None:
    async with client_of(hub) as client:
        me = await client.me()
        assert me.account is not None
        assert me.account.id == "admin"
        account = await client.create_account("plain", handle="P", kind="service")
        assert (await client.account("plain")) == account
        assert (await client.update_account("plain", handle="Q")).handle == "Q"
        assert "plain" in [one.id for one in await client.accounts()]
        made = await client.create_token("plain", name="n", scopes=["events:read"])
        assert made.id in [one.id for one in await client.tokens("plain")]
        await client.revoke_token(made.id)
        assert await client.tokens("plain") == []
        grant = await client.grant("plain", "shared", ["read"])
        assert grant in await client.grants(account="plain")
        await client.revoke("plain", "shared", ["read"])
        assert await client.grants(account="plain") == []
        assert not (await client.unlock("shared")).locked
        assert (await client.lock("shared")).locked
        await client.block("plain")
        assert await client.blocks() == ["plain"]
        await client.unblock("plain")
        assert await client.blocks() == []
        published = await client.publish("public.plain", [1], type="x.test", correlation_id="c")
        event = await client.event(published.id)
        assert (event.type, event.correlation_id, data_of(event)) == ("x.test", "c", [1])
        assert "public.plain" in [one.name for one in await client.channels("public.*")]
        async with client.subscribe("public.plain"):
            assert "admin" in [one.account for one in await client.presence()]
        await client.delete_account("plain")
        with pytest.raises(NotFound):
            await client.account("plain")
