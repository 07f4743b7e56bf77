"""A hub that began empty is given back its log by a warden, and by nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.grants import Grant, Revoke
from clawnet.core.calls.marks import OpenMarks
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.calls.restoring import ReadRestore, RestoreDone, RestoreEvents
from clawnet.core.errors import BadRequest, Conflict, Forbidden, InvalidType, Unavailable
from clawnet.core.events import Event
from clawnet.core.marks import Marks
from clawnet.core.units import Unit
from clawnet.engines.memory import MemoryEngine
from clawnet.features import FeatureSettings, attach_all
from clawnet.features.warden.settings import WardenSettings
from clawnet.hub.vault import put
from clawnet.testing.clocks import FakeRandomness
from clawnet.testing.hubs import FaultyEngine, HubRig, make_hub
from clawnet.testing.loops import LoopClock


class Emptied:
    """A hub whose log is gone at its second start, and whose state is not."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.engine = FaultyEngine(self.new("first"))
        self.rig: HubRig

    starts = 0

    def new(self, seed: str) -> MemoryEngine:
        return MemoryEngine(clock=self.clock, randomness=FakeRandomness(seed))

    async def start(self, seed: str, *, restores: bool = True) -> HubRig:
        hub = make_hub(self.engine, self.clock, seed=seed)
        settings = FeatureSettings(
            warden=WardenSettings(restores=restores, restore_wait_s=10.0), has_timers=False
        )
        attach_all(hub, settings)
        await hub.start()
        self.rig = HubRig(hub, self.clock, self.engine)
        return self.rig

    async def kept(self, *channels: str) -> list[Event]:
        """What a warden has seen on these channels, in order of the log."""
        chunk = await self.rig.hub.storage.read(
            lambda log: log.read_log("main", frozenset(channels), after_seq=0)
        )
        return [msgspec.json.decode(line, type=Event) for line in chunk.body.split(b"\n") if line]

    async def empty(self, *, restores: bool = True, is_full: bool = False) -> HubRig:
        """Stop, lose the log, start."""
        await self.rig.hub.close()
        kinds = ("account", "token", "grant", "marks", "restored")
        entries = [entry for kind in kinds for entry in self.engine.scan(kind)]
        self.starts += 1
        self.engine = FaultyEngine(self.new(f"log {self.starts}"))
        put_all(self.engine, entries)
        self.engine.is_full = is_full
        return await self.start(f"hub {self.starts}", restores=restores)

    async def hand_back(self, events: list[Event], eye: Caller) -> None:
        eye = await again(self.rig, eye)
        await self.rig.hub.call(RestoreEvents(events=events), caller=eye)
        await self.rig.hub.call(RestoreDone(), caller=eye)


def put_all(engine: Any, entries: list[Any]) -> None:
    from clawnet.core.units import Put, Unit

    engine.commit([Unit(changes=tuple(Put(e.key, e.value) for e in entries))])


@asynccontextmanager
async def emptied() -> AsyncIterator[Emptied]:
    made = Emptied()
    await made.start("hub")
    try:
        yield made
    finally:
        await made.rig.hub.close()


async def again(rig: HubRig, caller: Caller) -> Caller:
    """The same account at the hub that runs now."""
    found = rig.hub.directory.account("main", caller.account or "")
    assert found is not None
    return rig.hub.directory.caller(caller.token_id or "") or caller


async def texts(rig: HubRig, caller: Caller, channel: str) -> list[Any]:
    page = await rig.hub.call(ReadHistory(channel=channel), caller=caller)
    lines = [msgspec.json.decode(line) for line in page.body.split(b"\n") if line]
    return [line["data"] for line in lines]


