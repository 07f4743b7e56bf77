"""Sessions of who shows the shared secret and is no agent: dashboards and scripts of the fleet.

They are the tokens of two accounts that the hub keeps for this in each world, one that only reads
and, where fleet.secret_roles lets the secret make masters, one that is a master. So they are
revoked, listed and refused as all tokens are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clawnet.core.addresses import place_of
from clawnet.core.buckets import Buckets
from clawnet.core.callers import STRANGER, Caller
from clawnet.core.calls.accounts import Role
from clawnet.core.calls.fleet import OpenSession, SessionOpened
from clawnet.core.errors import Forbidden, RateLimited, Unauthenticated
from clawnet.core.times import rfc3339
from clawnet.core.units import Delete, Put
from clawnet.features.fleet.enrolment import SESSION_ACCOUNTS, Enrolling
from clawnet.features.fleet.records import Enrolment, Enrolments
from clawnet.hub.accounts import EVENTS, Accounts, puts_of, told_of
from clawnet.hub.directory import Account
from clawnet.hub.newcomers import newcomer

if TYPE_CHECKING:
    from clawnet.core.events import Draft
    from clawnet.hub.hub import Hub

TOKEN_NAME = "session"
TTL_S = 86_400
KEPT = 50
"""Of more sessions, the oldest ends."""
STANDING_LEFT_S = 3_600
"""A standing session that ends sooner is replaced by a new one."""
PER_S, BURST = 10 / 60, 10.0
"""Of one address."""


class _Open(msgspec.Struct, frozen=True, kw_only=True):
    """Who showed the right secret, under the lock of changes."""

    world: str
    role: Role


class _EndAll(msgspec.Struct, frozen=True, kw_only=True):
    """End the sessions of an account that the secret no longer opens."""

    world: str
    account: str


class Guests:
    """Handler of OpenSession."""

    def __init__(self, hub: Hub, enrolling: Enrolling, enrolments: Enrolments) -> None:
        self._hub = hub
        self._enrolling = enrolling
        self._enrolments = enrolments
        self._buckets = Buckets(rate_per_s=PER_S, burst=BURST)
        self._standing: dict[tuple[str, Role], SessionOpened] = {}

    def register(self) -> None:
        hub = self._hub
        hub.handle(OpenSession, self.open)
        hub.handle(_Open, self._open, is_change=True)
        hub.handle(_EndAll, self._end_all, is_change=True)

    async def end_masters(self) -> None:
        """Where the secret makes no masters any more, end what it opened when it did."""
        if "master" in self._enrolling.roles:
            return
        for record in list(self._enrolments):
            if record.is_session and record.role == "master":
                await self._hub.call(
                    _EndAll(world=record.world, account=record.id), caller=STRANGER
                )

    async def open(self, call: OpenSession, caller: Caller) -> SessionOpened:
        """Raises Unauthenticated, RateLimited, Forbidden, Unavailable."""
        hub = self._hub
        place = place_of(call.address)
        if not call.is_standing and hub.settings.limits.enabled:
            wait_s = self._buckets.take(place, now_s=hub.clock.steady_s())
            if wait_s:
                raise RateLimited(
                    f"This address opened {BURST:g} sessions a moment ago.",
                    next="Wait as long as Retry-After says, and keep the token meanwhile.",
                    retry_after_s=wait_s,
                    limit_per_s=PER_S,
                )
        world = self._enrolling.world_of(call.secret, place, "")
        role: Role = "master" if "master" in self._enrolling.roles else "worker"
        if call.is_standing:
            standing = self._standing.get((world, role))
            if standing is not None and self._holds(standing):
                return standing
        opened: SessionOpened = await hub.call(_Open(world=world, role=role), caller=STRANGER)
        if call.is_standing:
            self._standing[world, role] = opened
        return opened

    def _holds(self, opened: SessionOpened) -> bool:
        """Whether a standing session does, and not only for another moment."""
        hub = self._hub
        try:
            caller = hub.authenticate(opened.token)
        except Unauthenticated:
            return False
        left_ms = (caller.expires_ms or 0) - hub.retention.now_ms()
        return left_ms > STANDING_LEFT_S * 1_000

    async def _open(self, call: _Open, caller: Caller) -> SessionOpened:
        hub = self._hub
        account, puts, events = await self._account(call)
        now_ms = hub.retention.now_ms()
        expires_ms = now_ms + TTL_S * 1_000
        scopes = ["*"] if account.role == "master" else ["events:read"]
        new = newcomer(hub, account, name=TOKEN_NAME, scopes=scopes, expires_ms=expires_ms)
        before = hub.directory.tokens_of(account.world, account.id)
        living = [one for one in before if (one.expires_ms or 0) > now_ms]
        over = [one for one in before if one not in living]
        over += living[: max(len(living) + 1 - KEPT, 0)]
        changes: list[Put | Delete] = [
            *puts,
            new.token_put,
            *(Delete(f"token/{one.id}") for one in over),
        ]
        itself = Caller(account=account.id, world=account.world)
        told = {
            "token": new.token.id,
            "account": account.id,
            "name": TOKEN_NAME,
            "scopes": scopes,
        }
        await hub.change(
            *changes, events=(*events, hub.note(itself, "system.tokens", "token.created", told))
        )
        if puts:
            self._enrolments.add(_record(account))
            hub.directory.put_account(account)
        hub.directory.put_token(new.token)
        for one in over:
            hub.directory.remove_token(one.id)
        if over:
            hub.token_revoked(account.world, account.id)
        return SessionOpened(
            token=new.text,
            expires=rfc3339(expires_ms),
            world=account.world,
            account=account.id,
            role=account.role,
        )

    async def _account(self, call: _Open) -> tuple[Account, tuple[Put, ...], tuple[Draft, ...]]:
        """Whose token it will be, and what makes it if it is not there. Raises Forbidden."""
        hub = self._hub
        name = SESSION_ACCOUNTS[0 if call.role == "master" else 1]
        known = hub.directory.account(call.world, name)
        if known is None:
            made = await Accounts(hub).made(
                call.world, name, None, role=call.role, kind="service", proof="shared-secret",
                by=None, is_hub=True,
            )  # fmt: skip
            itself = Caller(account=made.id, world=made.world)
            told = hub.note(itself, EVENTS, "account.created", told_of(made))
            return made, (*puts_of(made), _record(made).put), (told,)
        record = self._enrolments.find(call.world, name)
        is_ours = record is not None and record.is_session and known.role == call.role
        if known.is_deleted or not is_ours:
            raise Forbidden(
                f"The account {name}, which such sessions need, was deleted or is somebody's.",
                next="Use a token of an account of your own.",
                reason="taken",
            )
        return known, (), ()

    async def _end_all(self, call: _EndAll, caller: Caller) -> None:
        hub = self._hub
        tokens = hub.directory.tokens_of(call.world, call.account)
        if not tokens:
            return
        for token in tokens:
            hub.directory.remove_token(token.id)
        hub.token_revoked(call.world, call.account)
        changes = (Delete(f"token/{token.id}") for token in tokens)
        await hub.change(*changes, is_narrowing=True)


def _record(account: Account) -> Enrolment:
    return Enrolment(
        world=account.world,
        id=account.id,
        role=account.role,
        tokens=[],
        is_session=True,
    )
