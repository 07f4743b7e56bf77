"""Foreign users: an account of its own for each subject, and every rule for tokens for theirs."""

from __future__ import annotations

import asyncio

import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import (
    CreateAccount,
    DeleteAccount,
    ListAccounts,
    ReadAccount,
    UpdateAccount,
)
from clawnet.core.calls.foreign import AdmitAnyone, AdmitForeign, MakeForeign
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.calls.tokens import CreateToken, IssueJwt, ListTokens, RevokeToken
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    DiskFull,
    Forbidden,
    NotFound,
    Unauthenticated,
)
from clawnet.core.live import End
from clawnet.hub import foreign
from clawnet.hub.foreign import ANCHOR, account_id, token_id
from clawnet.hub.settings import HubSettings, LimitSettings, TokenSettings
from clawnet.testing.hubs import HubRig, started_hub

KEY = "a key of thirty-two bytes or more"


@pytest.fixture
def settings() -> HubSettings:
    return HubSettings(limits=LimitSettings(enabled=False), tokens=TokenSettings(jwt_key=KEY))


async def admitted(
    rig: HubRig,
    subject: str = "42",
    *,
    mark: str = "one",
    expires_ms: int | None = None,
    shown_until_ms: int | None = None,
) -> Caller:
    call = AdmitForeign(
        subject=subject, mark=mark, expires_ms=expires_ms, shown_until_ms=shown_until_ms
    )
    found = rig.hub.directory.caller((await rig.hub.call(call, caller=HUB)).token_id)
    assert found is not None
    return found


async def is_refused(rig: HubRig, subject: str = "42", *, mark: str = "one") -> bool:
    try:
        await admitted(rig, subject, mark=mark)
    except Unauthenticated:
        return True
    return False


async def test_the_first_connect_makes_the_account_and_the_next_finds_it(rig: HubRig) -> None:
    first = await admitted(rig, "Ünï 42")
    account = rig.hub.directory.account("main", first.account or "")
    assert account is not None and (account.kind, account.role) == ("ext", "worker")
    assert (account.subject, account.proof, account.handle) == ("Ünï 42", "jwt", account.id)
    before = rig.engine.commits
    assert await admitted(rig, "Ünï 42") == first
    assert (await admitted(rig, "Ünï 42", mark="two")).account == first.account
    assert rig.engine.commits == before
    assert (await admitted(rig, "other")).account != first.account


async def test_two_at_once_make_one_account(rig: HubRig) -> None:
    callers = await asyncio.gather(*(admitted(rig, mark=str(n)) for n in range(5)))
    assert len({caller.account for caller in callers}) == 1
    assert len({caller.token_id for caller in callers}) == 5


async def test_a_disk_that_is_full_leaves_no_half_of_it(rig: HubRig) -> None:
    rig.engine.is_full = True
    with pytest.raises(DiskFull):
        await admitted(rig)
    assert rig.hub.directory.account("main", account_id("42")) is None
    assert rig.hub.directory.tokens_of("main", account_id("42")) == []
    rig.engine.is_full = False
    assert (await admitted(rig)).user == "42"


async def test_it_is_there_after_a_restart(rig: HubRig) -> None:
    before = await admitted(rig)
    await rig.crash()
    assert rig.hub.directory.foreign == {before.account}
    commits = rig.engine.commits
    assert await admitted(rig) == before
    assert rig.engine.commits == commits


async def test_the_subject_is_told_to_those_who_read_the_system_s_channels(
    rig: HubRig, master: Caller
) -> None:
    caller = await admitted(rig)
    page = await rig.hub.call(ReadHistory(channel="system.accounts", reverse=True), caller=master)
    assert b'"subject":"42"' in page.body and (caller.account or "").encode() in page.body


async def test_only_the_hub_admits(rig: HubRig, master: Caller) -> None:
    for call in (AdmitForeign(subject="42", mark="x"), AdmitAnyone(), MakeForeign(subject="42")):
        with pytest.raises(Forbidden):
            await rig.hub.call(call, caller=master)
    assert rig.hub.directory.foreign == set()


@pytest.mark.parametrize("subject", ["", "x" * 256, "anonymous"])
async def test_a_subject_that_is_none(rig: HubRig, subject: str) -> None:
    assert await is_refused(rig, subject)
    assert rig.hub.directory.foreign == set()


async def test_an_account_that_is_there_is_never_taken_over(rig: HubRig, master: Caller) -> None:
    await rig.hub.call(CreateAccount(id=account_id("42")), caller=HUB)
    await rig.hub.call(CreateToken(account=account_id("42"), name=ANCHOR), caller=master)
    assert await is_refused(rig)


