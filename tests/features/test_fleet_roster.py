"""What agents report, who sees it, and what of it outlives a restart."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import DeleteAccount, UpdateAccount
from clawnet.core.calls.chat import SetStatus
from clawnet.core.calls.fleet import REPORT_MAX_BYTES, Fleet, FleetAgent, ReadFleet, Report
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    Forbidden,
    NotFound,
    PayloadTooLarge,
    Unauthenticated,
)
from clawnet.engines.memory import MemoryEngine
from clawnet.testing.hubs import HubRig, session_of
from clawnet.testing.outlets import RecordingOutlet
from tests.features.fleet_agents import enrol, fleet


async def report(rig: HubRig, caller: Caller, **named: Any) -> None:
    await rig.hub.call(Report(**named), caller=caller)


async def read(rig: HubRig, caller: Caller) -> Fleet:
    found: Fleet = await rig.hub.call(ReadFleet(), caller=caller)
    return found


async def one(rig: HubRig, caller: Caller, agent: str = "ada") -> FleetAgent:
    found: Fleet = await rig.hub.call(ReadFleet(agent=agent), caller=caller)
    [shown] = found.agents
    return shown


@pytest.fixture
async def watcher(rig: HubRig, master: Caller) -> RecordingOutlet:
    """A master that follows the fleet."""
    return rig.connect(master, "system.fleet")


async def test_a_report_is_state_and_told_as_it_comes(
    rig: HubRig, ada: Caller, watcher: RecordingOutlet
) -> None:
    before = rig.engine.commits
    await report(rig, ada, role="scout", specs={"os": "linux"}, resource_usage={"cpu_percent": 3})
    await report(rig, ada, resource_usage={"cpu_percent": 4}, capabilities=["openclaw", "openclaw"])
    await rig.settle()
    assert rig.engine.commits == before, "no event is stored"
    assert [frame.event["type"] for frame in watcher.frames] == ["fleet.reported"] * 2
    assert watcher.data == [
        {
            "id": "ada",
            "changed": {
                "specs": {"os": "linux"},
                "resource_usage": {"cpu_percent": 3},
                "role": "scout",
            },
        },
        {
            "id": "ada",
            "changed": {"resource_usage": {"cpu_percent": 4}, "capabilities": ["openclaw"]},
        },
    ]
    shown = await one(rig, ada)
    assert (shown.role, shown.account_role, shown.specs) == ("scout", "worker", {"os": "linux"})
    assert (shown.resource_usage, shown.capabilities) == ({"cpu_percent": 4}, ["openclaw"])
    assert shown.status == "offline" and shown.since is None and shown.last_seen


async def test_the_revision_grows_with_changes_and_only_with_them(
    rig: HubRig, ada: Caller, bob: Caller, watcher: RecordingOutlet
) -> None:
    await rig.clock.pass_time(3)
    seen = [(await read(rig, bob)).revision]

    async def grew() -> bool:
        seen.append((await read(rig, bob)).revision)
        assert seen[-1] >= seen[-2]
        return seen[-1] > seen[-2]

    await report(rig, ada, specs={"a": 1})
    assert await grew()
    watcher.frames.clear()
    await rig.clock.pass_time(1)
    await report(rig, ada, specs={"a": 1})
    assert not await grew() and watcher.frames == []
    last_seen = (await one(rig, bob)).last_seen
    await rig.clock.pass_time(1)
    await report(rig, ada)
    assert not await grew() and (await one(rig, bob)).last_seen != last_seen
    outlet = rig.connect(ada)
    await rig.clock.pass_time(2)
    assert await grew()
    await rig.hub.call(SetStatus(status="online", text="at work"), caller=ada)
    await rig.clock.pass_time(2)
    assert await grew() and (await one(rig, bob)).text == "at work"
    session_of(outlet).close()
    await rig.clock.pass_time(13)
    assert await grew()
    await rig.hub.call(UpdateAccount(id="ada", handle="Ada L."), caller=HUB)
    await rig.settle()
    assert await grew() and (await one(rig, bob)).handle == "Ada L."
    await rig.restart()
    assert await grew(), "or a door would take an old list for the newest"


async def test_jobs_and_sessions_are_for_masters_wardens_and_oneself(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller, warden: Caller
) -> None:
    await report(rig, ada, cron=[{"id": "job"}], sessions={"main": 1})
    for caller in (master, warden, ada, HUB):
        shown = await one(rig, caller)
        assert (shown.cron, shown.sessions) == ([{"id": "job"}], {"main": 1})
    shown = await one(rig, bob)
    assert (shown.cron, shown.sessions) == (None, None)
    [of_list] = [agent for agent in (await read(rig, bob)).agents if agent.id == "ada"]
    assert of_list.cron is None
    with pytest.raises(Unauthenticated):
        await read(rig, rig.hub.anonymous(is_local=True))
    with pytest.raises(Forbidden):
        await read(rig, await rig.caller("ada", scopes=["events:write"]))
    with pytest.raises(Forbidden):
        await report(rig, await rig.caller("ada", scopes=["events:read"]), specs={})
    # Signals of the fleet are for masters and wardens.
    with pytest.raises(Forbidden):
        rig.connect(bob, "system.fleet")


async def test_who_is_connected_is_of_the_fleet_and_others_are_not_there(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    assert (await read(rig, ada)).agents == []
    for asked in ("bob", "nobody", "hub", "x" * 300, ""):
        with pytest.raises(NotFound):
            await one(rig, ada, asked)
    outlet = rig.connect(bob)
    [shown] = (await read(rig, ada)).agents
    assert (shown.id, shown.status, shown.specs) == ("bob", "online", {})
    assert shown.since and (await one(rig, ada, "BOB")).id == "bob"
    session_of(outlet).close()
    await rig.clock.pass_time(12)
    assert (await read(rig, ada)).agents == []


@pytest.mark.parametrize(
    ("named", "error"),
    [
        ({"capabilities": ["x" * 65]}, BadRequest), ({"capabilities": [""]}, BadRequest),
        ({"capabilities": ["a\nb"]}, BadRequest), ({"capabilities": ["\u202e"]}, BadRequest),
        ({"capabilities": [str(n) for n in range(65)]}, BadRequest),
        ({"role": "x" * 65}, BadRequest), ({"role": "a\x00"}, BadRequest),
        ({"status": "x" * 201}, BadRequest), ({"status": "a\nb"}, BadRequest),
        ({"specs": {"a": "x" * REPORT_MAX_BYTES}}, PayloadTooLarge),
        ({"specs": {"a": "x" * 20_000}, "cron": ["x" * 20_000]}, PayloadTooLarge),
        ({"specs": {"\ud800": 1}}, BadRequest),
        ({"cron": msgspec.json.decode(b"[" * 100 + b"]" * 100)}, ClawError),
        ({"cron": 10**400}, ClawError),
    ],
)  # fmt: skip
async def test_a_report_that_is_refused_changes_nothing(
    rig: HubRig,
    ada: Caller,
    watcher: RecordingOutlet,
    named: dict[str, Any],
    error: type[ClawError],
) -> None:
    with pytest.raises(error):
        await report(rig, ada, **{"specs": {"good": True}, **named, "resource_usage": {"cpu": 1}})
    await rig.settle()
    assert watcher.frames == []
    with pytest.raises(NotFound):
        await one(rig, ada)


async def test_what_is_reported_bit_by_bit_is_bounded_as_a_whole(rig: HubRig, ada: Caller) -> None:
    await report(rig, ada, specs={"a": "x" * 20_000})
    with pytest.raises(PayloadTooLarge):
        await report(rig, ada, sessions=["x" * 20_000])
    await report(rig, ada, specs={}, sessions=["x" * 20_000])
    assert (await one(rig, ada)).specs == {}


async def test_nobody_is_shown_with_a_role_that_it_does_not_have(rig: HubRig, ada: Caller) -> None:
    for claimed in ("master", "Warden", " MASTER "):
        await report(rig, ada, role=claimed)
        assert (await one(rig, ada)).role == "worker"


async def test_telemetry_keeps_nobody_awake_and_its_status_is_its_own_word(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    rig.connect(ada)
    for n in range(70):
        await report(rig, ada, status="online", resource_usage={"n": n})
        await rig.clock.pass_time(5)
    assert (await one(rig, bob)).status == "idle"
    await rig.publish(ada, "public.lobby", 1)
    await rig.clock.pass_time(2)
    assert (await one(rig, bob)).status == "online"
    await report(rig, ada, status="idle")
    await rig.clock.pass_time(5)
    assert (await one(rig, bob)).status == "idle"
    await report(rig, ada, status="compiling")
    await report(rig, ada, status="online")
    await report(rig, ada, status="compiling")
    shown = await one(rig, bob)
    assert (shown.status, shown.text) == ("online", "compiling")


async def test_what_an_agent_is_outlives_a_restart_and_what_it_measured_does_not(
    rig: HubRig, ada: Caller
) -> None:
    outlet = rig.connect(ada)
    await report(rig, ada, role="scout", capabilities=["openclaw"], specs={"os": "linux"})
    await rig.clock.pass_time(2)
    commits = rig.engine.commits
    for n in range(10):
        await report(rig, ada, role="scout", resource_usage={"n": n})
        await rig.clock.pass_time(1)
    assert rig.engine.commits == commits, "what did not change is not written again"
    session_of(outlet).close()
    await rig.clock.pass_time(14)
    last_seen = (await one(rig, ada)).last_seen
    await rig.crash()
    shown = await one(rig, ada)
    assert (shown.role, shown.capabilities, shown.specs) == ("scout", ["openclaw"], {})
    assert shown.last_seen == last_seen
    # A restart in order writes what a crash may lose.
    await report(rig, ada, capabilities=["exec"])
    await rig.restart()
    assert (await one(rig, ada)).capabilities == ["exec"]


async def test_what_could_not_be_written_is_written_later(rig: HubRig, ada: Caller) -> None:
    rig.engine.is_full = True
    await report(rig, ada, capabilities=["openclaw"])
    await rig.clock.pass_time(3)
    rig.engine.is_full = False
    await rig.clock.pass_time(2)
    await rig.crash()
    assert (await one(rig, ada)).capabilities == ["openclaw"]


async def test_a_deleted_account_leaves_the_fleet_for_good() -> None:
    async with fleet() as rig:
        bob = await rig.account("bob")
        ada = rig.hub.authenticate((await enrol(rig)).session_token)
        await report(rig, ada, capabilities=["openclaw"])
        await rig.clock.pass_time(2)
        await rig.hub.call(DeleteAccount(id="ada"), caller=HUB)
        await rig.clock.pass_time(2)
        assert (await read(rig, bob)).agents == []
        engine = rig.engine.real
        assert isinstance(engine, MemoryEngine)
        assert [*engine.scan("fleet"), *engine.scan("enrolment")] == []


async def test_a_world_sees_its_own_fleet_alone(rig: HubRig, ada: Caller) -> None:
    await report(rig, ada, capabilities=["secret"])
    stranger = msgspec.structs.replace(HUB, world="other")
    assert (await read(rig, stranger)).agents == []
    with pytest.raises(NotFound):
        await one(rig, stranger)


async def test_a_list_of_very_many_is_bounded_and_answers_by_the_rights_of_its_end(
    rig: HubRig, master: Caller, ada: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawnet.features.fleet.roster.SHOWN_AT_ONCE", 1)
    monkeypatch.setattr("clawnet.features.fleet.roster.LIST_MAX_BYTES", 1_500)
    await report(rig, ada, specs={"a": "x" * 1_000}, cron=[{"id": "j"}])
    await report(rig, bob, specs={"b": "x" * 1_000})
    first, second = (await read(rig, master)).agents
    assert first.specs and first.cron and (second.id, second.specs) == ("bob", {})
    assert (await one(rig, master, "bob")).specs
    reading = asyncio.ensure_future(read(rig, master))
    await asyncio.sleep(0)
    await rig.hub.call(UpdateAccount(id="boss", role="worker"), caller=HUB)
    assert (await reading).agents[0].cron is None
