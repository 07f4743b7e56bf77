"""At least once, and once where both sides look at their keys: acknowledgements, retries,
reconnecting, revoking."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from clawnet.core.callers import HUB
from clawnet.core.calls.accounts import DeleteAccount
from clawnet.core.calls.chat import JoinRoom, LeaveRoom
from clawnet.core.calls.worlds import CreateWorld
from clawnet.core.units import Put, Unit
from clawnet.doors.socketio import acks
from clawnet.doors.socketio.conversation import Conversations
from clawnet.doors.socketio.v2_resend import CHUNK_EVENTS
from clawnet.engines.memory import MemoryEngine
from clawnet.testing.clocks import FakeRandomness
from clawnet.testing.hubs import Gate, HubRig
from clawnet.testing.links import Heard, RecordingLink
from tests.doors.c2cp.conftest import Enter
from tests.doors.c2cp.test_v2 import dm, to_global, to_room


def never(heard: Heard) -> bool:
    return False


async def stored(rig: HubRig, channel: str) -> int:
    head = rig.hub.storage.engine.channel("main", channel)
    return 0 if head is None else head.last


async def test_a_lost_answer_and_a_retry_within_two_seconds_store_one_message(
    rig: HubRig, enter: Enter
) -> None:
    # The requirement's scenario, word by word: server running, two agents connected.
    one, two = await enter("one"), await enter("two")
    # 1. Send chat_send with id=msg-001 to global.  2. Simulate lost ACK (drop ack in client).
    first = one.send("chat_send", to_global("once", id="msg-001"))
    await rig.settle()
    lost = one.answers.pop(first)
    # 3. Retry send within 2s.
    await rig.clock.pass_time(1.5)
    again = await one.call("chat_send", to_global("once", id="msg-001"))
    # 4. Verify server stores only one message (dedupe).
    assert again == lost | {"deduped": True}
    await rig.clock.pass_time(60)
    assert await stored(rig, "public.lobby") == 1
    assert two.texts == ["once"]
    # The same key of another agent is another message.
    assert "deduped" not in await two.call("chat_send", to_global("once", id="msg-001"))
    assert await stored(rig, "public.lobby") == 2


async def test_a_refused_message_is_taken_later_with_the_same_key(
    rig: HubRig, enter: Enter
) -> None:
    ada, eve = await enter("ada"), await enter("eve")
    await ada.call("room_create", {"room": "den", "private": True})
    message = to_room("den", "hello", dedupe_key="k")
    assert (await eve.call("chat_send", message))["ok"] is False
    await ada.call("room_invite", {"room": "den", "agent": "eve"})
    await eve.call("room_join", {"room": "den"})
    sent = await eve.call("chat_send", message)
    assert sent["ok"]
    assert "deduped" not in sent
    other = await eve.call("chat_send", to_room("den", "other words", dedupe_key="k"))
    assert other["error"]["code"] == "dedupe_conflict"
    await rig.settle()
    assert ada.texts == ["hello"]


async def test_what_is_not_acknowledged_is_sent_again_until_it_is(
    rig: HubRig, enter: Enter
) -> None:
    ada, bob = await enter("ada"), await enter("bob", acks=never)
    await ada.call("chat_send", dm("bob", "first"))
    await rig.clock.pass_time(1.9)
    assert bob.texts == ["first"]
    # 2, 4, 8, 16 and 30 s after, give or take the second of a round; then no more.
    counts = []
    for seconds in (1.5, 5, 9, 17, 31, 120):
        await rig.clock.pass_time(seconds)
        counts.append(len(bob.texts))
    assert counts == [2, 3, 4, 5, 6, 6]
    # It is the same message each time, which the client knows by its id.
    assert len({data["id"] for data in bob.of("chat_message")}) == 1
    await ada.call("chat_send", dm("bob", "second"))
    await rig.settle()
    bob.ack(bob.heard[-1])
    await rig.clock.pass_time(120)
    assert bob.texts[6:] == ["second"]
    # The next connection begins at the first that was not acknowledged.
    again = await enter("bob")
    assert again.texts == ["first", "second"]
    await rig.clock.pass_time(1)
    assert (await enter("bob")).texts == []


async def test_what_was_acknowledged_is_remembered_over_a_crash(rig: HubRig, enter: Enter) -> None:
    ada = await enter("ada")
    await ada.call("room_join", {"room": "mill"})
    bob = await enter("bob", acks=never)
    await bob.call("room_join", {"room": "mill"})
    for number in range(6):
        await ada.call("chat_send", to_room("mill", str(number)))
    await rig.settle()
    assert bob.texts == list("012345")
    got = {h.data["payload"]["text"]: h for h in bob.heard if h.name == "chat_message"}
    bob.ack(got["4"])
    bob.ack(got["1"])
    assert (await bob.call("chat_ack", {"id": got["0"].data["id"]}))["ok"]
    await rig.clock.pass_time(0.2)
    # The hub is killed with acknowledgements beyond a gap in its memory alone.
    await rig.crash()
    talks = Conversations(rig.hub)
    link = RecordingLink(rig, talks)
    assert await link.connect(token=await rig.token("bob"), agent_id="bob", protocol=2)
    assert link.texts == ["2", "3", "4", "5"]
    three = next(h.data for h in link.heard if h.name == "chat_message")
    place = {"channel": "mill", "offset": three["offset"] + 3}
    assert (await link.call("chat_ack", place))["ok"]
    # In order, the marks are stored as the hub closes.
    await rig.restart()
    link = RecordingLink(rig, Conversations(rig.hub))
    assert await link.connect(token=await rig.token("bob"), agent_id="bob", protocol=2)
    await rig.clock.pass_time(120)
    assert link.texts == []


async def test_an_agent_killed_while_handling_is_given_it_again(rig: HubRig, enter: Enter) -> None:
    ada, bob = await enter("ada"), await enter("bob", acks=never)
    await ada.call("chat_send", dm("bob", "do it"))
    await rig.settle()
    assert bob.texts == ["do it"]
    bob.drop()
    again = await enter("bob")
    assert again.texts == ["do it"]
    assert again.of("chat_message")[0]["id"] == bob.of("chat_message")[0]["id"]


async def test_an_offline_agent_is_given_its_direct_messages_and_rooms_in_order(
    rig: HubRig, enter: Enter
) -> None:
    ada, cat = await enter("ada"), await enter("cat")
    dan = await rig.account("dan")
    await rig.hub.call(JoinRoom(room="mill"), caller=dan)
    await ada.call("chat_send", to_global("nobody waits for this"))
    for number in range(3):
        await ada.call("chat_send", dm("dan", f"a{number}"))
        await cat.call("chat_send", dm("dan", f"c{number}"))
        await ada.call("room_join", {"room": "mill"})
        await ada.call("chat_send", to_room("mill", f"r{number}"))
    # It was never here before.
    link = await enter("dan")
    assert link.texts == [f"{who}{number}" for number in range(3) for who in "acr"]
    await rig.clock.pass_time(120)
    assert len(link.texts) == 9


async def test_a_reconnect_in_the_middle_of_a_replay_goes_on_where_it_stopped(
    rig: HubRig, enter: Enter
) -> None:
    ada = await enter("ada")
    bob = await enter("bob")
    start = bob.of("session")[0]["cursor"]
    bob.drop()
    for number in range(900):
        ada.send("chat_send", to_global(str(number)))
        if number % 100 == 99:
            await rig.settle()
    await rig.settle()
    # The connection breaks in the middle: the client has what came until then.
    bob = await enter("bob", since=start)
    assert bob.session is not None
    cut = len(bob.texts)
    bob.drop()
    have = bob.of("chat_message")[: min(cut, 350)]
    cursor = have[-1]["cursor"] if have else start
    bob = await enter("bob", since=cursor)
    await rig.settle()
    assert [d["payload"]["text"] for d in have] + bob.texts == [str(n) for n in range(900)]
    # By calls, the same.
    got: list[str] = []
    while True:
        page = await bob.call("replay", {"since": start, "limit": 200})
        got += [event["payload"]["text"] for event in page["events"]]
        start = page["next"]
        if page["is_end"]:
            break
    assert got == [str(number) for number in range(900)]


async def test_the_global_room_is_told_again_from_where_an_agent_first_came(
    rig: HubRig, enter: Enter
) -> None:
    bob = await enter("bob")
    bob.drop()
    ada = await enter("ada")
    for number in range(3):
        await ada.call("chat_send", to_global(str(number)))
    cat = await enter("cat")
    assert cat.texts == []
    bob = await enter("bob")
    assert bob.texts == ["0", "1", "2"]
    await rig.clock.pass_time(1)
    assert (await enter("bob")).texts == []


async def test_a_gap_is_told(rig: HubRig, enter: Enter) -> None:
    ada, bob = await enter("ada"), await enter("bob", acks=never)
    since = bob.of("session")[0]["cursor"]
    for number in range(10):
        await ada.call("chat_send", dm("bob", str(number)))
    bob.drop()
    rig.engine.real.trim_channel("main", "dm.ada.bob", keep=4)
    back = await enter("bob", since=since, acks=never)
    await rig.settle()
    (gap,) = back.of("gap")
    assert (gap["channel"], gap["first"], gap["last"], gap["oldest"]) == ("dm.ada.bob", 1, 6, 7)
    assert back.texts == ["6", "7", "8", "9"]
    page = await back.call("replay", {"channel": "dm.ada.bob", "offset": 2})
    assert page["gap"] == {"asked": 2, "oldest": 7}
    assert [event["offset"] for event in page["events"]] == [7, 8, 9, 10]
    page = await back.call("replay", {"since": "zzzz-99"})
    assert page["gap"]["asked"] == "zzzz-99"


async def test_a_revoke_ends_what_waits_for_its_retry(rig: HubRig, enter: Enter) -> None:
    ada, bob = await enter("ada"), await enter("bob", acks=never)
    await ada.call("room_create", {"room": "den", "private": True})
    await ada.call("room_invite", {"room": "den", "agent": "bob"})
    await bob.call("room_join", {"room": "den"})
    await ada.call("chat_send", to_room("den", "secret"))
    await rig.clock.pass_time(2)
    count = len(bob.texts)
    owner = rig.hub.authenticate(await rig.token("ada"))
    await rig.hub.call(LeaveRoom(room="den", account="bob"), caller=owner)
    await rig.clock.pass_time(120)
    assert bob.texts == ["secret"] * count
    assert (await enter("bob")).texts == []

    # The same, at each of the moments in which a retry reads the log.
    for at in range(2):
        await ada.call("room_invite", {"room": "den", "agent": "bob"})
        bob = await enter("bob", acks=never)
        await bob.call("room_join", {"room": "den"})
        await ada.call("chat_send", to_room("den", f"again {at}"))
        told: list[int] = []

        async def put_out(bob: RecordingLink = bob, told: list[int] = told) -> None:
            await rig.hub.call(LeaveRoom(room="den", account="bob"), caller=owner)
            told.append(len(bob.texts))

        gate = Gate(rig.hub, at=at, action=put_out)
        await rig.clock.pass_time(60)
        assert gate.was_reached
        await gate.open()
        assert [len(bob.texts)] == told


async def test_a_history_answer_that_is_not_taken_yet_is_taken_back(
    rig: HubRig, enter: Enter
) -> None:
    ada, bob = await enter("ada"), await enter("bob")
    await ada.call("room_create", {"room": "den", "private": True})
    await ada.call("room_invite", {"room": "den", "agent": "bob"})
    await bob.call("room_join", {"room": "den"})
    await ada.call("chat_send", to_room("den", "secret"))
    bob.unsent_bytes = 10_000
    assert (await bob.call("replay", {"channel": "den"}))["ok"]
    owner = rig.hub.authenticate(await rig.token("ada"))
    await rig.hub.call(LeaveRoom(room="den", account="bob"), caller=owner)
    assert bob.retracted


@pytest.mark.parametrize("version", [1, 2])
async def test_who_is_put_out_before_its_joining_is_answered_is_not_told_who_is_in(
    rig: HubRig, enter: Enter, version: int
) -> None:
    ada, bob = await enter("ada"), await enter("bob", protocol=version)
    await ada.call("room_create", {"room": "den"})
    owner = rig.hub.authenticate(await rig.token("ada"))

    def retract() -> None:
        bob.heard.clear()
        bob.answers.clear()

    bob.unsent_bytes, bob.retract = 10_000, retract  # type: ignore[method-assign]
    for turns in range(1, 6):
        number = bob.send("join_room" if version == 1 else "room_join", {"room": "den"})
        for _ in range(turns):
            await asyncio.sleep(0)
        left = await rig.hub.call(LeaveRoom(room="den", account="bob"), caller=owner)
        assert left.changed
        await rig.settle()
        assert bob.answers.get(number, {}).get("members", []) == []
        assert bob.of("room_update") == []


async def test_a_hub_killed_between_storing_and_answering_has_one_message(
    rig: HubRig, enter: Enter
) -> None:
    ada, bob = await enter("ada"), await enter("bob")
    token = await rig.token("ada")
    ada.send("chat_send", dm("bob", "once", dedupe_key="k"))
    await rig.settle()
    # Stored; the answer is lost with the hub, and so is what was on its way to the reader.
    ada.answers.clear()
    await rig.crash()
    talks = Conversations(rig.hub)
    again = RecordingLink(rig, talks)
    assert await again.connect(token=token, agent_id="ada", protocol=2)
    answer = await again.call("chat_send", dm("bob", "once", dedupe_key="k"))
    assert answer["deduped"] is True
    reader = RecordingLink(rig, talks)
    assert await reader.connect(token=await rig.token("bob"), agent_id="bob", protocol=2)
    assert reader.texts == ["once"]
    assert reader.of("chat_message")[0]["id"] == bob.of("chat_message")[0]["id"]


async def test_worlds_do_not_hear_each_other(
    rig: HubRig, talks: Conversations, enter: Enter
) -> None:
    ada = await enter("ada", acks=never)
    admin = await rig.account("admin", role="master")
    made = await rig.hub.call(CreateWorld(id="other"), caller=admin)
    there = RecordingLink(rig, talks)
    assert await there.connect(token=made.token, agent_id="admin", protocol=2), there.refused
    await there.call("chat_send", to_global("over there"))
    await ada.call("chat_send", to_global("over here"))
    await rig.clock.pass_time(5)
    assert ada.texts == ["over here"]
    assert there.texts == ["over there"]
    # An acknowledgement of the other world's message is none of this one's.
    bob = await enter("bob", acks=never)
    await ada.call("chat_send", to_global("more"))
    await rig.settle()
    for heard in [one for one in there.heard if one.id is not None]:
        bob.ack(heard)
    await rig.clock.pass_time(4)
    assert bob.texts == ["more", "more"]
    page = await there.call("replay", {"since": there.of("session")[0]["cursor"]})
    assert [event["payload"]["text"] for event in page["events"]] == ["over there"]


async def test_the_newer_connection_wins(rig: HubRig, enter: Enter) -> None:
    ada = await enter("ada")
    old = await enter("bob", acks=never)
    await ada.call("chat_send", dm("bob", "one"))
    new = await enter("bob")
    assert old.is_disconnected
    assert new.texts == ["one"]
    await ada.call("chat_send", dm("bob", "two"))
    await rig.clock.pass_time(120)
    assert old.texts == ["one"]
    assert new.texts == ["one", "two"]
    assert rig.hub.presence.status("main", "bob") == "online"
    # What the older one says behind that has no effect.
    old.send("chat_send", to_global("from the grave"))
    await rig.settle()
    assert ada.texts == ["one", "two"]


async def test_a_client_that_reads_slowly_is_given_nothing_twice(rig: HubRig, enter: Enter) -> None:
    ada, bob = await enter("ada"), await enter("bob")
    assert bob.session is not None
    bob.session.pause()
    for number in range(5):
        await ada.call("chat_send", dm("bob", str(number)))
    await rig.clock.pass_time(5)
    assert bob.texts == []
    bob.session.resume()
    await rig.clock.pass_time(60)
    assert bob.texts == list("01234")


async def test_a_slow_reader_who_acknowledges_nothing_is_given_each_message_six_times(
    rig: HubRig, enter: Enter
) -> None:
    ada, bob = await enter("ada"), await enter("bob", acks=never)
    count = CHUNK_EVENTS + 50
    for number in range(count):
        ada.send("chat_send", dm("bob", str(number)))
        if number % 50 == 0:
            await rig.settle()
    await rig.settle()
    assert bob.session is not None
    assert len(bob.texts) == count
    session, loop = bob.session, asyncio.get_running_loop()

    def full(heard: Heard) -> bool:
        # Its transport is full by each chunk, and empty a little later.
        if not session.is_paused:
            session.pause()
            loop.call_later(0.01, session.resume)
        return False

    bob.acks = full
    await rig.clock.pass_time(120)
    assert Counter(bob.texts) == {str(number): 6 for number in range(count)}


async def test_a_late_acknowledgement_means_nothing_to_another_hub(
    rig: HubRig, enter: Enter
) -> None:
    # Clients acknowledge by the connection that they have, be it another one by then.
    ada, bob = await enter("ada"), await enter("bob", acks=never)
    await ada.call("chat_send", dm("bob", "before"))
    await rig.settle()
    (late,) = [heard.id for heard in bob.heard if heard.name == "chat_message"]
    assert late is not None
    assert (await bob.call("chat_ack", {"channel": "dm.ada.bob", "offset": 1}))["ok"]
    await rig.restart()
    talks = Conversations(rig.hub)
    ada, bob = RecordingLink(rig, talks), RecordingLink(rig, talks)
    for name, link in (("ada", ada), ("bob", bob)):
        assert await link.connect(token=await rig.token(name), agent_id=name, protocol=2)
    # Here another channel is the first to have a number.
    await ada.call("chat_send", to_global("after"))
    await rig.settle()
    assert bob.texts == ["after"]
    bob.talk.acknowledged(late, [])
    await rig.clock.pass_time(5)
    assert bob.texts == ["after"] * 2


async def test_marks_of_a_log_that_is_gone_hide_nothing_and_those_of_the_deleted_go(
    rig: HubRig, enter: Enter
) -> None:
    ada, bob = await enter("ada"), await enter("bob")
    await enter("cat")
    for number in range(5):
        await ada.call("chat_send", dm("bob", str(number)))
        await ada.call("chat_send", dm("cat", str(number)))
    await rig.clock.pass_time(1)
    marks = json.loads(next(e for e in rig.engine.scan("marks") if e.key.endswith("/bob")).value)
    assert marks["dm.ada.bob"][1] == 5
    await rig.hub.call(DeleteAccount(id="cat"), caller=HUB)
    # The log is lost, what the hub knows of accounts and marks is not.
    state = [entry for kind in ("account", "marks", "token") for entry in rig.engine.scan(kind)]
    rig.engine.real = MemoryEngine(clock=rig.clock, randomness=FakeRandomness("another"))
    rig.engine.commit([Unit(changes=tuple(Put(e.key, e.value, None) for e in state))])
    await rig.crash()
    talks = Conversations(rig.hub)
    ada, bob = RecordingLink(rig, talks), RecordingLink(rig, talks)
    for name, link in (("ada", ada), ("bob", bob)):
        assert await link.connect(token=await rig.token(name), agent_id=name, protocol=2)
    for text in ("six", "seven"):
        await ada.call("chat_send", dm("bob", text))
    await rig.settle()
    bob.ack(next(heard for heard in bob.heard if heard.name == "chat_message"))
    await rig.clock.pass_time(5)
    assert bob.texts == ["six", "seven", "seven"]
    bob = RecordingLink(rig, talks)
    assert await bob.connect(token=await rig.token("bob"), agent_id="bob", protocol=2)
    assert bob.texts == ["seven"]
    assert not [entry for entry in rig.engine.scan("marks") if entry.key.endswith("/cat")]


async def test_acknowledgements_of_nothing_do_nothing(rig: HubRig, enter: Enter) -> None:
    ada, bob = await enter("ada"), await enter("bob", acks=never)
    await ada.call("chat_send", dm("bob", "hello"))
    await rig.settle()
    own = bob.heard[-1].id
    assert own is not None
    for wrong in (0, 1, -1, own + 7, 1 << 60, (1 << 52) + 3, own + (1 << acks.OFFSET_BITS)):
        bob.talk.acknowledged(wrong, [{"x": 1}])
    bob.talk.acknowledged(own, [])
    ada.talk.acknowledged(own, [])
    assert (await bob.call("chat_ack", {"channel": "dm.ada.bob", "offset": 10**9}))["ok"]
    await ada.call("chat_send", dm("bob", "more"))
    bob.drop()
    assert (await enter("bob")).texts == ["more"]
