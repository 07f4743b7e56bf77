"""Rooms: who may know of them, come in, read, and what is left when somebody goes."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import CreateAccount, DeleteAccount, UpdateAccount
from clawnet.core.calls.chat import (
    ChatSent,
    CreateRoom,
    InviteToRoom,
    JoinRoom,
    LeaveRoom,
    ListMembers,
    ListRooms,
    ReadChat,
    ReadRoom,
    UpdateRoom,
)
from clawnet.core.calls.grants import Grant
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.cursors import AfterOffset
from clawnet.core.errors import Conflict, Forbidden, InvalidChannel, NotFound
from clawnet.hub.lanes import Lane
from clawnet.testing.hubs import Gate, HubRig, event
from tests.features.chatting import message, read, refused, say, texts


async def names(rig: HubRig, caller: Caller, **named: object) -> list[str]:
    page = await rig.hub.call(ListRooms(**named), caller=caller)  # type: ignore[arg-type]
    return [room.room for room in page.rooms]


async def members(rig: HubRig, caller: Caller, room: str) -> list[str]:
    found = await rig.hub.call(ListMembers(room=room), caller=caller)
    return [member.id for member in found.members]


async def test_a_private_room_is_not_there_for_who_is_not_in_it(rig, ada, bob, master, warden):
    await rig.hub.call(CreateRoom(room="secret", private=True, topic="x"), caller=ada)
    await say(rig, ada, "hush", room="secret")
    nowhere = await refused(rig, bob, ReadRoom(room="nowhere"))
    for call in (
        ReadRoom(room="secret"),
        JoinRoom(room="secret"),
        LeaveRoom(room="secret"),
        ListMembers(room="secret"),
        UpdateRoom(room="secret", topic="mine"),
        InviteToRoom(room="secret", agent="bob"),
        LeaveRoom(room="secret", account="ada"),
        message("hi", room="secret"),
    ):
        error = await refused(rig, bob, call)
        assert isinstance(error, NotFound)
        assert error.message == nowhere.message.replace("nowhere", "secret")
    there = await refused(rig, bob, ReadChat(channel="secret"))
    gone = await refused(rig, bob, ReadChat(channel="nowhere"))
    assert there.message == gone.message.replace("nowhere", "secret")
    assert isinstance(await refused(rig, bob, ReadHistory(channel="room.secret")), Forbidden)
    assert await names(rig, bob) == ["global"]
    assert await names(rig, master) == ["global"]
    assert await names(rig, ada) == ["global", "secret"]
    # A master administers it without being let in.
    assert await members(rig, master, "secret") == ["ada"]
    assert (await rig.hub.call(ReadRoom(room="secret"), caller=master)).member is False
    assert isinstance(await refused(rig, master, ReadChat(channel="secret")), Forbidden)
    assert isinstance(await refused(rig, master, JoinRoom(room="secret")), NotFound)
    # A warden reads to persist it, and is no member.
    assert await texts(rig, warden, "secret") == ["hush"]
    assert isinstance(await refused(rig, warden, ListMembers(room="secret")), NotFound)
    # Its name is taken, which is all that a stranger can learn.
    assert isinstance(await refused(rig, bob, CreateRoom(room="secret")), Conflict)


async def test_an_invited_account_comes_in_once_and_reads_from_there_on(rig, ada, bob):
    hub = rig.hub
    await hub.call(CreateRoom(room="alpha", private=True), caller=ada)
    await say(rig, ada, "before", room="alpha")
    done = await hub.call(InviteToRoom(room="alpha", agent="@Bob"), caller=ada)
    assert (done.agent, done.changed) == ("bob", True)
    assert (await hub.call(InviteToRoom(room="alpha", agent="bob"), caller=ada)).changed is False
    page = await hub.call(ReadHistory(channel="agent.bob.inbox"), caller=bob)
    assert b'"type":"room.invited"' in page.body
    joined = await hub.call(JoinRoom(room="#alpha"), caller=bob)
    assert joined.members == ["ada", "bob"]
    again = await hub.call(JoinRoom(room="alpha"), caller=bob)
    assert (again.changed, again.offset) == (False, joined.offset)
    await say(rig, ada, "after", room="alpha")
    assert await texts(rig, bob, "alpha") == ["after"]
    assert (await read(rig, bob, "alpha", after=0))[0].offset == joined.offset + 1
    left = await hub.call(LeaveRoom(room="alpha"), caller=bob)
    assert left.changed
    # An invitation is for one time.
    assert isinstance(await refused(rig, bob, JoinRoom(room="alpha")), NotFound)
    assert await members(rig, ada, "alpha") == ["ada"]


async def test_a_public_room_is_joined_freely_and_its_members_are_told_to_members_only(
    rig, ada, bob, master
):
    hub = rig.hub
    await hub.call(CreateRoom(room="open", topic="all"), caller=ada)
    info = await hub.call(ReadRoom(room="open"), caller=bob)
    assert (info.owner, info.members, info.member, info.topic) == ("ada", 1, False, "all")
    assert isinstance(await refused(rig, bob, ListMembers(room="open")), Forbidden)
    assert isinstance(await refused(rig, bob, message("hi", room="open")), Forbidden)
    assert isinstance(await refused(rig, bob, UpdateRoom(room="open", topic="x")), Forbidden)
    assert isinstance(await refused(rig, bob, InviteToRoom(room="open", agent="boss")), Forbidden)
    await hub.call(JoinRoom(room="open"), caller=bob)
    assert await members(rig, bob, "open") == ["ada", "bob"]
    assert await members(rig, master, "open") == ["ada", "bob"]
    # Members set the topic; who may come in is the owner's to say, or a master's.
    changed = await hub.call(UpdateRoom(room="open", topic="new"), caller=bob)
    assert changed.topic == "new"
    for call in (
        UpdateRoom(room="open", private=True),
        UpdateRoom(room="open", history="all"),
        LeaveRoom(room="open", account="ada"),
    ):
        assert isinstance(await refused(rig, bob, call), Forbidden)
    assert (await hub.call(UpdateRoom(room="open", private=True), caller=master)).private
    assert await names(rig, bob) == ["global", "open"]
    assert await names(rig, master) == ["global"]
    types = [e.type for e in await read(rig, ada, "open")]
    assert types == ["room.created", "room.joined", "room.joined", "room.updated", "room.updated"]


async def test_history_is_for_all_where_the_room_says_so(rig, ada, bob, master):
    hub = rig.hub
    await hub.call(CreateRoom(room="old", history="all"), caller=ada)
    await say(rig, ada, "one", room="old")
    joined = await hub.call(JoinRoom(room="old"), caller=bob)
    assert (joined.offset, await texts(rig, bob, "old")) == (0, ["one"])
    # Whoever joined before is shown it all when that is chosen, and who joins after the contrary
    # reads from there on.
    await hub.call(CreateRoom(room="new"), caller=ada)
    await say(rig, ada, "one", room="new")
    await hub.call(JoinRoom(room="new"), caller=bob)
    assert await texts(rig, bob, "new") == []
    await hub.call(UpdateRoom(room="new", history="all"), caller=ada)
    assert await texts(rig, bob, "new") == ["one"]
    await hub.call(UpdateRoom(room="new", history="joined"), caller=ada)
    await hub.call(JoinRoom(room="new"), caller=master)
    assert await texts(rig, master, "new") == []
    await rig.restart()
    assert rig.hub.directory.grant("main", "bob", "room.new").from_offset is None


async def test_the_owner_goes_and_the_longest_member_follows(rig, ada, bob, master):
    hub = rig.hub
    cy = await rig.account("cy")
    await hub.call(CreateRoom(room="r"), caller=ada)
    await rig.clock.pass_time(1)
    await hub.call(JoinRoom(room="r"), caller=cy)
    await rig.clock.pass_time(1)
    await hub.call(JoinRoom(room="r"), caller=bob)
    await hub.call(LeaveRoom(room="r"), caller=ada)
    assert (await hub.call(ReadRoom(room="r"), caller=bob)).owner == "cy"
    assert isinstance(await refused(rig, ada, message("hi", room="r")), Forbidden)
    # The owner puts another out; a member cannot.
    assert isinstance(await refused(rig, bob, LeaveRoom(room="r", account="cy")), Forbidden)
    await hub.call(LeaveRoom(room="r", account="bob"), caller=cy)
    assert await members(rig, cy, "r") == ["cy"]
    # A deleted account leaves no ghost, neither as a member nor as the owner.
    await hub.call(JoinRoom(room="r"), caller=bob)
    await hub.call(DeleteAccount(id="cy"), caller=master)
    await rig.settle()
    info = await hub.call(ReadRoom(room="r"), caller=bob)
    assert (info.owner, info.members) == ("bob", 1)
    assert await members(rig, bob, "r") == ["bob"]
    # The last one goes, and who comes next owns the room.
    await hub.call(LeaveRoom(room="r"), caller=bob)
    await hub.call(JoinRoom(room="r"), caller=ada)
    await rig.restart()
    info = await rig.hub.call(ReadRoom(room="r"), caller=await rig.caller("ada"))
    assert (info.owner, info.members) == ("ada", 1)


async def test_who_is_put_out_is_given_nothing_more_at_once(rig, ada, bob):
    hub = rig.hub
    await hub.call(CreateRoom(room="r"), caller=ada)
    await hub.call(JoinRoom(room="r"), caller=bob)
    follower = rig.connect(bob, "room.r")
    await rig.settle()
    rig.engine.is_full = True
    out = asyncio.ensure_future(hub.call(LeaveRoom(room="r", account="bob"), caller=ada))
    await rig.settle()
    rig.engine.is_full = False
    # The disk was full, and it holds all the same.
    assert out.exception() is not None
    await say(rig, ada, "private now", room="r")
    await rig.settle()
    assert not any(b"private now" in frame for frame in follower.writes)
    assert isinstance(await refused(rig, bob, ReadChat(channel="r")), Forbidden)
    # With the next change it is on disk as well.
    await hub.call(UpdateRoom(room="r", topic="t"), caller=ada)
    await rig.restart()
    assert await members(rig, await rig.caller("ada"), "r") == ["ada"]


async def test_nothing_is_lost_or_given_early_around_a_join(rig, ada, bob):
    hub = rig.hub
    await hub.call(CreateRoom(room="r"), caller=ada)

    def send(number: int) -> asyncio.Task[ChatSent]:
        return asyncio.ensure_future(say(rig, ada, str(number), room="r"))

    sending = [send(number) for number in range(4)]
    joining = asyncio.ensure_future(hub.call(JoinRoom(room="r"), caller=bob))
    for number in range(4, 12):
        # Some are queued with the join, some come while it is being stored, some behind it.
        await asyncio.sleep(0)
        sending.append(send(number))
    await asyncio.sleep(0)
    sent = await asyncio.gather(*sending)
    joined = await joining
    shown = await read(rig, bob, "r")
    assert shown[0].type == "room.joined"
    assert shown[0].offset == joined.offset + 1
    behind = [one.offset for one in sent if one.offset is not None and one.offset > joined.offset]
    assert [one.offset for one in shown[1:]] == behind
    assert 0 < len(behind) < 12
    # Also after a restart.
    await rig.restart()
    again = rig.hub.directory.grant("main", "bob", "room.r")
    assert again.from_offset == joined.offset + 1


async def test_what_was_being_committed_when_a_member_came_is_not_its_to_read(rig, ada, bob):
    hub = rig.hub
    await hub.call(CreateRoom(room="r"), caller=ada)
    change = hub.change

    async def slip_in(*changes, **named):
        # Behind the decision where the member's reading begins, and before its `room.joined`.
        hub.change = change
        hub.publish(ada, event("room.r", {"text": "hush"}), lane=Lane(), reply=lambda _: None)
        await change(*changes, **named)

    hub.change = slip_in
    joined = await hub.call(JoinRoom(room="r"), caller=bob)
    assert joined.offset == 3
    for _ in range(2):
        shown = await read(rig, await rig.caller("bob"), "r")
        assert [one.type for one in shown][:1] == ["room.joined"]
        await rig.restart()
        hub = rig.hub
        assert hub.directory.grant("main", "bob", "room.r").from_offset == 4


@pytest.mark.parametrize("at", range(2))
async def test_a_reader_that_is_put_out_while_it_reads_is_refused(rig, ada, bob, at):
    hub = rig.hub
    await hub.call(CreateRoom(room="r"), caller=ada)
    await hub.call(JoinRoom(room="r"), caller=bob)
    await say(rig, ada, "hush", room="r")

    async def put_out():
        await hub.call(LeaveRoom(room="r", account="bob"), caller=ada)

    gate = Gate(hub, at=at, action=put_out)
    assert isinstance(await refused(rig, bob, ReadChat(channel="r")), Forbidden)
    assert gate.was_reached
    await gate.open()
    # And one that is catching up.
    await hub.call(JoinRoom(room="r"), caller=bob)
    await say(rig, ada, "hush again", room="r")
    gate = Gate(hub, at=at, action=put_out)
    follower = rig.connect(bob, "room.r", since=AfterOffset(0))
    await rig.settle()
    assert gate.was_reached
    await gate.open()
    await say(rig, ada, "hush once more", room="r")
    await rig.settle()
    assert not any(b"hush" in frame for frame in follower.writes)


async def test_guessing_at_names_opens_nothing(rig, ada, bob, master):
    # Somebody was let into this channel before it was a room: it is nobody's to open.
    await rig.hub.call(
        Grant(account="ada", channel="room.granted", verbs=["publish", "read"]), caller=master
    )
    await say(rig, ada, "hush", room="granted")
    assert isinstance(await refused(rig, bob, JoinRoom(room="granted")), NotFound)
    assert isinstance(await refused(rig, bob, message("x", room="granted")), NotFound)
    assert isinstance(await refused(rig, bob, CreateRoom(room="granted")), Conflict)
    assert (await rig.hub.call(ReadRoom(room="granted"), caller=ada)).private
    for bad in ("a.b", "../x", "Ä", "", "x" * 81, "room."):
        error = await refused(rig, bob, JoinRoom(room=bad))
        assert error.code in ("invalid_channel", "bad_request")
    assert isinstance(await refused(rig, bob, JoinRoom(room="agent.ada.inbox")), InvalidChannel)


async def test_a_room_of_another_world_is_another_room(rig, ada):
    await rig.hub.call(CreateRoom(room="r"), caller=ada)
    await say(rig, ada, "here", room="r")
    voice = msgspec.structs.replace(HUB, world="other")
    await rig.hub.call(CreateAccount(id="eve"), caller=voice)
    eve = Caller(account="eve", handle="eve", world="other")
    assert isinstance(await refused(rig, eve, ReadRoom(room="r")), NotFound)
    assert isinstance(await refused(rig, eve, message("hi", to="ada")), NotFound)
    await say(rig, eve, "there", room="r")
    assert await texts(rig, ada, "r") == ["here"]
    assert await texts(rig, eve, "r") == ["there"]


async def test_ops_is_the_masters_room_while_they_are_masters(rig, ada, bob, master):
    hub = rig.hub
    assert isinstance(await refused(rig, ada, JoinRoom(room="ops")), NotFound)
    assert isinstance(await refused(rig, ada, message("hi", room="ops")), NotFound)
    assert isinstance(await refused(rig, ada, CreateRoom(room="ops")), Forbidden)
    await say(rig, master, "CMD: to=ada ls", room="ops")
    assert await texts(rig, master, "#ops") == ["CMD: to=ada ls"]
    assert isinstance(await refused(rig, ada, ReadRoom(room="ops")), NotFound)
    await hub.call(UpdateAccount(id="bob", role="master"), caller=master)
    await rig.settle()
    bob = await rig.caller("bob")
    assert await members(rig, bob, "ops") == ["bob", "boss"]
    follower = rig.connect(bob, "room.ops")
    for call in (
        LeaveRoom(room="ops"),
        InviteToRoom(room="ops", agent="ada"),
        UpdateRoom(room="ops", private=False),
    ):
        assert isinstance(await refused(rig, master, call), Forbidden)
    await hub.call(UpdateAccount(id="bob", role="worker"), caller=master)
    # At once, before anything else had a turn.
    assert not hub.directory.members("main", "room.ops").get("bob")
    await say(rig, master, "masters only", room="ops")
    await rig.settle()
    assert not any(b"masters only" in frame for frame in follower.writes)
    await rig.crash()
    assert await members(rig, await rig.caller("boss"), "ops") == ["boss"]


async def test_rooms_come_in_pages_and_the_global_one_is_everyones(rig, ada, bob):
    for room in ("zeta", "alpha", "mid"):
        await rig.hub.call(CreateRoom(room=room, private=room == "mid"), caller=ada)
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = await rig.hub.call(ListRooms(after=after, limit=1), caller=bob)
        seen += [room.room for room in page.rooms]
        after = page.next
    assert seen == ["global", "alpha", "zeta"]
    lobby = await rig.hub.call(ReadRoom(room="public.townsquare"), caller=bob)
    assert (lobby.room, lobby.channel, lobby.members) == ("global", "public.lobby", 2)
    joined = await rig.hub.call(JoinRoom(room="global"), caller=bob)
    assert (joined.changed, joined.members) == (False, ["ada", "bob"])
    assert await members(rig, bob, "global") == ["ada", "bob"]
    assert await members(rig, bob, "dm.ada.bob") == ["ada", "bob"]
    for call in (CreateRoom(room="global"), LeaveRoom(room="global"), ListRooms(limit=0)):
        assert (await refused(rig, bob, call)).code == "bad_request"
    assert (await refused(rig, bob, CreateRoom(room="x", topic="a\nb"))).code == "bad_request"
