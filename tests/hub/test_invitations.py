"""Invitations: one account, once, for whoever holds the link, and nothing for anybody else."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from clawnet.core.callers import STRANGER, Caller
from clawnet.core.calls.accounts import CreateAccount, DeleteAccount, ReadAccount, UpdateAccount
from clawnet.core.calls.invitations import (
    CreateInvitation,
    InvitationCreated,
    Joined,
    ListInvitations,
    RedeemInvitation,
    RevokeInvitation,
)
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.calls.tokens import IssueJwt, ListTokens, RevokeToken
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    Conflict,
    DiskFull,
    Forbidden,
    InvitationInvalid,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Unauthenticated,
)
from clawnet.hub import invitations
from clawnet.hub.settings import HubSettings
from clawnet.hub.vault import put
from clawnet.testing.hubs import HubRig, started_hub

NONCE = "the client's nonce 0001"


async def invite(rig: HubRig, master: Caller, **how: Any) -> tuple[str, str]:
    """A new invitation's id and secret."""
    made: InvitationCreated = await rig.hub.call(CreateInvitation(**how), caller=master)
    return made.id, secret_of(made)


def secret_of(made: InvitationCreated) -> str:
    path, _, secret = made.link.partition("#")
    assert path == "/join"
    return secret


async def join(rig: HubRig, secret: str, name: str | None = "alpha", **how: Any) -> Joined:
    call = RedeemInvitation(**{"secret": secret, "id": name, "nonce": NONCE, **how})
    joined: Joined = await rig.hub.call(call, caller=STRANGER)
    return joined


async def status(rig: HubRig, master: Caller, invitation: str) -> str:
    listed = await rig.hub.call(ListInvitations(), caller=master)
    return str(next(one.status for one in listed.invitations if one.id == invitation))


async def told(rig: HubRig, caller: Caller) -> list[dict[str, Any]]:
    page = await rig.hub.call(ReadHistory(channel="system.accounts", limit=1_000), caller=caller)
    return [msgspec.json.decode(line) for line in page.body.split(b"\n") if line]


# --- who may not ------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [CreateInvitation(), ListInvitations(), RevokeInvitation(id="in_x")],
    ids=lambda call: type(call).__name__,
)
@pytest.mark.parametrize("who", ["worker", "warden", "scoped", "anonymous", "stranger"])
async def test_only_a_master_with_the_scope_invites(
    rig: HubRig, ada: Caller, warden: Caller, master: Caller, call: Any, who: str
) -> None:
    callers = {
        "worker": ada,
        "warden": warden,
        "scoped": await rig.caller("boss", scopes=["events:read", "events:write"]),
        "anonymous": rig.hub.anonymous(is_local=True),
        "stranger": STRANGER,
    }
    with pytest.raises((Forbidden, Unauthenticated)):
        await rig.hub.call(call, caller=callers[who])


async def test_an_invitation_gives_nothing_that_the_inviters_token_has_not(
    rig: HubRig, master: Caller
) -> None:
    with pytest.raises(Forbidden):
        await invite(rig, await rig.caller("boss", scopes=["accounts:write"]))
    scopes = ["accounts:write", "events:read", "tokens:write"]
    narrow = await rig.caller("boss", scopes=scopes, expires_in_s=3_600)
    _, secret = await invite(rig, narrow, role="master")
    joined = await join(rig, secret)
    assert joined.scopes == scopes
    caller = rig.hub.authenticate(joined.token)
    assert (caller.role, caller.expires_ms) == ("master", narrow.expires_ms)
    with pytest.raises(Forbidden):
        caller.need("grants:write")
    # Nor does it outlive that token.
    _, late = await invite(rig, narrow)
    rig.clock.advance(3_601)
    with pytest.raises(InvitationInvalid):
        await join(rig, late, "beta")
    with pytest.raises(Forbidden):
        await invite(rig, await rig.caller("boss", scopes=scopes), grants=["room.team"])


