"""A chain of causes: all of it that may be read, and nothing of the rest."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import msgspec
import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import CreateAccount
from clawnet.core.calls.consumers import CreateConsumer, Fetch
from clawnet.core.calls.grants import Grant, Revoke
from clawnet.core.calls.tokens import RevokeToken
from clawnet.core.calls.tracing import TRACE_MAX_EVENTS, ReadTrace, Trace
from clawnet.core.errors import BadRequest, ClawError, NotFound
from clawnet.hub import tracing
from clawnet.hub.interceptors import Interceptor, Proposed
from clawnet.hub.lanes import Lane
from clawnet.testing.hubs import Gate, HubRig, event

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


async def read(rig: HubRig, caller: Caller, id: str) -> Trace:
    found: Trace = await rig.hub.call(ReadTrace(id=id), caller=caller)
    return found


def data(found: Trace) -> list[Any]:
    return [msgspec.json.decode(line)["data"] for line in found.body.split(b"\n")]


async def gone(rig: HubRig, caller: Caller, id: str) -> str:
    with pytest.raises(NotFound) as refused:
        await read(rig, caller, id)
    return refused.value.message.replace(ascii(id), "ID")


# --- what may not be read -----------------------------------------------------


async def test_what_may_not_be_read_is_as_if_it_were_not(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    secret = await rig.publish(
        ada, "agent.ada.notes", 1, correlation_id="c", traceparent=TRACEPARENT
    )
    other = secret.id.replace("evt_0", "evt_f")
    await gone(rig, ada, other)
    nothing = await gone(rig, bob, "evt_00000000-0000-7000-8000-00000000ffff")
    for name in (secret.id, "c", TRACE_ID, TRACEPARENT):
        assert await gone(rig, bob, name) == nothing
    assert data(await read(rig, ada, "c")) == [1]


async def test_a_hidden_cause_looks_like_one_that_is_gone(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    secret = await rig.publish(ada, "agent.ada.notes", 1)
    seen = await rig.publish(ada, "public.a", 2, correlation_id=secret.id, causation_id=secret.id)
    await rig.publish(ada, "public.a", 3, correlation_id=secret.id, causation_id="evt_never")
    for name in (seen.id, secret.id):
        found = await read(rig, bob, name)
        assert data(found) == [2, 3]
        assert found.absent == [secret.id, "evt_never"]
        assert len(found.roots) == 2
        assert b"notes" not in found.body
    whole = await read(rig, ada, seen.id)
    assert (data(whole), whole.absent) == ([1, 2, 3], ["evt_never"])


async def test_hidden_events_join_nothing_and_are_not_counted(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    """The hidden event alone names the cause that bob could else be led to."""
    root = await rig.publish(ada, "public.a", 1)
    await rig.publish(ada, "agent.ada.notes", 2, correlation_id="c", causation_id=root.id)
    for n in range(50):
        await rig.publish(ada, "agent.ada.notes", n, correlation_id="c")
    await rig.publish(ada, "public.a", 3, correlation_id="c")
    found = await read(rig, bob, "c")
    assert (data(found), found.count, found.is_cut, found.absent) == ([3], 1, False, [])
    assert data(await read(rig, ada, "c"))[:2] == [1, 2]


async def test_events_of_before_a_member_joined_stay_hidden(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    made = [await rig.publish(ada, "agent.ada.notes", n, correlation_id="c") for n in range(3)]
    call = Grant(channel="agent.ada.notes", account="bob", from_offset=made[2].offset)
    await rig.hub.call(call, caller=ada)
    assert data(await read(rig, bob, "c")) == [2]
    assert data(await read(rig, ada, "c")) == [0, 1, 2]
    await gone(rig, bob, made[0].id)
    await rig.hub.call(Revoke(channel="agent.ada.notes", account="bob"), caller=ada)
    await gone(rig, bob, "c")


async def test_who_asked_traces_its_own_question_and_nothing_else_there(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    asked = await rig.publish(ada, "agent.bob.inbox", "?", traceparent=TRACEPARENT)
    await rig.publish(bob, "agent.bob.notes", "hm", correlation_id=asked.id, causation_id=asked.id)
    answered = await rig.publish(
        bob, "agent.ada.inbox", "!", correlation_id=asked.id, causation_id=asked.id
    )
    for name in (asked.id, answered.id):
        found = await read(rig, ada, name)
        assert (data(found), found.roots, found.absent) == (["?", "!"], [asked.id], [])
    assert data(await read(rig, ada, TRACE_ID)) == ["?"]
    # To a third one all of it is as if it were not.
    eve = await rig.account("eve")
    for name in (asked.id, answered.id, TRACE_ID):
        await gone(rig, eve, name)


async def test_another_world_has_chains_of_its_own(rig: HubRig, ada: Caller) -> None:
    await rig.publish(ada, "public.a", 1, correlation_id="c", traceparent=TRACEPARENT)
    elsewhere = msgspec.structs.replace(HUB, world="other")
    await rig.hub.call(CreateAccount(id="eve"), caller=elsewhere)
    eve = msgspec.structs.replace(ada, account="eve", world="other", token_id=None)
    there = await rig.publish(eve, "public.a", 2, correlation_id="c", traceparent=TRACEPARENT)
    for name in ("c", TRACE_ID):
        assert data(await read(rig, ada, name)) == [1]
        assert data(await read(rig, eve, name)) == [2]
    await gone(rig, ada, there.id)


async def test_without_a_token_only_what_anyone_may_read(rig: HubRig, ada: Caller) -> None:
    await rig.publish(ada, "public.a", 1, correlation_id="c")
    await rig.publish(ada, "agent.ada.inbox", 2, correlation_id="c")
    await rig.publish(ada, "agent.ada.public.b", 3, correlation_id="c")
    assert data(await read(rig, rig.hub.anonymous(is_local=True), "c")) == [1, 3]
    assert data(await read(rig, ada, "c")) == [1, 2, 3]


async def test_a_right_that_goes_at_any_await_takes_its_events_with_it(
    rig: HubRig, ada: Caller
) -> None:
    for at in range(50):
        bob = await rig.account(f"bob{at}")
        grant = Grant(channel="agent.ada.notes", account=f"bob{at}", verbs=["read"])
        await rig.hub.call(grant, caller=ada)
        cause = await rig.publish(ada, "agent.ada.notes", 1)
        last = await rig.publish(ada, "agent.ada.notes", 2, correlation_id=f"c{at}",
                                 causation_id=cause.id)  # fmt: skip
        await rig.publish(ada, "public.a", 3, correlation_id=f"c{at}", causation_id=last.id)

        async def revoke(name: str = f"bob{at}") -> None:
            await rig.hub.call(Revoke(channel="agent.ada.notes", account=name), caller=ada)

        gate = Gate(rig.hub, at=at, action=revoke)
        found = await read(rig, bob, f"c{at}")
        reached = gate.was_reached
        await gate.open()
        assert data(found) == ([3] if reached else [1, 2, 3])
        if not reached:
            assert at >= 4
            return
    raise AssertionError("reading a trace never ends")


async def test_a_token_that_is_revoked_meanwhile_gets_nothing(rig: HubRig, ada: Caller) -> None:
    await rig.publish(ada, "public.a", 1, correlation_id="c")

    async def revoke() -> None:
        await rig.hub.call(RevokeToken(id=str(ada.token_id)), caller=HUB)

    gate = Gate(rig.hub, at=1, action=revoke)
    with pytest.raises(ClawError) as refused:
        await read(rig, ada, "c")
    assert refused.value.code == "unauthenticated"
    await gate.open()


# --- what a chain is ----------------------------------------------------------


async def test_a_chain_is_found_from_each_of_its_events(rig: HubRig, ada: Caller) -> None:
    root = await rig.publish(ada, "public.a", "root")
    one = await rig.publish(ada, "public.b", "one", correlation_id=root.id, causation_id=root.id)
    two = await rig.publish(ada, "public.a", "two", correlation_id=root.id, causation_id=one.id)
    await rig.publish(ada, "public.a", "other", correlation_id="other")
    await rig.publish(ada, "public.a", "none")
    for name in (root.id, one.id, two.id):
        found = await read(rig, ada, name)
        assert data(found) == ["root", "one", "two"]
        assert (found.roots, found.absent, found.id) == ([root.id], [], name)


async def test_a_trace_is_found_by_its_id_and_by_any_of_its_events(
    rig: HubRig, ada: Caller
) -> None:
    first = await rig.publish(ada, "public.a", 1, traceparent=TRACEPARENT)
    other_span = f"00-{TRACE_ID}-b7ad6b7169203331-01"
    await rig.publish(ada, "public.a", 2, correlation_id="c", traceparent=other_span)
    await rig.publish(ada, "public.a", 3, correlation_id="c")
    assert data(await read(rig, ada, TRACE_ID)) == [1, 2]
    assert data(await read(rig, ada, other_span)) == [1, 2]
    assert data(await read(rig, ada, first.id)) == [1, 2]
    assert data(await read(rig, ada, "c")) == [2, 3]


async def test_causes_beyond_the_chain_are_climbed(rig: HubRig, ada: Caller) -> None:
    far = await rig.publish(ada, "public.a", 1, correlation_id="elsewhere")
    near = await rig.publish(ada, "public.a", 2, causation_id=far.id)
    last = await rig.publish(ada, "public.a", 3, correlation_id="c", causation_id=near.id)
    for name in ("c", last.id):
        assert data(await read(rig, ada, name)) == [1, 2, 3]


async def test_a_long_chain_is_cut_and_says_so(rig: HubRig, ada: Caller) -> None:
    for n in range(TRACE_MAX_EVENTS + 5):
        rig.hub.publish(
            ada,
            event(f"public.{n % 2}", n, correlation_id="c"),
            lane=Lane(),
            reply=lambda _: None,
        )
    await rig.hub.drain()
    found = await read(rig, ada, "c")
    assert (found.count, found.is_cut) == (TRACE_MAX_EVENTS, True)
    assert data(found)[:3] == [0, 1, 2]
    last = await rig.publish(ada, "public.a", "last", correlation_id="c")
    found = await read(rig, ada, last.id)
    assert data(found)[-1] == "last" and found.is_cut


async def test_a_trace_is_bounded_in_bytes(
    rig: HubRig, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "TRACE_MAX_BYTES", 2_000)
    for n in range(20):
        await rig.publish(ada, "public.a", n, correlation_id="c")
    found = await read(rig, ada, "c")
    assert found.is_cut and len(found.body) <= 2_000 and found.count >= 3


async def test_many_hidden_events_in_front_change_nothing(
    rig: HubRig, ada: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what is found behind them nor is_cut tells bob that they are there."""
    monkeypatch.setattr(tracing, "SCAN_TOGETHER_EVENTS", 400)
    await hide(rig, ada, 1_000)
    await gone(rig, bob, "c")
    await rig.publish(ada, "public.a", "seen", correlation_id="c")
    await hide(rig, ada, 1_000)
    await rig.publish(ada, "public.a", "seen too", correlation_id="c")
    await hide(rig, ada, 1_000)
    both = await asyncio.gather(read(rig, bob, "c"), read(rig, bob, "c"))
    for found in both:
        assert (data(found), found.is_cut) == (["seen", "seen too"], False)


