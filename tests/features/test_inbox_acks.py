"""The inbox: what is acknowledged, and the gaps and restores that leave holes in it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import DeleteAccount
from clawnet.core.calls.inbox import ToldGap
from clawnet.core.calls.reading import Gap
from clawnet.core.errors import Conflict, DiskFull
from clawnet.core.positions import EpochStart
from clawnet.core.units import Unit
from clawnet.features.inbox.marks import RANGES_MAX
from clawnet.hub.settings import HubSettings, LimitSettings, RetentionSettings
from clawnet.testing.hubs import Gate, HubRig
from tests.features.inbox_asking import BOX, ack, data, ids, many, numbers, read, waiting


@pytest.fixture
def settings() -> HubSettings:
    return HubSettings(
        limits=LimitSettings(enabled=False),
        retention=RetentionSettings(events_per_channel_max=100_000),
    )


async def trim(rig: HubRig, keep: int) -> None:
    await rig.hub.committer.run(lambda: rig.engine.trim_channel("main", BOX, keep=keep))


# --- acknowledging ------------------------------------------------------------------------------


async def test_an_ack_is_repeated_without_effect_and_survives_a_kill(
    rig: HubRig, ada: Caller
) -> None:
    await many(rig, ada, 5)
    given = ids(await read(rig, ada))
    assert (await ack(rig, ada, given[0], given[3])).acked == 2
    commits = rig.engine.commits
    again = await ack(rig, ada, given[3], given[0], given[3])
    assert (again.acked, again.unread, again.unknown) == (0, 3, [])
    assert rig.engine.commits == commits
    await rig.crash()
    assert numbers(await read(rig, ada)) == [2, 3, 5]


async def test_what_could_not_be_stored_is_not_acknowledged(rig: HubRig, ada: Caller) -> None:
    await many(rig, ada, 2)
    given = ids(await read(rig, ada))
    rig.engine.is_full = True
    with pytest.raises(DiskFull):
        await ack(rig, ada, *given)
    assert (await read(rig, ada)).unread == 2
    rig.engine.is_full = False
    assert (await ack(rig, ada, *given)).acked == 2


async def test_an_ack_whose_caller_went_away_is_whole(rig: HubRig, ada: Caller) -> None:
    await many(rig, ada, 3)
    given = ids(await read(rig, ada))
    for turns in range(12):
        await many(rig, ada, 1)
        given.append(ids(await read(rig, ada))[-1])
        work = asyncio.create_task(ack(rig, ada, given[-1]))
        for _ in range(turns):
            await asyncio.sleep(0)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await rig.settle()
        left = (await read(rig, ada)).unread
        # Memory says what the disk says.
        await rig.crash()
        assert (await read(rig, ada)).unread == left


async def test_two_readers_see_the_same_and_their_acks_add_up(rig: HubRig, ada: Caller) -> None:
    await many(rig, ada, 20)
    other = await rig.caller("ada")
    one, two = await asyncio.gather(read(rig, ada), read(rig, other))
    assert numbers(one) == numbers(two) == list(range(1, 21))
    given = ids(one)
    await asyncio.gather(
        *(ack(rig, (ada, other)[i % 2], given[i], given[(i + 5) % 15]) for i in range(15))
    )
    assert numbers(await read(rig, ada)) == [16, 17, 18, 19, 20]
    await rig.crash()
    assert numbers(await read(rig, ada)) == [16, 17, 18, 19, 20]


async def test_an_ack_never_takes_what_came_meanwhile(rig: HubRig, ada: Caller) -> None:
    await many(rig, ada, 3)
    for at in range(20):
        page = await read(rig, ada)
        gate = Gate(rig.hub, at=at, action=lambda: rig.publish(ada, BOX, ["new"]))
        await ack(rig, ada, *ids(page))
        await gate.open()
        if not gate.was_reached:
            break
        assert data(await read(rig, ada)) == [["new"]]
    assert at >= 2


async def test_through_a_cursor_is_everything_up_to_there(rig: HubRig, ada: Caller) -> None:
    await many(rig, ada, 5)
    page = await read(rig, ada, limit=3)
    await many(rig, ada, 1)
    done = await ack(rig, ada, through=page.cursor)
    assert (done.acked, done.unread) == (3, 3)
    assert numbers(await read(rig, ada)) == [4, 5, 1]


async def test_more_ranges_than_are_kept_are_refused_whole(rig: HubRig, ada: Caller) -> None:
    await many(rig, ada, 2 * RANGES_MAX + 4)
    every: list[str] = []
    after = None
    while (page := await read(rig, ada, limit=500, after=after)).messages:
        every += ids(page)
        after = page.cursor
    odd = every[1::2]
    for start in range(0, RANGES_MAX, 500):
        await ack(rig, ada, *odd[start : start + 500])
    unread = (await read(rig, ada)).unread
    with pytest.raises(Conflict) as refused:
        await ack(rig, ada, odd[RANGES_MAX])
    assert "oldest" in refused.value.next
    assert (await read(rig, ada)).unread == unread == RANGES_MAX + 4
    # What closes a hole makes room.
    assert (await ack(rig, ada, every[0])).acked == 1
    assert (await ack(rig, ada, odd[RANGES_MAX])).acked == 1


async def test_the_marks_of_a_deleted_account_go(rig: HubRig, ada: Caller) -> None:
    await many(rig, ada, 2)
    await ack(rig, ada, *ids(await read(rig, ada)))
    assert len(rig.engine.real.scan("inbox")) == 1
    await rig.hub.call(DeleteAccount(id="ada"), caller=HUB)
    await rig.settle()
    assert rig.engine.real.scan("inbox") == []


@pytest.mark.parametrize("told", [{"account": "ada"}, [], 7, {"account": ["ada"]}])
@pytest.mark.parametrize("channel", ["public.a", "system.accounts"])
async def test_an_imported_event_deletes_no_marks(
    rig: HubRig, ada: Caller, caplog: pytest.LogCaptureFixture, channel: str, told: Any
) -> None:
    await many(rig, ada, 2)
    await ack(rig, ada, *ids(await read(rig, ada)))
    draft = rig.hub.publishing.render(
        HUB, channel, type="account.deleted", data=msgspec.json.encode(told).decode()
    )
    imported = f'{draft.members},"imported":{{"id":"x"}}'
    marked = msgspec.structs.replace(draft, members=imported)
    await rig.hub.committer.commit(Unit(drafts=(marked,)))
    if channel != "system.accounts":
        await rig.hub.committer.commit(Unit(drafts=(draft,)))
    # Whoever waits is still told, and nothing was forgotten.
    work = await waiting(rig, ada)
    await rig.publish(ada, BOX, "new")
    assert data(await work) == ["new"]
    assert (await read(rig, ada)).unread == 1
    assert len(rig.engine.real.scan("inbox")) == 1
    assert caplog.records == []


# --- gaps and epochs ----------------------------------------------------------------------------


async def test_what_retention_took_unread_is_told_until_it_is_acknowledged(
    rig: HubRig, ada: Caller
) -> None:
    await many(rig, ada, 20)
    given = ids(await read(rig, ada))
    await ack(rig, ada, *given[4:6])
    await trim(rig, keep=8)
    page = await read(rig, ada)
    told = [
        Gap(channel=BOX, first=1, last=4, oldest=5),
        Gap(channel=BOX, first=7, last=12, oldest=13),
    ]
    assert (page.gaps, page.gap) == (told, told[0])
    assert (numbers(page), page.unread) == (list(range(13, 21)), 8)
    # The ack of a message does not take the gap with it.
    await ack(rig, ada, *ids(page))
    page = await read(rig, ada)
    assert (page.gaps, page.messages, page.unread) == (told, [], 0)
    named = [ToldGap(channel=gap.channel, first=gap.first, last=gap.last) for gap in told]
    await ack(rig, ada, gaps=named[:1])
    await rig.crash()
    assert (await read(rig, ada)).gaps == told[1:]
    await ack(rig, ada, gaps=named)
    assert (await read(rig, ada)).gaps == []


async def test_a_told_gap_takes_nothing_that_is_there(rig: HubRig, ada: Caller) -> None:
    await many(rig, ada, 6)
    await trim(rig, keep=4)
    await ack(rig, ada, gaps=[ToldGap(channel=BOX, first=1, last=6)])
    page = await read(rig, ada)
    assert (numbers(page), page.gaps) == ([3, 4, 5, 6], [])
    # Nor what will come.
    await ack(rig, ada, gaps=[ToldGap(channel=BOX, first=1, last=100)])
    await many(rig, ada, 1)
    assert numbers(await read(rig, ada)) == [3, 4, 5, 6, 1]


async def test_a_hole_in_the_middle_is_told(rig: HubRig, ada: Caller) -> None:
    for i in range(6):
        kind = "x.keep" if i in (0, 5) else "x.message"
        await rig.publish(ada, BOX, [i + 1], type=kind)
    due = lambda _, kind: kind != "x.keep"  # noqa: E731
    await rig.hub.committer.run(
        lambda: rig.engine.real.trim_due(rig.engine.last_seq, after_seq=0, is_due=due)
    )
    for budget in (None, 10_000):
        page = await read(rig, ada, budget_tokens=budget)
        assert numbers(page) == [1, 6]
        assert page.gaps == [Gap(channel=BOX, first=2, last=5, oldest=6)]
    page = await read(rig, ada)
    gap = ToldGap(channel=BOX, first=2, last=5)
    await ack(rig, ada, *ids(page), gaps=[gap])
    page = await read(rig, ada)
    assert (page.unread, page.gaps) == (0, [])


async def test_after_a_restore_what_is_new_is_unread(rig: HubRig, ada: Caller) -> None:
    await many(rig, ada, 6)
    page = await read(rig, ada)
    seqs = [msgspec.json.decode(message.event)["seq"] for message in page.messages]
    await ack(rig, ada, *ids(page)[:5])
    assert numbers(await read(rig, ada)) == [6]
    real, head = rig.engine.real, rig.engine.channel("main", BOX)
    lineage = (EpochStart(rig.hub.log_epoch, 1), EpochStart("restored", seqs[2] + 1))
    vars(rig.engine)["epochs"] = lineage
    vars(rig.engine)["epoch"] = "restored"
    vars(rig.engine)["channel"] = lambda world, name: (
        msgspec.structs.replace(head, epoch="restored.1")
        if name == BOX
        else real.channel(world, name)
    )
    await rig.crash()
    # The log was not really cut here: what lies behind the branch stands for what is new there.
    assert numbers(await read(rig, ada)) == [4, 5, 6]
    assert (await ack(rig, ada, ids(page)[3])).acked == 1
    await rig.crash()
    assert numbers(await read(rig, ada)) == [5, 6]


async def test_another_incarnation_of_the_channel_is_unread_from_its_start(
    rig: HubRig, ada: Caller
) -> None:
    await many(rig, ada, 3)
    await ack(rig, ada, *ids(await read(rig, ada)))
    head = rig.engine.channel("main", BOX)
    again = msgspec.structs.replace(head, epoch=head.epoch.rpartition(".")[0] + ".2")
    vars(rig.engine)["channel"] = lambda world, name: again if name == BOX else None
    assert numbers(await read(rig, ada)) == [1, 2, 3]