async def test_what_was_said_is_there_again_with_its_ids_times_and_senders() -> None:
    async with emptied() as made:
        rig = made.rig
        ada, eye = await rig.account("ada"), await rig.account("eye", role="warden")
        first = await rig.publish(ada, "global", {"text": "1"}, dedupe_key="k")
        await rig.publish(ada, "global", {"text": "2"})
        kept = await made.kept("public.lobby")
        rig = await made.empty()
        ada, eye = await again(rig, ada), await again(rig, eye)
        assert rig.hub.state == "restoring"
        with pytest.raises(Unavailable):
            await rig.publish(ada, "global", 3)
        with pytest.raises(Unavailable):
            await rig.hub.call(Grant(account="eye", channel="agent.ada.x"), caller=ada)
        assert await texts(rig, ada, "global") == []
        for _ in range(2):
            said = await rig.hub.call(RestoreEvents(events=kept), caller=eye)
            assert (said.restoring, said.restored) == (True, 2)
        assert not (await rig.hub.call(RestoreDone(), caller=eye)).restoring
        assert [event.id for event in await made.kept("public.lobby")] == [e.id for e in kept]
        assert [event.ts for event in await made.kept("public.lobby")] == [e.ts for e in kept]
        assert (await made.kept("public.lobby"))[0].actor.id == "ada"
        repeated = await rig.publish(ada, "global", {"text": "1"}, dedupe_key="k")
        assert (repeated.deduped, repeated.id) == (True, first.id)
        await rig.publish(ada, "global", {"text": "3"})
        assert await texts(rig, ada, "global") == [{"text": "1"}, {"text": "2"}, {"text": "3"}]
        with pytest.raises(Conflict):
            await rig.hub.call(RestoreEvents(events=kept), caller=eye)


async def test_without_a_warden_the_hub_goes_on_when_the_wait_is_over() -> None:
    async with emptied() as made:
        ada = await made.rig.account("ada")
        rig = await made.empty()
        ada = await again(rig, ada)
        with pytest.raises(Unavailable):
            await rig.publish(ada, "global", 1)
        await made.clock.pass_time(11.0)
        await rig.publish(ada, "global", 1)


async def test_nobody_but_a_warden_hands_anything_back_and_none_into_another_world() -> None:
    async with emptied() as made:
        rig = made.rig
        ada, boss = await rig.account("ada"), await rig.account("boss", role="master")
        eye = await rig.account("eye", role="warden")
        await rig.publish(ada, "global", 1)
        kept = await made.kept("public.lobby")
        rig = await made.empty()
        for caller in (ada, boss):
            for call in (ReadRestore(), RestoreEvents(events=kept), RestoreDone()):
                with pytest.raises(Forbidden):
                    await rig.hub.call(call, caller=await again(rig, caller))
        for wrong in (
            {"world": "other"}, {"id": "evt_1"}, {"ts": "never"}, {"type": "no.such"},
            {"source": "x"},
        ):  # fmt: skip
            bad = msgspec.structs.replace(kept[0], **wrong)
            with pytest.raises((BadRequest, InvalidType)) as refused:
                await rig.hub.call(RestoreEvents(events=[bad]), caller=await again(rig, eye))
            assert refused.value.facts["index"] == 0
        assert await made.kept("public.lobby") == []


async def test_a_revoke_is_taken_while_the_hub_waits() -> None:
    async with emptied() as made:
        rig = made.rig
        ada = await rig.account("ada")
        await rig.account("bob")
        await rig.hub.call(Grant(account="bob", channel="agent.ada.x"), caller=ada)
        rig = await made.empty()
        call = Revoke(account="bob", channel="agent.ada.x")
        assert (await rig.hub.call(call, caller=await again(rig, ada))).changed
        assert rig.hub.directory.grant("main", "bob", "agent.ada.x") is None


