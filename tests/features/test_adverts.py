"""Adverts: whose they are, what they tell, how long they hold, that their schema is enforced."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from clawnet.core.buckets import Buckets
from clawnet.core.callers import Caller
from clawnet.core.calls.adverts import (
    DESCRIPTION_MAX_CHARS,
    SCHEMA_MAX_BYTES,
    SCHEMAS_PER_ACCOUNT_MAX_BYTES,
    AdvertInfo,
    Advertise,
    AdvertList,
    ListAdverts,
    ReadAdvert,
    Unadvertise,
)
from clawnet.core.calls.publishing import PublishBatch
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    Forbidden,
    NotFound,
    PayloadTooLarge,
    RateLimited,
    Refused,
    Unauthenticated,
)
from clawnet.features.adverts import AdvertsFeature, feature
from clawnet.features.adverts.schema import Schema
from clawnet.hub.settings import HubSettings
from clawnet.testing.hubs import HubRig, event

PRICES = "agent.ada.prices"
NUMBERS = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}


async def advertise(
    rig: HubRig, caller: Caller, channel: str, schema: Any = None, description: str | None = None
) -> AdvertInfo:
    raw = None if schema is None else Raw(json.dumps(schema).encode())
    call = Advertise(channel=channel, description=description, schema=raw)
    made: AdvertInfo = await rig.hub.call(call, caller=caller)
    return made


async def listed(rig: HubRig, caller: Caller, **how: Any) -> list[str]:
    found: AdvertList = await rig.hub.call(ListAdverts(**how), caller=caller)
    return [advert.channel for advert in found.adverts]


@pytest.mark.parametrize(
    "channel",
    ["agent.bob.prices", "agent.bob.public.news", "public.news", "agent.ada.inbox", "room.team"],
)
async def test_only_its_owner_advertises_a_channel(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller, channel: str
) -> None:
    for caller in (ada, master):
        with pytest.raises(Forbidden):
            await advertise(rig, caller, channel)
    assert await listed(rig, ada) == []


async def test_an_advert_needs_the_scope_to_write(rig: HubRig, ada: Caller) -> None:
    narrow = await rig.caller("ada", scopes=["events:read"])
    with pytest.raises(Forbidden):
        await advertise(rig, narrow, PRICES)


async def test_an_advert_is_read_by_every_account_of_its_world(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    made = await advertise(rig, ada, PRICES, NUMBERS, "What things cost")
    found = await rig.hub.call(ReadAdvert(channel=PRICES), caller=bob)
    assert found == made
    assert (found.agent, found.description) == ("ada", "What things cost")
    assert msgspec.json.decode(found.schema) == NUMBERS
    assert await listed(rig, bob) == [PRICES]
    elsewhere = msgspec.structs.replace(bob, world="other", token_id=None)
    assert await listed(rig, elsewhere) == []
    with pytest.raises(NotFound):
        await rig.hub.call(ReadAdvert(channel=PRICES), caller=elsewhere)


async def test_without_a_token_adverts_are_read_where_reading_is_open(
    rig: HubRig, ada: Caller
) -> None:
    await advertise(rig, ada, PRICES)
    nobody = rig.hub.anonymous(is_local=True)
    assert await listed(rig, nobody) == [PRICES]
    rig.hub.directory.anonymous_read = False
    with pytest.raises(Unauthenticated):
        await listed(rig, nobody)


async def test_adverts_are_found_by_name_and_description_in_any_case(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await advertise(rig, ada, PRICES, description="What Things cost (.*)")
    rig.clock.advance(1)
    await advertise(rig, bob, "agent.bob.public.weather", description="sun and rain")
    assert await listed(rig, ada, text="THINGS") == [PRICES]
    assert await listed(rig, ada, text="weather") == ["agent.bob.public.weather"]
    assert await listed(rig, ada, text=".*") == [PRICES], "it is no expression"
    assert await listed(rig, ada, text="agent.") == ["agent.bob.public.weather", PRICES]
    assert await listed(rig, ada, agent="bob") == ["agent.bob.public.weather"]
    few: AdvertList = await rig.hub.call(ListAdverts(limit=1), caller=ada)
    assert ([a.channel for a in few.adverts], few.total) == (["agent.bob.public.weather"], 2)


async def test_an_advert_is_told_to_the_systems_readers(
    rig: HubRig, ada: Caller, master: Caller
) -> None:
    outlet = rig.connect(master, "system.adverts")
    await advertise(rig, ada, PRICES)
    await rig.hub.call(Unadvertise(channel=PRICES), caller=ada)
    await rig.settle()
    told = [frame.event for frame in outlet.frames]
    assert [one["type"] for one in told] == ["channel.advertised", "channel.unadvertised"]
    assert {one["data"]["channel"] for one in told} == {PRICES}


async def test_what_is_too_long_is_refused_and_nothing_is_kept(rig: HubRig, ada: Caller) -> None:
    with pytest.raises(PayloadTooLarge):
        await advertise(rig, ada, PRICES, description="x" * (DESCRIPTION_MAX_CHARS + 1))
    with pytest.raises(PayloadTooLarge):
        await advertise(rig, ada, PRICES, {"title": "x" * SCHEMA_MAX_BYTES})
    with pytest.raises(BadRequest):
        await advertise(rig, ada, PRICES, description="\x1b[2J")
    assert await listed(rig, ada) == []
    await advertise(rig, ada, PRICES, description="x" * DESCRIPTION_MAX_CHARS)


async def test_an_event_that_does_not_satisfy_the_schema_is_not_stored(
    rig: HubRig, ada: Caller
) -> None:
    await advertise(rig, ada, PRICES, NUMBERS)
    first = await rig.publish(ada, PRICES, {"n": 1})
    with pytest.raises(Refused) as refused:
        await rig.publish(ada, PRICES, {"n": "1"}, dedupe_key="k")
    errors = refused.value.facts["validation_errors"]
    assert errors == [{"path": "/n", "message": '"1" is not of type "integer"'}]
    second = await rig.publish(ada, PRICES, {"n": 2}, dedupe_key="k")
    assert (first.offset, second.offset) == (1, 2), "a refused publish leaves no key"


async def test_a_batch_is_held_to_the_schema_too(rig: HubRig, ada: Caller) -> None:
    await advertise(rig, ada, PRICES, NUMBERS)
    batch = PublishBatch(events=[event(PRICES, {"n": 1}), event(PRICES, {})])
    with pytest.raises(Refused) as refused:
        await rig.hub.call(batch, caller=ada)
    assert refused.value.facts["index"] == 1
    assert rig.engine.real.channel("main", PRICES) is None


async def test_other_channels_are_not_looked_at(rig: HubRig, ada: Caller) -> None:
    await advertise(rig, ada, PRICES, NUMBERS)
    await advertise(rig, ada, "agent.ada.notes", description="no schema")
    assert rig.hub.interceptors.of(PRICES)
    assert rig.hub.interceptors.of("agent.ada.notes") == ()
    await rig.publish(ada, "agent.ada.notes", "anything")


async def test_a_new_schema_is_in_force_at_once_and_a_deleted_one_no_more(
    rig: HubRig, ada: Caller
) -> None:
    await advertise(rig, ada, PRICES, NUMBERS)
    await advertise(rig, ada, PRICES, {"type": "string"})
    await rig.publish(ada, PRICES, "text")
    with pytest.raises(Refused):
        await rig.publish(ada, PRICES, {"n": 1})
    await advertise(rig, ada, PRICES, description="schema left out")
    await rig.publish(ada, PRICES, {"n": 1})
    await advertise(rig, ada, PRICES, {"type": "string"})
    await rig.hub.call(Unadvertise(channel=PRICES), caller=ada)
    await rig.publish(ada, PRICES, {"n": 1})
    assert rig.hub.interceptors.of(PRICES) == ()


@pytest.mark.parametrize("how", ["restart", "crash"])
async def test_adverts_and_their_schemas_survive(rig: HubRig, ada: Caller, how: str) -> None:
    made = await advertise(rig, ada, PRICES, NUMBERS, "costs")
    await (rig.restart() if how == "restart" else rig.crash())
    again = await rig.caller("ada")
    assert await rig.hub.call(ReadAdvert(channel=PRICES), caller=again) == made
    with pytest.raises(Refused):
        await rig.publish(again, PRICES, {})
    await rig.publish(again, PRICES, {"n": 1})


async def test_a_deleted_advert_does_not_come_back(rig: HubRig, ada: Caller) -> None:
    await advertise(rig, ada, PRICES, NUMBERS)
    assert (await rig.hub.call(Unadvertise(channel=PRICES), caller=ada)).changed
    assert not (await rig.hub.call(Unadvertise(channel=PRICES), caller=ada)).changed
    await rig.restart()
    again = await rig.caller("ada")
    assert await listed(rig, again) == []
    await rig.publish(again, PRICES, {})


async def test_a_full_disk_leaves_the_old_schema_in_force(rig: HubRig, ada: Caller) -> None:
    await advertise(rig, ada, PRICES, NUMBERS)
    rig.engine.is_full = True
    with pytest.raises(ClawError):
        await advertise(rig, ada, PRICES, {"type": "string"})
    rig.engine.is_full = False
    await rig.publish(ada, PRICES, {"n": 1})
    with pytest.raises(Refused):
        await rig.publish(ada, PRICES, "text")


# --- compiled schemas -----------------------------------------------------------


def adverts_of(rig: HubRig) -> AdvertsFeature:
    (found,) = (one for one in rig.hub.features if isinstance(one, AdvertsFeature))
    return found


def compiled(rig: HubRig) -> list[str]:
    return [channel for _, channel in adverts_of(rig)._compiled]


class Compiling:
    """Stands before Schema.of: counts, and can hold it up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[str | bytes] = []
        self.at_once = 0
        self.most_at_once = 0
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self._of = Schema.of
        monkeypatch.setattr(Schema, "of", self.of)

    async def of(self, text: str | bytes) -> Schema:
        self.begun.append(text)
        self.entered.set()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        await self.open.wait()
        self.at_once -= 1
        return await self._of(text)


