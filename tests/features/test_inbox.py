"""The inbox: what is unread, in which order, under which budget, and for whom."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import Block, DeleteAccount, UpdateAccount
from clawnet.core.calls.grants import Grant, Unlock
from clawnet.core.calls.inbox import AckInbox, InboxPage, ReadInbox, ToldGap
from clawnet.core.calls.tokens import RevokeToken
from clawnet.core.errors import BadRequest, ClawError, Forbidden, Unauthenticated
from clawnet.features.inbox import InboxFeature
from clawnet.hub.settings import HubSettings, LimitSettings, RetentionSettings
from clawnet.testing.hubs import Gate, HubRig
from tests.features.inbox_asking import BOX, ack, data, ids, many, numbers, read, waiting


@pytest.fixture
def settings() -> HubSettings:
    return HubSettings(
        limits=LimitSettings(enabled=False),
        retention=RetentionSettings(events_per_channel_max=100_000),
    )


# --- who and what -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        ReadInbox(limit=0),
        ReadInbox(limit=501),
        ReadInbox(budget_tokens=0),
        ReadInbox(budget_tokens=262_145),
        ReadInbox(cut_bytes=0),
        ReadInbox(wait_s=-1),
        ReadInbox(wait_s=61),
        ReadInbox(wait_s=float("nan")),
        ReadInbox(after="nonsense"),
        AckInbox(),
        AckInbox(events=["x"] * 1_001),
        AckInbox(gaps=[ToldGap(channel=BOX, first=1, last=1)] * 101),
        AckInbox(through="nonsense"),
    ],
    ids=repr,
)
async def test_a_bad_call_is_refused(rig: HubRig, ada: Caller, call: Any) -> None:
    with pytest.raises(BadRequest):
        await rig.hub.call(call, caller=ada)


@pytest.mark.parametrize("call", [ReadInbox(), AckInbox(events=["x"])], ids=repr)
async def test_it_needs_an_account_and_the_scope_to_read(
    rig: HubRig, ada: Caller, call: Any
) -> None:
    writer = await rig.caller("ada", scopes=["events:write"])
    with pytest.raises(Forbidden):
        await rig.hub.call(call, caller=writer)
    with pytest.raises(Unauthenticated):
        await rig.hub.call(call, caller=rig.hub.anonymous(is_local=True))
    reader = await rig.caller("ada", scopes=["events:read"])
    await rig.hub.call(call, caller=reader)


async def test_nobody_reads_or_acknowledges_anothers(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller, warden: Caller
) -> None:
    stored = await rig.publish(bob, BOX, "for ada")
    for other in (bob, master, warden):
        assert (await read(rig, other)).unread == 0
        done = await ack(rig, other, stored.id)
        assert (done.acked, done.unknown) == (0, [stored.id])
        gap = ToldGap(channel=BOX, first=1, last=1)
        await ack(rig, other, gaps=[gap], through=(await read(rig, other)).cursor)
    assert data(await read(rig, ada)) == ["for ada"]


async def test_an_account_of_that_name_in_another_world_sees_nothing(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    stored = await rig.publish(bob, BOX, "secret")
    stranger = msgspec.structs.replace(ada, world="elsewhere", token_id=None)
    assert (await read(rig, stranger)).unread == 0
    assert (await ack(rig, stranger, stored.id)).unknown == [stored.id]
    assert (await read(rig, ada)).unread == 1


async def test_only_what_is_addressed_to_me_counts(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.publish(bob, "public.a", 1)
    await rig.publish(bob, "agent.bob.inbox", 2)
    await rig.publish(ada, "agent.ada.notes", 3)
    stored = await rig.publish(bob, BOX, 4)
    page = await read(rig, ada)
    assert (data(page), page.unread, page.left_out, page.gaps) == ([4], 1, 0, [])
    elsewhere = await rig.publish(bob, "public.a", 5)
    done = await ack(rig, ada, elsewhere.id, "evt_nonsense", stored.id)
    assert (done.acked, done.unread, done.unknown) == (1, 0, [elsewhere.id, "evt_nonsense"])


async def test_who_is_blocked_does_not_come_in(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.hub.call(Block(account="bob"), caller=ada)
    with pytest.raises(Forbidden):
        await rig.publish(bob, BOX, "let me in")
    page = await read(rig, ada)
    assert (page.messages, page.unread) == ([], 0)


async def test_it_says_who_sent_it_and_how_that_is_known(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await rig.account("eva", kind="human")
    eva = await rig.caller("eva")
    await rig.publish(bob, BOX, 1)
    await rig.publish(eva, BOX, 2)
    await rig.publish(HUB, BOX, 3, type="system.error")
    await rig.hub.call(UpdateAccount(id="bob", handle="Robert"), caller=bob)
    await rig.hub.call(DeleteAccount(id="eva"), caller=HUB)
    first, second, third = (await read(rig, ada)).messages
    assert (first.sender.id, first.sender.handle, first.sender.handle_now) == (
        "bob", "bob", "Robert",
    )  # fmt: skip
    assert (first.sender.role, first.sender.kind, first.sender.proof) == (
        "worker", "agent", "operator",
    )  # fmt: skip
    assert first.verified == (
        "bob, an agent (worker) whom this hub's operator created; "
        "the hub checked its token when it sent this."
    )
    assert second.verified.startswith("eva, an account that is deleted;")
    assert (second.sender.role, second.sender.proof) == (None, None)
    assert third.verified == "The hub itself says this."


# --- order, limit, budget -----------------------------------------------------------------------


async def test_without_a_budget_the_oldest_come_first(rig: HubRig, ada: Caller) -> None:
    await many(rig, ada, 7)
    page = await read(rig, ada, limit=3)
    assert (numbers(page), page.unread, page.left_out) == ([1, 2, 3], 7, 4)
    assert page.lag.events == 7
    following = await read(rig, ada, limit=3, after=page.cursor)
    assert (numbers(following), following.unread, following.left_out) == ([4, 5, 6], 7, 4)
    last = await read(rig, ada, after=following.cursor)
    assert numbers(last) == [7]
    assert numbers(await read(rig, ada, after=last.cursor)) == []


async def test_the_lag_says_how_old_the_oldest_is(rig: HubRig, ada: Caller) -> None:
    await many(rig, ada, 1)
    rig.clock.advance(300)
    await many(rig, ada, 2)
    oldest = msgspec.json.decode((await read(rig, ada)).messages[0].event)["ts"]
    for named in ({}, {"budget_tokens": 300}, {"limit": 1}):
        lag = (await read(rig, ada, **named)).lag
        assert (lag.events, lag.oldest, lag.oldest_s) == (3, oldest, 300.0)
    empty = (await read(rig, await rig.account("eva"))).lag
    assert (empty.events, empty.oldest, empty.oldest_s) == (0, None, None)


def size(page: InboxPage) -> int:
    return sum(len(msgspec.json.encode(message)) + 1 for message in page.messages)


async def test_a_budget_is_kept_with_the_newest(rig: HubRig, ada: Caller) -> None:
    await many(rig, ada, 30, size=200)
    one = size(await read(rig, ada, limit=1)) + 2
    seen = set()
    for tokens in (1, 100, 500, 1_000, 5_000, 100_000):
        page = await read(rig, ada, budget_tokens=tokens)
        given = numbers(page)
        assert size(page) <= tokens * 4
        assert given == list(range(31 - len(given), 31))
        assert (page.unread, page.left_out) == (30, 30 - len(given))
        # One more would not have fitted.
        assert len(given) == 30 or size(page) + one > tokens * 4
        seen.add(len(given))
    assert len(seen) >= 4 and {0, 30} <= seen
    assert numbers(await read(rig, ada, budget_tokens=100_000, limit=2)) == [29, 30]


async def test_what_was_left_out_stays_unread_below_what_was_acknowledged(
    rig: HubRig, ada: Caller
) -> None:
    await many(rig, ada, 10, size=200)
    shown = await read(rig, ada, budget_tokens=700)
    given = numbers(shown)
    assert given[-1] == 10 and 1 < len(given) < 9
    done = await ack(rig, ada, *ids(shown))
    assert (done.acked, done.unread) == (len(given), 10 - len(given))
    await many(rig, ada, 1)
    rest = await read(rig, ada)
    assert numbers(rest) == [*range(1, 11 - len(given)), 1]


async def test_one_that_never_fits_is_cut_and_keeps_nothing_else_out(
    rig: HubRig, ada: Caller
) -> None:
    await many(rig, ada, 2)
    big = await rig.publish(ada, BOX, ["big!", "é" * 20_000])
    await rig.publish(ada, BOX, [3])
    page = await read(rig, ada, budget_tokens=1_200)
    assert size(page) <= 4_800
    assert [message.truncated for message in page.messages] == [False, False, True, False]
    cut = page.messages[2]
    assert cut.size == 40_000 + len('["big!",""]')
    shown = msgspec.json.decode(cut.event)
    assert shown["id"] == big.id and shown["data"].startswith('["big!","éé')
    assert len(shown["data"].encode()) <= 400
    # Room is given to what fits first.
    tight = await read(rig, ada, budget_tokens=(size(page) - 700) // 4)
    assert numbers(tight) == [1, 2, 3]
    # By its id it can be acknowledged all the same.
    assert (await ack(rig, ada, big.id)).acked == 1


async def test_a_reader_may_have_all_cut_that_is_large(rig: HubRig, ada: Caller) -> None:
    await rig.publish(ada, BOX, "x" * 50)
    await rig.publish(ada, BOX, "y" * 10)
    for named in ({}, {"budget_tokens": 10_000}):
        page = await read(rig, ada, cut_bytes=20, **named)
        assert [(m.truncated, m.size) for m in page.messages] == [(True, 52), (False, None)]


async def test_an_answer_is_bounded_in_bytes(rig: HubRig, ada: Caller) -> None:
    await many(rig, ada, 40, size=60_000)
    page = await read(rig, ada, limit=500)
    assert 1_048_576 <= size(page) <= 1_048_576 + 62_000
    assert page.left_out == 40 - len(page.messages) > 0
    following = await read(rig, ada, limit=500, after=page.cursor)
    given = numbers(page) + numbers(following)
    assert given == list(range(1, len(given) + 1)) and len(given) > 30


async def test_ten_thousand_are_paged_through_in_bounded_reads(
    rig: HubRig, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await many(rig, ada, 10_000)
    asked: list[int] = []
    real = type(rig.engine.real).read_channel

    def counted(self: Any, *args: Any, **named: Any) -> Any:
        asked.append(named["limit"])
        return real(self, *args, **named)

    monkeypatch.setattr(type(rig.engine.real), "read_channel", counted)
    turns = 0

    async def beat() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beating = asyncio.create_task(beat())
    after: str | None = None
    found: list[int] = []
    while numbers(page := await read(rig, ada, limit=500, after=after)):
        before = turns
        assert page.unread == 10_000 - len(found) // 5
        found += numbers(page)
        after = page.cursor
        done = await ack(rig, ada, *ids(page)[:100])
        assert done.unknown == [] and turns > before
    beating.cancel()
    assert found == list(range(1, 10_001))
    assert max(asked) <= 100
    # Others had their turn, at least once for each 25 messages.
    assert turns > len(found) // 25


# --- waiting ------------------------------------------------------------------------------------


async def test_a_wait_ends_with_the_message(rig: HubRig, ada: Caller, bob: Caller) -> None:
    work = await waiting(rig, ada)
    await rig.publish(bob, "public.a", "not this")
    await rig.publish(bob, BOX, "this")
    before = asyncio.get_running_loop().time()
    assert data(await work) == ["this"]
    assert asyncio.get_running_loop().time() == before


async def test_a_wait_without_a_message_ends_empty(rig: HubRig, ada: Caller) -> None:
    before = asyncio.get_running_loop().time()
    page = await read(rig, ada, wait_s=5)
    assert (page.messages, page.unread) == ([], 0)
    assert asyncio.get_running_loop().time() - before == 5


async def test_a_wait_behind_a_cursor_does_not_end_by_what_is_before(
    rig: HubRig, ada: Caller
) -> None:
    await many(rig, ada, 2)
    work = await waiting(rig, ada, after=(await read(rig, ada)).cursor)
    await rig.publish(ada, BOX, [3])
    assert numbers(await work) == [3]


async def test_a_message_between_look_and_wait_ends_the_wait(rig: HubRig, ada: Caller) -> None:
    await many(rig, ada, 1)
    page = await read(rig, ada)
    for at in range(20):
        await ack(rig, ada, *ids(page))
        after = page.cursor
        gate = Gate(rig.hub, at=at, action=lambda: rig.publish(ada, BOX, ["now"]))
        before = asyncio.get_running_loop().time()
        page = await read(rig, ada, wait_s=60, after=after)
        await gate.open()
        if not gate.was_reached:
            break
        assert data(page) == [["now"]]
        if asyncio.get_running_loop().time() != before:
            # Reached only by the look at the end of the wait.
            break
    assert at >= 2


async def test_a_wait_ends_also_if_the_budget_has_no_room_for_what_is_there(
    rig: HubRig, ada: Caller
) -> None:
    await many(rig, ada, 1)
    before = asyncio.get_running_loop().time()
    page = await read(rig, ada, budget_tokens=1, wait_s=60)
    assert (page.messages, page.unread, page.left_out) == ([], 1, 1)
    assert asyncio.get_running_loop().time() == before


async def test_what_was_not_fanned_out_yet_is_left_for_the_next_look(
    rig: HubRig, ada: Caller
) -> None:
    # On the durable engine an event can be read a moment before it is handed on, and before
    # there are receipts for it.
    await many(rig, ada, 3)
    rig.hub.fanout.position -= 1
    assert numbers(await read(rig, ada)) == [1, 2]
    assert numbers(page := await read(rig, ada, budget_tokens=10_000)) == [1, 2]
    rig.hub.fanout.position += 1
    assert numbers(await read(rig, ada, after=page.cursor)) == [3]


async def test_a_revoked_token_ends_the_wait_and_is_given_nothing(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    work = await waiting(rig, ada)
    assert ada.token_id is not None
    await rig.hub.call(RevokeToken(id=ada.token_id), caller=HUB)
    before = asyncio.get_running_loop().time()
    with pytest.raises(Unauthenticated):
        await work
    assert asyncio.get_running_loop().time() == before


async def test_rights_of_others_wake_nobody_who_waits(
    rig: HubRig, ada: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    [feature] = [f for f in rig.hub._features if isinstance(f, InboxFeature)]
    looked: list[str] = []
    look = feature.inbox._look

    async def noted(call: ReadInbox, caller: Caller, account: str) -> Any:
        looked.append(account)
        return await look(call, caller, account)

    monkeypatch.setattr(feature.inbox, "_look", noted)
    works = [await waiting(rig, caller) for caller in (ada, bob)]
    looked.clear()
    await rig.account("cleo")
    token = await rig.caller("cleo")
    await rig.hub.call(RevokeToken(id=token.token_id or ""), caller=HUB)
    await rig.hub.call(Grant(account="cleo", channel="agent.bob.diary"), caller=bob)
    await rig.hub.call(Unlock(channel="agent.bob.diary"), caller=bob)
    await rig.hub.call(DeleteAccount(id="cleo"), caller=HUB)
    await rig.settle()
    assert looked == []
    # One more token of bob's, which ends: his wait looks and goes on.
    other = await rig.caller("bob")
    await rig.hub.call(RevokeToken(id=other.token_id or ""), caller=HUB)
    await rig.settle()
    assert looked == ["bob"]
    await rig.hub.call(DeleteAccount(id="bob"), caller=HUB)
    await rig.settle()
    with pytest.raises(Unauthenticated):
        works[1].result()
    assert not works[0].done()
    await works[0]


async def test_revoked_at_any_await_it_is_given_nothing(rig: HubRig, ada: Caller) -> None:
    await many(rig, ada, 3)
    calls: list[Any] = [
        ReadInbox(),
        ReadInbox(budget_tokens=1_000),
        AckInbox(events=ids(await read(rig, ada))),
    ]
    for call in calls:
        for at in range(20):
            caller = await rig.caller("ada")
            revoke = RevokeToken(id=caller.token_id or "")
            gate = Gate(rig.hub, at=at, action=lambda r=revoke: rig.hub.call(r, caller=HUB))  # type: ignore[misc]
            try:
                await rig.hub.call(call, caller=caller)
            except ClawError as error:
                assert isinstance(error, Unauthenticated)
                assert gate.was_reached
            else:
                # Reached only behind the commit of an ack, whose answer tells no message.
                assert not gate.was_reached or isinstance(call, AckInbox)
                break
            finally:
                await gate.open()
            assert (await read(rig, ada)).unread == 3
        assert at >= 2


async def test_who_waits_holds_a_lease_and_who_reads_is_woken(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    from clawnet.core.calls.receipts import ReadReceipt
    from clawnet.core.calls.wake import ReadWake

    async def receipt(event_id: str) -> Any:
        return await rig.hub.call(ReadReceipt(event_id=event_id), caller=bob)

    async def is_held() -> bool:
        return bool((await rig.hub.call(ReadWake(account="ada"), caller=bob)).held)

    stored = await rig.publish(bob, BOX, 1)
    found = await receipt(stored.id)
    assert not found.offered and not found.woken and not await is_held()
    await read(rig, ada)
    found = await receipt(stored.id)
    assert found.offered and found.woken and not found.acted
    await ack(rig, ada, stored.id)
    assert (await receipt(stored.id)).acted
    work = await waiting(rig, ada)
    assert await is_held()
    await rig.publish(bob, BOX, 2)
    await work
    assert not await is_held()
    last = await rig.publish(bob, BOX, 3)
    await ack(rig, ada, through=(await read(rig, ada, limit=1, after=None)).cursor)
    assert not (await receipt(last.id)).acted
    await ack(rig, ada, through=(await read(rig, ada)).cursor)
    assert (await receipt(last.id)).acted
