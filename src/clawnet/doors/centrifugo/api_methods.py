"""What the methods of the server API do. HTTP is api.py's affair, their types are api_calls'.

The backend that holds the key speaks as a service account of world main, which is made when it is
first needed: on declared free names it may do everything, on the hub's own channels what a worker
may. What it does to connections is done to those of world main.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import fnmatch
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from msgspec import Raw

import clawnet
from clawnet.core import events, payloads
from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import CreateAccount
from clawnet.core.calls.publishing import DoorPublish, Published
from clawnet.core.calls.reading import HISTORY_LIMIT_MAX, ReadHistory
from clawnet.core.channels import Channel, Kind, parse
from clawnet.core.cursors import AfterOffset
from clawnet.core.errors import (
    UNDECLARED,
    BadRequest,
    ClawError,
    Conflict,
    DedupeConflict,
    Forbidden,
    InvalidChannel,
    InvalidData,
    NotFound,
    PayloadTooLarge,
    RateLimited,
    TooManySubscriptions,
    Unauthenticated,
)
from clawnet.core.events import Origin
from clawnet.core.rights import Access, Verb, require
from clawnet.doors.centrifugo import api_calls as calls
from clawnet.doors.centrifugo import codes
from clawnet.doors.centrifugo.overrides import overrides_of
from clawnet.doors.centrifugo.recovery import epoch_of
from clawnet.doors.centrifugo.shapes import API_ACCOUNT, publication_of
from clawnet.doors.centrifugo.versions import Version, Versions
from clawnet.doors.centrifugo.wire import NO_DATA, Error

if TYPE_CHECKING:
    from clawnet.doors.centrifugo.client import Client
    from clawnet.doors.centrifugo.door import CentrifugoDoor

TAGS_MAX = 16
TAG_MAX_CHARS = 256
CHANNELS_MAX = 10_000
"""So many names one answer of `channels` holds."""

_log = logging.getLogger(__name__)


class Refusal(Exception):
    """A method's error, as the answer tells it."""

    def __init__(self, kind: Error, message: str) -> None:
        super().__init__(message)
        self.code = kind.code
        self.message = message


