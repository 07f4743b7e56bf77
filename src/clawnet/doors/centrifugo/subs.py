"""Subscriptions of a client: what may be asked for, how it begins, and what is answered."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from msgspec import Raw

from clawnet.core.channels import Channel, Kind, is_pattern, parse
from clawnet.core.errors import ClawError
from clawnet.core.rights import Allowed, Namespace, Verb, decide, require
from clawnet.doors.centrifugo import recovery
from clawnet.doors.centrifugo.codes import (
    ALREADY_SUBSCRIBED,
    BAD_COMMAND,
    DENIED,
    INVALID_TOKEN,
    TOKEN_EXPIRED,
    UNAVAILABLE,
    UNKNOWN_CHANNEL,
    Ended,
    Failed,
    with_reason,
)
from clawnet.doors.centrifugo.recovery import Start, Wish
from clawnet.doors.centrifugo.shapes import EventShape
from clawnet.doors.centrifugo.tokens import Refused
from clawnet.doors.centrifugo.wire import (
    NO_DATA,
    Publication,
    StreamPosition,
    SubscribeRequest,
    SubscribeResult,
)

if TYPE_CHECKING:
    from clawnet.doors.centrifugo.client import Client
    from clawnet.hub.hub import Hub

FOSSIL = "fossil"
STREAM_SUBSCRIPTION = 0
"""The type of a plain subscription; the others are maps and shared polls."""


class Sub(msgspec.Struct, kw_only=True, gc=False, eq=False):
    """One channel that a client follows. `shown` is how the client calls it."""

    shown: str
    number: int
    is_server: bool = False
    is_positioned: bool = False
    is_present: bool = True
    announces: bool = False
    """Whether others are told that this client comes and goes."""
    watches: bool = False
    """Whether it is told who comes and goes for as long as it may see presence."""
    info: Raw = NO_DATA
    expires_ms: int | None = None
    is_ticketed: bool = False


class Plan(msgspec.Struct, kw_only=True, eq=False):
    """A subscription that was asked for and admitted, but has not begun."""

    channel: Channel
    shown: str
    wish: Wish | None = None
    is_server: bool = False
    is_recoverable: bool = False
    is_positioned: bool = False
    is_cache: bool = False
    is_present: bool = True
    is_delta: bool = False
    announces: bool = False
    is_pushed: bool = False
    """Whether it is told who comes and goes whatever it may see and whether it asked."""
    watches: bool = False
    """Whether it is told because it asked, and as long as it may see presence."""
    is_cancelled: bool = False
    """Whether it was ended before it began."""
    info: Raw = NO_DATA
    data: Raw = NO_DATA
    expires_ms: int | None = None
    is_ticketed: bool = False
    start: Start | None = None


def admitted_channel(hub: Hub, name: str) -> tuple[Channel, Namespace | None]:
    """A channel that there can be, and its declared namespace if it is a free name.

    Raises Failed, InvalidChannel.
    """
    if not name:
        raise Failed(BAD_COMMAND)
    channel = parse(name)
    if channel.kind is not Kind.FREE:
        return channel, None
    namespace = hub.directory.namespace(channel.name)
    if namespace is None:
        raise Failed(with_reason(UNKNOWN_CHANNEL, f"{ascii(name)}: no namespace declares it"))
    return channel, namespace


def plan_of(client: Client, request: SubscribeRequest) -> Plan:
    """Check what a client asks for. Raises Failed, Ended, ClawError."""
    door, session = client.door, client.session
    assert session is not None, "only who is connected subscribes"
    if bytes(request.tf) not in (b"", b"null"):
        raise Failed(with_reason(BAD_COMMAND, "publications are not filtered by tags"))
    if request.type != STREAM_SUBSCRIPTION:
        raise Failed(UNAVAILABLE)
    channel, namespace = admitted_channel(door.hub, request.channel)
    if client.sub(channel.name) is not None:
        raise Failed(ALREADY_SUBSCRIBED)
    plan = Plan(channel=channel, shown=request.channel)
    overrides: Mapping[str, bool] = {}
    if request.token:
        overrides = _show_token(client, plan, request.token)
    try:
        require(session.caller, Verb.SUBSCRIBE, channel, door.hub.directory)
    except ClawError:
        abandon(client, plan)
        raise
    _apply(client, plan, namespace, overrides, request)
    if request.recover and plan.is_recoverable:
        plan.wish = Wish(offset=max(request.offset, 0), epoch=request.epoch, flag=request.flag)
    plan.is_delta = (
        request.delta == FOSSIL
        and namespace is not None
        and namespace.has_delta
        and plan.is_positioned
    )
    return plan


def server_plan(
    client: Client,
    name: str,
    *,
    info: Raw = NO_DATA,
    data: Raw = NO_DATA,
    overrides: Mapping[str, bool] | None = None,
    request: SubscribeRequest | None = None,
    expires_ms: int | None = None,
    opens: bool = True,
) -> Plan:
    """A subscription that the application's backend asks for, by a token or the server API.

    It `opens` a free name to the client, as a subscription token would; on the hub's own channels
    the client's rights are asked as ever. Raises Failed, ClawError.
    """
    door, session = client.door, client.session
    assert session is not None, "only who is connected is subscribed"
    channel, namespace = admitted_channel(door.hub, name)
    if client.sub(channel.name) is not None:
        raise Failed(ALREADY_SUBSCRIBED)
    plan = Plan(channel=channel, shown=name, is_server=True)
    plan.info, plan.data, plan.expires_ms = info, data, expires_ms
    if opens and namespace is not None:
        _open(client, plan)
    try:
        require(session.caller, Verb.SUBSCRIBE, channel, door.hub.directory)
    except ClawError:
        abandon(client, plan)
        raise
    asked = request or SubscribeRequest()
    _apply(client, plan, namespace, overrides or {}, asked)
    if asked.recover and plan.is_recoverable:
        plan.wish = Wish(offset=max(asked.offset, 0), epoch=asked.epoch, flag=0)
    return plan


def begin(client: Client, plan: Plan) -> tuple[Sub, SubscribeResult]:
    """Follow the channel; the answer must be said in the same turn of the loop.

    Must not be interleaved. Raises Failed, ClawError; then nothing was begun.
    """
    session, door, name = client.session, client.door, plan.channel.name
    start = plan.start
    assert session is not None and start is not None, "a plan begins when it has its start"
    door.clients.pending.discard(client, plan)
    if client.sub(name) is not None:
        raise Failed(ALREADY_SUBSCRIBED)
    if plan.is_cancelled:
        raise Failed(with_reason(DENIED, "the subscription was ended before it began"))
    deltas = door.deltas(client.wire.encoding, is_raw=client.is_raw) if plan.is_delta else None
    number = session.follow(
        plan.shown, after=start.after, shape=None if deltas is None else deltas.fresh
    )
    if deltas is not None:
        deltas.started(session, plan.shown)
    sub = Sub(
        shown=plan.shown,
        number=number,
        is_server=plan.is_server,
        is_positioned=plan.is_positioned,
        is_present=plan.is_present,
        announces=plan.announces,
        # Rights may have changed since it was asked for.
        watches=plan.watches and may_see(client, plan.channel),
        info=plan.info,
        expires_ms=plan.expires_ms,
        is_ticketed=plan.is_ticketed,
    )
    client.put_sub(name, sub)
    if sub.watches:
        session.on_rights = partial(_rights_changed, client)
    door.clients.join(client, name, shown=plan.shown, is_watching=sub.watches or plan.is_pushed)
    publications: list[Publication] = []
    if start.bodies:
        shape = door.shape(client.wire.encoding, is_raw=client.is_raw)
        assert isinstance(shape, EventShape), "the door's own"
        publications = shape.publications(start.bodies)
    if deltas is not None:
        publications = [deltas.text(publication) for publication in publications]
    expires, ttl = client.ttl_of(plan.expires_ms)
    return sub, SubscribeResult(
        expires=expires,
        ttl=ttl,
        recoverable=plan.is_recoverable,
        positioned=plan.is_positioned,
        epoch=start.epoch if plan.is_positioned else "",
        offset=start.offset if plan.is_positioned else 0,
        publications=publications,
        recovered=start.is_recovered,
        was_recovering=start.was_recovering,
        data=plan.data,
        delta=plan.is_delta,
    )


def find_start(client: Client, plan: Plan) -> bool:
    """Give the plan its start, if nothing has to be read for it. Raises Failed."""
    session = client.session
    assert session is not None
    if plan.is_positioned:
        plan.start = recovery.start_at_once(
            session, plan.channel, plan.wish, is_cache=plan.is_cache
        )
    else:
        # Without history offsets mean nothing to the client, and gaps are not told.
        plan.start = Start(offset=0, epoch="")
    if plan.start is None:
        client.door.clients.pending.add(client, plan)
    return plan.start is not None


def may_see(client: Client, channel: Channel) -> bool:
    """Whether the client may see who follows a channel."""
    session, directory = client.session, client.door.hub.directory
    assert session is not None
    return isinstance(decide(session.caller, Verb.PRESENCE, channel, directory), Allowed)


def _rights_changed(client: Client, on: str | None) -> None:
    """Rights have changed on a name or pattern (None: on anything): who may see presence no more
    is not told either who comes and goes."""
    if on is None or is_pattern(on):
        watching = client.all_subs()
    else:
        sub = client.sub(on)
        watching = [] if sub is None else [(on, sub)]
    for name, sub in watching:
        if sub.watches and not may_see(client, parse(name)):
            sub.watches = False
            client.door.clients.unwatch(client, name)


def place_at_once(client: Client, plan: Plan, since: StreamPosition | None) -> bool:
    """find_start() for a subscription that is told by a push, in which no events stand: what lies
    behind `since` comes behind it, if it can be had."""
    if not find_start(client, plan):
        return False
    if since is not None and plan.is_positioned and plan.start is not None:
        plan.start = recovery.placed(client.door.hub, client.world, plan.channel, plan.start, since)
    return True


async def read_start(client: Client, plan: Plan) -> None:
    """Read from the log what the plan needs to begin. Raises Failed, ClawError."""
    session = client.session
    assert session is not None
    client.door.hub.ration.take_call(session.caller)
    plan.start = await recovery.start(
        session,
        plan.channel,
        plan.wish,
        is_cache=plan.is_cache,
        limit=client.door.settings.recovery_publications_max,
    )


def abandon(client: Client, plan: Plan) -> None:
    """Forget a plan that does not begin."""
    client.door.clients.pending.discard(client, plan)
    if client.sub(plan.channel.name) is None:
        close_ticket(client, plan.channel.name, is_ticketed=plan.is_ticketed)


def close_ticket(client: Client, name: str, *, is_ticketed: bool) -> None:
    """Take back what a token opened to this connection."""
    session = client.session
    if is_ticketed and session is not None and not session.is_closed:
        tickets = session.caller.tickets - {name}
        session.caller = msgspec.structs.replace(session.caller, tickets=tickets)


def _open(client: Client, plan: Plan) -> None:
    session = client.session
    assert session is not None
    if plan.channel.name not in session.caller.tickets:
        tickets = session.caller.tickets | {plan.channel.name}
        session.caller = msgspec.structs.replace(session.caller, tickets=tickets)
    plan.is_ticketed = True


def _show_token(client: Client, plan: Plan, text: str) -> Mapping[str, bool]:
    try:
        token = client.door.tokens.subscription(
            text, user=client.user, client=client.id, channel=plan.shown
        )
    except Refused as refused:
        if refused.reason == "expired":
            raise Failed(TOKEN_EXPIRED) from None
        if refused.reason == "mismatch":
            raise Ended(INVALID_TOKEN) from None
        raise Failed(with_reason(DENIED, "the subscription token is not valid")) from None
    plan.info, plan.data, plan.expires_ms = token.info, token.data, token.expires_ms
    if plan.channel.kind is Kind.FREE:
        _open(client, plan)
    return token.overrides


def _apply(
    client: Client,
    plan: Plan,
    namespace: Namespace | None,
    overrides: Mapping[str, bool],
    request: SubscribeRequest,
) -> None:
    """What the subscription gives, by the namespace, the token and the client's own wish."""
    has_history = client.door.hub.directory.has_history(plan.channel)
    forced = namespace is None or namespace.force_recovery
    forced = overrides.get("force_recovery", forced)
    positioning = overrides.get("force_positioning", forced) or request.positioned
    plan.is_recoverable = has_history and (forced or request.recoverable)
    plan.is_positioned = has_history and (plan.is_recoverable or positioning)
    plan.is_cache = namespace is not None and namespace.is_cache
    plan.is_present = overrides.get("presence", True)
    plan.announces = overrides.get("join_leave", namespace is None or namespace.join_leave)
    if namespace is not None:
        # On the hub's own channels no token of an application shows who is there.
        pushed = namespace.force_push_join_leave
        plan.is_pushed = overrides.get("force_push_join_leave", pushed)
    plan.watches = not plan.is_pushed and request.join_leave and plan.announces
