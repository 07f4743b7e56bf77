"""The connect command: who the client is, its session, and its server-side subscriptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.channels import Kind, parse
from clawnet.core.errors import (
    InvalidChannel,
    TooManySubscriptions,
    Unauthenticated,
    Unavailable,
)
from clawnet.core.rights import named_users
from clawnet.doors.centrifugo import codes, recovery, subs, timing
from clawnet.doors.centrifugo.codes import Ended, Failed
from clawnet.doors.centrifugo.commands import VERSION
from clawnet.doors.centrifugo.phases import Phase
from clawnet.doors.centrifugo.shapes import account_info
from clawnet.doors.centrifugo.subs import Plan
from clawnet.doors.centrifugo.tokens import ConnectionToken, Refused, SubscriptionOptions
from clawnet.doors.centrifugo.wire import (
    ConnectRequest,
    ConnectResult,
    Error,
    Push,
    Refresh,
    Reply,
)
from clawnet.doors.connections import Standing
from clawnet.hub.directory import Transient
from clawnet.ports.log import READ_MAX_BYTES

if TYPE_CHECKING:
    from clawnet.doors.centrifugo.client import Client

SUBS_MAX = 128
"""How many subscriptions a connect may ask for: all of them begin in the turn of its answer."""
_SUBS_PER_CALL = 16
"""Of an account's calls a connect takes one for so many subscriptions, which are its cost."""


def connect(client: Client, id: int, request: ConnectRequest) -> None:
    """The first command. Raises Failed, Ended, ClawError."""
    if client.phase is not Phase.NEW:
        raise Ended(codes.BAD_REQUEST)
    client.phase = Phase.CONNECTING
    if len(request.subs) > SUBS_MAX:
        reason = f"a connect asks for at most {SUBS_MAX} channels"
        raise Failed(codes.with_reason(codes.LIMIT_EXCEEDED, reason))
    tokens = client.door.tokens
    token: ConnectionToken | None = None
    caller: Caller | None = None
    if request.token:
        try:
            token = tokens.connection(request.token)
        except Refused as refused:
            raise _refusal(refused) from None
        caller = token.caller
    elif not client.door.settings.insecure:
        caller = tokens.anonymous(is_local=client.is_local)
        if caller is None:
            raise Ended(codes.BAD_REQUEST)
    if caller is None:
        client.later(id, _connect_new(client, id, request, token))
        return
    plans = _open(client, caller, request, token)
    are_ready = [subs.find_start(client, plan) for plan in plans]
    if all(are_ready):
        _opened(client, id, plans)
    else:
        client.later(id, _connect_reading(client, id, plans))


def refreshed(client: Client, expires_ms: int | None) -> None:
    """As Client.refreshed() says."""
    session = client.session
    if session is None or not client.is_open:
        return
    directory, before = client.door.hub.directory, session.caller
    if before.token_id is None:
        session.caller = msgspec.structs.replace(before, expires_ms=expires_ms)
    elif before.kind == "ext" and before.expires_ms is not None:
        token = directory.token(before.token_id)
        is_later = expires_ms is None or expires_ms > before.expires_ms
        if isinstance(token, Transient) and is_later:
            # Its calls are refused by the token's end, wherever the connection's is.
            directory.put_transient(msgspec.structs.replace(token, expires_ms=expires_ms))
            session.recheck(directory.caller(token.id) or before, narrowed=None)
    ends_ms = expires_ms
    own_ms = session.caller.expires_ms
    if own_ms is not None:
        # A client that was told more would come for another token when its own is over.
        ends_ms = own_ms if ends_ms is None else min(ends_ms, own_ms)
    client.expire_at(ends_ms)
    expires, ttl = client.ttl_of(ends_ms)
    client.push(Push(refresh=Refresh(expires=expires, ttl=ttl)))


def failed(client: Client, id: int, error: Error) -> None:
    """A connect was refused: the client is out of the hub again, and can do nothing more."""
    client.phase = Phase.FAILED
    client.leave_hub(is_told=False)
    if client.is_uni:
        client.disconnect(*_end_of(error))
    else:
        client.answer(Reply(id=id, error=error))


async def _connect_new(
    client: Client, id: int, request: ConnectRequest, token: ConnectionToken | None
) -> None:
    """Connect a user for whom there may be no account yet."""
    tokens = client.door.tokens
    try:
        caller = await (tokens.insecure() if token is None else tokens.admit(token))
    except Refused as refused:
        raise _refusal(refused) from None
    if client.phase is Phase.OVER:
        return
    plans = _open(client, caller, request, token)
    for plan in plans:
        subs.find_start(client, plan)
    await _connect_reading(client, id, plans)


async def _connect_reading(client: Client, id: int, plans: list[Plan]) -> None:
    room = READ_MAX_BYTES
    for plan in plans:
        client.door.clients.pending.add(client, plan)
    for plan in plans:
        if plan.start is None:
            await subs.read_start(client, plan)
        assert plan.start is not None
        size = sum(map(len, plan.start.bodies))
        if size > room:
            # One answer holds as much as one read; what else there is follows it.
            plan.start = recovery.streamed(plan.start)
        else:
            room -= size
    # All of them begin in the turn of the answer, which must come before what they bring.
    if client.phase is not Phase.OVER:
        _opened(client, id, plans)


