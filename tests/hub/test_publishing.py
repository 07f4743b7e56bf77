"""The publish path: what is refused, what is stored, and what the same publish twice comes to."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from clawnet.core.callers import Caller
from clawnet.core.calls.publishing import BATCH_MAX_EVENTS, Publish, PublishBatch, Published
from clawnet.core.calls.reading import ReadEvent, ReadHistory
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    DedupeConflict,
    Forbidden,
    InvalidChannel,
    InvalidData,
    InvalidType,
    PayloadTooLarge,
    Unauthenticated,
    Unavailable,
)
from clawnet.core.units import Committed, Unit
from clawnet.hub import committer
from clawnet.hub.lanes import Lane
from clawnet.testing.hubs import HubRig, event


def raw(channel: str, data: bytes, **named: Any) -> Publish:
    return Publish(channel=channel, data=msgspec.Raw(data), **named)


async def stored(rig: HubRig, caller: Caller, channel: str) -> list[dict[str, Any]]:
    page = await rig.hub.call(ReadHistory(channel=channel), caller=caller)
    return [msgspec.json.decode(line) for line in page.body.split(b"\n") if line]


async def outcome(rig: HubRig, caller: Caller, call: Publish) -> Published | ClawError:
    try:
        return await rig.hub.publish_wait(caller, call)
    except ClawError as error:
        return error


@pytest.mark.parametrize(
    "call, error",
    [
        (event("agent.bob.x", 1), Forbidden),
        (event("system.accounts", 1), Forbidden),
        (event("dm.bob.boss", 1), Forbidden),
        (event("agent.gone.inbox", 1), Forbidden),
        (event("undeclared:x", 1), Forbidden),
        (event("public", 1), InvalidChannel),
        (event("public.>", 1), InvalidChannel),
        (event("public.x", 1, type="account.created"), InvalidType),
        (event("public.x", 1, type="nonsense"), InvalidType),
        (raw("public.x", b"{"), InvalidData),
        (raw("public.x", b'"\xff"'), InvalidData),
        (raw("public.x", b'"' + b"x" * 70_000 + b'"'), PayloadTooLarge),
        (event("public.x", 1, dedupe_key=""), BadRequest),
        (event("public.x", 1, dedupe_key="k" * 201), BadRequest),
        (event("public.x", 1, dedupe_key="a\nb"), BadRequest),
        (event("public.x", 1, correlation_id=""), BadRequest),
        (event("public.x", 1, causation_id="\x00"), BadRequest),
    ],
)
async def test_a_refused_publish_stores_nothing_and_leaves_no_key(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller, call: Publish, error: type[ClawError]
) -> None:
    before = rig.hub.storage.engine.last_seq
    key = call.dedupe_key or "k"
    named = call if call.dedupe_key is not None else msgspec.structs.replace(call, dedupe_key="k")
    with pytest.raises(error):
        await rig.hub.publish_wait(ada, named)
    assert rig.hub.storage.engine.last_seq == before
    if len(key) <= 200 and key.isprintable() and key:
        again = await rig.publish(ada, "public.x", "other", dedupe_key=key)
        assert not again.deduped


async def test_without_a_token_nothing_is_published(rig: HubRig) -> None:
    with pytest.raises(Unauthenticated):
        await rig.publish(rig.hub.anonymous(is_local=True), "public.x", 1)


async def test_the_envelope_is_of_the_token_and_not_of_the_message(
    rig: HubRig, bob: Caller
) -> None:
    ada = await rig.account("ada", kind="human")
    said = {"actor": {"id": "bob", "handle": "bob"}, "source": "system", "seq": 1}
    done = await rig.publish(
        ada, "global", said, dedupe_key="k", correlation_id="c", causation_id="d"
    )
    [found] = await stored(rig, bob, "public.lobby")
    assert found == {
        "seq": done.seq,
        "channel": "public.lobby",
        "offset": 1,
        "epoch": done.epoch,
        "id": done.id,
        "ts": found["ts"],
        "type": "chat.message",
        "version": "1.0.0",
        "source": "user",
        "actor": {"id": "ada", "handle": "ada"},
        "world": "main",
        "correlation_id": "c",
        "causation_id": "d",
        "dedupe_key": "k",
        "data": said,
    }
    assert await rig.hub.call(ReadEvent(id=done.id), caller=bob)


async def test_offsets_are_dense_and_replies_come_in_their_order(rig: HubRig, ada: Caller) -> None:
    lane = Lane()
    replies: list[Any] = []
    for n in range(1_500):
        rig.hub.publish(ada, event("public.x", n), lane=lane, reply=replies.append)
    assert replies == []
    await rig.hub.drain()
    assert [reply.offset for reply in replies] == list(range(1, 1_501))
    assert [reply.seq for reply in replies] == sorted(reply.seq for reply in replies)


async def test_the_reply_comes_before_the_delivery(rig: HubRig, ada: Caller, bob: Caller) -> None:
    outlet = rig.connect(bob, "public.x")
    outlet.told.append("-")
    rig.hub.publish(
        ada, event("public.x"), lane=Lane(), reply=lambda _: outlet.told.append("replied")
    )
    await rig.hub.drain()
    assert outlet.told == ["-", "replied", "public.x:1"]


# --- the same publish twice ----------------------------------------------


async def test_the_same_key_and_content_is_the_first_event(rig: HubRig, ada: Caller) -> None:
    first = await rig.publish(ada, "public.x", {"a": 1, "b": [2]}, dedupe_key="k")
    again = await rig.publish(ada, "public.x", {"a": 1, "b": [2]}, dedupe_key="k")
    assert not first.deduped and again.deduped
    assert msgspec.structs.replace(again, deduped=False) == first
    assert len(await stored(rig, ada, "public.x")) == 1


async def test_other_spacing_and_order_of_members_is_the_same_content(
    rig: HubRig, ada: Caller
) -> None:
    await rig.hub.publish_wait(ada, raw("public.x", b'{"a":1,"b":"\xc3\xa9"}', dedupe_key="k"))
    again = raw("public.x", b'\n{ "b" : "\\u00e9",\r\n\t"a":1}', dedupe_key="k")
    assert (await rig.hub.publish_wait(ada, again)).deduped


@pytest.mark.parametrize("other", [event("public.x", 2), event("public.x", 1, type="x.other")])
async def test_other_content_is_a_conflict_and_nothing_is_stored(
    rig: HubRig, ada: Caller, other: Publish
) -> None:
    await rig.publish(ada, "public.x", 1, dedupe_key="k")
    before = rig.hub.storage.engine.last_seq
    with pytest.raises(DedupeConflict):
        await rig.hub.publish_wait(ada, msgspec.structs.replace(other, dedupe_key="k"))
    assert rig.hub.storage.engine.last_seq == before
    assert (await rig.publish(ada, "public.x", 1, dedupe_key="k")).deduped


async def test_the_same_key_of_another_sender_or_channel_is_another_event(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    done = [
        await rig.publish(ada, "public.x", 1, dedupe_key="k"),
        await rig.publish(bob, "public.x", 1, dedupe_key="k"),
        await rig.publish(ada, "public.y", 1, dedupe_key="k"),
    ]
    assert not any(published.deduped for published in done)
    assert len({published.id for published in done}) == 3


async def test_the_key_of_an_alias_is_that_of_its_channel(rig: HubRig, ada: Caller) -> None:
    await rig.publish(ada, "global", 1, dedupe_key="k")
    assert (await rig.publish(ada, "public.townsquare", 1, dedupe_key="k")).deduped


async def test_another_token_of_the_sender_repeats_the_same_event(rig: HubRig, ada: Caller) -> None:
    await rig.publish(ada, "public.x", 1, dedupe_key="k")
    assert (await rig.publish(await rig.caller("ada"), "public.x", 1, dedupe_key="k")).deduped


async def test_duplicates_in_one_group_are_one_event(rig: HubRig, ada: Caller) -> None:
    replies: list[Any] = []
    for n in range(40):
        call = event("public.x", n % 2, dedupe_key="k")
        rig.hub.publish(ada, call, lane=Lane(), reply=replies.append)
    await rig.hub.drain()
    published = [reply for reply in replies if isinstance(reply, Published)]
    assert [reply.deduped for reply in published] == [False] + [True] * 19
    assert {reply.id for reply in published} == {published[0].id}
    assert sum(isinstance(reply, DedupeConflict) for reply in replies) == 20
    assert [e["data"] for e in await stored(rig, ada, "public.x")] == [0]


async def test_a_repeat_is_not_delivered_again(rig: HubRig, ada: Caller, bob: Caller) -> None:
    outlet = rig.connect(bob, "public.x")
    for _ in range(3):
        await rig.publish(ada, "public.x", 1, dedupe_key="k")
    assert outlet.offsets("public.x") == [1]


# --- batches -------------------------------------------------------------


async def test_a_batch_is_stored_in_its_order(rig: HubRig, ada: Caller) -> None:
    batch = PublishBatch(events=[event(f"public.{n % 3}", n) for n in range(30)])
    done = await rig.hub.call(batch, caller=ada)
    assert [published.offset for published in done.events] == [n // 3 + 1 for n in range(30)]
    assert [e["data"] for e in await stored(rig, ada, "public.1")] == list(range(1, 30, 3))


@pytest.mark.parametrize(
    "bad, error",
    [
        (event("agent.bob.x"), Forbidden),
        (raw("public.x", b"nope"), InvalidData),
        (event("public.x", type="no"), InvalidType),
        (event("Public.X y"), InvalidChannel),
        (event("public.x", 2, dedupe_key="old"), DedupeConflict),
        (event("public.x", 2, dedupe_key="new"), DedupeConflict),
    ],
)
async def test_one_bad_event_refuses_its_whole_batch_and_is_named(
    rig: HubRig, ada: Caller, bad: Publish, error: type[ClawError]
) -> None:
    await rig.publish(ada, "public.x", 1, dedupe_key="old")
    before = rig.hub.storage.engine.last_seq
    events = [event("public.x", 0), event("public.x", 1, dedupe_key="new"), event("public.y"), bad]
    with pytest.raises(error) as caught:
        await rig.hub.call(PublishBatch(events=[*events, event("public.y")]), caller=ada)
    assert caught.value.facts["index"] == 3
    assert rig.hub.storage.engine.last_seq == before
    again = await rig.publish(ada, "public.x", "not taken", dedupe_key="new")
    assert not again.deduped


async def test_a_batch_repeated_after_a_lost_answer_stores_nothing_more(
    rig: HubRig, ada: Caller
) -> None:
    batch = PublishBatch(events=[event("public.x", n, dedupe_key=f"k{n}") for n in range(5)])
    first = await rig.hub.call(batch, caller=ada)
    again = await rig.hub.call(batch, caller=ada)
    assert [e.id for e in again.events] == [e.id for e in first.events]
    assert all(e.deduped for e in again.events)


async def test_a_batch_holds_1_to_1000_events(rig: HubRig, ada: Caller) -> None:
    with pytest.raises(BadRequest):
        await rig.hub.call(PublishBatch(events=[]), caller=ada)
    with pytest.raises(PayloadTooLarge):
        too_many = [event("public.x")] * (BATCH_MAX_EVENTS + 1)
        await rig.hub.call(PublishBatch(events=too_many), caller=ada)
    done = await rig.hub.call(
        PublishBatch(events=[event("public.x")] * BATCH_MAX_EVENTS), caller=ada
    )
    assert done.events[-1].offset == BATCH_MAX_EVENTS


# --- when the hub cannot -------------------------------------------------


async def test_a_stopping_hub_refuses_and_finishes_what_it_took(rig: HubRig, ada: Caller) -> None:
    replies: list[Any] = []
    rig.hub.publish(ada, event("public.x", 1), lane=Lane(), reply=replies.append)
    await rig.hub.stop_accepting()
    refused = await outcome(rig, ada, event("public.x", 2))
    assert isinstance(refused, Unavailable) and refused.retry_after_s
    with pytest.raises(Unavailable):
        await rig.hub.call(PublishBatch(events=[event("public.x")]), caller=ada)
    with pytest.raises(Unavailable):
        rig.hub.signal(ada, "public.x", "x.a", b"1")
    await rig.hub.drain()
    assert replies[0].offset == 1


async def test_a_full_queue_refuses_publishes_and_takes_revocations(
    rig: HubRig, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "QUEUED_EVENTS_MAX", 5)
    replies: list[Any] = []
    for n in range(8):
        rig.hub.publish(ada, event("public.x", n), lane=Lane(), reply=replies.append)
    # Refused at once, the five before it are still queued.
    assert len(replies) == 3
    assert all(isinstance(reply, Unavailable) and reply.retry_after_s for reply in replies)
    outcomes: list[Any] = []
    rig.hub.committer.submit(Unit(is_narrowing=True), outcomes.append)
    with pytest.raises(Unavailable):
        rig.hub.committer.submit(Unit(), outcomes.append)
    await rig.hub.drain()
    assert [type(outcome) for outcome in outcomes] == [Committed]
    assert [r.offset for r in replies if isinstance(r, Published)] == [1, 2, 3, 4, 5]
    assert (await rig.publish(ada, "public.x")).offset == 6


async def test_a_queue_full_of_bytes_refuses_too(
    rig: HubRig, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "QUEUED_BYTES_MAX", 1_000)
    replies: list[Any] = []
    for _ in range(3):
        rig.hub.publish(ada, event("public.x", "x" * 600), lane=Lane(), reply=replies.append)
    assert [type(reply) for reply in replies] == [Unavailable]
    await rig.hub.drain()
    assert rig.hub.committer.queued_events == 0


async def test_a_reply_that_fails_costs_nobody_else_an_answer(rig: HubRig, ada: Caller) -> None:
    replies: list[Any] = []

    def fails(_: object) -> None:
        raise ZeroDivisionError

    rig.hub.publish(ada, event("public.x", 1), lane=Lane(), reply=fails)
    rig.hub.publish(ada, event("public.x", 2), lane=Lane(), reply=replies.append)
    await rig.hub.drain()
    assert [reply.offset for reply in replies] == [2]
    assert [e["data"] for e in await stored(rig, ada, "public.x")] == [1, 2]