@pytest.mark.parametrize("seconds", [0, -1, 0.5, 30 * 86_400 + 1, float(2**53)])
async def test_an_invitation_ends_within_30_days(
    rig: HubRig, master: Caller, seconds: float
) -> None:
    with pytest.raises(BadRequest):
        await invite(rig, master, expires_in_s=seconds)


@pytest.mark.parametrize(
    "grant", ["agent.ada.x", "dm.ada.boss", "system.accounts", "public.a", "*.x"]
)
async def test_only_what_is_the_inviters_to_grant_is_granted(
    rig: HubRig, ada: Caller, master: Caller, grant: str
) -> None:
    with pytest.raises(ClawError):
        await invite(rig, master, grants=[grant])
    with pytest.raises(BadRequest):
        await invite(rig, master, grants=[f"room.r{n}" for n in range(101)])


async def test_an_id_that_is_not_free_is_not_invited(
    rig: HubRig, ada: Caller, master: Caller
) -> None:
    for name in ("ada", "ADA"):
        with pytest.raises(Conflict):
            await invite(rig, master, id=name)
    for name in ("a b", "admin", "support"):
        with pytest.raises(BadRequest):
            await invite(rig, master, id=name)


# --- which does not hold ----------------------------------------------------


async def refusal(rig: HubRig, secret: str, **how: Any) -> tuple[Any, ...]:
    with pytest.raises(InvitationInvalid) as caught:
        await join(rig, secret, **how)
    return (caught.value.as_dict(), caught.value.status)


async def test_unknown_used_expired_revoked_and_void_are_the_same(
    rig: HubRig, master: Caller
) -> None:
    other = await rig.account("other", role="master")
    _, used = await invite(rig, master)
    await join(rig, used, "first")
    gone, revoked = await invite(rig, master)
    await rig.hub.call(RevokeInvitation(id=gone), caller=master)
    _, void = await invite(rig, other)
    await rig.hub.call(UpdateAccount(id="other", role="worker"), caller=master)
    _, expired = await invite(rig, master, expires_in_s=60)
    rig.clock.advance(61)
    answers = [
        await refusal(rig, secret, nonce="another client's nonce")
        for secret in (used, revoked, void, expired, "inv_" + "x" * 43, "", "x", "claw_" + "y" * 43)
    ]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][1] == 410
    with pytest.raises(NotFound):
        await rig.hub.call(ReadAccount(id="alpha"), caller=master)


async def test_a_token_is_no_invitation_and_an_invitation_no_token(
    rig: HubRig, master: Caller
) -> None:
    _, secret = await invite(rig, master)
    with pytest.raises(Unauthenticated):
        rig.hub.authenticate(secret)
    await refusal(rig, await rig.token("boss"))


async def test_of_two_that_redeem_at_once_one_wins(rig: HubRig, master: Caller) -> None:
    _, secret = await invite(rig, master)
    outcomes = await asyncio.gather(
        *(join(rig, secret, f"a{n}", nonce=f"nonce of client {n}") for n in range(8)),
        return_exceptions=True,
    )
    won = [outcome for outcome in outcomes if isinstance(outcome, Joined)]
    assert len(won) == 1
    assert all(isinstance(o, InvitationInvalid) for o in outcomes if o not in won)
    ids = [account.id for account in rig.hub.directory.accounts("main")]
    assert ids == [won[0].account.id, "boss"]


async def test_a_revocation_while_it_is_redeemed_leaves_one_of_the_two(
    rig: HubRig, master: Caller
) -> None:
    gone, secret = await invite(rig, master)
    outcomes: Any = await asyncio.gather(
        rig.hub.call(RevokeInvitation(id=gone), caller=master),
        join(rig, secret),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], InvitationInvalid), outcomes
    with pytest.raises(NotFound):
        await rig.hub.call(ReadAccount(id="alpha"), caller=master)


