"""Work over C2CP v2: given, acknowledged on both hops, told of once to each."""

from __future__ import annotations

from typing import Any

import msgspec

from clawnet.core.calls.archive import ExportEvents, ImportEvents
from clawnet.core.events import Event
from clawnet.doors.socketio import packets
from clawnet.doors.socketio.conversation import Conversations
from clawnet.doors.socketio.v2_outlet import WORK_MAX, Outlet2
from clawnet.engines.memory import MemoryEngine
from clawnet.testing.clocks import FakeRandomness
from clawnet.testing.hubs import HubRig, started_hub
from clawnet.testing.links import Heard, RecordingLink
from clawnet.testing.loops import LoopClock
from tests.doors.c2cp.conftest import Enter
from tests.doors.c2cp.test_v2 import to_room


def chat_only(heard: Heard) -> bool:
    return heard.name == "chat_message"


def all_of_them(heard: Heard) -> bool:
    return heard.id is not None


async def test_work_is_given_accepted_shown_and_finished(rig: HubRig, enter: Enter) -> None:
    boss, eve = await enter("boss", role="master"), await enter("eve")
    rex = await enter("rex", acks=chat_only)
    for link in (boss, rex):
        await link.call("room_join", {"room": "mill"})
    asked = {"to": "rex", "command": "grind", "kind": "custom", "args": {"n": 1}, "room": "mill"}
    given = await boss.call("task_dispatch", asked | {"dedupe_key": "k"})
    assert given["ok"], given
    (task_id,) = given["task_ids"]
    again = await boss.call("task_dispatch", asked | {"dedupe_key": "k"})
    assert again["task_ids"] == [task_id]
    await rig.settle()
    (dispatched,) = rex.of("task_dispatch")
    assert dispatched["task_id"] == task_id
    assert (dispatched["command"], dispatched["args"], dispatched["from_id"]) == (
        "grind",
        {"n": 1},
        "boss",
    )
    for member in ("fence", "lease_s", "timeout_s", "id", "ts", "dedupe_key", "correlation_id"):
        assert dispatched[member] is not None, member
    # Nobody acknowledges: it is announced again, as the same work.
    await rig.clock.pass_time(3)
    assert len(rex.of("task_dispatch")) == 2
    work = next(heard for heard in reversed(rex.heard) if heard.name == "task_dispatch")
    rex.ack(work)
    await rig.settle()
    assert boss.of("task_update")[-1]["status"] == "accepted"
    await rig.clock.pass_time(60)
    assert len(rex.of("task_dispatch")) == 2
    named = {"task_id": task_id, "fence": dispatched["fence"]}
    for piece in ("half ", "half ", "whole"):
        assert (await rex.call("task_update", named | {"status": "running", "output": piece}))["ok"]
    assert (await eve.call("task_result", named | {"status": "completed"}))["ok"] is False
    done = await rex.call("task_result", named | {"status": "completed", "output": "flour"})
    assert (done["ok"], done["status"]) == (True, "completed")
    await rig.settle()
    # Of up to four copies of each change, everybody entitled is given one.
    for link in (boss, rex):
        pieces = [u["output"] for u in link.of("task_update") if "piece" in u]
        assert pieces == ["half ", "half ", "whole"]
        (result,) = link.of("task_result")
        assert (result["status"], result["output"]) == ("completed", "flour")
        told = [(u["status"], u["revision"]) for u in link.of("task_update") if "revision" in u]
        assert len(told) == len(set(told))
    assert eve.of("task_update") == eve.of("task_result") == eve.of("task_dispatch") == []
    late = await rex.call("task_update", named | {"status": "running"})
    assert (late["error"]["code"], late["error"]["reason"]) == ("conflict", "ended")


