"""Tokens: shown once, never wider or longer than who made them, gone when they are gone."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.calls.tokens import CreateToken, ListTokens, RevokeToken
from clawnet.core.cursors import AfterOffset
from clawnet.core.errors import BadRequest, ClawError, Forbidden, NotFound, Unauthenticated
from clawnet.core.live import End
from clawnet.testing.hubs import HubRig

DAY_S = 86_400.0
YEAR_S = 365 * DAY_S


@pytest.mark.parametrize(
    "text", ["", "claw_", "claw_" + "A" * 43, "\ud800", "x" * 9_000, "é"], ids=ascii
)
async def test_any_other_text_is_no_token(rig: HubRig, ada: Caller, text: str) -> None:
    with pytest.raises(Unauthenticated):
        rig.hub.authenticate(text)


@pytest.mark.parametrize(
    "call, error",
    [
        (CreateToken(account="bob"), Forbidden),
        (CreateToken(scopes=[]), BadRequest),
        (CreateToken(scopes=["everything"]), BadRequest),
        (CreateToken(expires_in_s=0), BadRequest),
        (CreateToken(expires_in_s=-5), BadRequest),
        (CreateToken(expires_in_s=1e12), BadRequest),
        (CreateToken(expires_in_s=float("nan")), BadRequest),
        (CreateToken(name=""), BadRequest),
        (CreateToken(name="x" * 65), BadRequest),
        (ListTokens(account="bob"), Forbidden),
    ],
    ids=repr,
)
async def test_a_bad_token_is_refused(
    rig: HubRig, ada: Caller, bob: Caller, call: Any, error: type[ClawError]
) -> None:
    with pytest.raises(error):
        await rig.hub.call(call, caller=ada)
    assert len((await rig.hub.call(ListTokens(), caller=ada)).tokens) == 1


async def test_without_a_token_none_is_made(rig: HubRig) -> None:
    nobody = rig.hub.anonymous(is_local=True)
    for call in (CreateToken(), ListTokens(), RevokeToken(id="tok_1")):
        with pytest.raises(Unauthenticated):
            await rig.hub.call(call, caller=nobody)


async def test_a_token_is_never_wider_than_who_makes_it(rig: HubRig, ada: Caller) -> None:
    narrow = await rig.caller("ada", scopes=["events:read", "tokens:write"])
    for wider in (["*"], ["events:write"], ["events:read", "grants:write"]):
        with pytest.raises(Forbidden):
            await rig.hub.call(CreateToken(scopes=wider), caller=narrow)
    made = await rig.hub.call(CreateToken(scopes=["events:read"]), caller=narrow)
    reader = rig.hub.authenticate(made.token)
    assert reader.scopes == {"events:read"}
    with pytest.raises(Forbidden):
        await rig.hub.call(CreateToken(scopes=["events:read"]), caller=reader)


async def test_a_masters_narrow_token_makes_no_wide_one_of_others(
    rig: HubRig, ada: Caller, master: Caller
) -> None:
    narrow = await rig.caller("boss", scopes=["tokens:write", "events:read"])
    with pytest.raises(Forbidden):
        await rig.hub.call(CreateToken(account="ada"), caller=narrow)
    await rig.hub.call(CreateToken(account="ada", scopes=["events:read"]), caller=narrow)


async def test_a_token_never_outlives_the_one_that_made_it(rig: HubRig, ada: Caller) -> None:
    short = await rig.caller("ada", expires_in_s=100)
    made = [
        await rig.hub.call(CreateToken(expires_in_s=wanted), caller=short)
        for wanted in (None, 10_000, 50)
    ]
    callers = [rig.hub.authenticate(one.token) for one in made]
    assert [one.expires_ms for one in callers[:2]] == [short.expires_ms] * 2
    assert (callers[2].expires_ms or 0) < (short.expires_ms or 0)
    rig.clock.advance(101)
    for one in made:
        with pytest.raises(Unauthenticated):
            rig.hub.authenticate(one.token)


async def test_a_token_expires_and_ends_its_connections(rig: HubRig, ada: Caller) -> None:
    token = await rig.token("ada", expires_in_s=3_600)
    outlet = rig.connect(rig.hub.authenticate(token), "public.a")
    rig.clock.advance(3_599)
    rig.hub.authenticate(token)
    rig.clock.advance(1)
    with pytest.raises(Unauthenticated, match="expired"):
        rig.hub.authenticate(token)
    await rig.clock.pass_time(1.1)
    assert outlet.end is End.EXPIRED and not outlet.end.reconnect
    await rig.publish(ada, "public.a", 1)
    assert outlet.frames == []


async def test_what_waits_as_its_token_expires_is_not_answered(rig: HubRig, ada: Caller) -> None:
    short = await rig.caller("ada", expires_in_s=5)
    call = ReadHistory(channel="public.a", since=AfterOffset(0), wait_s=60)
    reading = asyncio.ensure_future(rig.hub.call(call, caller=short))
    await rig.clock.pass_time(20)
    await rig.publish(ada, "public.a", 1)
    with pytest.raises(Unauthenticated):
        await reading
    with pytest.raises(Unauthenticated):
        await rig.publish(short, "public.a", 2)


@pytest.mark.parametrize("jump_s", [YEAR_S, -YEAR_S])
async def test_a_wall_clock_that_jumps_expires_and_revives_nothing(
    rig: HubRig, ada: Caller, jump_s: float
) -> None:
    living = await rig.token("ada", expires_in_s=DAY_S)
    ended = await rig.token("ada", expires_in_s=60)
    rig.clock.advance(61)
    rig.clock.jump(jump_s)
    for _ in range(10):
        rig.clock.advance(3_600)
        rig.hub.authenticate(living)
        with pytest.raises(Unauthenticated):
            rig.hub.authenticate(ended)
    await rig.restart()
    rig.hub.authenticate(living)
    with pytest.raises(Unauthenticated):
        rig.hub.authenticate(ended)
    rig.clock.advance(DAY_S)
    with pytest.raises(Unauthenticated):
        rig.hub.authenticate(living)


async def test_a_revoked_token_is_gone_for_ever(rig: HubRig, ada: Caller, bob: Caller) -> None:
    token = await rig.token("ada")
    caller = rig.hub.authenticate(token)
    for call in (RevokeToken(id=str(caller.token_id)), RevokeToken(id="tok_none")):
        with pytest.raises(NotFound):
            await rig.hub.call(call, caller=bob)
    rig.hub.authenticate(token)
    await rig.hub.call(RevokeToken(id=str(caller.token_id)), caller=ada)
    with pytest.raises(Unauthenticated):
        rig.hub.authenticate(token)
    with pytest.raises(NotFound):
        await rig.hub.call(RevokeToken(id=str(caller.token_id)), caller=ada)
    await rig.crash()
    with pytest.raises(Unauthenticated):
        rig.hub.authenticate(token)


async def test_a_token_without_the_scope_can_only_end_itself(rig: HubRig, ada: Caller) -> None:
    narrow = await rig.caller("ada", scopes=["events:read"])
    with pytest.raises(Forbidden):
        await rig.hub.call(RevokeToken(id=str(ada.token_id)), caller=narrow)
    await rig.hub.call(RevokeToken(id=str(narrow.token_id)), caller=narrow)


async def test_a_master_handles_the_tokens_of_its_world(
    rig: HubRig, ada: Caller, master: Caller
) -> None:
    listed = await rig.hub.call(ListTokens(account="ada"), caller=master)
    assert [token.id for token in listed.tokens] == [ada.token_id]
    outlet = rig.connect(ada)
    await rig.hub.call(RevokeToken(id=str(ada.token_id)), caller=master)
    assert outlet.end is End.REVOKED
    with pytest.raises(NotFound):
        await rig.hub.call(CreateToken(account="gone"), caller=master)


async def test_other_tokens_and_their_connections_go_on(rig: HubRig, ada: Caller) -> None:
    other = await rig.caller("ada")
    kept, ended = rig.connect(other, "public.a"), rig.connect(ada, "public.a")
    await rig.hub.call(RevokeToken(id=str(ada.token_id)), caller=other)
    await rig.publish(other, "public.a", 1)
    assert (kept.data, ended.data, ended.end) == ([1], [], End.REVOKED)


async def test_what_is_stored_and_listed_is_never_the_token(rig: HubRig, master: Caller) -> None:
    made = await rig.hub.call(CreateToken(), caller=master)
    stored = b"".join(entry.value.encode() for entry in rig.engine.scan("token"))
    assert made.token.encode() not in stored and made.token[5:].encode() not in stored
    listed = msgspec.json.encode(await rig.hub.call(ListTokens(), caller=master))
    page = await rig.hub.call(ReadHistory(channel="system.tokens"), caller=master)
    for shown in (listed, page.body):
        assert made.token[5:].encode() not in shown
        assert made.id.encode() in shown


async def test_an_account_has_at_most_a_hundred_tokens(rig: HubRig, ada: Caller) -> None:
    for _ in range(99):
        await rig.hub.call(CreateToken(), caller=ada)
    with pytest.raises(BadRequest):
        await rig.hub.call(CreateToken(), caller=ada)


async def test_making_and_ending_a_token_have_their_events(
    rig: HubRig, ada: Caller, master: Caller
) -> None:
    outlet = rig.connect(master, "system.tokens")
    made = await rig.hub.call(CreateToken(name="ci", scopes=["events:read"]), caller=ada)
    await rig.hub.call(RevokeToken(id=made.id), caller=ada)
    told = {"token": made.id, "account": "ada", "name": "ci", "scopes": ["events:read"]}
    expected = {"by": "ada", **told}
    assert [frame.event["type"] for frame in outlet.frames] == ["token.created", "token.revoked"]
    assert outlet.data == [expected, expected]


async def test_anonymous_reading_is_for_loopback_only_unless_chosen(rig: HubRig) -> None:
    assert rig.hub.anonymous(is_local=True).is_anonymous
    with pytest.raises(Unauthenticated):
        rig.hub.anonymous(is_local=False)
    assert HUB.token_id is None
