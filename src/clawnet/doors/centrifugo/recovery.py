"""What a subscriber missed: read from the log, or why it cannot be had.

A position is (epoch, offset). It is good if the epoch is the channel's (or was left out) and the
log still holds all that lies behind the offset. What does not fit into one answer is streamed
behind it by the hub, in order: `after` is where that goes on.

Offsets that are told must be those of what was handed to live readers: an event that is committed
and not yet fanned out comes live, so a client that was told of its offset before, and then lost
its connection, would never be given it.

Who may follow a channel and not read its past recovers no more than an absence: from a position of
the present epoch, which it was told, and as far back as one answer reaches.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from clawnet.core.channels import Channel
from clawnet.core.events import place_of
from clawnet.core.rights import Allowed, Verb, decide
from clawnet.doors.centrifugo.codes import UNRECOVERABLE, Failed
from clawnet.doors.centrifugo.wire import StreamPosition
from clawnet.ports.log import ChannelHead

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub
    from clawnet.hub.sessions import Session

REJECT_UNRECOVERED = 2
"""The flag with which a client says that it wants all or nothing."""
FIRST_INCARNATION = 1
"""Of a channel's epoch before its first event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The position that a client brings."""

    offset: int
    epoch: str
    flag: int = 0

    @property
    def is_all(self) -> bool:
        """Whether it never saw anything and asks for all there is."""
        return self.offset == 0 and not self.epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a subscription begins. `bodies` are the envelopes that stand in the answer; what lies
    behind `after` (None: only what comes now) follows them."""

    offset: int
    epoch: str
    after: int | None = None
    bodies: list[bytes] = field(default_factory=list)
    was_recovering: bool = False
    is_recovered: bool = False


def epoch_of(hub: Hub, head: ChannelHead | None) -> str:
    """A channel's epoch, also before its first event."""
    return f"{hub.log_epoch}.{FIRST_INCARNATION}" if head is None else head.epoch


def start_at_once(
    session: Session, channel: Channel, wish: Wish | None, *, is_cache: bool
) -> Start | None:
    """The start, if nothing has to be read for it; else None. Raises Failed."""
    hub = session.hub
    head = hub.storage.engine.channel(session.caller.world, channel.name)
    if head is not None and head.last_seq > hub.fanout.position:
        return None
    top = 0 if head is None else head.last
    epoch = epoch_of(hub, head)
    if wish is None:
        return Start(offset=top, epoch=epoch)
    if not wish.epoch and _sight(session, channel).is_pastless:
        return _not_recovered(wish, top, epoch)
    if is_cache:
        return None
    if wish.epoch and wish.epoch != epoch:
        return _not_recovered(wish, top, epoch)
    if wish.offset == top:
        return Start(offset=top, epoch=epoch, after=top, was_recovering=True, is_recovered=True)
    if wish.offset > top:
        return _not_recovered(wish, top, epoch)
    return None


async def start(
    session: Session, channel: Channel, wish: Wish | None, *, is_cache: bool, limit: int
) -> Start:
    """The start, read from the log; to be followed from in the same turn. Raises Failed."""
    hub, world, name = session.hub, session.caller.world, channel.name
    while True:
        position = hub.fanout.position
        sight = _sight(session, channel)
        floor = sight.floor
        top = await hub.storage.read(lambda log: log.offset_at(world, name, position))  # noqa: B023
        found: list[bytes] = []
        after = top
        is_whole = True
        if wish is not None and is_cache:
            newest = await hub.storage.read(
                lambda log: log.read_channel_reverse(world, name, before=top + 1, limit=1)  # noqa: B023
            )
            found = _lines(newest.body)
        elif wish is not None and wish.offset < top:
            after = max(wish.offset, floor)
            chunk = await hub.storage.read(
                lambda log: log.read_channel(
                    world,
                    name,
                    after=after,  # noqa: B023
                    up_to_seq=position,  # noqa: B023
                    limit=limit,
                )
            )
            found = _lines(chunk.body)
            is_whole = wish.is_all or not any(gone.last > floor for gone in chunk.missing)
            after = max(after, chunk.offset)
        # From here to Session.follow(), which asks the rights again, there is no await.
        if _sight(session, channel) != sight:
            continue
        epoch = epoch_of(hub, hub.storage.engine.channel(world, name))
        if wish is None:
            return Start(offset=top, epoch=epoch, after=top)
        is_same = not wish.epoch or wish.epoch == epoch
        is_far = not is_cache and top - wish.offset > limit
        if sight.is_pastless and (wish.epoch != epoch or is_far):
            return _not_recovered(wish, top, epoch, after=top)
        if is_cache:
            found = [body for body in found if place_of(body)[2] > floor]
            if not found and not (is_same and wish.offset == top):
                return _not_recovered(wish, top, epoch, after=top)
            if found and is_same and wish.offset == place_of(found[0])[2]:
                found = []
        elif not is_same or wish.offset > top or not is_whole:
            return _not_recovered(wish, top, epoch, after=top)
        return Start(
            # The client counts on from what it asked with, by the publications.
            offset=wish.offset,
            epoch=epoch,
            after=after,
            bodies=found,
            was_recovering=True,
            is_recovered=True,
        )


def streamed(start: Start) -> Start:
    """The same without events in the answer: they follow it."""
    if not start.bodies:
        return start
    return replace(start, bodies=[], after=place_of(start.bodies[0])[2] - 1)


def placed(hub: Hub, world: str, channel: Channel, now: Start, since: StreamPosition) -> Start:
    """The start behind a position without its events, if all of them are held; else `now`."""
    head = hub.storage.engine.channel(world, channel.name)
    first = 1 if head is None else head.first
    is_same = not since.epoch or since.epoch == now.epoch
    if not is_same or not first - 1 <= since.offset <= now.offset:
        return now
    return Start(offset=since.offset, epoch=now.epoch, after=since.offset)


def _not_recovered(wish: Wish, top: int, epoch: str, *, after: int | None = None) -> Start:
    if wish.flag & REJECT_UNRECOVERED:
        raise Failed(UNRECOVERABLE)
    return Start(offset=top, epoch=epoch, after=after, was_recovering=True)


class _Sight(NamedTuple):
    """What a session may see of a channel that it may follow."""

    is_pastless: bool
    floor: int
    """The offset at and below which the channel is hidden."""


def _sight(session: Session, channel: Channel) -> _Sight:
    caller, directory = session.caller, session.hub.directory
    decision = decide(caller, Verb.READ, channel, directory)
    is_pastless = not isinstance(decision, Allowed)
    if is_pastless:
        decision = decide(caller, Verb.SUBSCRIBE, channel, directory)
    from_offset = decision.from_offset if isinstance(decision, Allowed) else 0
    return _Sight(is_pastless, max(from_offset - 1, 0))


def _lines(body: bytes) -> list[bytes]:
    return body.split(b"\n") if body else []
