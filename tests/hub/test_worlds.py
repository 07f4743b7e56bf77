"""Worlds: made by one account alone, never twice, and apart inside the hub."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clawnet.core.callers import HUB, STRANGER, Caller
from clawnet.core.calls.accounts import (
    CreateAccount,
    DeleteAccount,
    ListAccounts,
    ReadAccount,
    UpdateAccount,
)
from clawnet.core.calls.invitations import (
    CreateInvitation,
    ListInvitations,
    RedeemInvitation,
    RevokeInvitation,
)
from clawnet.core.calls.tokens import CreateToken, RevokeToken
from clawnet.core.calls.worlds import CreateWorld, ListWorlds, WorldCreated
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    Conflict,
    DiskFull,
    Forbidden,
    InvitationInvalid,
    NotFound,
    RateLimited,
    Unauthenticated,
)
from clawnet.hub.settings import HubSettings, LimitSettings
from clawnet.hub.tokens import bootstrap_admin
from clawnet.testing.hubs import HubRig, started_hub


@pytest.fixture
async def admin(rig: HubRig) -> Caller:
    token = await bootstrap_admin(rig.hub, None)
    assert token is not None
    return rig.hub.authenticate(token)


async def made(rig: HubRig, admin: Caller, name: str = "lab") -> tuple[WorldCreated, Caller]:
    created: WorldCreated = await rig.hub.call(CreateWorld(id=name), caller=admin)
    return created, rig.hub.authenticate(created.token)


# --- who may not -------------------------------------------------------------


@pytest.mark.parametrize(
    "who", ["worker", "warden", "master", "narrow admin", "other admin", "anonymous", "stranger"]
)
async def test_only_admin_of_main_handles_worlds(
    rig: HubRig, admin: Caller, ada: Caller, warden: Caller, master: Caller, who: str
) -> None:
    _, other = await made(rig, admin, "other")
    caller = {
        "worker": ada,
        "warden": warden,
        "master": master,
        "narrow admin": await rig.caller("admin", scopes=["accounts:write", "tokens:write"]),
        "anonymous": rig.hub.anonymous(is_local=True),
        "stranger": STRANGER,
    }.get(who, other)
    for call in (CreateWorld(id="lab"), ListWorlds()):
        with pytest.raises((Forbidden, Unauthenticated)):
            await rig.hub.call(call, caller=caller)
    listed = await rig.hub.call(ListWorlds(), caller=admin)
    assert [world.id for world in listed.worlds] == ["main", "other"]


@pytest.mark.parametrize("name", ["", "A", "a b", "a.b", "a/b", "é", "a" * 65, "a\n", ">"])
async def test_a_bad_id_is_refused(rig: HubRig, admin: Caller, name: str) -> None:
    with pytest.raises(BadRequest):
        await rig.hub.call(CreateWorld(id=name), caller=admin)


async def test_a_worlds_id_is_never_given_twice(rig: HubRig, admin: Caller) -> None:
    await made(rig, admin)
    for _ in range(2):
        for name in ("lab", "main"):
            with pytest.raises(Conflict):
                await rig.hub.call(CreateWorld(id=name), caller=admin)
        await rig.restart()
    outcomes = await asyncio.gather(
        *(rig.hub.call(CreateWorld(id="x"), caller=admin) for _ in range(4)),
        return_exceptions=True,
    )
    assert [isinstance(outcome, Conflict) for outcome in outcomes] == [False, True, True, True]


async def test_a_full_disk_leaves_no_half_a_world(rig: HubRig, admin: Caller) -> None:
    rig.engine.is_full = True
    with pytest.raises(DiskFull):
        await made(rig, admin)
    rig.engine.is_full = False
    assert rig.hub.directory.account("lab", "admin") is None
    created, caller = await made(rig, admin)
    assert (caller.world, caller.account, caller.role) == ("lab", "admin", "master")
    assert created.token not in str([e.value for e in rig.engine.scan("token")])


# --- apart --------------------------------------------------------------------


@pytest.fixture
async def lab(rig: HubRig, admin: Caller) -> Caller:
    """The admin of another world, in which there are another ada and bob."""
    _, caller = await made(rig, admin)
    for name in ("ada", "bob"):
        await rig.hub.call(CreateAccount(id=name), caller=caller)
    return caller


async def test_a_world_survives_a_restart_with_what_is_in_it(
    rig: HubRig, admin: Caller, lab: Caller
) -> None:
    await rig.publish(lab, "public.news", "theirs")
    await rig.crash()
    infos = {world.id: world for world in (await rig.hub.call(ListWorlds(), caller=admin)).worlds}
    assert (infos["lab"].accounts, infos["main"].created) == (3, None)
    assert lab.token_id is not None and rig.hub.directory.caller(lab.token_id) is not None
    seen = rig.connect(await rig.caller("admin"), "public.>", since=None)
    await rig.publish(admin, "public.news", "ours")
    await rig.settle()
    assert seen.data == ["ours"]


async def test_handles_of_two_worlds_do_not_meet(
    rig: HubRig, admin: Caller, lab: Caller, ada: Caller
) -> None:
    await rig.hub.call(UpdateAccount(id="ada", handle="Countess"), caller=ada)
    await rig.hub.call(UpdateAccount(id="ada", handle="Duchess"), caller=ada)
    for handle in ("Countess", "Duchess", "C0untess"):
        await rig.hub.call(UpdateAccount(id="bob", handle=handle), caller=lab)
    await rig.hub.call(DeleteAccount(id="ada"), caller=admin)
    assert (await rig.hub.call(ReadAccount(id="ada"), caller=lab)).world == "lab"
    await rig.restart()
    with pytest.raises(Conflict):
        await rig.hub.call(UpdateAccount(id="bob", handle="ada"), caller=lab)


async def test_a_master_of_another_world_touches_nobody_here(
    rig: HubRig, admin: Caller, lab: Caller, master: Caller
) -> None:
    zoe = await rig.account("zoe")
    invited = await rig.hub.call(CreateInvitation(), caller=master)
    calls: list[Any] = [
        ReadAccount(id="zoe"),
        UpdateAccount(id="zoe", handle="x"),
        UpdateAccount(id="zoe", role="master"),
        DeleteAccount(id="zoe"),
        CreateToken(account="zoe"),
        RevokeToken(id=str(zoe.token_id)),
        RevokeInvitation(id=invited.id),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            await rig.hub.call(call, caller=lab)
    assert (await rig.hub.call(ListInvitations(), caller=lab)).invitations == []
    listed = await rig.hub.call(ListAccounts(), caller=lab)
    assert {account.world for account in listed.accounts} == {"lab"}
    assert rig.hub.directory.refresh(zoe).account == "zoe"


async def test_an_invitation_of_a_world_makes_an_account_of_that_world(
    rig: HubRig, lab: Caller, ada: Caller
) -> None:
    invited = await rig.hub.call(CreateInvitation(id="zoe", role="master"), caller=lab)
    secret = invited.link.partition("#")[2]
    call = RedeemInvitation(secret=secret, nonce="0123456789abcdef")
    joined = await rig.hub.call(call, caller=STRANGER)
    assert (joined.account.world, joined.account.proved_by) == ("lab", "admin")
    assert rig.hub.authenticate(joined.token).world == "lab"
    with pytest.raises(NotFound):
        await rig.hub.call(ReadAccount(id="zoe"), caller=ada)
    # Its master is gone: what it invited is void, though another master has the same id here.
    again = await rig.hub.call(CreateInvitation(), caller=rig.hub.authenticate(joined.token))
    await rig.hub.call(CreateAccount(id="zoe", role="master"), caller=HUB)
    await rig.hub.call(DeleteAccount(id="zoe"), caller=lab)
    with pytest.raises(InvitationInvalid):
        secret = again.link.partition("#")[2]
        await rig.hub.call(
            RedeemInvitation(secret=secret, nonce="0123456789abcdef", id="yan"), caller=STRANGER
        )


async def test_limits_are_each_worlds_own() -> None:
    limits = LimitSettings(publish_per_s=1, publish_burst=2)
    async with started_hub(HubSettings(limits=limits)) as rig:
        token = await bootstrap_admin(rig.hub, None)
        admin = rig.hub.authenticate(str(token))
        _, lab = await made(rig, admin)
        for _ in range(2):
            await rig.publish(admin, "public.a", 1)
        with pytest.raises(RateLimited):
            await rig.publish(admin, "public.a", 1)
        await rig.publish(lab, "public.a", 1)


async def test_metrics_name_consumers_of_one_world(rig: HubRig, lab: Caller, ada: Caller) -> None:
    from clawnet.core.calls.consumers import CreateConsumer

    for caller in (lab, ada):
        await rig.hub.call(CreateConsumer(name="c", channels=["public.a"]), caller=caller)
    assert "lab/admin/c" not in rig.hub.metrics(world="main")
    assert "main/ada/c" in rig.hub.metrics(world="main")
    assert "lab/admin/c" in rig.hub.metrics()


async def test_the_anonymous_are_of_main_alone(rig: HubRig, lab: Caller) -> None:
    outlet = rig.connect(rig.hub.anonymous(is_local=True), "public.news")
    await rig.publish(lab, "public.news", "theirs")
    await rig.settle()
    assert outlet.data == []
    with pytest.raises(ClawError):
        await rig.publish(rig.hub.anonymous(is_local=True), "public.news", 1)
