"""Answers reads of the past: a channel's history, one event, the list of channels."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.reading import (
    HISTORY_LIMIT_MAX,
    WAIT_MAX_S,
    ChannelInfo,
    ChannelList,
    Gap,
    History,
    ListChannels,
    ReadEvent,
    ReadHistory,
)
from clawnet.core.channels import Channel, matches, parse, parse_pattern
from clawnet.core.errors import BadRequest, NotFound
from clawnet.core.events import place_of, quote_name
from clawnet.core.ids import seq_from_id
from clawnet.core.rights import Allowed, Verb, decide, may_read_event, require
from clawnet.core.times import rfc3339
from clawnet.hub.accounts import need_account
from clawnet.hub.places import Places
from clawnet.ports.log import Chunk

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub


class Reading:
    """Handlers of core.calls.reading."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def register(self) -> None:
        self._hub.handle(ReadHistory, self.history)
        self._hub.handle(ReadEvent, self.event)
        self._hub.handle(ListChannels, self.channels)

    async def history(self, call: ReadHistory, caller: Caller) -> History:
        """A page of one channel. Raises Forbidden, BadRequest, InvalidChannel."""
        channel = parse(call.channel)
        require(caller, Verb.READ, channel, self._hub.directory)
        if not 1 <= call.limit <= HISTORY_LIMIT_MAX:
            raise BadRequest(
                f"limit must be 1 to {HISTORY_LIMIT_MAX}.", next="Ask for several pages instead."
            )
        if not 0 <= call.wait_s <= WAIT_MAX_S:
            raise BadRequest(
                f"wait must be 0 to {WAIT_MAX_S:g} seconds.", next="Wait again after the answer."
            )
        if not self._hub.directory.has_history(channel):
            # It is kept for who was away for a moment and for consumers, not to be looked up.
            head = self._hub.storage.engine.channel(caller.world, channel.name)
            place = None if call.reverse else (head.last if head else 0)
            nothing = Chunk(b"", 0, 0, 0, True)
            return await self._page(call, caller, channel.name, nothing, place, [])
        if call.reverse:
            return await self._backwards(call, caller, channel)
        return await self._forwards(call, caller, channel)

    async def _forwards(self, call: ReadHistory, caller: Caller, channel: Channel) -> History:
        hub = self._hub
        world, name = caller.world, channel.name
        gaps: list[Gap] = []
        after = 0
        if call.since is not None:
            after, gap = await Places.offset(hub, world, name, call.since)
            if gap:
                gaps.append(msgspec.structs.replace(gap, channel=call.channel))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + call.wait_s
        while True:
            # Registered before the read: an event that comes between them ends the wait at once.
            waiter = hub.fanout.wait(world, name) if call.wait_s else None
            try:
                allowed, caller = self._allowed(caller, channel)
                start = max(after, allowed.from_offset - 1)
                chunk = await hub.storage.read(
                    lambda log: log.read_channel(world, name, after=start, limit=call.limit)  # noqa: B023
                )
                # Asked again after the wait: nothing is given that was revoked meanwhile.
                again, caller = self._allowed(caller, channel)
                if again.from_offset > allowed.from_offset:
                    continue
                left = deadline - loop.time()
                if chunk.count or waiter is None or left <= 0:
                    break
                await asyncio.wait([waiter], timeout=left)
            finally:
                if waiter is not None:
                    hub.fanout.forget(world, name, waiter)
        gaps += _gaps(chunk, call.channel, above=max(allowed.from_offset - 1, 0))
        following = max(start, chunk.offset)
        return await self._page(call, caller, name, chunk, following, gaps)

    async def _backwards(self, call: ReadHistory, caller: Caller, channel: Channel) -> History:
        hub = self._hub
        world, name = caller.world, channel.name
        floor = 0
        if call.since is not None:
            floor, _ = await Places.offset(hub, world, name, call.since)
        chunk = await hub.storage.read(
            lambda log: log.read_channel_reverse(world, name, before=call.before, limit=call.limit)
        )
        allowed, caller = self._allowed(caller, channel)
        floor = max(floor, allowed.from_offset - 1)
        body, count = chunk.body, chunk.count
        is_end = chunk.is_end
        if count and chunk.offset <= floor:
            lines = [line for line in body.split(b"\n") if place_of(line)[2] > floor]
            body, count, is_end = b"\n".join(lines), len(lines), True
        cut = Chunk(body, count, chunk.offset, chunk.seq, is_end)
        return await self._page(
            call, caller, name, cut, None if is_end or not count else chunk.offset, []
        )

    def _allowed(self, caller: Caller, channel: Channel) -> tuple[Allowed, Caller]:
        caller = self._hub.directory.refresh(caller)
        return require(caller, Verb.READ, channel, self._hub.directory), caller

    async def _page(
        self,
        call: ReadHistory,
        caller: Caller,
        name: str,
        chunk: Chunk,
        following: int | None,
        gaps: list[Gap],
    ) -> History:
        head = self._hub.storage.engine.channel(caller.world, name)
        body = chunk.body
        if body and call.channel != name:
            own, shown = quote_name(name).encode(), quote_name(call.channel).encode()
            body = b"\n".join(line.replace(own, shown, 1) for line in body.split(b"\n"))
        return History(
            body=body,
            count=chunk.count,
            next=following,
            epoch=head.epoch if head else f"{self._hub.log_epoch}.1",
            gaps=tuple(gaps),
        )

    async def event(self, call: ReadEvent, caller: Caller) -> bytes:
        """One event by id. NotFound also where the caller may not read: ids tell nothing."""
        hub = self._hub
        missing = NotFound(f"There is no event {ascii(call.id[:60])} here.")
        seq = seq_from_id(call.id)
        if seq is None:
            raise missing
        world = caller.world
        body = await hub.storage.read(lambda log: log.get(world, seq))
        if body is None or f'"id":"{call.id}"'.encode() not in body[:600]:
            raise missing
        if not may_read_event(hub.directory.refresh(caller), body, hub.directory):
            raise missing
        return body

    async def channels(self, call: ListChannels, caller: Caller) -> ChannelList:
        """A page of the channels that hold events and that the caller may read.

        Needs an account: a caller without a token reads by exact names only.
        """
        hub = self._hub
        need_account(caller)
        if not 1 <= call.limit <= 1_000:
            raise BadRequest("limit must be 1 to 1000.", next="Ask for several pages instead.")
        pattern = None if call.pattern is None else parse_pattern(call.pattern)
        names = sorted(hub.fanout.world(caller.world).names)
        found: list[ChannelInfo] = []
        index = bisect_right(names, call.after)
        looked = 0
        while index < len(names) and len(found) < call.limit:
            name = names[index]
            index += 1
            looked += 1
            if looked % 500 == 0:
                # Many names that the caller may not read must not hold up the loop.
                await asyncio.sleep(0)
                caller = hub.directory.refresh(caller)
            if pattern is not None and not matches(pattern, name):
                continue
            if not isinstance(decide(caller, Verb.READ, parse(name), hub.directory), Allowed):
                continue
            head = hub.storage.engine.channel(caller.world, name)
            if head is None:
                continue
            found.append(
                ChannelInfo(
                    name=name,
                    epoch=head.epoch,
                    first=head.first,
                    last=head.last,
                    last_ts=rfc3339(head.last_ts_ms),
                    subscribers=hub.fanout.subscribers(caller.world, name),
                )
            )
        following = found[-1].name if found and index < len(names) else None
        return ChannelList(channels=found, next=following)


def _gaps(chunk: Chunk, shown: str, *, above: int) -> list[Gap]:
    """What a read crossed and could not give, as the reader calls it."""
    return [
        Gap(channel=shown, first=max(m.first, above + 1), last=m.last, oldest=m.last + 1)
        for m in chunk.missing
        if m.last > above
    ]