async def test_nobody_takes_the_id_or_handle_of_a_user_who_is_still_to_come(
    rig: HubRig, ada: Caller, master: Caller
) -> None:
    wanted = account_id("42")
    with pytest.raises(BadRequest):
        await rig.hub.call(CreateAccount(id=wanted), caller=master)
    for name in (wanted, wanted.upper()):
        with pytest.raises(BadRequest):
            await rig.hub.call(UpdateAccount(id="ada", handle=name), caller=ada)
    # The hub itself can, and the user gets another handle then.
    await rig.hub.call(CreateAccount(id="elder", handle=wanted), caller=HUB)
    assert (await admitted(rig)).handle not in ("", wanted)


async def test_there_are_only_so_many(rig: HubRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "ACCOUNTS_MAX", 2)
    await admitted(rig, "1")
    await admitted(rig, "2")
    with pytest.raises(Forbidden):
        await admitted(rig, "3")
    await admitted(rig, "1", mark="again")
    await rig.hub.call(DeleteAccount(id=account_id("1")), caller=HUB)
    assert (await admitted(rig, "3")).user == "3"


async def test_of_one_subject_only_so_many_tokens_are_known(rig: HubRig) -> None:
    live = await admitted(rig, mark="live")
    rig.connect(live, "public.a")
    for n in range(1_100):
        await admitted(rig, mark=str(n))
    assert len(rig.hub.directory.transients_of("main", live.account or "")) <= 1_000
    # Those of live sessions stay.
    assert rig.hub.directory.caller(live.token_id or "") == live


async def test_of_all_subjects_only_so_many_tokens_are_known(
    rig: HubRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "KNOWN_MAX", 20)
    live = await admitted(rig, "live")
    outlet = rig.connect(live, "public.a")
    callers = [await admitted(rig, str(n % 5), mark=str(n)) for n in range(100)]
    known = [c for c in callers if rig.hub.directory.token(c.token_id or "") is not None]
    assert 0 < len(known) <= 20 and callers[-1] in known
    assert rig.hub.directory.caller(live.token_id or "") == live and outlet.end is None
    assert not await is_refused(rig, "0", mark="0")


# --- it ends ------------------------------------------------------------------------------------


async def test_a_deleted_account_ends_its_sessions_and_is_never_made_again(
    rig: HubRig, master: Caller
) -> None:
    caller = await admitted(rig)
    outlet = rig.connect(caller, "public.a")
    await rig.hub.call(DeleteAccount(id=caller.account or ""), caller=master)
    assert outlet.end is End.REVOKED
    await rig.publish(master, "public.a", "late")
    await rig.settle()
    assert outlet.data == []
    assert await is_refused(rig) and await is_refused(rig, mark="new")
    await rig.crash()
    assert await is_refused(rig, mark="newer")
    assert not await is_refused(rig, "43")


async def test_a_deleted_account_is_refused_even_if_it_had_an_anchor(
    rig: HubRig, master: Caller
) -> None:
    caller = await admitted(rig)
    (anchor,) = rig.hub.directory.tokens_of("main", caller.account or "")
    await rig.hub.call(DeleteAccount(id=caller.account or ""), caller=master)
    rig.hub.directory.put_token(anchor)
    assert await is_refused(rig)


async def test_a_revoked_token_ends_its_sessions_and_no_others(rig: HubRig, master: Caller) -> None:
    one, two = await admitted(rig), await admitted(rig, mark="two")
    first, second = rig.connect(one, "public.a"), rig.connect(two, "public.a")
    await rig.hub.call(RevokeToken(id=one.token_id or ""), caller=master)
    assert first.end is End.REVOKED and second.end is None
    assert await is_refused(rig)
    await rig.crash()
    assert await is_refused(rig) and not await is_refused(rig, mark="two")


async def test_a_token_is_revoked_before_anybody_shows_it(rig: HubRig, master: Caller) -> None:
    caller = await admitted(rig)
    await rig.crash()
    master = await rig.caller("boss")
    await rig.hub.call(RevokeToken(id=caller.token_id or ""), caller=master)
    assert await is_refused(rig)


async def test_what_is_revoked_is_no_more_to_be_revoked(rig: HubRig, master: Caller) -> None:
    """As a token of the hub; or each time would be told, and kept, anew."""
    caller = await admitted(rig)
    call = RevokeToken(id=caller.token_id or "")
    await rig.hub.call(call, caller=master)
    with pytest.raises(NotFound):
        await rig.hub.call(call, caller=master)
    await rig.crash()
    with pytest.raises(NotFound):
        await rig.hub.call(call, caller=await rig.caller("boss"))


