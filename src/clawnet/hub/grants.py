"""Grants and locks: who may read or write beyond the channel table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.grants import (
    VERBS,
    Grant,
    GrantInfo,
    GrantList,
    ListGrants,
    Lock,
    LockState,
    Revoke,
    Revoked,
    Unlock,
)
from clawnet.core.channels import Kind, is_pattern, parse, parse_pattern
from clawnet.core.errors import BadRequest, Forbidden, NotFound
from clawnet.core.rights import tasks_channel
from clawnet.core.times import rfc3339
from clawnet.core.units import Delete, Put
from clawnet.hub.accounts import need_account
from clawnet.hub.directory import GrantRecord, LockRecord
from clawnet.hub.vault import put

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

EVENTS = "system.grants"
GRANTS_PER_ACCOUNT_MAX = 10_000


class Grants:
    """Handlers of core.calls.grants."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def register(self) -> None:
        self._hub.handle(Grant, self.grant, is_change=True)
        self._hub.handle(Revoke, self.revoke, is_change=True)
        self._hub.handle(ListGrants, self.list_all)
        self._hub.handle(Unlock, self.unlock, is_change=True)
        self._hub.handle(Lock, self.lock, is_change=True)

    async def grant(self, call: Grant, caller: Caller) -> GrantInfo:
        """In force after its commit. Raises Forbidden, NotFound, BadRequest, InvalidChannel."""
        hub = self._hub
        channel = self.grantable(call.channel, caller)
        target = call.account.lower()
        if not hub.directory.has_account(caller.world, target):
            raise NotFound(f"There is no account {ascii(call.account[:80])}.")
        if not call.verbs:
            raise BadRequest("A grant needs a verb.", next=f"Choose from: {', '.join(VERBS)}.")
        if channel.startswith("agent.") and "publish" in call.verbs:
            raise BadRequest(
                "Only its owner publishes on an agent's channel, so nobody can speak as it.",
                next="Grant read; whoever is to write to you uses your inbox: agent.<you>.inbox.",
            )
        if "dispatch" in call.verbs and not _is_tasks_channel(channel):
            raise BadRequest(
                "The right to dispatch holds on agent.<id>.tasks alone.",
                next="Let an account give you work: claw grant ACCOUNT --dispatch.",
            )
        if call.from_offset is not None:
            self._check_offset(call.from_offset, caller.world, channel)
        before = hub.directory.grant(caller.world, target, channel)
        if before is None:
            held = sum(1 for _ in hub.directory.grants_of(caller.world, target))
            if held >= GRANTS_PER_ACCOUNT_MAX:
                raise BadRequest(
                    f"An account holds at most {GRANTS_PER_ACCOUNT_MAX} grants.",
                    next="Grant a pattern instead of many channels.",
                )
        verbs = [v for v in VERBS if v in call.verbs or (before and v in before.verbs)]
        from_offset = call.from_offset
        is_of_else = before is not None and "read" in before.verbs and "read" not in call.verbs
        if before is not None and is_of_else and from_offset is None:
            # What may be read is not said anew by who gives another right on the channel.
            from_offset = before.from_offset
        record = GrantRecord(
            world=caller.world,
            account=target,
            channel=channel,
            verbs=list(verbs),
            from_offset=from_offset,
            granted_by=need_account(caller),
            created_ms=hub.clock.wall_ms(),
        )
        told = {"account": target, "channel": channel, "verbs": record.verbs}
        await hub.change(
            put("grant", f"{caller.world}/{target}/{channel}", record),
            events=(hub.note(caller, EVENTS, "grant.given", told),),
        )
        hub.directory.put_grant(record)
        # A grant that stood may open less from now on.
        narrowed = None if before is None else channel
        hub.rights_changed(caller.world, target, narrowed=narrowed, widened=channel)
        return _info(record)

    async def revoke(self, call: Revoke, caller: Caller) -> Revoked:
        """In force in memory, on live subscriptions too, before it is stored."""
        hub = self._hub
        channel = self.grantable(call.channel, caller)
        world, target = caller.world, call.account.lower()
        before = hub.directory.grant(world, target, channel)
        if before is None:
            if hub.directory.account(world, target) is None:
                raise NotFound(f"There is no account {ascii(call.account[:80])}.")
            return Revoked(account=target, channel=channel, verbs=[], changed=False)
        left = [v for v in before.verbs if call.verbs is not None and v not in call.verbs]
        key = f"{world}/{target}/{channel}"
        change: Put | Delete
        if left:
            record = msgspec.structs.replace(before, verbs=left)
            hub.directory.put_grant(record)
            change = put("grant", key, record)
        else:
            hub.directory.remove_grant(world, target, channel)
            change = Delete(f"grant/{key}")
        hides = "read" in before.verbs and "read" not in left
        hub.rights_changed(world, target, narrowed=channel if hides else None, widened=channel)
        told = {"account": target, "channel": channel, "verbs": left}
        await hub.change(
            change,
            events=(hub.note(caller, EVENTS, "grant.revoked", told),),
            is_narrowing=True,
        )
        kept = [verb for verb in VERBS if verb in left]
        return Revoked(account=target, channel=channel, verbs=kept)

    async def list_all(self, call: ListGrants, caller: Caller) -> GrantList:
        own = need_account(caller)
        found = []
        for grant in self._hub.directory.grants(caller.world):
            if call.account is not None and grant.account != call.account.lower():
                continue
            if call.channel is not None and grant.channel != call.channel:
                continue
            is_concerned = own in (grant.account, grant.granted_by)
            if caller.role == "master" or is_concerned or _owner(grant.channel) == own:
                found.append(grant)
        found.sort(key=lambda grant: (grant.account, grant.channel))
        return GrantList(grants=[_info(grant) for grant in found])

    async def unlock(self, call: Unlock, caller: Caller) -> LockState:
        """Let any account read it, from the commit on."""
        record = self._lockable(call.channel, caller, is_locked=False)
        hub = self._hub
        told = {"channel": record.channel}
        await hub.change(
            put("lock", f"{record.world}/{record.channel}", record),
            events=(hub.note(caller, EVENTS, "channel.unlocked", told),),
        )
        hub.directory.put_lock(record)
        hub.channel_rights_changed(record.world, widened=record.channel)
        return LockState(channel=record.channel, locked=False)

    async def lock(self, call: Lock, caller: Caller) -> LockState:
        """Private again, at once."""
        record = self._lockable(call.channel, caller, is_locked=True)
        hub = self._hub
        hub.directory.put_lock(record)
        hub.channel_rights_changed(record.world, narrowed=record.channel)
        told = {"channel": record.channel}
        await hub.change(
            put("lock", f"{record.world}/{record.channel}", record),
            events=(hub.note(caller, EVENTS, "channel.locked", told),),
            is_narrowing=True,
        )
        return LockState(channel=record.channel, locked=True)

    def _check_offset(self, offset: int, world: str, channel: str) -> None:
        """Raises BadRequest for an offset that is not a place in the channel.

        Live events are not compared with it, so it must not lie ahead of them.
        """
        if is_pattern(channel):
            raise BadRequest(
                "One offset cannot be a place in several channels.",
                next="Grant the channels one by one, each with its own from_offset.",
            )
        head = self._hub.storage.engine.channel(world, channel)
        following = head.last + 1 if head else 1
        if not 1 <= offset <= following:
            raise BadRequest(
                f"from_offset must be 1 to {following} on {channel} now.",
                next="Leave from_offset out to open all of the channel.",
            )

    def grantable(self, given: str, caller: Caller) -> str:
        """The name or pattern, if the caller may give rights on it.

        agent.<id>.<topic> belongs to its account alone, a master included;
        rooms and free names are administered by masters.
        """
        own = need_account(caller)
        caller.need("grants:write")
        name = given if "." in given or ":" in given else f"agent.{own}.{given}"
        if is_pattern(name):
            root, *rest = parse_pattern(name).split(".")
            kind_ok = root == "agent" and bool(rest) and rest[0] == own and len(rest) > 1
            if not kind_ok and not (root == "room" and caller.role == "master"):
                raise Forbidden(
                    f"{name} is not yours to grant.", next=f"Grant below agent.{own}. instead."
                )
            return name
        channel = parse(name)
        match channel.kind:
            case Kind.AGENT_PRIVATE if channel.owner == own:
                return channel.name
            case Kind.ROOM | Kind.FREE if caller.role == "master":
                return channel.name
            case Kind.PUBLIC | Kind.AGENT_PUBLIC:
                raise BadRequest(
                    f"{channel.name} is public; it needs no grant.",
                    next="Grant a channel agent.<you>.<topic>.",
                )
            case _:
                raise Forbidden(
                    f"{channel.name} is not yours to grant.",
                    next=f"Grant a channel of your own, such as agent.{own}.updates.",
                )

    def _lockable(self, given: str, caller: Caller, *, is_locked: bool) -> LockRecord:
        own = need_account(caller)
        caller.need("grants:write")
        channel = parse(given if "." in given else f"agent.{own}.{given}")
        if channel.kind is not Kind.AGENT_PRIVATE or channel.owner != own:
            raise Forbidden(
                "One can only lock and unlock one's own channels.",
                next=f"Name a channel agent.{own}.<topic>.",
            )
        return LockRecord(world=caller.world, channel=channel.name, is_locked=is_locked)


def _is_tasks_channel(channel: str) -> bool:
    owner = _owner(channel)
    return owner is not None and channel == tasks_channel(owner)


def _owner(channel: str) -> str | None:
    segments = channel.split(".")
    return segments[1] if segments[0] == "agent" and len(segments) > 1 else None


def _info(grant: GrantRecord) -> GrantInfo:
    return GrantInfo(
        account=grant.account,
        channel=grant.channel,
        verbs=list(grant.verbs),  # type: ignore[arg-type]
        from_offset=grant.from_offset,
        granted_by=grant.granted_by,
        created=rfc3339(grant.created_ms),
    )
