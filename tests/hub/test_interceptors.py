"""Interceptors: what looks at an event before it is stored; in order, in time, and once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.publishing import Publish, PublishBatch, Published
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.errors import (
    ClawError,
    DedupeConflict,
    InvalidData,
    PayloadTooLarge,
    RateLimited,
    Refused,
    Unavailable,
)
from clawnet.hub.interceptors import RUNNING_MAX, Deny, Interceptor, Patch, Proposed, Verdict
from clawnet.hub.lanes import WAITING_MAX, Lane
from clawnet.testing.hubs import HubRig, event, session_of

Intercept = Callable[[Proposed], Awaitable[Verdict]]


def says(verdict: Verdict) -> Intercept:
    async def intercept(_: Proposed) -> Verdict:
        return verdict

    return intercept


def add(rig: HubRig, intercept: Intercept, *channels: str, name: str = "one", **named: Any) -> None:
    rig.hub.intercept(
        Interceptor(name=name, channels=channels or ("public.>",), intercept=intercept, **named)
    )


class Slow:
    """Decides when told to, event by event."""

    def __init__(self) -> None:
        self.asked: list[Proposed] = []
        self._waiting: dict[str, asyncio.Future[Verdict]] = {}

    async def __call__(self, proposed: Proposed) -> Verdict:
        self.asked.append(proposed)
        decided: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiting[proposed.data] = decided
        return await decided

    def decide(self, data: str, verdict: Verdict = None) -> None:
        self._waiting.pop(data).set_result(verdict)


async def datas(rig: HubRig, caller: Caller, channel: str = "public.x") -> list[Any]:
    page = await rig.hub.call(ReadHistory(channel=channel), caller=caller)
    return [msgspec.json.decode(line)["data"] for line in page.body.split(b"\n") if line]


# --- verdicts ------------------------------------------------------------


async def test_a_refused_event_is_not_stored_and_leaves_no_key(rig: HubRig, ada: Caller) -> None:
    add(rig, says(Deny("not today")))
    with pytest.raises(Refused, match="not today") as caught:
        await rig.publish(ada, "public.x", 1, dedupe_key="k")
    assert caught.value.facts["interceptor"] == "one"
    rig.hub.interceptors.remove("one")
    assert not (await rig.publish(ada, "public.x", 2, dedupe_key="k")).deduped


async def test_a_patch_is_what_is_stored_and_delivered(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    add(rig, says(Patch('{"b":2}')))
    outlet = rig.connect(bob, "public.x")
    await rig.publish(ada, "public.x", 1)
    assert outlet.data == await datas(rig, ada) == [{"b": 2}]


@pytest.mark.parametrize(
    "patch, error",
    [
        ("{", InvalidData),
        ('1}\n{"seq":1', InvalidData),
        ("1e999", InvalidData),
        ("[" * 65 + "]" * 65, InvalidData),
        ('"' + "x" * 66_000 + '"', PayloadTooLarge),
        ('"\ud800"', InvalidData),
    ],
    ids=lambda value: ascii(value)[:20],
)
async def test_a_patch_is_admitted_like_any_data(
    rig: HubRig, ada: Caller, patch: str, error: type[ClawError]
) -> None:
    add(rig, says(Patch(patch)))
    with pytest.raises(error):
        await rig.publish(ada, "public.x", 1)
    assert await datas(rig, ada) == []


async def test_line_ends_of_a_patch_are_removed(rig: HubRig, ada: Caller, bob: Caller) -> None:
    outlet = rig.connect(bob, "public.x")
    add(rig, says(Patch('{\n"a":\t1\r\n}')))
    await rig.publish(ada, "public.x", 1)
    assert outlet.data == [{"a": 1}]


async def test_the_chain_is_asked_by_priority_then_name_and_each_sees_the_patch_before(
    rig: HubRig, ada: Caller
) -> None:
    def appends(mark: str) -> Intercept:
        async def intercept(proposed: Proposed) -> Verdict:
            return Patch(msgspec.json.encode([*msgspec.json.decode(proposed.data), mark]).decode())

        return intercept

    for name, priority in (("b", 100), ("z", 1), ("a", 100), ("c", 200)):
        add(rig, appends(name), name=name, priority=priority)
    await rig.publish(ada, "public.x", [])
    assert await datas(rig, ada) == [["z", "a", "b", "c"]]


async def test_after_a_refusal_nobody_else_is_asked(rig: HubRig, ada: Caller) -> None:
    later = Slow()
    add(rig, says(Deny("no")), name="a")
    add(rig, later, name="b")
    with pytest.raises(Refused):
        await rig.publish(ada, "public.x", 1)
    assert later.asked == []


async def test_one_is_asked_only_about_its_channels(rig: HubRig, ada: Caller) -> None:
    add(rig, says(Deny("no")), "public.x", "room.>")
    await rig.publish(ada, "public.xy", 1)
    await rig.publish(ada, "public.x.y", 1)
    with pytest.raises(Refused):
        await rig.publish(ada, "public.x", 1)


async def test_one_of_the_same_name_is_replaced(rig: HubRig, ada: Caller) -> None:
    add(rig, says(Deny("no")))
    add(rig, says(None))
    await rig.publish(ada, "public.x", 1)


async def test_it_is_told_who_says_what_where(rig: HubRig, ada: Caller) -> None:
    slow = Slow()
    add(rig, slow, "public.lobby")
    publishing = asyncio.ensure_future(rig.publish(ada, "global", 1, correlation_id="c"))
    await rig.settle()
    [proposed] = slow.asked
    assert (proposed.caller.account, proposed.channel, proposed.type) == (
        "ada",
        "public.lobby",
        "chat.message",
    )
    assert (proposed.data, proposed.correlation_id) == ("1", "c")
    slow.decide("1")
    await publishing


# --- errors and time -----------------------------------------------------


async def fails(_: Proposed) -> Verdict:
    raise ZeroDivisionError


async def hangs(_: Proposed) -> Verdict:
    return await asyncio.get_running_loop().create_future()


async def times_out_itself(_: Proposed) -> Verdict:
    raise TimeoutError


@pytest.mark.parametrize("intercept", [fails, hangs, times_out_itself])
async def test_an_error_or_a_late_answer_refuses_unless_it_may_be_passed_over(
    rig: HubRig, ada: Caller, intercept: Intercept
) -> None:
    add(rig, intercept, timeout_s=0.5)
    begun = rig.clock.steady_s()
    with pytest.raises(Refused, match="one"):
        await rig.publish(ada, "public.x", 1)
    assert rig.clock.steady_s() - begun <= 0.51
    add(rig, intercept, timeout_s=0.5, on_error="allow")
    await rig.publish(ada, "public.x", 2)
    assert await datas(rig, ada) == [2]


async def test_all_of_one_event_share_five_seconds(rig: HubRig, ada: Caller) -> None:
    for name in "abcd":
        add(rig, hangs, name=name, timeout_s=2.0, on_error="allow")
    begun = rig.clock.steady_s()
    with pytest.raises(Refused, match="deadline"):
        await rig.publish(ada, "public.x", 1)
    assert rig.clock.steady_s() - begun == pytest.approx(5.0, abs=0.01)
    assert await datas(rig, ada) == []


async def test_no_single_one_gets_more_than_the_five_seconds(rig: HubRig, ada: Caller) -> None:
    add(rig, hangs, timeout_s=600)
    begun = rig.clock.steady_s()
    with pytest.raises(Refused):
        await rig.publish(ada, "public.x", 1)
    assert rig.clock.steady_s() - begun == pytest.approx(5.0, abs=0.01)


async def test_an_error_of_the_hubs_own_kind_reaches_the_sender(rig: HubRig, ada: Caller) -> None:
    async def limits(_: Proposed) -> Verdict:
        raise RateLimited("Slower, please.", retry_after_s=3)

    add(rig, limits)
    with pytest.raises(RateLimited, match="Slower"):
        await rig.publish(ada, "public.x", 1)


async def test_at_most_sixteen_events_are_looked_at_at_once(rig: HubRig, ada: Caller) -> None:
    slow = Slow()
    add(rig, slow, timeout_s=5)
    replies: list[Any] = []
    for n in range(RUNNING_MAX + 4):
        rig.hub.publish(ada, event("public.x", n), lane=Lane(), reply=replies.append)
    await rig.settle()
    assert len(slow.asked) == RUNNING_MAX == 16
    slow.decide("3")
    slow.decide("7")
    await rig.settle()
    assert len(slow.asked) == 18
    assert len(replies) == 2
    await rig.clock.pass_time(11)
    assert len(replies) == 20


# --- order ---------------------------------------------------------------


async def test_later_publishes_of_the_connection_wait_on_that_channel_only(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    slow = Slow()
    add(rig, slow, "public.x")
    session = session_of(rig.connect(ada))
    replies: list[tuple[int, Any]] = []

    def publish(channel: str, n: int) -> None:
        session.publish(event(channel, n), lambda done: replies.append((n, done)))

    publish("public.x", 1)
    publish("public.x", 2)
    publish("public.y", 3)
    await rig.settle()
    assert [n for n, _ in replies] == [3]
    assert session.pending == 2
    other = asyncio.ensure_future(rig.publish(bob, "public.x", 4))
    await rig.settle()
    slow.decide("4")
    await other
    assert [p.data for p in slow.asked] == ["1", "4"]
    slow.decide("1")
    await rig.settle()
    slow.decide("2")
    await rig.settle()
    assert [n for n, _ in replies] == [3, 1, 2]
    assert await datas(rig, bob) == [4, 1, 2]
    assert session.pending == 0


async def test_what_waits_keeps_its_place_even_if_it_is_not_looked_at_itself(
    rig: HubRig, ada: Caller
) -> None:
    slow = Slow()
    add(rig, slow, "public.x")
    lane = Lane()
    replies: list[Any] = []
    rig.hub.publish(ada, event("public.x", 1), lane=lane, reply=replies.append)
    await rig.settle()
    rig.hub.interceptors.remove("one")
    rig.hub.publish(ada, event("public.x", 2), lane=lane, reply=replies.append)
    await rig.settle()
    assert replies == []
    slow.decide("1")
    await rig.settle()
    assert [reply.offset for reply in replies] == [1, 2]
    assert await datas(rig, ada) == [1, 2]
    assert not lane.is_busy("public.x")


async def test_a_refused_one_does_not_hold_up_the_next(rig: HubRig, ada: Caller) -> None:
    slow = Slow()
    add(rig, slow)
    lane = Lane()
    replies: list[Any] = []
    for n in (1, 2):
        rig.hub.publish(ada, event("public.x", n), lane=lane, reply=replies.append)
    await rig.settle()
    slow.decide("1", Deny("no"))
    await rig.settle()
    slow.decide("2")
    await rig.settle()
    assert [type(reply) for reply in replies] == [Refused, Published]


async def test_one_connection_may_have_only_so_many_waiting(rig: HubRig, ada: Caller) -> None:
    slow = Slow()
    add(rig, slow)
    lane = Lane()
    replies: list[Any] = []
    for n in range(WAITING_MAX + 1):
        rig.hub.publish(ada, event("public.x", n), lane=lane, reply=replies.append)
    assert [type(reply) for reply in replies] == [Unavailable]


# --- the same twice ------------------------------------------------------


async def test_a_repeat_is_answered_without_asking_again(rig: HubRig, ada: Caller) -> None:
    slow = Slow()
    add(rig, slow)
    first = asyncio.ensure_future(rig.publish(ada, "public.x", 1, dedupe_key="k"))
    await rig.settle()
    slow.decide("1", Patch("100"))
    done = await first
    again = await rig.publish(ada, "public.x", 1, dedupe_key="k")
    assert again.deduped and again.id == done.id
    with pytest.raises(DedupeConflict):
        await rig.publish(ada, "public.x", 2, dedupe_key="k")
    with pytest.raises(DedupeConflict):
        await rig.publish(ada, "public.x", 100, dedupe_key="k")
    assert len(slow.asked) == 1
    assert await datas(rig, ada) == [100]


async def test_a_repeat_while_the_first_is_looked_at_is_one_event(rig: HubRig, ada: Caller) -> None:
    slow = Slow()
    add(rig, slow)
    replies: list[Any] = []
    for _ in range(2):
        rig.hub.publish(
            ada, event("public.x", 1, dedupe_key="k"), lane=Lane(), reply=replies.append
        )
    await rig.settle()
    while len(replies) < 2:
        slow.decide("1", Patch(f'"decision {len(replies)}"'))
        await rig.clock.pass_time(2)
    published = [reply for reply in replies if isinstance(reply, Published)]
    assert len({reply.id for reply in published}) == 1
    assert len(await datas(rig, ada)) == 1


async def test_a_repeated_batch_is_not_looked_at_again(rig: HubRig, ada: Caller) -> None:
    asked: list[str] = []

    async def notes(proposed: Proposed) -> Verdict:
        asked.append(proposed.data)
        return None

    add(rig, notes)
    batch = PublishBatch(events=[event("public.x", n, dedupe_key=f"k{n}") for n in range(3)])
    first = await rig.hub.call(batch, caller=ada)
    again = await rig.hub.call(batch, caller=ada)
    assert [e.id for e in again.events] == [e.id for e in first.events]
    assert asked == ["0", "1", "2"]


async def test_a_batch_with_one_refused_event_stores_nothing(rig: HubRig, ada: Caller) -> None:
    async def picky(proposed: Proposed) -> Verdict:
        return Deny("two") if proposed.data == "2" else Patch(f"1{proposed.data}")

    add(rig, picky, "public.x")
    batch = [event("public.y", 0), event("public.x", 1), event("public.x", 2)]
    with pytest.raises(Refused) as caught:
        await rig.hub.call(PublishBatch(events=batch), caller=ada)
    assert caught.value.facts["index"] == 2
    assert await datas(rig, ada) == await datas(rig, ada, "public.y") == []
    await rig.hub.call(PublishBatch(events=batch[:2]), caller=ada)
    assert await datas(rig, ada) == [11]


# --- the end of the hub --------------------------------------------------


async def test_what_is_looked_at_as_the_hub_closes_is_answered(rig: HubRig, ada: Caller) -> None:
    """Else a request would hang until somebody kills the process."""
    slow = Slow()
    add(rig, slow)
    lane = Lane()
    replies: list[Any] = []
    for n in range(3):
        rig.hub.publish(ada, event("public.x", n), lane=lane, reply=replies.append)
    await rig.settle()
    await rig.hub.stop_accepting()
    await rig.hub.drain()
    await rig.hub.close()
    assert [type(reply) for reply in replies] == [Unavailable] * 3
    await rig.restart()


async def test_a_verdict_after_the_stop_stores_nothing(rig: HubRig, ada: Caller) -> None:
    slow = Slow()
    add(rig, slow)
    publishing = asyncio.ensure_future(rig.hub.publish_wait(ada, _one()))
    await rig.settle()
    await rig.hub.stop_accepting()
    slow.decide("1")
    with pytest.raises(Unavailable):
        await publishing
    assert rig.hub.storage.engine.channel("main", "public.x") is None


def _one() -> Publish:
    return event("public.x", 1)