class ServerApi:
    """One for each door. Methods raise Refusal and ClawError; told_of() makes one of the other."""

    def __init__(self, door: CentrifugoDoor) -> None:
        self._door = door
        self._hub = door.hub
        self._caller: Caller | None = None
        self._began_s = door.hub.clock.steady_s()
        self._versions = Versions(door.hub)
        self._methods: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "publish": self._publish,
            "broadcast": self._broadcast,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "disconnect": self._disconnect,
            "refresh": self._refresh,
            "presence": self._presence,
            "presence_stats": self._presence_stats,
            "history": self._history,
            "history_remove": self._history_remove,
            "channels": self._channels,
            "info": self._info,
            "rpc": self._rpc,
        }

    async def do(self, method: str, request: Any) -> Any:
        """Do one method that is not a batch. Raises Refusal."""
        try:
            self._hub.refuse_unless_ready()
            return await self._methods[method](request)
        except ClawError as error:
            raise told_of(error) from None
        except RecursionError:
            raise Refusal(codes.BAD_COMMAND, "The request is nested too deep.") from None

    # --- publications -------------------------------------------------------

    async def _publish(self, call: calls.PublishCall) -> calls.PublishAnswer:
        data, tags = _data_of(call), _tags_of(call.tags)
        return await self._say(call.channel, call, data, tags)

    async def _broadcast(self, call: calls.BroadcastCall) -> calls.BroadcastAnswer:
        if not call.channels:
            raise Refusal(codes.BAD_COMMAND, "Name at least one channel.")
        data, tags = _data_of(call), _tags_of(call.tags)
        said = [self._answered(channel, call, data, tags) for channel in call.channels]
        return calls.BroadcastAnswer(responses=list(await asyncio.gather(*said)))

    async def _answered(
        self,
        channel: str,
        call: calls.BroadcastCall,
        data: Raw,
        tags: dict[str, str] | None,
    ) -> calls.Result[calls.PublishAnswer]:
        try:
            return calls.Result(result=await self._say(channel, call, data, tags))
        except Refusal as refusal:
            return calls.Result(error=error_of(refusal))
        except ClawError as error:
            return calls.Result(error=error_of(told_of(error)))

    async def _say(
        self,
        name: str,
        call: calls.PublishCall | calls.BroadcastCall,
        data: Raw,
        tags: dict[str, str] | None,
    ) -> calls.PublishAnswer:
        channel = _channel(name)
        caller = await self._speaker()
        if call.skip_history:
            type_ = events.default_type(channel.name)
            self._hub.signal(caller, channel.name, type_, bytes(data))
            return calls.PublishAnswer()
        publish = DoorPublish(
            channel=channel.name,
            data=data,
            dedupe_key=call.idempotency_key or None,
            origin=None if tags is None else Origin(tags=tags),
        )
        if call.version:
            return await self._say_newer(channel, publish, call)
        return self._said(channel, await self._hub.publish_wait(caller, publish))

    def _said(self, channel: Channel, published: Published) -> calls.PublishAnswer:
        if not self._hub.directory.has_history(channel):
            return calls.PublishAnswer()
        return calls.PublishAnswer(offset=published.offset, epoch=published.epoch)

    async def _say_newer(
        self,
        channel: Channel,
        publish: DoorPublish,
        call: calls.PublishCall | calls.BroadcastCall,
    ) -> calls.PublishAnswer:
        """Publish unless a version as new was published; one after the other on a channel."""
        if len(call.version_epoch) > events.DEDUPE_KEY_MAX_CHARS:
            raise Refusal(codes.BAD_COMMAND, "version_epoch is too long.")
        caller = await self._speaker()
        require(caller, Verb.PUBLISH, channel, self._hub.directory)
        version = Version(channel.name, call.version_epoch, call.version)
        published = await self._versions.publish(
            version, lambda: self._hub.publish_wait(caller, publish)
        )
        if published is not None:
            return self._said(channel, published)
        head = self._hub.storage.engine.channel(caller.world, channel.name)
        if head is None or not self._hub.directory.has_history(channel):
            return calls.PublishAnswer()
        return calls.PublishAnswer(offset=head.last, epoch=head.epoch)

    # --- connections --------------------------------------------------------

    async def _subscribe(self, call: calls.SubscribeCall) -> calls.EmptyAnswer:
        channel = _channel(call.channel)
        if channel.kind is Kind.FREE and self._hub.directory.namespace(channel.name) is None:
            raise Refusal(codes.UNKNOWN_CHANNEL, "No declared namespace has such a channel.")
        options = _overrides(call.override)
        info = _value(call.info, call.b64info, "info")
        data = _value(call.data, call.b64data, "data")
        failed: ClawError | None = None
        for client in self._clients(call):
            if client.sub(channel.name) is not None:
                continue
            try:
                client.subscribe(
                    # By this name the client will know it.
                    call.channel,
                    data=data,
                    info=info,
                    since=calls.position(call.recover_since),
                    overrides=options,
                    expires_ms=call.expire_at * 1000 or None,
                )
            except ClawError as error:
                failed = error
        if failed is not None:
            raise failed
        return calls.EmptyAnswer()

    async def _unsubscribe(self, call: calls.UnsubscribeCall) -> calls.EmptyAnswer:
        channel = _channel(call.channel)
        for client in self._clients(call):
            client.unsubscribe(channel.name)
        return calls.EmptyAnswer()

    async def _disconnect(self, call: calls.DisconnectCall) -> calls.EmptyAnswer:
        how = call.disconnect or calls.DisconnectWith()
        if len(how.reason.encode()) > 123:
            raise Refusal(codes.BAD_COMMAND, "disconnect.reason is longer than 123 bytes.")
        for client in self._clients(call):
            if client.id not in call.whitelist:
                client.disconnect(how.code, how.reason)
        return calls.EmptyAnswer()

    async def _refresh(self, call: calls.RefreshCall) -> calls.EmptyAnswer:
        if bytes(call.info):
            raise Refusal(codes.UNAVAILABLE, "What a connection is known as cannot be changed.")
        now_ms = self._hub.retention.now_ms()
        is_over = call.expired or 0 < call.expire_at * 1000 <= now_ms
        for client in self._clients(call):
            if is_over:
                client.disconnect(*codes.EXPIRED)
            else:
                client.refreshed(expires_ms=call.expire_at * 1000 or None)
        return calls.EmptyAnswer()

    def _clients(self, call: Any) -> list[Client]:
        """The connections that a request means: of world main, so of nobody else's tenants."""
        if not (call.user or call.client or call.session):
            raise Refusal(codes.BAD_COMMAND, "Say whose connections: user, client or session.")
        clients = self._door.clients
        if call.client:
            found = clients.by_id(call.client)
        elif call.session:
            found = clients.by_session(call.session)
        else:
            return clients.of_user("main", call.user)
        if found is None or (call.user and found.user != call.user):
            return []
        if call.session and found.session_id != call.session:
            return []
        return [found] if found.world == "main" else []

    # --- what there is ------------------------------------------------------

    async def _presence(self, call: calls.ChannelCall) -> calls.PresenceAnswer:
        channel = await self._with_presence(call)
        return calls.PresenceAnswer(presence=self._door.clients.presence("main", channel.name))

    async def _presence_stats(self, call: calls.ChannelCall) -> calls.PresenceStatsAnswer:
        channel = await self._with_presence(call)
        num_clients, num_users = self._door.clients.stats("main", channel.name)
        return calls.PresenceStatsAnswer(num_clients=num_clients, num_users=num_users)

    async def _with_presence(self, call: calls.ChannelCall) -> Channel:
        channel = _channel(call.channel)
        namespace = self._hub.directory.namespace(channel.name)
        if channel.kind is Kind.FREE and namespace and namespace.presence is Access.NOBODY:
            raise Refusal(codes.UNAVAILABLE, "This namespace does not show who is there.")
        require(await self._speaker(), Verb.PRESENCE, channel, self._hub.directory)
        return channel

    async def _history(self, call: calls.HistoryCall) -> calls.HistoryAnswer:
        hub, channel = self._hub, _channel(call.channel)
        if call.limit < -1:
            raise Refusal(codes.BAD_COMMAND, "limit must be -1 or more.")
        if not self._hub.directory.has_history(channel):
            raise Refusal(codes.UNAVAILABLE, "This namespace keeps no history.")
        caller = await self._speaker()
        require(caller, Verb.READ, channel, hub.directory)
        head = hub.storage.engine.channel(caller.world, channel.name)
        epoch = epoch_of(hub, head)
        if call.since is not None and call.since.epoch not in ("", epoch):
            raise Refusal(codes.UNRECOVERABLE, "The place belongs to another life of this channel.")
        top = 0 if head is None else head.last
        publications = []
        if call.limit:
            limit = HISTORY_LIMIT_MAX if call.limit == -1 else min(call.limit, HISTORY_LIMIT_MAX)
            since = None if call.since is None else call.since.offset
            read = ReadHistory(
                channel=channel.name,
                since=AfterOffset(since) if since is not None and not call.reverse else None,
                before=since if call.reverse else None,
                limit=limit,
                reverse=call.reverse,
            )
            page = await hub.call(read, caller=caller)
            publications = [
                publication_of(line, is_raw=False, hub=hub)[1]
                for line in page.body.split(b"\n")
                if line
            ]
        return calls.HistoryAnswer(publications=publications, offset=top, epoch=epoch)

    async def _history_remove(self, call: calls.ChannelCall) -> calls.EmptyAnswer:
        """Trim a free name's channel whole. Readers and consumers are told of the gap."""
        hub, channel = self._hub, _channel(call.channel)
        caller = await self._speaker()
        require(caller, Verb.READ, channel, hub.directory)
        if channel.kind is not Kind.FREE:
            raise Refusal(
                codes.DENIED, "What was said on the hub's own channels goes by retention only."
            )
        if not self._hub.directory.has_history(channel):
            raise Refusal(codes.UNAVAILABLE, "This namespace keeps no history.")
        head = hub.storage.engine.channel(caller.world, channel.name)
        if head is None:
            return calls.EmptyAnswer()
        upto, epoch, engine = head.last, head.epoch, hub.storage.engine

        def trim() -> int:
            # Counted where commits run: whatever waited there before this piece is in the log now,
            # and lies behind the offset at which it was asked for. It stays.
            now = engine.channel(caller.world, channel.name)
            if now is None or now.epoch != epoch:
                return 0
            return engine.trim_channel(caller.world, channel.name, keep=now.last - upto)

        while True:
            if not await hub.committer.run(trim):
                break
            # Without a thread that commits, nothing else of the loop would have its turn.
            await asyncio.sleep(0)
        return calls.EmptyAnswer()

    async def _channels(self, call: calls.ChannelsCall) -> calls.ChannelsAnswer:
        names = self._door.clients.channels("main")
        found = {
            name: calls.ChannelNow(num_clients=number)
            for name, number in names.items()
            if not call.pattern or fnmatch.fnmatchcase(name, call.pattern)
        }
        if len(found) > CHANNELS_MAX:
            raise Refusal(
                codes.LIMIT_EXCEEDED,
                f"There are more than {CHANNELS_MAX} of these; give a pattern.",
            )
        return calls.ChannelsAnswer(channels=found)

    async def _info(self, call: calls.InfoCall) -> calls.InfoAnswer:
        clients = self._door.clients
        node = calls.Node(
            uid=self._door.node,
            name="clawnet",
            version=clawnet.__version__,
            num_clients=clients.num_clients,
            num_users=clients.num_users,
            num_subs=clients.num_subs,
            num_channels=clients.num_channels,
            uptime=int(self._hub.clock.steady_s() - self._began_s),
        )
        return calls.InfoAnswer(nodes=[node])

    async def _rpc(self, call: calls.RpcCall) -> calls.RpcAnswer:
        handler = self._door.rpc.get(call.method)
        if handler is None:
            raise Refusal(codes.UNAVAILABLE, "No such method is registered on this hub.")
        try:
            data = await handler(await self._speaker(), call.params)
        except ClawError:
            raise
        except Exception:  # somebody else's code, whose caller must be answered all the same
            _log.exception("a method of the server API failed")
            raise Refusal(codes.INTERNAL, "The method failed.") from None
        return calls.RpcAnswer(data=data if bytes(data) else Raw(b"null"))

    # --- inside -------------------------------------------------------------

    async def _speaker(self) -> Caller:
        """The service account, made if need be. Raises Refusal if it cannot be had."""
        hub = self._hub
        account = hub.directory.account("main", API_ACCOUNT)
        if account is None:
            call = CreateAccount(id=API_ACCOUNT, role="worker", kind="service")
            try:
                await hub.call(call, caller=HUB)
            except Conflict:
                # Asked for twice at once.
                pass
            account = hub.directory.account("main", API_ACCOUNT)
        if account is None or account.is_deleted or account.kind != "service":
            # Whoever has it was not made for this: nobody must speak as somebody else.
            raise Refusal(
                codes.UNAVAILABLE,
                f"The account {API_ACCOUNT} was deleted, or is not the server API's.",
            )
        caller = self._caller
        if caller is None or caller.handle != account.handle:
            # One object, so that what the hub remembers of its rights holds.
            caller = self._caller = Caller(
                account=API_ACCOUNT,
                handle=account.handle,
                role="worker",
                kind="service",
                rules_free=True,
            )
        return caller


