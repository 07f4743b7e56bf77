"""Enrolling by the shared secret: who gets in, who comes again, and who never does."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawnet.core.callers import HUB, STRANGER
from clawnet.core.calls.accounts import DeleteAccount, ReadAccount, UpdateAccount
from clawnet.core.calls.fleet import OpenSession, ReadFleet, ReadSecret, SessionOpened
from clawnet.core.calls.identity import FinishLogin
from clawnet.core.calls.tokens import CreateToken, ListTokens, RevokeToken, TokenCreated
from clawnet.core.errors import (
    BadConfiguration,
    BadRequest,
    ClawError,
    Conflict,
    DiskFull,
    Forbidden,
    RateLimited,
    Unauthenticated,
)
from clawnet.core.live import End
from clawnet.core.times import rfc3339
from clawnet.engines.memory import MemoryEngine
from clawnet.features import FeatureSettings
from clawnet.features.fleet import FleetFeature
from clawnet.features.fleet.enrolment import TOKENS_KEPT
from clawnet.features.fleet.settings import FleetSettings
from clawnet.features.fleet.tenants import make_worlds
from clawnet.features.identity.settings import IdentitySettings
from clawnet.hub.settings import HubSettings
from clawnet.testing.clocks import FakeRandomness
from clawnet.testing.hubs import HubRig, make_hub, started_hub
from clawnet.testing.loops import LoopClock
from tests.features.fleet_agents import SECRET, caller_of, enrol, fleet


@pytest.fixture
async def rig() -> AsyncIterator[HubRig]:
    async with fleet() as made:
        yield made


async def refused(rig: HubRig, agent_id: str = "ada", **named: Any) -> ClawError:
    with pytest.raises(ClawError) as caught:
        await enrol(rig, agent_id, **named)
    return caught.value


async def own_token(rig: HubRig, account: str = "ada") -> TokenCreated:
    made: TokenCreated = await rig.hub.call(CreateToken(account=account), caller=HUB)
    return made


# --- the first time ---------------------------------------------------------


async def test_the_first_time_makes_an_account_with_a_token(rig: HubRig) -> None:
    eye = rig.connect(await rig.account("eye", role="warden"), "system.fleet", "system.accounts")
    enrolled = await enrol(rig, "Ada-1", role="researcher")
    assert (enrolled.agent_id, enrolled.handle, enrolled.world) == ("ada-1", "Ada-1", "main")
    assert (enrolled.role, enrolled.created) == ("worker", True)
    ada = caller_of(rig, enrolled)
    assert (ada.account, ada.role, ada.world) == ("ada-1", "worker", "main")
    await rig.publish(ada, "public.lobby", {"text": "hello"})
    account = await rig.hub.call(ReadAccount(id="ada-1"), caller=ada)
    assert (account.proof, account.kind, account.name) == ("shared-secret", "agent", "Ada-1")
    [shown] = (await rig.hub.call(ReadFleet(agent="ADA-1"), caller=ada)).agents
    assert (shown.role, shown.account_role, shown.given_id) == ("researcher", "worker", "Ada-1")
    await rig.settle()
    told = {frame.event["type"]: frame.data for frame in eye.frames}
    assert set(told) == {"account.created", "fleet.enrolled"}
    assert told["fleet.enrolled"]["account"] == "ada-1" and not told["fleet.enrolled"]["again"]
    assert SECRET not in str(eye.frames) and enrolled.session_token not in str(eye.frames)


@pytest.mark.parametrize("named", ["admin", "ALL", "global", "system", "Hub", "fleet-observer"])
async def test_a_reserved_id_is_refused(rig: HubRig, named: str) -> None:
    error = await refused(rig, named)
    assert isinstance(error, (BadRequest, Conflict)), error
    assert not rig.hub.directory.has_account("main", named.lower())


@pytest.mark.parametrize("named", ["", "a b", "ä", "İ", "a/b", "x" * 65, "a\n", "../x", "a:b"])
async def test_what_cannot_be_an_id_is_refused_with_a_reason(rig: HubRig, named: str) -> None:
    error = await refused(rig, named and f"{named}.")
    assert isinstance(error, BadRequest) and error.facts["reason"] == "agent_id"


@pytest.mark.parametrize(
    "shown",
    ["", "wrong", SECRET + " ", SECRET.upper(), f"nowhere:{SECRET}", f"other:{SECRET}", "main:",
     "other:", ":", f":{SECRET}", "other", "x" * 10_000, "\ud800", f"main:main:{SECRET}"],
)  # fmt: skip
async def test_a_wrong_secret_and_an_unknown_world_are_refused_alike(
    tmp_path: Path, shown: str
) -> None:
    tenants = tmp_path / "tenants.json"
    tenants.write_text('{"other": "the secret of the other world"}')
    async with fleet(tenants_path=str(tenants)) as rig:
        error = await refused(rig, secret=shown)
        assert isinstance(error, Unauthenticated)
        assert (error.message, error.facts) == ("The secret is not valid.", {})
        with pytest.raises(Unauthenticated):
            await rig.hub.call(ReadSecret(secret=shown), caller=STRANGER)
        assert not rig.hub.directory.has_account("main", "ada")
        assert not rig.hub.directory.has_account("other", "ada")


async def test_a_hub_without_a_secret_enrols_nobody() -> None:
    async with fleet(secret=None) as rig:
        for shown in ("", SECRET, "None", "main:"):
            assert isinstance(await refused(rig, secret=shown), Unauthenticated)


async def test_an_id_that_was_deleted_is_never_given_again(rig: HubRig) -> None:
    await enrol(rig)
    await rig.hub.call(DeleteAccount(id="ada"), caller=HUB)
    error = await refused(rig)
    assert isinstance(error, Forbidden) and error.facts["reason"] == "taken"
    await rig.restart()
    assert isinstance(await refused(rig), Forbidden)


async def test_what_could_not_be_stored_is_not_enrolled(rig: HubRig) -> None:
    rig.engine.is_full = True
    assert isinstance(await refused(rig), DiskFull)
    rig.engine.is_full = False
    assert (await enrol(rig)).created


# --- roles ------------------------------------------------------------------


@pytest.mark.parametrize("role", ["master", "warden", "MASTER", " warden "])
async def test_the_secret_makes_workers_alone(rig: HubRig, role: str) -> None:
    error = await refused(rig, role=role)
    assert isinstance(error, Forbidden) and error.facts["reason"] == "role"
    assert not rig.hub.directory.has_account("main", "ada")
    await enrol(rig)
    assert isinstance(await refused(rig, role=role), Forbidden)
    assert (await enrol(rig, role="worker")).role == "worker"


async def test_other_roles_come_where_the_operator_lets_the_secret_give_them() -> None:
    async with fleet(secret_roles=("worker", "master")) as rig:
        boss = await enrol(rig, "boss-1", role="Master")
        assert boss.role == "master" and caller_of(rig, boss).role == "master"
        assert isinstance(await refused(rig, "eye-1", role="warden"), Forbidden)
        # What the secret may make at any time it may enter again.
        assert not (await enrol(rig, "boss-1", role="master")).created
        await enrol(rig)
        assert isinstance(await refused(rig, role="master"), Forbidden)
        rig.features = FeatureSettings(fleet=FleetSettings(secret=SECRET))
        await rig.restart()
        assert isinstance(await refused(rig, "boss-1"), Forbidden)
    async with fleet(secret_roles=("worker", "master", "warden")) as rig:
        await enrol(rig, "boss-1", role="master")
        await rig.hub.call(UpdateAccount(id="boss-1", role="warden"), caller=HUB)
        assert isinstance(await refused(rig, "boss-1"), Forbidden)
    async with fleet(hub=HubSettings(is_dev=True)) as rig:
        assert (await enrol(rig, "eye-1", role="warden")).role == "warden"


# --- coming again -----------------------------------------------------------


@pytest.mark.parametrize(
    ("is_loopback", "is_local", "setting", "may"),
    [
        (True, True, None, True), (True, False, None, False), (False, True, None, False),
        (False, False, None, False), (False, False, True, True), (True, True, False, False),
    ],
)  # fmt: skip
async def test_an_id_comes_again_by_the_secret_only_where_that_is_allowed(
    is_loopback: bool, is_local: bool, setting: bool | None, may: bool
) -> None:
    async with fleet(is_loopback=is_loopback, secret_reenrol=setting) as rig:
        first = await enrol(rig, is_local=is_local)
        assert first.created
        if may:
            again = await enrol(rig, "ADA", is_local=is_local)
            assert (again.created, again.agent_id) == (False, "ada")
            assert again.session_token != first.session_token
            assert caller_of(rig, again).account == "ada"
        else:
            error = await refused(rig, is_local=is_local)
            assert isinstance(error, Forbidden) and error.facts["reason"] == "reenrol"
        # The token of the first time is good in any case.
        assert caller_of(rig, first).account == "ada"


@pytest.mark.parametrize("role", ["master", "warden"])
async def test_a_master_or_warden_is_not_entered_by_the_secret(rig: HubRig, role: str) -> None:
    await enrol(rig)
    await rig.hub.call(UpdateAccount(id="ada", role=role), caller=HUB)  # type: ignore[arg-type]
    error = await refused(rig)
    assert isinstance(error, Forbidden) and error.facts["reason"] == "role"


async def test_an_account_of_another_proof_is_never_entered(rig: HubRig) -> None:
    await rig.account("ada")
    error = await refused(rig)
    assert isinstance(error, Forbidden) and error.facts["reason"] == "not_enrolled"
    await rig.restart()
    assert isinstance(await refused(rig), Forbidden)


async def test_the_secret_of_logins_and_that_of_the_fleet_open_no_account_of_each_other() -> None:
    features = FeatureSettings(
        fleet=FleetSettings(secret=SECRET),
        identity=IdentitySettings(proofs=["shared-secret"], shared_secret="the logins' secret"),
    )
    async with started_hub(features=features) as rig:
        login = FinishLogin(username="bob", secret="the logins' secret", address="")
        await rig.hub.call(login, caller=STRANGER)
        error = await refused(rig, "bob")
        assert isinstance(error, Forbidden) and error.facts["reason"] == "not_enrolled"
        await enrol(rig)
        for secret, how in ((SECRET, Unauthenticated), ("the logins' secret", Conflict)):
            with pytest.raises(how):
                login = FinishLogin(username="ada", secret=secret, address="")
                await rig.hub.call(login, caller=STRANGER)
        assert isinstance(await refused(rig, secret="the logins' secret"), Unauthenticated)


@pytest.mark.parametrize("is_revoked", [False, True])
@pytest.mark.parametrize("then", ["nothing", "a restart", "a crash"])
async def test_an_account_that_used_a_token_of_its_own_is_not_entered(
    rig: HubRig, is_revoked: bool, then: str
) -> None:
    await enrol(rig)
    own = await own_token(rig)
    assert not (await enrol(rig)).created, "a token that nobody used changes nothing"
    ada = rig.hub.authenticate(own.token)
    if is_revoked:
        await rig.hub.call(RevokeToken(id=own.id), caller=ada)
    if then == "a restart":
        await rig.restart()
    elif then == "a crash":
        await rig.clock.pass_time(2)
        await rig.crash()
    error = await refused(rig)
    assert isinstance(error, Forbidden) and error.facts["reason"] == "own_token"


async def test_tokens_of_enrolling_do_not_pile_up(rig: HubRig) -> None:
    enrolled = [await enrol(rig) for _ in range(12)]
    ada = caller_of(rig, enrolled[-1])
    listed = (await rig.hub.call(ListTokens(), caller=ada)).tokens
    assert [token.name for token in listed] == ["enrolled"] * TOKENS_KEPT
    for old in enrolled[:-TOKENS_KEPT]:
        with pytest.raises(Unauthenticated):
            caller_of(rig, old)
    for kept in enrolled[-TOKENS_KEPT:]:
        assert caller_of(rig, kept).account == "ada"
    await rig.crash()
    with pytest.raises(Unauthenticated):
        caller_of(rig, enrolled[0])
    outlet = rig.connect(caller_of(rig, enrolled[-TOKENS_KEPT]))
    await enrol(rig)
    assert outlet.end is End.REVOKED


async def test_a_takeover_is_told_to_masters_and_to_the_agent_itself(rig: HubRig) -> None:
    eye = rig.connect(await rig.account("eye", role="warden"), "system.fleet")
    first = caller_of(rig, await enrol(rig))
    await enrol(rig)
    await rig.settle()
    types = [frame.event["type"] for frame in eye.frames]
    assert types == ["fleet.enrolled", "fleet.enrolled"], "nobody was there to take over from"
    there = rig.connect(first, "agent.ada.inbox")
    await enrol(rig)
    await rig.settle()
    assert [frame.event["type"] for frame in eye.frames][2:] == [
        "fleet.enrolled", "fleet.taken_over",
    ]  # fmt: skip
    assert [frame.event["type"] for frame in there.frames] == ["fleet.taken_over"]
    assert there.frames[0].data["account"] == "ada"
    assert there.frames[0].event["actor"]["id"] == "hub"


async def test_who_enrolled_comes_again_after_a_restart(rig: HubRig) -> None:
    first = await enrol(rig, "Ada", role="researcher")
    await rig.clock.pass_time(2)
    await rig.crash()
    again = await enrol(rig, "ada")
    assert (again.created, again.handle) == (False, "Ada")
    ada = caller_of(rig, first)
    [shown] = (await rig.hub.call(ReadFleet(agent="ada"), caller=ada)).agents
    assert (shown.given_id, shown.role) == ("Ada", "researcher")


# --- limits -----------------------------------------------------------------


async def test_attempts_that_fail_are_limited_by_address() -> None:
    async with fleet(hub=HubSettings()) as rig:
        for _ in range(10):
            assert isinstance(await refused(rig, secret="no", address="192.0.2.1"), Unauthenticated)
        error = await refused(rig, address="192.0.2.1")
        assert isinstance(error, RateLimited) and error.retry_after_s
        assert (await enrol(rig, address="192.0.2.2")).created
        # IPv6: whoever has a /64 is one place.
        for n in range(10):
            await refused(rig, secret="no", address=f"2001:db8::{n}")
        assert isinstance(await refused(rig, address="2001:db8::ffff"), RateLimited)
        for n in range(10):
            with pytest.raises(Unauthenticated):
                call = ReadSecret(secret=f"no{n}", address="192.0.2.9")
                await rig.hub.call(call, caller=STRANGER)
        with pytest.raises(RateLimited):
            await rig.hub.call(ReadSecret(secret=SECRET, address="192.0.2.9"), caller=STRANGER)


async def test_an_agent_that_enrols_in_a_loop_is_slowed_down() -> None:
    async with fleet(hub=HubSettings()) as rig:
        errors: list[ClawError] = []
        for _ in range(25):
            try:
                await enrol(rig)
            except ClawError as error:
                errors.append(error)
        assert len(errors) == 5 and all(isinstance(error, RateLimited) for error in errors)
        assert (await enrol(rig, "bob")).created


# --- worlds -----------------------------------------------------------------


async def test_each_tenant_has_a_world_of_its_own(tmp_path: Path) -> None:
    tenants = tmp_path / "tenants.json"
    there = {"acme": "the secret of acme, inc", "other": "the secret of another"}
    tenants.write_bytes(msgspec.json.encode(there))
    settings = FleetSettings(secret=SECRET, tenants_path=str(tenants))
    features = FeatureSettings(fleet=settings, folder=None)
    async with started_hub(features=features) as rig:
        await rig.settle()
        main = await enrol(rig)
        acme = await enrol(rig, secret=f"acme:{there['acme']}", handle="Ada of Acme")
        assert (main.world, acme.world, acme.created) == ("main", "acme", True)
        assert caller_of(rig, acme).world == "acme"
        for shown in (f"acme:{there['other']}", f"acme:{SECRET}", there["acme"]):
            assert isinstance(await refused(rig, secret=shown), Unauthenticated)
        assert (await enrol(rig, secret=f"main:{SECRET}")).world == "main"
        seen = (await rig.hub.call(ReadFleet(), caller=caller_of(rig, acme))).agents
        assert [(one.id, one.handle) for one in seen] == [("ada", "Ada of Acme")]
        look = ReadSecret(secret=f"acme:{there['acme']}")
        assert await rig.hub.call(look, caller=STRANGER) == "acme"
        await rig.restart()
        await rig.settle()
        assert not (await enrol(rig, secret=f"acme:{there['acme']}")).created


async def test_the_token_of_a_tenants_administrator_lies_in_the_data_folder(tmp_path: Path) -> None:
    async with started_hub() as rig:
        there = {"main"}
        await make_worlds(rig.hub, ["main", "acme"], there=there, folder=tmp_path)
        path = tmp_path / "admin.acme.token"
        assert there == {"main", "acme"} and stat.S_IMODE(path.stat().st_mode) == 0o600
        admin = rig.hub.authenticate(path.read_text().strip())
        assert (admin.world, admin.account, admin.role) == ("acme", "admin", "master")
        # A later start finds the world and leaves the file alone.
        await make_worlds(rig.hub, ["acme"], there=set(), folder=tmp_path)
        assert rig.hub.authenticate(path.read_text().strip()).world == "acme"


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (None, "cannot be read"), ("", "no JSON object"), ("[]", "no JSON object"),
        ('{"a": 1}', "no JSON object"), ('{"A b": "0123456789abcdef"}', "world's id"),
        ('{"acme": "short"}', "needs 16"), ('{"acme": ""}', "needs 16"),
    ],
)  # fmt: skip
async def test_tenants_that_cannot_be_read_or_be_guessed_stop_the_start(
    tmp_path: Path, written: str | None, words: str
) -> None:
    path = tmp_path / "tenants.json"
    if written is not None:
        path.write_text(written)
    with pytest.raises(BadConfiguration, match=words) as caught:
        _attach(FleetSettings(tenants_path=str(path)), is_loopback=False)
    assert caught.value.next and "short" not in caught.value.message


async def test_a_secret_that_can_be_guessed_stops_the_start_where_others_can_come_in() -> None:
    with pytest.raises(BadConfiguration, match="15 characters") as caught:
        _attach(FleetSettings(secret="x" * 15), is_loopback=False)
    assert "openssl" in caught.value.next
    _attach(FleetSettings(secret="x" * 16), is_loopback=False)
    _attach(FleetSettings(secret="short"), is_loopback=True)
    _attach(FleetSettings(secret=""), is_loopback=False)


def _attach(settings: FleetSettings, *, is_loopback: bool) -> None:
    clock = LoopClock()
    engine = MemoryEngine(clock=clock, randomness=FakeRandomness("engine"))
    FleetFeature(settings).register(make_hub(engine, clock, is_loopback=is_loopback))


# --- who is no agent --------------------------------------------------------


async def opened(rig: HubRig, **named: Any) -> SessionOpened:
    call = OpenSession(**{"secret": SECRET, **named})
    answer: SessionOpened = await rig.hub.call(call, caller=STRANGER)
    return answer


async def test_a_session_by_the_secret_reads_and_does_nothing_else(rig: HubRig) -> None:
    await enrol(rig)
    session = await opened(rig)
    guest = rig.hub.authenticate(session.token)
    assert (session.role, session.account, guest.role) == ("worker", "fleet-observer", "worker")
    assert [one.id for one in (await rig.hub.call(ReadFleet(), caller=guest)).agents] == ["ada"]
    with pytest.raises(Forbidden):
        await rig.publish(guest, "public.lobby", {"text": "hello"})
    with pytest.raises(Forbidden):
        await rig.hub.call(CreateToken(), caller=guest)
    with pytest.raises(ClawError):
        await enrol(rig, "fleet-observer")
    left_ms = (guest.expires_ms or 0) - rig.hub.retention.now_ms()
    assert left_ms == 86_400_000 and session.expires == rfc3339(guest.expires_ms or 0)


async def test_sessions_do_not_pile_up_and_the_standing_one_is_one(rig: HubRig) -> None:
    first = await opened(rig, is_standing=True)
    assert await opened(rig, is_standing=True) == first
    many = [await opened(rig) for _ in range(60)]
    tokens = rig.hub.directory.tokens_of("main", "fleet-observer")
    assert len(tokens) == 50
    assert rig.hub.authenticate(many[-1].token).account == "fleet-observer"
    # It was the oldest of them, and is replaced.
    assert (await opened(rig, is_standing=True)).token != first.token


async def test_a_session_is_a_masters_only_where_the_secret_makes_masters() -> None:
    async with fleet(secret_roles=("worker", "master")) as rig:
        session = await opened(rig)
        master = rig.hub.authenticate(session.token)
        assert (session.role, master.role, master.account) == ("master", "master", "fleet-master")
        rig.features = FeatureSettings(fleet=FleetSettings(secret=SECRET))
        await rig.restart()
        await rig.settle()
        with pytest.raises(Unauthenticated):
            rig.hub.authenticate(session.token)
        assert (await opened(rig)).role == "worker"


async def test_a_session_needs_the_account_that_the_hub_made_for_it(rig: HubRig) -> None:
    await rig.account("fleet-observer")
    with pytest.raises(Forbidden):
        await opened(rig)


async def test_ten_sessions_a_minute_and_address_are_opened() -> None:
    async with fleet(hub=HubSettings()) as rig:
        for _ in range(10):
            await opened(rig, address="192.0.2.1")
        with pytest.raises(RateLimited) as caught:
            await opened(rig, address="192.0.2.1")
        assert 0 < (caught.value.retry_after_s or 0) <= 6
        await opened(rig, address="192.0.2.2")
