"""What was revoked is over at this door, too: answers that wait unsent, who comes and goes, the
past by way of recovery, and subscriptions that had not begun."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import UpdateAccount
from clawnet.core.calls.grants import Grant, Revoke
from clawnet.doors.centrifugo.settings import CentrifugoSettings
from clawnet.hub.settings import ChannelSettings, NamespaceSettings
from clawnet.testing.hubs import Gate
from clawnet.testing.running import Running
from tests.doors.centrifugo.sockets import (
    NAMESPACES,
    SETTINGS,
    WAIT_MAX_S,
    Socket,
    door_of,
    fill,
    foreign,
    socket,
)
from tests.doors.centrifugo.test_ws_pressure import pour, slow_reader
from tests.doors.ws.frames_made import text

SECRET = "agent.alice.x"
ROOM = "pres:x"
MORE = {
    **NAMESPACES,
    "pres": NamespaceSettings(publish="accounts", read="accounts", presence="granted"),
    "live": NamespaceSettings(publish="accounts", read="accounts", history="nobody"),
    "newest": NamespaceSettings(
        publish="accounts", read="accounts", history="nobody", recovery_mode="cache"
    ),
    "past": NamespaceSettings(publish="accounts", read="accounts", history="granted"),
    "late": NamespaceSettings(publish="accounts", read="granted", recovery_mode="cache"),
}


@pytest.fixture
async def hub() -> AsyncIterator[Running]:
    settings = msgspec.structs.replace(SETTINGS, channels=ChannelSettings(namespaces=MORE))
    limited = CentrifugoSettings(recovery_publications_max=3)
    async with door_of(settings, centrifugo=limited) as running:
        yield running


@pytest.fixture
async def wide() -> AsyncIterator[Running]:
    """A hub whose answers hold much."""
    async with door_of() as running:
        yield running


async def granted(hub: Running, account: str, channel: str, **named: Any) -> Caller:
    """By a master, who is answered."""
    master = hub.hub.authenticate(await hub.token("master", role="master"))
    await hub.token(account)
    await hub.hub.call(Grant(account=account, channel=channel, **named), caller=master)
    return master


# --- what waits unsent ----------------------------------------------------------------------------


def asks_for_history(n: int) -> str:
    return json.dumps({"id": n + 2, "history": {"channel": SECRET, "limit": 300}})


def comes_and_goes(n: int) -> str:
    follow = {"id": 2 * n + 2, "subscribe": {"channel": SECRET, "recover": True}}
    leave = {"id": 2 * n + 3, "unsubscribe": {"channel": SECRET}}
    return f"{json.dumps(follow)}\n{json.dumps(leave)}"


async def stuck(hub: Running) -> None:
    """Wait until the client's connection takes no more."""
    turns = 0
    async with asyncio.timeout(WAIT_MAX_S):
        while turns < 300:
            await asyncio.sleep(0)
            turns = turns + 1 if hub.hub.slow else 0


@pytest.mark.parametrize("ask", [asks_for_history, comes_and_goes], ids=["history", "recovery"])
async def test_answers_that_are_not_sent_are_dropped_with_the_right(
    wide: Running, ask: Callable[[int], str]
) -> None:
    hub = wide
    alice = hub.hub.authenticate(await hub.token("alice"))
    bob = await hub.token("bob")
    await pour(hub, SECRET, 200)
    await hub.hub.call(Grant(account="bob", channel=SECRET), caller=alice)
    async with await slow_reader(hub, bob) as slow:
        slow.send(text("\n".join(map(ask, range(60)))))
        await stuck(hub)
        await hub.hub.call(Revoke(account="bob", channel=SECRET), caller=alice)
        # The connection ends in the middle: what waits in the process goes with it.
        taken = await slow.rest()
        assert b'"id":61' not in taken


async def test_a_revoke_of_something_else_costs_a_slow_client_nothing(hub: Running) -> None:
    alice = hub.hub.authenticate(await hub.token("alice"))
    bob = await hub.token("bob")
    await pour(hub, "public.big", 300)
    async with await slow_reader(hub, bob) as slow:
        ask = {"channel": "public.big", "limit": 300}
        slow.send(text("\n".join(json.dumps({"id": n, "history": ask}) for n in range(2, 22))))
        await stuck(hub)
        await hub.hub.call(Grant(account="bob", channel=SECRET), caller=alice)
        await hub.hub.call(Revoke(account="bob", channel=SECRET), caller=alice)
        for n in range(2, 22):
            frame = await slow.frame()
            assert frame is not None, "the connection goes on"
            ids = [json.loads(line)["id"] for line in bytes(frame.data).split(b"\n")]
            assert ids[0] >= n - 1
            if ids[-1] == 21:
                break


