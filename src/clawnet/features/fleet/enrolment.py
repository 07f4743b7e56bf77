"""Enrolling by the shared secret: who knows it becomes an agent, and never somebody else.

The secret says nothing of who somebody is. So it makes accounts, and enters one again only where
that is allowed (fleet.secret_reenrol), if it made the account itself and nobody gave it more than
the secret gives: not a master's or warden's role, not a token of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clawnet.core.addresses import place_of
from clawnet.core.buckets import Buckets
from clawnet.core.callers import STRANGER, Caller
from clawnet.core.calls.accounts import Role
from clawnet.core.calls.fleet import SYSTEM_CHANNEL, Enrol, Enrolled, ReadSecret
from clawnet.core.channels import is_account_id
from clawnet.core.errors import (
    BadRequest,
    Forbidden,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from clawnet.core.units import Delete, Put
from clawnet.features.fleet.records import Enrolment, Enrolments
from clawnet.features.fleet.secrets import Secrets
from clawnet.features.fleet.settings import FleetSettings, SecretRole
from clawnet.hub.accounts import EVENTS, Accounts, told_of
from clawnet.hub.directory import Account
from clawnet.hub.newcomers import newcomer

if TYPE_CHECKING:
    from clawnet.features.fleet.roster import Roster
    from clawnet.hub.hub import Hub

TOKEN_NAME = "enrolled"
TOKENS_KEPT = 4
"""Of the tokens that enrolling gave an account: whoever comes back in a loop piles up no more."""
ENROLLED_MAX = 10_000
"""In a world."""
PER_ADDRESS = (5.0, 250.0)
"""A whole fleet may come at once from behind one address."""
PER_AGENT = (0.5, 20.0)
SESSION_ACCOUNTS = ("fleet-master", "fleet-observer")
"""Whose tokens those get who show the secret and are no agent (clawnet.features.fleet.guests)."""

_ROLES = ("master", "warden", "worker")
_OWN_TOKEN = (
    "Show the session token of the first time, or ask a master for one:"
    " claw token create --account NAME."
)


class _Admit(msgspec.Struct, frozen=True, kw_only=True):
    """Who showed the right secret, to be let in under the lock of changes."""

    world: str
    agent_id: str
    handle: str | None
    role: Role
    may_return: bool


class Enrolling:
    """Handlers of Enrol and ReadSecret."""

    def __init__(
        self,
        hub: Hub,
        settings: FleetSettings,
        secrets: Secrets,
        enrolments: Enrolments,
        roster: Roster,
    ) -> None:
        self._hub = hub
        self._settings = settings
        self._secrets = secrets
        self._enrolments = enrolments
        self._roster = roster
        self._by_address = Buckets(rate_per_s=PER_ADDRESS[0], burst=PER_ADDRESS[1])
        self._by_agent = Buckets(rate_per_s=PER_AGENT[0], burst=PER_AGENT[1])
        self.worlds: set[str] = set()
        """Those that are there to enrol in; the others are being made."""

    def register(self) -> None:
        hub = self._hub
        hub.handle(Enrol, self.enrol)
        hub.handle(ReadSecret, self.read_secret)
        hub.handle(_Admit, self._admit, is_change=True)

    @property
    def roles(self) -> tuple[SecretRole, ...]:
        """What the secret gives. A hub for development is reached from its own machine alone."""
        return _ROLES if self._hub.settings.is_dev else self._settings.secret_roles  # type: ignore[return-value]

    # --- the calls ----------------------------------------------------------

    async def read_secret(self, call: ReadSecret, caller: Caller) -> str:
        """Raises Unauthenticated, RateLimited, Unavailable."""
        return self.world_of(call.secret, place_of(call.address), "")

    def world_of(self, secret: str, place: str, who: str) -> str:
        """The world that a secret opens. Raises Unauthenticated, RateLimited, Unavailable."""
        hub = self._hub
        hub.attempts.check(place, who)
        world = self._secrets.world_of(secret)
        if world is None:
            hub.attempts.failed(place, who)
            raise Unauthenticated(
                "The secret is not valid.", next="Ask whoever runs the hub for the secret."
            )
        if world not in self.worlds:
            raise Unavailable("This world is being made.", retry_after_s=1.0)
        return world

    async def enrol(self, call: Enrol, caller: Caller) -> Enrolled:
        """Raises Unauthenticated, Forbidden, BadRequest, Conflict, RateLimited, Unavailable."""
        hub = self._hub
        given = call.agent_id.strip()
        place, who = place_of(call.address), given[:64].lower()
        world = self.world_of(call.secret, place, who)
        if not given.isascii() or not is_account_id(given.lower()):
            raise BadRequest(
                f"{ascii(given[:80])} cannot be an agent's id.",
                next="Use 1 to 64 of a-z, 0-9, _ and -.",
                reason="agent_id",
            )
        if who in SESSION_ACCOUNTS:
            raise BadRequest(
                f"{who} cannot be an agent's id: it is the hub's own.",
                next="Choose a name that says whose agent it is.",
                reason="reserved",
            )
        role, shown = self._role_of(call.role)
        self._take(place, world, who)
        wanted = self._settings.secret_reenrol
        admit = _Admit(
            world=world,
            agent_id=given,
            handle=call.handle,
            role=role,
            may_return=(hub.is_loopback and call.is_local) if wanted is None else wanted,
        )
        try:
            enrolled: Enrolled = await hub.call(admit, caller=STRANGER)
        except Forbidden:
            # Or one could ask for names until one opens.
            hub.attempts.failed(place, who)
            raise
        self._roster.called_itself(world, enrolled.agent_id, shown)
        return enrolled

    # --- who is let in ------------------------------------------------------

    async def _admit(self, call: _Admit, caller: Caller) -> Enrolled:
        known = self._hub.directory.account(call.world, call.agent_id.lower())
        if known is None:
            return await self._first_time(call)
        record = self._may_come_again(call, known)
        return await self._again(known, record)

    async def _first_time(self, call: _Admit) -> Enrolled:
        hub = self._hub
        if self._enrolments.count(call.world) >= ENROLLED_MAX:
            raise Forbidden(
                f"{ENROLLED_MAX} agents enrolled in this world; no more may.",
                next="Delete accounts that are no longer used, or ask a master for an invitation.",
                reason="full",
            )
        account = await Accounts(hub).made(
            call.world,
            call.agent_id,
            call.handle,
            role=call.role,
            kind="agent",
            proof="shared-secret",
            by=None,
        )
        new = newcomer(hub, account, name=TOKEN_NAME, scopes=["*"])
        record = Enrolment(
            world=account.world,
            id=account.id,
            role=account.role,
            tokens=[new.token.id],
        )
        itself = Caller(account=account.id, world=account.world)
        told = {"account": account.id, "handle": account.handle, "role": account.role}
        await hub.change(
            *new.puts,
            record.put,
            events=(
                hub.note(itself, EVENTS, "account.created", told_of(account)),
                hub.note(itself, SYSTEM_CHANNEL, "fleet.enrolled", {**told, "again": False}),
            ),
        )
        self._enrolments.add(record)
        new.arrive(hub)
        return _enrolled(account, new.text, created=True)

    def _may_come_again(self, call: _Admit, known: Account) -> Enrolment:
        """Raises Forbidden unless the secret opens this account once more."""
        record = self._enrolments.find(call.world, known.id)
        if known.is_deleted:
            raise Forbidden(
                f"The id {known.id} was taken; an id is never given twice.",
                next="Choose another id.",
                reason="taken",
            )
        if record is None or record.is_session or known.proof != "shared-secret":
            raise Forbidden(
                f"The account {known.id} was not made by the shared secret.",
                next="Show a token of this account, or choose another id.",
                reason="not_enrolled",
            )
        if known.role != "worker" and not (known.role == record.role and known.role in self.roles):
            raise Forbidden(
                f"{known.id} is a {known.role}: the secret does not enter its account.",
                next=_OWN_TOKEN,
                reason="role",
            )
        if call.role not in ("worker", known.role):
            raise Forbidden(
                f"{known.id} is a {known.role}; coming again does not make it a {call.role}.",
                next="Ask a master for the role, or come without asking for one.",
                reason="role",
            )
        if self._has_own_token(record):
            raise Forbidden(
                f"{known.id} used a token of its own: the secret does not enter its account.",
                next=_OWN_TOKEN,
                reason="own_token",
            )
        if not call.may_return:
            raise Forbidden(
                f"{known.id} enrolled before: the secret opens an id once here.",
                next=f"{_OWN_TOKEN} fleet.secret_reenrol lets it come again with the secret.",
                reason="reenrol",
            )
        return record

    def _has_own_token(self, record: Enrolment) -> bool:
        """Whether another token of the account than those of enrolling was ever used."""
        if record.has_own_token:
            return True
        hub = self._hub
        return any(
            token.id not in record.tokens and self.was_used(token.id)
            for token in hub.directory.tokens_of(record.world, record.id)
        )

    def was_used(self, token_id: str) -> bool:
        """Whether a token was ever shown."""
        uses = self._hub.uses
        return token_id in uses.marks or uses.last_ms(token_id) is not None

    async def _again(self, account: Account, record: Enrolment) -> Enrolled:
        hub = self._hub
        world, own = account.world, account.id
        new = newcomer(hub, account, name=TOKEN_NAME, scopes=["*"])
        there = [one for one in record.tokens if hub.directory.token(one) is not None]
        over = there[: max(len(there) + 1 - TOKENS_KEPT, 0)]
        changed = msgspec.structs.replace(
            record, tokens=[*there[len(over) :], new.token.id], last_ms=hub.clock.wall_ms()
        )
        itself = Caller(account=own, world=world)
        told = {"account": own, "handle": account.handle, "role": account.role}
        events = [hub.note(itself, SYSTEM_CHANNEL, "fleet.enrolled", {**told, "again": True})]
        if hub.sessions.get((world, own)):
            # Said to the one that is there as well: it may be the rightful one.
            events += [
                hub.note(itself, channel, "fleet.taken_over", told)
                for channel in (SYSTEM_CHANNEL, f"agent.{own}.inbox")
            ]
        changes: list[Put | Delete] = [
            new.token_put,
            changed.put,
            *(Delete(f"token/{one}") for one in over),
        ]
        await hub.change(*changes, events=tuple(events))
        self._enrolments.add(changed)
        hub.directory.put_token(new.token)
        for one in over:
            hub.directory.remove_token(one)
        if over:
            hub.token_revoked(world, own)
        return _enrolled(account, new.text, created=False)

    def _role_of(self, asked: str | None) -> tuple[Role, str | None]:
        """The account's role, and what the agent calls itself. Raises Forbidden, BadRequest."""
        name = (asked or "").strip().lower()
        if name not in _ROLES:
            role: Role = "worker"
            shown = self._roster.admit_role(asked)
        else:
            role, shown = name, None  # type: ignore[assignment]
        if role not in self.roles:
            raise Forbidden(
                f"The shared secret makes nobody a {role} here.",
                next="Use a token of an account with that role; fleet.secret_roles says what the"
                " secret gives.",
                reason="role",
            )
        return role, shown

    def _take(self, place: str, world: str, agent: str) -> None:
        if not self._hub.settings.limits.enabled:
            return
        now_s = self._hub.clock.steady_s()
        wait_s = self._by_agent.take((world, agent), now_s=now_s)
        wait_s = wait_s or self._by_address.take(place, now_s=now_s)
        if wait_s:
            raise RateLimited(
                "This agent, or this address, enrolled many times a moment ago.",
                next="Wait as long as Retry-After says, and keep the session token meanwhile.",
                retry_after_s=wait_s,
            )


def _enrolled(account: Account, token: str, *, created: bool) -> Enrolled:
    return Enrolled(
        session_token=token,
        agent_id=account.id,
        handle=account.handle,
        world=account.world,
        role=account.role,
        created=created,
    )