@pytest.mark.parametrize(("lost", "seen"), [(0, [3, 4, 5]), (1, [3, 4, 5]), (None, [3, 4, 5])])
async def test_what_was_hidden_from_who_joined_later_stays_hidden(
    lost: int | None, seen: list[int]
) -> None:
    async with emptied() as made:
        rig = made.rig
        ada, bob = await rig.account("ada"), await rig.account("bob")
        eye = await rig.account("eye", role="warden")
        await rig.fill(ada, "agent.ada.x", 5)
        grant = Grant(account="bob", channel="agent.ada.x", from_offset=3)
        await rig.hub.call(grant, caller=ada)
        kept = await made.kept("agent.ada.x")
        rig = await made.empty()
        bob, eye = await again(rig, bob), await again(rig, eye)
        if lost is None:
            kept = [*kept[:1], *kept[2:]]
        else:
            kept = kept[lost:]
        await rig.hub.call(RestoreEvents(events=kept), caller=eye)
        await rig.hub.call(RestoreDone(), caller=eye)
        assert await texts(rig, bob, "agent.ada.x") == seen
        await rig.publish(await again(rig, ada), "agent.ada.x", 6)
        assert await texts(rig, bob, "agent.ada.x") == [*seen, 6]


async def test_a_grant_from_an_offset_of_a_lost_log_opens_what_comes() -> None:
    async with emptied() as made:
        rig = made.rig
        ada, bob = await rig.account("ada"), await rig.account("bob")
        await rig.fill(ada, "agent.ada.x", 5)
        grant = Grant(account="bob", channel="agent.ada.x", from_offset=6)
        await rig.hub.call(grant, caller=ada)
        rig = await made.empty(restores=False)
        await rig.publish(await again(rig, ada), "agent.ada.x", "new")
        assert await texts(rig, await again(rig, bob), "agent.ada.x") == ["new"]


async def test_what_was_said_in_an_older_log_stays_hidden_from_who_joined_in_the_last_one() -> None:
    async with emptied() as made:
        rig = made.rig
        ada = await rig.account("ada")
        await rig.account("bob")
        eye = await rig.account("eye", role="warden")
        await rig.fill(ada, "agent.ada.x", 9)
        # Of nine the newest five were kept, so the last one was at 5 in the second log.
        kept = (await made.kept("agent.ada.x"))[4:]
        await made.empty()
        await made.hand_back(kept, eye)
        rig = made.rig
        grant = Grant(account="bob", channel="agent.ada.x", from_offset=6)
        await rig.hub.call(grant, caller=await again(rig, ada))
        await made.empty()
        await made.hand_back(kept, eye)
        rig = made.rig
        bob = await rig.caller("bob")
        assert await texts(rig, bob, "agent.ada.x") == []
        await rig.publish(await again(rig, ada), "agent.ada.x", "new")
        assert await texts(rig, bob, "agent.ada.x") == ["new"]
        own = (await made.kept("agent.ada.x"))[-1:]
        await made.empty()
        await made.hand_back([*kept, *own], eye)
        assert await texts(made.rig, await made.rig.caller("bob"), "agent.ada.x") == ["new"]


async def test_a_right_revoked_while_places_move_does_not_come_back() -> None:
    async with emptied() as made:
        rig = made.rig
        ada, eye = await rig.account("ada"), await rig.account("eye", role="warden")
        await rig.account("bob")
        await rig.fill(ada, "agent.ada.x", 5)
        kept = (await made.kept("agent.ada.x"))[2:]
        grant = Grant(account="bob", channel="agent.ada.x", from_offset=5)
        await rig.hub.call(grant, caller=ada)
        rig = await made.empty()
        ada, eye = await again(rig, ada), await again(rig, eye)
        await rig.hub.call(RestoreEvents(events=kept), caller=eye)
        revoke = Revoke(account="bob", channel="agent.ada.x")
        committer, real = rig.hub.committer, rig.hub.committer.commit

        async def meanwhile(unit: Unit, *, is_restoring: bool = False) -> Any:
            committer.commit = real  # type: ignore[method-assign]
            storing = asyncio.ensure_future(real(unit, is_restoring=is_restoring))
            await asyncio.sleep(0)
            assert (await rig.hub.call(revoke, caller=ada)).changed
            return await storing

        committer.commit = meanwhile  # type: ignore[method-assign]
        await rig.hub.call(RestoreDone(), caller=eye)
        assert rig.hub.directory.grant("main", "bob", "agent.ada.x") is None
        assert made.engine.scan("grant") == []