# --- who comes and goes ---------------------------------------------------------------------------


async def watching(hub: Running, watcher: Socket) -> None:
    """The watcher is told who comes and goes."""
    await watcher.subscribe(ROOM, join_leave=True)
    assert (await watcher.push("join"))["info"]["user"] == "eve"


async def seen_of_bob(hub: Running, watcher: Socket) -> list[str]:
    """What the watcher is told of bob while he comes and goes, and a warden is told of it."""
    await hub.token("wanda", role="warden")
    async with (
        socket(hub, await hub.token("wanda")) as witness,
        socket(hub, await hub.token("bob")) as bob,
    ):
        await witness.subscribe(ROOM, join_leave=True)
        assert (await witness.push("join"))["info"]["user"] == "wanda"
        await bob.subscribe(ROOM)
        assert (await witness.push("join"))["info"]["user"] == "bob"
        await bob.done(unsubscribe={"channel": ROOM})
        assert (await witness.push("leave"))["info"]["user"] == "bob"
        # Whatever is told stands before this.
        await watcher.say({"id": 99, "unsubscribe": {"channel": "public.none"}})
        told = []
        while (heard := await watcher.hear()).get("id") != 99:
            push = heard["push"]
            kind = "join" if "join" in push else "leave"
            told += [kind] if push[kind]["info"]["user"] == "bob" else []
    return told


async def test_joins_are_told_as_long_as_presence_may_be_seen(hub: Running) -> None:
    master = await granted(hub, "eve", ROOM)
    async with socket(hub, await hub.token("eve")) as eve:
        await watching(hub, eve)
        assert await seen_of_bob(hub, eve) == ["join", "leave"]
        await hub.hub.call(Grant(account="eve", channel="pres:other"), caller=master)
        await hub.hub.call(Revoke(account="eve", channel="pres:other"), caller=master)
        assert await seen_of_bob(hub, eve) == ["join", "leave"]
        await hub.hub.call(Revoke(account="eve", channel=ROOM), caller=master)
        assert await seen_of_bob(hub, eve) == []
        # It is still followed, which needs no such right.
        await fill(hub, ROOM, 1)
        assert (await eve.push())["data"] == {"n": 1}


async def test_a_warden_who_is_none_any_more_is_told_of_no_joins(hub: Running) -> None:
    await hub.token("eve", role="warden")
    async with socket(hub, await hub.token("eve")) as eve:
        await watching(hub, eve)
        await hub.hub.call(UpdateAccount(id="eve", role="worker"), caller=HUB)
        assert await seen_of_bob(hub, eve) == []


async def test_who_may_not_see_presence_is_told_of_no_joins(hub: Running) -> None:
    async with socket(hub, await hub.token("eve")) as eve:
        await eve.subscribe(ROOM, join_leave=True)
        assert (await eve.refused(presence={"channel": ROOM}))["code"] == 103
        assert await seen_of_bob(hub, eve) == []


async def test_a_right_to_presence_that_ends_while_the_log_is_read_is_not_used(
    hub: Running,
) -> None:
    master = await granted(hub, "eve", ROOM)
    await fill(hub, ROOM, 3)

    async def revoke() -> None:
        await hub.hub.call(Revoke(account="eve", channel=ROOM), caller=master)

    async with socket(hub, await hub.token("eve")) as eve:
        gate = Gate(hub.hub, at=1, action=revoke)
        await eve.subscribe(ROOM, join_leave=True, recover=True)
        assert gate.was_reached
        await gate.open()
        assert await seen_of_bob(hub, eve) == []


async def test_without_presence_on_the_hubs_own_channels_nobody_is_told_of(hub: Running) -> None:
    name = "agent.alice.public.news"
    async with (
        socket(hub, connects=True) as anyone,
        socket(hub, foreign(sub="42")) as client,
        socket(hub, await hub.token("alice")) as alice,
        socket(hub, await hub.token("bob")) as bob,
    ):
        await anyone.subscribe(name, join_leave=True)
        (made,) = hub.centrifugo.clients.of_user("main", "42")
        # No token of an application, nor its backend, shows who is on a channel of the hub.
        made.subscribe(name, overrides={"force_push_join_leave": True})
        await client.push("subscribe")
        await alice.subscribe(name, join_leave=True)
        assert (await alice.push("join"))["info"]["user"] == "alice"
        await bob.subscribe(name)
        assert (await alice.push("join"))["info"]["user"] == "bob"
        for method in ("presence", "presence_stats"):
            assert (await anyone.refused(**{method: {"channel": name}}))["code"] == 103
        assert len((await bob.done(presence={"channel": name}))["presence"]) == 4
        assert await client.done(unsubscribe={"channel": "public.none"}) == {}