async def test_a_revocation_is_kept_until_the_token_would_have_expired(
    rig: HubRig, master: Caller
) -> None:
    """Its connection may live longer (expire_at) or for ever; its text is shown until exp."""
    end_ms = rig.hub.retention.now_ms() + 60_000
    ends = await admitted(rig, mark="ends", shown_until_ms=end_ms)
    never = await admitted(rig, mark="never")
    for caller in (ends, never):
        await rig.hub.call(RevokeToken(id=caller.token_id or ""), caller=master)
    await rig.clock.pass_time(30)
    assert await is_refused(rig, mark="ends") and await is_refused(rig, mark="never")
    await rig.clock.pass_time(2 * 3_600)
    keys = {entry.key for entry in rig.engine.real.scan("revoked")}
    assert keys == {f"revoked/{never.token_id}"}
    assert await is_refused(rig, mark="never")


async def test_the_anchor_ends_all_of_them(rig: HubRig, master: Caller) -> None:
    caller = await admitted(rig)
    outlet = rig.connect(caller, "public.a")
    (anchor,) = rig.hub.directory.tokens_of("main", caller.account or "")
    await rig.hub.call(RevokeToken(id=anchor.id), caller=master)
    assert outlet.end is End.REVOKED
    assert await is_refused(rig, mark="two")
    # A master lets the subject in again by a new one; what was revoked by itself stays so.
    await rig.hub.call(CreateToken(account=caller.account, name=ANCHOR), caller=master)
    assert not await is_refused(rig, mark="two")


async def test_a_token_ends_when_it_says(rig: HubRig) -> None:
    caller = await admitted(rig, expires_ms=rig.hub.retention.now_ms() + 10_000)
    outlet = rig.connect(caller, "public.a")
    await rig.clock.pass_time(9)
    assert outlet.end is None
    await rig.clock.pass_time(2)
    assert outlet.end is End.EXPIRED
    with pytest.raises(Unauthenticated):
        rig.hub.directory.refresh(caller)


async def test_masters_alone_are_told_the_subject(rig: HubRig, master: Caller, ada: Caller) -> None:
    caller = await admitted(rig, "somebody@example.com")
    for who, expected in ((master, "somebody@example.com"), (ada, None)):
        shown = await rig.hub.call(ReadAccount(id=caller.account or ""), caller=who)
        listed = await rig.hub.call(ListAccounts(), caller=who)
        assert shown.subject == expected
        assert {one.subject for one in listed.accounts} == {None, expected}


async def test_it_is_listed_and_renamed_as_any_other(rig: HubRig, master: Caller) -> None:
    caller = await admitted(rig)
    own = caller.account or ""
    listed = await rig.hub.call(ListAccounts(), caller=master)
    assert [(a.id, a.proof) for a in listed.accounts if a.kind == "ext"] == [(own, "jwt")]
    await rig.hub.call(UpdateAccount(id=own, handle="forty-two"), caller=master)
    now = await admitted(rig)
    assert (now.handle, now.user, now.account) == ("forty-two", "42", own)
    tokens = (await rig.hub.call(ListTokens(account=own), caller=master)).tokens
    assert [token.id for token in tokens][1:] == [token_id("42", "one")]


# --- it is good for nothing else ----------------------------------------------------------------


async def test_it_makes_no_tokens(rig: HubRig) -> None:
    for caller in (await admitted(rig), await anyone(rig)):
        for call in (IssueJwt(), CreateToken(), UpdateAccount(id=caller.account or "", handle="x")):
            with pytest.raises(Forbidden):
                await rig.hub.call(call, caller=caller)


async def test_no_text_is_its_token(rig: HubRig) -> None:
    caller = await admitted(rig)
    (anchor,) = rig.hub.directory.tokens_of("main", caller.account or "")
    known = rig.hub.directory.token(caller.token_id or "")
    assert known is not None
    for text in (known.hash, known.id, anchor.id, anchor.hash, "one", "42"):
        with pytest.raises(ClawError):
            rig.hub.authenticate(text)


async def anyone(rig: HubRig) -> Caller:
    found = rig.hub.directory.caller((await rig.hub.call(AdmitAnyone(), caller=HUB)).token_id)
    assert found is not None
    return Caller(
        **{name: getattr(found, name) for name in found.__struct_fields__}
        | {"rules_free": True, "is_confined": True}
    )


async def test_insecure_mode_is_one_account_that_can_be_deleted(
    rig: HubRig, master: Caller
) -> None:
    one, two = await anyone(rig), await anyone(rig)
    assert one == two and one.account == account_id("anonymous")
    outlet = rig.connect(one)
    await rig.hub.call(DeleteAccount(id=one.account or ""), caller=master)
    assert outlet.end is End.REVOKED
    with pytest.raises(Unauthenticated):
        await anyone(rig)


async def test_a_hub_without_a_key_of_its_operator_has_no_foreign_users() -> None:
    async with started_hub(HubSettings()) as rig:
        assert not rig.hub.directory.has_foreign_users
    async with started_hub(HubSettings(tokens=TokenSettings(jwt_key=KEY))) as rig:
        assert rig.hub.directory.has_foreign_users
