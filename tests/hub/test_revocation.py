"""After an acknowledged revoke nothing of the revoked is delivered or committed: at every await."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import Block, DeleteAccount, UpdateAccount
from clawnet.core.calls.consumers import CreateConsumer, Fetch
from clawnet.core.calls.grants import Grant, Lock, Revoke, Unlock
from clawnet.core.calls.publishing import PublishBatch
from clawnet.core.calls.reading import ReadEvent, ReadHistory
from clawnet.core.calls.tokens import RevokeToken
from clawnet.core.cursors import AfterOffset
from clawnet.core.errors import ClawError, Forbidden, NotFound, Unauthenticated
from clawnet.core.live import End
from clawnet.hub import sessions
from clawnet.hub.interceptors import Interceptor, Proposed, Verdict
from clawnet.hub.lanes import Lane
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.testing.hubs import Gate, HubRig, event, session_of, started_hub
from clawnet.testing.outlets import RecordingOutlet

SECRET = "agent.ada.x"
Revoking = Callable[[HubRig, Caller, Caller], Awaitable[Any]]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "CHUNK_EVENTS", 4)


async def revoke_grant(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.hub.call(Revoke(account="bob", channel="x"), caller=ada)


async def revoke_token(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.hub.call(RevokeToken(id=str(bob.token_id)), caller=bob)


async def delete_account(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.hub.call(DeleteAccount(id="bob"), caller=HUB)


async def demote(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.hub.call(UpdateAccount(id="bob", role="worker"), caller=HUB)


async def lock(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.hub.call(Lock(channel="x"), caller=ada)


WAYS: dict[str, Revoking] = {
    "grant": revoke_grant,
    "token": revoke_token,
    "account": delete_account,
    "role": demote,
    "lock": lock,
}


async def prepared(rig: HubRig, way: str) -> tuple[Caller, Caller]:
    """Ada's secret channel, which bob may read in the way that will be revoked."""
    ada = await rig.account("ada")
    bob = await rig.account("bob", role="warden" if way == "role" else "worker")
    if way == "lock":
        await rig.hub.call(Unlock(channel="x"), caller=ada)
    elif way != "role":
        await rig.hub.call(Grant(account="bob", channel="x"), caller=ada)
    await rig.fill(ada, SECRET, 10)
    return ada, bob


async def at_every_await(scenario: Callable[[HubRig, int], Awaitable[bool]]) -> int:
    for at in range(200):
        async with started_hub(HubSettings(limits=LimitSettings(enabled=False))) as rig:
            if not await scenario(rig, at):
                return at
    raise AssertionError("the scenario never ends")


def secrets(outlet: RecordingOutlet) -> list[int]:
    return outlet.offsets(SECRET)


