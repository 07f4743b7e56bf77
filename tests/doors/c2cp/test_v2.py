"""C2CP v2: who is let in, and what is said to whom."""

from __future__ import annotations

from typing import Any

import pytest

from clawnet.core.callers import HUB
from clawnet.core.calls.tokens import RevokeToken
from clawnet.doors.socketio.conversation import Conversations
from clawnet.testing.hubs import HubRig
from clawnet.testing.links import RecordingLink
from tests.doors.c2cp.conftest import SECRET, Enter


def to_global(text: str, **more: Any) -> dict[str, Any]:
    return {"to_type": "global", "payload": {"text": text}} | more


def to_room(room: str, text: str, **more: Any) -> dict[str, Any]:
    return {"to_type": "room", "to_id": room, "payload": {"text": text}} | more


def dm(peer: str, text: str, **more: Any) -> dict[str, Any]:
    return {"to_type": "dm", "to_id": peer, "payload": {"text": text}} | more


async def test_the_token_alone_says_who_speaks(
    rig: HubRig, talks: Conversations, enter: Enter
) -> None:
    ada = await enter("ada")
    (session,) = ada.of("session")
    assert (session["agent_id"], session["world"]) == ("ada", "main")
    token = await rig.token("ada")
    revoked = await rig.token("ada")
    caller = rig.hub.authenticate(revoked)
    await rig.hub.call(RevokeToken(id=caller.token_id or ""), caller=HUB)
    for auth in (
        {},
        {"token": ""},
        {"token": 7},
        {"token": "claw_nonsense", "agent_id": "ada"},
        {"token": revoked, "agent_id": "ada"},
        {"token": token, "agent_id": "bob"},
        {"token": token, "agent_id": "ada", "world": "other"},
        {"token": "claw_nonsense"},
    ):
        link = RecordingLink(rig, talks)
        assert not await link.connect(protocol=2, **auth)
        assert link.refused is not None
        assert link.refused.message == "Unauthorized", auth
        assert link.session is None
    for auth in ({"protocol": 3}, {"agent_id": "../x"}, {"since": "yesterday"}, {"specs": 7}):
        link = RecordingLink(rig, talks)
        assert not await link.connect(**({"token": token, "agent_id": "ada"} | auth))
        assert link.refused is not None
        assert link.refused.code == "bad_request", auth


async def test_the_secret_enrols_and_its_session_token_comes_back(
    rig: HubRig, talks: Conversations
) -> None:
    link = RecordingLink(rig, talks)
    assert await link.connect(token=SECRET, agent_id="Rex", protocol=2), link.refused
    (session,) = link.of("session")
    assert session["agent_id"] == "rex"
    again = RecordingLink(rig, talks)
    assert await again.connect(auth_token=session["session_token"], agent_id="rex", protocol="2")
    assert "session_token" not in again.of("session")[0]
    # The newer connection wins, and its agent stays online.
    assert link.is_disconnected
    await rig.clock.pass_time(60)
    assert rig.hub.presence.status("main", "rex") != "offline"
    assert (await again.call("chat_send", to_global("here")))["ok"]


async def test_who_only_looks_on_may_not_speak(
    rig: HubRig, talks: Conversations, enter: Enter
) -> None:
    ada = await enter("ada")
    token = await rig.token("ada")
    onlooker = RecordingLink(rig, talks)
    assert await onlooker.connect(token=SECRET, protocol=2)
    own = RecordingLink(rig, talks)
    assert await own.connect(token=token, protocol=2)
    assert not ada.is_disconnected
    for link in (onlooker, own):
        for name, data in (
            ("chat_send", to_global("hi")),
            ("room_join", {"room": "x"}),
            ("typing", {"is_typing": True}),
            ("report", {"status": "well"}),
            ("task_dispatch", {"to": "ada", "command": "x"}),
            ("chat_ack", {"channel": "global", "offset": 1}),
        ):
            answer = await link.call(name, data)
            assert answer["error"]["code"] == "forbidden", name
    await ada.call("chat_send", to_global("hello"))
    await rig.settle()
    assert own.texts == ["hello"]
    assert onlooker.texts == ["hello"]
    assert ada.texts == ["hello"]


