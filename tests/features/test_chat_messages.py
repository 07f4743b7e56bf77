"""Messages: who says what to whom, once; deleting, mentions, typing, order and rate."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import Block, CreateAccount
from clawnet.core.calls.archive import ExportEvents, ImportEvents
from clawnet.core.calls.chat import (
    CreateRoom,
    DeleteChat,
    InviteToRoom,
    JoinRoom,
    ReadChat,
    SendChat,
    Typing,
)
from clawnet.core.calls.controls import ChangeControls
from clawnet.core.calls.reading import ReadEvent, ReadHistory
from clawnet.core.errors import (
    BadRequest,
    DedupeConflict,
    Forbidden,
    NotFound,
    RateLimited,
    Refused,
    Unavailable,
)
from clawnet.core.events import Event
from clawnet.engines.memory import MemoryEngine
from clawnet.features import FeatureSettings, attach_all
from clawnet.features.chat.settings import ChatSettings
from clawnet.hub.interceptors import Deny, Interceptor
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.testing.clocks import FakeRandomness
from clawnet.testing.hubs import HubRig, event, make_hub, started_hub
from clawnet.testing.loops import LoopClock
from tests.features.chatting import message, read, refused, say, text_of, texts


async def inbox(rig: HubRig, caller: Caller) -> list[Event]:
    page = await rig.hub.call(
        ReadHistory(channel=f"agent.{caller.account}.inbox", limit=1000), caller=caller
    )
    lines = page.body.split(b"\n") if page.count else []
    return [msgspec.json.decode(line, type=Event) for line in lines]


async def test_a_direct_message_is_read_by_the_two_alone(rig, ada, bob, master, warden):
    cy = await rig.account("cy")
    follower = rig.connect(cy, "public.lobby")
    sent = await say(rig, ada, "for bob", to="bob")
    assert sent.id is not None
    assert sent.channel == "dm.ada.bob"
    assert await texts(rig, bob, "dm.ada.bob") == await texts(rig, ada, "dm.ada.bob") == ["for bob"]
    for other in (cy, master):
        assert isinstance(await refused(rig, other, ReadChat(channel="dm.ada.bob")), Forbidden)
        assert isinstance(await refused(rig, other, message("me too", to="dm.ada.bob")), Forbidden)
        assert isinstance(await refused(rig, other, ReadEvent(id=sent.id)), NotFound)
    assert isinstance(await refused(rig, cy, DeleteChat(id=sent.id)), NotFound)
    assert follower.writes == []
    assert await texts(rig, warden, "dm.ada.bob") == ["for bob"]
    own = (await read(rig, ada, "dm.ada.bob"))[0]
    assert (own.to_type, own.to_id, own.self, own.dedupe_key) == ("dm", "bob", True, own.id)
    # To nobody, to oneself, and to no id at all.
    assert isinstance(await refused(rig, ada, message("x", to="nobody")), NotFound)
    assert isinstance(await refused(rig, ada, message("x", to="ada")), BadRequest)
    assert isinstance(await refused(rig, ada, message("x", to="no body")), BadRequest)


async def test_nobody_speaks_as_somebody_else(rig, ada, bob):
    forged = {"text": "hi", "from_id": "bob", "from_handle": "bob", "actor": {"id": "bob"}}
    await say(rig, ada, "", payload=forged)
    shown = (await read(rig, bob, "global"))[0]
    assert (shown.from_id, shown.from_handle, shown.self) == ("ada", "ada", False)
    reading = await rig.caller("ada", scopes=["events:read"])
    for call in (
        message("x"),
        message("x", room="new"),
        message("/join new"),
        Typing(is_typing=True),
    ):
        assert isinstance(await refused(rig, reading, call), Forbidden)
    nobody = Caller(account=None, scopes=frozenset())
    assert (await refused(rig, nobody, message("x"))).status == 401


DEEP = b'{"text":"x","n":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    "payload", [b'"hi"', b"{}", b'{"text":1}', b'{"text":"  "}', b"[]", DEEP], ids=range(6)
)
async def test_a_payload_is_an_object_with_a_text(rig, ada, payload):
    error = await refused(rig, ada, SendChat(payload=msgspec.Raw(payload)))
    assert isinstance(error, BadRequest)
    too_long = message("x" * 16_385)
    assert isinstance(await refused(rig, ada, too_long), BadRequest)
    assert await texts(rig, ada, "global") == []


async def test_the_same_key_twice_is_one_message_and_of_two_senders_two(rig, ada, bob):
    first = await say(rig, ada, "one", dedupe_key="k")
    again = await say(rig, ada, "one", dedupe_key="k")
    assert (again.id, again.offset, again.deduped) == (first.id, first.offset, True)
    assert isinstance(await refused(rig, ada, message("two", dedupe_key="k")), DedupeConflict)
    assert (await say(rig, bob, "one", dedupe_key="k")).deduped is False
    assert await texts(rig, ada, "global") == ["one", "one"]

    # What was refused left no key.
    async def deny(proposed):
        return Deny("not now")

    rig.hub.intercept(Interceptor(name="gate", channels=("public.lobby",), intercept=deny))
    assert isinstance(await refused(rig, ada, message("later", dedupe_key="l")), Refused)
    rig.hub.interceptors.remove("gate")
    assert (await say(rig, ada, "later", dedupe_key="l")).deduped is False


async def test_messages_keep_their_order_while_their_room_is_made(rig, ada):
    sending = []
    for number in range(9):
        sending.append(asyncio.ensure_future(say(rig, ada, str(number), room="new")))
        if number % 3 == 2:
            await asyncio.sleep(0)
    await asyncio.gather(*sending)
    assert await texts(rig, ada, "new") == [str(number) for number in range(9)]

    # And while interceptors think about some of them.
    async def slow(proposed):
        await rig.clock.pass_time(0.5 if "slow" in proposed.data else 0.1)

    rig.hub.intercept(Interceptor(name="slow", channels=("room.*",), intercept=slow))
    await asyncio.gather(*[say(rig, ada, t, room="new") for t in ("slow", "a", "b")])
    assert (await texts(rig, ada, "new"))[-3:] == ["slow", "a", "b"]


async def test_an_unknown_room_is_made_where_that_is_allowed(rig, ada, bob, master):
    hub = rig.hub
    await say(rig, ada, "first", room="#Fresh")
    assert await texts(rig, ada, "fresh") == ["first"]
    await hub.call(ChangeControls(auto_create=False), caller=master)
    for call in (message("x", room="other"), JoinRoom(room="other")):
        assert isinstance(await refused(rig, ada, call), NotFound)
    await hub.call(CreateRoom(room="other"), caller=ada)
    await say(rig, ada, "made", room="other")
    # The lobby needs no room, and a room that is there can be joined.
    await say(rig, bob, "hi")
    await hub.call(JoinRoom(room="other"), caller=bob)


async def test_a_deleted_message_is_a_tombstone_for_everyone(rig, ada, bob, master):
    hub = rig.hub
    await hub.call(CreateRoom(room="r", history="all"), caller=ada)
    await hub.call(JoinRoom(room="r"), caller=bob)
    cy = await rig.account("cy")
    await hub.call(JoinRoom(room="r"), caller=cy)
    sent = [await say(rig, bob, t, room="r", dedupe_key=t) for t in ("own", "owner", "master")]
    plain = await rig.publish(bob, "room.r", {"any": "thing"}, type="x.note")
    error = await refused(rig, cy, DeleteChat(id=sent[0].id))
    assert isinstance(error, Forbidden)
    done = await hub.call(DeleteChat(id=sent[0].id), caller=bob)
    assert (done.channel, done.offset, done.changed) == ("room.r", sent[0].offset, True)
    by_place = DeleteChat(channel="r", offset=sent[1].offset)
    both = await asyncio.gather(hub.call(by_place, caller=ada), hub.call(by_place, caller=master))
    assert sorted(one.changed for one in both) == [False, True]
    await hub.call(DeleteChat(id=sent[2].id), caller=master)
    await hub.call(DeleteChat(id=plain.id), caller=bob)
    assert (await hub.call(DeleteChat(id=sent[0].id), caller=bob)).changed is False
    shown = [one for one in await read(rig, cy, "r") if one.from_id == "bob"]
    assert [one.deleted for one in shown] == [True] * 4
    assert [bytes(one.payload) for one in shown] == [b"{}"] * 4
    told = [one for one in await read(rig, cy, "r") if one.type == "chat.deleted"]
    assert [msgspec.json.decode(one.payload)["by"] for one in told] == [
        "bob",
        msgspec.json.decode(told[1].payload)["by"],
        "boss",
        "bob",
    ]
    assert msgspec.json.decode(told[0].payload) == {
        "id": sent[0].id,
        "channel": "room.r",
        "offset": sent[0].offset,
        "by": "bob",
    }
    # The key is not free, and brings nothing back.
    again = await say(rig, bob, "own", room="r", dedupe_key="own")
    assert (again.deduped, again.id) == (True, sent[0].id)
    # What the hub says, what is no message, and what is not there.
    for call in (
        DeleteChat(id=told[0].id),
        DeleteChat(channel="r", offset=999),
        DeleteChat(id="evt_nonsense"),
        DeleteChat(channel="global", offset=1),
    ):
        assert isinstance(await refused(rig, master, call), NotFound)
    assert isinstance(await refused(rig, master, DeleteChat()), BadRequest)


async def test_a_message_of_another_world_is_not_there(rig, ada, master):
    sent = await say(rig, ada, "here")
    await rig.hub.call(
        CreateAccount(id="eve", role="master"), caller=msgspec.structs.replace(HUB, world="other")
    )
    eve = Caller(account="eve", handle="eve", role="master", world="other")
    for call in (DeleteChat(id=sent.id), DeleteChat(channel="global", offset=sent.offset)):
        assert isinstance(await refused(rig, eve, call), NotFound)
    assert await texts(rig, ada, "global") == ["here"]


async def test_a_tombstone_is_exported_and_imported_as_one(rig, ada):
    hub = rig.hub
    sent = await say(rig, ada, "secret")
    kept = await say(rig, ada, "kept")
    whole = await hub.call(ExportEvents(channels=("public.lobby",)), caller=ada)
    await hub.call(DeleteChat(id=sent.id), caller=ada)
    page = await hub.call(ExportEvents(channels=("public.lobby",)), caller=ada)
    assert b"secret" not in page.body
    exported = [msgspec.json.decode(line, type=Event) for line in page.body.split(b"\n")]
    before = [msgspec.json.decode(line, type=Event) for line in whole.body.split(b"\n")]
    settings = HubSettings(limits=LimitSettings(enabled=False))
    # Into an empty hub, and into one that took the message in while it still said something.
    for earlier in ([], before):
        engine = MemoryEngine(clock=LoopClock(), randomness=FakeRandomness("elsewhere"))
        async with started_hub(settings, engine=engine) as other:
            admin = await other.account("admin", role="master")
            await other.account("ada")
            for events in (earlier, exported):
                await other.hub.call(ImportEvents(events=events), caller=admin)
            shown = await read(other, admin, "global")
            assert [one.deleted for one in shown] == [True, False, False]
            assert text_of(shown[1]) == "kept"
    assert kept.offset == 2


async def test_who_is_named_finds_it_in_its_inbox_once(rig, ada, bob, master):
    hub = rig.hub
    await hub.call(CreateAccount(id="cyd", handle="Cy.Dee"), caller=HUB)
    cyd = await rig.caller("cyd")
    await hub.call(CreateRoom(room="r", private=True), caller=ada)
    await hub.call(InviteToRoom(room="r", agent="bob"), caller=ada)
    await hub.call(JoinRoom(room="r"), caller=bob)
    sent = await say(
        rig, ada, "@bob, @BOB. and @cy.dee! see a@bob.com @nobody @ada", room="r", dedupe_key="k"
    )
    await say(
        rig, ada, "@bob, @BOB. and @cy.dee! see a@bob.com @nobody @ada", room="r", dedupe_key="k"
    )
    await rig.settle()
    told = [one for one in await inbox(rig, bob) if one.type == "chat.mentioned"]
    assert [msgspec.json.decode(one.data) for one in told] == [
        {"event_id": sent.id, "channel": "room.r", "offset": sent.offset, "from": "ada"}
    ]
    # Not in the room, so it is told nothing of it.
    assert await inbox(rig, cyd) == []
    await say(rig, ada, "hello @cy.dee")
    # By another door, and by who is blocked.
    await rig.publish(bob, "public.lobby", {"text": "@cyd"})
    await hub.call(Block(account="bob"), caller=cyd)
    await say(rig, bob, "@cyd again")
    await rig.settle()
    assert [one.type for one in await inbox(rig, cyd)] == ["chat.mentioned"] * 2
    assert await inbox(rig, ada) == []


async def test_a_mention_that_a_crash_cut_off_is_told_after_it(rig, ada, bob):
    await say(rig, ada, "@bob one")
    await rig.restart()
    ada = await rig.caller("ada")
    feature = next(f for f in rig.hub.features if type(f).__name__ == "ChatFeature")
    # The hub dies between the message and what it brings about.
    feature._mentions.said = lambda messages: None
    await say(rig, ada, "@bob two")
    await rig.crash()
    await rig.settle()
    bob = await rig.caller("bob")
    assert [one.type for one in await inbox(rig, bob)] == ["chat.mentioned"] * 2
    await rig.crash()
    await rig.settle()
    assert len(await inbox(rig, await rig.caller("bob"))) == 2


async def test_typing_is_told_to_who_is_there_and_kept_nowhere(rig, ada, bob):
    hub = rig.hub
    await hub.call(CreateRoom(room="r"), caller=ada)
    await hub.call(JoinRoom(room="r"), caller=bob)
    last = (await hub.call(ReadChat(channel="r"), caller=ada)).next
    follower = rig.connect(bob, "room.r")
    await hub.call(Typing(is_typing=True, to_type="room", to_id="r"), caller=ada)
    told = follower.frames[-1].event
    assert (told["type"], told["actor"]["id"]) == ("chat.typing", "ada")
    assert told["data"] == {"from": "ada", "handle": "ada", "is_typing": True}
    assert (await hub.call(ReadChat(channel="r"), caller=ada)).next == last
    cy = await rig.account("cy")
    for call in (
        Typing(is_typing=True, to_type="room", to_id="r"),
        Typing(is_typing=True, to_type="dm", to_id="dm.ada.bob"),
        Typing(is_typing=True, to_type="dm", to_id="nobody"),
    ):
        assert isinstance(await refused(rig, cy, call), Forbidden)


async def test_reading_pages_both_ways(rig, ada, bob):
    for number in range(5):
        await say(rig, ada, str(number))
    call = rig.hub.call
    page = await call(ReadChat(channel="global", after=1, limit=2), caller=bob)
    assert ([text_of(e) for e in page.events], page.next, page.is_end) == (["1", "2"], 3, False)
    page = await call(ReadChat(channel="global", after=page.next, limit=9), caller=bob)
    assert ([text_of(e) for e in page.events], page.next, page.is_end) == (["3", "4"], 5, True)
    page = await call(ReadChat(channel="global", limit=2), caller=bob)
    assert ([text_of(e) for e in page.events], page.next, page.is_end) == (["3", "4"], 5, True)
    page = await call(ReadChat(channel="global", before=4, limit=2), caller=bob)
    assert ([text_of(e) for e in page.events], page.is_end) == (["1", "2"], False)
    for bad in (ReadChat(channel="global", after=-1), ReadChat(channel="r", after=1, before=1)):
        assert isinstance(await refused(rig, bob, bad), BadRequest)


async def test_an_account_that_sends_too_fast_is_told_when_to_come_back(rig, bob):
    settings = FeatureSettings(
        chat=ChatSettings(messages_per_s=0.001, messages_burst=2, rooms_per_account_max=1)
    )
    hub = make_hub(rig.engine, rig.clock, HubSettings(), seed="limited")
    attach_all(hub, settings)
    await hub.start()
    try:
        for text in ("/help", "two"):
            await hub.call(message(text), caller=bob)
        for text in ("three", "/help"):
            with pytest.raises(RateLimited) as caught:
                await hub.call(message(text), caller=bob)
            assert (caught.value.retry_after_s or 0) > 900
        await hub.call(CreateRoom(room="one"), caller=bob)
        with pytest.raises(BadRequest):
            await hub.call(CreateRoom(room="two"), caller=bob)
    finally:
        await hub.close()


async def test_a_message_that_the_hub_cannot_store_is_answered(rig, ada):
    rig.engine.is_full = True
    assert (await refused(rig, ada, message("x", dedupe_key="k"))).code == "disk_full"
    rig.engine.is_full = False
    assert (await say(rig, ada, "x", dedupe_key="k")).deduped is False
    await rig.hub.stop_accepting()
    assert isinstance(await refused(rig, ada, message("y")), Unavailable)


async def test_a_text_with_two_slashes_says_one(rig, ada):
    await say(rig, ada, "//help me", payload={"text": "//help me", "n": 1})
    shown = (await read(rig, ada, "global"))[0]
    assert msgspec.json.decode(shown.payload) == {"text": "/help me", "n": 1}
    # A plain publish is never a command.
    await rig.hub.publish_wait(ada, event("public.lobby", {"text": "/help"}))
    assert (await texts(rig, ada, "global"))[-1] == "/help"
