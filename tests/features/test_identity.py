"""Who logs in: whose profile it is, what is pending, which account a proof opens."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from clawnet.core.callers import HUB, STRANGER, Caller
from clawnet.core.calls.accounts import CreateAccount, DeleteAccount, ReadAccount
from clawnet.core.calls.identity import (
    AddKey,
    BeginLogin,
    FinishLogin,
    JoinLogin,
    KeyChallenge,
    LoggedIn,
    PostChallenge,
)
from clawnet.core.calls.invitations import CreateInvitation
from clawnet.core.calls.tokens import CreateToken, IssueJwt, ListTokens, RevokeToken
from clawnet.core.errors import (
    BadConfiguration,
    BadRequest,
    ChallengeExpired,
    ClawError,
    Conflict,
    InvitationInvalid,
    NotFound,
    ProofUnavailable,
    RateLimited,
    Unauthenticated,
)
from clawnet.core.live import End
from clawnet.engines.memory import MemoryEngine
from clawnet.features.identity import IdentityFeature, pending
from clawnet.features.identity.moltbook import BODY_MAX_BYTES
from clawnet.features.identity.settings import IdentitySettings
from clawnet.hub import tokens
from clawnet.hub.settings import HubSettings, LimitSettings, TokenSettings
from clawnet.testing.clocks import FakeRandomness
from clawnet.testing.hubs import FaultyEngine, HubRig, make_hub
from clawnet.testing.loops import LoopClock
from clawnet.testing.moltbook import APP_KEY, CHUNK_BYTES, KEY, FakeMoltbook

SECRET = "a secret of the hub's operator"
JWT_KEY = "a key that a Centrifugo has as well, of 32 bytes or more"
WEEK_S = 7 * 86_400


class Desk:
    """A hub with all proofs, its Moltbook, and what clients of it do."""

    def __init__(self, rig: HubRig, moltbook: FakeMoltbook) -> None:
        self.rig = rig
        self.hub = rig.hub
        self.moltbook = moltbook

    async def begin(self, username: str, *, address: str = "192.0.2.1") -> PostChallenge:
        call = BeginLogin(username=username, address=address)
        challenge = await self.hub.call(call, caller=STRANGER)
        assert isinstance(challenge, PostChallenge)
        return challenge

    async def verify(
        self, username: str, claim: str | None, *, address: str = "192.0.2.1", **more: Any
    ) -> LoggedIn:
        call = FinishLogin(username=username, claim=claim, address=address, **more)
        found: LoggedIn = await self.hub.call(call, caller=STRANGER)
        return found

    async def log_in(self, username: str = "alice", **how: Any) -> LoggedIn:
        """The whole way by a profile."""
        challenge = await self.begin(username, **how)
        self.moltbook.agent(username, f"I am {username}. {challenge.signature}")
        return await self.verify(username, challenge.claim, **how)

    async def refuses(self, error: type[ClawError], *args: Any, **named: Any) -> ClawError:
        """verify() that must fail; nobody has an account or token from it."""
        before = await self.state()
        with pytest.raises(error) as met:
            await self.verify(*args, **named)
        assert await self.state() == before
        return met.value

    async def state(self) -> Any:
        directory = self.hub.directory
        accounts = sorted(directory.all_accounts(), key=lambda one: (one.world, one.id))
        return [(a, [t.id for t in directory.tokens_of(a.world, a.id)]) for a in accounts]


@pytest.fixture
def settings() -> HubSettings:
    return HubSettings(
        limits=LimitSettings(enabled=False), tokens=TokenSettings(jwt_key=JWT_KEY), is_dev=True
    )


@pytest.fixture
def identity() -> IdentitySettings:
    return IdentitySettings(
        proofs=["moltbook", "ssh-key", "shared-secret"],
        moltbook_key=KEY,
        moltbook_app_key=APP_KEY,
        shared_secret=SECRET,
    )


@pytest.fixture
async def desk(settings: HubSettings, identity: IdentitySettings) -> AsyncIterator[Desk]:
    clock = LoopClock()
    moltbook = FakeMoltbook()
    engine = FaultyEngine(MemoryEngine(clock=clock, randomness=FakeRandomness("engine")))
    hub = make_hub(engine, clock, settings)
    hub.attach(IdentityFeature(identity, transport=moltbook.transport()))
    await hub.start()
    rig = HubRig(hub, clock, engine)
    yield Desk(rig, moltbook)
    engine.is_full = False
    # Another one after a restart.
    await rig.hub.close()


# --- what must not happen -----------------------------------------------------


async def test_a_signature_in_somebody_elses_profile_proves_nothing(desk: Desk) -> None:
    challenge = await desk.begin("alice")
    desk.moltbook.agent("alice", "nothing here")
    desk.moltbook.agent("mallory", challenge.signature, posts=(challenge.signature,))
    error = await desk.refuses(Unauthenticated, "alice", challenge.claim)
    assert error.message == "signature not found"
    # Nor if Moltbook shows another profile than the one that was asked for.
    desk.moltbook.shown_instead = "mallory"
    await desk.refuses(Unauthenticated, "alice", challenge.claim)


async def test_a_signature_in_a_post_of_somebody_else_proves_nothing(desk: Desk) -> None:
    challenge = await desk.begin("alice")
    quoted = {"title": "look", "content": challenge.signature, "author": {"name": "mallory"}}
    desk.moltbook.agent("alice", posts=(quoted, {**quoted, "author": "mallory"}))
    await desk.refuses(Unauthenticated, "alice", challenge.claim)


async def test_a_name_that_is_not_on_moltbook_proves_nothing(desk: Desk) -> None:
    challenge = await desk.begin("alice")
    await desk.refuses(Unauthenticated, "alice", challenge.claim)


@pytest.mark.parametrize("claim", [None, "", "claim_x", "claw-sig-x", "\ud800"], ids=ascii)
async def test_the_public_signature_gives_nobody_else_the_token(
    desk: Desk, claim: str | None
) -> None:
    challenge = await desk.begin("alice")
    desk.moltbook.agent("alice", challenge.signature)
    error = await desk.refuses(BadRequest, "alice", claim, address="203.0.113.9")
    assert error.message == ("Nothing is pending for this name and claim." if claim else
                             "claim required")  # fmt: skip
    await desk.refuses(BadRequest, "alice", challenge.signature, address="203.0.113.9")
    # Nor who began a login of its own for the same name, elsewhere.
    other = await desk.begin("alice", address="203.0.113.9")
    await desk.refuses(Unauthenticated, "alice", other.claim, address="203.0.113.9")
    # Nor its claim together with another name.
    desk.moltbook.agent("mallory", challenge.signature)
    await desk.refuses(BadRequest, "mallory", challenge.claim)
    assert (await desk.verify("alice", challenge.claim)).username == "alice"


async def test_an_expired_challenge_is_told_from_none(desk: Desk) -> None:
    challenge = await desk.begin("alice")
    desk.moltbook.agent("alice", challenge.signature)
    desk.rig.clock.advance(600)
    error = await desk.refuses(ChallengeExpired, "alice", challenge.claim)
    assert error.status == 410
    await desk.refuses(BadRequest, "bob", challenge.claim)
    desk.rig.clock.advance(600)
    await desk.refuses(BadRequest, "alice", challenge.claim)


async def test_a_challenge_holds_for_ten_minutes(desk: Desk) -> None:
    challenge = await desk.begin("alice")
    desk.moltbook.agent("alice", challenge.signature)
    assert challenge.expires_at == desk.rig.clock.wall_ms() // 1_000 + 600
    desk.rig.clock.advance(599)
    await desk.verify("alice", challenge.claim)


async def test_a_challenge_is_good_once(desk: Desk) -> None:
    challenge = await desk.begin("alice")
    desk.moltbook.agent("alice", challenge.signature)
    await desk.verify("alice", challenge.claim)
    await desk.refuses(BadRequest, "alice", challenge.claim)


async def test_of_two_that_verify_at_once_one_gets_the_token(desk: Desk) -> None:
    challenge = await desk.begin("alice")
    desk.moltbook.agent("alice", challenge.signature)
    desk.moltbook.held = asyncio.Event()
    both = [desk.hub.spawn(desk.verify("alice", challenge.claim)) for _ in range(2)]
    await desk.rig.settle()
    desk.moltbook.held.set()
    await desk.rig.settle()
    errors = [task.exception() for task in both]
    assert sum(error is None for error in errors) == 1, errors
    assert any(isinstance(error, BadRequest) for error in errors), errors


@pytest.mark.parametrize("name", ["admin", "support", "hub", "me", "adm1n"])
async def test_reserved_names_and_their_lookalikes_are_refused_at_once(
    desk: Desk, name: str
) -> None:
    with pytest.raises(BadRequest):
        await desk.begin(name)
    assert desk.moltbook.asked == []


@pytest.mark.parametrize(
    "name", ["", "  ", "a b", "../x", "a/b", "a?name=b", "ä", "\u212a", "x" * 65, "a.b", "a\n"],
    ids=ascii,
)  # fmt: skip
async def test_what_cannot_be_a_name_is_refused_before_moltbook_is_asked(
    desk: Desk, name: str
) -> None:
    if name == "a\n":
        # Blanks at the ends are a slip of the pen, as in the published client.
        assert (await desk.begin(name)).username == "a"
        return
    with pytest.raises(BadRequest):
        await desk.begin(name)
    await desk.refuses(BadRequest, name, "claim")
    assert desk.moltbook.asked == []


@pytest.mark.parametrize("kind", ["operator", "invitation", "dev", "shared-secret"])
async def test_an_account_that_was_made_otherwise_is_never_handed_over(
    desk: Desk, kind: str
) -> None:
    early = await desk.begin("alice")
    desk.moltbook.agent("Alice", early.signature)
    if kind == "operator":
        await desk.rig.account("alice")
    elif kind == "invitation":
        master = await desk.rig.account("boss", role="master")
        made = await desk.hub.call(CreateInvitation(), caller=master)
        secret = made.link.partition("#")[2]
        await desk.hub.call(JoinLogin(username="alice", invitation=secret), caller=STRANGER)
    elif kind == "dev":
        await desk.hub.call(JoinLogin(username="alice"), caller=STRANGER)
    else:
        await desk.verify("alice", None, secret=SECRET)
    # What began before the account was there, and what begins now.
    await desk.refuses(Conflict, "alice", early.claim)
    with pytest.raises(Conflict) as met:
        await desk.begin("ALICE")
    assert "not made by this proof" in met.value.message


async def test_the_name_of_a_deleted_account_is_never_given_again(desk: Desk) -> None:
    await desk.log_in("alice")
    challenge = await desk.begin("alice")
    desk.moltbook.agent("alice", challenge.signature)
    master = await desk.rig.account("boss", role="master")
    await desk.hub.call(DeleteAccount(id="alice"), caller=master)
    await desk.refuses(Conflict, "alice", challenge.claim)


async def test_of_one_name_and_address_five_challenges_wait(desk: Desk) -> None:
    for _ in range(5):
        await desk.begin("alice")
    with pytest.raises(RateLimited) as met:
        await desk.begin("Alice")
    assert met.value.status == 429 and met.value.retry_after_s == 600
    await desk.begin("alice", address="192.0.2.2")
    await desk.begin("bob")
    desk.rig.clock.advance(600)
    await desk.begin("alice")


async def test_a_hundred_challenges_of_others_keep_nobody_out(desk: Desk) -> None:
    mine = await desk.begin("alice", address="192.0.2.77")
    desk.moltbook.agent("alice", mine.signature)
    others = [await desk.begin("alice", address=f"198.51.100.{n // 5}") for n in range(100)]
    for other in others:
        await desk.refuses(Unauthenticated, "alice", other.claim, address="198.51.100.1")
        desk.rig.clock.advance(2)
    assert (await desk.verify("alice", mine.claim)).username == "alice"


async def test_neighbours_in_one_ipv6_network_count_as_one_address(desk: Desk) -> None:
    for n in range(5):
        await desk.begin("alice", address=f"2001:db8::{n}")
    with pytest.raises(RateLimited):
        await desk.begin("alice", address="2001:db8::ffff:1")
    await desk.begin("alice", address="2001:db8:0:1::1")


async def test_all_that_wait_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = pending.PendingChallenges(
        desk.rig.clock, ttl_s=60, remembered_s=60, pending_max=1_000
    )
    for n in range(1_000):
        waiting.add(f"s{n}", name=f"n{n}", address=f"a{n}", text="t")
    with pytest.raises(RateLimited):
        waiting.add("one more", name="x", address="y", text="t")
    # What is over makes room, and is remembered within the same bound.
    desk.rig.clock.advance(60)
    for n in range(1_000):
        waiting.add(f"t{n}", name=f"n{n}", address=f"a{n}", text="t")
    assert len(waiting) == 1_000
    with pytest.raises(ChallengeExpired):
        waiting.find("s999", name="n999")
    one = [waiting.find(f"t{n}", name=f"n{n}") for n in range(1_000)]
    assert all(found is not None and waiting.take(found) for found in one)
    assert (len(waiting), len(waiting._of_both), len(waiting._of_place)) == (0, 0, 0)


async def test_what_is_remembered_of_the_past_is_bounded_too(desk: Desk) -> None:
    waiting = pending.PendingChallenges(
        desk.rig.clock, ttl_s=60, remembered_s=6_000, pending_max=100
    )
    for round_ in range(3):
        for n in range(100):
            waiting.add(f"s{round_}-{n}", name="a", address=f"a{n}", text="t")
        desk.rig.clock.advance(60)
    # The oldest are forgotten, the last are told from what never was.
    assert waiting.find("s0-0", name="a") is None
    with pytest.raises(ChallengeExpired):
        waiting.find("s2-99", name="a")
    assert len(waiting._over) == 100


@pytest.mark.parametrize("per_name", [1, 5])
async def test_one_address_cannot_begin_without_end_and_keeps_nobody_there_out(
    desk: Desk, per_name: int
) -> None:
    many = pending.PER_ADDRESS_MAX // per_name
    others = [await desk.begin(f"agent-{n // per_name}") for n in range(many * per_name)]
    mine = await desk.begin("alice")
    desk.moltbook.agent("alice", mine.signature)
    # What waits has not become more: the oldest of those that are many had to go.
    await desk.refuses(BadRequest, "agent-0", others[0].claim)
    await desk.refuses(Unauthenticated, "agent-1", others[per_name].claim)
    for n in range(100):
        await desk.begin(f"another-{n}")
    assert (await desk.verify("alice", mine.claim)).username == "alice"


async def test_where_many_wait_the_name_with_the_most_gives_way(desk: Desk) -> None:
    waiting = pending.PendingChallenges(desk.rig.clock, ttl_s=60)
    waiting.add("early", name="early", address="a", text="t")
    for n in range(pending.PER_ADDRESS_MAX - 1):
        waiting.add(f"s{n}", name="many" if n % 50 == 7 else f"n{n}", address="a", text="t")
    waiting.add("elsewhere", name="x", address="b", text="t")
    for gone in ("s7", "s57", "s107"):
        assert waiting.find(gone, name="many") is not None
        waiting.add(f"instead of {gone}", name=f"late {gone}", address="a", text="t")
        assert waiting.find(gone, name="many") is None
    # Now all are alike, and the oldest goes.
    assert waiting.find("early", name="early") is not None
    waiting.add("last", name="last", address="a", text="t")
    assert waiting.find("early", name="early") is None
    assert waiting.find("s157", name="many") is not None
    assert waiting.find("elsewhere", name="x") is not None
    assert len(waiting) == pending.PER_ADDRESS_MAX + 1


class TestLimited:
    """With limits on."""

    @pytest.fixture
    def settings(self) -> HubSettings:
        return HubSettings()

    async def test_who_guesses_claims_has_to_wait_and_others_have_not(self, desk: Desk) -> None:
        challenge = await desk.begin("alice")
        desk.moltbook.agent("alice", challenge.signature)
        tried = itertools.count()
        with pytest.raises(RateLimited):
            while next(tried) < 100:
                with pytest.raises(BadRequest):
                    await desk.verify("alice", "claim_guessed", address="203.0.113.9")
        assert next(tried) < 20
        assert (await desk.verify("alice", challenge.claim)).username == "alice"

    async def test_one_address_does_not_use_up_what_moltbook_may_be_asked(self, desk: Desk) -> None:
        statuses = []
        for n in range(60):
            challenge = await desk.begin(f"agent-{n}", address="203.0.113.9")
            with pytest.raises((Unauthenticated, RateLimited)) as met:
                await desk.verify(f"agent-{n}", challenge.claim, address="203.0.113.9")
            statuses.append(met.value.status)
        assert {*statuses} == {401, 429} and len(desk.moltbook.asked) < 20
        assert (await desk.log_in("alice")).username == "alice"

    async def test_who_asks_for_names_that_are_taken_has_to_wait(self, desk: Desk) -> None:
        await desk.hub.call(CreateAccount(id="bob"), caller=HUB)
        tried = itertools.count()
        with pytest.raises(RateLimited):
            while next(tried) < 100:
                with pytest.raises(Conflict):
                    await desk.begin("bob")
        assert next(tried) < 20


async def test_moltbook_is_asked_at_most_a_hundred_times_a_minute(desk: Desk) -> None:
    desk.moltbook.agent("alice", "nothing")
    challenge = await desk.begin("alice")
    refused = 0
    for _ in range(240):
        try:
            await desk.verify("alice", challenge.claim)
        except Unauthenticated:
            pass
        except RateLimited as error:
            assert error.retry_after_s is not None
            refused += 1
        desk.rig.clock.advance(0.25)
    assert len(desk.moltbook.asked) + refused == 240
    assert 90 <= len(desk.moltbook.asked) <= 100


# --- what must happen ---------------------------------------------------------


async def test_a_profile_opens_an_account_of_that_name(desk: Desk) -> None:
    logged_in = await desk.log_in("alice")
    caller = desk.hub.authenticate(logged_in.token)
    assert (caller.account, caller.role, caller.kind) == ("alice", "worker", "agent")
    info = await desk.hub.call(ReadAccount(id="alice"), caller=caller)
    assert (info.proof, info.proved_by) == ("moltbook", None)
    asked = desk.moltbook.asked[-1]
    assert asked.query == {"name": "alice"}
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    await desk.rig.publish(caller, "agent.alice.public.hello", "hi")


@pytest.mark.parametrize("where", ["title", "content", "text"])
async def test_a_recent_post_does_as_well(desk: Desk, where: str) -> None:
    challenge = await desk.begin("alice")
    mine = {where: f"so: {challenge.signature}!", "author": {"name": "ALICE"}}
    desk.moltbook.agent("alice", posts=("first", {"title": None, "content": 7}, mine))
    assert (await desk.verify("alice", challenge.claim)).username == "alice"


async def test_names_are_folded_as_moltbook_folds_them(desk: Desk) -> None:
    challenge = await desk.begin("ALICE")
    desk.moltbook.agent("Alice", challenge.signature)
    assert challenge.username == "alice"
    first = await desk.verify("aLiCe", challenge.claim)
    assert first.username == "alice"
    account = desk.hub.directory.account("main", "alice")
    # It is called as Moltbook spells it.
    assert account is not None and (account.id, account.handle) == ("alice", "Alice")
    second = await desk.log_in("alicE")
    callers = {desk.hub.authenticate(one.token).account for one in (first, second)}
    assert callers == {"alice"}


async def test_the_kind_and_the_time_of_the_last_proof_are_kept(desk: Desk) -> None:
    await desk.log_in("alice")
    first = desk.hub.directory.account("main", "alice")
    desk.rig.clock.advance(3_600)
    await desk.log_in("alice")
    second = desk.hub.directory.account("main", "alice")
    assert first is not None and second is not None
    assert second.proof == first.proof == "moltbook"
    assert second.proved_ms - first.proved_ms == 3_600_000
    await desk.rig.restart()
    assert desk.rig.hub.directory.account("main", "alice") == second


async def test_an_identity_token_needs_no_post(desk: Desk) -> None:
    call = BeginLogin(username="alice", audience="https://hub.example")
    challenge = await desk.hub.call(call, caller=STRANGER)
    assert challenge.audience == "https://hub.example"
    desk.moltbook.agent("alice")
    token = desk.moltbook.identity_token("Alice", audience="https://hub.example")
    audience = "https://hub.example"
    for wrong, where in (
        ("idt_none", audience),
        (desk.moltbook.identity_token("bob", audience=audience), audience),
        (desk.moltbook.identity_token("alice", audience="https://other.example"), audience),
        ("x" * 10_000, audience),
    ):
        error = await desk.refuses(
            Unauthenticated, "alice", challenge.claim, token=wrong, audience=where
        )
        assert error.message == "identity token not valid"
    error = await desk.refuses(BadRequest, "alice", None, token=token, audience=audience)
    assert error.message == "claim required"
    # Where it is not known what the hub is called, a token for any other would do.
    await desk.refuses(BadRequest, "alice", challenge.claim, token=token)
    found = await desk.verify("alice", challenge.claim, token=token, audience=audience)
    assert desk.hub.authenticate(found.token).account == "alice"
    asked = desk.moltbook.asked[-1]
    assert asked.headers["x-moltbook-app-key"] == APP_KEY
    assert asked.body == {"token": token, "audience": audience}
    assert all(one.path != "/api/v1/agents/profile" for one in desk.moltbook.asked)


# --- Moltbook misbehaves ------------------------------------------------------


@pytest.mark.parametrize(
    "trouble, logged",
    [
        ("failing", "503"), ("large", "too large"), ("large_unannounced", "too large"),
        ("nonsense", "not what was expected"), ("other_json", "not what was expected"),
        ("redirect", "moltbook_url"), ("limited", "429"),
        ("says_failed", "says that it failed"), ("compressed", "compressed"),
    ],
)  # fmt: skip
async def test_what_moltbook_should_not_answer_is_502_and_nobody_is_let_in(
    desk: Desk, trouble: Any, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    challenge = await desk.begin("alice")
    desk.moltbook.agent("alice", challenge.signature)
    desk.moltbook.trouble = trouble
    error = await desk.refuses(ProofUnavailable, "alice", challenge.claim)
    assert (error.status, error.retryable) == (502, True)
    assert "Moltbook" in caplog.text and logged in caplog.text and KEY not in caplog.text
    assert len(desk.moltbook.asked) == 1, "it was asked again, as by a redirect"
    # Of a body of 1 MB nothing is read if it is announced, and else little more than is admitted.
    most = {"large": 0, "large_unannounced": BODY_MAX_BYTES + CHUNK_BYTES}.get(trouble, 10_000)
    assert desk.moltbook.taken_bytes <= most
    token = desk.moltbook.identity_token("alice", audience="a")
    await desk.refuses(ProofUnavailable, "alice", challenge.claim, token=token, audience="a")
    # The claim is still good when it is over.
    desk.moltbook.trouble = None
    assert (await desk.verify("alice", challenge.claim)).username == "alice"


async def test_who_has_an_account_goes_on_while_moltbook_is_down(desk: Desk) -> None:
    logged_in = await desk.log_in("alice")
    challenge = await desk.begin("alice")
    desk.moltbook.url = "down"
    await desk.refuses(ProofUnavailable, "alice", challenge.claim)
    caller = desk.hub.authenticate(logged_in.token)
    await desk.rig.publish(caller, "public.lobby", "still here")
    made = await desk.hub.call(CreateToken(name="mine", expires_in_s=60), caller=caller)
    assert desk.hub.authenticate(made.token).account == "alice"


async def test_a_refused_key_of_the_hub_is_not_the_agents_fault(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    challenge = await desk.begin("alice")
    monkeypatch.setattr("clawnet.testing.moltbook.KEY", "another")
    monkeypatch.setattr("clawnet.testing.moltbook.APP_KEY", "another")
    await desk.refuses(ProofUnavailable, "alice", challenge.claim)
    assert "identity.moltbook_key" in caplog.text
    await desk.refuses(ProofUnavailable, "alice", challenge.claim, token="idt", audience="a")


# --- the token ----------------------------------------------------------------


async def test_the_token_is_a_jwt_that_others_with_the_key_can_read(desk: Desk) -> None:
    logged_in = await desk.log_in("Alice")
    claims = jwt.decode(
        logged_in.token, JWT_KEY, algorithms=["HS256"], audience="clawnet",
        options={"verify_exp": False, "verify_iat": False},
    )  # fmt: skip
    assert claims["sub"] == "alice" and claims["jti"] == logged_in.jti
    assert claims["exp"] - claims["iat"] == WEEK_S
    assert claims["iat"] == desk.rig.clock.wall_ms() // 1_000
    assert jwt.get_unverified_header(logged_in.token) == {"alg": "HS256", "typ": "JWT"}


async def test_it_holds_for_seven_days_and_no_longer(desk: Desk) -> None:
    token = (await desk.log_in()).token
    desk.rig.clock.advance(WEEK_S - 1)
    desk.hub.authenticate(token)
    await desk.rig.restart()
    desk.rig.hub.authenticate(token)
    desk.rig.clock.advance(1)
    with pytest.raises(Unauthenticated, match="expired"):
        desk.rig.hub.authenticate(token)
    await desk.rig.restart()
    with pytest.raises(Unauthenticated, match="expired"):
        desk.rig.hub.authenticate(token)


async def test_it_is_revoked_by_its_name_also_in_a_run_that_never_saw_it(desk: Desk) -> None:
    first, second = await desk.log_in(), await desk.log_in()
    await desk.rig.restart()
    hub = desk.rig.hub
    caller = hub.authenticate(second.token)
    outlet = desk.rig.connect(hub.authenticate(first.token))
    await hub.call(RevokeToken(id=first.jti), caller=caller)
    assert outlet.end is End.REVOKED
    with pytest.raises(Unauthenticated):
        hub.authenticate(first.token)
    desk.rig.clock.advance(WEEK_S - 10)
    await desk.rig.restart()
    await tokens.Tokens(desk.rig.hub).sweep()
    with pytest.raises(Unauthenticated, match="not valid"):
        desk.rig.hub.authenticate(first.token)
    desk.rig.hub.authenticate(second.token)


async def test_of_too_many_logins_the_oldest_ends(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "LOGINS_PER_ACCOUNT_MAX", 3)
    logins = [await desk.log_in()]
    outlet = desk.rig.connect(desk.hub.authenticate(logins[0].token))
    for _ in range(3):
        desk.rig.clock.advance(60)
        logins.append(await desk.log_in())
    assert outlet.end is End.REVOKED
    with pytest.raises(Unauthenticated):
        desk.hub.authenticate(logins[0].token)
    for one in logins[1:]:
        desk.hub.authenticate(one.token)
    desk.rig.clock.advance(WEEK_S)
    await desk.log_in()
    stored = desk.hub.directory.tokens_of("main", "alice")
    assert len(stored) == 1, "what has expired is forgotten"
    await desk.rig.restart()
    assert len(desk.rig.hub.directory.tokens_of("main", "alice")) == 1


async def test_what_is_made_from_a_login_lives_no_longer_than_others(desk: Desk) -> None:
    caller = desk.hub.authenticate((await desk.log_in()).token)
    with pytest.raises(BadRequest):
        await desk.hub.call(IssueJwt(ttl_s=WEEK_S), caller=caller)
    issued = await desk.hub.call(IssueJwt(ttl_s=86_400), caller=caller)
    assert 86_399 <= issued.expires_in_s <= 86_400


async def test_nobody_names_a_token_as_those_of_logins_are(desk: Desk) -> None:
    caller = desk.hub.authenticate((await desk.log_in()).token)
    with pytest.raises(BadRequest):
        await desk.hub.call(CreateToken(name="claw.events"), caller=caller)
    listed = await desk.hub.call(ListTokens(), caller=caller)
    assert {one.name for one in listed.tokens} == {"claw.events"}


async def test_a_login_that_cannot_be_stored_gives_nothing(desk: Desk) -> None:
    challenge = await desk.begin("alice")
    desk.moltbook.agent("alice", challenge.signature)
    desk.rig.engine.is_full = True
    await desk.refuses(ClawError, "alice", challenge.claim)
    desk.rig.engine.is_full = False
    assert (await desk.log_in("alice")).username == "alice"


# --- other proofs -------------------------------------------------------------


async def test_the_shared_secret_takes_a_new_name_once(desk: Desk) -> None:
    for wrong in ("", "a secret", SECRET + "x", "\ud800"):
        with pytest.raises((Unauthenticated, BadRequest)):
            await desk.verify("carol", None, secret=wrong)
    made = await desk.verify("Carol", None, secret=SECRET)
    caller = desk.hub.authenticate(made.token)
    assert (caller.account, caller.role) == ("carol", "worker")
    assert "claw key add" in made.hint
    error = await desk.refuses(Conflict, "carol", None, secret=SECRET)
    assert "a secret opens a new name once" in error.message
    assert "claw key add" in error.next and "token" in error.next
    # Of an account that something else made nothing of that is said.
    await desk.rig.account("dan")
    error = await desk.refuses(Conflict, "dan", None, secret=SECRET)
    assert "not made by this proof" in error.message
    with pytest.raises(BadRequest):
        await desk.verify("admin", None, secret=SECRET)


async def test_the_shared_secret_makes_so_many_accounts(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawnet.features.identity.feature.MADE_BY_SECRET_MAX", 2)
    for name in ("carol", "dave"):
        await desk.verify(name, None, secret=SECRET)
    await desk.refuses(NotFound, "eve", None, secret=SECRET)


@pytest.mark.parametrize("secret", [None, "", "short"])
def test_a_shared_secret_that_can_be_guessed_is_refused(secret: str | None) -> None:
    async def run() -> None:
        clock = LoopClock()
        engine = MemoryEngine(clock=clock, randomness=FakeRandomness("engine"))
        hub = make_hub(engine, clock)
        settings = IdentitySettings(proofs=["shared-secret"], shared_secret=secret)
        hub.attach(IdentityFeature(settings))

    with pytest.raises(BadConfiguration, match="shared_secret"):
        asyncio.run(run())


async def test_who_was_made_otherwise_is_asked_for_its_key_where_moltbook_stands_first(
    desk: Desk,
) -> None:
    bob = await desk.rig.account("bob")
    with pytest.raises(Conflict):
        await desk.begin("bob")
    made = Ed25519PrivateKey.from_private_bytes(b"k" * 32).public_key()
    line = made.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    await desk.hub.call(AddKey(public_key=line), caller=bob)
    challenge = await desk.hub.call(BeginLogin(username="bob"), caller=STRANGER)
    assert isinstance(challenge, KeyChallenge) and challenge.key_name == "main"
    # Whose account Moltbook made is asked for a post, as long as it names no key.
    caller = desk.hub.authenticate((await desk.log_in("alice")).token)
    await desk.hub.call(AddKey(public_key=line), caller=caller)
    assert (await desk.begin("alice")).signature


def test_moltbook_without_any_key_of_its_is_refused() -> None:
    with pytest.raises(BadConfiguration, match="moltbook_key"):
        IdentitySettings(proofs=["ssh-key", "moltbook"]).check()
    IdentitySettings(proofs=["moltbook"], moltbook_key=KEY).check()
    IdentitySettings(proofs=["moltbook"], moltbook_app_key=APP_KEY).check()


def test_a_key_of_moltbooks_adds_its_proof_unless_the_proofs_are_named() -> None:
    assert IdentitySettings().taken == ["ssh-key"]
    assert IdentitySettings(moltbook_key=KEY).taken == ["moltbook", "ssh-key"]
    assert IdentitySettings(moltbook_app_key=APP_KEY).taken == ["moltbook", "ssh-key"]
    assert IdentitySettings(proofs=[], moltbook_key=KEY).taken == []
    twice = IdentitySettings(proofs=["ssh-key", "ssh-key"], moltbook_key=KEY)
    assert twice.taken == ["ssh-key"]
    assert IdentitySettings(moltbook_key="").taken == ["ssh-key"]


async def test_an_invitation_gives_a_login_once(desk: Desk) -> None:
    master = await desk.rig.account("boss", role="master")
    made = await desk.hub.call(CreateInvitation(), caller=master)
    secret = made.link.partition("#")[2]
    call = JoinLogin(username="Dora", invitation=secret)
    joined = await desk.hub.call(call, caller=STRANGER)
    assert joined.username == "dora"
    assert desk.hub.authenticate(joined.token).account == "dora"
    with pytest.raises(InvitationInvalid):
        await desk.hub.call(JoinLogin(username="eve", invitation=secret), caller=STRANGER)


async def test_development_registers_a_new_name_only(desk: Desk) -> None:
    made = await desk.hub.call(JoinLogin(username="Fred"), caller=STRANGER)
    caller: Caller = desk.hub.authenticate(made.token)
    assert caller.account == "fred"
    claims = jwt.decode(made.token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == WEEK_S
    with pytest.raises(Conflict):
        await desk.hub.call(JoinLogin(username="fred"), caller=STRANGER)


class TestWithoutProofs:
    """Where nothing is taken."""

    @pytest.fixture
    def identity(self) -> IdentitySettings:
        return IdentitySettings(proofs=[])

    async def test_it_is_said_how_else_to_get_a_token(self, desk: Desk) -> None:
        for call in (
            BeginLogin(username="alice"),
            BeginLogin(username="alice", key_name="main"),
            FinishLogin(username="alice", nonce="n", signature="s"),
            FinishLogin(username="alice", secret="s"),
        ):
            with pytest.raises(NotFound) as met:
                await desk.hub.call(call, caller=STRANGER)
            assert "claw join" in met.value.next

    async def test_nothing_is_pending_for_a_claim(self, desk: Desk) -> None:
        error = await desk.refuses(BadRequest, "alice", "claim_x")
        assert error.message == "Nothing is pending for this name and claim."
        assert "claw join" in error.next
