"""Reads of the past: pages, gaps, waits, and ids that tell nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.grants import Grant
from clawnet.core.calls.reading import History, ListChannels, ReadEvent, ReadHistory
from clawnet.core.cursors import AfterOffset, Ago, Cursor
from clawnet.core.errors import BadRequest, ClawError, Forbidden, InvalidChannel, NotFound
from clawnet.testing.hubs import Gate, HubRig


async def read(rig: HubRig, caller: Caller, channel: str = "public.a", **named: Any) -> History:
    page: History = await rig.hub.call(ReadHistory(channel=channel, **named), caller=caller)
    assert page.count == len(offsets(page))
    return page


def events(page: History) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in page.body.split(b"\n") if line]


def offsets(page: History) -> list[int]:
    return [event["offset"] for event in events(page)]


@pytest.mark.parametrize(
    "call, error",
    [
        (ReadHistory(channel="agent.bob.x"), Forbidden),
        (ReadHistory(channel="public.*"), InvalidChannel),
        (ReadHistory(channel="public.a", limit=0), BadRequest),
        (ReadHistory(channel="public.a", limit=1_001), BadRequest),
        (ReadHistory(channel="public.a", wait_s=-1), BadRequest),
        (ReadHistory(channel="public.a", wait_s=61), BadRequest),
        (ReadHistory(channel="public.a", wait_s=float("nan")), BadRequest),
        (ListChannels(limit=0), BadRequest),
        (ListChannels(pattern="public.>.x"), InvalidChannel),
        (ReadEvent(id="nonsense"), NotFound),
    ],
    ids=repr,
)
async def test_a_bad_read_is_refused(
    rig: HubRig, ada: Caller, call: Any, error: type[ClawError]
) -> None:
    with pytest.raises(error):
        await rig.hub.call(call, caller=ada)


async def test_pages_forward_and_back_give_everything_once(rig: HubRig, ada: Caller) -> None:
    await rig.fill(ada, "public.a", 25)
    after, seen = 0, []
    while True:
        page = await read(rig, ada, since=AfterOffset(after), limit=10)
        if not page.count:
            break
        seen += offsets(page)
        after = page.next or 0
    assert seen == list(range(1, 26)) and after == 25
    before, back = None, []
    for _ in range(4):
        page = await read(rig, ada, before=before, limit=10, reverse=True)
        back += offsets(page)
        before = page.next
        if before is None:
            break
    assert back == seen[::-1] and before is None


async def test_an_empty_channel_is_an_empty_page(rig: HubRig, ada: Caller) -> None:
    for named in ({}, {"reverse": True}, {"since": Ago(1_000)}, {"since": AfterOffset(0)}):
        page = await read(rig, ada, **named)
        assert (page.body, page.count, page.gaps) == (b"", 0, ())


async def test_the_name_that_was_asked_is_shown(rig: HubRig, ada: Caller) -> None:
    await rig.publish(ada, "public.lobby", '"public.lobby"')
    for named in ({}, {"reverse": True}):
        [event] = events(await read(rig, ada, "global", **named))
        assert (event["channel"], event["data"]) == ("global", '"public.lobby"')
    await rig.hub.committer.run(lambda: rig.engine.trim_channel("main", "public.lobby", keep=0))
    page = await read(rig, ada, "global", since=AfterOffset(0))
    beyond = await read(rig, ada, "global", since=Cursor("foreign", 5))
    assert {gap.channel for gap in page.gaps + beyond.gaps} == {"global"}


async def test_what_is_gone_is_told(rig: HubRig, ada: Caller) -> None:
    await rig.fill(ada, "public.a", 20)
    await rig.hub.committer.run(lambda: rig.engine.trim_channel("main", "public.a", keep=5))
    page = await read(rig, ada, since=AfterOffset(3), limit=2)
    [gap] = page.gaps
    assert (gap.first, gap.last, gap.oldest, gap.reason) == (4, 15, 16, "retention")
    assert offsets(page) == [16, 17]
    assert (await read(rig, ada, since=AfterOffset(15))).gaps == ()
    [gap] = (await read(rig, ada, since=AfterOffset(99))).gaps
    assert (gap.first, gap.last, gap.reason) == (21, 99, "epoch")


@pytest.mark.parametrize("named", [{}, {"reverse": True}, {"since": AfterOffset(2)}, {"limit": 3}])
async def test_nothing_before_the_offset_of_a_grant_is_given(
    rig: HubRig, ada: Caller, bob: Caller, named: dict[str, Any]
) -> None:
    done = await rig.fill(ada, "agent.ada.x", 10)
    await rig.hub.call(Grant(account="bob", channel="x", from_offset=6), caller=ada)
    page = await read(rig, bob, "agent.ada.x", **named)
    assert min(offsets(page)) >= 6 and page.gaps == ()
    if named.get("reverse"):
        assert page.next is None
    with pytest.raises(NotFound):
        await rig.hub.call(ReadEvent(id=done[4].id), caller=bob)
    assert await rig.hub.call(ReadEvent(id=done[5].id), caller=bob)


async def test_an_id_tells_nothing_to_who_may_not_read(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    done = await rig.publish(ada, "agent.ada.x", 1)
    other = done.id[:-1] + ("0" if done.id[-1] != "0" else "1")
    answers = []
    for wanted in (done.id, other, done.id.replace("evt_0", "evt_1")):
        with pytest.raises(NotFound) as caught:
            await rig.hub.call(ReadEvent(id=wanted), caller=bob)
        answers.append(caught.value.message.replace(wanted, ""))
    assert len(set(answers)) == 1
    # The seq alone is not the id: who guesses it must not be answered either.
    forged = "evt_00000000-0000-7000-8000" + done.id[-13:]
    with pytest.raises(NotFound):
        await rig.hub.call(ReadEvent(id=forged), caller=ada)


async def test_who_said_it_reads_it_back_by_its_id_and_in_no_other_way(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    stored = await rig.publish(ada, "agent.bob.inbox", "for bob")
    other = await rig.publish(bob, "agent.bob.inbox", "a note")
    body = await rig.hub.call(ReadEvent(id=stored.id), caller=ada)
    assert msgspec.json.decode(body)["data"] == "for bob"
    for caller in (await rig.account("carl"), await rig.caller("ada", scopes=["events:write"])):
        with pytest.raises(NotFound):
            await rig.hub.call(ReadEvent(id=stored.id), caller=caller)
    with pytest.raises(NotFound):
        await rig.hub.call(ReadEvent(id=other.id), caller=ada)
    with pytest.raises(Forbidden):
        await read(rig, ada, "agent.bob.inbox")
    assert (await rig.hub.call(ListChannels(pattern="agent.>"), caller=ada)).channels == []
    # What is gone is gone for its sender too.
    while rig.engine.real.trim_channel("main", "agent.bob.inbox", keep=1):
        pass
    with pytest.raises(NotFound):
        await rig.hub.call(ReadEvent(id=stored.id), caller=ada)


async def test_only_channels_that_may_be_read_are_listed(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    for channel in ("public.b", "public.a", "agent.ada.x", "agent.ada.public.x", "public.c.d"):
        await rig.publish(ada, channel, 1)
    listed = await rig.hub.call(ListChannels(limit=2), caller=bob)
    assert [channel.name for channel in listed.channels] == ["agent.ada.public.x", "public.a"]
    rest = await rig.hub.call(ListChannels(after=listed.next), caller=bob)
    assert [channel.name for channel in rest.channels] == ["public.b", "public.c.d"]
    assert rest.next is None
    some = await rig.hub.call(ListChannels(pattern="public.*"), caller=bob)
    assert [channel.name for channel in some.channels] == ["public.a", "public.b"]


async def test_a_wait_is_answered_by_the_next_event(rig: HubRig, ada: Caller) -> None:
    reading = asyncio.ensure_future(read(rig, ada, since=AfterOffset(0), wait_s=60))
    await rig.publish(ada, "public.b", 0)
    await rig.settle()
    assert not reading.done()
    await rig.publish(ada, "public.a", 1)
    await rig.settle()
    assert offsets(reading.result()) == [1]
    begun = rig.clock.steady_s()
    assert (await read(rig, ada, since=AfterOffset(1), wait_s=5)).count == 0
    assert rig.clock.steady_s() - begun == pytest.approx(5, abs=0.1)
    assert rig.hub.fanout.world("main").routes == {}


async def test_a_publish_at_any_await_of_a_wait_is_not_slept_through(
    rig: HubRig, ada: Caller
) -> None:
    for at in range(8):
        gate = Gate(rig.hub, at=at, action=lambda: rig.publish(ada, "public.a", 1))
        reading = asyncio.ensure_future(read(rig, ada, since=AfterOffset(at), wait_s=60))
        await rig.settle()
        await gate.open()
        if not gate.was_reached:
            await rig.publish(ada, "public.a", 1)
            await rig.settle()
        assert reading.done() and offsets(reading.result()) == [at + 1]
