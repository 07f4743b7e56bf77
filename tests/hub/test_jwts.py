"""Short-lived tokens: never wider or longer than what they were made from, and gone when told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import DeleteAccount, UpdateAccount
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.calls.tokens import CreateToken, IssueJwt, JwtIssued, ListTokens, RevokeToken
from clawnet.core.cursors import AfterOffset
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    DiskFull,
    Forbidden,
    NotFound,
    Unauthenticated,
)
from clawnet.core.live import End
from clawnet.hub import jwts
from clawnet.hub.directory import Transient
from clawnet.hub.settings import HubSettings, LimitSettings, TokenSettings
from clawnet.testing.hubs import HubRig

DAY_S = 86_400.0


async def issue(rig: HubRig, caller: Caller, **how: Any) -> JwtIssued:
    issued: JwtIssued = await rig.hub.call(IssueJwt(**how), caller=caller)
    return issued


async def as_jwt(rig: HubRig, caller: Caller, **how: Any) -> Caller:
    """A caller by a new short-lived token."""
    return rig.hub.authenticate((await issue(rig, caller, **how)).token)


def is_refused(rig: HubRig, token: str) -> bool:
    try:
        rig.hub.authenticate(token)
    except Unauthenticated:
        return True
    return False


async def revoke(rig: HubRig, jti: str, caller: Caller) -> None:
    await rig.hub.call(RevokeToken(id=jti), caller=caller)


# --- who gets one, and for how long -------------------------------------------


@pytest.mark.parametrize(
    "how, error",
    [
        ({"ttl_s": 0}, BadRequest),
        ({"ttl_s": 9.9}, BadRequest),
        ({"ttl_s": -60}, BadRequest),
        ({"ttl_s": DAY_S + 1}, BadRequest),
        ({"ttl_s": float("nan")}, BadRequest),
        ({"ttl_s": float("inf")}, BadRequest),
        ({"scopes": []}, BadRequest),
        ({"scopes": ["everything"]}, BadRequest),
        ({"scopes": ["events:read", ""]}, BadRequest),
    ],
    ids=repr,
)
async def test_what_cannot_be_issued_is_refused(
    rig: HubRig, ada: Caller, how: dict[str, Any], error: type[ClawError]
) -> None:
    with pytest.raises(error):
        await issue(rig, ada, **how)


async def test_nobody_and_the_hub_itself_get_none(rig: HubRig) -> None:
    with pytest.raises(Unauthenticated):
        await issue(rig, rig.hub.anonymous(is_local=True))
    with pytest.raises(Forbidden):
        await issue(rig, HUB)


async def test_it_acts_for_the_account_until_it_ends(rig: HubRig, ada: Caller) -> None:
    made = await issue(rig, ada, ttl_s=60)
    assert 59 <= made.expires_in_s <= 60
    caller = rig.hub.authenticate(made.token)
    assert (caller.account, caller.role, caller.token_id) == ("ada", "worker", made.jti)
    assert caller.scopes == {"*"}
    await rig.publish(caller, "public.a", 1)
    rig.clock.advance(58.5)
    await rig.publish(caller, "public.a", 2)
    rig.clock.advance(1.5)
    with pytest.raises(Unauthenticated, match="expired"):
        rig.hub.authenticate(made.token)
    with pytest.raises(Unauthenticated, match="expired"):
        await rig.publish(caller, "public.a", 3)
    # Also when it was forgotten meanwhile, and is verified anew.
    await rig.clock.pass_time(70)
    assert rig.hub.directory.token(made.jti) is None
    with pytest.raises(Unauthenticated, match="expired"):
        rig.hub.authenticate(made.token)


async def test_the_hub_sets_how_long_it_may_live(rig: HubRig, ada: Caller) -> None:
    opaque = await rig.token("ada")
    await rig.restart(
        HubSettings(limits=LimitSettings(enabled=False), tokens=TokenSettings(jwt_ttl_max_s=60))
    )
    caller = rig.hub.authenticate(opaque)
    with pytest.raises(BadRequest, match="60"):
        await issue(rig, caller, ttl_s=61)
    assert (await issue(rig, caller)).expires_in_s <= 60


async def test_it_is_never_wider_than_what_it_was_made_from(rig: HubRig, ada: Caller) -> None:
    narrow = await rig.caller("ada", scopes=["events:read", "accounts:read"])
    for wider in (["*"], ["events:write"], ["events:read", "tokens:write"]):
        with pytest.raises(Forbidden):
            await issue(rig, narrow, scopes=wider)
    assert (await as_jwt(rig, narrow)).scopes == narrow.scopes
    reader = await as_jwt(rig, narrow, scopes=["events:read", "events:read"])
    assert reader.scopes == {"events:read"}
    with pytest.raises(Forbidden):
        await rig.publish(reader, "public.a", 1)
    with pytest.raises(Forbidden):
        await issue(rig, reader, scopes=["accounts:read"])
    with pytest.raises(Forbidden):
        await rig.hub.call(CreateToken(scopes=["events:read"]), caller=reader)


async def test_it_never_outlives_what_it_was_made_from(rig: HubRig, ada: Caller) -> None:
    short = await rig.caller("ada", expires_in_s=100)
    made = await issue(rig, short, ttl_s=900)
    assert made.expires_in_s <= 100
    rig.clock.advance(100)
    assert is_refused(rig, made.token)
    with pytest.raises(Unauthenticated):
        await issue(rig, short)


async def test_nothing_that_is_made_from_it_outlives_it(rig: HubRig, ada: Caller) -> None:
    first = await as_jwt(rig, ada, ttl_s=100)
    second = await issue(rig, first, ttl_s=900)
    assert second.expires_in_s <= 100
    opaque = await rig.hub.call(CreateToken(), caller=first)
    long = await rig.hub.call(CreateToken(expires_in_s=10 * DAY_S), caller=first)
    third = await issue(rig, rig.hub.authenticate(opaque.token), ttl_s=900)
    tokens = [second.token, opaque.token, long.token, third.token]
    assert not any(is_refused(rig, token) for token in tokens)
    rig.clock.advance(100)
    assert all(is_refused(rig, token) for token in tokens)


async def test_a_chain_of_them_has_an_end(rig: HubRig, ada: Caller) -> None:
    caller = ada
    for _ in range(jwts.ANCESTORS_MAX + 1):
        caller = await as_jwt(rig, caller)
    with pytest.raises(Forbidden, match="JWTs between"):
        await issue(rig, caller)


@pytest.mark.parametrize("jump_s", [365 * DAY_S, -365 * DAY_S])
async def test_a_wall_clock_that_jumps_ends_and_prolongs_none(
    rig: HubRig, ada: Caller, jump_s: float
) -> None:
    living = await issue(rig, ada, ttl_s=3_600)
    ended = await issue(rig, ada, ttl_s=10)
    rig.clock.advance(11)
    rig.clock.jump(jump_s)
    for _ in range(2):
        assert not is_refused(rig, living.token) and is_refused(rig, ended.token)
        await rig.restart()
    rig.clock.advance(3_600)
    assert is_refused(rig, living.token)


# --- what becomes of it with its account and its token ------------------------


@pytest.mark.parametrize("is_known", [True, False], ids=["shown before", "never shown"])
@pytest.mark.parametrize("how", ["revoke", "delete"])
async def test_it_ends_with_its_token_and_its_account(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller, how: str, is_known: bool
) -> None:
    made, of_bob = await issue(rig, ada), await issue(rig, bob)
    child = await issue(rig, rig.hub.authenticate((await issue(rig, ada)).token))
    outlet = None
    if is_known:
        outlet = rig.connect(rig.hub.authenticate(made.token), "public.a")
        rig.hub.authenticate(child.token)
    if how == "revoke":
        await revoke(rig, str(ada.token_id), ada)
    else:
        await rig.hub.call(DeleteAccount(id="ada"), caller=master)
    if outlet is not None:
        assert outlet.end is End.REVOKED
    for _ in range(2):
        assert is_refused(rig, made.token) and is_refused(rig, child.token)
        assert not is_refused(rig, of_bob.token)
        await rig.crash()


async def test_it_has_the_role_that_its_account_has_now(
    rig: HubRig, warden: Caller, master: Caller
) -> None:
    made = await issue(rig, warden)
    outlet = rig.connect(rig.hub.authenticate(made.token), "system.tokens")
    await rig.hub.call(UpdateAccount(id="eye", role="worker"), caller=master)
    assert len(outlet.endings) == 1
    for _ in range(2):
        caller = rig.hub.authenticate(made.token)
        assert caller.role == "worker"
        with pytest.raises(Forbidden):
            rig.connect(caller, "system.tokens")
        await rig.restart()


# --- revoking it --------------------------------------------------------------


async def test_it_is_revoked_by_its_owner_or_a_master_only(
    rig: HubRig, ada: Caller, bob: Caller, warden: Caller, master: Caller
) -> None:
    one, two = await issue(rig, ada), await issue(rig, ada)
    for is_known in (False, True):
        if is_known:
            rig.hub.authenticate(one.token)
        for other in (bob, warden):
            with pytest.raises(NotFound):
                await revoke(rig, one.jti, other)
        with pytest.raises(Unauthenticated):
            await revoke(rig, one.jti, rig.hub.anonymous(is_local=True))
    await revoke(rig, one.jti, ada)
    assert is_refused(rig, one.token) and not is_refused(rig, two.token)
    await revoke(rig, two.jti, master)
    assert is_refused(rig, two.token)
    for jti in (one.jti, two.jti):
        with pytest.raises(NotFound):
            await revoke(rig, jti, ada)


@pytest.mark.parametrize(
    "jti",
    [
        "jwt_",
        "jwt_" + "0" * 40,
        "jwt_" + "x" * 40,
        "jwt_" + "0" * 39,
        "jwt_{parent}ffffffff" + "0" * 16,
        "jwt_{parent}00000001" + "0" * 16,
        "jwt_{parent}{exp}" + "0" * 15,
        "jwt_{parent}{exp}" + "0" * 17,
        "jwt_{parent}{exp}" + "0" * 16 + "\n",
        "JWT_{parent}{exp}" + "0" * 16,
    ],
)
async def test_what_cannot_be_the_name_of_one_is_not_found(
    rig: HubRig, ada: Caller, jti: str
) -> None:
    parent = str(ada.token_id).removeprefix("tok_")
    exp = f"{rig.clock.wall_ms() // 1000 + 60:08x}"
    with pytest.raises(NotFound):
        await revoke(rig, jti.format(parent=parent, exp=exp), ada)
    assert rig.engine.real.scan("revoked") == []


async def test_a_narrow_one_revokes_itself_and_its_own_but_no_other(
    rig: HubRig, ada: Caller
) -> None:
    narrow = await rig.caller("ada", scopes=["events:read"])
    other = await issue(rig, ada)
    made = [await issue(rig, narrow) for _ in range(2)]
    with pytest.raises(Forbidden):
        await revoke(rig, other.jti, narrow)
    await revoke(rig, made[0].jti, narrow)
    await revoke(rig, made[1].jti, rig.hub.authenticate(made[1].token))
    assert [is_refused(rig, one.token) for one in (*made, other)] == [True, True, False]


@pytest.mark.parametrize("is_known", [True, False], ids=["shown before", "never shown"])
async def test_a_revoked_one_stays_refused_and_what_was_made_from_it_too(
    rig: HubRig, ada: Caller, is_known: bool
) -> None:
    made = await issue(rig, ada)
    caller = rig.hub.authenticate(made.token)
    child = await issue(rig, caller)
    grandchild = await issue(rig, rig.hub.authenticate(child.token))
    outlet = rig.connect(rig.hub.authenticate(grandchild.token), "public.a")
    if not is_known:
        await rig.restart()
    await revoke(rig, made.jti, rig.hub.authenticate(await rig.token("ada")))
    for end in (rig.crash, rig.restart, rig.restart):
        for token in (made.token, child.token, grandchild.token):
            assert is_refused(rig, token)
        await end()
    assert outlet.end is (End.REVOKED if is_known else End.SHUTDOWN)


@pytest.mark.parametrize("why", ["restart", "eviction"])
async def test_revoking_a_forgotten_one_ends_what_was_made_from_it(
    rig: HubRig, ada: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    made, other = await issue(rig, ada), await issue(rig, ada)
    child = await issue(rig, rig.hub.authenticate(made.token))
    grandchild = await issue(rig, rig.hub.authenticate(child.token))
    if why == "restart":
        await rig.restart()
    ada, bob = await rig.caller("ada"), await rig.caller("bob")
    live = rig.connect(rig.hub.authenticate(grandchild.token), "agent.ada.inbox")
    spared = rig.connect(rig.hub.authenticate(other.token), "agent.ada.inbox")
    if why == "eviction":
        monkeypatch.setattr(jwts, "PER_ACCOUNT_MAX", 4)
        while rig.hub.directory.token(made.jti) is not None:
            await as_jwt(rig, ada)
    shown = rig.hub.authenticate(child.token)
    assert rig.hub.directory.token(made.jti) is None
    version = rig.hub.directory.version
    await revoke(rig, made.jti, ada)
    assert live.end is End.REVOKED and spared.end is None
    assert rig.hub.directory.version > version, "what was decided for them is asked again"
    with pytest.raises(Unauthenticated):
        await rig.publish(shown, "public.a", 1)
    await rig.publish(bob, "agent.ada.inbox", 1)
    assert live.frames == [] and len(spared.frames) == 1
    for _ in range(2):
        assert all(is_refused(rig, one.token) for one in (made, child, grandchild))
        assert not is_refused(rig, other.token)
        await rig.crash()


async def test_one_that_is_known_is_still_held_against_what_is_revoked(
    rig: HubRig, ada: Caller
) -> None:
    """Should the directory ever keep one too long, nobody gets in by it."""
    made = await issue(rig, ada)
    child = await issue(rig, rig.hub.authenticate(made.token))
    known = rig.hub.directory.token(str(rig.hub.authenticate(child.token).token_id))
    assert isinstance(known, Transient)
    await revoke(rig, made.jti, ada)
    rig.hub.directory.put_transient(known)
    assert is_refused(rig, child.token)


async def test_a_revocation_ends_what_is_live_and_what_waits(rig: HubRig, ada: Caller) -> None:
    made = await issue(rig, ada)
    caller = rig.hub.authenticate(made.token)
    outlet, other = rig.connect(caller, "public.a"), rig.connect(ada, "public.a")
    call = ReadHistory(channel="public.a", since=AfterOffset(0), wait_s=60)
    reading = asyncio.ensure_future(rig.hub.call(call, caller=caller))
    await rig.settle()
    revoking = asyncio.ensure_future(revoke(rig, made.jti, ada))
    await revoking
    assert outlet.end is End.REVOKED and not outlet.end.reconnect
    with pytest.raises(Unauthenticated):
        await rig.publish(caller, "public.a", 1)
    await rig.publish(ada, "public.a", 2)
    with pytest.raises(Unauthenticated):
        await reading
    assert outlet.frames == [] and len(other.frames) == 1


async def test_a_revocation_holds_with_a_full_disk_and_is_stored_later(
    rig: HubRig, ada: Caller
) -> None:
    made = await issue(rig, ada)
    rig.hub.authenticate(made.token)
    rig.engine.is_full = True
    with pytest.raises(DiskFull):
        await revoke(rig, made.jti, ada)
    assert is_refused(rig, made.token)
    rig.engine.is_full = False
    with pytest.raises(NotFound):
        # It is known, and what this call says is acknowledged with it.
        await revoke(rig, made.jti, ada)
    await rig.crash()
    assert is_refused(rig, made.token)


async def test_a_revocation_is_forgotten_when_nothing_is_left_to_refuse(
    rig: HubRig, ada: Caller
) -> None:
    made = await issue(rig, ada, ttl_s=600)
    await revoke(rig, made.jti, ada)
    assert [entry.key for entry in rig.engine.real.scan("revoked")] == [f"revoked/{made.jti}"]
    rig.clock.advance(600)
    await rig.clock.pass_time(61)
    assert rig.engine.real.scan("revoked"), "the time of the next run may begin a little earlier"
    rig.clock.advance(jwts.REVOKED_KEPT_MORE_MS / 1000)
    await rig.clock.pass_time(61)
    assert rig.engine.real.scan("revoked") == []
    assert is_refused(rig, made.token)


async def test_a_crash_that_sets_the_time_back_a_little_revives_none(
    rig: HubRig, ada: Caller
) -> None:
    made, other = await issue(rig, ada, ttl_s=30), await issue(rig, ada, ttl_s=30)
    await revoke(rig, made.jti, ada)
    await rig.clock.pass_time(59)
    assert is_refused(rig, other.token)
    rig.clock.jump(-3_600)
    await rig.crash()
    assert is_refused(rig, made.token) and not is_refused(rig, other.token)


async def test_the_revoked_of_an_account_are_bounded(
    rig: HubRig, ada: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwts, "REVOKED_PER_ACCOUNT_MAX", 3)
    made = [await issue(rig, ada, ttl_s=60) for _ in range(4)]
    for one in made[:3]:
        await revoke(rig, one.jti, ada)
    with pytest.raises(BadRequest, match="at most 3") as caught:
        await revoke(rig, made[3].jti, ada)
    assert str(ada.token_id) in caught.value.next
    await revoke(rig, (await issue(rig, bob)).jti, bob)
    await rig.restart()
    ada = rig.hub.authenticate(await rig.token("ada"))
    with pytest.raises(BadRequest):
        await revoke(rig, made[3].jti, ada)
    # The way out that it names works.
    await revoke(rig, made[3].jti.replace("jwt_", "tok_")[:20], ada)
    assert is_refused(rig, made[3].token)


async def test_made_up_names_leave_room_to_revoke_what_is_in_use(
    rig: HubRig, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwts, "REVOKED_PER_ACCOUNT_MAX", 3)
    parent = str(ada.token_id).removeprefix("tok_")
    exp = f"{rig.clock.wall_ms() // 1000 + 60:08x}"
    for n in range(3):
        await revoke(rig, f"jwt_{parent}{exp}{n:016x}", ada)
    with pytest.raises(BadRequest, match="at most 3"):
        await revoke(rig, f"jwt_{parent}{exp}{3:016x}", ada)
    used = [await issue(rig, ada) for _ in range(4)]
    for one in used:
        rig.hub.authenticate(one.token)
    for one in used[:3]:
        await revoke(rig, one.jti, ada)
    with pytest.raises(BadRequest, match="at most 6"):
        await revoke(rig, used[3].jti, ada)
    await rig.crash()
    assert [is_refused(rig, one.token) for one in used] == [True, True, True, False]


# --- memory -------------------------------------------------------------------


async def test_of_too_many_the_oldest_are_verified_again_but_live_ones_stay(
    rig: HubRig, ada: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwts, "PER_ACCOUNT_MAX", 8)
    made = [await issue(rig, ada) for _ in range(30)]
    of_bob = await as_jwt(rig, bob)
    live = rig.connect(rig.hub.authenticate(made[0].token), "public.a")
    for one in made:
        rig.hub.authenticate(one.token)
        assert len(rig.hub.directory.transients_of("main", "ada")) <= 8
    assert rig.hub.directory.token(made[0].jti) is not None
    assert rig.hub.directory.token(made[1].jti) is None
    assert rig.hub.directory.caller(str(of_bob.token_id)) is of_bob
    assert not any(is_refused(rig, one.token) for one in made)
    await rig.publish(ada, "public.a", 1)
    assert len(live.frames) == 1 and live.end is None


async def test_expired_ones_are_forgotten(rig: HubRig, ada: Caller) -> None:
    made = [await issue(rig, ada, ttl_s=10) for _ in range(20)]
    outlet = rig.connect(rig.hub.authenticate(made[0].token), "public.a")
    for one in made:
        rig.hub.authenticate(one.token)
    assert len(rig.hub.directory.transients_of("main", "ada")) == 20
    await rig.clock.pass_time(70)
    assert rig.hub.directory.transients_of("main", "ada") == []
    assert outlet.end is End.EXPIRED
    assert not set(rig.hub.directory._by_hash) & {rig.hub.vault.hash(one.token) for one in made}


async def test_the_same_one_in_another_spelling_takes_no_more_room(
    rig: HubRig, ada: Caller
) -> None:
    """Two bits of the last character mean nothing, and decoders let them pass."""
    made = await issue(rig, ada)
    rig.hub.authenticate(made.token)
    before = len(rig.hub.directory._by_hash)
    for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        is_refused(rig, made.token[:-1] + last)
    assert len(rig.hub.directory._by_hash) == before
    await revoke(rig, made.jti, ada)
    assert all(is_refused(rig, made.token[:-1] + last) for last in "ABCDabcd0123-_")


async def test_showing_a_new_one_makes_nobody_elses_rights_be_asked_again(
    rig: HubRig, ada: Caller
) -> None:
    """Decisions are remembered by the directory's version: one login must not spoil them all."""
    made = await issue(rig, ada)
    before = rig.hub.directory.version
    rig.hub.authenticate(made.token)
    assert rig.hub.directory.version == before
    await revoke(rig, made.jti, ada)
    assert rig.hub.directory.version > before


async def test_the_list_shows_those_of_this_run(rig: HubRig, ada: Caller, bob: Caller) -> None:
    shown, hidden = await issue(rig, ada, scopes=["events:read"]), await issue(rig, ada)
    rig.hub.authenticate(shown.token)
    rig.hub.authenticate((await issue(rig, bob)).token)
    found = {one.id: one for one in (await rig.hub.call(ListTokens(), caller=ada)).tokens}
    assert set(found) == {ada.token_id, shown.jti} and hidden.jti not in found
    one = found[shown.jti]
    assert (one.kind, one.parent, one.scopes) == ("jwt", ada.token_id, ["events:read"])
    assert one.expires == shown.expires
    assert found[str(ada.token_id)].kind == "opaque"
    rig.clock.advance(900)
    left = (await rig.hub.call(ListTokens(), caller=ada)).tokens
    assert [one.id for one in left] == [ada.token_id]


async def test_jwts_do_not_use_up_the_tokens_that_an_account_may_have(
    rig: HubRig, ada: Caller
) -> None:
    for _ in range(120):
        rig.hub.authenticate((await issue(rig, ada)).token)
    await rig.hub.call(CreateToken(), caller=ada)
