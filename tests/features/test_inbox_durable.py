"""The inbox on the durable engine: real threads, kills, and a log that was put back."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.inbox import AckInbox, InboxAcked, InboxPage, ReadInbox, ToldGap
from clawnet.core.calls.reading import Gap
from clawnet.engines.sqlite.engine import SqliteEngine
from clawnet.features import attach_all
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.testing.clocks import FakeRandomness
from clawnet.testing.hubs import FaultyEngine, HubRig, abandon, make_hub
from clawnet.testing.loops import LoopClock

BOX = "agent.ada.inbox"


@asynccontextmanager
async def started(folder: Path, run: int = 1, *, is_killed: bool = False) -> AsyncIterator[HubRig]:
    """One run of a hub on a folder; a killed one stores nothing at its end."""
    clock = LoopClock()
    engine = SqliteEngine(
        folder, clock=clock, randomness=FakeRandomness(f"engine {run}"), ballast_bytes=4096
    )
    faulty = FaultyEngine(engine)
    settings = HubSettings(limits=LimitSettings(enabled=False))
    hub = make_hub(faulty, clock, settings, seed=f"hub {run}")
    attach_all(hub)
    await hub.start()
    try:
        yield HubRig(hub, clock, faulty)
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


async def read(rig: HubRig, caller: Caller, **named: Any) -> InboxPage:
    page: InboxPage = await rig.hub.call(ReadInbox(**named), caller=caller)
    return page


async def ack(rig: HubRig, caller: Caller, *ids: str, **named: Any) -> InboxAcked:
    done: InboxAcked = await rig.hub.call(AckInbox(events=list(ids), **named), caller=caller)
    return done


def data(page: InboxPage) -> list[Any]:
    return [msgspec.json.decode(message.event)["data"] for message in page.messages]


def ids(page: InboxPage) -> list[str]:
    return [str(msgspec.json.decode(message.event)["id"]) for message in page.messages]


async def test_what_was_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    async with started(tmp_path, is_killed=True) as rig:
        ada = await rig.account("ada")
        await rig.fill(ada, BOX, 6)
        page = await read(rig, ada)
        assert (await ack(rig, ada, *ids(page)[1::2])).acked == 3
    async with started(tmp_path, 2) as rig:
        ada = await rig.caller("ada")
        assert data(await read(rig, ada)) == [1, 3, 5]
        assert (await ack(rig, ada, *ids(page))).acked == 3
    async with started(tmp_path, 3) as rig:
        assert (await read(rig, await rig.caller("ada"))).unread == 0


async def test_readers_who_acknowledge_while_others_send_miss_nothing(tmp_path: Path) -> None:
    total = 300
    async with started(tmp_path) as rig:
        ada, bob = await rig.account("ada"), await rig.account("bob")
        seen: list[set[int]] = [set(), set()]

        async def send(start: int) -> None:
            for n in range(start, total, 3):
                await rig.publish(bob, BOX, n)

        async def consume(mine: set[int], **named: Any) -> None:
            while len(seen[0] | seen[1]) < total:
                page = await read(rig, ada, wait_s=0.2, **named)
                mine.update(data(page))
                if page.messages:
                    await ack(rig, ada, *ids(page))

        async with asyncio.timeout(50):
            await asyncio.gather(
                *(send(start) for start in range(3)),
                consume(seen[0], limit=7),
                consume(seen[1], budget_tokens=900),
            )
        assert seen[0] | seen[1] == set(range(total))
        page = await read(rig, ada)
        assert (page.unread, page.messages, page.gaps) == (0, [], [])


async def test_a_log_that_was_put_back_leaves_nothing_new_read(tmp_path: Path) -> None:
    folder, copy = tmp_path / "hub", tmp_path / "copy"
    folder.mkdir()
    async with started(folder) as rig:
        ada = await rig.account("ada")
        await rig.fill(ada, BOX, 6)
        await ack(rig, ada, *ids(await read(rig, ada))[:3])
    shutil.copytree(folder, copy)
    async with started(folder, 2) as rig:
        ada = await rig.caller("ada")
        await rig.fill(ada, BOX, 3)
        later = await read(rig, ada)
        await ack(rig, ada, *ids(later))
    high = (folder / "high-water").read_bytes()
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    (folder / "high-water").write_bytes(high)
    async with started(folder, 3) as rig:
        ada = await rig.caller("ada")
        assert len(rig.hub.log_epochs) == 2, "the log was not put back"
        await rig.fill(ada, BOX, 3)
        page = await read(rig, ada)
        # Offsets 4 to 6 were acknowledged only in what went away; 7 to 9 are other events now.
        assert data(page) == [4, 5, 6, 1, 2, 3]
        # Ids of the history that went away name none of the new events.
        done = await ack(rig, ada, *ids(later)[3:])
        assert (done.acked, len(done.unknown)) == (0, 3)
        # A cursor of it stands for no more than what is common to both.
        assert (await ack(rig, ada, through=later.cursor)).acked == 3
        assert data(await read(rig, ada)) == [1, 2, 3]


async def test_what_retention_took_is_told_in_both_directions(tmp_path: Path) -> None:
    async with started(tmp_path) as rig:
        ada = await rig.account("ada")
        await rig.fill(ada, BOX, 12)
        given = ids(await read(rig, ada))
        await ack(rig, ada, given[1], given[9])
        await rig.hub.committer.run(lambda: rig.engine.trim_channel("main", BOX, keep=4))
        told = [
            Gap(channel=BOX, first=1, last=1, oldest=2),
            Gap(channel=BOX, first=3, last=8, oldest=9),
        ]
        for named in ({}, {"budget_tokens": 10_000}, {"limit": 1}):
            page = await read(rig, ada, **named)
            assert (page.gaps, page.unread) == (told, 3)
        assert data(await read(rig, ada)) == [9, 11, 12]
        await ack(rig, ada, gaps=[ToldGap(channel=BOX, first=1, last=12)])
        page = await read(rig, ada)
        assert (page.gaps, data(page)) == ([], [9, 11, 12])
