"""Client.wakeable, reply and receipt against a hub in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from clawnet.client import Client
from clawnet.client.backoff import Backoff
from clawnet.core.callers import HUB
from clawnet.core.calls.tokens import RevokeToken
from clawnet.core.errors import BadRequest, NotFound, Unauthenticated
from clawnet.core.events import Event
from clawnet.testing.clocks import FakeClock
from clawnet.testing.running import Running, running_hub

INBOX = "agent.bob.inbox"


@pytest.fixture
async def hub() -> AsyncIterator[Running]:
    async with running_hub() as running:
        yield running


async def client(hub: Running, account: str) -> Client:
    return Client(
        hub.url, await hub.token(account), backoff=lambda: Backoff(first_s=0.02, most_s=0.1)
    )


async def ignore(event: Event) -> None:
    """Nothing to do."""


async def test_a_lease_out_of_bounds_is_refused_at_once(hub: Running) -> None:
    async with await client(hub, "bob") as bob:
        with pytest.raises(BadRequest):
            async with bob.wakeable(ignore, ttl_s=1):
                pass


async def test_others_see_no_receipt(hub: Running) -> None:
    async with (
        await client(hub, "alice") as alice,
        await client(hub, "bob") as bob,
        await client(hub, "cleo") as cleo,
    ):
        assert bob.url
        sent = await alice.publish(INBOX, 1)
        with pytest.raises(NotFound):
            await cleo.receipt(sent.id)
        assert not (await alice.receipt(sent.id)).reached


async def test_a_message_is_handled_answered_and_acknowledged() -> None:
    seen: asyncio.Queue[Event] = asyncio.Queue()
    clock = FakeClock()
    async with (
        running_hub(clock=clock) as hub,
        await client(hub, "alice") as alice,
        await client(hub, "bob") as bob,
    ):

        async def on_message(event: Event) -> None:
            await bob.reply(event, {"yes": True})
            seen.put_nowait(event)

        async with bob.wakeable(on_message, how="test"):
            asked = await alice.publish(INBOX, "?", reply_within_s=60)
            receipt = await alice.receipt(asked.id, until="acted", wait_s=20)
            assert receipt.reached, receipt.reason
            event = await asyncio.wait_for(seen.get(), 20)
            assert (event.id, event.correlation_id) == (asked.id, asked.correlation_id)
            # Acknowledging comes behind the answer.
            while (await bob.inbox(wait_s=0)).unread:
                await bob.presence()
        [answer] = (await alice.inbox(wait_s=20)).messages
        assert answer.event.causation_id == asked.id
        assert answer.event.correlation_id == asked.correlation_id
        assert await hub.hub.storage.read(lambda engine: engine.scan("expectation")) == []
        clock.advance(200)
        later = await alice.receipt((await alice.publish(INBOX, 2)).id)
        assert later.reason is not None
        assert "the last one ended 3 minutes ago" in later.reason


async def test_a_failure_is_heard_of_and_leaves_the_message(hub: Running) -> None:
    failures: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def fail(event: Event) -> None:
        raise ValueError("no")

    async with await client(hub, "alice") as alice, await client(hub, "bob") as bob:
        async with bob.wakeable(
            fail, on_failure=lambda event, error: failures.put_nowait((event.id, str(error)))
        ):
            sent = await alice.publish(INBOX, 1)
            assert await asyncio.wait_for(failures.get(), 20) == (sent.id, "no")
            # The next is handled all the same.
            more = await alice.publish(INBOX, 2)
            assert await asyncio.wait_for(failures.get(), 20) == (more.id, "no")
        receipt = await alice.receipt(sent.id, until="acted")
        assert (receipt.woken is not None, receipt.acted) == (True, None)
        assert (await bob.inbox()).unread == 2


async def test_what_is_being_handled_at_the_end_comes_again(hub: Running) -> None:
    began: asyncio.Queue[str] = asyncio.Queue()

    async def hang(event: Event) -> None:
        began.put_nowait(event.id)
        await asyncio.Event().wait()

    async with await client(hub, "alice") as alice, await client(hub, "bob") as bob:
        async with bob.wakeable(hang):
            sent = await alice.publish(INBOX, 1)
            assert await asyncio.wait_for(began.get(), 20) == sent.id
        async with bob.wakeable(hang):
            assert await asyncio.wait_for(began.get(), 20) == sent.id


async def test_a_revoked_token_ends_it(hub: Running) -> None:
    made = await hub.new_token("bob")
    async with Client(hub.url, made.token) as bob:
        with pytest.raises(Unauthenticated):
            async with bob.wakeable(ignore) as wakeable:
                await hub.hub.call(RevokeToken(id=made.id), caller=HUB)
                async with asyncio.timeout(30):
                    await wakeable.wait()
