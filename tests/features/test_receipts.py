"""Receipts: who may look, what counts as which step, and the reason for the one that is missing."""

from __future__ import annotations

import asyncio

import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import DeleteAccount
from clawnet.core.calls.consumers import Ack, CreateConsumer, Delivery, DeliveryName, Fetch
from clawnet.core.calls.inbox import AckInbox, ReadInbox
from clawnet.core.calls.publishing import PublishBatch
from clawnet.core.calls.receipts import (
    Confirmed,
    ConfirmWoken,
    ReadReceipt,
    Receipt,
    Step,
)
from clawnet.core.calls.tokens import RevokeToken
from clawnet.core.calls.wake import HoldWake
from clawnet.core.cursors import AfterOffset
from clawnet.core.errors import BadRequest, ClawError, Forbidden, NotFound, Unauthenticated
from clawnet.core.ids import seq_from_id
from clawnet.features.inbox import InboxFeature
from clawnet.features.inbox.receipts import ALIKE_MAX, KEPT_MS, PAGE_RECEIPTS, Receipts
from clawnet.ports.log import READ_MAX_EVENTS
from clawnet.testing.hubs import HubRig, event

INBOX = "agent.bob.inbox"
NOBODY = "evt_00000000-0000-7000-8000-000000000001"


def receipts(rig: HubRig) -> Receipts:
    [found] = [f for f in rig.hub._features if isinstance(f, InboxFeature)]
    return found.receipts


async def look(
    rig: HubRig, caller: Caller, id: str, until: Step = "woken", wait_s: float = 0
) -> Receipt:
    call = ReadReceipt(event_id=id, until=until, wait_s=wait_s)
    found: Receipt = await rig.hub.call(call, caller=caller)
    return found


def steps(found: Receipt) -> list[str]:
    return [s for s in ("stored", "offered", "woken", "acted") if getattr(found, s) is not None]


async def confirm(rig: HubRig, caller: Caller, *ids: str) -> int:
    answer: Confirmed = await rig.hub.call(ConfirmWoken(events=list(ids)), caller=caller)
    return answer.confirmed


async def fetch(rig: HubRig, caller: Caller, *channels: str) -> list[Delivery]:
    call = CreateConsumer(name="c", channels=list(channels or [INBOX]), since="all")
    await rig.hub.call(call, caller=caller)
    fetched = await rig.hub.call(Fetch(name="c"), caller=caller)
    return list(fetched.deliveries)


# --- who may not look -------------------------------------------------------


async def test_a_third_account_sees_no_receipt(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller, warden: Caller
) -> None:
    sent = await rig.publish(ada, INBOX, 1)
    cleo = await rig.account("cleo")
    for who in (cleo, master, Caller(account="ada", world="other")):
        with pytest.raises(NotFound):
            await look(rig, who, sent.id)
    for who in (ada, bob, warden):
        assert (await look(rig, who, sent.id)).recipient == "bob"


async def test_a_token_that_may_not_read_sees_none(rig: HubRig, ada: Caller, bob: Caller) -> None:
    sent = await rig.publish(ada, INBOX, 1)
    with pytest.raises(Forbidden):
        await look(rig, await rig.caller("ada", scopes=["events:write"]), sent.id)
    with pytest.raises(Unauthenticated):
        await look(rig, Caller(account=None), sent.id)


@pytest.mark.parametrize("id", ["", "nonsense", NOBODY, "evt_" + "0" * 500, "\x00"])
async def test_what_is_no_event_has_none(rig: HubRig, ada: Caller, id: str) -> None:
    with pytest.raises(NotFound):
        await look(rig, ada, id)


