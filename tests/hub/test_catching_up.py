"""From a position to live: whatever happens at whichever await, nothing is lost or doubled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.grants import Grant
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.cursors import AfterOffset, Ago, Cursor, Since
from clawnet.core.errors import BadRequest, ClawError, Forbidden
from clawnet.hub import sessions
from clawnet.hub.lanes import Lane
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.testing.hubs import Gate, HubRig, event, session_of, started_hub
from clawnet.testing.outlets import ChunkLineShape, RecordingOutlet

Scenario = Callable[[HubRig, int], Awaitable[bool]]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "CHUNK_EVENTS", 4)


async def at_every_await(scenario: Scenario) -> int:
    """Run a scenario disturbed at its first await, its second, … until it has no more."""
    for at in range(200):
        async with started_hub(HubSettings(limits=LimitSettings(enabled=False))) as rig:
            if not await scenario(rig, at):
                return at
    raise AssertionError("the scenario never ends")


def burst(rig: HubRig, caller: Caller, *channels: str, n: int) -> None:
    for i in range(n):
        for channel in channels:
            rig.hub.publish(caller, event(channel, i), lane=Lane(), reply=lambda _: None)


def is_whole(outlet: RecordingOutlet, rig: HubRig, *channels: str, first: int = 1) -> None:
    for channel in channels:
        head = rig.engine.channel("main", channel)
        assert outlet.offsets(channel) == list(range(first, head.last + 1)), outlet.told
    assert outlet.seqs == sorted(outlet.seqs)
    assert (outlet.gaps, outlet.endings) == ([], [])


# --- positions -----------------------------------------------------------


@pytest.mark.parametrize(
    "since, expected",
    [
        (None, []),
        (AfterOffset(0), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (AfterOffset(4), [5, 6, 7, 8, 9, 10]),
        (AfterOffset(10), []),
        (Ago(45_000), [7, 8, 9, 10]),
        (Ago(1), []),
        (Ago(10**9), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
async def test_one_channel_from_a_position(
    rig: HubRig, ada: Caller, bob: Caller, since: Since | None, expected: list[int]
) -> None:
    for n in range(10):
        await rig.publish(ada, "public.x", n)
        await rig.publish(ada, "public.other", n)
        await rig.clock.pass_time(10)
    outlet = rig.connect(bob, "public.x", since=since)
    await rig.settle()
    # A duration may begin a little early (the index of times is sparse), never late.
    given = outlet.offsets("public.x")
    assert given[len(given) - len(expected) :] == expected
    assert isinstance(since, Ago) or given == expected
    await rig.publish(ada, "public.x", 11)
    assert outlet.offsets("public.x") == [*given, 11]
    assert outlet.gaps == []


@pytest.mark.parametrize("channels", [("public.a",), ("public.a", "public.b"), ("public.*",)])
async def test_a_cursor_goes_on_behind_the_event_it_came_with(
    rig: HubRig, ada: Caller, bob: Caller, channels: tuple[str, ...]
) -> None:
    first = rig.connect(bob, *channels)
    for n in range(20):
        await rig.publish(ada, "public.a", n)
        await rig.publish(ada, "public.b", n)
    for at in (0, 5, len(first.frames) - 1):
        epoch, _, seq = str(first.cursors[at]).partition("-")
        again = rig.connect(bob, *channels, since=Cursor(epoch, int(seq)))
        await rig.settle()
        assert again.seqs == first.seqs[at + 1 :]
        assert again.gaps == []


async def test_an_offset_for_each_of_several_channels(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    for n in range(6):
        for channel in ("public.a", "public.b", "public.c"):
            await rig.publish(ada, channel, n)
    since: dict[str, Since] = {"public.a": AfterOffset(4), "public.b": AfterOffset(0)}
    outlet = rig.connect(bob, "public.a", "public.b", "public.c", since=since)
    await rig.settle()
    await rig.publish(ada, "public.c", 6)
    assert outlet.offsets("public.a") == [5, 6]
    assert outlet.offsets("public.b") == [1, 2, 3, 4, 5, 6]
    assert outlet.offsets("public.c") == [7]
    assert outlet.seqs == sorted(outlet.seqs)


async def test_an_offset_by_alias_is_of_the_channel(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.fill(ada, "public.lobby", 3)
    outlet = rig.connect(bob, "global", since={"global": AfterOffset(1)})
    await rig.settle()
    assert outlet.offsets("global") == [2, 3]


@pytest.mark.parametrize(
    "channels, since",
    [
        (("public.a", "public.b"), AfterOffset(3)),
        (("public.*",), AfterOffset(3)),
        (("public.*",), {"public.a": AfterOffset(3)}),
        (("public.a",), {"public.b": AfterOffset(3)}),
    ],
)
async def test_a_position_that_means_nothing_here_is_refused(
    rig: HubRig, bob: Caller, channels: tuple[str, ...], since: Any
) -> None:
    outlet = rig.connect(bob)
    with pytest.raises(BadRequest):
        rig.subscribe(outlet, *channels, since=since)
    assert session_of(outlet).subscriptions == {}


@pytest.mark.parametrize("channels", [("agent.ada.x",), ("global", "agent.ada.x"), (">",)], ids=str)
async def test_a_shape_that_frames_whole_chunks_is_given_the_same(
    rig: HubRig, ada: Caller, bob: Caller, channels: tuple[str, ...]
) -> None:
    for n in range(10):
        await rig.publish(ada, "agent.ada.x", n)
        await rig.publish(ada, "public.lobby", n)
    await rig.hub.call(Grant(account="bob", channel="x", from_offset=6), caller=ada)
    shape = ChunkLineShape()
    one = rig.connect(bob, *channels, since=AfterOffset(0))
    other = rig.connect(bob, *channels, since=AfterOffset(0), shape=shape)
    await rig.settle()
    assert other.frames == one.frames and all(other.cursors)
    assert shape.chunks >= 2
    # Beside another subscription no cursor is safe, so the chunk is framed without.
    rig.subscribe(other, "agent.bob.x", "public.lobby", since=AfterOffset(0))
    await rig.settle()
    assert other.cursors[len(one.frames) :] == [None] * 10


# --- publishes at every await --------------------------------------------

FOLLOWED: list[tuple[tuple[str, ...], Any]] = [
    (("public.a",), AfterOffset(0)),
    (("public.a",), {"public.a": AfterOffset(0)}),
    (("public.a", "public.b"), AfterOffset(0)),
    (("public.a", "public.b"), {"public.a": AfterOffset(0), "public.b": AfterOffset(0)}),
    (("public.*",), AfterOffset(0)),
    (("public.a", "public.*"), Ago(10**9)),
]


@pytest.mark.parametrize("channels, since", FOLLOWED, ids=str)
async def test_publishes_at_any_await_are_neither_lost_nor_doubled(
    channels: tuple[str, ...], since: Any
) -> None:
    names = ("public.a",) if channels == ("public.a",) else ("public.a", "public.b")

    async def scenario(rig: HubRig, at: int) -> bool:
        ada = await rig.account("ada")
        burst(rig, ada, "public.a", "public.b", n=6)
        await rig.hub.drain()

        async def disturb() -> None:
            burst(rig, ada, "public.a", "public.b", n=3)
            await rig.hub.drain()
            burst(rig, ada, "public.a", "public.b", n=1)

        gate = Gate(rig.hub, at=at, action=disturb)
        outlet = rig.connect(ada, *channels, since=since)
        await rig.settle()
        await gate.open()
        burst(rig, ada, "public.a", "public.b", n=2)
        await rig.hub.drain()
        is_whole(outlet, rig, *names)
        assert outlet.cursors[-1] is not None
        return gate.was_reached

    assert await at_every_await(scenario) >= 4


async def test_a_channel_made_while_a_pattern_catches_up_is_not_missed() -> None:
    async def scenario(rig: HubRig, at: int) -> bool:
        ada = await rig.account("ada")
        burst(rig, ada, "public.a", n=6)
        await rig.hub.drain()

        async def disturb() -> None:
            burst(rig, ada, "public.new", n=2)
            await rig.hub.drain()

        gate = Gate(rig.hub, at=at, action=disturb)
        outlet = rig.connect(ada, "public.*", since=AfterOffset(0))
        await rig.settle()
        await gate.open()
        is_whole(outlet, rig, "public.a", *(["public.new"] if gate.was_reached else []))
        return gate.was_reached

    assert await at_every_await(scenario) >= 4


async def test_a_second_subscription_at_any_await_loses_nothing_of_the_first() -> None:
    async def scenario(rig: HubRig, at: int) -> bool:
        ada = await rig.account("ada")
        burst(rig, ada, "public.a", "public.b", n=6)
        await rig.hub.drain()
        outlet = rig.connect(ada)

        async def disturb() -> None:
            rig.subscribe(outlet, "public.b", since=AfterOffset(0))
            burst(rig, ada, "public.a", "public.b", n=1)
            await rig.hub.drain()

        gate = Gate(rig.hub, at=at, action=disturb)
        rig.subscribe(outlet, "public.a", since=AfterOffset(0))
        await rig.settle()
        await gate.open()
        burst(rig, ada, "public.a", "public.b", n=1)
        await rig.hub.drain()
        names = ["public.a", "public.b"] if gate.was_reached else ["public.a"]
        for name in names:
            head = rig.engine.channel("main", name)
            assert outlet.offsets(name) == list(range(1, head.last + 1)), outlet.told
        return gate.was_reached

    assert await at_every_await(scenario) >= 4


async def test_unsubscribing_at_any_await_ends_it_there() -> None:
    async def scenario(rig: HubRig, at: int) -> bool:
        ada = await rig.account("ada")
        burst(rig, ada, "public.a", n=10)
        await rig.hub.drain()
        outlet = rig.connect(ada)
        frames_then = 0

        async def disturb() -> None:
            nonlocal frames_then
            session_of(outlet).unsubscribe(1)
            frames_then = len(outlet.frames)

        gate = Gate(rig.hub, at=at, action=disturb)
        rig.subscribe(outlet, "public.a", since=AfterOffset(0))
        await rig.settle()
        await gate.open()
        burst(rig, ada, "public.a", n=1)
        await rig.hub.drain()
        if gate.was_reached:
            assert len(outlet.frames) == frames_then
            assert rig.hub.fanout.world("main").routes == {}
        return gate.was_reached

    assert await at_every_await(scenario) >= 4


async def test_a_read_that_fails_is_told_and_ends_the_subscription(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await rig.fill(ada, "public.a", 3)

    async def broken() -> None:
        raise ZeroDivisionError

    async def read(_: Any) -> Any:
        await broken()

    rig.hub.storage.read = read  # type: ignore[method-assign, assignment]
    outlet = rig.connect(bob, "public.a", since=AfterOffset(0))
    await rig.settle()
    [(number, error)] = outlet.endings
    assert number == 1 and type(error) is ClawError
    del rig.hub.storage.read
    await rig.publish(ada, "public.a", 4)
    assert outlet.frames == []


# --- gaps ----------------------------------------------------------------


async def trimmed(rig: HubRig, channel: str, keep: int) -> None:
    engine = rig.engine
    await rig.hub.committer.run(lambda: engine.trim_channel("main", channel, keep=keep))


@pytest.mark.parametrize(
    "channels, since",
    [
        (("public.a",), AfterOffset(2)),
        (("public.a",), {"public.a": AfterOffset(2)}),
        (("public.a", "public.b"), {"public.a": AfterOffset(2)}),
    ],
    ids=str,
)
async def test_what_retention_took_is_told_by_first_and_last_before_what_follows(
    rig: HubRig, ada: Caller, bob: Caller, channels: tuple[str, ...], since: Any
) -> None:
    await rig.fill(ada, "public.a", 20)
    await trimmed(rig, "public.a", 5)
    outlet = rig.connect(bob, *channels, since=since)
    await rig.settle()
    assert outlet.told == ["gap public.a 3-15"] + [f"public.a:{n}" for n in range(16, 21)]
    [(number, gap)] = outlet.gaps
    assert (number, gap.oldest, gap.reason) == (1, 16, "retention")


@pytest.mark.parametrize("since", [AfterOffset(15), AfterOffset(20), Cursor("", 0), None])
async def test_what_was_not_asked_for_is_no_gap(
    rig: HubRig, ada: Caller, bob: Caller, since: Since | None
) -> None:
    done = await rig.fill(ada, "public.a", 20)
    await trimmed(rig, "public.a", 5)
    if isinstance(since, Cursor):
        since = Cursor(rig.hub.log_epoch, done[14].seq)
    outlet = rig.connect(bob, "public.a", since=since)
    await rig.settle()
    assert outlet.gaps == []


async def test_a_gap_of_several_channels_is_told_once_each(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    for n in range(20):
        await rig.publish(ada, "public.a", n)
        await rig.publish(ada, "public.b", n)
    await trimmed(rig, "public.a", 5)
    await trimmed(rig, "public.b", 10)
    outlet = rig.connect(bob, "public.*", since=AfterOffset(0))
    await rig.settle()
    told = {gap.channel: (gap.first, gap.last) for _, gap in outlet.gaps}
    assert len(outlet.gaps) == 2
    assert told == {"public.a": (1, 15), "public.b": (1, 10)}
    assert outlet.offsets("public.a") == list(range(16, 21))
    assert outlet.offsets("public.b") == list(range(11, 21))


@pytest.mark.parametrize("since_at", [0, 4])
async def test_a_cursor_on_one_channel_beyond_retention_is_told_of_the_gap(
    rig: HubRig, ada: Caller, bob: Caller, since_at: int
) -> None:
    done = await rig.fill(ada, "public.a", 20)
    await trimmed(rig, "public.a", 5)
    since = Cursor(rig.hub.log_epoch, done[since_at].seq)
    outlet = rig.connect(bob, "public.a", since=since)
    await rig.settle()
    [(_, gap)] = outlet.gaps
    assert gap.first <= since_at + 2 and (gap.last, gap.oldest) == (15, 16)
    page = await rig.hub.call(ReadHistory(channel="public.a", since=since), caller=bob)
    assert [gap.last for gap in page.gaps] == [15]


async def test_a_gap_has_the_name_the_subscriber_used(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await rig.fill(ada, "public.lobby", 10)
    await trimmed(rig, "public.lobby", 5)
    outlet = rig.connect(bob, "global", since=AfterOffset(0))
    beyond = rig.connect(bob, "global", since=AfterOffset(99))
    await rig.settle()
    assert outlet.told[0] == "gap global 1-5"
    assert beyond.told == ["gap global 11-99"]


@pytest.mark.parametrize("channels", [("public.a",), ("public.a", "public.b"), ("public.*",)])
async def test_a_cursor_of_another_log_is_told_and_everything_is_given(
    rig: HubRig, ada: Caller, bob: Caller, channels: tuple[str, ...]
) -> None:
    await rig.fill(ada, "public.a", 3)
    outlet = rig.connect(bob, *channels, since=Cursor("foreign", 7))
    await rig.settle()
    assert outlet.told[0].startswith("gap ")
    [(_, gap)] = outlet.gaps
    assert (gap.first, gap.last, gap.reason) == (1, 7, "epoch")
    assert outlet.offsets("public.a") == [1, 2, 3]


async def test_an_offset_of_another_epoch_is_told(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.fill(ada, "public.a", 3)
    outlet = rig.connect(bob, "public.a", since=AfterOffset(2, "foreign.1"))
    await rig.settle()
    assert outlet.told == ["gap public.a 1-2", "public.a:1", "public.a:2", "public.a:3"]
    same = rig.connect(bob, "public.a", since=AfterOffset(2, f"{rig.hub.log_epoch}.1"))
    await rig.settle()
    assert same.told == ["public.a:3"]


async def test_a_trim_at_any_await_is_told_or_nothing_is_missing() -> None:
    async def scenario(rig: HubRig, at: int) -> bool:
        ada = await rig.account("ada")
        burst(rig, ada, "public.a", n=20)
        await rig.hub.drain()
        gate = Gate(rig.hub, at=at, action=lambda: trimmed(rig, "public.a", 3))
        outlet = rig.connect(ada, "public.a", since=AfterOffset(0))
        await rig.settle()
        await gate.open()
        missing = [n for _, gap in outlet.gaps for n in range(gap.first, gap.last + 1)]
        assert sorted(missing + outlet.offsets("public.a")) == list(range(1, 21))
        assert len(outlet.gaps) <= 1
        return gate.was_reached

    assert await at_every_await(scenario) >= 6


# --- from the offset of a grant ------------------------------------------


@pytest.mark.parametrize(
    "channels",
    [("agent.ada.x",), ("agent.ada.x", "public.a"), ("agent.*.x",), (">",), ("agent.ada.>",)],
    ids=str,
)
async def test_nothing_before_the_offset_of_a_grant_is_given(
    rig: HubRig, ada: Caller, bob: Caller, channels: tuple[str, ...]
) -> None:
    await rig.fill(ada, "agent.ada.x", 10)
    await rig.hub.call(Grant(account="bob", channel="x", from_offset=8), caller=ada)
    outlet = rig.connect(bob, *channels, since=AfterOffset(0))
    await rig.settle()
    await rig.publish(ada, "agent.ada.x", 11)
    assert outlet.offsets("agent.ada.x") == [8, 9, 10, 11]
    assert [gap for _, gap in outlet.gaps if gap.channel == "agent.ada.x"] == []


async def test_a_grant_from_a_later_offset_hides_more_from_who_catches_up() -> None:
    async def scenario(rig: HubRig, at: int) -> bool:
        ada, bob = await rig.account("ada"), await rig.account("bob")
        await rig.fill(ada, "agent.ada.x", 10)
        await rig.hub.call(Grant(account="bob", channel="x"), caller=ada)
        marks: list[int] = []

        async def disturb() -> None:
            await rig.hub.call(Grant(account="bob", channel="x", from_offset=9), caller=ada)
            marks.append(len(outlet.frames))

        gate = Gate(rig.hub, at=at, action=disturb)
        outlet = rig.connect(bob, "agent.ada.x", since=AfterOffset(0))
        await rig.settle()
        await gate.open()
        if marks:
            assert all(frame.offset >= 9 for frame in outlet.frames[marks[0] :])
        assert outlet.offsets("agent.ada.x")[-2:] == [9, 10]
        return gate.was_reached

    assert await at_every_await(scenario) >= 4


async def test_the_hub_reads_for_nobody(rig: HubRig) -> None:
    with pytest.raises(Forbidden):
        rig.connect(HUB, "public.x")