async def test_work_for_an_agent_that_is_away_comes_with_it(rig: HubRig, enter: Enter) -> None:
    boss = await enter("boss", role="master")
    rex = await enter("rex")
    rex.drop()
    await rig.clock.pass_time(30)
    await boss.call("task_dispatch", {"to": "rex", "command": "wake up", "kind": "custom"})
    await rig.settle()
    assert boss.of("task_update")[-1]["status"] == "queued"
    rex = await enter("rex", acks=all_of_them)
    await rig.settle()
    (dispatched,) = rex.of("task_dispatch")
    await rig.settle()
    assert boss.of("task_update")[-1]["status"] == "accepted"
    # What is read again from the log gives no work a second time.
    cursor = boss.of("session")[0]["cursor"]
    rex = await enter("rex", since=cursor)
    await rig.clock.pass_time(3)
    assert rex.of("task_dispatch") == []
    assert dispatched["task_id"] in {update["task_id"] for update in rex.of("task_update")}
    cancelled = await boss.call("task_cancel", {"task_id": dispatched["task_id"]})
    assert cancelled["ok"]
    await rig.settle()
    assert [told["task_id"] for told in rex.of("task_cancel")] == [dispatched["task_id"]]
    assert boss.of("task_result")[-1]["status"] == "cancelled"


async def test_work_whose_announcements_ended_is_given_to_the_next_connection_once(
    rig: HubRig, enter: Enter
) -> None:
    boss, rex = await enter("boss", role="master"), await enter("rex", acks=chat_only)
    given = await boss.call("task_dispatch", {"to": "rex", "command": "x", "kind": "custom"})
    (task_id,) = given["task_ids"]
    await rig.clock.pass_time(70)
    assert len(rex.of("task_dispatch")) == 6
    # It comes back at once, so it was never away.
    rex = await enter("rex", acks=chat_only)
    (work,) = [heard for heard in rex.heard if heard.name == "task_dispatch"]
    assert (work.data["task_id"], work.data["fence"], work.data["command"]) == (task_id, 1, "x")
    await rig.clock.pass_time(1)
    assert len(rex.of("task_dispatch")) == 1
    await rig.clock.pass_time(2)
    assert len(rex.of("task_dispatch")) == 2
    # Any of the announcements is acknowledged, but by nobody else.
    boss.ack(work)
    await rig.settle()
    assert boss.of("task_update")[-1]["status"] == "submitted"
    rex.ack(work)
    await rig.settle()
    assert boss.of("task_update")[-1]["status"] == "accepted"
    assert boss.of("task_dispatch") == []


async def test_a_connection_remembers_the_work_that_it_announced_and_no_more(
    rig: HubRig, talks: Conversations
) -> None:
    link = RecordingLink(rig, talks)
    outlet = Outlet2(link, link.talk, account="rex", on_own=lambda _: None)

    def announce(id: int, task: int, fence: int = 1) -> None:
        said = {"task_id": f"task_{task}", "revision": 1, "fence": fence, "command": "x"}
        outlet.write(packets.event("task_dispatch", (said,), id=id))

    def told() -> int:
        return len(link.of("task_dispatch"))

    # As the connection began, by its event, once more, and under another fence.
    announce(1, 7)
    assert outlet.is_given("task_7", 1)
    announce(5 << 32 | 1, 7)
    assert told() == 1
    announce(2, 7)
    announce(5 << 32 | 2, 7, fence=2)
    assert told() == 3
    assert outlet.work_of(5 << 32 | 2) == ("task_7", 2)
    assert outlet.work_of(5 << 32 | 1) is None
    for number in range(WORK_MAX):
        announce(3 + number, 100 + number)
    assert outlet.work_of(1) is None
    assert outlet.work_of(2 + WORK_MAX) == (f"task_{99 + WORK_MAX}", 1)
    assert told() == 3 + WORK_MAX


