"""Turns the `since` of a request into a place in the log, and says what lies before it no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clawnet.core.calls.live import Subscribe
from clawnet.core.calls.reading import Gap
from clawnet.core.channels import Channel, canonical
from clawnet.core.cursors import AfterOffset, Ago, Since
from clawnet.core.errors import BadRequest
from clawnet.core.positions import branch_of, resolve
from clawnet.ports.log import Missing

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub
    from clawnet.hub.subscriptions import Subscription

Place = Since | dict[str, Since]


class Places:
    """Resolves positions; no state of its own."""

    @staticmethod
    def of_call(
        call: Subscribe, exact: dict[str, Channel], patterns: tuple[str, ...]
    ) -> Place | None:
        """Check a subscribe's `since` against what it follows. Raises BadRequest."""
        since = call.since
        if isinstance(since, dict):
            if patterns:
                raise BadRequest(
                    "Offsets by channel do not say where a pattern begins.",
                    next="Give a cursor, a duration or all, or subscribe to the pattern apart.",
                )
            named = {canonical(name): place for name, place in since.items()}
            unknown = set(named) - set(exact)
            if unknown:
                raise BadRequest(
                    f"since names {ascii(min(unknown))}, which is not among the channels.",
                    next="Give an offset only for the exact names you subscribe to.",
                )
            return named
        if isinstance(since, AfterOffset) and since.offset and (patterns or len(exact) != 1):
            raise BadRequest(
                "One offset cannot be a position in several channels.",
                next='Give a cursor, a duration, all, or {"channel": offset}.',
            )
        return since

    @staticmethod
    async def resolve(hub: Hub, subscription: Subscription, place: Place) -> list[Gap]:
        """Set a subscription's starting position; returns the gaps to tell."""
        head = subscription.seq
        gaps = await Places._resolve(hub, subscription, place)
        # A copy, here too.
        for name in sorted(subscription.pastless or ()):
            since = place.get(name) if isinstance(place, dict) else place
            if since is not None:
                gaps += await Places._without_past(hub, subscription, name, since, head)
        return gaps

    @staticmethod
    async def _without_past(
        hub: Hub, subscription: Subscription, name: str, since: Since, head: int
    ) -> list[Gap]:
        """Begin at the head where the past may not be read, and tell what is left out."""
        world, floors = subscription.session.caller.world, subscription.floors
        asked, _ = await Places.offset(hub, world, name, since)
        now = await hub.storage.read(lambda log: log.offset_at(world, name, head))
        asked = max(asked, floors.get(name, 0))
        if asked >= now:
            return []
        floors[name] = now
        return [Gap(channel=name, first=asked + 1, last=now, oldest=now + 1)]

    @staticmethod
    async def _resolve(hub: Hub, subscription: Subscription, place: Place) -> list[Gap]:
        world = subscription.session.caller.world
        if not isinstance(place, dict):
            name = subscription.sole_name
            if name is not None:
                subscription.offset, gap = await Places.offset(hub, world, name, place)
                subscription.seq = 0
                return [gap] if gap else []
            subscription.seq, gap = await Places.seq(
                hub, next(iter(subscription.exact), ">"), place
            )
            return [gap] if gap else []
        gaps: list[Gap] = []
        head = subscription.seq
        seqs = [head]
        for name, since in place.items():
            offset, gap = await Places.offset(hub, world, name, since)
            if gap:
                gaps.append(gap)
            subscription.floors[name] = max(subscription.floors.get(name, 0), offset)
            if subscription.sole_name == name:
                subscription.offset = offset
            seq, missing = await Places._seq_behind(hub, world, name, offset)
            seqs.append(seq)
            # The log will be read from where the channel goes on, which is behind this gap.
            for lost in missing:
                if lost.last > subscription.floors[name]:
                    first = max(lost.first, subscription.floors[name] + 1)
                    oldest = lost.last + 1
                    gaps.append(Gap(channel=name, first=first, last=lost.last, oldest=oldest))
                    subscription.floors[name] = lost.last
        subscription.seq = min(seqs)
        # A copy: a revoke may take a channel out while this waits.
        for name in tuple(subscription.exact):
            if name not in place:
                # It begins at the head of the subscribe, not where the others resume.
                floor = await hub.storage.read(
                    lambda log, name=name: log.offset_at(world, name, head)  # type: ignore[misc]
                )
                subscription.floors[name] = max(subscription.floors.get(name, 0), floor)
        return gaps

    @staticmethod
    def still_due(subscription: Subscription, place: Place, gaps: list[Gap]) -> list[Gap]:
        """The gaps of resolve() to tell now: a revoke may have taken a channel out meanwhile."""
        exact = subscription.exact
        due = [gap for gap in gaps if gap.channel in exact or gap.channel == ">"]
        if gaps and not due and not isinstance(place, dict):
            # It is the log's, which concerns all that is followed, under whichever name.
            return [msgspec.structs.replace(gaps[0], channel=next(iter(exact), ">"))]
        return due

    @staticmethod
    async def offset(hub: Hub, world: str, name: str, since: Since) -> tuple[int, Gap | None]:
        """The offset behind which one channel is to be read, and what it can no longer give."""
        if isinstance(since, AfterOffset):
            return await Places._checked_offset(hub, world, name, since)
        seq, gap = await Places.seq(hub, name, since)
        return await hub.storage.read(lambda log: log.offset_at(world, name, seq)), gap

    @staticmethod
    async def seq(hub: Hub, name: str, since: Since) -> tuple[int, Gap | None]:
        """The seq behind which the log is to be read."""
        if isinstance(since, Ago):
            before_ms = hub.clock.wall_ms() - since.ms
            return await hub.storage.read(lambda log: log.seq_before(before_ms)), None
        if isinstance(since, AfterOffset):
            return 0, None
        resolved = resolve(since, epochs=hub.log_epochs, last_seq=hub.fanout.position)
        if resolved.lost is None:
            return resolved.seq, None
        first, last = resolved.lost
        gap = Gap(channel=name, first=first, last=last, oldest=first, reason="epoch")
        return resolved.seq, gap

    @staticmethod
    async def _checked_offset(
        hub: Hub, world: str, name: str, since: AfterOffset
    ) -> tuple[int, Gap | None]:
        head = await hub.storage.read(lambda log: log.channel(world, name))
        last = head.last if head else 0
        good = last
        if since.epoch is not None and (head is None or since.epoch != head.epoch):
            log_epoch = since.epoch.rpartition(".")[0]
            branch = branch_of(log_epoch, epochs=hub.log_epochs, last_seq=hub.fanout.position)
            good = await hub.storage.read(lambda log: log.offset_at(world, name, branch))
        if since.offset <= good:
            return since.offset, None
        gap = Gap(channel=name, first=good + 1, last=since.offset, oldest=good + 1, reason="epoch")
        return good, gap

    @staticmethod
    async def _seq_behind(
        hub: Hub, world: str, name: str, offset: int
    ) -> tuple[int, tuple[Missing, ...]]:
        """A seq with nothing of the channel behind `offset` at or before it, and what of the
        channel is missing between the two."""
        chunk = await hub.storage.read(
            lambda log: log.read_channel(world, name, after=offset, limit=1)
        )
        return (chunk.seq - 1 if chunk.count else hub.fanout.position), chunk.missing
