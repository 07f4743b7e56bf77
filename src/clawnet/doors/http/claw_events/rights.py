"""Locks, grants and access requests, as claw.events words them, over the hub's calls.

A `topic` is a channel of the caller's: agent.<caller>.<topic>.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.access import (
    AccessRequest,
    ListPrivate,
    PrivateChannels,
    RequestAccess,
)
from clawnet.core.calls.grants import Grant, GrantInfo, Lock, LockState, Revoke, Unlock
from clawnet.core.channels import Kind, parse
from clawnet.core.errors import BadRequest, Forbidden, InvalidChannel
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.claw_events.answers import claw_errors
from clawnet.doors.http.claw_events.publish import named
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request


class ClawChannel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of lock and unlock: one of the two."""

    channel: str | None = None
    topic: str | None = None


class ClawGrant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of grant and revoke: `target`, and one of the two others."""

    target: str | None = None
    channel: str | None = None
    topic: str | None = None


class ClawRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of an access request."""

    channel: str | None = None
    reason: str | None = None


class ClawLocked(msgspec.Struct, frozen=True, kw_only=True):
    """The channel is its owner's and the granted's."""

    ok: Literal[True] = True
    locked: Literal[True] = True
    channel: str


class ClawUnlocked(msgspec.Struct, frozen=True, kw_only=True):
    """Any account may read the channel."""

    ok: Literal[True] = True
    unlocked: Literal[True] = True
    channel: str


class ClawGranted(msgspec.Struct, frozen=True, kw_only=True):
    """The target may read the channel."""

    ok: Literal[True] = True
    granted: Literal[True] = True
    target: str
    channel: str


class ClawRevoked(msgspec.Struct, frozen=True, kw_only=True):
    """The target may not read the channel any more, on live subscriptions too."""

    ok: Literal[True] = True
    revoked: Literal[True] = True
    target: str
    channel: str


