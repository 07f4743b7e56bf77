"""The commands of a connected client, but for connect: what each does and answers."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import clawnet
from clawnet.core.calls.publishing import DoorPublish, Published
from clawnet.core.calls.reading import History, ReadHistory
from clawnet.core.channels import Channel, canonical
from clawnet.core.cursors import AfterOffset
from clawnet.core.errors import ClawError, RateLimited
from clawnet.core.limits import Bucket
from clawnet.core.rights import Access, Namespace, Verb, require
from clawnet.doors.centrifugo import codes, subs
from clawnet.doors.centrifugo.codes import Ended, Failed
from clawnet.doors.centrifugo.recovery import epoch_of
from clawnet.doors.centrifugo.shapes import publication_of
from clawnet.doors.centrifugo.subs import Plan, admitted_channel
from clawnet.doors.centrifugo.tokens import Refused
from clawnet.doors.centrifugo.wire import (
    ChannelRequest,
    Command,
    EmptyResult,
    HistoryRequest,
    HistoryResult,
    PresenceResult,
    PresenceStatsResult,
    PublishRequest,
    RefreshRequest,
    RefreshResult,
    Reply,
    RpcRequest,
    RpcResult,
    SubRefreshRequest,
    SubRefreshResult,
    SubscribeRequest,
)
from clawnet.hub.sessions import Session

if TYPE_CHECKING:
    from clawnet.doors.centrifugo.client import Client

_log = logging.getLogger(__name__)

Slot = list[bytes | None]
"""A place among the answers for one that comes later; None until it does."""

PONG = Command()
_DONE = EmptyResult()
VERSION = f"Clawnet {clawnet.__version__}"
OFFSET_MAX = 2**53
"""Beyond every offset that there is, and within what every engine can compare."""
HISTORY_MAX = 300
"""How many events one answer to history holds."""
MEMBERS_PER_CALL = 64
"""To tell of so many members costs as much as a call."""
LEFT_PER_S = 100
LEFT_BURST = 1_000
"""How many channels a connection may leave and then subscribe to others."""


def handle(client: Client, command: Command, id: int) -> None:
    """Act on a command of a connected client. Raises Failed, Ended, ClawError."""
    if command.send is not None:
        raise Ended(codes.NOT_AVAILABLE)
    if id == 0:
        # Only a pong and send come without one.
        raise Ended(codes.BAD_REQUEST)
    if command.publish is not None:
        _publish(client, id, command.publish)
    elif command.subscribe is not None:
        _subscribe(client, id, command.subscribe)
    elif command.unsubscribe is not None:
        _unsubscribe(client, id, command.unsubscribe)
    elif command.history is not None:
        _history(client, id, command.history)
    elif command.presence is not None:
        _presence(client, id, command.presence)
    elif command.presence_stats is not None:
        _presence_stats(client, id, command.presence_stats)
    elif command.rpc is not None:
        _rpc(client, id, command.rpc)
    elif command.refresh is not None:
        client.later(id, _refresh(client, id, command.refresh))
    elif command.sub_refresh is not None:
        _sub_refresh(client, id, command.sub_refresh)
    else:
        # Nothing that is known; or ping, which is the server's to send.
        raise Ended(codes.BAD_REQUEST)


def _session(client: Client) -> Session:
    session = client.session
    assert session is not None, "only who is connected comes here"
    return session


# --- subscribing --------------------------------------------------------------


def _subscribe(client: Client, id: int, request: SubscribeRequest) -> None:
    _check_leaving(client)
    plan = subs.plan_of(client, request)
    try:
        if subs.find_start(client, plan):
            client.begin(id, plan)
            return
    except (ClawError, Failed):
        subs.abandon(client, plan)
        raise
    client.later(id, _subscribe_reading(client, id, plan))


async def _subscribe_reading(client: Client, id: int, plan: Plan) -> None:
    try:
        await subs.read_start(client, plan)
        if client.is_open:
            client.begin(id, plan)
    except (ClawError, Failed):
        subs.abandon(client, plan)
        raise


def _unsubscribe(client: Client, id: int, request: ChannelRequest) -> None:
    if not request.channel:
        raise Ended(codes.BAD_REQUEST)
    name = canonical(request.channel)
    sub = client.sub(name)
    if sub is not None:
        client.drop(name, sub)
        _note_leaving(client)
    client.answer(Reply(id=id, unsubscribe=EmptyResult()))


def _note_leaving(client: Client) -> None:
    """To come and go is work for all who watch, so no client does it for long as fast as it can.
    Refused is the next subscribe: what is left must be left, and thousands may be followed."""
    now_s = client.door.hub.clock.steady_s()
    if client.left is None:
        client.left = Bucket(rate_per_s=LEFT_PER_S, burst=LEFT_BURST, now_s=now_s)
    client.left.take(1, now_s=now_s)


def _check_leaving(client: Client) -> None:
    """Raises RateLimited."""
    hub = client.door.hub
    if client.left is None or not hub.settings.limits.enabled:
        return
    wait_s = client.left.wait_s(1, now_s=hub.clock.steady_s())
    if wait_s:
        raise RateLimited(
            f"A connection leaves at most {LEFT_PER_S} channels per second.",
            retry_after_s=wait_s,
            limit_per_s=LEFT_PER_S,
        )


# --- publishing ---------------------------------------------------------------


def _publish(client: Client, id: int, request: PublishRequest) -> None:
    slot = client.reserve()
    try:
        channel, _ = admitted_channel(client.door.hub, request.channel)
        if not request.data:
            raise Failed(codes.BAD_COMMAND)
    except Failed as failed:
        client.settle(slot, Reply(id=id, error=failed.error))
        return
    except ClawError as error:
        client.settle(slot, Reply(id=id, error=codes.error_of(error)))
        return
    origin = client.origin_on(channel.name)
    call = DoorPublish(channel=request.channel, data=request.data, origin=origin)
    try:
        _session(client).publish(call, partial(_published, client, id, slot))
    except Exception:  # a defect must not leave this answer, and so all behind it, unsaid
        _log.exception("a publish failed")
        client.settle(slot, Reply(id=id, error=codes.INTERNAL))


def _published(client: Client, id: int, slot: Slot, outcome: Published | ClawError) -> None:
    if isinstance(outcome, Published):
        client.settle(slot, Reply(id=id, publish=_DONE))
    else:
        client.settle(slot, Reply(id=id, error=codes.error_of(outcome)))


# --- the past and the present -------------------------------------------------


def _history(client: Client, id: int, request: HistoryRequest) -> None:
    hub, caller = client.door.hub, _session(client).caller
    channel, _ = admitted_channel(hub, request.channel)
    if not hub.directory.has_history(channel):
        raise Failed(codes.UNAVAILABLE)
    require(caller, Verb.READ, channel, hub.directory)
    since = request.since
    if since is not None and since.epoch:
        head = hub.storage.engine.channel(caller.world, channel.name)
        if since.epoch != epoch_of(hub, head):
            raise Failed(codes.UNRECOVERABLE)
    if request.limit == 0:
        hub.ration.take_call(caller)
        client.answer(Reply(id=id, history=_past(client, channel, [])))
        return
    client.later(id, _history_reading(client, id, request, channel))


async def _history_reading(
    client: Client, id: int, request: HistoryRequest, channel: Channel
) -> None:
    limit = HISTORY_MAX if request.limit < 0 else min(request.limit, HISTORY_MAX)
    since = request.since
    if request.reverse:
        before = None if since is None else min(max(since.offset, 0), OFFSET_MAX)
        call = ReadHistory(channel=channel.name, before=before, limit=limit, reverse=True)
    else:
        after = None if since is None else AfterOffset(min(max(since.offset, 0), OFFSET_MAX))
        call = ReadHistory(channel=channel.name, since=after, limit=limit)
    page: History = await client.door.hub.call(call, caller=_session(client).caller)
    bodies = page.body.split(b"\n") if page.body else []
    client.answer(Reply(id=id, history=_past(client, channel, bodies)))
    _session(client).given(channel.name)


def _past(client: Client, channel: Channel, bodies: list[bytes]) -> HistoryResult:
    hub = client.door.hub
    head = hub.storage.engine.channel(client.world, channel.name)
    return HistoryResult(
        publications=[publication_of(body, is_raw=client.is_raw, hub=hub)[1] for body in bodies],
        epoch=epoch_of(hub, head),
        offset=0 if head is None else head.last,
    )


def _presence(client: Client, id: int, request: ChannelRequest) -> None:
    name = _visible(client, request.channel)
    count = client.door.clients.count(client.world, name)
    if count >= MEMBERS_PER_CALL:
        client.door.hub.ration.take_call(_session(client).caller, count // MEMBERS_PER_CALL)
    found = client.door.clients.presence(client.world, name)
    client.answer(Reply(id=id, presence=PresenceResult(presence=found)))
    _session(client).given(name)


def _presence_stats(client: Client, id: int, request: ChannelRequest) -> None:
    name = _visible(client, request.channel)
    num_clients, num_users = client.door.clients.stats(client.world, name)
    result = PresenceStatsResult(num_clients=num_clients, num_users=num_users)
    client.answer(Reply(id=id, presence_stats=result))


def _visible(client: Client, shown: str) -> str:
    """A channel whose presence the client may see. Raises Failed, ClawError."""
    hub, caller = client.door.hub, _session(client).caller
    channel, namespace = admitted_channel(hub, shown)
    if _is_hidden(namespace):
        raise Failed(codes.UNAVAILABLE)
    hub.ration.take_call(caller)
    require(caller, Verb.PRESENCE, channel, hub.directory)
    return channel.name


def _is_hidden(namespace: Namespace | None) -> bool:
    return namespace is not None and namespace.presence is Access.NOBODY


# --- the application's own ----------------------------------------------------


def _rpc(client: Client, id: int, request: RpcRequest) -> None:
    if request.method not in client.door.rpc:
        raise Failed(codes.UNAVAILABLE)
    client.later(id, _rpc_asking(client, id, request))


async def _rpc_asking(client: Client, id: int, request: RpcRequest) -> None:
    handler = client.door.rpc[request.method]
    data = await handler(_session(client).caller, request.data)
    client.answer(Reply(id=id, rpc=RpcResult(data=data)))


# --- going on -----------------------------------------------------------------


async def _refresh(client: Client, id: int, request: RefreshRequest) -> None:
    door, session = client.door, _session(client)
    if not request.token:
        raise Ended(codes.BAD_REQUEST)
    try:
        token = door.tokens.connection(request.token)
        caller = token.caller or await door.tokens.admit(token)
    except Refused as refused:
        is_expired = refused.reason == "expired"
        raise Ended(codes.EXPIRED if is_expired else codes.INVALID_TOKEN) from None
    if not client.is_open:
        return
    known = session.caller
    if (caller.world, caller.account, caller.user) != (known.world, known.account, known.user):
        raise Ended(codes.INVALID_TOKEN)
    # Rights are those of the new token from here on; what it does not cover ends.
    session.recheck(caller, narrowed=None)
    if token.info:
        client.info = token.info
    client.expire_at(token.expires_ms)
    expires, ttl = client.ttl_of(token.expires_ms)
    result = RefreshResult(client=client.id, version=VERSION, expires=expires, ttl=ttl)
    client.answer(Reply(id=id, refresh=result))


def _sub_refresh(client: Client, id: int, request: SubRefreshRequest) -> None:
    if not request.token:
        if not request.channel:
            raise Ended(codes.BAD_REQUEST)
        raise Failed(codes.BAD_COMMAND)
    try:
        token = client.door.tokens.subscription(
            request.token, user=client.user, client=client.id, channel=request.channel
        )
    except Refused as refused:
        is_expired = refused.reason == "expired"
        raise Ended(codes.SUB_EXPIRED if is_expired else codes.INVALID_TOKEN) from None
    sub = client.sub(canonical(token.channel))
    if sub is None:
        raise Failed(codes.with_reason(codes.DENIED, "this channel is not subscribed"))
    sub.expires_ms = token.expires_ms
    if token.info:
        sub.info = token.info
    client.watch_expiry(token.expires_ms)
    expires, ttl = client.ttl_of(token.expires_ms)
    client.answer(Reply(id=id, sub_refresh=SubRefreshResult(expires=expires, ttl=ttl)))