async def test_an_invitation_of_who_was_deleted_or_demoted_meanwhile_is_void(
    rig: HubRig, master: Caller
) -> None:
    for name, call in (
        ("m1", DeleteAccount(id="m1")),
        ("m2", UpdateAccount(id="m2", role="warden")),
    ):
        other = await rig.account(name, role="master")
        made, secret = await invite(rig, other)
        outcomes = await asyncio.gather(
            rig.hub.call(call, caller=master), join(rig, secret), return_exceptions=True
        )
        assert isinstance(outcomes[1], InvitationInvalid)
        assert await status(rig, master, made) == "void"


@pytest.mark.parametrize("made_with", ["token", "jwt", "jwt of a jwt"])
@pytest.mark.parametrize("revoked", ["token", "itself", "the first jwt", "another"])
async def test_an_invitation_is_void_when_what_it_was_made_with_is_revoked(
    rig: HubRig, master: Caller, made_with: str, revoked: str
) -> None:
    leaked = maker = first = await rig.caller("boss")
    if made_with != "token":
        made = await rig.hub.call(IssueJwt(), caller=leaked)
        maker = first = rig.hub.authenticate(made.token)
    if made_with == "jwt of a jwt":
        made = await rig.hub.call(IssueJwt(), caller=first)
        maker = rig.hub.authenticate(made.token)
    another = await rig.hub.call(IssueJwt(), caller=leaked)
    made_id, secret = await invite(rig, maker, role="master")
    used_id, used = await invite(rig, maker)
    joined = await join(rig, used, "first")
    ended = {
        "token": leaked.token_id,
        "itself": maker.token_id,
        "the first jwt": first.token_id,
        "another": another.jti,
    }[revoked]
    # In a later run too, which has never been shown those JWTs.
    await rig.restart()
    outcomes = await asyncio.gather(
        rig.hub.call(RevokeToken(id=str(ended)), caller=master),
        join(rig, secret),
        return_exceptions=True,
    )
    if revoked == "another":
        assert isinstance(outcomes[1], Joined)
        return
    for _ in range(2):
        assert await status(rig, master, made_id) == "void"
        await refusal(rig, secret)
        # What was made with it before stays.
        assert await status(rig, master, used_id) == "redeemed"
        assert rig.hub.authenticate(joined.token).account == "first"
        await rig.crash()
    assert isinstance(outcomes[1], InvitationInvalid)


async def test_an_invitation_made_with_a_jwt_ends_with_it(rig: HubRig, master: Caller) -> None:
    made = await rig.hub.call(IssueJwt(ttl_s=60), caller=master)
    made_id, secret = await invite(rig, rig.hub.authenticate(made.token))
    rig.clock.advance(58)
    await rig.restart()
    assert await status(rig, master, made_id) == "open"
    rig.clock.advance(2)
    assert await status(rig, master, made_id) == "expired"
    await refusal(rig, secret)


async def test_an_invitation_from_before_its_token_was_kept_holds(
    rig: HubRig, master: Caller
) -> None:
    made, secret = await invite(rig, master)
    [entry] = rig.engine.scan("invitation")
    old = msgspec.json.decode(entry.value)
    del old["made_with"]
    await rig.hub.change(put("invitation", f"main/{made}", old))
    await rig.restart()
    assert (await join(rig, secret)).account.id == "alpha"


@pytest.mark.parametrize(
    ("name", "handle", "error"),
    [
        ("ada", None, Conflict), ("ADA", None, Conflict), ("alpha", "Ada", Conflict),
        ("a1pha", "аda", BadRequest), ("hub", None, BadRequest), ("admin", None, BadRequest),
        ("a b", None, BadRequest), (None, None, BadRequest), ("", None, BadRequest),
    ],
)  # fmt: skip
async def test_a_bad_name_costs_the_invitation_nothing(
    rig: HubRig, ada: Caller, master: Caller, name: str | None, handle: str | None, error: Any
) -> None:
    _, secret = await invite(rig, master)
    with pytest.raises(error):
        await join(rig, secret, name, handle=handle)
    assert (await join(rig, secret)).account.id == "alpha"