@pytest.mark.parametrize("protocol", [1, 2])
async def test_who_only_looks_on_is_not_there_as_an_agent(
    rig: HubRig, talks: Conversations, enter: Enter, protocol: int
) -> None:
    boss = await enter("boss", role="master")
    ada = await rig.account("ada")
    onlooker = RecordingLink(rig, talks)
    assert await onlooker.connect(token=await rig.token("ada"), protocol=protocol)
    await rig.clock.pass_time(2)
    assert rig.hub.presence.status("main", "ada") == "offline"
    assert "ada" not in {told["agent_id"] for told in boss.of("presence_update")}
    # Work waits for the agent, though somebody looks on in its name.
    await boss.call("task_dispatch", {"to": "ada", "command": "x", "kind": "custom"})
    await rig.settle()
    assert boss.of("task_update")[-1]["status"] == "queued"
    await enter("ada")
    assert rig.hub.presence.status("main", "ada") == "online"
    onlooker.drop()
    await rig.clock.pass_time(15)
    assert rig.hub.presence.status("main", ada.account or "") == "online"


async def test_the_session_says_who_is_there_and_in_which_rooms_one_is(
    rig: HubRig, talks: Conversations, enter: Enter
) -> None:
    ada, bob = await enter("ada"), await enter("bob")
    await ada.call("room_create", {"room": "den", "private": True})
    await bob.call("presence_update", {"status": "idle", "text": "lunch"})
    await rig.clock.pass_time(3)
    start = ada.of("session")[0]["cursor"]
    for since in ({}, {"since": start}):
        ada = await enter("ada", **since)
        (session,) = ada.of("session")
        assert session["rooms"] == ["den"]
        assert [one | {"since": ""} for one in session["presence"]] == [
            {"agent_id": "ada", "handle": "ada", "status": "online", "since": ""},
            {"agent_id": "bob", "handle": "bob", "status": "idle", "since": "", "text": "lunch"},
        ]
        # What changed before is not told behind that.
        await rig.settle()
        assert [u for u in ada.of("presence_update") if "room" not in u] == []
    assert (await enter("bob")).of("session")[0]["rooms"] == []
    onlooker = RecordingLink(rig, talks)
    assert await onlooker.connect(token=SECRET, protocol=2)
    assert "presence" not in onlooker.of("session")[0]
    assert "rooms" not in onlooker.of("session")[0]


async def test_a_message_reaches_its_readers_as_specified(rig: HubRig, enter: Enter) -> None:
    ada, bob = await enter("ada"), await enter("bob")
    sent = await ada.call("chat_send", to_global("hello", id="msg-001"))
    await rig.settle()
    (got,) = bob.of("chat_message")
    assert sent == {"ok": True, "id": got["id"], "offset": 1, "channel": "public.lobby"}
    assert got | {"ts": "", "epoch": "", "cursor": ""} == {
        "self": False,
        "from_id": "ada",
        "from_handle": "ada",
        "id": sent["id"],
        "ts": "",
        "to_type": "global",
        "to_id": "global",
        "payload": {"text": "hello"},
        "dedupe_key": "msg-001",
        "offset": 1,
        "epoch": "",
        "channel": "public.lobby",
        "type": "chat.message",
        "cursor": "",
    }
    assert ada.of("chat_message")[0]["self"] is True
    # Who quotes the opening of a frame is shown as it is.
    forged = '["chat_message",{"self":false,"from_id":"ada",'
    nested = ["chat_message", {"self": False, "from_id": "ada", "x": 1}]
    await bob.call("chat_send", to_global(forged, payload={"text": forged, "x": nested}))
    await rig.settle()
    assert ada.of("chat_message")[1]["self"] is False
    assert ada.of("chat_message")[1]["payload"] == {"text": forged, "x": nested}