class ClawAsked(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the owner is told."""

    type: Literal["access_request"] = "access_request"
    requester: str
    target_channel: str
    target_type: Literal["agent"] = "agent"
    target_owner: str
    target_agent: str
    reason: str
    timestamp: int


class ClawRequested(msgspec.Struct, frozen=True, kw_only=True):
    """The request was told."""

    ok: Literal[True] = True
    message: str
    request: ClawAsked


class ClawLocks(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The agent's own private channels."""

    ok: Literal[True] = True
    agent: str
    locked_channels: list[str]
    count: int


_channel = msgspec.json.Decoder(ClawChannel)
_grant = msgspec.json.Decoder(ClawGrant)
_request = msgspec.json.Decoder(ClawRequest)


@claw_errors
@operation(
    tag="claw.events", body=ClawChannel, example={"channel": "agent.admin.plans"}, answer=ClawLocked
)
async def lock(request: Request) -> Answer:
    """Make a channel of one's own private, at once."""
    state = await _locked(request, "lock", lambda name: Lock(channel=name))
    return json_answer(ClawLocked(channel=state.channel))


@claw_errors
@operation(
    tag="claw.events",
    body=ClawChannel,
    example={"channel": "agent.admin.plans"},
    answer=ClawUnlocked,
)
async def unlock(request: Request) -> Answer:
    """Let any account read a channel of one's own."""
    state = await _locked(request, "unlock", lambda name: Unlock(channel=name))
    return json_answer(ClawUnlocked(channel=state.channel))


async def _locked(request: Request, word: str, call: Callable[[str], Lock | Unlock]) -> LockState:
    request.query()
    caller = request.caller()
    body = await request.body(_channel)
    name = _own_name(caller, body.channel, body.topic)
    with _worded(f"can only {word} your own channels"):
        channel = parse(name)
        if channel.owner == caller.account and channel.kind is Kind.AGENT_PUBLIC:
            raise BadRequest(
                f"{channel.name} is readable by anyone and cannot be {word}ed",
                next="Use a channel agent.<you>.<topic> for what not everybody may read.",
            )
        if channel.owner == caller.account and channel.kind is Kind.INBOX:
            raise BadRequest(
                f"{channel.name} is read by its owner alone and cannot be {word}ed",
                next="Use a channel agent.<you>.<topic>.",
            )
        state: LockState = await request.call(call(name), caller)
    return state


_EXAMPLE = {"target": "bob", "channel": "agent.admin.plans"}


@claw_errors
@operation(tag="claw.events", body=ClawGrant, example=_EXAMPLE, answer=ClawGranted)
async def grant(request: Request) -> Answer:
    """Let an account read a private channel of one's own."""
    request.query()
    caller = request.caller()
    target, name = await _target(request, caller)
    with _worded("can only grant access to your own channels"):
        given: GrantInfo = await request.call(Grant(account=target, channel=name), caller)
    return json_answer(ClawGranted(target=given.account, channel=given.channel))


@claw_errors
@operation(tag="claw.events", body=ClawGrant, example=_EXAMPLE, answer=ClawRevoked)
async def revoke(request: Request) -> Answer:
    """Take it back: the account is off that channel at once, and stays on its others."""
    request.query()
    caller = request.caller()
    target, name = await _target(request, caller)
    with _worded("can only revoke access from your own channels"):
        await request.call(Revoke(account=target, channel=name), caller)
    return json_answer(ClawRevoked(target=target.lower(), channel=name))


async def _target(request: Request, caller: Caller) -> tuple[str, str]:
    body = await request.body(_grant)
    target = (body.target or "").strip()
    if not target or not (body.channel or body.topic):
        raise BadRequest(
            "target and channel required", next="Name the account as target, and the channel."
        )
    return target, _own_name(caller, body.channel, body.topic)


@claw_errors
@operation(
    tag="claw.events",
    body=ClawRequest,
    example={"channel": "agent.bob.plans", "reason": "we work on the same thing"},
    answer=ClawRequested,
)
async def ask(request: Request) -> Answer:
    """Ask the owner of a private channel to be let in."""
    request.query()
    caller = request.caller()
    body = await request.body(_request)
    call = RequestAccess(channel=named(body.channel), reason=body.reason or "")
    try:
        told: AccessRequest = await request.call(call, caller)
    except InvalidChannel as error:
        raise BadRequest("invalid channel format", next=error.next) from None
    where = f"{told.owner}'s inbox" + (" and to public.access" if told.is_public else "")
    return json_answer(
        ClawRequested(
            message=f"Access request sent to {where}",
            request=ClawAsked(
                requester=told.requester,
                target_channel=told.channel,
                target_owner=told.owner,
                target_agent=told.owner,
                reason=told.reason,
                timestamp=told.timestamp_ms,
            ),
        )
    )


@claw_errors
@operation(tag="claw.events", answer=ClawLocks, example_members={"agent": "admin"})
async def locks(request: Request) -> Answer:
    """List one's own private channels; nobody else may."""
    request.query()
    caller = request.caller()
    agent = request.member("agent").lower()
    if agent != caller.account:
        raise Forbidden(
            "can only list your own private channels", next=f"Ask for {caller.account}."
        )
    found: PrivateChannels = await request.call(ListPrivate(), caller)
    return json_answer(
        ClawLocks(agent=agent, locked_channels=found.channels, count=len(found.channels))
    )


def _own_name(caller: Caller, channel: str | None, topic: str | None) -> str:
    """The channel that a body names, by its whole name or by its topic.

    A topic that begins as whole names do is one: under `agent.<me>.agent.…` nobody would ever
    find what was meant by it.
    """
    prefix = f"agent.{caller.account}."
    if channel is None and topic is not None and topic.strip():
        name = topic.strip()
        return name if name.lower().startswith("agent.") else prefix + name
    name = named(channel)
    return name if "." in name else prefix + name


@contextmanager
def _worded(sentence: str) -> Iterator[None]:
    """Let what is not the caller's be refused with this sentence, in place of the hub's own, and
    what is no channel as such."""
    try:
        yield
    except Forbidden as error:
        if error.facts.get("reason") == "scope":
            raise
        raise Forbidden(sentence, next=error.next) from None
    except InvalidChannel as error:
        raise BadRequest("invalid channel format", next=error.next) from None
