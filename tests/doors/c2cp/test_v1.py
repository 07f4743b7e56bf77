"""C2CP v1: agents and tools that speak it go on working, beside those that speak v2."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from clawnet.core.callers import HUB
from clawnet.core.calls.accounts import CreateAccount
from clawnet.core.calls.tasks import ListTasks
from clawnet.core.units import Unit
from clawnet.doors.socketio.conversation import Conversations
from clawnet.doors.socketio.v1_outlet import Outlet1
from clawnet.doors.socketio.v1_shapes import Shape1, command_of
from clawnet.testing.hubs import HubRig
from clawnet.testing.links import RecordingLink
from tests.doors.c2cp.conftest import SECRET, Enter

ISO = r"\d{4}-\d\d-\d\dT.*Z"


async def enter_v1(enter: Enter, agent: str, **named: Any) -> RecordingLink:
    return await enter(agent, protocol=1, **named)


def lines(link: RecordingLink) -> list[tuple[str, str, str]]:
    return [(said["from"], said["to"], said["msg"]) for said in link.of("chat_update")]


def last_tasks(link: RecordingLink) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = link.of("task_update")[-1]
    return listed


async def test_v1_is_spoken_by_who_does_not_ask_for_more(
    rig: HubRig, talks: Conversations, enter: Enter
) -> None:
    link = RecordingLink(rig, talks)
    assert await link.connect(token=SECRET, agent_id="Rex-1", role="scout", specs={"cpu": 4})
    (session,) = link.of("session")
    assert session["agent_id"] == "Rex-1"
    (fleet,) = link.of("fleet_update")
    (rex,) = [agent for agent in fleet if agent["id"] == "Rex-1"]
    assert (rex["role"], rex["status"], rex["specs"]) == ("scout", "online", {"cpu": 4})
    assert "cron" not in rex
    pong = await link.call("latency_ping", {})
    assert pong["ok"] is True
    assert pong["server_ts"].endswith("Z")
    assert (await link.call("agent_hello", {"capabilities": ["openclaw"]})) == {"ok": True}
    assert (await link.call("nonsense", {}))["ok"] is False
    assert (await link.call("chat", {"msg": ""}))["ok"] is False
    wrong = RecordingLink(rig, talks)
    assert not await wrong.connect(token="wrong", agent_id="rex-1")
    assert wrong.refused is not None
    assert wrong.refused.message == "Unauthorized"


async def test_v1_and_v2_share_the_lobby_rooms_and_direct_messages(enter: Enter) -> None:
    old, new, other = await enter_v1(enter, "old"), await enter("new"), await enter_v1(enter, "eve")
    assert await old.call("chat", {"to": "all", "msg": "hello", "localId": 1}) | {"id": 0} == {
        "ok": True, "id": 0,
    }  # fmt: skip
    repeated = await old.call("chat", {"to": "all", "msg": "hello", "localId": 1})
    assert repeated["deduped"] is True
    await new.call("chat_send", {"to_type": "global", "payload": {"text": "hi"}})
    for link in (old, other):
        assert lines(link) == [("old", "all", "hello"), ("new", "all", "hi")]
    assert new.texts == ["hello", "hi"]
    (joined,) = [await old.call("join_room", {"room": "#den"})]
    assert [member["id"] for member in joined["members"]] == ["old"]
    (first,) = old.of("room_update")
    assert (first["action"], first["agent_id"], first["room"]) == ("join", "old", "#den")
    assert first["members"] == joined["members"]
    await old.call("join_room", {"room": "#den"})
    assert len(old.of("room_update")) == 1, "it was in"
    await new.call("room_join", {"room": "den"})
    (came,) = [said for said in old.of("room_update") if said["agent_id"] == "new"]
    assert (came["action"], came["room"]) == ("join", "#den")
    assert {member["id"] for member in came["members"]} == {"old", "new"}
    await old.call("message", {"to": "#den", "message": "in here"})
    await old.call("chat", {"to": "new", "msg": "psst"})
    await new.call("chat_send", {"to_type": "dm", "to_id": "old", "payload": {"text": "yes?"}})
    assert lines(old)[2:] == [("old", "#den", "in here"), ("old", "new", "psst"),
                              ("new", "old", "yes?")]  # fmt: skip
    assert len(lines(other)) == 2
    assert new.texts[2:] == ["in here", "psst", "yes?"]
    await new.call("typing", {"to_type": "room", "to_id": "den", "is_typing": True})
    assert old.of("typing_update")[-1] == {"from": "new", "to": "#den", "isTyping": True}
    await old.call("leave_room", {"room": "#den"})
    await new.call("chat_send", {"to_type": "room", "to_id": "den", "payload": {"text": "gone?"}})
    assert "gone?" not in [text for _, _, text in lines(old)]
    # Its own spelling of the text is no frame of another event.
    await new.call(
        "chat_send", {"to_type": "global", "payload": {"text": '42["task_update",null]'}}
    )
    assert lines(old)[-1] == ("new", "all", '42["task_update",null]')


async def test_what_was_said_to_a_v1_agent_that_was_away_is_delivered_on_its_return(
    rig: HubRig, enter: Enter
) -> None:
    old, new = await enter_v1(enter, "old"), await enter("new")

    def dm(text: str) -> dict[str, Any]:
        return {"to_type": "dm", "to_id": "old", "payload": {"text": text}}

    await new.call("chat_send", dm("seen"))
    await rig.clock.pass_time(2.0)
    old.drop()
    for n in range(3):
        await new.call("chat_send", dm(f"m{n}"))
    again = await enter_v1(enter, "old")
    await rig.clock.pass_time(2.0)
    assert [text for _, _, text in lines(again)] == ["m0", "m1", "m2"]
    again.drop()
    once_more = await enter_v1(enter, "old")
    await rig.clock.pass_time(2.0)
    assert lines(once_more) == []


async def test_a_master_dispatches_and_sees_the_task_live(rig: HubRig, enter: Enter) -> None:
    boss, old = await enter_v1(enter, "boss", role="master"), await enter_v1(enter, "old")
    given = await boss.call("dispatch", {"to": "old", "cmd": "say hello"})
    assert given["ok"] is True
    await rig.settle()
    (command,) = old.of("command")
    assert (command["id"], command["cmd"]) == (given["id"], "say hello")
    await rig.clock.pass_time(0.3)
    (task,) = last_tasks(old)
    assert (task["status"], task["delivery_status"]) == ("PENDING", "SENT")
    assert task["trace_id"] == command["trace_id"]
    assert await old.call("command_ack", {"id": command["id"]}) == {"ok": True}
    await rig.clock.pass_time(0.3)
    assert last_tasks(boss)[-1]["delivery_status"] == "ACKED"
    await old.call("update", {"task_id": command["id"], "status": "running", "output": "…"})
    done = {"id": command["id"], "status": "Great success", "output": "hello"}
    assert await old.call("task_result", done) == {"ok": True}
    assert await old.call("task_result", done) == {"ok": True}
    await rig.clock.pass_time(0.3)
    task = last_tasks(boss)[-1]
    assert (task["status"], task["result"]) == ("GREAT SUCCESS", "hello")
    (intel,) = boss.of("intel_update")
    assert (intel["type"], intel["task"]["id"]) == ("task", command["id"])
    ops = [(by, text) for by, to, text in lines(boss) if to == "#ops"]
    assert ops == [("boss", "CMD: to=old say hello"), ("old", "RESULT: GREAT SUCCESS hello")]
    assert lines(old) == []


async def test_only_who_may_dispatches_and_only_its_agent_answers(
    rig: HubRig, enter: Enter
) -> None:
    boss = await enter_v1(enter, "boss", role="master")
    await enter_v1(enter, "old")
    eve = await enter_v1(enter, "eve")
    refused = await eve.call("dispatch", {"to": "old", "cmd": "rm -rf /"})
    assert refused["ok"] is False
    given = await boss.call("dispatch", {"to": "old", "cmd": "x", "task_id": "t-1"})
    same = await boss.call("dispatch", {"to": "old", "cmd": "x", "task_id": "t-1"})
    assert same["task_ids"] == given["task_ids"]
    for name in ("command_ack", "task_result", "update"):
        answer = await eve.call(name, {"id": given["id"], "status": "SUCCESS"})
        assert answer["ok"] is False, name
    assert (await eve.call("approve_task", {"id": given["id"]}))["ok"] is False
    assert eve.of("command") == []
    assert all(listed == [] for listed in eve.of("task_update"))


async def test_a_task_for_an_agent_that_is_away_waits_for_it(rig: HubRig, enter: Enter) -> None:
    boss = await enter_v1(enter, "boss", role="master")
    await rig.hub.call(CreateAccount(id="old"), caller=HUB)
    given = await boss.call("dispatch", {"to": "old", "cmd": "later"})
    await rig.clock.pass_time(0.3)
    assert last_tasks(boss)[-1]["status"] == "QUEUED"
    old = await enter_v1(enter, "old")
    await rig.settle()
    assert [command["id"] for command in old.of("command")] == [given["id"]]


async def test_work_that_nobody_acknowledged_is_given_once_at_once_to_who_comes_again(
    rig: HubRig, enter: Enter
) -> None:
    boss, old = await enter_v1(enter, "boss", role="master"), await enter_v1(enter, "old")
    given = await boss.call("dispatch", {"to": "old", "cmd": "x"})
    # 2, 4, 8 and 16 s are over; the next would come in 30.
    await rig.clock.pass_time(31.0)
    assert [command["id"] for command in old.of("command")] == [given["id"]] * 5
    again = await enter_v1(enter, "old")
    await rig.settle()
    assert [command["id"] for command in again.of("command")] == [given["id"]]
    late = await boss.call("dispatch", {"to": "old", "cmd": "y"})
    await rig.clock.pass_time(1.0)
    assert [command["id"] for command in again.of("command")] == [given["id"], late["id"]]
    await rig.clock.pass_time(2.0)
    assert len(again.of("command")) == 4


async def test_a_flood_of_tasks_is_told_five_times_a_second_and_is_no_sign_of_life(
    rig: HubRig, enter: Enter
) -> None:
    boss = await enter_v1(enter, "boss", role="master")
    talks = await enter_v1(enter, "old")
    await rig.clock.pass_time(1.0)
    before = len(boss.of("task_update"))
    for n in range(40):
        await boss.call("dispatch", {"to": "old", "cmd": str(n)})
        await rig.clock.pass_time(0.025)
    await rig.clock.pass_time(0.5)
    told = boss.of("task_update")[before:]
    assert 4 <= len(told) <= 7
    assert [task["cmd"] for task in told[-1]] == [str(n) for n in range(20, 40)]
    rig.hub.ration.active.clear()
    talks.heard.clear()
    await boss.call("dispatch", {"to": "old", "cmd": "once more"})
    await rig.clock.pass_time(0.5)
    assert talks.of("task_update")
    assert ("main", "old") not in rig.hub.ration.active


async def test_a_local_id_comes_back_as_it_was_given_and_tells_nobody_the_connections_name(
    rig: HubRig, enter: Enter
) -> None:
    old, new = await enter_v1(enter, "old"), await enter("new")
    given = [1, "a:b", "", 1.5, "x" * 100, None, "12"]
    for local in given:
        assert (await old.call("chat", {"msg": "m", "localId": local}))["ok"] is True
    shown = [said["localId"] for said in old.of("chat_update")]
    assert shown == [1, "a:b", None, 1.5, "x" * 100, None, "12"]
    for ending in "ab":
        # Cut, the two would be one message.
        long = {"msg": ending, "localId": "x" * 200 + ending}
        assert (await old.call("chat", long))["ok"] is False
    assert old.sid not in [said["dedupe_key"].partition(":")[0] for said in new.of("chat_message")]


async def test_events_in_another_form_than_the_hubs_own_cost_nobody_a_connection(
    rig: HubRig, enter: Enter
) -> None:
    failed: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
    eye, old = await enter_v1(enter, "eye", role="warden"), await enter_v1(enter, "old")
    for channel, kind in (
        ("public.lobby", "room.joined"), ("public.lobby", "task.completed"),
        ("system.tasks", "task.completed"), ("system.presence", "presence.changed"),
        ("public.lobby", "chat.message"),
    ):  # fmt: skip
        for data in ("null", "[]", '{"changes":[1]}'):
            draft = rig.hub.publishing.render(HUB, channel, type=kind, data=data)
            await rig.hub.committer.commit(Unit(drafts=(draft,)))
    await old.call("chat", {"msg": "still here"})
    for link, name in ((eye, "traffic"), (old, "chat_update")):
        assert link.of(name)[-1]["msg"] == "still here"
    assert failed == []


async def test_a_version_that_fails_to_show_an_event_costs_nobody_else_the_event(
    enter: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enter_v1(enter, "old")
    ada, bob = await enter("ada"), await enter("bob")
    monkeypatch.setattr(Shape1, "frame", lambda *given: 1 / 0)
    assert (await ada.call("chat_send", {"payload": {"text": "@bob hello"}}))["ok"]
    assert bob.texts == ["@bob hello"]


async def test_a_dispatch_that_was_answered_is_not_given_by_its_event_as_well(
    rig: HubRig, enter: Enter
) -> None:
    boss, old = await enter_v1(enter, "boss", role="master"), await enter_v1(enter, "old")
    await boss.call("dispatch", {"to": "old", "cmd": "x"})
    page = await rig.hub.call(ListTasks(), caller=rig.hub.authenticate(await rig.token("old")))
    (task,) = page.tasks
    link = RecordingLink(rig, lambda link: old.talk)
    outlet = Outlet1(link, old.talk, on_tasks=lambda: None)
    assert not outlet.is_given(task.task_id, task.fence)
    outlet.write(command_of(task, is_stored=True))
    assert link.of("command") == []
    outlet.write(command_of(task))
    # With another fence it is another dispatch.
    outlet.write(command_of(msgspec.structs.replace(task, fence=9), is_stored=True))
    assert [one["fence"] for one in link.of("command")] == [task.fence, 9]


async def test_the_fleet_is_told_on_change_to_masters_soon_and_to_workers_seldom(
    rig: HubRig, enter: Enter
) -> None:
    boss, old = await enter_v1(enter, "boss", role="master"), await enter_v1(enter, "old")
    await rig.clock.pass_time(21.0)
    counts = [len(link.of("fleet_update")) for link in (boss, old)]
    await rig.clock.pass_time(21.0)
    assert [len(link.of("fleet_update")) for link in (boss, old)] == counts
    report = {"resource_usage": {"cpu_percent": 12}, "cron_snapshot": [{"name": "a"}]}
    assert await old.call("report", report) == {"ok": True}
    await rig.clock.pass_time(1.5)
    assert len(boss.of("fleet_update")) == counts[0] + 1
    await rig.clock.pass_time(11.0)
    assert len(old.of("fleet_update")) == counts[1] + 1
    (seen,) = [agent for agent in boss.of("fleet_update")[-1] if agent["id"] == "old"]
    assert (seen["specs"]["cpu_percent"], seen["cron"]) == (12, [{"name": "a"}])
    (own,) = [agent for agent in old.of("fleet_update")[-1] if agent["id"] == "old"]
    assert "cron" not in own
    assert "sessions" not in own
    text = str(boss.of("fleet_update"))
    assert "127.0.0.1" not in text
    assert "sid" not in text.replace("sidecar", "")


async def test_a_warden_sees_the_traffic_and_a_worker_does_not(rig: HubRig, enter: Enter) -> None:
    eye = await enter_v1(enter, "eye", role="warden")
    boss, old = await enter_v1(enter, "boss", role="master"), await enter_v1(enter, "old")
    await old.call("chat", {"to": "boss", "msg": "psst"})
    await old.call("join_room", {"room": "#den"})
    given = await boss.call("dispatch", {"to": "old", "cmd": "x"})
    await old.call("task_result", {"id": given["id"], "status": "SUCCESS", "output": "y"})
    await old.call("leave_room", {"room": "#den"})
    await rig.clock.pass_time(2.0)
    old.drop()
    await rig.clock.pass_time(15.0)
    said = eye.of("traffic")
    assert said == eye.of("system_traffic")
    kinds = [one["type"] for one in said]
    for kind in ("connect", "disconnect", "dispatch", "task_result", "chat", "room_join",
                 "room_leave"):  # fmt: skip
        assert kind in kinds, kind
    assert all("ts" in one for one in said)
    assert old.of("traffic") == boss.of("traffic") == []


async def test_who_connects_while_the_hub_restores_is_let_in_when_it_has(
    rig: HubRig, talks: Conversations
) -> None:
    rig.hub.state = "restoring"
    link = RecordingLink(rig, talks)
    entering = asyncio.ensure_future(link.connect(token=SECRET, agent_id="a11"))
    done, _ = await asyncio.wait({entering}, timeout=3.0)
    assert not done, "a client in a browser would not come again behind a refusal"
    rig.hub.restored()
    assert await entering, link.refused


async def test_members_are_told_when_one_disconnects(rig: HubRig, enter: Enter) -> None:
    old, new = await enter_v1(enter, "old"), await enter_v1(enter, "new")
    for link in (old, new):
        await link.call("join_room", {"room": "#den"})
    await rig.clock.pass_time(2.0)
    new.drop()
    await rig.clock.pass_time(15.0)
    left = [said for said in old.of("room_update") if said["action"] == "leave"]
    assert [(said["agent_id"], said["room"]) for said in left] == [("new", "#den")]
    assert [m["status"] for m in left[0]["members"] if m["id"] == "new"] == ["offline"]


async def test_who_only_looks_on_sees_the_fleet_and_says_nothing(
    rig: HubRig, talks: Conversations, enter: Enter
) -> None:
    await enter_v1(enter, "old")
    link = RecordingLink(rig, talks)
    assert await link.connect(token=SECRET), link.refused
    await rig.settle()
    assert [agent["id"] for agent in link.of("fleet_update")[-1]] == ["old"]
    for name in ("chat", "join_room", "typing", "dispatch", "report"):
        assert (await link.call(name, {"msg": "x", "room": "#den", "to": "all"}))["ok"] is False
    assert (await link.call("latency_ping"))["ok"] is True
    assert link.of("chat_update") == []


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("chat", {"to": "#tenant:x", "msg": "x"}),
        ("chat", {"to": "tenant:*", "msg": "x"}),
        ("chat", {"to": "nobody-there", "msg": "x"}),
        ("chat", {"msg": 7}),
        ("chat", [1]),
        ("chat", None),
        ("join_room", {"room": "#tenant:main"}),
        ("join_room", {"room": "#../x"}),
        ("join_room", {"room": {}}),
        ("dispatch", {}),
        ("dispatch", {"to": ["a"], "cmd": "x"}),
        ("dispatch", {"to": "old", "cmd": "x", "timeout": 10**400}),
        ("task_result", {"id": "x" * 30_000}),
        ("agent_hello", {"capabilities": [1]}),
        ("report", {"specs": {"x": "y" * 100_000}}),
    ],
    ids=str,
)
async def test_what_is_wrong_is_told_in_a_sentence(enter: Enter, name: str, given: Any) -> None:
    old = await enter_v1(enter, "old")
    answer = await old.call(name, given)
    assert answer["ok"] is False
    assert answer["error"]
    assert answer["code"] != "internal"


async def test_who_may_read_nothing_is_not_told_of_the_fleet(
    rig: HubRig, talks: Conversations, enter: Enter
) -> None:
    old = await enter_v1(enter, "old")
    await rig.hub.call(CreateAccount(id="mute"), caller=HUB)
    link = RecordingLink(rig, talks)
    token = await rig.token("mute", scopes=["events:write"])
    assert await link.connect(token=token, agent_id="mute"), link.refused
    await rig.clock.pass_time(21.0)
    assert link.of("fleet_update") == []
    assert (await link.call("chat", {"msg": "hello"}))["ok"] is True
    # Nor of who leaves a room in which it may only speak.
    assert (await link.call("join_room", {"room": "mill"}))["ok"] is True
    assert (await old.call("join_room", {"room": "mill"}))["ok"] is True
    old.drop()
    await rig.clock.pass_time(60.0)
    assert link.of("room_update") == []