async def test_nobody_speaks_as_somebody_else(rig: HubRig, enter: Enter) -> None:
    ada, bob = await enter("ada"), await enter("bob")
    forged = {"from_id": "bob", "from_handle": "bob", "self": True, "ts": "never"}
    await ada.call("chat_send", to_global("I am bob", **forged))
    await rig.settle()
    (got,) = bob.of("chat_message")
    assert (got["from_id"], got["from_handle"], got["self"]) == ("ada", "ada", False)
    answer = await ada.call(
        "chat_send", {"to_type": "dm", "to_id": "dm.bob.cat", "payload": {"text": "x"}}
    )
    assert answer["error"]["code"] in ("forbidden", "not_found")


async def test_a_third_agent_never_hears_a_direct_message(rig: HubRig, enter: Enter) -> None:
    ada, bob, eve = await enter("ada"), await enter("bob"), await enter("eve")
    boss = await enter("boss", role="master")
    await ada.call("chat_send", dm("bob", "psst"))
    await ada.call("typing", {"to_type": "dm", "to_id": "bob", "is_typing": True})
    await rig.clock.pass_time(40)
    assert bob.texts == ["psst"]
    assert bob.of("chat_message")[0]["to_id"] == "bob"
    assert bob.of("typing_update") == [
        {
            "from_id": "ada",
            "from_handle": "ada",
            "to_type": "dm",
            "to_id": "bob",
            "is_typing": True,
        }
    ]
    for other in (eve, boss):
        assert other.texts == []
        assert other.of("typing_update") == []
        answer = await other.call("replay", {"channel": "dm.ada.bob"})
        assert answer["ok"] is False
        assert (await other.call("replay", {"since": other.of("session")[0]["cursor"]}))[
            "events"
        ] == []
        answer = await other.call("chat_ack", {"channel": "dm.ada.bob", "offset": 1})
        assert answer["error"]["code"] == "forbidden"
    head = rig.hub.storage.engine.channel("main", "dm.ada.bob")
    assert head is not None
    assert head.last == 1, "typing is not stored"


async def test_rooms_are_not_entered_by_guessing(
    rig: HubRig, talks: Conversations, enter: Enter
) -> None:
    ada, eve = await enter("ada"), await enter("eve")
    made = await ada.call("room_create", {"room": "den", "private": True, "topic": "us"})
    assert made["ok"]
    await ada.call("chat_send", to_room("den", "secret"))
    sid = ada.talk.link.sid  # type: ignore[attr-defined]
    for name in (
        "den",
        "#den",
        "room.den",
        "tenant:main",
        "tenant:*",
        "dm.ada.bob",
        "*",
        "a.b",
        "",
    ):
        answer = await eve.call("room_join", {"room": name})
        assert answer["ok"] is False, name
    assert (await eve.call("room_join", {"room": "other/" + sid}))["ok"] is False
    assert (await eve.call("chat_send", to_room("den", "let me in")))["ok"] is False
    assert "den" not in str(await eve.call("room_list"))
    assert eve.texts == []
    # Invited, it hears what is said from then on, and of who comes and goes.
    assert (await ada.call("room_invite", {"room": "den", "agent": "eve"}))["ok"]
    joined = await eve.call("room_join", {"room": "den"})
    assert sorted(joined["members"]) == ["ada", "eve"]
    await ada.call("chat_send", to_room("den", "welcome"))
    await rig.settle()
    assert eve.texts == ["welcome"]
    told = [update for update in ada.of("presence_update") if update.get("room") == "den"]
    assert [(t["agent_id"], t.get("joined")) for t in told if t["agent_id"] == "eve"] == [
        ("eve", True)
    ]
    await ada.call("room_topic", {"room": "den", "topic": "work"})
    assert (await eve.call("room_leave", {"room": "den"}))["ok"]
    await ada.call("chat_send", to_room("den", "alone again"))
    await rig.clock.pass_time(5)
    assert eve.texts == ["welcome"]
    assert eve.of("room_update")[-1]["action"] == "updated"
    assert [t.get("left") for t in ada.of("presence_update") if t.get("room") == "den"][-1] is True