def told_of(error: ClawError) -> Refusal:
    """How the server API tells an error of the hub."""
    if isinstance(error, NotFound):
        return Refusal(codes.UNKNOWN_CHANNEL, error.message)
    if isinstance(error, Forbidden):
        is_unknown = error.facts.get("reason") == UNDECLARED
        return Refusal(codes.UNKNOWN_CHANNEL if is_unknown else codes.DENIED, error.message)
    if isinstance(error, Unauthenticated):
        return Refusal(codes.DENIED, error.message)
    if isinstance(error, RateLimited):
        return Refusal(codes.TOO_MANY, error.message)
    if isinstance(error, TooManySubscriptions):
        return Refusal(codes.LIMIT_EXCEEDED, error.message)
    if isinstance(error, DedupeConflict | Conflict):
        return Refusal(codes.CONFLICT, error.message)
    if isinstance(error, BadRequest | InvalidChannel | InvalidData | PayloadTooLarge):
        return Refusal(codes.BAD_COMMAND, error.message)
    return Refusal(codes.BAD_COMMAND if error.status < 500 else codes.INTERNAL, error.message)


def error_of(refusal: Refusal) -> calls.ApiError:
    """A refusal as it stands in an answer."""
    return calls.ApiError(code=refusal.code, message=refusal.message)