async def test_who_may_not_give_work_is_refused(rig: HubRig, enter: Enter) -> None:
    ada, rex = await enter("ada"), await enter("rex")
    asked: dict[str, Any] = {"to": "rex", "command": "x", "kind": "custom"}
    assert (await ada.call("task_dispatch", asked))["error"]["code"] == "forbidden"
    assert (await ada.call("task_approve", {"task_id": "t", "digest": "d"}))["ok"] is False
    answer = await ada.call("chat_send", to_room("mill", "/dispatch @rex do it"))
    assert answer["ok"] is False
    helped = await ada.call("chat_send", to_room("mill", "/help"))
    assert helped["ok"], helped
    assert helped["command"]["text"]
    await rig.settle()
    assert rex.of("task_dispatch") == []


async def test_a_slash_command_gives_work_and_its_result_stands_in_the_room(
    rig: HubRig, enter: Enter
) -> None:
    boss = await enter("boss", role="master")
    rex = await enter("rex", acks=all_of_them, capabilities=["openclaw"])
    await boss.call("room_join", {"room": "mill"})
    await rex.call("room_join", {"room": "mill"})
    done = await boss.call("chat_send", to_room("mill", "/dispatch @rex grind"))
    assert done["ok"], done
    await rig.settle()
    (dispatched,) = rex.of("task_dispatch")
    assert done["command"]["task_ids"] == [dispatched["task_id"]]
    named = {"task_id": dispatched["task_id"], "fence": dispatched["fence"]}
    await rex.call("task_result", named | {"status": "completed", "output": "flour"})
    await rig.settle()
    assert boss.of("task_result")[-1]["output"] == "flour"
    page = await boss.call("replay", {"channel": "mill", "limit": 100})
    chain = [e for e in page["events"] if e["type"].startswith("task.")]
    assert {e["correlation_id"] for e in chain} == {dispatched["correlation_id"]}
    assert chain[-1]["type"] == "task.completed"
    assert boss.texts == []


async def test_work_of_an_imported_log_is_given_to_nobody(rig: HubRig, enter: Enter) -> None:
    """It is what became of work on another hub; an agent would do it a second time."""
    boss, rex = await enter("boss", role="master"), await enter("rex")
    asked = {"to": "rex", "command": "once", "kind": "exec", "room": "global"}
    (task_id,) = (await boss.call("task_dispatch", asked))["task_ids"]
    named = {"task_id": task_id, "fence": 1}
    await rex.call("task_result", named | {"status": "completed", "output": "done"})
    await rex.call("chat_send", to_room("global", "said"))
    warden = await rig.account("eye", role="warden")
    channels = ("agent.rex.tasks", "public.lobby")
    page = await rig.hub.call(ExportEvents(channels=channels), caller=warden)
    events = [msgspec.json.decode(line, type=Event) for line in page.body.split(b"\n")]
    engine = MemoryEngine(clock=LoopClock(), randomness=FakeRandomness("elsewhere"))
    async with started_hub(engine=engine) as other:
        admin = await other.account("admin", role="master")
        talks = Conversations(other.hub)
        links = []
        for agent, version in (("rex", 1), ("boss", 2)):
            await other.account(agent)
            links.append(RecordingLink(other, talks))
            token = await other.token(agent)
            assert await links[-1].connect(token=token, agent_id=agent, protocol=version)
        # It is to both, so that each version has an agent that could do it.
        to_boss = [
            msgspec.structs.replace(
                event,
                id=f"{event.id[:-2]}f{event.id[-1]}",
                channel=event.channel.replace("rex", "boss"),
                data=msgspec.Raw(bytes(event.data).replace(b'"to":"rex"', b'"to":"boss"')),
            )
            for event in events
            if event.channel == "agent.rex.tasks"
        ]
        done = await other.hub.call(ImportEvents(events=[*events, *to_boss]), caller=admin)
        assert done.stored > 4
        await other.settle()
        told = {heard.name for link in links for heard in link.heard}
        said = {"chat_message", "chat_update"}
        assert told == {"session", "fleet_update", "task_update"} | said
        assert (links[0].of("chat_update")[0]["msg"], links[1].texts) == ("said", ["said"])
        assert links[0].of("task_update") == [[]]
        assert links[1].of("task_update") == []
