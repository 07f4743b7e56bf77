"""Invitations: made by masters, redeemed once by whoever holds the link.

Only a keyed hash of the secret is stored. Account, token and the invitation's end are one unit,
so of two that redeem at once one wins, and a crash leaves all of it or nothing. If the answer is
lost, the client that shows its nonce again is given a fresh token in place of the lost one; to
everybody else an invitation that was used, has ended or never was is the same.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import STRANGER, Caller
from clawnet.core.calls.accounts import AccountKind, Role
from clawnet.core.calls.invitations import (
    EXPIRES_MAX_S,
    GRANTS_MAX,
    SECRET_PREFIX,
    CreateInvitation,
    InvitationCreated,
    InvitationInfo,
    InvitationList,
    InvitationStatus,
    Joined,
    ListInvitations,
    RedeemInvitation,
    RevokeInvitation,
)
from clawnet.core.calls.tokens import Done
from clawnet.core.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    InvitationInvalid,
    NotFound,
)
from clawnet.core.times import rfc3339
from clawnet.core.units import Delete
from clawnet.hub.accounts import EVENTS, Accounts, need_account, need_master, told_of
from clawnet.hub.directory import Account, GrantRecord, Transient
from clawnet.hub.features import Feature
from clawnet.hub.grants import Grants
from clawnet.hub.newcomers import newcomer
from clawnet.hub.vault import put

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub
    from clawnet.ports.log import State

PATH = "/join"
OPEN_PER_WORLD_MAX = 1_000
OVER_PER_WORLD_MAX = 1_000
AGAIN_WITHIN_MS = 600_000
"""For so long a client whose answer was lost is given another token."""
KEPT_MS = 30 * 86_400_000
"""For so long an invitation that is over is listed, if there are not too many."""
SECRET_MAX_CHARS = 200


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """As stored under `invitation/<world>/<id>`. `nonce` is a hash, `token` the id of a token.

    `made_with` are the ids of the inviter's token and of the JWTs between it and the invitation,
    the one that was shown last. A revoke of any of them voids it while it is open. A JWT that
    ends by itself ends it too, by `expires_ms`. Empty in records from before this was kept.
    """

    world: str
    id: str
    hash: str
    account: str | None
    role: Role
    kind: AccountKind
    grants: list[str]
    scopes: list[str]
    by: str
    created_ms: int
    expires_ms: int
    token_expires_ms: int | None = None
    redeemed_as: str | None = None
    redeemed_ms: int | None = None
    nonce: str | None = None
    token: str | None = None
    made_with: list[str] = []

    @property
    def key(self) -> str:
        return f"{self.world}/{self.id}"


class _Admit(msgspec.Struct, frozen=True, kw_only=True):
    """A redemption whose secret is known, to be done under the lock of changes."""

    hash: str
    asked: RedeemInvitation


class Invitations(Feature):
    """Handlers of core.calls.invitations."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._all: dict[str, Invitation] = {}
        self._by_hash: dict[str, str] = {}

    def register(self, hub: Hub) -> None:
        hub.handle(CreateInvitation, self.create, is_change=True)
        hub.handle(ListInvitations, self.list_all)
        hub.handle(RevokeInvitation, self.revoke, is_change=True)
        hub.handle(RedeemInvitation, self.redeem)
        hub.handle(_Admit, self._admit, is_change=True)

    async def load(self) -> None:
        """Take up what is stored."""
        await self._hub.storage.read(self._load)

    def _load(self, state: State) -> None:
        for entry in state.scan("invitation"):
            self._keep(msgspec.json.decode(entry.value, type=Invitation))

    # --- for masters --------------------------------------------------------

    async def create(self, call: CreateInvitation, caller: Caller) -> InvitationCreated:
        """By a master. Raises Forbidden, BadRequest, Conflict."""
        hub = self._hub
        need_master(caller, "accounts:write")
        # It makes a token too, and one with these scopes: it gives nothing the inviter has not.
        caller.need("tokens:write")
        if not 1 <= call.expires_in_s <= EXPIRES_MAX_S:
            raise BadRequest(
                f"expires_in_s must be 1 to {EXPIRES_MAX_S:.0f} (30 days).",
                next="Leave it out for one day.",
            )
        now_ms = hub.retention.now_ms()
        mine = [one for one in self._all.values() if one.world == caller.world]
        is_open = [one for one in mine if self._status(one) == "open"]
        if len(is_open) >= OPEN_PER_WORLD_MAX:
            raise BadRequest(
                f"A world has at most {OPEN_PER_WORLD_MAX} open invitations.",
                next="Revoke some (claw invite list, claw invite revoke ID).",
            )
        over = self._outdated(mine, now_ms)
        account = None
        if call.id is not None:
            account = (await self._made(call.id, None, caller.world, call.role, call.kind)).id
        expires_ms = now_ms + int(call.expires_in_s * 1_000)
        if caller.expires_ms is not None:
            # What a token gives ends with it at the latest.
            expires_ms = min(expires_ms, caller.expires_ms)
        secret, hashed = self._new_secret()
        invitation = Invitation(
            world=caller.world,
            id="in_" + hub.randomness.token_bytes(8).hex(),
            hash=hashed,
            account=account,
            role=call.role,
            kind=call.kind,
            grants=self._grantable(call.grants, caller),
            scopes=sorted(caller.scopes),
            by=need_account(caller),
            created_ms=hub.clock.wall_ms(),
            expires_ms=expires_ms,
            token_expires_ms=caller.expires_ms,
            made_with=self._made_with(caller),
        )
        told = {
            "invitation": invitation.id,
            "account": account,
            "role": invitation.role,
            "expires": rfc3339(expires_ms),
        }
        await hub.change(
            put("invitation", invitation.key, invitation, if_revision=0),
            *(Delete(f"invitation/{one.key}") for one in over),
            events=(hub.note(caller, EVENTS, "invitation.created", told),),
        )
        for one in over:
            self._forget(one)
        self._keep(invitation)
        return InvitationCreated(
            id=invitation.id,
            link=f"{PATH}#{secret}",
            account=account,
            role=invitation.role,
            kind=invitation.kind,
            expires=rfc3339(expires_ms),
        )

    async def list_all(self, call: ListInvitations, caller: Caller) -> InvitationList:
        need_master(caller, "accounts:read")
        mine = [i for i in self._all.values() if i.world == caller.world]
        mine.sort(key=lambda one: (-one.created_ms, one.id))
        return InvitationList(invitations=[self._info(one) for one in mine])

    async def revoke(self, call: RevokeInvitation, caller: Caller) -> Done:
        """In force in memory before it is stored."""
        hub = self._hub
        need_master(caller, "accounts:write")
        invitation = self._all.get(f"{caller.world}/{call.id}")
        if invitation is None:
            raise NotFound(
                f"There is no invitation {ascii(call.id[:80])}.", next="See claw invite list."
            )
        self._forget(invitation)
        told = {"invitation": invitation.id, "redeemed_as": invitation.redeemed_as}
        await hub.change(
            Delete(f"invitation/{invitation.key}"),
            events=(hub.note(caller, EVENTS, "invitation.revoked", told),),
            is_narrowing=True,
        )
        return Done()

    # --- for whoever holds the link -----------------------------------------

    async def redeem(self, call: RedeemInvitation, caller: Caller) -> Joined:
        """Raises InvitationInvalid, RateLimited, and what a bad id or handle raises."""
        hub = self._hub
        hashed = hub.vault.hash(call.secret[:SECRET_MAX_CHARS])
        # Who asks again and again with one secret is held up before who tries many.
        claimed = f"invitation {hashed[:16]}"
        hub.attempts.check(call.address, claimed)
        try:
            self._usable(hashed, call)
            joined: Joined = await hub.call(_Admit(hash=hashed, asked=call), caller=STRANGER)
            return joined
        except (BadRequest, Conflict, InvitationInvalid, Forbidden):
            hub.attempts.failed(call.address, claimed)
            raise

    async def _admit(self, call: _Admit, caller: Caller) -> Joined:
        # Asked again: another may have redeemed it, or it was revoked, before the lock was free.
        invitation = self._usable(call.hash, call.asked)
        if invitation.redeemed_as is None:
            return await self._first(invitation, call.asked)
        return await self._again(invitation)

    async def _first(self, invitation: Invitation, asked: RedeemInvitation) -> Joined:
        hub, world = self._hub, invitation.world
        wanted = asked.id or invitation.account
        if wanted is None:
            raise BadRequest("The account needs an id.", next="Choose one: claw join LINK --as ID")
        if invitation.account is not None and wanted.lower() != invitation.account:
            raise BadRequest(
                f"This invitation is for {invitation.account} alone.",
                next=f"Join as {invitation.account}.",
            )
        account = await self._made(
            wanted, asked.handle, world, invitation.role, invitation.kind, by=invitation.by
        )
        new = newcomer(
            hub,
            account,
            name="invitation",
            scopes=list(invitation.scopes),
            expires_ms=invitation.token_expires_ms,
        )
        now_ms = hub.clock.wall_ms()
        grants = [
            GrantRecord(
                world=world,
                account=account.id,
                channel=channel,
                verbs=["read"],
                from_offset=None,
                granted_by=invitation.by,
                created_ms=now_ms,
            )
            for channel in invitation.grants
        ]
        used = msgspec.structs.replace(
            invitation,
            redeemed_as=account.id,
            redeemed_ms=hub.retention.now_ms(),
            nonce=hub.vault.hash(asked.nonce),
            token=new.token.id,
        )
        itself = Caller(account=account.id, world=world)
        told = {"invitation": invitation.id, "account": account.id, "invited_by": invitation.by}
        await hub.change(
            *new.puts,
            *(put("grant", f"{world}/{account.id}/{grant.channel}", grant) for grant in grants),
            put("invitation", used.key, used),
            events=(
                hub.note(itself, EVENTS, "account.created", told_of(account)),
                hub.note(itself, EVENTS, "invitation.redeemed", told),
            ),
        )
        self._keep(used)
        new.arrive(hub)
        for grant in grants:
            hub.directory.put_grant(grant)
        return new.joined()

    async def _again(self, invitation: Invitation) -> Joined:
        """A fresh token for whose answer was lost; the one that was lost ends with the commit."""
        hub, world = self._hub, invitation.world
        account = hub.directory.account(world, invitation.redeemed_as or "")
        before = hub.directory.token(invitation.token or "")
        assert account is not None and before is not None, "asked by _usable()"
        new = newcomer(
            hub, account, name=before.name, scopes=before.scopes, expires_ms=before.expires_ms
        )
        used = msgspec.structs.replace(invitation, token=new.token.id)
        itself = Caller(account=account.id, world=world)
        told = {"invitation": invitation.id, "account": account.id, "is_again": True}
        await hub.change(
            new.token_put,
            Delete(f"token/{before.id}"),
            put("invitation", used.key, used),
            events=(hub.note(itself, EVENTS, "invitation.redeemed", told),),
        )
        self._keep(used)
        hub.directory.put_token(new.token)
        hub.directory.remove_token(before.id)
        hub.token_revoked(world, account.id)
        return new.joined()

    def _usable(self, hashed: str, asked: RedeemInvitation) -> Invitation:
        """The invitation, if it can be redeemed so. Raises InvitationInvalid, for every cause."""
        invitation = self._all.get(self._by_hash.get(hashed, ""))
        if invitation is None or not asked.secret.startswith(SECRET_PREFIX):
            raise InvitationInvalid("This invitation cannot be used (any more).")
        if invitation.redeemed_as is None:
            if self._status(invitation) == "open":
                return invitation
        elif self._is_repeated(invitation, asked):
            return invitation
        raise InvitationInvalid("This invitation cannot be used (any more).")

    def _is_repeated(self, invitation: Invitation, asked: RedeemInvitation) -> bool:
        """Whether this is the client that redeemed it, whose answer was lost a moment ago."""
        hub = self._hub
        age_ms = hub.retention.now_ms() - (invitation.redeemed_ms or 0)
        wanted = (asked.id or invitation.account or "").lower()
        return (
            hmac.compare_digest(hub.vault.hash(asked.nonce), invitation.nonce or "")
            and age_ms <= AGAIN_WITHIN_MS
            and wanted == invitation.redeemed_as
            # Neither the account nor its token was ended meanwhile.
            and hub.directory.has_account(invitation.world, wanted)
            and hub.directory.token(invitation.token or "") is not None
        )

    # --- inside -------------------------------------------------------------

    async def _made(
        self,
        wanted: str,
        handle: str | None,
        world: str,
        role: Role,
        kind: AccountKind,
        *,
        by: str | None = None,
    ) -> Account:
        return await Accounts(self._hub).made(
            world, wanted, handle, role=role, kind=kind, proof="invitation", by=by
        )

    def _outdated(self, mine: list[Invitation], now_ms: int) -> list[Invitation]:
        """What of a world's invitations is over and need not be listed any longer."""
        over = [
            one for one in mine if (one.redeemed_ms or one.expires_ms) + AGAIN_WITHIN_MS < now_ms
        ]
        over.sort(key=lambda one: one.created_ms)
        surplus = max(len(over) - OVER_PER_WORLD_MAX, 0)
        return [
            one
            for index, one in enumerate(over)
            if index < surplus or one.created_ms + KEPT_MS + int(EXPIRES_MAX_S * 1_000) < now_ms
        ]

    def _grantable(self, channels: list[str], caller: Caller) -> list[str]:
        if not channels:
            return []
        if len(channels) > GRANTS_MAX:
            raise BadRequest(
                f"An invitation gives at most {GRANTS_MAX} grants.", next="Grant a pattern instead."
            )
        grants = Grants(self._hub)
        return sorted({grants.grantable(channel, caller) for channel in channels})

    def _new_secret(self) -> tuple[str, str]:
        text, _ = self._hub.vault.new_token()
        secret = SECRET_PREFIX + text.partition("_")[2]
        return secret, self._hub.vault.hash(secret)

    def _keep(self, invitation: Invitation) -> None:
        self._all[invitation.key] = invitation
        self._by_hash[invitation.hash] = invitation.key

    def _forget(self, invitation: Invitation) -> None:
        self._all.pop(invitation.key, None)
        self._by_hash.pop(invitation.hash, None)

    def _status(self, invitation: Invitation) -> InvitationStatus:
        hub = self._hub
        if invitation.redeemed_as is not None:
            return "redeemed"
        if invitation.expires_ms <= hub.retention.now_ms():
            return "expired"
        inviter = hub.directory.account(invitation.world, invitation.by)
        is_master = inviter is not None and not inviter.is_deleted and inviter.role == "master"
        return "open" if is_master and self._holds(invitation.made_with) else "void"

    def _made_with(self, caller: Caller) -> list[str]:
        token = self._hub.directory.token(caller.token_id or "")
        if isinstance(token, Transient):
            return [token.parent, *token.via, token.id]
        return [] if token is None else [token.id]

    def _holds(self, made_with: list[str]) -> bool:
        """Whether none of them was revoked. A revoked JWT is remembered for longer than what
        was made with it can last."""
        if not made_with:
            return True
        hub = self._hub
        is_there = hub.directory.token(made_with[0]) is not None
        return is_there and not hub.jwts.is_revoked(made_with[1:])

    def _info(self, one: Invitation) -> InvitationInfo:
        return InvitationInfo(
            id=one.id,
            status=self._status(one),
            account=one.account,
            role=one.role,
            kind=one.kind,
            grants=one.grants,
            created_by=one.by,
            created=rfc3339(one.created_ms),
            expires=rfc3339(one.expires_ms),
            redeemed_as=one.redeemed_as,
            redeemed=None if one.redeemed_ms is None else rfc3339(one.redeemed_ms),
        )