async def test_an_event_that_is_not_in_an_inbox_has_none(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    sent = await rig.publish(ada, "public.lobby", 1)
    diary = await rig.publish(ada, "agent.ada.diary", 1)
    with pytest.raises(BadRequest):
        await look(rig, ada, sent.id)
    with pytest.raises(NotFound):
        await look(rig, bob, diary.id)


@pytest.mark.parametrize("wait_s", [-1, 61, float("nan")])
async def test_a_wait_out_of_bounds_is_refused(
    rig: HubRig, ada: Caller, bob: Caller, wait_s: float
) -> None:
    sent = await rig.publish(ada, INBOX, 1)
    with pytest.raises(BadRequest):
        await look(rig, ada, sent.id, wait_s=wait_s)


async def test_who_was_revoked_while_waiting_is_told_nothing(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller
) -> None:
    sent = await rig.publish(ada, INBOX, 1)
    waiting = asyncio.create_task(look(rig, ada, sent.id, wait_s=30))
    await rig.settle()
    assert ada.token_id is not None
    await rig.hub.call(RevokeToken(id=ada.token_id), caller=master)
    await confirm(rig, bob, sent.id)
    with pytest.raises(Unauthenticated):
        await waiting


# --- what counts for nothing ------------------------------------------------


async def test_others_cannot_confirm_or_act_for_the_recipient(
    rig: HubRig, ada: Caller, bob: Caller, warden: Caller
) -> None:
    sent = await rig.publish(ada, INBOX, 1, correlation_id="chain")
    cleo = await rig.account("cleo")
    for who in (ada, cleo, warden):
        assert await confirm(rig, who, sent.id, NOBODY, "junk") == 0
        await rig.publish(who, "public.lobby", 1, causation_id=sent.id)
        await rig.publish(who, "public.lobby", 1, correlation_id="chain")
    rig.connect(warden, INBOX, "agent.*.inbox", since=AfterOffset(0))
    deliveries = await fetch(rig, warden)
    await rig.hub.call(
        Ack(name="c", deliveries=[DeliveryName(seq=d.seq, attempt=1) for d in deliveries]),
        caller=warden,
    )
    await rig.settle()
    assert len(deliveries) == 1
    assert steps(await look(rig, ada, sent.id)) == ["stored"]


async def test_a_connection_that_follows_something_else_is_offered_nothing(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    rig.connect(bob, "public.lobby", "public.>", since=AfterOffset(0))
    sent = await rig.publish(ada, INBOX, 1)
    await rig.settle()
    assert steps(await look(rig, ada, sent.id)) == ["stored"]


async def test_a_refused_answer_is_no_act(rig: HubRig, ada: Caller, bob: Caller) -> None:
    sent = await rig.publish(ada, INBOX, 1)
    rig.engine.is_full = True
    with pytest.raises(ClawError):
        await rig.publish(bob, "public.lobby", 1, causation_id=sent.id)
    rig.engine.is_full = False
    assert steps(await look(rig, ada, sent.id)) == ["stored"]


async def test_an_id_of_another_log_at_the_same_place_is_unknown(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    sent = await rig.publish(ada, INBOX, 1)
    other = sent.id[:4] + ("0" if sent.id[4] != "0" else "1") + sent.id[5:]
    assert await confirm(rig, bob, other) == 0
    with pytest.raises(NotFound):
        await look(rig, ada, other)
    await rig.publish(bob, "public.lobby", 1, causation_id=other)
    assert steps(await look(rig, ada, sent.id)) == ["stored"]


async def test_too_many_confirmations_at_once_are_refused(rig: HubRig, bob: Caller) -> None:
    with pytest.raises(BadRequest):
        await confirm(rig, bob, *[NOBODY] * 257)


# --- the steps --------------------------------------------------------------


@pytest.mark.parametrize("channels", [(INBOX,), (INBOX, "public.lobby"), ("agent.bob.>",), (">",)])
async def test_a_live_connection_that_follows_the_inbox_is_offered(
    rig: HubRig, ada: Caller, bob: Caller, channels: tuple[str, ...]
) -> None:
    rig.connect(bob, *channels)
    sent = await rig.publish(ada, INBOX, 1)
    assert steps(await look(rig, ada, sent.id)) == ["stored", "offered"]


@pytest.mark.parametrize("channels", [(INBOX,), (INBOX, "public.lobby"), ("agent.bob.>",)])
async def test_a_connection_that_comes_later_is_offered(
    rig: HubRig, ada: Caller, bob: Caller, channels: tuple[str, ...]
) -> None:
    sent = await rig.publish(ada, INBOX, 1)
    rig.connect(bob, *channels, since=AfterOffset(0))
    await rig.settle()
    assert steps(await look(rig, ada, sent.id)) == ["stored", "offered"]


async def test_a_full_connection_is_offered_when_it_has_drained(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = rig.connect(bob, INBOX, high_water=1)
    first = await rig.publish(ada, INBOX, 1)
    second = await rig.publish(ada, INBOX, 2)
    assert steps(await look(rig, ada, first.id)) == ["stored", "offered"]
    assert steps(await look(rig, ada, second.id)) == ["stored"]
    outlet.drain()
    await rig.settle()
    assert steps(await look(rig, ada, second.id)) == ["stored", "offered"]


async def test_a_consumers_fetch_offers_and_its_ack_is_an_act(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    sent = await rig.publish(ada, INBOX, 1)
    [delivery] = await fetch(rig, bob, INBOX, "public.>")
    assert steps(await look(rig, ada, sent.id)) == ["stored", "offered"]
    name = DeliveryName(seq=delivery.seq, attempt=1)
    await rig.hub.call(Ack(name="c", deliveries=[name]), caller=bob)
    assert len(steps(await look(rig, ada, sent.id))) == 4


async def test_reading_the_inbox_wakes_and_acknowledging_it_is_an_act(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    sent = await rig.publish(ada, INBOX, 1)
    await rig.hub.call(ReadInbox(), caller=bob)
    assert steps(await look(rig, ada, sent.id)) == ["stored", "offered", "woken"]
    await rig.hub.call(AckInbox(events=[sent.id]), caller=bob)
    assert len(steps(await look(rig, ada, sent.id, "acted"))) == 4


async def test_the_processes_word_wakes_once(rig: HubRig, ada: Caller, bob: Caller) -> None:
    sent = await rig.publish(ada, INBOX, 1)
    await rig.clock.pass_time(1)
    assert await confirm(rig, bob, sent.id, NOBODY) == 1
    await rig.clock.pass_time(1)
    assert await confirm(rig, bob, sent.id) == 0
    found = await look(rig, ada, sent.id)
    assert found.woken == found.offered == "2027-01-15T08:00:01.000Z"
    assert found.acted is None
    assert (found.reached, found.reason) == (True, None)


@pytest.mark.parametrize("named", ["causation", "correlation"])
async def test_an_answer_of_the_recipient_is_an_act(
    rig: HubRig, ada: Caller, bob: Caller, named: str
) -> None:
    sent = await rig.publish(ada, INBOX, 1, correlation_id="chain")
    by = {"causation_id": sent.id} if named == "causation" else {"correlation_id": "chain"}
    await rig.publish(bob, "public.lobby", 1, **by)
    assert len(steps(await look(rig, ada, sent.id, "acted"))) == 4


async def test_an_answer_to_an_expectation_of_the_hubs_naming_is_an_act(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    from clawnet.core.events import Expect

    sent = await rig.publish(ada, INBOX, 1, expect=Expect(reply_within_s=30))
    await rig.publish(bob, "public.lobby", 1, correlation_id=sent.correlation_id)
    assert (await look(rig, ada, sent.id, "acted")).reached


async def test_only_the_newest_unanswered_of_a_correlation_are_looked_at(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    feature = receipts(rig)
    key = ("main", "bob", "c")
    sent = []
    for start in range(0, 300, 100):
        events = [event(INBOX, n, correlation_id="c") for n in range(start, start + 100)]
        done = await rig.hub.call(PublishBatch(events=events), caller=ada)
        sent += [one.id for one in done.events]
    newest = [seq_from_id(one) for one in sent[-ALIKE_MAX:]]
    assert feature._by_correlation[key] == newest
    # What was acted on is looked at no more.
    await rig.publish(bob, "public.lobby", 1, causation_id=sent[-1])
    assert feature._by_correlation[key] == newest[:-1]
    await rig.publish(bob, "public.lobby", 1, correlation_id="c")
    assert key not in feature._by_correlation
    assert (await look(rig, ada, sent[-ALIKE_MAX], "acted")).reached
    assert not (await look(rig, ada, sent[-ALIKE_MAX - 1], "acted")).reached
    await rig.publish(bob, "public.lobby", 1, causation_id=sent[0])
    assert (await look(rig, ada, sent[0], "acted")).reached
    await rig.publish(ada, INBOX, 1, correlation_id="d")
    await rig.restart()
    assert list(receipts(rig)._by_correlation) == [key, ("main", "bob", "d")]
    feature = receipts(rig)
    rig.clock.advance(KEPT_MS / 1000 + 1)
    feature.forget_old()
    assert feature._by_correlation == {} == feature._by_seq


# --- waiting ----------------------------------------------------------------


async def test_a_wait_ends_when_the_step_is_reached(rig: HubRig, ada: Caller, bob: Caller) -> None:
    sent = await rig.publish(ada, INBOX, 1)
    began = rig.clock.steady_s()
    waiting = [
        asyncio.create_task(look(rig, ada, sent.id, until, wait_s=30))
        for until in ("offered", "woken", "acted")
    ]
    await rig.clock.pass_time(5)
    await confirm(rig, bob, sent.id)
    done = [await one for one in waiting[:2]]
    assert [one.reached for one in done] == [True, True]
    assert rig.clock.steady_s() - began == pytest.approx(5)
    last = await waiting[2]
    assert not last.reached
    assert last.reason == "bob's process was woken and has not acted on the message within 30 s"
    assert receipts(rig)._waiters == {}


async def test_a_cancelled_wait_leaves_nothing(rig: HubRig, ada: Caller, bob: Caller) -> None:
    sent = await rig.publish(ada, INBOX, 1)
    waiting = asyncio.create_task(look(rig, ada, sent.id, wait_s=30))
    await rig.settle()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert receipts(rig)._waiters == {}


# --- reasons ----------------------------------------------------------------


async def test_the_reason_names_what_is_missing(rig: HubRig, ada: Caller, bob: Caller) -> None:
    sent = await rig.publish(ada, INBOX, 1)

    async def why(until: Step = "woken", wait_s: float = 0) -> str | None:
        return (await look(rig, ada, sent.id, until, wait_s)).reason

    assert await why("stored") is None
    assert await why("offered") == "bob has not connected since the hub started 0 seconds ago"
    outlet = rig.connect(bob, "public.lobby")
    assert await why("offered", 5) == (
        "bob is connected, and nothing of it follows its inbox within 5 s"
    )
    assert outlet.session is not None
    outlet.session.close()
    await rig.clock.pass_time(120)
    assert await why("offered") == "bob is not connected; it was 2 minutes ago"
    assert await why() == (
        "no process of bob has held a wake lease since the hub started 2 minutes ago"
    )
    await rig.hub.call(HoldWake(how="claw wake", ttl_s=30), caller=bob)
    assert await why(wait_s=5) == (
        "bob's process (claw wake) holds a wake lease and took no message within 5 s"
    )
    await fetch(rig, bob)
    assert await why(wait_s=5) == (
        "bob's process (claw wake) was given the message and has not confirmed it within 5 s"
    )
    await rig.clock.pass_time(25 + 180)
    assert await why() == (
        "no process of bob holds a wake lease; the last one ended 3 minutes ago; "
        "the message was given to one of its readers"
    )
    await rig.hub.call(DeleteAccount(id="bob"), caller=HUB)
    assert await why() == "the account bob was deleted"


async def test_who_asks_without_a_connection_is_told_as_seen(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    async def why(until: Step = "offered") -> str | None:
        # Behind what was read: a message that nobody asked for yet.
        sent = await rig.publish(ada, INBOX, 1)
        return (await look(rig, ada, sent.id, until)).reason

    await rig.hub.call(ReadInbox(), caller=bob)
    await rig.clock.pass_time(180)
    seen = "bob has nothing that follows its inbox; it was last seen 3 minutes ago"
    assert await why() == seen
    other = await rig.caller("bob")
    await rig.hub.call(CreateConsumer(name="v", channels=["public.a"]), caller=other)
    await rig.hub.call(Fetch(name="v"), caller=other)
    await rig.clock.pass_time(60)
    assert await why() == seen.replace("3 minutes", "1 minute")
    await rig.hub.call(HoldWake(how="claw wake", ttl_s=30), caller=bob)
    assert await why() == "bob's process (claw wake) holds a wake lease and took no message"
    await rig.clock.pass_time(155)
    assert await why() == "bob is not connected; it was 2 minutes ago"


# --- what is kept -----------------------------------------------------------


async def test_receipts_survive_an_orderly_restart(rig: HubRig, ada: Caller, bob: Caller) -> None:
    sent = [await rig.publish(ada, INBOX, n, correlation_id=str(n)) for n in range(200)]
    await confirm(rig, bob, sent[3].id)
    await rig.restart()
    ada, bob = await rig.caller("ada"), await rig.caller("bob")
    assert steps(await look(rig, ada, sent[3].id)) == ["stored", "offered", "woken"]
    assert steps(await look(rig, ada, sent[4].id)) == ["stored"]
    await rig.publish(bob, "public.lobby", 1, correlation_id="5")
    assert (await look(rig, ada, sent[5].id, "acted")).reached


async def test_a_kill_forgets_a_second_and_follows_what_is_stored(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    old = await rig.publish(ada, INBOX, 1)
    await confirm(rig, bob, old.id)
    await rig.clock.pass_time(2)
    late = await rig.publish(ada, INBOX, 2)
    await confirm(rig, bob, late.id)
    await rig.crash()
    ada, bob = await rig.caller("ada"), await rig.caller("bob")
    assert steps(await look(rig, ada, old.id)) == ["stored", "offered", "woken"]
    assert steps(await look(rig, ada, late.id)) == ["stored"]
    assert await confirm(rig, bob, late.id) == 1
    assert (await look(rig, ada, late.id)).reached


@pytest.mark.parametrize("is_first_second", [True, False])
async def test_a_kill_leaves_no_message_unwatched_however_many_there_are(
    rig: HubRig, ada: Caller, bob: Caller, is_first_second: bool
) -> None:
    """Also before the first receipt was written, and beyond what one read gives."""
    sent = []
    if not is_first_second:
        sent.append(await rig.publish(ada, INBOX, "written"))
        await rig.clock.pass_time(2)
    for n in range(READ_MAX_EVENTS + 200):
        sent.append(await rig.publish(ada, INBOX, n))
        if n % 3 == 0:
            sent.append(await rig.publish(bob, "agent.ada.inbox", n))
    await rig.crash()
    # In the order of the log, by which the oldest is forgotten first.
    assert list(receipts(rig)._by_seq) == [one.seq for one in sent]
    bob = await rig.caller("bob")
    last = [one.id for one in sent][-3:]
    assert await confirm(rig, bob, *last) >= 2


async def test_what_is_watched_again_after_a_kill_is_bounded_and_not_too_old(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await rig.fill(ada, INBOX, 5)
    rig.clock.advance(KEPT_MS / 1000 + 1)
    sent = await rig.fill(ada, INBOX, READ_MAX_EVENTS + 100)
    await rig.crash()
    watched = receipts(rig)
    assert list(watched._by_seq) == [one.seq for one in sent]
    few = Receipts(rig.hub, watched._leases, kept_max=50)
    await few._catch_up(0)
    assert list(few._by_seq) == [one.seq for one in sent[-50:]]


async def test_a_forgotten_receipt_is_told_from_the_log(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    sent = await rig.publish(ada, INBOX, 1)
    await confirm(rig, bob, sent.id)
    receipts(rig)._forget(receipts(rig)._by_seq[sent.seq])
    cleo = await rig.account("cleo")
    with pytest.raises(NotFound):
        await look(rig, cleo, sent.id)
    found = await look(rig, ada, sent.id)
    assert (found.stored, found.sender, found.recipient) == (
        "2027-01-15T08:00:00.000Z", "ada", "bob",
    )  # fmt: skip


async def test_the_newest_are_kept_in_bounds(rig: HubRig, ada: Caller, bob: Caller) -> None:
    receipts(rig)._kept_max = 100
    sent = await rig.fill(ada, INBOX, 500)
    await rig.clock.pass_time(2)
    assert list(receipts(rig)._by_seq) == [one.seq for one in sent[-100:]]
    pages = rig.engine.scan("receipt")
    assert 2 <= len(pages) <= 100 // PAGE_RECEIPTS + 2


async def test_what_is_old_is_forgotten_on_disk_too(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.fill(ada, INBOX, 100)
    await rig.clock.pass_time(2)
    assert rig.engine.scan("receipt")
    rig.clock.advance(KEPT_MS / 1000 + 1)
    await rig.clock.pass_time(2)
    assert receipts(rig)._by_seq == {}
    assert rig.engine.scan("receipt") == []


async def test_nothing_is_written_while_nothing_is_observed(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await rig.fill(ada, INBOX, 10)
    await rig.clock.pass_time(2)
    [page] = rig.engine.scan("receipt")
    await rig.fill(ada, "public.lobby", 10)
    await rig.clock.pass_time(20)
    assert rig.engine.scan("receipt") == [page]


async def test_a_full_disk_only_delays_the_writing(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.publish(ada, INBOX, 1)
    rig.engine.is_full = True
    await rig.clock.pass_time(10)
    assert rig.engine.scan("receipt") == []
    rig.engine.is_full = False
    await rig.clock.pass_time(2)
    assert len(rig.engine.scan("receipt")) == 1


async def test_what_the_hub_says_in_an_inbox_is_not_watched(rig: HubRig, bob: Caller) -> None:
    await rig.publish(HUB, INBOX, 1)
    assert receipts(rig)._by_seq == {}
