"""What somebody would try who knows how the chat is built; each of it came through once."""

from __future__ import annotations

import msgspec
import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import CreateAccount
from clawnet.core.calls.archive import ExportEvents, ImportEvents
from clawnet.core.calls.chat import (
    CreateRoom,
    DeleteChat,
    InviteToRoom,
    JoinRoom,
    LeaveRoom,
    ListRooms,
    ReadChat,
    ReadRoom,
    SendChat,
    UpdateRoom,
)
from clawnet.core.calls.consumers import CreateConsumer, Fetch
from clawnet.core.calls.grants import Grant, Revoke
from clawnet.core.calls.reading import ReadEvent, ReadHistory
from clawnet.core.calls.tracing import ReadTrace
from clawnet.core.errors import Forbidden, NotFound, RateLimited
from clawnet.core.events import Event
from clawnet.engines.memory import MemoryEngine
from clawnet.testing.clocks import FakeRandomness
from clawnet.testing.hubs import HubRig, event, started_hub
from clawnet.testing.loops import LoopClock
from tests.features.chatting import message, read, refused, say, text_of, texts


def payloads(shown):
    return [msgspec.json.decode(one.payload) for one in shown if one.type == "chat.message"]


async def test_what_one_may_not_read_is_no_cause_so_ids_tell_nothing(rig, ada, bob):
    cy = await rig.account("cy")
    await rig.hub.call(CreateRoom(room="den", private=True), caller=ada)
    hidden = await say(rig, ada, "hush", room="den")
    auto = await say(rig, ada, "", room="den", payload={"text": "got it", "auto": True})
    direct = await say(rig, ada, "for bob", to="bob")
    for guessed in (hidden.id, auto.id, direct.id):
        for _ in range(25):
            await say(rig, cy, "x", causation_id=guessed)
    # Neither a hop count nor a refusal nor the guard's own words, which would name its author.
    shown = await read(rig, cy, "global")
    assert payloads(shown) == [{"text": "x"}] * 75
    # A token that may only write is no way round the guard.
    writing = await rig.caller("bob", scopes=["events:write"])
    cause = await say(rig, ada, "hello")
    sent = await say(rig, writing, "re", causation_id=cause.id)
    assert payloads(await read(rig, bob, "global", after=int(sent.offset or 0) - 1)) == [
        {"text": "re", "hops": 1}
    ]


async def test_who_inherits_a_room_opens_no_more_of_it_than_it_may_read(rig, ada, bob, master):
    hub = rig.hub
    cy = await rig.account("cy")
    await hub.call(CreateRoom(room="r"), caller=ada)
    await say(rig, ada, "among us", room="r")
    await hub.call(LeaveRoom(room="r"), caller=ada)
    await hub.call(JoinRoom(room="r"), caller=bob)
    assert (await hub.call(ReadRoom(room="r"), caller=bob)).owner == "bob"
    await say(rig, bob, "mine", room="r")
    await hub.call(UpdateRoom(room="r", history="all"), caller=bob)
    assert await texts(rig, bob, "r") == ["mine"]
    await hub.call(JoinRoom(room="r"), caller=cy)
    assert await texts(rig, cy, "r") == ["mine"]
    await rig.restart()
    hub = rig.hub
    dee = await rig.account("dee")
    await hub.call(JoinRoom(room="r"), caller=dee)
    assert await texts(rig, dee, "r") == ["mine"]
    # A master administers: it can open all of it to the members.
    master = await rig.caller("boss")
    await hub.call(UpdateRoom(room="r", history="joined"), caller=master)
    await hub.call(UpdateRoom(room="r", history="all"), caller=master)
    assert await texts(rig, dee, "r") == ["among us", "mine"]
    assert isinstance(await refused(rig, master, ReadChat(channel="r")), Forbidden)