async def test_one_for_a_certain_account_is_for_no_other(rig: HubRig, master: Caller) -> None:
    _, secret = await invite(rig, master, id="Alpha")
    with pytest.raises(BadRequest, match="for alpha alone"):
        await join(rig, secret, "beta")
    joined = await join(rig, secret, None, handle="Al")
    assert (joined.account.id, joined.account.handle) == ("alpha", "Al")


# --- what it makes -----------------------------------------------------------


async def test_it_makes_an_account_with_a_token_and_rights(rig: HubRig, master: Caller) -> None:
    made, secret = await invite(rig, master, kind="service", grants=["room.team", "agent.boss.>"])
    joined = await join(rig, secret, "Alpha")
    account = joined.account
    assert (account.id, account.name, account.role, account.kind) == (
        "alpha", "Alpha", "worker", "service",
    )  # fmt: skip
    assert (account.proof, account.proved_by) == ("invitation", "boss")
    alpha = rig.hub.authenticate(joined.token)
    assert alpha.scopes == {"*"}
    rig.connect(alpha, "agent.boss.diary", "room.team")
    await rig.publish(alpha, "public.lobby", "hi")
    for _ in range(2):
        assert await status(rig, master, made) == "redeemed"
        assert rig.hub.authenticate(joined.token).account == "alpha"
        rig.connect(rig.hub.authenticate(joined.token), "agent.boss.diary")
        await refusal(rig, secret, name="beta")
        await rig.crash()
    stored = [e.value for kind in ("invitation", "token") for e in rig.engine.scan(kind)]
    assert (
        secret not in str(stored) and joined.token not in str(stored) and NONCE not in str(stored)
    )


async def test_everything_about_it_is_on_record(rig: HubRig, master: Caller) -> None:
    made, secret = await invite(rig, master)
    await join(rig, secret)
    await join(rig, secret)
    await rig.hub.call(RevokeInvitation(id=made), caller=master)
    events = [e for e in await told(rig, master) if e["data"]["by"] != "hub"]
    assert [(e["type"], e["data"]["by"]) for e in events] == [
        ("invitation.created", "boss"),
        ("account.created", "alpha"),
        ("invitation.redeemed", "alpha"),
        ("invitation.redeemed", "alpha"),
        ("invitation.revoked", "boss"),
    ]
    assert {e["data"].get("invitation", made) for e in events} == {made}
    assert secret not in str(events)


async def test_revoking_one_that_was_used_leaves_its_account(rig: HubRig, master: Caller) -> None:
    made, secret = await invite(rig, master)
    joined = await join(rig, secret)
    await rig.hub.call(RevokeInvitation(id=made), caller=master)
    assert rig.hub.authenticate(joined.token).account == "alpha"
    with pytest.raises(NotFound):
        await rig.hub.call(RevokeInvitation(id=made), caller=master)
    await refusal(rig, secret)


# --- when the answer was lost -------------------------------------------------


async def test_who_lost_the_answer_is_given_another_token_in_its_place(
    rig: HubRig, master: Caller
) -> None:
    _, secret = await invite(rig, master)
    lost = await join(rig, secret)
    live = rig.connect(rig.hub.authenticate(lost.token), "public.a")
    await rig.crash()
    again = await join(rig, secret)
    assert again.account == lost.account and again.token != lost.token
    with pytest.raises(Unauthenticated):
        rig.hub.authenticate(lost.token)
    assert rig.hub.authenticate(again.token).account == "alpha"
    third = await join(rig, secret, "ALPHA")
    tokens = await rig.hub.call(ListTokens(account="alpha"), caller=master)
    assert [token.id for token in tokens.tokens] == [third.token_id]
    assert live.session is not None


async def test_a_lost_token_ends_on_live_connections_too(rig: HubRig, master: Caller) -> None:
    _, secret = await invite(rig, master)
    live = rig.connect(rig.hub.authenticate((await join(rig, secret)).token), "public.a")
    await join(rig, secret)
    assert live.session is not None and live.session.is_closed