def _open(
    client: Client, caller: Caller, request: ConnectRequest, token: ConnectionToken | None
) -> list[Plan]:
    """Begin the session; returns the server-side subscriptions. Raises Ended, Failed, ClawError."""
    door = client.door
    if token is not None and token.is_foreign:
        client.is_raw = True
    # A transport is both: what the client says, and what the hub writes, go out by it.
    outlet: Any = client.wire
    shape = door.shape(client.wire.encoding, is_raw=client.is_raw)
    try:
        session = door.hub.open(caller, outlet, shape, is_merged=False)
    except TooManySubscriptions:
        raise Ended(codes.CONNECTION_LIMIT) from None
    except Unauthenticated:
        raise Ended(codes.INVALID_TOKEN) from None
    except Unavailable:
        raise Ended(codes.SHUTDOWN) from None
    session.grace_ms = timing.GRACE_MS
    client.session = session
    client.user = caller.user
    if token is not None:
        client.info = token.info
        client.expires_ms = token.expires_ms
    if not bytes(client.info) and caller.kind != "ext" and caller.account is not None:
        client.info = account_info(caller.handle, caller.role)
    door.clients.add(client)
    outlet.opened(session, Standing.KNOWN if token is not None else Standing.ANONYMOUS)
    return _server_plans(client, request, {} if token is None else token.channels)


def _server_plans(
    client: Client, request: ConnectRequest, channels: Mapping[str, SubscriptionOptions]
) -> list[Plan]:
    session = client.session
    assert session is not None, "only who is connected is subscribed"
    count = len(channels) + (len(request.subs) if client.is_uni else 0)
    if count >= _SUBS_PER_CALL:
        client.door.hub.ration.take_call(session.caller, count // _SUBS_PER_CALL)
    plans = [
        subs.server_plan(
            client,
            name,
            info=options.info,
            data=options.data,
            overrides=options.overrides,
            request=request.subs.get(name),
        )
        for name, options in channels.items()
    ]
    personal = _personal(client)
    if personal is not None and personal not in channels:
        plans.append(subs.server_plan(client, personal, request=request.subs.get(personal)))
    if client.is_uni:
        # Such a client cannot ask later, so what it names here is its wish.
        plans += [
            subs.server_plan(client, name, request=wanted, opens=False)
            for name, wanted in request.subs.items()
            if name not in channels and name != personal
        ]
    return plans


def _personal(client: Client) -> str | None:
    """The channel of its user, to which each of the user's connections is subscribed."""
    settings, user = client.door.settings, client.user
    if not (settings.personal_channels and user):
        return None
    namespace = settings.personal_namespace
    name = f"{namespace}:#{user}" if namespace else f"#{user}"
    try:
        is_free = parse(name).kind is Kind.FREE
    except InvalidChannel:
        return None
    # A user's name may hold what stands between names; then others share the channel.
    is_alone = named_users(name) == frozenset({user})
    return name if is_free and is_alone and client.door.hub.directory.namespace(name) else None


def _opened(client: Client, id: int, plans: list[Plan]) -> None:
    """Answer connect. No await: everything begins in the turn of the answer."""
    door = client.door
    for plan in plans:
        if plan.is_cancelled:
            subs.abandon(client, plan)
    begun = [(plan, *subs.begin(client, plan)) for plan in plans if not plan.is_cancelled]
    client.phase = Phase.OPEN
    expires, ttl = client.ttl_of(client.expires_ms)
    result = ConnectResult(
        client=client.id,
        version=VERSION,
        expires=expires,
        ttl=ttl,
        subs={sub.shown: answer for _, sub, answer in begun},
        ping=max(round(door.settings.ping_s), 1) if client.has_pings else 0,
        pong=client.has_pings and not client.is_uni,
        session=client.session_id,
        node=door.node if client.session_id else "",
        time=door.hub.retention.now_ms(),
    )
    if client.is_uni:
        client.push(Push(connect=result))
    else:
        client.answer(Reply(id=id, connect=result))
    timing.begin(client)
    for plan, sub, _ in begun:
        client.announce(plan.channel.name, sub)


def _refusal(refused: Refused) -> Exception:
    """What a refused connection token means for a connect."""
    if refused.reason == "expired":
        return Failed(codes.TOKEN_EXPIRED)
    return Ended(codes.INVALID_TOKEN)


def _end_of(error: Error) -> codes.Code:
    """How a connection ends that cannot be answered."""
    if error.code == codes.TOKEN_EXPIRED.code:
        return codes.EXPIRED
    if error.code == codes.LIMIT_EXCEEDED.code:
        return codes.CHANNEL_LIMIT
    if error.code == codes.TOO_MANY.code:
        return codes.TOO_MANY_REQUESTS
    if error.code in (codes.DENIED.code, codes.UNKNOWN_CHANNEL.code):
        return codes.PERMISSION_DENIED
    return codes.SERVER_ERROR if error.temporary else codes.BAD_REQUEST