def _channel(name: str) -> Channel:
    if not name:
        raise Refusal(codes.BAD_COMMAND, "Name a channel.")
    return parse(name)


def _data_of(call: calls.PublishCall | calls.BroadcastCall) -> Raw:
    """What to publish; the hub looks whether it is admissible."""
    data = Raw(_decoded(call.b64data, "data")) if call.b64data else call.data
    if not bytes(data):
        raise Refusal(codes.BAD_COMMAND, "There is no data to publish.")
    return data


def _value(given: Raw, encoded: str, name: str) -> Raw:
    """A JSON value for the frames of a connection, given as such or in base64."""
    text = _decoded(encoded, name) if encoded else bytes(given)
    return Raw(payloads.admit(text).encode()) if text else NO_DATA


def _decoded(encoded: str, name: str) -> bytes:
    # This log holds JSON: bytes of another kind belong into a JSON string of the sender's making.
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(codes.BAD_COMMAND, f"b64{name} is not base64.") from None


def _tags_of(tags: dict[str, str] | None) -> dict[str, str] | None:
    if not tags:
        return None
    if len(tags) > TAGS_MAX:
        raise Refusal(codes.BAD_COMMAND, f"A publication has at most {TAGS_MAX} tags.")
    for name, value in tags.items():
        if not name or max(len(name), len(value)) > TAG_MAX_CHARS:
            raise Refusal(
                codes.BAD_COMMAND, f"A tag is 1 to {TAG_MAX_CHARS} characters on both sides."
            )
    return tags


def _overrides(given: dict[str, Any] | None) -> dict[str, bool]:
    try:
        return overrides_of(given)
    except ValueError as error:
        option = ascii(str(error)[:60])
        raise Refusal(codes.BAD_COMMAND, f"override: {option} has no value.") from None
