"""Live subscriptions: what is followed, how it is shown, and which cursors are safe."""

from __future__ import annotations

import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.grants import Grant
from clawnet.core.calls.live import SUBSCRIPTION_CHANNELS_MAX
from clawnet.core.calls.reading import ListChannels
from clawnet.core.cursors import AfterOffset
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    Forbidden,
    InvalidChannel,
    TooManySubscriptions,
    Unauthenticated,
)
from clawnet.hub.lanes import Lane
from clawnet.testing.hubs import Gate, HubRig, event, session_of
from clawnet.testing.outlets import LineShape

# --- refused -------------------------------------------------------------


@pytest.mark.parametrize(
    "channels, error",
    [
        ((), BadRequest),
        (("agent.ada.x",), Forbidden),
        (("agent.ada.inbox",), Forbidden),
        (("dm.ada.boss",), Forbidden),
        (("room.r",), Forbidden),
        (("system.accounts",), Forbidden),
        (("undeclared:x",), Forbidden),
        (("public.a", "agent.ada.x"), Forbidden),
        (("public",), InvalidChannel),
        (("public.a*",), InvalidChannel),
        (("public.>.a",), InvalidChannel),
        (("agent.ada.inbox", ">"), Forbidden),
        (tuple(f"public.{n}" for n in range(SUBSCRIPTION_CHANNELS_MAX + 1)), TooManySubscriptions),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_refused_subscription_follows_nothing(
    rig: HubRig, ada: Caller, bob: Caller, channels: tuple[str, ...], error: type[ClawError]
) -> None:
    outlet = rig.connect(bob)
    with pytest.raises(error):
        rig.subscribe(outlet, *channels)
    await rig.publish(ada, "public.a", 1)
    await rig.publish(ada, "agent.ada.x", 1)
    await rig.settle()
    assert outlet.told == []
    assert session_of(outlet).subscriptions == {}


async def test_without_a_token_only_public_names_are_followed(rig: HubRig, ada: Caller) -> None:
    nobody = rig.hub.anonymous(is_local=True)
    outlet = rig.connect(nobody, "public.x", "agent.ada.public.y")
    for refused in ("public.>", "public.*", ">", "agent.ada.x", "system.presence", "dm.ada.bob"):
        with pytest.raises((Forbidden, Unauthenticated)):
            rig.subscribe(outlet, refused)
    await rig.publish(ada, "public.x", 1)
    await rig.publish(ada, "agent.ada.public.y", 2)
    assert outlet.data == [1, 2]


async def test_a_pattern_gives_only_what_may_be_read(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.hub.call(Grant(account="bob", channel="shared"), caller=ada)
    outlet = rig.connect(bob, ">")
    for channel in ("agent.ada.secret", "agent.ada.inbox", "agent.ada.shared", "public.x"):
        await rig.publish(ada, channel, channel)
    await rig.publish(ada, "agent.bob.inbox", "for bob")
    said = [frame.channel for frame in outlet.frames if not frame.channel.startswith("system.")]
    assert said == ["agent.ada.shared", "public.x", "agent.bob.inbox"]


async def test_a_closed_session_takes_and_gives_nothing(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = rig.connect(bob, "public.x")
    session_of(outlet).close()
    session_of(outlet).close()
    await rig.publish(ada, "public.x", 1)
    with pytest.raises(Unauthenticated):
        rig.subscribe(outlet, "public.x")
    replies: list[object] = []
    session_of(outlet).publish(event("public.x"), replies.append)
    assert isinstance(replies[0], Unauthenticated)
    assert outlet.told == []


# --- live ----------------------------------------------------------------


async def test_a_name_gives_its_events_from_now_on(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.publish(ada, "public.x", 0)
    outlet = rig.connect(bob, "public.x")
    await rig.publish(ada, "public.x", 1)
    await rig.publish(ada, "public.y", 2)
    await rig.publish(ada, "public.x", 3)
    assert outlet.data == [1, 3]


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("public.*", ["public.a", "public.b"]),
        ("public.>", ["public.a", "public.b", "public.a.c"]),
        ("public.*.c", ["public.a.c"]),
        ("agent.*.public.>", ["agent.ada.public.z"]),
        ("public.*", ["public.a", "public.b"]),
    ],
)
async def test_a_pattern_gives_what_it_covers_also_channels_made_later(
    rig: HubRig, ada: Caller, bob: Caller, pattern: str, names: list[str]
) -> None:
    await rig.publish(ada, "public.a", 0)
    outlet = rig.connect(bob, pattern)
    for name in ("public.a", "public.b", "public.a.c", "agent.ada.public.z", "agent.ada.inbox"):
        await rig.publish(ada, name, 1)
    assert [frame.channel for frame in outlet.frames] == names


@pytest.mark.parametrize("alias", ["global", "public.townsquare", "public.lobby"])
@pytest.mark.parametrize("since", [None, AfterOffset(0)])
async def test_a_channel_is_shown_under_the_name_its_subscriber_used(
    rig: HubRig, ada: Caller, bob: Caller, alias: str, since: AfterOffset | None
) -> None:
    if since is not None:
        await rig.publish(ada, "public.lobby", 1)
    outlet = rig.connect(bob, alias, since=since)
    await rig.settle()
    await rig.publish(ada, "global", {"channel": "public.lobby"})
    assert {frame.channel for frame in outlet.frames} == {alias}
    assert outlet.data[-1] == {"channel": "public.lobby"}
    rig.hub.signal(ada, "public.lobby", "x.typing", b'"public.lobby"')
    assert outlet.frames[-1].channel == alias
    assert outlet.data[-1] == "public.lobby"


async def test_the_same_channel_by_two_names_is_given_once(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = rig.connect(bob, "public.lobby")
    rig.subscribe(outlet, "global")
    rig.subscribe(outlet, "public.*")
    await rig.publish(ada, "public.lobby", 1)
    assert outlet.data == [1]
    for number in (1, 2, 3):
        session_of(outlet).unsubscribe(number)
    await rig.publish(ada, "public.lobby", 2)
    assert outlet.data == [1]


async def test_an_alias_of_an_ended_subscription_is_forgotten(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = rig.connect(bob, "global")
    session_of(outlet).unsubscribe(1)
    rig.subscribe(outlet, "public.lobby")
    await rig.publish(ada, "global", 1)
    assert [frame.channel for frame in outlet.frames] == ["public.lobby"]


async def test_a_second_subscription_loses_and_doubles_nothing(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = rig.connect(bob, "public.a")
    await rig.publish(ada, "public.a", 1)
    rig.subscribe(outlet, "public.b")
    await rig.publish(ada, "public.a", 2)
    await rig.publish(ada, "public.b", 3)
    rig.subscribe(outlet, "public.c.>", since=AfterOffset(0))
    await rig.publish(ada, "public.a", 4)
    await rig.publish(ada, "public.c.d", 5)
    await rig.settle()
    await rig.publish(ada, "public.b", 6)
    assert sorted(outlet.data) == [1, 2, 3, 4, 5, 6]
    assert [d for d in outlet.data if d != 5] == [1, 2, 3, 4, 6]


async def test_after_unsubscribe_nothing_comes_and_the_others_go_on(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = rig.connect(bob, "public.a")
    rig.subscribe(outlet, "public.a", "public.b")
    rig.subscribe(outlet, "public.c.*")
    session_of(outlet).unsubscribe(2)
    for name in ("public.a", "public.b", "public.c.d"):
        await rig.publish(ada, name, name)
    assert outlet.data == ["public.a", "public.c.d"]
    session_of(outlet).unsubscribe(3)
    session_of(outlet).unsubscribe(1)
    for name in ("public.a", "public.b", "public.c.d"):
        await rig.publish(ada, name, name)
    assert len(outlet.frames) == 2
    with pytest.raises(BadRequest):
        session_of(outlet).unsubscribe(1)


async def test_nothing_is_kept_of_who_left(rig: HubRig, bob: Caller) -> None:
    outlets = [rig.connect(bob, f"public.{n}", "public.*") for n in range(5)]
    outlets += [rig.connect(bob, f"public.{n}") for n in range(5)]
    for outlet in outlets:
        session_of(outlet).close()
    world = rig.hub.fanout.world("main")
    assert world.routes == {}
    assert not world.patterns._root.next and not world.patterns._exact
    assert rig.hub.sessions == {}


async def test_a_subscribe_writes_nothing_before_its_answer(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await rig.publish(ada, "public.x", 1)
    outlet = rig.connect(bob)
    rig.subscribe(outlet, "public.x", since=AfterOffset(0))
    outlet.told.append("answered")
    await rig.settle()
    assert outlet.told == ["answered", "public.x:1"]


async def test_subscribers_are_counted(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.publish(ada, "public.x", 1)
    rig.connect(bob, "public.x")
    rig.connect(ada, "public.x", "public.y")
    rig.connect(ada, "public.*")
    await rig.publish(ada, "public.x", 1)
    listed = await rig.hub.call(ListChannels(pattern="public.x"), caller=bob)
    assert [channel.subscribers for channel in listed.channels] == [3]


# --- cursors -------------------------------------------------------------


async def test_each_cursor_is_of_the_event_it_stands_with(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = rig.connect(bob, "public.x", since=AfterOffset(0))
    done = await rig.fill(ada, "public.x", 3)
    await rig.settle()
    done += await rig.fill(ada, "public.x", 3)
    assert outlet.cursors == [f"{rig.hub.log_epoch}-{published.seq}" for published in done]


async def test_while_one_subscription_catches_up_no_cursor_is_given(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    """A cursor says that everything before it was written, on all that is followed."""
    await rig.fill(ada, "public.old", 3)
    outlet = rig.connect(bob, "public.x")
    await rig.publish(ada, "public.x", 1)
    assert outlet.cursors[-1] is not None
    gate = Gate(rig.hub, at=0, action=lambda: rig.publish(ada, "public.x", 2))
    rig.subscribe(outlet, "public.old", since=AfterOffset(0))
    await rig.settle()
    await gate.open()
    told = dict(zip(outlet.told, outlet.cursors, strict=True))
    assert [told[f"public.old:{n}"] for n in (1, 2, 3)] == [None, None, None]
    assert told["public.x:2"] is None
    await rig.publish(ada, "public.x", 3)
    assert outlet.cursors[-1] is not None


async def test_several_channels_come_merged_in_the_order_of_the_log(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    for n in range(30):
        await rig.publish(ada, f"public.{n % 4}", n)
    outlet = rig.connect(bob, "public.0", "public.1", "public.2", since=AfterOffset(0))
    await rig.settle()
    for n in range(30):
        await rig.publish(ada, f"public.{n % 4}", 30 + n)
    assert outlet.seqs == sorted(outlet.seqs)
    assert outlet.data == [n for n in range(60) if n % 30 % 4 != 3]
    assert all(outlet.cursors)


async def test_frames_of_two_shapes_are_built_once_each(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    one, other = LineShape("one"), LineShape("other")
    outlets = [rig.connect(bob, "public.x", shape=one) for _ in range(50)]
    outlets += [rig.connect(bob, "public.x", shape=other) for _ in range(50)]
    await rig.publish(ada, "public.x", 1)
    assert (one.built, other.built) == (1, 1)
    assert all(outlet.data == [1] for outlet in outlets)
    mixed = [rig.connect(bob, "public.*", "public.x", shape=one) for _ in range(10)]
    await rig.publish(ada, "public.x", 2)
    assert (one.built, other.built) == (2, 2)
    assert all(outlet.data == [2] for outlet in mixed)


async def test_what_is_stored_together_is_written_at_once(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    sole, mixed = rig.connect(bob, "public.x"), rig.connect(bob, "public.*")
    for n in range(100):
        rig.hub.publish(ada, event("public.x", n), lane=Lane(), reply=lambda _: None)
    await rig.hub.drain()
    assert sole.data == mixed.data == list(range(100))
    assert len(sole.writes) == len(mixed.writes) == 1
