"""Access requests: told to the owner in its inbox, as the requester's own event.

So whom the owner blocked cannot ask. What is advertised is no secret, so a request for such a
channel is told on public.access as well, in the same unit.
"""

from __future__ import annotations

import msgspec

from clawnet.core.buckets import Buckets
from clawnet.core.callers import Caller
from clawnet.core.calls.access import (
    CHANNEL,
    PRIVATE_MAX,
    REASON_MAX_CHARS,
    TYPE,
    AccessRequest,
    ListPrivate,
    PrivateChannels,
    RequestAccess,
)
from clawnet.core.calls.adverts import ReadAdvert
from clawnet.core.calls.publishing import Publish, PublishBatch, PublishedBatch
from clawnet.core.channels import Channel, Kind, is_pattern, parse
from clawnet.core.errors import BadRequest, Forbidden, NotFound, RateLimited
from clawnet.hub.accounts import need_account
from clawnet.hub.directory import LockRecord
from clawnet.hub.features import Feature
from clawnet.hub.hub import Hub
from clawnet.ports.log import State

PER_S, BURST = 0.2, 10.0
"""Requests of one account: a person reads them."""
SAME_PER_S = 1 / 60
"""Requests of one account for one channel."""

_PAGE = 500

IS_PUBLIC = "channel is not locked, access is public"
HAS_ACCESS = "you already have access to this channel"


class AccessFeature(Feature):
    """Handlers of core.calls.access."""

    def __init__(self) -> None:
        self._hub: Hub
        self._buckets = Buckets(rate_per_s=PER_S, burst=BURST)
        self._same = Buckets(rate_per_s=SAME_PER_S, burst=1.0)

    def register(self, hub: Hub) -> None:
        self._hub = hub
        hub.handle(RequestAccess, self.request)
        hub.handle(ListPrivate, self.list_private)

    async def request(self, call: RequestAccess, caller: Caller) -> AccessRequest:
        """Raises BadRequest, Forbidden, NotFound, RateLimited, and what a publish may raise."""
        hub = self._hub
        own = need_account(caller)
        channel = self._askable(call.channel, caller, own)
        owner = channel.owner or ""
        if len(call.reason) > REASON_MAX_CHARS:
            raise BadRequest(
                f"The reason is longer than {REASON_MAX_CHARS} characters.",
                next="Say it in fewer words.",
            )
        self._take(caller, channel.name)
        now_ms = hub.clock.wall_ms()
        told = {
            "type": "access_request",
            "requester": own,
            "targetChannel": channel.name,
            "targetType": "agent",
            "targetOwner": owner,
            "targetAgent": owner,
            "reason": call.reason,
            "timestamp": now_ms,
        }
        data = msgspec.Raw(msgspec.json.encode(told))
        places = [f"agent.{owner}.inbox"]
        is_public = await self._is_advertised(channel.name, caller)
        if is_public:
            places.append(CHANNEL)
        batch = PublishBatch(
            events=[Publish(channel=place, data=data, type=TYPE) for place in places]
        )
        stored: PublishedBatch = await hub.publishing.publish_batch(batch, caller)
        return AccessRequest(
            requester=own,
            channel=channel.name,
            owner=owner,
            reason=call.reason,
            timestamp_ms=now_ms,
            id=stored.events[0].id,
            is_public=is_public,
        )

    async def list_private(self, call: ListPrivate, caller: Caller) -> PrivateChannels:
        own = need_account(caller)
        caller.need("events:read")
        prefix = f"agent.{own}."
        named = await self._hub.storage.read(lambda engine: _locked(engine, caller.world, prefix))
        named |= {
            grant.channel
            for grant in self._hub.directory.grants(caller.world)
            if grant.channel.startswith(prefix) and not is_pattern(grant.channel)
        }
        after = prefix
        while len(named) < PRIVATE_MAX:
            page = await self._hub.storage.read(
                lambda engine: engine.channels(caller.world, after=after, limit=_PAGE)  # noqa: B023
            )
            named |= {head.name for head in page if head.name.startswith(prefix)}
            if len(page) < _PAGE or not page[-1].name.startswith(prefix):
                break
            after = page[-1].name
        private = sorted(name for name in named if self._is_private(caller.world, name))
        return PrivateChannels(channels=private[:PRIVATE_MAX])

    def _is_private(self, world: str, name: str) -> bool:
        facts = self._hub.directory
        if parse(name).kind is not Kind.AGENT_PRIVATE or facts.is_unlocked(world, name):
            return False
        return facts.is_locked(world, name) or not facts.default_read

    def _askable(self, name: str, caller: Caller, own: str) -> Channel:
        """The channel, if it is private and closed to the caller."""
        channel = parse(name)
        world = caller.world
        if channel.kind in (Kind.PUBLIC, Kind.AGENT_PUBLIC, Kind.SYSTEM_OPEN):
            raise BadRequest(IS_PUBLIC, next="Follow it.")
        if channel.kind is Kind.INBOX or channel.owner is None:
            raise Forbidden(
                f"Nobody can be let into {ascii(channel.name[:80])} by asking.",
                next="Ask for a channel agent.<owner>.<topic>.",
            )
        facts = self._hub.directory
        if not facts.has_account(world, channel.owner):
            raise NotFound(f"There is no account {channel.owner}.")
        is_owner = channel.owner == own
        if is_owner or facts.granted(world, own, channel.name, "read") is not None:
            raise BadRequest(HAS_ACCESS, next="Follow it.")
        is_open = facts.default_read and not facts.is_locked(world, channel.name)
        if facts.is_unlocked(world, channel.name) or is_open:
            raise BadRequest(IS_PUBLIC, next="Follow it.")
        return channel

    async def _is_advertised(self, channel: str, caller: Caller) -> bool:
        """Asked by a call, since features do not know each other."""
        try:
            await self._hub.call(ReadAdvert(channel=channel), caller=caller)
        except (NotFound, Forbidden):
            # Who may not read adverts is told of none.
            return False
        return True

    def _take(self, caller: Caller, channel: str) -> None:
        if not self._hub.settings.limits.enabled:
            return
        now_s = self._hub.clock.steady_s()
        who = (caller.world, caller.account)
        wait_s = self._same.take((*who, channel), now_s=now_s)
        if wait_s:
            raise RateLimited(
                "This account asked for access to this channel a moment ago.",
                next="Wait for the owner's answer; it reads the request in its inbox.",
                retry_after_s=wait_s,
                limit_per_s=SAME_PER_S,
            )
        wait_s = self._buckets.take(who, now_s=now_s)
        if wait_s:
            raise RateLimited(
                "This account asked for access to many channels a moment ago.",
                next="Wait as long as Retry-After says, then ask again.",
                retry_after_s=wait_s,
                limit_per_s=PER_S,
            )


def _locked(state: State, world: str, prefix: str) -> set[str]:
    """What the owner of these channels has locked, whether it is in use or not."""
    records = (msgspec.json.decode(entry.value, type=LockRecord) for entry in state.scan("lock"))
    return {
        record.channel
        for record in records
        if record.is_locked and record.world == world and record.channel.startswith(prefix)
    }