@pytest.mark.parametrize("what", ["nonce", "id", "late", "token revoked", "account deleted"])
async def test_nobody_else_is(rig: HubRig, master: Caller, what: str) -> None:
    _, secret = await invite(rig, master, expires_in_s=30 * 86_400)
    joined = await join(rig, secret)
    how: dict[str, Any] = {}
    if what == "nonce":
        how = {"nonce": NONCE + "x"}
    elif what == "id":
        how = {"name": "beta"}
    elif what == "late":
        rig.clock.advance(601)
    elif what == "token revoked":
        await rig.hub.call(RevokeToken(id=joined.token_id), caller=master)
    else:
        await rig.hub.call(DeleteAccount(id="alpha"), caller=master)
    await refusal(rig, secret, **how)
    if what in ("nonce", "id"):
        assert rig.hub.authenticate(joined.token).account == "alpha"


async def test_a_full_disk_leaves_the_invitation_and_no_account(
    rig: HubRig, master: Caller
) -> None:
    _, secret = await invite(rig, master)
    rig.engine.is_full = True
    with pytest.raises(DiskFull):
        await join(rig, secret)
    rig.engine.is_full = False
    lost = await join(rig, secret)
    rig.engine.is_full = True
    with pytest.raises(DiskFull):
        await join(rig, secret)
    # The lost token is not ended for one that could not be stored.
    assert rig.hub.authenticate(lost.token).account == "alpha"
    rig.engine.is_full = False
    assert (await join(rig, secret)).account.id == "alpha"


async def test_an_unknown_outcome_is_settled_by_asking_again(rig: HubRig, master: Caller) -> None:
    _, secret = await invite(rig, master)
    rig.engine.is_broken = True
    with pytest.raises(OutcomeUnknown):
        await join(rig, secret)
    rig.engine.is_broken = False
    await rig.crash()
    assert (await join(rig, secret)).account.id == "alpha"


# --- bounds --------------------------------------------------------------------


async def test_guessing_is_held_up_and_nobody_elsewhere_is() -> None:
    async with started_hub(HubSettings()) as rig:
        boss = await rig.account("boss", role="master")
        _, secret = await invite(rig, boss)
        with pytest.raises(RateLimited):
            for n in range(200):
                with pytest.raises(InvitationInvalid):
                    await join(rig, f"inv_{n}", address="203.0.113.7")
        with pytest.raises(RateLimited):
            await join(rig, secret, address="203.0.113.7")
        assert (await join(rig, secret, address="203.0.113.8")).account.id == "alpha"
        # Guessers take nothing of what anonymous readers have.
        for _ in range(100):
            await rig.hub.call(
                ReadHistory(channel="public.lobby"), caller=rig.hub.anonymous(is_local=True)
            )


async def test_there_are_so_many_open_ones_and_no_more(
    rig: HubRig, master: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPEN_PER_WORLD_MAX", "OVER_PER_WORLD_MAX"):
        monkeypatch.setattr(invitations, name, 20)
    for _ in range(20):
        await invite(rig, master, expires_in_s=60)
    with pytest.raises(BadRequest, match="at most"):
        await invite(rig, master)
    rig.clock.advance(3_600)
    for _ in range(20):
        await invite(rig, master, expires_in_s=60)
    rig.clock.advance(3_600)
    last, _ = await invite(rig, master)
    listed = await rig.hub.call(ListInvitations(), caller=master)
    assert len(listed.invitations) == 20 + 1
    assert listed.invitations[0].id == last
    assert len(list(rig.engine.scan("invitation"))) == len(listed.invitations)


async def test_what_is_long_over_is_forgotten(rig: HubRig, master: Caller) -> None:
    _, used = await invite(rig, master)
    await join(rig, used)
    await invite(rig, master)
    rig.clock.advance(100 * 86_400)
    await invite(rig, master)
    await rig.restart()
    assert len((await rig.hub.call(ListInvitations(), caller=master)).invitations) == 1
    await refusal(rig, used)
    # Its account is no invitation's any more, and stays.
    assert (await rig.hub.call(ReadAccount(id="alpha"), caller=master)).proof == "invitation"
    with pytest.raises(Conflict):
        await rig.hub.call(CreateAccount(id="alpha"), caller=master)