# --- the past -------------------------------------------------------------------------------------


async def test_a_past_that_may_not_be_read_is_not_recovered(hub: Running) -> None:
    await fill(hub, "live:x", 8)
    async with socket(hub, await hub.token("bob")) as bob:
        assert (await bob.refused(history={"channel": "live:x"}))["code"] == 103
        epoch = (await bob.subscribe("live:x"))["epoch"]
        for position in (
            {},
            {"offset": 7},
            {"offset": 8},
            {"offset": 0, "epoch": epoch},
            {"offset": 4, "epoch": epoch},
            {"offset": 7, "epoch": "other"},
        ):
            await bob.done(unsubscribe={"channel": "live:x"})
            refused = await bob.refused(
                subscribe={"channel": "live:x", "recover": True, "flag": 2, **position}
            )
            assert refused["code"] == 112, position
            begun = await bob.subscribe("live:x", recover=True, **position)
            assert (begun["was_recovering"], begun["offset"]) == (True, 8)
            assert "recovered" not in begun and "publications" not in begun, position
        await fill(hub, "live:x", 1, start=9)
        assert (await bob.push())["data"] == {"n": 9}


async def test_a_short_absence_is_made_up_for_without_the_right_to_the_past(hub: Running) -> None:
    await fill(hub, "live:x", 8)
    async with socket(hub, await hub.token("bob")) as bob:
        first = await bob.subscribe("live:x")
        await bob.done(unsubscribe={"channel": "live:x"})
        await fill(hub, "live:x", 3, start=9)
        position = {"offset": 8, "epoch": first["epoch"]}
        begun = await bob.subscribe("live:x", recover=True, **position)
        assert begun["recovered"] is True
        assert [pub["data"]["n"] for pub in begun["publications"]] == [9, 10, 11]


async def test_of_a_cache_whose_past_may_not_be_read_nothing_is_given_at_first(
    hub: Running,
) -> None:
    await fill(hub, "newest:x", 2)
    async with socket(hub, await hub.token("bob")) as bob:
        begun = await bob.subscribe("newest:x", recover=True)
        assert "publications" not in begun and "recovered" not in begun


async def test_the_newest_of_a_cache_is_not_given_below_where_one_may_read(hub: Running) -> None:
    await fill(hub, "late:x", 3)
    await granted(hub, "bob", "late:x", from_offset=3)
    await granted(hub, "carol", "late:x", from_offset=4)
    async with socket(hub, await hub.token("bob")) as bob:
        begun = await bob.subscribe("late:x", recover=True)
        assert [pub["offset"] for pub in begun["publications"]] == [3]
    async with socket(hub, await hub.token("carol")) as carol:
        begun = await carol.subscribe("late:x", recover=True)
        assert "publications" not in begun and "recovered" not in begun


async def test_a_right_to_the_past_that_ends_while_it_is_read_is_not_used(hub: Running) -> None:
    await fill(hub, "past:x", 3)
    master = await granted(hub, "bob", "past:x")

    async def revoke() -> None:
        await hub.hub.call(Revoke(account="bob", channel="past:x"), caller=master)

    for at in range(4):
        await granted(hub, "bob", "past:x")
        async with socket(hub, await hub.token("bob")) as bob:
            gate = Gate(hub.hub, at=at, action=revoke)
            begun = await bob.subscribe("past:x", recover=True)
            assert gate.was_reached
            await gate.open()
            assert "publications" not in begun and "recovered" not in begun


# --- subscriptions that have not begun ------------------------------------------------------------


async def test_what_the_application_ended_before_it_began_does_not_begin(hub: Running) -> None:
    await fill(hub, "chat:x", 5)
    async with socket(hub, await hub.token("bob")) as bob:
        (made,) = hub.centrifugo.clients.of_user("main", "bob")

        async def end() -> None:
            assert made.unsubscribe("chat:x") is True

        for at in range(2):
            gate = Gate(hub.hub, at=at, action=end)
            refused = await bob.refused(subscribe={"channel": "chat:x", "recover": True})
            assert gate.was_reached
            await gate.open()
            assert refused["code"] == 103
            assert made.unsubscribe("chat:x") is False
        await fill(hub, "chat:x", 1, start=6)
        begun = await bob.subscribe("chat:x", recover=True)
        assert [pub["data"]["n"] for pub in begun["publications"]] == [1, 2, 3]