FOLLOWED = [(SECRET,), (SECRET, "public.a"), ("agent.*.x",), (">",), ("public.*", SECRET)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("channels", FOLLOWED, ids=str)
async def test_a_live_subscription_is_given_nothing_more(
    rig: HubRig, way: str, channels: tuple[str, ...]
) -> None:
    ada, bob = await prepared(rig, way)
    outlet = rig.connect(bob, *channels)
    await rig.publish(ada, SECRET, 11)
    assert secrets(outlet) == [11]
    await WAYS[way](rig, ada, bob)
    await rig.publish(ada, SECRET, 12)
    session_of(outlet).pause()
    session_of(outlet).resume()
    await rig.settle()
    assert secrets(outlet) == [11]
    if way in ("token", "account"):
        assert outlet.end is End.REVOKED and not outlet.end.reconnect
        return
    assert outlet.end is None
    if SECRET in channels:
        assert outlet.endings or outlet.drops
    # What else the connection follows goes on, if there is anything else.
    other = rig.connect(bob, "public.a")
    await rig.publish(ada, "public.a", 1)
    assert other.data == [1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("channels", FOLLOWED, ids=str)
async def test_a_revoke_at_any_await_of_catching_up(way: str, channels: tuple[str, ...]) -> None:
    async def scenario(rig: HubRig, at: int) -> bool:
        ada, bob = await prepared(rig, way)
        marks: list[int] = []
        outlet = rig.connect(bob)

        async def disturb() -> None:
            await WAYS[way](rig, ada, bob)
            marks.append(len(secrets(outlet)))

        gate = Gate(rig.hub, at=at, action=disturb)
        rig.subscribe(outlet, *channels, since=AfterOffset(0))
        await rig.settle()
        await gate.open()
        await rig.publish(ada, SECRET, 11)
        await rig.settle()
        if gate.was_reached:
            assert len(secrets(outlet)) == marks[0], outlet.told
        return gate.was_reached

    assert await at_every_await(scenario) >= 4


@pytest.mark.parametrize("way", WAYS)
async def test_a_revoke_at_any_await_of_a_read_of_history(way: str) -> None:
    calls = (
        ReadHistory(channel=SECRET, limit=3),
        ReadHistory(channel=SECRET, limit=3, since=AfterOffset(2, "foreign.1")),
        ReadHistory(channel=SECRET, limit=3, reverse=True, since=AfterOffset(1)),
    )
    for call in calls:

        async def scenario(rig: HubRig, at: int, call: ReadHistory = call) -> bool:
            ada, bob = await prepared(rig, way)
            gate = Gate(rig.hub, at=at, action=lambda: WAYS[way](rig, ada, bob))
            try:
                page = await rig.hub.call(call, caller=bob)
            except (Forbidden, Unauthenticated):
                assert gate.was_reached
            else:
                assert page.count and not gate.was_reached
            await gate.open()
            return gate.was_reached

        assert await at_every_await(scenario) >= 2


@pytest.mark.parametrize("way", WAYS)
async def test_a_revoke_at_any_await_of_a_read_by_id(way: str) -> None:
    async def scenario(rig: HubRig, at: int) -> bool:
        ada, bob = await prepared(rig, way)
        [done] = await rig.fill(ada, SECRET, 1)
        gate = Gate(rig.hub, at=at, action=lambda: WAYS[way](rig, ada, bob))
        try:
            assert await rig.hub.call(ReadEvent(id=done.id), caller=bob)
            assert not gate.was_reached
        except (NotFound, Unauthenticated):
            assert gate.was_reached
        await gate.open()
        return gate.was_reached

    assert await at_every_await(scenario) == 2


@pytest.mark.parametrize("way", WAYS)
async def test_a_waiting_read_of_history_is_not_answered_with_what_came_later(
    rig: HubRig, way: str
) -> None:
    ada, bob = await prepared(rig, way)
    call = ReadHistory(channel=SECRET, since=AfterOffset(10), wait_s=30)
    reading = asyncio.ensure_future(rig.hub.call(call, caller=bob))
    await rig.settle()
    await WAYS[way](rig, ada, bob)
    await rig.publish(ada, SECRET, 11)
    with pytest.raises((Forbidden, Unauthenticated)):
        await reading
    assert not rig.hub.fanout.world("main").routes


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_again", [False, True], ids=["new", "again"])
async def test_a_revoke_at_any_await_of_a_fetch(way: str, is_again: bool) -> None:
    async def scenario(rig: HubRig, at: int) -> bool:
        ada, bob = await prepared(rig, way)
        create = CreateConsumer(name="c", channels=[">"], since="all", ack_wait_s=5)
        await rig.hub.call(create, caller=bob)
        await rig.publish(ada, "public.a", "open")
        if is_again:
            await rig.hub.call(Fetch(name="c", limit=6), caller=bob)
            rig.clock.advance(6)
        gate = Gate(rig.hub, at=at, action=lambda: WAYS[way](rig, ada, bob))
        try:
            fetched = await rig.hub.call(Fetch(name="c"), caller=bob)
        except (Unauthenticated, Forbidden):
            assert gate.was_reached
        else:
            given = [
                delivery
                for delivery in fetched.deliveries
                if SECRET.encode() in bytes(delivery.event)
            ]
            assert bool(given) is not gate.was_reached
        await gate.open()
        return gate.was_reached

    assert await at_every_await(scenario) >= 2


# --- speaking ------------------------------------------------------------


async def test_what_a_door_had_read_before_the_revoke_is_not_stored(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = rig.connect(bob)
    await rig.publish(bob, "public.a", 1)
    await revoke_token(rig, ada, bob)
    replies: list[Any] = []
    session_of(outlet).publish(event("public.a", 2), replies.append)
    rig.hub.publish(bob, event("public.a", 3), lane=Lane(), reply=replies.append)
    assert [type(reply) for reply in replies] == [Unauthenticated] * 2
    for attempt in (
        rig.hub.call(PublishBatch(events=[event("public.a", 4)]), caller=bob),
        rig.hub.call(ReadHistory(channel="public.a"), caller=bob),
        rig.hub.publish_wait(bob, event("public.a", 5)),
    ):
        with pytest.raises(Unauthenticated):
            await attempt
    with pytest.raises(Unauthenticated):
        rig.hub.signal(bob, "public.a", "x.a", b"6")
    with pytest.raises(Unauthenticated):
        rig.hub.open(bob, RecordingOutlet(), session_of(outlet).shape)
    assert rig.engine.channel("main", "public.a").last == 1


async def leave_room(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.hub.call(Revoke(account="bob", channel="room.r"), caller=await rig.caller("boss"))


async def block(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.hub.call(Block(account="bob"), caller=ada)


@pytest.mark.parametrize(
    "channel, revoking",
    [
        ("public.a", revoke_token),
        ("public.a", delete_account),
        ("agent.ada.inbox", block),
        ("room.r", leave_room),
    ],
    ids=["token", "account", "block", "room"],
)
@pytest.mark.parametrize("form", ["publish", "key", "batch"])
async def test_a_revoke_while_an_interceptor_thinks_refuses_the_event(
    rig: HubRig,
    ada: Caller,
    bob: Caller,
    master: Caller,
    channel: str,
    revoking: Revoking,
    form: str,
) -> None:
    grant = Grant(account="bob", channel="room.r", verbs=["publish", "read"])
    await rig.hub.call(grant, caller=master)
    asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    decided: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()

    async def intercept(_: Proposed) -> Verdict:
        asked.set_result(None)
        return await decided

    rig.hub.intercept(Interceptor(name="slow", channels=(channel,), intercept=intercept))
    call = event(channel, 1, dedupe_key="k" if form == "key" else None)
    request = PublishBatch(events=[call]) if form == "batch" else call
    publishing = asyncio.ensure_future(rig.hub.call(request, caller=bob))
    await asked
    await revoking(rig, ada, bob)
    decided.set_result(None)
    with pytest.raises((Forbidden, Unauthenticated)):
        await publishing
    assert rig.engine.channel("main", channel) is None


async def test_a_revoke_while_a_repeat_is_looked_up_tells_nothing(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    async def passes(_: Proposed) -> Verdict:
        return None

    rig.hub.intercept(Interceptor(name="a", channels=("public.a",), intercept=passes))
    await rig.publish(bob, "public.a", 1, dedupe_key="k")
    gate = Gate(rig.hub, at=1, action=lambda: revoke_token(rig, ada, bob))
    with pytest.raises(Unauthenticated):
        await rig.publish(bob, "public.a", 1, dedupe_key="k")
    await gate.open()
    assert gate.was_reached


@pytest.mark.parametrize("way", ["grant", "token", "account", "lock"])
async def test_it_is_in_force_before_it_is_stored(rig: HubRig, way: str) -> None:
    ada, bob = await prepared(rig, way)
    outlet = rig.connect(bob, SECRET)
    revoking = asyncio.ensure_future(WAYS[way](rig, ada, bob))
    # The revocation has been accepted and waits for the same group as this publish.
    while rig.hub.directory.version == 0 or not (outlet.endings or outlet.end):
        assert not revoking.done()
        await asyncio.sleep(0)
    await rig.publish(ada, SECRET, 11)
    await revoking
    assert secrets(outlet) == []


async def test_a_scope_is_asked_for_each_message(rig: HubRig, ada: Caller) -> None:
    reader = await rig.caller("ada", scopes=["events:read"])
    writer = await rig.caller("ada", scopes=["events:write"])
    with pytest.raises(Forbidden):
        await rig.publish(reader, "public.a", 1)
    await rig.publish(writer, "public.a", 1)
    with pytest.raises(Forbidden):
        rig.connect(writer, "public.a")
    with pytest.raises(Forbidden):
        rig.connect(writer, "public.*")
    with pytest.raises(ClawError):
        await rig.hub.call(ReadHistory(channel="public.a"), caller=writer)
    rig.connect(reader, "public.a")


async def test_no_gap_of_a_revoked_channel_is_told_once_the_revoke_is_acknowledged(
    rig: HubRig, ada: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.fill(ada, "agent.ada.s", 20)
    await rig.publish(bob, "public.x", 1)
    while rig.engine.trim_channel("main", "agent.ada.s", keep=5):
        pass
    await rig.hub.call(Grant(account="bob", channel="agent.ada.s", verbs=["read"]), caller=ada)
    outlet = rig.connect(bob)
    read, hold = rig.hub.storage.read, asyncio.Event()

    async def held(work: Any) -> Any:
        found = await read(work)
        await hold.wait()
        return found

    monkeypatch.setattr(rig.hub.storage, "read", held)
    since: Any = {"agent.ada.s": AfterOffset(0), "public.x": AfterOffset(0)}
    rig.subscribe(outlet, "agent.ada.s", "public.x", since=since)
    await rig.settle()
    monkeypatch.undo()
    await rig.hub.call(Revoke(account="bob", channel="agent.ada.s"), caller=ada)
    assert outlet.told == ["dropped agent.ada.s"]
    hold.set()
    await rig.settle()
    assert outlet.told == ["dropped agent.ada.s", "public.x:1"]