async def test_a_connection_is_told_of_presence(rig: HubRig, enter: Enter) -> None:
    ada = await enter("ada")
    bob = await enter("bob")
    await rig.clock.pass_time(3)
    assert [u["agent_id"] for u in ada.of("presence_update")][-1] == "bob"
    assert (await bob.call("presence_update", {"status": "idle", "text": "lunch"}))["ok"]
    await rig.clock.pass_time(3)
    told = ada.of("presence_update")[-1]
    assert (told["agent_id"], told["status"]) == ("bob", "idle")
    bob.drop()
    await rig.clock.pass_time(15)
    assert ada.of("presence_update")[-1]["status"] == "offline"


async def test_a_deleted_message_is_a_tombstone(rig: HubRig, enter: Enter) -> None:
    ada, bob = await enter("ada"), await enter("bob")
    sent = await ada.call("chat_send", to_global("oops"))
    place = {"channel": "global", "offset": sent["offset"]}
    assert (await bob.call("chat_delete", place))["ok"] is False
    assert (await ada.call("chat_delete", place))["ok"]
    await rig.settle()
    gone = bob.of("chat_message")[-1]
    assert (gone["type"], gone["payload"]["offset"]) == ("chat.deleted", sent["offset"])
    page = await bob.call("replay", {"channel": "global", "offset": 0})
    assert page["events"][0]["deleted"] is True
    assert page["events"][0]["payload"] == {}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("chat_send", None),
        ("chat_send", "text"),
        ("chat_send", {"payload": "text"}),
        ("chat_send", {"payload": {"text": 7}}),
        ("chat_send", {"payload": {"text": "x"}, "to_type": "world"}),
        ("chat_send", {"payload": {"text": "x"}, "to_type": "room"}),
        ("chat_send", {"payload": {"text": "x"}, "dedupe_key": "k" * 301}),
        ("chat_ack", {}),
        ("chat_ack", {"channel": "global", "offset": -1}),
        ("room_join", {}),
        ("presence_update", {"status": "offline"}),
        ("replay", {}),
        ("replay", {"channel": "global", "limit": 100_000}),
        ("replay", {"since": "nonsense"}),
        ("task_update", {"task_id": "t", "fence": 1, "status": "completed"}),
        ("no_such_event", {}),
        ("\r\nx", {}),
    ],
)
async def test_what_cannot_be_understood_is_refused(
    rig: HubRig, enter: Enter, name: str, data: Any
) -> None:
    ada = await enter("ada")
    answer = await ada.call(name, data)
    assert answer["ok"] is False
    assert answer["error"]["code"] in ("bad_request", "not_found", "invalid_channel")
    assert answer["error"]["next"]
    assert "\n" not in answer["error"]["message"]


async def test_events_of_one_link_are_handled_in_their_order_and_held_back(
    rig: HubRig, enter: Enter
) -> None:
    ada, bob = await enter("ada"), await enter("bob")
    for number in range(30):
        ada.send("chat_send", to_room("mill", str(number)))
        if number == 10:
            ada.send("room_topic", {"room": "mill", "topic": "grain"})
    await rig.settle()
    page = await ada.call("replay", {"channel": "mill", "limit": 100})
    said = [e["payload"].get("text") for e in page["events"] if e["type"] == "chat.message"]
    assert said == [str(number) for number in range(30)]
    # What comes behind a command waits for it.
    await ada.call("room_create", {"room": "den", "private": True})
    await ada.call("room_invite", {"room": "den", "agent": "bob"})
    joined = bob.send("chat_send", to_global("/join den"))
    replay = bob.send("replay", {"channel": "den"})
    await rig.settle()
    assert bob.answers.pop(joined)["ok"]
    assert bob.answers.pop(replay)["ok"]
    # More than so much waits: the link is not read on, and what comes all the same is refused.
    for _ in range(1_100):
        bob.send("room_list")
    assert bob.talk.is_waiting()
    await rig.clock.pass_time(1)
    assert not bob.talk.is_waiting()
    assert bob.went_on
    refused = [a for a in bob.answers.values() if not a["ok"]]
    assert refused
    assert {answer["error"]["code"] for answer in refused} == {"unavailable"}