async def test_a_right_to_read_a_private_room_is_no_invitation(rig, ada, bob, master):
    hub = rig.hub
    await hub.call(CreateRoom(room="den", private=True), caller=ada)
    await hub.call(Grant(account="bob", channel="room.den", verbs=["read"]), caller=master)
    await say(rig, ada, "hush", room="den")
    assert await texts(rig, bob, "den") == ["hush"]
    for call in (
        JoinRoom(room="den"),
        message("me too", room="den"),
        UpdateRoom(room="den", topic="mine"),
        InviteToRoom(room="den", agent="boss"),
    ):
        assert isinstance(await refused(rig, bob, call), Forbidden)
    # It inherits nothing either.
    await hub.call(LeaveRoom(room="den"), caller=ada)
    assert (await hub.call(ReadRoom(room="den"), caller=bob)).owner == ""
    await hub.call(Grant(account="ada", channel="room.den", verbs=["publish"]), caller=master)
    await hub.call(Grant(account="ada", channel="room.den", verbs=["read"]), caller=master)
    await hub.call(InviteToRoom(room="den", agent="bob"), caller=ada)
    assert (await hub.call(JoinRoom(room="den"), caller=bob)).changed


async def test_who_is_put_out_rules_and_deletes_nothing_there_any_more(rig, ada, bob, master):
    hub = rig.hub
    await hub.call(CreateRoom(room="r"), caller=ada)
    await hub.call(JoinRoom(room="r"), caller=bob)
    own = await say(rig, ada, "mine", room="r")
    other = await say(rig, bob, "bob's", room="r")
    await hub.call(Revoke(account="ada", channel="room.r"), caller=master)
    before = len(await read(rig, bob, "r"))
    for call, error in (
        (DeleteChat(id=own.id), Forbidden),
        (DeleteChat(id=other.id), NotFound),
        (DeleteChat(channel="r", offset=other.offset), NotFound),
        (UpdateRoom(room="r", private=True), Forbidden),
        (LeaveRoom(room="r", account="bob"), Forbidden),
    ):
        assert isinstance(await refused(rig, ada, call), error), call
    assert len(await read(rig, bob, "r")) == before
    # The master still can, and the room has passed to who is left in it.
    assert (await hub.call(DeleteChat(id=own.id), caller=master)).changed
    await rig.settle()
    for _ in range(2):
        bob = await rig.caller("bob")
        assert (await rig.hub.call(ReadRoom(room="r"), caller=bob)).owner == "bob"
        await rig.crash()


@pytest.mark.parametrize("name", [b"hops", b"hop\\u0073", b"\\u0068ops"])
async def test_a_forged_hop_count_is_taken_out_however_it_is_spelled(rig, ada, name):
    payload = b'{"text":"hi","' + name + b'":7}'
    await rig.hub.call(SendChat(payload=msgspec.Raw(payload)), caller=ada)
    assert payloads(await read(rig, ada, "global")) == [{"text": "hi"}]


async def alternate(rig: HubRig, one: Caller, other: Caller, times: int, **named):
    """Let two write to each other in turn; after how many the first was refused, and how."""
    for turn in range(times):
        who, to = (one, other) if turn % 2 == 0 else (other, one)
        try:
            await say(rig, who, f"m {turn}", to=str(to.account), **named)
        except RateLimited as error:
            return turn, error
    return times, None


async def test_two_agents_that_write_to_each_other_in_turn_pause_without_naming_causes(
    rig, ada, bob
):
    for named in ({}, {"causation_id": "evt_of_nothing"}):
        said, error = await alternate(rig, ada, bob, 60, **named)
        # The first answers nothing; it and twenty answers are said.
        assert said == 21, named
        assert error is not None
        assert (error.facts["reason"], error.retry_after_s) == ("loop", 60)
        await rig.settle()
        assert isinstance(await refused(rig, bob, message("again", to="ada", **named)), RateLimited)
        shown = await read(rig, ada, "dm.ada.bob")
        assert (shown[-1].from_id, shown[-1].to_id) == ("hub", "dm.ada.bob")
        assert text_of(shown[-1]).startswith("ada and bob answered each other 20 times")
        await rig.clock.pass_time(61)
    # Who names causes is not counted twice.
    cause, said = str((await say(rig, ada, "hello", to="bob")).id), 0
    for turn in range(30):
        who, to = (bob, "ada") if turn % 2 == 0 else (ada, "bob")
        try:
            cause = str((await say(rig, who, "re", to=to, causation_id=cause)).id)
        except RateLimited:
            break
        said += 1
    assert said == 20
    await rig.clock.pass_time(61)
    # Slow enough, a monologue, and with a person: no loop.
    for _ in range(3):
        assert (await alternate(rig, ada, bob, 18))[1] is None
        await rig.clock.pass_time(61)
    for number in range(40):
        await say(rig, ada, f"n {number}", to="bob")
    await rig.hub.call(CreateAccount(id="hal", kind="human"), caller=HUB)
    hal = await rig.caller("hal")
    assert (await alternate(rig, ada, hal, 60))[1] is None


