"""Starting, stopping, and a disk that is full or broken."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import Block, DeleteAccount, ReadAccount, Role, UpdateAccount
from clawnet.core.calls.grants import Grant, Lock, Revoke, Unlock
from clawnet.core.calls.publishing import PublishBatch, Published
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.calls.tokens import RevokeToken
from clawnet.core.cursors import AfterOffset
from clawnet.core.errors import (
    ClawError,
    DiskFull,
    Forbidden,
    OutcomeUnknown,
    Unauthenticated,
    Unavailable,
)
from clawnet.core.events import Stored
from clawnet.core.live import End
from clawnet.engines.memory import MemoryEngine
from clawnet.hub.features import Feature
from clawnet.hub.lanes import Lane
from clawnet.testing.clocks import FakeRandomness
from clawnet.testing.hubs import HubRig, event, make_hub
from clawnet.testing.loops import LoopClock


async def test_before_its_start_a_hub_refuses(rig: HubRig, ada: Caller) -> None:
    hub = make_hub(rig.engine, rig.clock)
    with pytest.raises(Unavailable, match="starting"):
        await hub.publish_wait(ada, event("public.a"))
    with pytest.raises(Unavailable):
        await hub.call(ReadHistory(channel="public.a"), caller=ada)


class Follower(Feature):
    """A feature that only follows what is stored, and may fail at it."""

    def __init__(self, *, is_faulty: bool) -> None:
        self.is_faulty = is_faulty
        self.seen: list[str] = []

    def stored(self, stored: list[Stored]) -> None:
        self.seen += [one.channel for one in stored]
        if self.is_faulty:
            raise RuntimeError("a defect")


async def test_a_features_defect_keeps_what_is_stored_from_no_other(
    rig: HubRig, caplog: pytest.LogCaptureFixture
) -> None:
    both = Follower(is_faulty=True), Follower(is_faulty=False)
    rig.hub._features += both
    ada = await rig.account("ada")
    for follower in both:
        follower.seen.clear()
    assert (await rig.publish(ada, "public.a")).offset == 1
    assert (await rig.publish(ada, "public.a")).offset == 2
    assert [follower.seen for follower in both] == [["public.a"] * 2] * 2
    assert "failed to follow" in caplog.text


async def test_a_stop_answers_delivers_and_then_closes(rig: HubRig, ada: Caller) -> None:
    outlet = rig.connect(ada, "public.a")
    for n in range(3):
        rig.hub.publish(
            ada, event("public.a", n), lane=Lane(), reply=lambda _: outlet.told.append("replied")
        )
    await rig.hub.stop_accepting()
    await rig.hub.drain()
    await rig.hub.close()
    assert outlet.told == ["replied"] * 3 + [f"public.a:{n}" for n in (1, 2, 3)] + [
        "closed shutdown"
    ]
    assert outlet.end is End.SHUTDOWN and outlet.end.reconnect
    assert rig.engine.closed == 1
    with pytest.raises(Unavailable):
        await rig.hub.publish_wait(ada, event("public.a"))
    await rig.restart()


async def test_after_a_restart_everything_is_as_it_was(rig: HubRig, ada: Caller) -> None:
    done = await rig.publish(ada, "public.a", 1, dedupe_key="k")
    token = await rig.token("ada")
    await rig.restart()
    caller = rig.hub.authenticate(token)
    assert (await rig.publish(caller, "public.a", 1, dedupe_key="k")).id == done.id
    outlet = rig.connect(caller, "public.*", since=AfterOffset(0))
    await rig.settle()
    assert (await rig.publish(caller, "public.a", 2)).offset == 2
    assert outlet.data == [1, 2]


async def test_accounts_of_a_memory_hub_lie_in_its_folder(tmp_path: Path) -> None:
    clock = LoopClock()
    token = ""
    for start in (1, 2):
        engine = MemoryEngine(tmp_path, clock=clock, randomness=FakeRandomness(f"engine {start}"))
        hub = make_hub(engine, clock, seed=f"hub {start}")
        await hub.start()
        rig = HubRig(hub, clock, engine)  # type: ignore[arg-type]
        if start == 1:
            await rig.account("ada")
            token = await rig.token("ada")
        published = await rig.publish(hub.authenticate(token), "public.a", start)
        assert published.offset == 1
        await hub.close()


# --- a full disk ---------------------------------------------------------


async def test_on_a_full_disk_nothing_is_assigned(rig: HubRig, ada: Caller) -> None:
    outlet = rig.connect(ada, "public.a")
    rig.engine.is_full = True
    for call in (event("public.a", 1), event("public.a", 1, dedupe_key="k")):
        with pytest.raises(DiskFull):
            await rig.hub.publish_wait(ada, call)
    with pytest.raises(DiskFull):
        await rig.hub.call(PublishBatch(events=[event("public.a", 1)]), caller=ada)
    assert outlet.told == [] and rig.hub.is_ready
    rig.engine.is_full = False
    done = await rig.publish(ada, "public.a", 2, dedupe_key="k")
    assert (done.offset, done.deduped) == (1, False)
    assert outlet.data == [2]
    assert rig.failures == []


@pytest.mark.parametrize(
    "call",
    [
        Revoke(account="bob", channel="x"),
        Lock(channel="y"),
        Block(account="bob"),
        RevokeToken(id=""),
        DeleteAccount(id="bob"),
        UpdateAccount(id="bob", role="worker"),
    ],
    ids=lambda call: type(call).__name__,
)
async def test_a_revocation_on_a_full_disk_is_in_force_and_its_failure_is_told(
    rig: HubRig, ada: Caller, call: Any
) -> None:
    role: Role = "warden" if isinstance(call, UpdateAccount) else "worker"
    bob = await rig.account("bob", role=role)
    await rig.hub.call(Grant(account="bob", channel="x"), caller=ada)
    await rig.hub.call(Unlock(channel="y"), caller=ada)
    outlets = [rig.connect(bob, f"agent.ada.{name}") for name in "xy"]
    if isinstance(call, RevokeToken):
        call = RevokeToken(id=str(bob.token_id))
    caller = HUB if isinstance(call, DeleteAccount | UpdateAccount) else ada
    if isinstance(call, RevokeToken):
        caller = bob
    rig.engine.is_full = True
    with pytest.raises(DiskFull):
        await rig.hub.call(call, caller=caller)
    rig.engine.is_full = False
    for name in "xy":
        await rig.publish(ada, f"agent.ada.{name}", 1)
    lost: dict[Any, tuple[bool, bool]] = {
        Revoke: (True, False),
        Lock: (False, True),
        Block: (False, False),
        RevokeToken: (True, True),
        DeleteAccount: (True, True),
        UpdateAccount: (False, False),
    }
    assert tuple(outlet.frames == [] for outlet in outlets) == lost[type(call)]
    if isinstance(call, Block):
        with pytest.raises(Forbidden):
            await rig.publish(bob, "agent.ada.inbox", 1)
    if isinstance(call, RevokeToken | DeleteAccount):
        with pytest.raises(Unauthenticated):
            await rig.publish(bob, "public.a", 1)
    if isinstance(call, UpdateAccount):
        with pytest.raises(Forbidden):
            await rig.hub.call(ReadHistory(channel="dm.ada.zed"), caller=bob)


@pytest.mark.parametrize("way", ["grant", "token", "account", "block"])
async def test_a_revocation_repeated_after_a_full_disk_is_acknowledged_only_when_stored(
    rig: HubRig, ada: Caller, bob: Caller, way: str
) -> None:
    """An acknowledged revoke that a restart takes back would be no revoke."""
    await rig.hub.call(Grant(account="bob", channel="x"), caller=ada)
    token = await rig.token("bob")
    token_id = str(rig.hub.authenticate(token).token_id)
    call: Any = {
        "grant": Revoke(account="bob", channel="x"),
        "token": RevokeToken(id=token_id),
        "account": DeleteAccount(id="bob"),
        "block": Block(account="bob"),
    }[way]
    caller = {"token": bob, "account": HUB}.get(way, ada)
    rig.engine.is_full = True
    for _ in range(3):
        with pytest.raises(DiskFull):
            await rig.hub.call(call, caller=caller)
    rig.engine.is_full = False
    try:
        await rig.hub.call(call, caller=caller)
    except ClawError as error:
        # It is so already: that must be true of the disk as well.
        assert error.code == "not_found"
    await rig.crash()
    if way in ("token", "account"):
        with pytest.raises(Unauthenticated):
            rig.hub.authenticate(token)
    elif way == "grant":
        with pytest.raises(Forbidden):
            await rig.hub.call(ReadHistory(channel="agent.ada.x"), caller=bob)
    else:
        with pytest.raises(Forbidden):
            await rig.publish(bob, "agent.ada.inbox", 1)


async def test_an_unstored_revocation_is_stored_as_soon_as_there_is_room(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await rig.hub.call(Grant(account="bob", channel="x"), caller=ada)
    outlet = rig.connect(await rig.account("eye", role="warden"), "system.grants")
    rig.engine.is_full = True
    with pytest.raises(DiskFull):
        await rig.hub.call(Revoke(account="bob", channel="x"), caller=ada)
    await rig.clock.pass_time(5)
    rig.engine.is_full = False
    await rig.clock.pass_time(2)
    assert [frame.event["type"] for frame in outlet.frames] == ["grant.revoked"]
    await rig.crash()
    with pytest.raises(Forbidden):
        await rig.hub.call(ReadHistory(channel="agent.ada.x"), caller=bob)


async def test_a_promotion_that_was_not_stored_does_not_come_later(
    rig: HubRig, ada: Caller, master: Caller
) -> None:
    rig.engine.is_full = True
    with pytest.raises(DiskFull):
        await rig.hub.call(UpdateAccount(id="ada", role="master"), caller=master)
    rig.engine.is_full = False
    await rig.hub.call(Unlock(channel="y"), caller=ada)
    await rig.crash()
    found = await rig.hub.call(ReadAccount(id="ada"), caller=master)
    assert found.role == "worker"


async def test_a_grant_after_an_unstored_revoke_holds(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    grant, revoke = Grant(account="bob", channel="x"), Revoke(account="bob", channel="x")
    await rig.hub.call(grant, caller=ada)
    rig.engine.is_full = True
    with pytest.raises(DiskFull):
        await rig.hub.call(revoke, caller=ada)
    rig.engine.is_full = False
    await rig.hub.call(grant, caller=ada)
    await rig.hub.call(Unlock(channel="y"), caller=ada)
    for _ in range(2):
        await rig.hub.call(ReadHistory(channel="agent.ada.x"), caller=bob)
        await rig.crash()


async def test_a_full_disk_does_not_keep_the_hub_from_closing(rig: HubRig, ada: Caller) -> None:
    rig.engine.is_full = True
    await rig.hub.stop_accepting()
    await rig.hub.close()
    assert rig.engine.closed == 1
    rig.engine.is_full = False
    await rig.restart()


@pytest.mark.parametrize("error", [DiskFull("No."), ValueError("a defect")], ids=repr)
async def test_a_flush_that_fails_skips_no_other(rig: HubRig, error: Exception) -> None:
    class Failing(Feature):
        async def flush(self) -> None:
            raise error

    class Flushed(Feature):
        times = 0

        async def flush(self) -> None:
            self.times += 1

    behind = Flushed()
    rig.hub._features[:0] = [Failing(), Feature()]
    rig.hub._features.append(behind)
    rig.clock.advance(3_600)
    trusted_ms = rig.hub.retention.now_ms()
    await rig.hub.close()
    assert (behind.times, rig.engine.closed) == (1, 1)
    # The trusted time, which comes last, is stored as well.
    [entry] = rig.engine.real.scan("clock")
    assert int(entry.value) == trusted_ms
    await rig.restart()


# --- a broken disk -------------------------------------------------------


async def test_a_failed_commit_answers_everybody_and_ends_the_hub(rig: HubRig, ada: Caller) -> None:
    outlet = rig.connect(ada, "public.a")
    replies: list[Any] = []
    rig.engine.is_broken = True
    for n in range(1_200):
        rig.hub.publish(ada, event("public.a", n), lane=Lane(), reply=replies.append)
    await rig.hub.drain()
    await rig.settle()
    assert len(replies) == 1_200
    assert {type(reply) for reply in replies} == {OutcomeUnknown}
    assert rig.hub.state == "failed" and len(rig.failures) == 1
    assert outlet.told == []
    with pytest.raises(Unavailable):
        await rig.hub.publish_wait(ada, event("public.a"))


async def test_after_a_failed_commit_nothing_more_is_written(rig: HubRig, ada: Caller) -> None:
    """What the disk did is not known, so the log must be recovered before it goes on."""
    real, groups = rig.engine.real, []

    def commit(units: Any) -> Any:
        groups.append(len(units))
        if len(groups) == 1:
            raise OutcomeUnknown("A cable was pulled for a moment.")
        return real.commit(units)

    rig.engine.commit = commit  # type: ignore[method-assign]
    replies: list[Any] = []
    for n in range(1_200):
        rig.hub.publish(ada, event("public.a", n), lane=Lane(), reply=replies.append)
    await rig.settle()
    assert len(groups) == 1
    assert len(replies) == 1_200 and not any(isinstance(reply, Published) for reply in replies)
    assert real.channel("main", "public.a") is None
    del rig.engine.commit


async def test_an_engine_that_crashes_is_a_failure_with_an_answer(rig: HubRig, ada: Caller) -> None:
    def commit(units: Any) -> Any:
        raise ZeroDivisionError

    rig.engine.commit = commit  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknown):
        await rig.publish(ada, "public.a", 1)
    assert rig.hub.state == "failed"
    del rig.engine.commit
    await asyncio.wait_for(rig.hub.drain(), 5)
    await rig.hub.close()
    assert rig.engine.closed == 1
    await rig.restart()


async def test_a_defect_in_one_round_does_not_end_the_hubs_loops(
    rig: HubRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rounds = 0

    def tick() -> None:
        nonlocal rounds
        rounds += 1
        raise ValueError("a defect")

    monkeypatch.setattr(rig.hub.presence, "tick", tick)
    await rig.clock.pass_time(10)
    assert rounds > 2
    assert "failed and goes on" in caplog.text
