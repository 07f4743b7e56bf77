"""Export gives what may be read and nothing else; import stores what was said elsewhere, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import CreateAccount, DeleteAccount
from clawnet.core.calls.archive import ExportEvents, ExportPage, ImportedEvents, ImportEvents
from clawnet.core.calls.grants import Grant, Revoke
from clawnet.core.calls.reading import ReadEvent
from clawnet.core.cursors import AfterOffset, parse_cursor
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    Conflict,
    Forbidden,
    InvalidChannel,
    InvalidData,
    InvalidType,
    NotFound,
    Unauthenticated,
)
from clawnet.core.events import Event
from clawnet.engines.memory import MemoryEngine
from clawnet.hub.tokens import bootstrap_admin
from clawnet.testing.clocks import FakeRandomness
from clawnet.testing.hubs import Gate, HubRig, started_hub
from clawnet.testing.loops import LoopClock


@pytest.fixture
async def other() -> AsyncIterator[HubRig]:
    """The hub that is imported into."""
    # Of another log: by the fakes' seed two engines would give the same epoch.
    engine = MemoryEngine(clock=LoopClock(), randomness=FakeRandomness("another log"))
    async with started_hub(engine=engine) as made:
        yield made


async def admin_of(rig: HubRig) -> Caller:
    token = await bootstrap_admin(rig.hub, None)
    assert token is not None
    return rig.hub.authenticate(token)


async def page(rig: HubRig, caller: Caller, *channels: str, **named: Any) -> ExportPage:
    call = ExportEvents(channels=channels or (">",), **named)
    found: ExportPage = await rig.hub.call(call, caller=caller)
    return found


def decoded(found: ExportPage) -> list[Event]:
    lines = found.body.split(b"\n") if found.body else []
    return [msgspec.json.decode(line, type=Event) for line in lines]


async def exported(rig: HubRig, caller: Caller, *channels: str, limit: int = 1_000) -> list[Event]:
    events: list[Event] = []
    since = None
    while True:
        found = await page(rig, caller, *channels, since=since, limit=limit)
        events += decoded(found)
        since = parse_cursor(found.next)
        if found.is_end:
            return events


async def take_in(rig: HubRig, events: list[Event], **named: Any) -> ImportedEvents:
    admin = await admin_of(rig)
    done: ImportedEvents = await rig.hub.call(ImportEvents(events=events, **named), caller=admin)
    return done


# --- export -------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (ExportEvents(limit=0), BadRequest),
        (ExportEvents(limit=1_001), BadRequest),
        (ExportEvents(channels=()), BadRequest),
        (ExportEvents(channels=("public.a",) * 101), BadRequest),
        (ExportEvents(channels=("agent.bob.x",)), Forbidden),
        (ExportEvents(channels=("public.a", "agent.bob.inbox")), Forbidden),
        (ExportEvents(channels=("dm.bob.eve",)), Forbidden),
        (ExportEvents(channels=("public.>.x",)), InvalidChannel),
        (ExportEvents(since=AfterOffset(3)), BadRequest),
    ],
    ids=repr,
)
async def test_a_bad_export_is_refused(
    rig: HubRig, ada: Caller, bob: Caller, call: ExportEvents, error: type[ClawError]
) -> None:
    with pytest.raises(error):
        await rig.hub.call(call, caller=ada)


async def test_without_a_token_or_its_scope_nothing_is_exported(rig: HubRig, ada: Caller) -> None:
    with pytest.raises(Unauthenticated):
        await page(rig, Caller(account=None, scopes=frozenset({"events:read"})))
    writer = await rig.caller("ada", scopes=["events:write"])
    with pytest.raises(Forbidden):
        await page(rig, writer)


async def test_a_pattern_gives_what_may_be_read_and_nothing_else(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller, warden: Caller
) -> None:
    await rig.publish(bob, "public.a", "open")
    await rig.publish(bob, "agent.bob.private", "secret")
    await rig.publish(bob, "agent.ada.inbox", "for ada")
    await rig.publish(bob, "agent.bob.shared", "before the grant")
    third = await rig.publish(bob, "agent.bob.shared", "granted")
    await rig.hub.call(
        Grant(account="ada", channel="agent.bob.shared", verbs=["read"], from_offset=third.offset),
        caller=bob,
    )
    mine = [e for e in await exported(rig, ada) if not e.channel.startswith("system.")]
    assert [(e.channel, msgspec.json.decode(e.data)) for e in mine] == [
        ("public.a", "open"),
        ("agent.ada.inbox", "for ada"),
        ("agent.bob.shared", "granted"),
    ]
    # A master administers, and reads no more than any account.
    assert "secret" not in {
        msgspec.json.decode(e.data) for e in await exported(rig, master, "public.>")
    }
    assert {e.channel for e in await exported(rig, master, "agent.>")} == set()
    assert "agent.bob.private" in {e.channel for e in await exported(rig, warden)}


async def test_pages_give_everything_once_in_the_order_of_the_log(rig: HubRig, ada: Caller) -> None:
    for n in range(25):
        await rig.publish(ada, f"public.c{n % 3}", n)
    events = await exported(rig, ada, "public.>", limit=4)
    assert [msgspec.json.decode(e.data) for e in events] == list(range(25))
    assert [e.seq for e in events] == sorted(e.seq for e in events)


async def test_an_export_tells_what_was_trimmed(rig: HubRig, ada: Caller) -> None:
    await rig.fill(ada, "public.a", 10)
    rig.engine.real.trim_channel("main", "public.a", keep=3)
    found = await page(rig, ada, "public.a")
    assert [e.offset for e in decoded(found)] == [8, 9, 10]
    assert [(g.channel, g.first, g.last) for g in found.gaps] == [("public.a", 1, 7)]


async def test_a_cursor_of_another_log_begins_anew_and_says_so(rig: HubRig, ada: Caller) -> None:
    await rig.publish(ada, "public.a", 1)
    found = await page(rig, ada, "public.a", since=parse_cursor("nosuchepoch-7"))
    assert [g.reason for g in found.gaps] == ["epoch"]
    assert len(decoded(found)) == 1


async def test_what_is_revoked_during_a_read_is_not_exported(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await rig.publish(bob, "agent.bob.shared", "secret")
    await rig.hub.call(Grant(account="ada", channel="agent.bob.shared", verbs=["read"]), caller=bob)

    async def revoke() -> None:
        await rig.hub.call(Revoke(account="ada", channel="agent.bob.shared"), caller=bob)

    at = 0
    while True:
        gate = Gate(rig.hub, at=at, action=revoke)
        found = await page(rig, ada, "agent.>")
        await gate.open()
        if not gate.was_reached:
            break
        assert decoded(found) == [], at
        await rig.hub.call(
            Grant(account="ada", channel="agent.bob.shared", verbs=["read"]), caller=bob
        )
        at += 1
    assert at >= 2
    assert len(decoded(found)) == 1


# --- import -------------------------------------------------------------------
async def test_only_admin_with_all_scopes_imports(rig: HubRig, other: HubRig, ada: Caller) -> None:
    await rig.publish(ada, "public.a", 1)
    events = await exported(rig, ada, "public.a")
    await admin_of(other)
    for caller in (
        await other.account("eve"),
        await other.account("boss", role="master"),
        await other.account("eye", role="warden"),
        await other.caller("admin", scopes=["events:read", "events:write"]),
    ):
        with pytest.raises(Forbidden):
            await other.hub.call(ImportEvents(events=events), caller=caller)
    reader = await other.caller("eve")
    assert await exported(other, reader, "public.>") == []


async def test_an_import_says_who_spoke_and_that_it_was_imported(
    rig: HubRig, other: HubRig, ada: Caller
) -> None:
    first = await rig.publish(
        ada, "public.a", {"n": 1.50}, correlation_id="c-1", causation_id="evt-x",
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    )  # fmt: skip
    source = (await exported(rig, ada, "public.a"))[0]
    reader = await other.account("ada")
    done = await take_in(other, [source])
    assert (done.stored, done.repeated, done.skipped, done.tombstones) == (1, 0, 0, [])
    (event,) = await exported(other, reader, "public.a")
    assert event.imported is not None
    assert (event.imported.id, event.imported.ts) == (first.id, source.ts)
    assert (event.imported.seq, event.imported.by) == (first.seq, "admin")
    assert event.id != first.id
    assert event.source == "external"
    assert (event.actor.id, event.correlation_id, event.causation_id) == ("ada", "c-1", "evt-x")
    assert event.traceparent == source.traceparent
    assert bytes(event.data) == bytes(source.data)


async def test_the_same_import_twice_is_stored_once(
    rig: HubRig, other: HubRig, ada: Caller
) -> None:
    await rig.fill(ada, "public.a", 5)
    events = await exported(rig, ada, "public.a")
    reader = await other.account("ada")
    assert (await take_in(other, events[:3])).stored == 3
    again = await take_in(other, events)
    assert (again.stored, again.repeated) == (2, 3)
    # And what went on to a third hub and comes back is known by its first id.
    round_trip = await exported(other, reader, "public.a")
    assert (await take_in(other, round_trip)).stored == 0
    back = await take_in(rig, round_trip)
    assert (back.stored, back.repeated) == (0, 5)


async def test_a_hubs_own_export_put_back_changes_nothing(rig: HubRig, ada: Caller) -> None:
    await rig.fill(ada, "public.a", 4)
    events = await exported(rig, ada, "public.a")
    done = await take_in(rig, events)
    assert (done.stored, done.repeated) == (0, 4)
    rig.engine.real.trim_channel("main", "public.a", keep=1)
    # What was lost meanwhile comes back, as new events.
    assert (await take_in(rig, events)).stored == 3


async def test_unknown_senders_are_refused_or_their_ids_taken_for_ever(
    rig: HubRig, other: HubRig, ada: Caller
) -> None:
    await rig.publish(ada, "public.a", 1)
    events = await exported(rig, ada, "public.a")
    with pytest.raises(NotFound) as refused:
        await take_in(other, events)
    assert refused.value.facts["missing"] == ["ada"]
    done = await take_in(other, events, missing="tombstone")
    assert (done.stored, done.tombstones) == (1, ["ada"])
    with pytest.raises(Conflict):
        await other.hub.call(CreateAccount(id="ada"), caller=HUB)
    await other.restart()
    with pytest.raises(Conflict):
        await other.hub.call(CreateAccount(id="ada"), caller=HUB)
    assert (await take_in(other, events, missing="tombstone")).tombstones == []


async def test_a_deleted_sender_needs_no_tombstone(rig: HubRig, other: HubRig, ada: Caller) -> None:
    await rig.publish(ada, "public.a", 1)
    events = await exported(rig, ada, "public.a")
    await other.account("ada")
    await other.hub.call(DeleteAccount(id="ada"), caller=HUB)
    assert (await take_in(other, events)).stored == 1


async def test_what_the_hub_said_is_left_out(
    rig: HubRig, other: HubRig, ada: Caller, warden: Caller
) -> None:
    await rig.publish(ada, "public.a", 1)
    events = await exported(rig, warden)
    said = [e for e in events if e.channel.startswith("system.")]
    assert said
    await other.account("ada")
    done = await take_in(other, events)
    assert (done.stored, done.skipped) == (1, len(said))
    eye = await other.account("eye", role="warden")
    assert not [e for e in await exported(other, eye, "system.>") if e.imported is not None]


@pytest.mark.parametrize(
    ("forged", "error"),
    [
        ({"channel": "no channel"}, InvalidChannel),
        ({"channel": "nonsense:free"}, Forbidden),
        ({"type": "no.such"}, InvalidType),
        ({"version": "9.0.0"}, BadRequest),
        ({"id": "x"}, BadRequest),
        ({"correlation_id": "a\nb"}, BadRequest),
        ({"causation_id": "x" * 201}, BadRequest),
        ({"data": msgspec.Raw(b'"' + b"x" * 70_000 + b'"')}, ClawError),
        ({"data": msgspec.Raw(b"[" * 70 + b"]" * 70)}, InvalidData),
        ({"ts": "x" * 101}, BadRequest),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
async def test_a_forged_line_refuses_the_whole_piece(
    rig: HubRig, other: HubRig, ada: Caller, forged: dict[str, Any], error: type[ClawError]
) -> None:
    await rig.fill(ada, "public.a", 2)
    good, bad = await exported(rig, ada, "public.a")
    reader = await other.account("ada")
    with pytest.raises(error) as refused:
        await take_in(other, [good, msgspec.structs.replace(bad, **forged)])
    assert refused.value.facts["index"] == 1
    assert await exported(other, reader, "public.>") == []


async def test_an_imported_actor_cannot_break_out_of_its_member(
    rig: HubRig, other: HubRig, ada: Caller
) -> None:
    await rig.publish(ada, "public.a", 1)
    (event,) = await exported(rig, ada, "public.a")
    handle = 'x"},"actor":{"id":"admin'
    forged = msgspec.structs.replace(
        event, actor=msgspec.structs.replace(event.actor, handle=handle)
    )
    reader = await other.account("ada")
    await take_in(other, [forged])
    (stored,) = await exported(other, reader, "public.a")
    assert (stored.actor.id, stored.actor.handle) == ("ada", handle)
    bad_id = msgspec.structs.replace(event, actor=msgspec.structs.replace(event.actor, id="A B"))
    with pytest.raises(BadRequest):
        await take_in(other, [bad_id])


async def test_an_import_that_the_disk_refuses_takes_no_ids(
    rig: HubRig, other: HubRig, ada: Caller
) -> None:
    await rig.publish(ada, "public.a", 1)
    events = await exported(rig, ada, "public.a")
    admin = await admin_of(other)
    other.engine.is_full = True
    with pytest.raises(ClawError):
        await other.hub.call(ImportEvents(events=events, missing="tombstone"), caller=admin)
    other.engine.is_full = False
    assert other.hub.directory.account("main", "ada") is None
    await other.hub.call(CreateAccount(id="ada"), caller=HUB)


async def test_imported_events_are_live_for_who_follows(
    rig: HubRig, other: HubRig, ada: Caller
) -> None:
    await rig.fill(ada, "public.a", 3)
    events = await exported(rig, ada, "public.a")
    reader = await other.account("ada")
    outlet = other.connect(reader, "public.a")
    await take_in(other, events)
    await other.settle()
    assert outlet.data == [1, 2, 3]
    body = await other.hub.call(
        ReadEvent(id=(await exported(other, reader, "public.a"))[0].id), caller=reader
    )
    assert b'"imported"' in body


async def test_two_imports_at_once_store_each_event_once(
    rig: HubRig, other: HubRig, ada: Caller
) -> None:
    await rig.fill(ada, "public.a", 10)
    events = await exported(rig, ada, "public.a")
    admin = await admin_of(other)
    call = ImportEvents(events=events, missing="tombstone")
    both = await asyncio.gather(*(other.hub.call(call, caller=admin) for _ in range(2)))
    assert sorted(done.stored for done in both) == [0, 10]