async def test_what_was_acknowledged_stays_so_in_the_log_that_comes_behind() -> None:
    async with emptied() as made:
        rig = made.rig
        ada, eye = await rig.account("ada"), await rig.account("eye", role="warden")

        async def marks() -> Marks:
            found: Marks = await made.rig.hub.call(OpenMarks(account="ada"), caller=HUB)
            return found

        await rig.fill(ada, "public.lobby", 6)
        kept = (await made.kept("public.lobby"))[2:]
        epoch = kept[0].epoch
        (await marks()).put("public.lobby", 4, epoch=epoch)
        await made.empty()
        await made.hand_back(kept, eye)
        # 3 to 6 stand at 1 to 4 now.
        assert (await marks()).floor("public.lobby") == 2
        head = made.rig.hub.storage.engine.channel("main", "public.lobby")
        assert head is not None
        assert (await marks()).by_channel["public.lobby"].epoch == head.epoch != epoch
        await made.empty()
        await made.hand_back(kept[1:], eye)
        assert (await marks()).floor("public.lobby") == 1


async def test_one_worlds_warden_does_not_end_the_wait_for_anothers() -> None:
    async with emptied() as made:
        rig = made.rig
        ada, eye = await rig.account("ada"), await rig.account("eye", role="warden")
        await rig.publish(ada, "global", 1)
        kept = await made.kept("public.lobby")
        account = rig.hub.directory.account("main", "eye")
        assert account is not None
        other = msgspec.structs.replace(account, world="two")
        await rig.hub.committer.commit(Unit(changes=(put("account", "two/eye", other),)))
        rig = await made.empty()
        theirs = Caller(account="eye", world="two", role="warden", scopes=frozenset("*"))
        said = await rig.hub.call(RestoreDone(), caller=theirs)
        assert not said.restoring
        assert rig.hub.state == "restoring"
        await made.hand_back(kept, eye)
        assert rig.hub.state == "ready"
        assert len(await made.kept("public.lobby")) == 1


async def test_who_repeats_itself_holds_a_hub_up_no_longer_and_nobody_for_ever() -> None:
    async with emptied() as made:
        rig = made.rig
        ada, eye = await rig.account("ada"), await rig.account("eye", role="warden")
        await rig.publish(ada, "global", 1)
        kept = await made.kept("public.lobby")
        rig = await made.empty()
        eye = await again(rig, eye)
        for _ in range(4):
            await rig.hub.call(RestoreEvents(events=kept), caller=eye)
            await made.clock.pass_time(3.0)
        assert rig.hub.state == "ready"
        rig = await made.empty()
        eye = await again(rig, eye)
        waited = 0
        while rig.hub.state == "restoring" and waited < 400:
            # It reads what it kept, and says so.
            await rig.hub.call(RestoreEvents(events=[]), caller=eye)
            await made.clock.pass_time(5.0)
            waited += 5
        assert 60 < waited <= 310


async def test_a_full_disk_keeps_no_hub_from_starting_and_places_move_when_there_is_room() -> None:
    async with emptied() as made:
        rig = made.rig
        ada, bob = await rig.account("ada"), await rig.account("bob")
        await rig.fill(ada, "agent.ada.x", 5)
        grant = Grant(account="bob", channel="agent.ada.x", from_offset=6)
        await rig.hub.call(grant, caller=ada)
        rig = await made.empty(restores=False, is_full=True)
        made.engine.is_full = False
        await rig.publish(await again(rig, ada), "agent.ada.x", "new")
        assert await texts(rig, await again(rig, bob), "agent.ada.x") == []
        await made.clock.pass_time(6.0)
        await rig.publish(await again(rig, ada), "agent.ada.x", "newer")
        assert "newer" in await texts(rig, await again(rig, bob), "agent.ada.x")
