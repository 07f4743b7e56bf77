"""Sessions and subscriptions: one state machine from catching up to live to ended.

Replay, resume and slow readers are one path. A subscription registers at the
head, reads the log up to it in bounded chunks, asks rights and gaps again, and
goes live in one section without await; a session whose transport is full falls
back to reading. Whatever was awaited, the generation is compared afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.live import SUBSCRIPTION_CHANNELS_MAX, Subscribe, Subscribed
from clawnet.core.calls.publishing import Publish, Published
from clawnet.core.calls.reading import Gap
from clawnet.core.channels import Channel, canonical, is_pattern, parse, parse_pattern
from clawnet.core.errors import BadRequest, ClawError, TooManySubscriptions, Unauthenticated
from clawnet.core.events import place_of, quote_name, seq_of
from clawnet.core.live import ChunkShape, End, LiveShape, Outlet, Shape
from clawnet.core.rights import Coverage, Verb, classify, require, uncovered
from clawnet.hub import rechecking
from clawnet.hub.lanes import Lane
from clawnet.hub.places import Place, Places
from clawnet.hub.subscriptions import State, Subscription

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

CHUNK_EVENTS = 1_000
"""Events per read when catching up: few enough to frame within a turn of the loop."""
NO_PROGRESS_MAX_S = 10.0
ENDED_PER_TURN = 256

_log = logging.getLogger(__name__)


class Session:
    """One live connection's side of the hub. Made by Hub.open(); all on the loop.

    The door calls pause() when its transport is above the high-water mark, resume() when it has
    drained, leave() when it ends the session itself and close() when the transport is gone.
    """

    PENDING_MAX = 512

    __slots__ = (
        "__weakref__",
        "_behind",
        "_followed",
        "_next_number",
        "_unsent",
        "aliases",
        "caller",
        "grace_ms",
        "hub",
        "is_closed",
        "is_merged",
        "is_onlooker",
        "is_paused",
        "is_sole",
        "lane",
        "noted",
        "on_rights",
        "outlet",
        "paused_at_s",
        "pending",
        "resumed",
        "shape",
        "shapes",
        "subscriptions",
    )

    def __init__(
        self, hub: Hub, caller: Caller, outlet: Outlet, shape: Shape, *, is_merged: bool = True
    ) -> None:
        self.hub = hub
        self.caller = caller
        self.grace_ms = 0
        """How long after its token's end it goes on, in which its door takes another."""
        self.outlet = outlet
        self.shape = shape
        self.shapes: dict[str, Shape] | None = None
        """Of single channels, where it is not `shape`."""
        self.subscriptions: dict[int, Subscription] = {}
        self.aliases: dict[str, str] = {}
        self.is_merged = is_merged
        """Whether what it follows is written in seq order over all channels, or per channel."""
        self.is_onlooker = False
        """Whether its account does not count as there by it."""
        self.is_sole = True
        self.is_paused = False
        self.is_closed = False
        self.paused_at_s = 0.0
        """Since when a paused session makes no progress."""
        self.pending = 0
        self.lane: Lane | None = None
        self.resumed: asyncio.Event | None = None
        self.noted: set[str] | None = None
        """What else was written that its client has not taken: see rechecking.note()."""
        self.on_rights: Callable[[str | None], None] | None = None
        """Told when rights have changed on a name or pattern; None: on anything."""
        self._next_number = 1
        self._unsent = 0
        self._followed = 0
        self._behind: set[Subscription] = set()
        """Subscriptions that are not live."""

    # --- what a door calls --------------------------------------------------

    def subscribe(self, call: Subscribe) -> Subscribed:
        """Follow channels and patterns. No event of it is written within this turn of the loop.

        Raises InvalidChannel, Forbidden, Unauthenticated, TooManySubscriptions, BadRequest.
        """
        self._refuse_if_closed()
        self.hub.ration.active.add((self.caller.world, self.caller.account))
        with self.hub.refusals.noting(self.caller, "subscribe"):
            exact, patterns, aliases = self._selected(call.channels)
        place = Places.of_call(call, exact, patterns)
        subscription = self._begin(exact, patterns, aliases)
        head = self.hub.fanout.position
        subscription.seq = subscription.begun_at = head
        if place is None and not self.is_paused:
            self._go_live(subscription)
        else:
            self._start_catching_up(subscription, place)
        return Subscribed(
            number=subscription.number,
            channels=call.channels,
            cursor=f"{self.hub.log_epoch}-{head}",
        )

    def follow(self, name: str, *, after: int | None = None, shape: Shape | None = None) -> int:
        """Follow one channel that this session does not follow yet; returns its number.

        `after` is an offset of the channel's present epoch that its door has looked at: what
        lies behind it is written first. None is from now on. Like subscribe(), it writes
        nothing within this turn of the loop. For sessions that are not merged; `shape` is how
        the channel's events look, if not as the session's others. Raises what subscribe() does.
        """
        self._refuse_if_closed()
        assert not self.is_merged, "a merged session has one shape"
        self.hub.ration.active.add((self.caller.world, self.caller.account))
        with self.hub.refusals.noting(self.caller, "subscribe"):
            exact, _, aliases = self._selected((name,))
        subscription = self._begin(exact, (), aliases)
        canonical_name = next(iter(exact))
        if shape is not None:
            self.shapes = self.shapes or {}
            self.shapes[canonical_name] = shape
        subscription.seq = self.hub.fanout.position
        if after is not None:
            after = max(after, subscription.floors.get(canonical_name, 0))
            now = self._offset_now(subscription)
            if now is None or now != after or self.is_paused:
                subscription.offset = after
                subscription.seq = 0
                self._start_catching_up(subscription, None)
                return subscription.number
        elif self.is_paused:
            self._start_catching_up(subscription, None)
            return subscription.number
        self._go_live(subscription)
        return subscription.number

    def reshape(self, name: str, shape: Shape) -> None:
        """Show a followed channel's events in another shape from now on."""
        live = [s for s in self.subscriptions.values() if name in s.exact and s.state is State.LIVE]
        for _ in live:
            self.hub.fanout.leave(self, name)
        self.shapes = self.shapes or {}
        self.shapes[name] = shape
        for _ in live:
            self.hub.fanout.join(self, name)

    def unsubscribe(self, number: int) -> None:
        """End a subscription. Raises BadRequest if there is none of that number."""
        subscription = self.subscriptions.get(number)
        if subscription is None:
            raise BadRequest(
                f"There is no subscription {number} on this connection.",
                next="Use the number that the answer to subscribe gave.",
            )
        self._end(subscription)

    def publish(self, call: Publish, reply: Callable[[Published | ClawError], None]) -> None:
        """Publish in the order of the calls; `reply` is called once with the outcome."""
        try:
            self._refuse_if_closed()
        except ClawError as error:
            reply(error)
            return
        if self.lane is None:
            self.lane = Lane()
        self.pending += 1

        def settled(outcome: Published | ClawError) -> None:
            self.pending -= 1
            reply(outcome)

        self.hub.publish(self.caller, call, lane=self.lane, reply=settled)

    def pause(self) -> None:
        """The transport is full: stop writing events, read them from the log later."""
        if not self.is_paused and not self.is_closed:
            self.is_paused = True
            self.progressed()
            self._unsent = self.outlet.unsent()
            self.hub.slow.add(self)
            self.hub.fanout.paused(self)

    def progressed(self) -> None:
        """The client took something, if not all: it is given another NO_PROGRESS_MAX_S."""
        self.paused_at_s = self.hub.clock.steady_s()

    def is_stuck(self) -> bool:
        """Whether a paused client took nothing for too long. The hub's sweep asks it."""
        unsent = self.outlet.unsent()
        if unsent < self._unsent:
            self.progressed()
        self._unsent = unsent
        return self.hub.clock.steady_s() - self.paused_at_s > NO_PROGRESS_MAX_S

    def resume(self) -> None:
        """The transport has drained."""
        if self.is_paused:
            self.is_paused = False
            self.hub.slow.discard(self)
            if self.resumed is not None:
                self.resumed.set()

    def leave(self) -> None:
        """The session is over; its client may yet be given what is queued, until close()."""
        if self.is_closed:
            return
        followed = self.subscriptions.values()
        rechecking.note(self, (name for s in followed for name in (*s.exact, *s.patterns)))
        if self.noted is not None:
            self.progressed()
            self.hub.leaving.add(self)
        self._finish()

    def close(self) -> None:
        """The connection is gone. Idempotent."""
        self.hub.leaving.discard(self)
        if not self.is_closed:
            self._finish()

    # --- what the hub calls -------------------------------------------------

    @property
    def has_cursor(self) -> bool:
        """Whether what is written comes in seq order over all that this session follows."""
        return not self._behind

    def look(self, name: str) -> tuple[str, str]:
        """How a channel's events look here: the shape and the alias that was used."""
        return (self.shape_of(name).key, self.aliases.get(name, ""))

    def shape_of(self, name: str) -> Shape:
        """How a channel's events look here but for its name."""
        return self.shape if self.shapes is None else self.shapes.get(name, self.shape)

    def fall_back(self) -> None:
        """Turn every live subscription to catching up from the present position."""
        if not self.is_paused or self.is_closed:
            return
        for subscription in self.subscriptions.values():
            if subscription.state is State.LIVE:
                self._leave(subscription)
                subscription.seq = self.hub.fanout.position
                subscription.offset = self._offset_now(subscription)
                self._start_catching_up(subscription, None)

    def recheck(self, caller: Caller, *, narrowed: str | None, widened: str | None = None) -> None:
        """Rights changed: take over the present caller and end what it may no longer follow.

        `narrowed` is the name or pattern on which rights were taken away, `widened` that on which
        they were given; without either it is not known what changed. Must not be interleaved;
        when this returns nothing of the revoked is delivered any more.
        """
        rechecking.recheck(self, caller, narrowed=narrowed, widened=widened)

    def given(self, name: str) -> None:
        """The door has written events of a channel beside what is followed: an answer."""
        rechecking.note(self, (name,))

    def drop(self, subscription: Subscription, name: str, error: ClawError) -> None:
        """Take one channel out of a subscription; the last one ends it."""
        if len(subscription.exact) + len(subscription.patterns) == 1:
            self._end(subscription)
            self.outlet.ended(subscription.number, error)
            return
        if subscription.state is State.LIVE:
            self.hub.fanout.leave(self, name)
        del subscription.exact[name]
        self._followed -= 1
        self.outlet.dropped(subscription.number, self.aliases.get(name, name), error)

    # --- inside -------------------------------------------------------------

    def _begin(
        self, exact: dict[str, Channel], patterns: tuple[str, ...], aliases: dict[str, str]
    ) -> Subscription:
        """A new subscription that is not live yet. Raises TooManySubscriptions."""
        limit = self.hub.settings.limits.subscriptions_per_session_max
        if self.caller.is_anonymous:
            limit = self.hub.settings.channels.anonymous_subscriptions_max
        if self._followed + len(exact) + len(patterns) > limit:
            raise TooManySubscriptions(
                f"A connection follows at most {limit} channels and patterns.", limit=limit
            )
        subscription = Subscription(self, self._next_number, exact, patterns)
        self._next_number += 1
        self.subscriptions[subscription.number] = subscription
        self._followed += len(exact) + len(patterns)
        self._behind.add(subscription)
        is_several = len(self.subscriptions) > 1 or subscription.sole_name is None
        if self.is_merged and self.is_sole and is_several:
            self._become_mixed()
        # Not before: what is live was joined under the names that were used then.
        for name in exact:
            self.aliases.pop(name, None)
        self.aliases.update(aliases)
        rechecking.set_floors(self, subscription, exact)
        return subscription

    def _refuse_if_closed(self) -> None:
        """What a door had read before the hub ended the session must not act any more."""
        if self.is_closed:
            raise Unauthenticated("This connection is over.", next="Connect again.")

    def _selected(
        self, channels: tuple[str, ...]
    ) -> tuple[dict[str, Channel], tuple[str, ...], dict[str, str]]:
        if not channels:
            raise BadRequest(
                "There is nothing to subscribe to.", next="Name at least one channel or pattern."
            )
        if len(channels) > SUBSCRIPTION_CHANNELS_MAX:
            raise TooManySubscriptions(
                f"One request names at most {SUBSCRIPTION_CHANNELS_MAX} channels.",
                limit=SUBSCRIPTION_CHANNELS_MAX,
            )
        exact: dict[str, Channel] = {}
        patterns: list[str] = []
        aliases: dict[str, str] = {}
        for given in channels:
            if is_pattern(given):
                pattern = parse_pattern(given)
                if classify(self.caller, pattern) is Coverage.NONE:
                    raise uncovered(self.caller, pattern)
                patterns.append(pattern)
                continue
            channel = parse(given)
            require(self.caller, Verb.SUBSCRIBE, channel, self.hub.directory)
            exact[channel.name] = channel
            if canonical(given) != given:
                aliases[channel.name] = given
        return exact, tuple(dict.fromkeys(patterns)), aliases

    def _offset_now(self, subscription: Subscription) -> int | None:
        """The offset of all that was written of a single channel, if it is known at once.

        Asked later, by seq, the events it has seen may be trimmed and their offset forgotten,
        and then a gap behind them would not be noticed.
        """
        name = subscription.sole_name
        if name is None:
            return None
        head = self.hub.storage.engine.channel(self.caller.world, name)
        if head is None:
            return 0
        # A group that is committed and not yet handed out is not written either.
        return head.last if head.last_seq <= self.hub.fanout.position else None

    def _become_mixed(self) -> None:
        live = [s for s in self.subscriptions.values() if s.state is State.LIVE]
        for subscription in live:
            self._leave(subscription)
        self.is_sole = False
        for subscription in live:
            self._join(subscription)

    def _join(self, subscription: Subscription) -> None:
        subscription.state = State.LIVE
        subscription.covered = None
        self._behind.discard(subscription)
        for name in subscription.exact:
            self.hub.fanout.join(self, name)
        for pattern in subscription.patterns:
            self.hub.fanout.join_pattern(subscription, pattern)

    def _leave(self, subscription: Subscription) -> None:
        for name in subscription.exact:
            self.hub.fanout.leave(self, name)
        for pattern in subscription.patterns:
            self.hub.fanout.leave_pattern(subscription, pattern)
        subscription.state = State.CATCHING_UP
        self._behind.add(subscription)

    def _go_live(self, subscription: Subscription) -> None:
        """Must not be interleaved: position, rights and membership are of one moment."""
        self._join(subscription)
        subscription.task = None
        if self.is_paused:
            self.fall_back()

    def _finish(self) -> None:
        """Of thousands of subscriptions some end each turn."""
        self.is_closed = True
        self._end_some()
        self.hub.closed(self)

    def _end_some(self) -> None:
        for subscription in list(islice(self.subscriptions.values(), ENDED_PER_TURN)):
            self._end(subscription)
        if self.subscriptions:
            asyncio.get_running_loop().call_soon(self._end_some)

    def _end(self, subscription: Subscription) -> None:
        if subscription.state is State.LIVE:
            self._leave(subscription)
        subscription.state = State.ENDED
        subscription.generation += 1
        if subscription.task is not None:
            subscription.task.cancel()
            subscription.task = None
        self._behind.discard(subscription)
        if self.subscriptions.pop(subscription.number, None) is not None:
            self._followed -= len(subscription.exact) + len(subscription.patterns)
            if not self.is_closed:
                rechecking.note(self, (*subscription.exact, *subscription.patterns))
        if self.shapes is not None:
            for name in subscription.exact:
                self.shapes.pop(name, None)

    def _start_catching_up(self, subscription: Subscription, place: Place | None) -> None:
        subscription.state = State.CATCHING_UP
        subscription.generation += 1
        subscription.task = self.hub.spawn(self._catch_up(subscription, place))

    async def _catch_up(self, subscription: Subscription, place: Place | None) -> None:
        generation = subscription.generation
        try:
            if place is not None:
                gaps = await Places.resolve(self.hub, subscription, place)
                if subscription.generation != generation:
                    return
                for gap in Places.still_due(subscription, place, gaps):
                    self.outlet.gap(subscription.number, self._gap_shown(gap))
            while subscription.generation == generation:
                if self.is_paused:
                    # One event for all of the session's subscriptions; a new one once it was set.
                    if self.resumed is None or self.resumed.is_set():
                        self.resumed = asyncio.Event()
                    # No deadline: the hub's sweep closes a session without progress.
                    await self.resumed.wait()
                    continue
                if await self._read_on(subscription, generation):
                    return
        except ClawError as error:
            if subscription.generation == generation:
                self._end_with(subscription, error)
        except Exception:  # the top of a task: the reader must hear of it
            _log.exception("catching up failed")
            if subscription.generation == generation:
                self._end_with(subscription, ClawError("Reading the log failed."))

    def _end_with(self, subscription: Subscription, error: ClawError) -> None:
        subscription.task = None
        self._end(subscription)
        self.outlet.ended(subscription.number, error)

    async def _read_on(self, subscription: Subscription, generation: int) -> bool:
        """Read and write one chunk; True when the subscription is live or over."""
        hub = self.hub
        head = hub.fanout.position
        rights_at = hub.directory.version
        name = subscription.sole_name
        world = self.caller.world
        if name is not None:
            if subscription.offset is None:
                seq = subscription.seq
                subscription.offset = await hub.storage.read(
                    lambda log: log.offset_at(world, name, seq)
                )
            after = max(subscription.offset, subscription.floors.get(name, 0))
            chunk = await hub.storage.read(
                lambda log: log.read_channel(
                    world, name, after=after, up_to_seq=head, limit=CHUNK_EVENTS
                )
            )
        else:
            names = self._names(subscription)
            seq = subscription.seq
            chunk = await hub.storage.read(
                lambda log: log.read_log(
                    world, names, after_seq=seq, up_to_seq=head, limit=CHUNK_EVENTS
                )
            )
        # From here to the end there is no await: rights, gaps and position are of one moment.
        if subscription.generation != generation:
            return True
        if hub.directory.version != rights_at:
            # A narrowing may have hidden what was just read; read it again under present rights.
            return False
        for missing in chunk.missing:
            floor = subscription.floors.get(missing.channel, 0)
            if missing.last > floor:
                gap = Gap(
                    channel=missing.channel,
                    first=max(missing.first, floor + 1),
                    last=missing.last,
                    oldest=missing.last + 1,
                )
                self.outlet.gap(subscription.number, self._gap_shown(gap))
                if subscription.generation != generation:
                    # Its door ends what has a gap.
                    return True
        if chunk.count:
            self._write(subscription, chunk.body)
        subscription.seq = max(subscription.seq, chunk.seq)
        if name is not None:
            subscription.offset = max(subscription.offset or 0, chunk.offset)
        if chunk.is_end and hub.fanout.position == head and not self.is_paused:
            subscription.seq = head
            self._go_live(subscription)
            return True
        return False

    def _names(self, subscription: Subscription) -> frozenset[str]:
        """The channels it may read now."""
        world = self.hub.fanout.world(self.caller.world)
        names = set(subscription.exact)
        if subscription.patterns:
            covered = self.hub.covered(world, subscription)
            if not subscription.is_always_allowed:
                rechecking.set_floors(self, subscription, covered)
            names |= covered
        return frozenset(names)

    def _write(self, subscription: Subscription, body: bytes) -> None:
        name = subscription.sole_name
        shape = self.shape if name is None else self.shape_of(name)
        if isinstance(shape, LiveShape):
            shape = shape.replayed
        epoch = self.hub.log_epoch.encode()
        lines = body.split(b"\n")
        if subscription.floors or subscription.pastless or self.aliases:
            shown = [self._shown(subscription, line) for line in lines]
            lines = [line for line in shown if line is not None]
            if not lines:
                return
        # Alone on its session, what a subscription writes is in seq order.
        if len(self.subscriptions) > 1:
            frames = b"".join([shape.frame(line, None) for line in lines])
        elif isinstance(shape, ChunkShape):
            frames = shape.frames(lines, epoch)
        else:
            frames = b"".join(
                [shape.frame(line, b"%b-%d" % (epoch, seq_of(line))) for line in lines]
            )
        self.outlet.write(frames)
        self.hub.watchers.written(subscription, lines)

    def _shown(self, subscription: Subscription, line: bytes) -> bytes | None:
        """An envelope under the name its reader used; None if it is hidden."""
        seq, channel, offset = place_of(line)
        if offset <= subscription.floors.get(channel, 0):
            return None
        hidden = subscription.pastless
        if hidden and seq <= subscription.begun_at and channel in hidden:
            return None
        alias = self.aliases.get(channel)
        if alias is None:
            return line
        own = quote_name(channel).encode()
        return line.replace(own, quote_name(alias).encode(), 1)

    def _gap_shown(self, gap: Gap) -> Gap:
        """A gap under the name its reader used."""
        alias = self.aliases.get(gap.channel)
        return gap if alias is None else msgspec.structs.replace(gap, channel=alias)

    def end(self, reason: End) -> None:
        """Have the door end the connection. If it does so already, a revoke takes back the rest."""
        if not self.is_closed:
            self.outlet.close(reason)
            self.leave()
        elif reason is End.REVOKED:
            self.outlet.retract()