async def test_a_conversation_that_is_imported_makes_nobody_pause(rig, ada, bob):
    await alternate(rig, ada, bob, 20)
    page = await rig.hub.call(ExportEvents(channels=("dm.ada.bob",)), caller=ada)
    events = [msgspec.json.decode(line, type=Event) for line in page.body.split(b"\n")]
    engine = MemoryEngine(clock=LoopClock(), randomness=FakeRandomness("elsewhere"))
    async with started_hub(engine=engine) as other:
        admin = await other.account("admin", role="master")
        ada, bob = await other.account("ada"), await other.account("bob")
        await other.hub.call(ImportEvents(events=[*events, *events]), caller=admin)
        assert (await alternate(other, ada, bob, 10))[1] is None


async def test_a_third_cannot_make_two_others_pause(rig, ada, bob):
    cy = await rig.account("cy")
    first = await say(rig, ada, "hello")
    second = await say(rig, bob, "re", causation_id=first.id)
    for cause in (first, second):
        for _ in range(25):
            try:
                await say(rig, cy, "x", causation_id=cause.id)
            except RateLimited:
                break
    await say(rig, ada, "re re", causation_id=second.id)


async def test_a_deleted_message_is_nowhere_to_be_found_also_not_among_dead_letters(rig, ada, bob):
    hub = rig.hub
    consumer = CreateConsumer(
        name="c", channels=["dm.ada.bob"], max_attempts=1, ack_wait_s=1.0, since="all"
    )
    await hub.call(consumer, caller=bob)
    sent = await say(rig, ada, "the secret", to="bob", correlation_id="cor_1", dedupe_key="k")
    await hub.call(Fetch(name="c"), caller=bob)
    await rig.clock.pass_time(3)
    await hub.call(Fetch(name="c"), caller=bob)
    dead = ReadHistory(channel="agent.bob.dead-letter")
    assert b"the secret" in (await hub.call(dead, caller=bob)).body
    await hub.call(DeleteChat(id=sent.id), caller=ada)
    found = [
        (await hub.call(dead, caller=bob)).body,
        (await hub.call(ReadHistory(channel="dm.ada.bob"), caller=bob)).body,
        await hub.call(ReadEvent(id=str(sent.id)), caller=ada),
        (await hub.call(ReadTrace(id="cor_1"), caller=bob)).body,
    ]
    assert not any(b"the secret" in body for body in found)


async def test_a_right_to_all_rooms_makes_a_room_by_writing_as_anybody_does(rig, ada, bob, master):
    hub = rig.hub
    await hub.call(Grant(account="bob", channel="room.*", verbs=["publish", "read"]), caller=master)
    await say(rig, bob, "first", room="fresh")
    assert (await hub.call(ReadRoom(room="fresh"), caller=ada)).owner == "bob"
    await hub.call(JoinRoom(room="fresh"), caller=ada)
    # #ops is the masters' all the same, whoever comes to its name first.
    assert isinstance(await refused(rig, bob, message("mine", room="ops")), NotFound)
    await say(rig, master, "ours", room="ops")
    assert (await hub.call(ReadRoom(room="ops"), caller=master)).private


async def test_an_invitation_ends_with_leaving_and_a_command_with_any_blank(rig, ada, bob):
    hub = rig.hub
    await hub.call(CreateRoom(room="den", private=True), caller=ada)
    await hub.call(InviteToRoom(room="den", agent="bob"), caller=ada)
    await hub.call(LeaveRoom(room="den", account="bob"), caller=ada)
    assert isinstance(await refused(rig, bob, JoinRoom(room="den")), NotFound)
    sent = await say(rig, ada, "/topic\tthe plan", room="den")
    assert sent.command is not None
    assert (await hub.call(ReadRoom(room="den"), caller=ada)).topic == "the plan"
    await rig.hub.publish_wait(ada, event("room.den", {"text": "@bob"}))
    page = await hub.call(ListRooms(), caller=bob)
    assert [room.room for room in page.rooms] == ["global"]