async def test_after_a_start_each_schema_is_compiled_once_and_one_at_a_time(
    rig: HubRig, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = [f"agent.ada.c{number}" for number in range(3)]
    for channel in channels:
        await advertise(rig, ada, channel, NUMBERS)
    await rig.restart()
    compiling = Compiling(monkeypatch)
    again = await rig.caller("ada")
    assert compiled(rig) == []
    await asyncio.gather(*(rig.publish(again, c, {"n": 1}) for c in channels * 3))
    assert sorted(compiled(rig)) == channels
    assert (len(compiling.begun), compiling.most_at_once) == (3, 1)


async def test_a_new_schema_waits_while_another_is_compiled_for_a_publish(
    rig: HubRig, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await advertise(rig, ada, PRICES, NUMBERS)
    await rig.restart()
    compiling = Compiling(monkeypatch)
    compiling.open.clear()
    again = await rig.caller("ada")
    publishing = asyncio.ensure_future(rig.publish(again, PRICES, {"n": 1}))
    await compiling.entered.wait()
    advertising = asyncio.ensure_future(advertise(rig, again, "agent.ada.new", NUMBERS))
    for _ in range(20):
        await asyncio.sleep(0)
    compiling.open.set()
    await publishing
    await advertising
    assert (len(compiling.begun), compiling.most_at_once) == (2, 1)


async def test_a_schema_that_is_taken_back_while_it_is_compiled_is_not_enforced(
    rig: HubRig, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await advertise(rig, ada, PRICES, NUMBERS)
    await rig.restart()
    again = await rig.caller("ada")
    compiling = Compiling(monkeypatch)
    compiling.open.clear()
    publishing = asyncio.ensure_future(rig.publish(again, PRICES, "text"))
    await compiling.entered.wait()
    await rig.hub.call(Unadvertise(channel=PRICES), caller=again)
    compiling.open.set()
    await publishing
    assert compiled(rig) == []


async def test_what_is_not_in_force_any_more_is_not_kept(rig: HubRig, ada: Caller) -> None:
    await advertise(rig, ada, PRICES, NUMBERS)
    assert compiled(rig) == [PRICES]
    await advertise(rig, ada, PRICES, description="no schema any more")
    assert compiled(rig) == []
    await advertise(rig, ada, PRICES, NUMBERS)
    await rig.hub.call(Unadvertise(channel=PRICES), caller=ada)
    assert compiled(rig) == []


async def test_who_has_many_schemas_pushes_out_its_own(
    rig: HubRig, ada: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature, "COMPILED_MAX", 3)
    await advertise(rig, bob, "agent.bob.c", NUMBERS)
    for number in range(3):
        await advertise(rig, ada, f"agent.ada.c{number}", NUMBERS)
    assert compiled(rig) == ["agent.bob.c", "agent.ada.c1", "agent.ada.c2"]
    await rig.publish(ada, "agent.ada.c1", {"n": 1})
    await advertise(rig, ada, "agent.ada.c3", NUMBERS)
    assert compiled(rig) == ["agent.bob.c", "agent.ada.c1", "agent.ada.c3"], "c2 was idle longest"


async def test_an_accounts_schemas_have_a_bound_together(rig: HubRig, ada: Caller) -> None:
    long = {"title": "x" * 32_000}
    for number in range(8):
        await advertise(rig, ada, f"agent.ada.c{number}", long)
    with pytest.raises(BadRequest, match=str(SCHEMAS_PER_ACCOUNT_MAX_BYTES)):
        await advertise(rig, ada, "agent.ada.c8", long)
    await advertise(rig, ada, "agent.ada.c7", long, "its own old one does not count")
    await advertise(rig, ada, "agent.ada.c8", NUMBERS)
    await rig.hub.call(Unadvertise(channel="agent.ada.c0"), caller=ada)
    await advertise(rig, ada, "agent.ada.c9", long)


async def test_an_account_advertises_so_many_channels(
    rig: HubRig, ada: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature, "ADVERTS_PER_ACCOUNT_MAX", 2)
    await advertise(rig, bob, "agent.bob.c")
    for topic in ("a", "b", "a"):
        await advertise(rig, ada, f"agent.ada.{topic}")
    with pytest.raises(BadRequest, match="at most 2"):
        await advertise(rig, ada, "agent.ada.c")


class TestLimited:
    @pytest.fixture
    def settings(self) -> HubSettings:
        return HubSettings()

    async def test_adverts_are_not_changed_without_end(self, rig: HubRig, ada: Caller) -> None:
        with pytest.raises(RateLimited):
            for _ in range(100):
                await advertise(rig, ada, PRICES, NUMBERS)
        rig.clock.advance(60)
        await advertise(rig, ada, PRICES, NUMBERS)

    async def test_an_account_that_has_too_many_schemas_has_them_compiled_slowly(
        self, rig: HubRig, ada: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(feature, "COMPILED_MAX", 2)
        adverts_of(rig)._compiles = Buckets(rate_per_s=feature.COMPILES_PER_S, burst=2)
        channels = ["agent.ada.a", "agent.ada.b"]
        await advertise(rig, bob, "agent.bob.c", NUMBERS)
        for channel in channels:
            await advertise(rig, ada, channel, NUMBERS)
        for channel in channels:
            await rig.publish(ada, channel, {"n": 1})
        with pytest.raises(RateLimited, match="schemas of ada"):
            await rig.publish(ada, channels[0], {"n": 1})
        await rig.publish(ada, channels[1], {"n": 1})
        await rig.publish(bob, "agent.bob.c", {"n": 1})
        rig.clock.advance(1.1)
        await rig.publish(ada, channels[0], {"n": 1})
