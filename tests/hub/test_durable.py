"""The hub on the durable engine: real threads, and what is left after a kill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.accounts import CreateAccount, DeleteAccount, UpdateAccount
from clawnet.core.calls.consumers import Ack, CreateConsumer, DeliveryName, Fetch
from clawnet.core.calls.grants import Grant, Revoke
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.calls.tokens import RevokeToken
from clawnet.core.cursors import AfterOffset, Cursor
from clawnet.core.errors import Conflict, DedupeConflict, Forbidden, Unauthenticated
from clawnet.engines.sqlite.engine import SqliteEngine
from clawnet.hub.lanes import Lane
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.testing.clocks import FakeRandomness
from clawnet.testing.hubs import FaultyEngine, HubRig, abandon, event, make_hub, session_of
from clawnet.testing.loops import LoopClock
from clawnet.testing.outlets import RecordingOutlet

UNLIMITED = HubSettings(limits=LimitSettings(enabled=False))


@asynccontextmanager
async def started(folder: Path, run: int = 1, *, is_killed: bool = False) -> AsyncIterator[HubRig]:
    """One run of a hub on a folder; a killed one stores nothing at its end."""
    clock = LoopClock()
    engine = SqliteEngine(
        folder, clock=clock, randomness=FakeRandomness(f"engine {run}"), ballast_bytes=4096
    )
    faulty = FaultyEngine(engine)
    hub = make_hub(faulty, clock, UNLIMITED, seed=f"hub {run}")
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


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        # Threads do the work, and none of them says when it is so.
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
async def test_what_was_acknowledged_is_there_after_a_restart(
    tmp_path: Path, is_killed: bool
) -> None:
    async with started(tmp_path, 1, is_killed=is_killed) as rig:
        ada, bob = await rig.account("ada"), await rig.account("bob")
        tokens = [await rig.token("ada"), await rig.token("bob")]
        gone = await rig.token("bob")
        done = [await rig.publish(ada, "public.a", n, dedupe_key=f"k{n}") for n in range(20)]
        await rig.publish(ada, "agent.ada.x", 1)
        await rig.hub.call(Grant(account="bob", channel="x"), caller=ada)
        await rig.hub.call(Revoke(account="bob", channel="x"), caller=ada)
        revoked = str(rig.hub.authenticate(gone).token_id)
        await rig.hub.call(RevokeToken(id=revoked), caller=bob)
        epoch = rig.hub.log_epoch
    async with started(tmp_path, 2) as rig:
        ada, bob = (rig.hub.authenticate(token) for token in tokens)
        assert rig.hub.log_epoch == epoch
        with pytest.raises(Unauthenticated):
            rig.hub.authenticate(gone)
        with pytest.raises(Forbidden):
            await rig.hub.call(ReadHistory(channel="agent.ada.x"), caller=bob)
        again = await rig.publish(ada, "public.a", 7, dedupe_key="k7")
        assert again.deduped and again.id == done[7].id
        with pytest.raises(DedupeConflict):
            await rig.publish(ada, "public.a", "other", dedupe_key="k7")
        outlet = rig.connect(bob, "public.*", since=Cursor(epoch, done[9].seq))
        await until(lambda: len(outlet.frames) == 10)
        new = await rig.publish(ada, "public.a", 20)
        assert (new.offset, new.epoch) == (21, done[0].epoch)
        await until(lambda: len(outlet.frames) == 11)
        assert outlet.data == list(range(10, 21)) and outlet.gaps == []


async def test_a_consumer_goes_on_with_its_attempts_after_a_kill(tmp_path: Path) -> None:
    async with started(tmp_path, 1, is_killed=True) as rig:
        ada = await rig.account("ada")
        token = await rig.token("ada")
        create = CreateConsumer(name="c", channels=["public.>"], since="all", ack_wait_s=5)
        await rig.hub.call(create, caller=ada)
        await rig.fill(ada, "public.a", 3)
        first = await rig.hub.call(Fetch(name="c"), caller=ada)
        named = [DeliveryName(seq=first.deliveries[1].seq, attempt=1)]
        await rig.hub.call(Ack(name="c", deliveries=named), caller=ada)
        rig.clock.advance(6)
        again = await rig.hub.call(Fetch(name="c"), caller=ada)
        assert [d.attempt for d in again.deliveries] == [2, 2]
    async with started(tmp_path, 2) as rig:
        fetched = await rig.hub.call(Fetch(name="c"), caller=rig.hub.authenticate(token))
        seqs = [d.seq for d in first.deliveries]
        assert [(d.seq, d.attempt) for d in fetched.deliveries] == [(seqs[0], 3), (seqs[2], 3)]


async def flood(rig: HubRig, caller: Caller, stop: asyncio.Event, *channels: str) -> int:
    """Publish on all channels in every turn until told to stop; how many on each."""
    n = 0
    lane = Lane()
    answered = 0

    def reply(_: Any) -> None:
        nonlocal answered
        answered += 1

    while not stop.is_set():
        for channel in channels:
            rig.hub.publish(caller, event(channel, n), lane=lane, reply=reply)
        n += 1
        await asyncio.sleep(0)
    await until(lambda: answered == n * len(channels))
    return n


@pytest.mark.parametrize(
    "channels", [("public.a",), ("public.a", "public.b"), ("public.*",)], ids=str
)
async def test_catching_up_beside_a_flood_loses_and_doubles_nothing(
    tmp_path: Path, channels: tuple[str, ...]
) -> None:
    async with started(tmp_path) as rig:
        ada = await rig.account("ada")
        await rig.fill(ada, "public.a", 50)
        stop = asyncio.Event()
        flooding = asyncio.ensure_future(flood(rig, ada, stop, "public.a", "public.b"))
        outlets = [rig.connect(ada, *channels, since=AfterOffset(0)) for _ in range(3)]
        slow = rig.connect(ada, *channels, since=AfterOffset(0), high_water=100)
        outlets.append(slow)
        for _ in range(20):
            await until(lambda: session_of(slow).is_paused)
            slow.drain()
        stop.set()
        n = await flooding
        slow.high_water = None
        slow.drain()
        names = ["public.a"] if channels == ("public.a",) else ["public.a", "public.b"]
        for outlet in outlets:
            await until(lambda outlet=outlet: outlet.offsets("public.a")[-1:] == [50 + n])  # type: ignore[misc]
            is_whole(outlet, rig, names)


def is_whole(outlet: RecordingOutlet, rig: HubRig, names: list[str]) -> None:
    for name in names:
        last = rig.engine.channel("main", name).last
        offsets = outlet.offsets(name)
        # The last events may still be on their way; none before them is missing or doubled.
        assert offsets == list(range(1, len(offsets) + 1)) and len(offsets) >= last - 1
    assert outlet.seqs == sorted(set(outlet.seqs))
    assert (outlet.gaps, outlet.endings, outlet.end) == ([], [], None)


async def test_a_revoke_beside_a_flood_is_the_end_of_it(tmp_path: Path) -> None:
    async with started(tmp_path) as rig:
        ada, bob = await rig.account("ada"), await rig.account("bob")
        await rig.hub.call(Grant(account="bob", channel="x"), caller=ada)
        stop = asyncio.Event()
        flooding = asyncio.ensure_future(flood(rig, ada, stop, "agent.ada.x"))
        outlets = [rig.connect(bob, "agent.ada.x"), rig.connect(bob, "agent.*.x")]
        outlets += [rig.connect(bob, name, since=AfterOffset(0)) for name in ("agent.ada.x", ">")]
        await until(lambda: all(len(outlet.frames) > 20 for outlet in outlets))
        await rig.hub.call(Revoke(account="bob", channel="x"), caller=ada)
        given = [len(outlet.offsets("agent.ada.x")) for outlet in outlets]
        before = rig.engine.channel("main", "agent.ada.x").last
        await until(lambda: rig.engine.channel("main", "agent.ada.x").last > before + 200)
        stop.set()
        await flooding
        assert [len(outlet.offsets("agent.ada.x")) for outlet in outlets] == given


async def test_a_revoked_token_publishes_nothing_after_its_revoke(tmp_path: Path) -> None:
    async with started(tmp_path) as rig:
        ada, bob = await rig.account("ada"), await rig.account("bob")
        stop = asyncio.Event()
        flooding = asyncio.ensure_future(flood(rig, bob, stop, "public.a"))
        await until(lambda: rig.engine.channel("main", "public.a") is not None)
        await rig.hub.call(RevokeToken(id=str(bob.token_id)), caller=bob)
        last = rig.engine.channel("main", "public.a").last
        for _ in range(50):
            await rig.publish(ada, "public.other", 1)
        assert rig.engine.channel("main", "public.a").last == last
        stop.set()
        await flooding


async def test_names_that_were_given_or_given_up_stay_so_after_a_kill(tmp_path: Path) -> None:
    async with started(tmp_path, is_killed=True) as rig:
        boss = await rig.account("boss", role="master")
        await rig.hub.call(CreateAccount(id="zoe", handle="Zoë"), caller=boss)
        await rig.hub.call(UpdateAccount(id="zoe", handle="Zee"), caller=boss)
        await rig.hub.call(DeleteAccount(id="zoe"), caller=boss)
    async with started(tmp_path, 2) as rig:
        boss = await rig.caller("boss")
        for new, handle in (("zoe", "x"), ("x", "zoe"), ("x", "ZOË"), ("x", "Zee"), ("z0e", "x")):
            with pytest.raises(Conflict):
                await rig.hub.call(CreateAccount(id=new, handle=handle), caller=boss)
        rig.clock.advance(31 * 86_400)
        await rig.hub.call(CreateAccount(id="x", handle="Zee"), caller=boss)
