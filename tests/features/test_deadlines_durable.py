"""Deadlines and receipts on the durable engine: what a kill and the next start leave of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clawnet.core.calls.publishing import PublishBatch
from clawnet.core.calls.receipts import ConfirmWoken, ReadReceipt
from clawnet.core.events import Expect
from clawnet.engines.sqlite.engine import SqliteEngine
from clawnet.features import attach_all
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.testing.clocks import FakeRandomness
from clawnet.testing.hubs import FaultyEngine, HubRig, abandon, event, make_hub
from clawnet.testing.loops import LoopClock

UNLIMITED = HubSettings(limits=LimitSettings(enabled=False))
INBOX = "agent.bob.inbox"
LONG = Expect(reply_within_s=600)


@asynccontextmanager
async def started(
    folder: Path, run: int = 1, *, is_killed: bool = False, later_s: float = 0.0
) -> AsyncIterator[HubRig]:
    """One run of a hub on a folder, `later_s` after the first."""
    clock = LoopClock()
    clock.jump(later_s)
    engine = SqliteEngine(
        folder, clock=clock, randomness=FakeRandomness(f"engine {run}"), ballast_bytes=4096
    )
    hub = make_hub(FaultyEngine(engine), clock, UNLIMITED, seed=f"hub {run}")
    attach_all(hub)
    await hub.start()
    try:
        yield HubRig(hub, clock, FaultyEngine(engine))
    finally:
        if is_killed:
            await abandon(hub)
            await hub.committer.close()
            hub.storage.close()
        else:
            await hub.stop_accepting()
            await hub.drain()
            await hub.close()
        await asyncio.to_thread(engine.close)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        # Threads do the work, and none of them says when it is so.
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0)


def open_count(rig: HubRig) -> int:
    return len(rig.engine.scan("expectation"))


@pytest.mark.parametrize("is_killed", [True, False])
async def test_what_is_open_is_found_again_and_ended_by_an_answer(
    tmp_path: Path, is_killed: bool
) -> None:
    async with started(tmp_path, is_killed=is_killed) as rig:
        ada = await rig.account("ada")
        await rig.account("bob")
        events = [event(INBOX, n, expect=LONG) for n in range(250)]
        asked = (await rig.hub.call(PublishBatch(events=events), caller=ada)).events
        keyed = await rig.publish(ada, INBOX, "k", expect=LONG, dedupe_key="k")
    async with started(tmp_path, 2) as rig:
        ada, bob = await rig.caller("ada"), await rig.caller("bob")
        assert open_count(rig) == 251
        replies = [event("agent.ada.inbox", "!", causation_id=one.id) for one in asked[:249]]
        await rig.hub.call(PublishBatch(events=replies), caller=bob)
        again = await rig.publish(ada, INBOX, "k", expect=LONG, dedupe_key="k")
        assert again.deduped
        assert again.correlation_id == keyed.correlation_id
        await rig.publish(bob, "agent.ada.inbox", "!", correlation_id=again.correlation_id)
        assert open_count(rig) == 1


async def test_what_is_due_at_the_start_is_told_once(tmp_path: Path) -> None:
    async with started(tmp_path, is_killed=True) as rig:
        ada = await rig.account("ada")
        await rig.account("bob")
        sent = await rig.publish(ada, INBOX, 1, expect=Expect(reply_within_s=20))
    for run in (2, 3):
        async with started(tmp_path, run, is_killed=True, later_s=30) as rig:
            await until(lambda: open_count(rig) == 0)
            # The writer's thread may be between the state and the heads of one commit.
            await until(lambda: rig.engine.channel("main", "agent.ada.inbox") is not None)
            head = rig.engine.channel("main", "agent.ada.inbox")
            assert head.last == 1
            body = await rig.hub.storage.read(lambda log: log.get("main", head.last_seq))  # noqa: B023
            assert body is not None
            assert f'"causation_id":"{sent.id}"'.encode() in body


@pytest.mark.parametrize("is_killed", [True, False])
async def test_receipts_are_there_at_the_next_start(tmp_path: Path, is_killed: bool) -> None:
    async with started(tmp_path, is_killed=is_killed) as rig:
        ada, bob = await rig.account("ada"), await rig.account("bob")
        sent = await rig.publish(ada, INBOX, 1)
        await rig.hub.call(ConfirmWoken(events=[sent.id]), caller=bob)
        if is_killed:
            await until(lambda: bool(rig.engine.scan("receipt")))
    async with started(tmp_path, 2) as rig:
        receipt = await rig.hub.call(ReadReceipt(event_id=sent.id), caller=await rig.caller("ada"))
        assert receipt.reached
