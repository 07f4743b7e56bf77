"""Accounts: never given twice, never two of one handle, and only a master makes them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import (
    Block,
    Blocks,
    CreateAccount,
    DeleteAccount,
    ListAccounts,
    Me,
    ReadAccount,
    Unblock,
    UpdateAccount,
)
from clawnet.core.calls.consumers import CreateConsumer, Fetch
from clawnet.core.calls.grants import Grant, ListGrants, Lock, Unlock
from clawnet.core.calls.reading import ReadHistory
from clawnet.core.calls.tokens import ListTokens
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    Conflict,
    Forbidden,
    NotFound,
    Unauthenticated,
)
from clawnet.core.handles import fold
from clawnet.hub.tokens import bootstrap_admin
from clawnet.testing.hubs import HubRig, event


async def told(rig: HubRig, caller: Caller, channel: str) -> list[dict[str, Any]]:
    page = await rig.hub.call(ReadHistory(channel=channel, limit=1_000), caller=caller)
    return [msgspec.json.decode(line) for line in page.body.split(b"\n") if line]


# --- refused -------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        CreateAccount(id="new"),
        UpdateAccount(id="bob", handle="robert"),
        UpdateAccount(id="bob", role="worker"),
        UpdateAccount(id="ada", role="master"),
        DeleteAccount(id="bob"),
        DeleteAccount(id="ada"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("who", ["worker", "warden", "scoped master", "anonymous"])
async def test_only_a_master_with_the_scope_changes_accounts(
    rig: HubRig, ada: Caller, bob: Caller, call: Any, who: str
) -> None:
    caller = rig.hub.anonymous(is_local=True) if who == "anonymous" else ada
    if who == "warden":
        caller = await rig.account("eye", role="warden")
    if who == "scoped master":
        await rig.account("boss", role="master")
        caller = await rig.caller("boss", scopes=["events:read", "events:write", "tokens:write"])
    before = await rig.hub.call(ListAccounts(), caller=bob)
    with pytest.raises((Forbidden, Unauthenticated)):
        await rig.hub.call(call, caller=caller)
    assert await rig.hub.call(ListAccounts(), caller=bob) == before


@pytest.mark.parametrize(
    "id", ["", "a b", "a.b", "é", "a" * 65, "a/b", "a\n", "all", "GLOBAL", "system", "hub", "*"]
)
async def test_a_bad_id_is_refused(rig: HubRig, master: Caller, id: str) -> None:
    with pytest.raises(BadRequest):
        await rig.hub.call(CreateAccount(id=id, handle="h"), caller=master)


@pytest.mark.parametrize(
    "handle",
    ["", " a", "a ", "a\tb", "a\u200bb", "\u202eabc", "x" * 65, "Hub", "ＨＵＢ", "a\x00"],
    ids=ascii,
)
async def test_a_bad_handle_is_refused(
    rig: HubRig, ada: Caller, master: Caller, handle: str
) -> None:
    with pytest.raises(BadRequest):
        await rig.hub.call(CreateAccount(id="new", handle=handle), caller=master)
    with pytest.raises(BadRequest):
        await rig.hub.call(UpdateAccount(id="ada", handle=handle), caller=ada)


async def test_an_id_is_folded_kept_as_spelled_and_never_given_twice(
    rig: HubRig, master: Caller
) -> None:
    made = await rig.hub.call(CreateAccount(id="Zoe-1", handle="Zee"), caller=master)
    assert (made.id, made.name, made.handle) == ("zoe-1", "Zoe-1", "Zee")
    for again in ("zoe-1", "ZOE-1"):
        with pytest.raises(Conflict):
            await rig.hub.call(CreateAccount(id=again, handle="other"), caller=master)
    await rig.hub.call(DeleteAccount(id="zoe-1"), caller=master)
    for again in ("zoe-1", "Zoe-1"):
        with pytest.raises(Conflict):
            await rig.hub.call(CreateAccount(id=again, handle="other"), caller=master)
    await rig.restart()
    with pytest.raises(Conflict):
        await rig.hub.call(CreateAccount(id="zoe-1", handle="other"), caller=master)
    # Its handle is free again after a while, its id is nobody's handle ever.
    rig.clock.advance(31 * 86_400)
    with pytest.raises(Conflict):
        await rig.hub.call(CreateAccount(id="zoe-2", handle="ZOE-1"), caller=master)
    await rig.hub.call(CreateAccount(id="zoe-2", handle="Zee"), caller=master)


async def test_nobody_is_named_like_another(rig: HubRig, ada: Caller, master: Caller) -> None:
    """An id and a handle are read alike, so one account's must not be another's."""
    await rig.hub.call(UpdateAccount(id="ada", handle="Countess"), caller=ada)
    for call in (
        CreateAccount(id="new", handle="ADA"),
        CreateAccount(id="countess", handle="new"),
        CreateAccount(id="countess"),
    ):
        with pytest.raises(Conflict):
            await rig.hub.call(call, caller=master)


@pytest.mark.parametrize("handle", ["Ada", "ADA", "ａｄａ", "ada"])
async def test_two_handles_that_fold_alike_are_one(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller, handle: str
) -> None:
    with pytest.raises(Conflict):
        await rig.hub.call(CreateAccount(id="new", handle=handle), caller=master)
    with pytest.raises(Conflict):
        await rig.hub.call(UpdateAccount(id="bob", handle=handle), caller=bob)
    same = await rig.hub.call(UpdateAccount(id="ada", handle=handle), caller=ada)
    assert same.handle == handle


def test_folding_is_done_once_and_for_all() -> None:
    for text in ("ﬁ", "ẞ", "İ", "ſ", "Σς", "ΐ", "\u1e9e", "ᾳ", "\u0345α", "K", "Å"):
        assert fold(fold(text)) == fold(text)


async def test_rivals_for_an_id_or_a_handle_leave_one_winner(rig: HubRig, master: Caller) -> None:
    calls = [CreateAccount(id="x", handle=f"h{n}") for n in range(4)]
    calls += [CreateAccount(id=f"y{n}", handle="same") for n in range(4)]
    outcomes = await asyncio.gather(
        *(rig.hub.call(call, caller=master) for call in calls), return_exceptions=True
    )
    assert [isinstance(outcome, Conflict) for outcome in outcomes] == [False, True, True, True] * 2


async def test_what_does_not_exist_is_not_found(rig: HubRig, ada: Caller, master: Caller) -> None:
    calls: list[tuple[Any, Caller]] = [
        (ReadAccount(id="gone"), ada),
        (Block(account="gone"), ada),
        (UpdateAccount(id="gone", handle="x"), master),
        (DeleteAccount(id="gone"), master),
    ]
    for call, caller in calls:
        with pytest.raises(NotFound):
            await rig.hub.call(call, caller=caller)


async def test_nobody_blocks_itself(rig: HubRig, ada: Caller) -> None:
    with pytest.raises(BadRequest):
        await rig.hub.call(Block(account="ada"), caller=ada)
    assert rig.hub.directory.blocks_of("main", "ada") == []


async def test_nobody_deletes_the_admin_or_themselves_or_takes_its_role(
    rig: HubRig, master: Caller
) -> None:
    await bootstrap_admin(rig.hub, None)
    for call in (
        DeleteAccount(id="admin"),
        DeleteAccount(id="boss"),
        UpdateAccount(id="admin", role="worker"),
    ):
        with pytest.raises(Forbidden):
            await rig.hub.call(call, caller=master)


# --- what changes --------------------------------------------------------


async def test_an_ended_account_is_gone_from_everything(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller
) -> None:
    await rig.hub.call(Grant(account="bob", channel="x"), caller=ada)
    token = await rig.token("bob")
    await rig.hub.call(DeleteAccount(id="bob"), caller=master)
    with pytest.raises(Unauthenticated):
        rig.hub.authenticate(token)
    for call in (ReadAccount(id="bob"), DeleteAccount(id="bob")):
        with pytest.raises(NotFound):
            await rig.hub.call(call, caller=master)
    with pytest.raises(NotFound):
        await rig.hub.call(ListTokens(account="bob"), caller=master)
    assert (await rig.hub.call(ListGrants(), caller=ada)).grants == []
    with pytest.raises(Forbidden):
        await rig.publish(ada, "agent.bob.inbox", 1)
    ids = [account.id for account in (await rig.hub.call(ListAccounts(), caller=ada)).accounts]
    assert ids == ["ada", "boss"]
    await rig.restart()
    with pytest.raises(Unauthenticated):
        rig.hub.authenticate(token)
    assert not list(rig.hub.directory.grants("main"))


async def test_a_new_handle_is_in_what_is_said_from_then_on(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    outlet = rig.connect(bob, "public.a")
    talking = rig.connect(ada)
    await rig.publish(ada, "public.a", 1)
    await rig.hub.call(UpdateAccount(id="ada", handle="Countess"), caller=ada)
    assert talking.session is not None
    talking.session.publish(event("public.a", 2), lambda _: None)
    await rig.publish(ada, "public.a", 3)
    assert [f.event["actor"]["handle"] for f in outlet.frames] == ["ada", "Countess", "Countess"]
    assert {f.event["actor"]["id"] for f in outlet.frames} == {"ada"}


async def test_a_handle_given_up_is_free_after_a_while_and_the_new_one_is_taken(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    await rig.hub.call(UpdateAccount(id="ada", handle="Countess"), caller=ada)
    await rig.hub.call(UpdateAccount(id="ada", handle="Duchess"), caller=ada)
    with pytest.raises(Conflict):
        await rig.hub.call(UpdateAccount(id="bob", handle="Countess"), caller=bob)
    rig.clock.advance(31 * 86_400)
    await rig.hub.call(UpdateAccount(id="bob", handle="Countess"), caller=bob)
    with pytest.raises(Conflict):
        await rig.hub.call(UpdateAccount(id="ada", handle="COUNTESS"), caller=ada)
    await rig.restart()
    with pytest.raises(Conflict):
        await rig.hub.call(UpdateAccount(id="ada", handle="COUNTESS"), caller=ada)
    assert (await rig.hub.call(ReadAccount(id="ada"), caller=bob)).handle == "Duchess"


async def test_a_change_of_handle_and_a_demotion_do_not_undo_each_other(
    rig: HubRig, master: Caller
) -> None:
    for handle_first in (True, False):
        name = f"m{handle_first}".lower()
        other = await rig.account(name, role="master")
        calls: list[tuple[Any, Caller]] = [
            (UpdateAccount(id=name, handle=f"new {name}"), other),
            (UpdateAccount(id=name, role="worker"), master),
        ]
        ordered = calls if handle_first else calls[::-1]
        await asyncio.gather(*(rig.hub.call(call, caller=by) for call, by in ordered))
        info = await rig.hub.call(ReadAccount(id=name), caller=master)
        assert (info.handle, info.role) == (f"new {name}", "worker")
        with pytest.raises(Forbidden):
            await rig.hub.call(CreateAccount(id="made-by-demoted"), caller=other)


async def test_what_a_demoted_master_had_queued_is_refused(rig: HubRig, master: Caller) -> None:
    other = await rig.account("other", role="master")
    outcomes = await asyncio.gather(
        rig.hub.call(UpdateAccount(id="other", role="worker"), caller=master),
        rig.hub.call(CreateAccount(id="late"), caller=other),
        rig.hub.call(UpdateAccount(id="other", role="master"), caller=other),
        return_exceptions=True,
    )
    assert [isinstance(outcome, ClawError) for outcome in outcomes] == [False, True, True]
    with pytest.raises(NotFound):
        await rig.hub.call(ReadAccount(id="late"), caller=master)


async def test_blocks_hold_until_they_are_taken_back(rig: HubRig, ada: Caller, bob: Caller) -> None:
    await rig.publish(bob, "agent.ada.inbox", 1)
    assert (await rig.hub.call(Block(account="bob"), caller=ada)).changed
    assert not (await rig.hub.call(Block(account="bob"), caller=ada)).changed
    with pytest.raises(Forbidden):
        await rig.publish(bob, "agent.ada.inbox", 2)
    await rig.restart()
    with pytest.raises(Forbidden):
        await rig.publish(bob, "agent.ada.inbox", 2)
    assert (await rig.hub.call(Blocks(accounts=[]), caller=ada)).accounts == ["bob"]
    assert (await rig.hub.call(Unblock(account="bob"), caller=ada)).changed
    assert not (await rig.hub.call(Unblock(account="bob"), caller=ada)).changed
    await rig.publish(bob, "agent.ada.inbox", 3)


async def test_accounts_are_listed_in_pages(rig: HubRig, master: Caller) -> None:
    for n in range(5):
        await rig.account(f"a{n}")
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = await rig.hub.call(ListAccounts(after=after, limit=2), caller=master)
        seen += [account.id for account in page.accounts]
        after = page.next
    assert seen == ["a0", "a1", "a2", "a3", "a4", "boss"]
    for limit in (0, 1_001):
        with pytest.raises(BadRequest):
            await rig.hub.call(ListAccounts(limit=limit), caller=master)
    with pytest.raises(Unauthenticated):
        await rig.hub.call(ListAccounts(), caller=rig.hub.anonymous(is_local=True))


async def test_each_is_told_who_the_hub_takes_it_for(rig: HubRig, ada: Caller) -> None:
    scoped = await rig.caller("ada", scopes=["events:read"])
    me = await rig.hub.call(Me(), caller=scoped)
    assert (me.account.id, me.token, me.scopes, me.world) == (
        "ada",
        "default",
        ["events:read"],
        "main",
    )
    nobody = await rig.hub.call(Me(), caller=rig.hub.anonymous(is_local=True))
    assert (nobody.account, nobody.token, nobody.scopes) == (None, None, ["events:read"])


async def test_every_change_has_its_event(rig: HubRig, master: Caller) -> None:
    await rig.hub.call(CreateAccount(id="new"), caller=master)
    new = await rig.caller("new")
    await rig.hub.call(UpdateAccount(id="new", handle="newer"), caller=new)
    await rig.hub.call(UpdateAccount(id="new", handle="newer"), caller=new)
    await rig.hub.call(Block(account="boss"), caller=new)
    await rig.hub.call(Unblock(account="boss"), caller=new)
    await rig.hub.call(DeleteAccount(id="new"), caller=master)
    events = await told(rig, master, "system.accounts")
    found = [(e["type"], e["data"]["by"]) for e in events if e["data"]["by"] != "hub"]
    assert found == [
        ("account.created", "boss"),
        ("account.updated", "new"),
        ("account.blocked", "new"),
        ("account.unblocked", "new"),
        ("account.deleted", "boss"),
    ]
    assert {e["actor"]["id"] for e in events} == {"hub"}
    assert {e["source"] for e in events} == {"system"}


async def test_the_first_start_makes_an_admin_and_later_ones_keep_it(rig: HubRig) -> None:
    token = await bootstrap_admin(rig.hub, None)
    assert token is not None
    assert rig.hub.authenticate(token).role == "master"
    await rig.restart()
    assert await bootstrap_admin(rig.hub, token) is None
    assert rig.hub.authenticate(token).account == "admin"
    fresh = await bootstrap_admin(rig.hub, "claw_lost")
    assert fresh is not None and rig.hub.authenticate(fresh).role == "master"
    with pytest.raises(Unauthenticated):
        rig.hub.authenticate(token)
    assert HUB.account == "hub"


async def test_a_deleted_account_leaves_nothing_that_is_its_own(
    rig: HubRig, ada: Caller, bob: Caller, master: Caller
) -> None:
    await rig.publish(ada, "agent.ada.open", 1)
    await rig.publish(ada, "agent.ada.shut", 1)
    await rig.hub.call(Unlock(channel="agent.ada.open"), caller=ada)
    await rig.hub.call(Lock(channel="agent.ada.shut"), caller=ada)
    await rig.hub.call(Block(account="bob"), caller=ada)
    await rig.hub.call(Block(account="ada"), caller=bob)
    for caller in (ada, bob):
        await rig.hub.call(CreateConsumer(name="c", channels=["public.>"]), caller=caller)
    live = rig.connect(bob, "agent.ada.open")
    waiting = asyncio.ensure_future(rig.hub.call(Fetch(name="c", wait_s=60), caller=ada))
    await rig.settle()
    await rig.hub.call(DeleteAccount(id="ada"), caller=master)
    await rig.settle()
    assert isinstance(waiting.exception(), ClawError)
    assert [key for key, _ in rig.hub.consumers.lags()] == ["main/bob/c"]
    assert not rig.hub.directory.is_blocked("main", "ada", "bob")
    with pytest.raises(Forbidden):
        await rig.hub.call(ReadHistory(channel="agent.ada.open"), caller=bob)
    await rig.clock.pass_time(1)
    await rig.crash()
    assert [key for key, _ in rig.hub.consumers.lags()] == ["main/bob/c"]
    left = {kind: [e.key for e in rig.engine.scan(kind)] for kind in ("consumer", "block", "lock")}
    # A lock stays: with default_read = anyone its channel would open without it.
    assert left == {
        "consumer": ["consumer/main/bob/c"],
        "block": ["block/main/bob/ada"],
        "lock": ["lock/main/agent.ada.shut"],
    }
    assert live.session is not None


@pytest.mark.parametrize(
    ("before", "after", "is_narrowing"),
    [("worker", "master", False), ("worker", "warden", False), ("master", "worker", True),
     ("warden", "master", True)],
)  # fmt: skip
async def test_only_a_role_that_takes_something_away_is_a_narrowing(
    rig: HubRig, master: Caller, monkeypatch: pytest.MonkeyPatch,
    before: Any, after: Any, is_narrowing: bool,
) -> None:  # fmt: skip
    await rig.account("zoe", role=before)
    commit, seen = rig.hub.committer.commit, []

    async def noted(unit: Any) -> Any:
        seen.append(unit.is_narrowing)
        return await commit(unit)

    monkeypatch.setattr(rig.hub.committer, "commit", noted)
    await rig.hub.call(UpdateAccount(id="zoe", role=after), caller=master)
    assert seen == [is_narrowing]