async def test_hidden_events_behind_a_full_trace_do_not_count_as_more_of_it(
    rig: HubRig, ada: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "TRACE_MAX_EVENTS", 2)
    for n in range(2):
        await rig.publish(ada, "public.a", n, correlation_id="c")
    await hide(rig, ada, 10)
    assert not (await read(rig, bob, "c")).is_cut
    assert (await read(rig, ada, "c")).is_cut


async def test_who_hides_many_events_cannot_make_a_read_endless(
    rig: HubRig, ada: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come faster than they are looked at."""
    await hide(rig, ada, 1_000)
    seen = await rig.publish(ada, "public.a", "seen", correlation_id="c")
    ask, asked = rig.hub.storage.read, itertools.count(1)

    async def read_and_hide(work: Any) -> Any:
        assert next(asked) < 20
        await hide(rig, ada, 2 * tracing.CHUNK_EVENTS)
        return await ask(work)

    monkeypatch.setattr(rig.hub.storage, "read", read_and_hide)
    found = await read(rig, bob, "c")
    assert (data(found), found.is_cut, found.roots) == (["seen"], False, [seen.id])


async def hide(rig: HubRig, ada: Caller, count: int) -> None:
    """Events of the chain that bob may not read."""
    for n in range(count):
        rig.hub.publish(
            ada, event("agent.ada.notes", n, correlation_id="c"), lane=Lane(), reply=lambda _: None
        )
    await rig.hub.drain()


async def test_a_line_of_forged_causes_ends(
    rig: HubRig, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "ANCESTORS_MAX", 10)
    cause = None
    for n in range(30):
        made = await rig.publish(ada, "public.a", n, causation_id=cause)
        cause = made.id
    found = await read(rig, ada, str(cause))
    assert (data(found), found.is_cut) == (list(range(19, 30)), True)
    assert len(found.roots) == 1 and len(found.absent) == 1


@pytest.mark.parametrize("id", ["", "x" * 513])
async def test_what_cannot_be_an_id_is_refused(rig: HubRig, ada: Caller, id: str) -> None:
    with pytest.raises(BadRequest):
        await read(rig, ada, id)


# --- what the hub does with a traceparent --------------------------------------


async def test_a_dead_letter_goes_on_from_what_it_is_about(rig: HubRig, ada: Caller) -> None:
    call = CreateConsumer(name="c", channels=["public.a"], max_attempts=1, ack_wait_s=1)
    await rig.hub.call(call, caller=ada)
    made = await rig.publish(ada, "public.a", 1, correlation_id="job", traceparent=TRACEPARENT)
    plain = await rig.publish(ada, "public.a", 2)
    await rig.hub.call(Fetch(name="c"), caller=ada)
    await rig.clock.pass_time(2)
    await rig.hub.call(Fetch(name="c"), caller=ada)
    body = rig.engine.read_channel("main", "agent.ada.dead-letter").body
    letters = [msgspec.json.decode(line) for line in body.split(b"\n")]
    assert [letter["causation_id"] for letter in letters] == [made.id, plain.id]
    assert [letter["correlation_id"] for letter in letters] == ["job", plain.id]
    assert [letter.get("traceparent") for letter in letters] == [TRACEPARENT, None]
    assert (await read(rig, ada, plain.id)).count == 2


@pytest.mark.parametrize(
    ("given", "shown"), [(TRACEPARENT, TRACEPARENT), ("00-nonsense", None), (None, None)]
)
async def test_an_interceptor_sees_what_will_be_stored(
    rig: HubRig, ada: Caller, given: str | None, shown: str | None
) -> None:
    seen: list[Proposed] = []

    async def look(proposed: Proposed) -> None:
        seen.append(proposed)

    rig.hub.intercept(Interceptor(name="look", channels=("public.>",), intercept=look))
    await rig.publish(ada, "public.a", 1, causation_id="why", traceparent=given)
    assert [(one.traceparent, one.causation_id) for one in seen] == [(shown, "why")]
