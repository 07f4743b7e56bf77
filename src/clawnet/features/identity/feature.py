"""Logging in by a proof: asks the proof, then opens the account that it proves, or makes it.

Which account a proof opens is decided here, once for all kinds: one that the same kind of proof
made, or none yet; never one that a master, an invitation or another kind made. The exception is
a key, which the account itself registered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clawnet.core.addresses import place_of
from clawnet.core.callers import STRANGER, Caller
from clawnet.core.calls.accounts import Proof as ProofKind
from clawnet.core.calls.identity import (
    BeginLogin,
    FinishLogin,
    JoinLogin,
    KeyChallenge,
    ListProofs,
    LoggedIn,
    PostChallenge,
    ProofList,
)
from clawnet.core.calls.invitations import Joined, RedeemInvitation, Register
from clawnet.core.calls.tokens import JwtIssued
from clawnet.core.channels import is_account_id
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    Conflict,
    NotFound,
    Unauthenticated,
)
from clawnet.features.identity.keys import Keys
from clawnet.features.identity.moltbook import Moltbook
from clawnet.features.identity.posted import PostProof
from clawnet.features.identity.proof import WORLD, Proof, Proven
from clawnet.features.identity.settings import IdentitySettings
from clawnet.features.identity.shared_secret import SecretProof
from clawnet.features.identity.ssh_key import KeyProof
from clawnet.hub.accounts import EVENTS, Accounts, puts_of, told_of
from clawnet.hub.directory import Account
from clawnet.hub.features import Feature
from clawnet.hub.tokens import log_in, login_jwt
from clawnet.hub.vault import put

if TYPE_CHECKING:
    import httpx

    from clawnet.hub.hub import Hub

MADE_BY_SECRET_MAX = 1_000
USERNAME_MAX_CHARS = 200

_HOW_ELSE = (
    "Ask whoever runs the hub for an invitation (claw join LINK --as NAME) or a token "
    "(claw login --token TOKEN)."
)

_HINT = "Send it as Authorization: Bearer TOKEN; it holds seven days. claw logout ends it."
_HINT_ONCE = (
    f"{_HINT} The secret opens a new name once: to come back, register a key before then (claw key"
    " add FILE), or ask whoever runs the hub for a token."
)


class _Admit(msgspec.Struct, frozen=True, kw_only=True):
    """A name that was proven, to be let in under the lock of changes."""

    account: str
    name: str
    opens: ProofKind | None
    is_repeatable: bool


class IdentityFeature(Feature):
    """Handlers of core.calls.identity."""

    def __init__(
        self,
        settings: IdentitySettings | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`transport`: another way to reach Moltbook, for tests."""
        self._settings = settings or IdentitySettings()
        self._transport = transport
        self.proofs: list[Proof] = []
        self._hub: Hub
        self._keys: Keys

    def register(self, hub: Hub) -> None:
        """Make the proofs that are taken. Raises BadConfiguration."""
        self._hub = hub
        self._settings.check()
        taken = self._settings.taken
        self._keys = Keys(hub, is_taken="ssh-key" in taken)
        for kind in taken:
            self.proofs.append(self._proof(kind))
        self._keys.register()
        hub.handle(ListProofs, self.list_proofs)
        hub.handle(BeginLogin, self.begin)
        hub.handle(FinishLogin, self.finish)
        hub.handle(JoinLogin, self.join)
        hub.handle(_Admit, self._admit, is_change=True)

    def _proof(self, kind: str) -> Proof:
        hub, settings = self._hub, self._settings
        if kind == "moltbook":
            moltbook = Moltbook(settings, hub.clock, transport=self._transport)
            return PostProof(hub, settings, moltbook)
        if kind == "ssh-key":
            return KeyProof(hub, self._keys)
        return SecretProof(settings)

    async def list_proofs(self, call: ListProofs, caller: Caller) -> ProofList:
        """What is taken here; no secret."""
        return ProofList(proofs=list(self._settings.taken))

    async def load(self) -> None:
        """Take up the keys."""
        await self._hub.storage.read(self._keys.load)

    async def flush(self) -> None:
        """The hub closes."""
        for proof in self.proofs:
            await proof.close()

    # --- the calls ----------------------------------------------------------

    async def begin(self, call: BeginLogin, caller: Caller) -> PostChallenge | KeyChallenge:
        """Raises BadRequest, Conflict, NotFound, RateLimited."""
        asked = msgspec.structs.replace(call, username=account_id_of(call.username))
        place = place_of(asked.address)
        refused: ClawError | None = None
        for proof in self.proofs:
            if proof.takes_begin(asked):
                # One that cannot be finished is told so before anybody posts something.
                self._hub.attempts.check(place, asked.username)
                try:
                    await self._check(
                        asked.username, asked.username, proof.opens, is_repeatable=True
                    )
                    return await proof.begin(asked)
                except (NotFound, Conflict) as error:
                    # An account of another proof may have a key by which it is to be opened.
                    refused = refused or error
        if refused is not None:
            # Or one could ask for names until one is there.
            self._hub.attempts.failed(place, asked.username)
            raise refused
        if asked.key_name is not None:
            raise NotFound("public key not found", next=_HOW_ELSE)
        raise NotFound(f"There is nothing by which {asked.username} could log in.", next=_HOW_ELSE)

    async def finish(self, call: FinishLogin, caller: Caller) -> LoggedIn:
        """Raises BadRequest, Unauthenticated, Conflict, ChallengeExpired, ProofUnavailable,
        NotFound, RateLimited."""
        hub = self._hub
        shown = msgspec.structs.replace(call, username=account_id_of(call.username))
        proof = next((one for one in self.proofs if one.takes_finish(shown)), None)
        if proof is None:
            if not any((shown.claim, shown.signature, shown.nonce, shown.secret)):
                raise BadRequest("claim required", next=_HOW_ELSE)
            if shown.claim:
                # Where no challenge is ever posted, none waits for its claim.
                raise BadRequest(
                    "Nothing is pending for this name and claim.", next=_HOW_ELSE, reason="nothing"
                )
            raise NotFound("Nobody logs in to this hub by such a proof.", next=_HOW_ELSE)
        place = place_of(shown.address)
        hub.attempts.check(place, shown.username)
        try:
            proven = await proof.finish(shown)
        except (BadRequest, Unauthenticated):
            hub.attempts.failed(place, shown.username)
            raise
        return await self._let_in(shown.username, proven)

    async def join(self, call: JoinLogin, caller: Caller) -> LoggedIn:
        """As invitations and registration have it, with the token of a login.

        Raises what those raise: InvitationInvalid, NotFound, Conflict, BadRequest, RateLimited.
        """
        hub = self._hub
        username = account_id_of(call.username)
        asked: RedeemInvitation | Register
        if call.invitation is None:
            asked = Register(id=call.username.strip(), address=call.address)
        else:
            asked = RedeemInvitation(
                secret=call.invitation,
                # Without one of its own, a client cannot repeat what was lost.
                nonce=call.nonce or hub.randomness.token_bytes(16).hex(),
                id=call.username.strip(),
                address=call.address,
            )
        joined: Joined = await hub.call(asked, caller=STRANGER)
        # Its own token is never told to anybody, so only this JWT comes of it.
        holder = hub.authenticate(joined.token)
        return _logged_in(username, login_jwt(hub, holder))

    # --- who is let in ------------------------------------------------------

    async def _let_in(self, username: str, proven: Proven) -> LoggedIn:
        assert proven.name.lower() == username, "a proof proves the name that was claimed"
        call = _Admit(
            account=username,
            name=proven.name,
            opens=proven.opens,
            is_repeatable=proven.is_repeatable,
        )
        # As a stranger: whose login this is gets known by the call itself.
        issued: JwtIssued = await self._hub.call(call, caller=STRANGER)
        return _logged_in(username, issued, hint=_HINT if proven.is_repeatable else _HINT_ONCE)

    async def _admit(self, call: _Admit, caller: Caller) -> JwtIssued:
        hub = self._hub
        before = await self._check(
            call.account, call.name, call.opens, is_repeatable=call.is_repeatable
        )
        itself = Caller(account=call.account, world=WORLD)
        known = hub.directory.account(WORLD, call.account)
        if known is None:
            assert before is not None, "only a proof that makes accounts gets here"
            told = hub.note(itself, EVENTS, "account.created", told_of(before))
            return await log_in(hub, before, itself, *puts_of(before), events=(told,))
        if call.opens is None:
            return await log_in(hub, known, itself)
        # The time of the proof is that of the last one.
        proved = msgspec.structs.replace(known, proved_ms=hub.clock.wall_ms())
        return await log_in(hub, proved, itself, put("account", f"{WORLD}/{proved.id}", proved))

    async def _check(
        self, account: str, name: str, opens: ProofKind | None, *, is_repeatable: bool
    ) -> Account | None:
        """Whether such a proof opens or makes that account; the one to make, if there is none.

        Raises Conflict, BadRequest, NotFound, Unauthenticated.
        """
        hub = self._hub
        known = hub.directory.account(WORLD, account)
        if opens is None:
            if known is None or known.is_deleted:
                raise NotFound("public key not found", next=_HOW_ELSE)
            return None
        if known is not None:
            if known.proof == opens and not known.is_deleted and not is_repeatable:
                raise Conflict(
                    f"The account {account} is there already: a secret opens a new name once.",
                    next="Log in with a key that it registered (claw key add), or ask whoever runs"
                    " the hub for a token, or take another name.",
                    reason="taken",
                )
            if known.is_deleted or known.proof != opens:
                raise Conflict(
                    f"The account {account} is there already and was not made by this proof.",
                    next="Log in as it was made (its token, or a key that it registered), or take "
                    "another name.",
                    reason="taken",
                )
            return None
        if opens == "shared-secret":
            made = sum(1 for one in hub.directory.all_accounts() if one.proof == opens)
            if made >= MADE_BY_SECRET_MAX:
                raise NotFound(
                    f"{MADE_BY_SECRET_MAX} accounts were made with the secret; no more are.",
                    next=_HOW_ELSE,
                )
        return await Accounts(hub).made(
            WORLD, name, None, role="worker", kind="agent", proof=opens, by=None
        )


def account_id_of(username: str) -> str:
    """The account's id for a name, as Moltbook and this hub both fold it. Raises BadRequest."""
    name = username.strip()
    if not name:
        raise BadRequest("username required", next="Say who logs in: username.")
    folded = name.lower()
    if len(name) > USERNAME_MAX_CHARS or not name.isascii() or not is_account_id(folded):
        raise BadRequest(
            f"{ascii(name[:80])} cannot be a username.",
            next="Use 1 to 64 of a-z, 0-9, _ and -.",
        )
    return folded


def _logged_in(username: str, issued: JwtIssued, *, hint: str = _HINT) -> LoggedIn:
    return LoggedIn(
        token=issued.token,
        username=username,
        hint=hint,
        jti=issued.jti,
        expires=issued.expires,
    )
