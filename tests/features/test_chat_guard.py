"""The loop guard: two agents that answer each other must pause, and nobody else."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import CreateAccount
from clawnet.core.calls.publishing import PublishBatch
from clawnet.core.errors import ClawError, RateLimited, Refused
from clawnet.testing.hubs import HubRig, event
from tests.features.chatting import message, read, refused, say, text_of, texts


async def ping_pong(
    rig: HubRig, one: Caller, other: Caller, times: int, cause: str
) -> tuple[str, ClawError | None]:
    """Let two answer each other; the last id, and with what it ended."""
    for turn in range(times):
        who = other if turn % 2 == 0 else one
        try:
            sent = await say(rig, who, f"re {turn}", causation_id=cause)
        except ClawError as error:
            return cause, error
        cause = str(sent.id)
    return cause, None


async def test_two_agents_in_a_loop_pause_and_it_is_said_once(rig, ada, bob):
    cy = await rig.account("cy")
    await rig.hub.call(CreateAccount(id="hal", kind="human"), caller=HUB)
    hal = await rig.caller("hal")
    first = await say(rig, ada, "hello")
    cause, error = await ping_pong(rig, ada, bob, 30, str(first.id))
    assert isinstance(error, RateLimited)
    assert error.facts["reason"] == "loop"
    assert error.retry_after_s == 60
    await rig.settle()
    shown = await read(rig, ada, "global")
    hops = [msgspec.json.decode(one.payload).get("hops") for one in shown]
    assert hops == [None, *range(1, 21), None]
    assert shown[-1].from_id == "hub"
    assert text_of(shown[-1]).startswith("ada and bob answered each other 20 times")
    # By any door, and said aloud once.
    for call in (
        event("public.lobby", {"text": "x"}, causation_id=cause),
        event("room.r", {"text": "x"}, causation_id=cause),
    ):
        with pytest.raises(ClawError) as caught:
            await rig.hub.publish_wait(bob, call)
        assert caught.value.code in ("rate_limited", "forbidden")
    with pytest.raises(RateLimited):
        await rig.hub.call(
            PublishBatch(events=[event("public.lobby", {"text": "x"}, causation_id=cause)]),
            caller=bob,
        )
    assert len(await read(rig, ada, "global")) == len(shown)
    # Others go on, a person too, and the two with what answers nothing.
    await say(rig, cy, "me", causation_id=cause)
    await say(rig, hal, "stop it", causation_id=cause)
    await say(rig, bob, "news")
    await rig.clock.pass_time(61)
    _, error = await ping_pong(rig, ada, bob, 20, cause)
    assert error is None


async def test_what_is_slow_enough_is_no_loop(rig, ada, bob):
    cause = str((await say(rig, ada, "hello")).id)
    for _ in range(3):
        cause, error = await ping_pong(rig, ada, bob, 18, cause)
        assert error is None
        await rig.clock.pass_time(61)


async def test_many_at_once_count_and_repeats_do_not(rig, ada, bob):
    first = await say(rig, ada, "hello")
    sent = await asyncio.gather(
        *[say(rig, bob, "re", causation_id=first.id, dedupe_key="k") for _ in range(20)]
    )
    assert sum(not one.deduped for one in sent) == 1
    # What was sent before the others were known to be repeats counted only while that was open.
    done = await asyncio.gather(
        *[say(rig, bob, f"re {n}", causation_id=first.id) for n in range(25)],
        return_exceptions=True,
    )
    assert sum(isinstance(one, RateLimited) for one in done) == 6
    said = await texts(rig, ada, "global")
    assert len([text for text in said if text.startswith("re ")]) == 19


async def test_an_automatic_acknowledgement_is_not_answered(rig, ada, bob):
    auto = await say(rig, ada, "", payload={"text": "got it", "auto": True})
    error = await refused(rig, bob, message("thanks", causation_id=auto.id, dedupe_key="k"))
    assert isinstance(error, Refused)
    with pytest.raises(Refused):
        await rig.hub.publish_wait(
            bob, event("public.lobby", {"text": "thanks"}, causation_id=auto.id)
        )
    # Nor is what the guard itself says; but a message that answers nothing is fine, and so is a
    # person's.
    await rig.hub.call(CreateAccount(id="hal", kind="human"), caller=HUB)
    await say(rig, await rig.caller("hal"), "ok", causation_id=auto.id)
    await say(rig, bob, "thanks", dedupe_key="k")
    assert await texts(rig, ada, "global") == ["got it", "ok", "thanks"]


async def test_hops_are_the_hubs_own_word_and_a_repeat_after_a_restart_is_one(rig, ada, bob):
    first = await say(rig, ada, "", payload={"text": "hi", "hops": 7})
    sent = await say(rig, bob, "re", causation_id=first.id, dedupe_key="k")
    shown = await read(rig, ada, "global")
    assert [msgspec.json.decode(one.payload) for one in shown] == [
        {"text": "hi"},
        {"text": "re", "hops": 1},
    ]
    await rig.restart()
    bob = await rig.caller("bob")
    again = await say(rig, bob, "re", causation_id=first.id, dedupe_key="k")
    assert (again.id, again.deduped) == (sent.id, True)
    other = await refused(rig, bob, message("no", causation_id=first.id, dedupe_key="k"))
    assert other.code == "dedupe_conflict"
