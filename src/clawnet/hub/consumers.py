"""Durable consumers: what each has settled, what it holds, and what must be given to it again.

A consumer is {floor, read_to, pending}: everything up to `floor` is settled,
everything up to `read_to` was delivered, and `pending` are the deliveries in
between that nobody acknowledged. Floors are stored every 100 ms; a second
delivery is stored before it is made. So a crash repeats and never skips.
What was lost meanwhile (`gaps`) is kept and told like a delivery: until acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.consumers import (
    FETCH_LIMIT_MAX,
    IN_FLIGHT_MAX,
    Ack,
    Acked,
    ConsumerInfo,
    ConsumerList,
    CreateConsumer,
    DeleteConsumer,
    Delivery,
    DeliveryName,
    Fetch,
    Fetched,
    ListConsumers,
    Nack,
    ReadConsumer,
)
from clawnet.core.calls.reading import WAIT_MAX_S, Gap
from clawnet.core.calls.tokens import Done
from clawnet.core.channels import is_pattern, matches, parse, parse_pattern
from clawnet.core.cursors import AfterOffset, parse_cursor, parse_since
from clawnet.core.errors import BadRequest, ClawError, Conflict, NotFound
from clawnet.core.events import Draft, Stored, place_of
from clawnet.core.positions import branch_of, resolve
from clawnet.core.rights import Allowed, Coverage, Verb, classify, decide, require, uncovered
from clawnet.core.trace import follow_up
from clawnet.core.units import Delete, Put, Unit
from clawnet.hub.accounts import need_account
from clawnet.hub.consumer import Consumer, HeldGap, Pending, Record
from clawnet.hub.places import Places
from clawnet.hub.vault import put

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

FLOORS_EVERY_S = 0.1
CONSUMERS_PER_ACCOUNT_MAX = 100
_log = logging.getLogger(__name__)
_NAME = re.compile(r"[a-z0-9_-]{1,64}\Z")


class Consumers:
    """All consumers of the hub; handlers of core.calls.consumers."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._all: dict[tuple[str, str, str], Consumer] = {}
        self._waiters: dict[asyncio.Future[None], Consumer] = {}

    def register(self) -> None:
        hub = self._hub
        hub.handle(CreateConsumer, self.create, is_change=True)
        hub.handle(DeleteConsumer, self.delete, is_change=True)
        hub.handle(ListConsumers, self.list_all)
        hub.handle(ReadConsumer, self.read)
        hub.handle(Fetch, self.fetch)
        hub.handle(Ack, self.ack)
        hub.handle(Nack, self.nack)
        hub.follow_rights(self._rights_changed)

    async def load(self) -> None:
        """Take up what is stored. Positions of a log that was put back are cut at the branch."""
        hub = self._hub
        entries = await hub.storage.read(lambda engine: engine.scan("consumer"))
        for entry in entries:
            record = msgspec.json.decode(entry.value, type=Record)
            consumer = Consumer(record)
            good = _still_good(hub, record)
            if good < consumer.read_to:
                lost = Gap(
                    channel=consumer.channels[0],
                    first=good + 1,
                    last=consumer.read_to,
                    oldest=good + 1,
                    reason="epoch",
                )
                # Positions of the log that went away mean nothing in the one that is there now.
                consumer.gaps = [HeldGap(h.gap, min(h.after, good)) for h in consumer.gaps]
                consumer.missed(lost, after=good, up_to=good)
                consumer.read_to = good
                for seq in [seq for seq in consumer.pending if seq > good]:
                    del consumer.pending[seq]
            self._all[(consumer.world, consumer.account, consumer.name)] = consumer

    def stored(self, stored: list[Stored]) -> None:
        """New events were committed: let the fetches that wait for such look."""
        if not self._waiters:
            return
        changed: dict[str, set[str]] = {}
        for event in stored:
            changed.setdefault(event.world, set()).add(event.channel)
        for waiter, consumer in self._waiters.items():
            names = changed.get(consumer.world)
            if names is None or waiter.done():
                continue
            if any(map(consumer.covers, names)):
                waiter.set_result(None)

    def _rights_changed(self, world: str, account: str) -> None:
        """Let the account's own fetches look whether they may still wait."""
        for waiter, consumer in self._waiters.items():
            if (consumer.world, consumer.account) == (world, account) and not waiter.done():
                waiter.set_result(None)

    def forget(self, world: str, account: str) -> list[Put | Delete]:
        """End an account's consumers in memory; returns what has to be stored of it."""
        gone = [c for c in self._all.values() if (c.world, c.account) == (world, account)]
        for consumer in gone:
            self._end(consumer)
        return [Delete(f"consumer/{consumer.key}") for consumer in gone]

    def lags(self) -> list[tuple[str, int]]:
        """Each consumer's key and lag, for the metrics."""
        return [(consumer.key, self._lag(consumer)) for consumer in self._all.values()]

    async def run(self) -> None:
        """Store floors every 100 ms."""
        while True:
            await asyncio.sleep(FLOORS_EVERY_S)
            try:
                await self.flush()
            except ClawError:
                # Storage is full or ending; floors stay dirty and are stored later.
                await asyncio.sleep(1.0)

    async def flush(self) -> None:
        """Store the floors that moved."""
        dirty = [c for c in self._all.values() if c.is_dirty and not c.is_gone]
        if not dirty:
            return
        epoch = self._hub.log_epoch
        for consumer in dirty:
            consumer.is_dirty = False
        try:
            await self._hub.committer.commit(
                Unit(changes=tuple(put("consumer", c.key, c.record(epoch)) for c in dirty))
            )
        except ClawError:
            for consumer in dirty:
                consumer.is_dirty = True
            raise

    # --- handlers -----------------------------------------------------------

    async def create(self, call: CreateConsumer, caller: Caller) -> ConsumerInfo:
        """Raises Conflict if it exists with other settings."""
        account = self._need(caller)
        self._check(call, caller)
        known = self._all.get((caller.world, account, call.name))
        if known is not None:
            if (known.channels, known.ack_wait_s, known.max_attempts) != (
                tuple(call.channels),
                call.ack_wait_s,
                call.max_attempts,
            ):
                raise Conflict(
                    f"A consumer {call.name} exists with other settings.",
                    next="Delete it first, or choose another name.",
                )
            return self._info(known)
        held = sum(1 for world, owner, _ in self._all if (world, owner) == (caller.world, account))
        if held >= CONSUMERS_PER_ACCOUNT_MAX:
            raise BadRequest(
                f"An account has at most {CONSUMERS_PER_ACCOUNT_MAX} consumers.",
                next="Delete consumers that are no longer used.",
            )
        start = self._hub.fanout.position
        gap: Gap | None = None
        if call.since is not None:
            since = parse_since(call.since)
            if isinstance(since, AfterOffset) and since.offset:
                raise BadRequest(
                    "One offset cannot be a position in several channels.",
                    next="Give all, a duration such as 10m, or a cursor.",
                )
            start, gap = await Places.seq(self._hub, call.channels[0], since)
        record = Record(
            world=caller.world,
            account=account,
            name=call.name,
            channels=list(call.channels),
            ack_wait_s=call.ack_wait_s,
            max_attempts=call.max_attempts,
            epoch=self._hub.log_epoch,
            floor=start,
            read_to=start,
            gaps=[] if gap is None else [HeldGap(gap, start)],
        )
        consumer = Consumer(record)
        await self._hub.change(put("consumer", consumer.key, record, if_revision=0))
        self._all[(caller.world, account, call.name)] = consumer
        return self._info(consumer)

    async def delete(self, call: DeleteConsumer, caller: Caller) -> Done:
        consumer = self._mine(call.name, caller)
        self._end(consumer)
        await self._hub.change(Delete(f"consumer/{consumer.key}"))
        return Done()

    async def list_all(self, call: ListConsumers, caller: Caller) -> ConsumerList:
        account = self._need(caller)
        mine = [c for c in self._all.values() if (c.world, c.account) == (caller.world, account)]
        return ConsumerList(consumers=[self._info(c) for c in sorted(mine, key=lambda c: c.name)])

    async def read(self, call: ReadConsumer, caller: Caller) -> ConsumerInfo:
        return self._info(self._mine(call.name, caller))

    async def fetch(self, call: Fetch, caller: Caller) -> Fetched:
        """Deliver what is due again, then what is new. Raises NotFound, Forbidden."""
        consumer = self._mine(call.name, caller)
        if not 1 <= call.limit <= FETCH_LIMIT_MAX:
            raise BadRequest(f"limit must be 1 to {FETCH_LIMIT_MAX}.", next="Fetch again for more.")
        if not 0 <= call.wait_s <= WAIT_MAX_S:
            raise BadRequest(
                f"wait_s must be 0 to {WAIT_MAX_S:g}.", next="Fetch again after the answer."
            )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + call.wait_s
        while True:
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters[waiter] = consumer
            try:
                caller = self._hub.directory.refresh(caller)
                deliveries = await self._take(consumer, caller, call.limit)
                left = deadline - loop.time()
                if deliveries or consumer.is_untold or left <= 0 or consumer.is_gone:
                    break
                due = [held.due_s for held in consumer.pending.values()]
                if due:
                    left = min(left, max(min(due) - self._hub.clock.steady_s(), 0.01))
                left = self._hub.directory.until_expiry(caller, left)
                await asyncio.wait([waiter], timeout=left)
            finally:
                self._waiters.pop(waiter, None)
        # Reads and a commit lie between the decision on the first delivery and here.
        caller = self._hub.directory.refresh(caller)
        deliveries = [d for d in deliveries if self._may_read(caller, bytes(d.event))]
        consumer.is_untold = False
        gaps = self._gaps(consumer, caller)
        first = gaps[0] if gaps else None
        self._hub.presence.visited(consumer.world, consumer.account)
        self._hub.watchers.fetched(caller, deliveries)
        return Fetched(deliveries=deliveries, lag=self._lag(consumer), gap=first, gaps=gaps)

    async def ack(self, call: Ack, caller: Caller) -> Acked:
        """Settle deliveries; those that expired or never were change nothing and are named."""
        consumer = self._mine(call.name, caller)
        now_s = self._hub.clock.steady_s()
        stale: list[DeliveryName] = []
        settled = []
        for named in call.deliveries:
            held = consumer.pending.get(named.seq)
            if held is None or held.attempts != named.attempt or held.due_s <= now_s:
                stale.append(named)
            else:
                settled.append(named.seq)
        if call.cursor is not None:
            up_to = self._up_to(call.cursor)
            settled += [
                seq
                for seq, held in consumer.pending.items()
                if seq <= up_to and held.due_s > now_s and seq not in settled
            ]
        for seq in settled:
            consumer.pending.pop(seq, None)
            consumer.is_dirty = True
        consumer.settled(settled)
        self._hub.watchers.acknowledged(consumer.world, consumer.account, settled)
        if settled and len(consumer.pending) + len(settled) >= IN_FLIGHT_MAX:
            # A fetch may be waiting for room.
            self._wake(consumer)
        floor = f"{self._hub.log_epoch}-{consumer.floor}"
        return Acked(acked=len(settled), floor=floor, stale=stale)

    async def nack(self, call: Nack, caller: Caller) -> Acked:
        """Make deliveries due again after `delay_s`."""
        consumer = self._mine(call.name, caller)
        now_s = self._hub.clock.steady_s()
        stale: list[DeliveryName] = []
        for named in call.deliveries:
            held = consumer.pending.get(named.seq)
            if held is None or held.attempts != named.attempt or held.due_s <= now_s:
                stale.append(named)
            else:
                held.due_s = now_s + max(call.delay_s, 0.0)
        self._wake(consumer)
        floor = f"{self._hub.log_epoch}-{consumer.floor}"
        return Acked(acked=len(call.deliveries) - len(stale), floor=floor, stale=stale)

    # --- inside -------------------------------------------------------------

    def _end(self, consumer: Consumer) -> None:
        consumer.is_gone = True
        self._all.pop((consumer.world, consumer.account, consumer.name), None)
        self._wake(consumer)

    def _deleted(self, consumer: Consumer, caller: Caller) -> NotFound:
        # Whose account was deleted is told that.
        self._hub.directory.refresh(caller)
        return NotFound(
            f"The consumer {consumer.name} was deleted.", next="Create the consumer first."
        )

    def _wake(self, consumer: Consumer) -> None:
        """Let the fetches that wait for this consumer look."""
        for waiter, waited in self._waiters.items():
            if waited is consumer and not waiter.done():
                waiter.set_result(None)

    def _gaps(self, consumer: Consumer, caller: Caller) -> list[Gap]:
        """What it has to be told, of the channels that its owner may read now."""
        told = []
        for held in consumer.gaps:
            name = held.gap.channel
            if is_pattern(name) or isinstance(
                decide(caller, Verb.READ, parse(name), self._hub.directory), Allowed
            ):
                told.append(held.gap)
        return told

    async def _take(self, consumer: Consumer, caller: Caller, limit: int) -> list[Delivery]:
        # Two fetches of one consumer must not be given the same events.
        async with consumer.fetching:
            if consumer.is_gone:
                raise self._deleted(consumer, caller)
            again = await self._redeliver(consumer, caller, limit)
            room = min(limit - len(again), IN_FLIGHT_MAX - len(consumer.pending))
            fresh = await self._read_new(consumer, caller, room) if room > 0 else []
            return sorted(again + fresh, key=lambda delivery: delivery.seq)

    async def _redeliver(self, consumer: Consumer, caller: Caller, limit: int) -> list[Delivery]:
        hub = self._hub
        now_s = hub.clock.steady_s()
        due = [seq for seq, held in sorted(consumer.pending.items()) if held.due_s <= now_s]
        given: list[tuple[int, bytes]] = []
        drafts: list[Draft] = []
        settled: list[int] = []
        for seq in due[:limit]:
            body = await hub.storage.read(lambda log, s=seq: log.get(consumer.world, s))  # type: ignore[misc]
            if body is None or not self._may_read(caller, body):
                settled.append(seq)
            elif consumer.pending[seq].attempts >= consumer.max_attempts:
                settled.append(seq)
                if not _is_dead_letter(consumer, body):
                    drafts.append(self._dead_letter(consumer, seq, body))
            else:
                given.append((seq, body))
        if consumer.is_gone:
            # Storing its attempts would bring it back after a restart.
            raise self._deleted(consumer, caller)
        before = {seq: consumer.pending[seq] for seq in [*settled, *(seq for seq, _ in given)]}
        for seq in settled:
            del consumer.pending[seq]
        for seq, _ in given:
            attempts = before[seq].attempts + 1
            consumer.pending[seq] = Pending(attempts, now_s + consumer.ack_wait_s)
        if given or settled:
            # The attempt is on disk before the second delivery is made.
            change = put("consumer", consumer.key, consumer.record(hub.log_epoch))
            try:
                await hub.committer.commit(Unit(drafts=tuple(drafts), changes=(change,)))
            except ClawError:
                # Not stored, so not made: all of it is due as before, and no dead letter is lost.
                consumer.pending.update(before)
                raise
        return [
            Delivery(seq=seq, attempt=consumer.pending[seq].attempts, event=msgspec.Raw(body))
            for seq, body in given
            if seq in consumer.pending
        ]

    async def _read_new(self, consumer: Consumer, caller: Caller, room: int) -> list[Delivery]:
        hub = self._hub
        found: list[Delivery] = []
        while len(found) < room:
            head = hub.fanout.position
            rights_at = hub.directory.version
            names = self._names(consumer, caller)
            after, limit = consumer.read_to, room - len(found)
            chunk = await hub.storage.read(
                lambda log: log.read_log(
                    consumer.world,
                    names,  # noqa: B023
                    after_seq=after,  # noqa: B023
                    up_to_seq=head,  # noqa: B023
                    limit=limit,  # noqa: B023
                )
            )
            if hub.directory.version != rights_at:
                caller = hub.directory.refresh(caller)
                continue
            due_s = hub.clock.steady_s() + consumer.ack_wait_s
            ends: dict[str, int] = {}
            for line in chunk.body.split(b"\n") if chunk.count else ():
                seq, name, offset = place_of(line)
                ends[name] = offset
                decision = decide(caller, Verb.READ, parse(name), hub.directory)
                if not isinstance(decision, Allowed) or offset < decision.from_offset:
                    continue
                consumer.pending[seq] = Pending(1, due_s)
                found.append(Delivery(seq=seq, attempt=1, event=msgspec.Raw(line)))
            for missing in chunk.missing:
                decision = decide(caller, Verb.READ, parse(missing.channel), hub.directory)
                if not isinstance(decision, Allowed) or missing.last < decision.from_offset:
                    continue
                _log.info("consumer %s missed %s", consumer.key, missing)
                gap = Gap(
                    channel=missing.channel,
                    first=max(missing.first, decision.from_offset),
                    last=missing.last,
                    oldest=missing.last + 1,
                )
                consumer.missed(gap, after=after, up_to=chunk.seq)
            for name, offset in ends.items():
                consumer.reached(name, offset)
            consumer.read_to = max(consumer.read_to, head if chunk.is_end else chunk.seq)
            consumer.is_dirty = True
            if chunk.is_end:
                break
        return found

    def _names(self, consumer: Consumer, caller: Caller) -> frozenset[str]:
        """The channels it follows that its owner may read now."""
        hub = self._hub
        names: set[str] = set()
        known = hub.fanout.world(consumer.world).names
        for selector in consumer.channels:
            if not is_pattern(selector):
                names.add(parse(selector).name)
            else:
                names.update(name for name in known if matches(selector, name))
        return frozenset(
            name
            for name in names
            if isinstance(decide(caller, Verb.READ, parse(name), hub.directory), Allowed)
        )

    def _dead_letter(self, consumer: Consumer, seq: int, body: bytes) -> Draft:
        """The event that says which delivery was given up, with the event itself in it."""
        held = consumer.pending[seq]
        data = {
            "consumer": consumer.name,
            "attempts": held.attempts,
            "event": msgspec.Raw(body),
        }
        voice = msgspec.structs.replace(HUB, world=consumer.world)
        caused = follow_up(body)
        return self._hub.publishing.render(
            voice,
            f"agent.{consumer.account}.dead-letter",
            type="consumer.dead_lettered",
            data=msgspec.json.encode(data).decode(),
            correlation_id=caused.correlation_id,
            causation_id=caused.causation_id,
            traceparent=caused.traceparent,
        )

    def _may_read(self, caller: Caller, body: bytes) -> bool:
        _, name, offset = place_of(body)
        decision = decide(caller, Verb.READ, parse(name), self._hub.directory)
        return isinstance(decision, Allowed) and offset >= decision.from_offset

    def _check(self, call: CreateConsumer, caller: Caller) -> None:
        if not _NAME.match(call.name):
            raise BadRequest(
                f"{ascii(call.name[:80])} cannot be a consumer's name.",
                next="Use 1 to 64 of a-z, 0-9, _ and -.",
            )
        if not call.channels or len(call.channels) > 100:
            raise BadRequest(
                "A consumer follows 1 to 100 channels and patterns.",
                next="Name channels, or use a pattern.",
            )
        if not 0.1 <= call.ack_wait_s <= 3_600 or not 1 <= call.max_attempts <= 100:
            raise BadRequest(
                "ack_wait_s must be 0.1 to 3600 and max_attempts 1 to 100.",
                next="Leave them out for the defaults.",
            )
        for selector in call.channels:
            if is_pattern(selector):
                if classify(caller, parse_pattern(selector)) is Coverage.NONE:
                    raise uncovered(caller, selector)
            else:
                require(caller, Verb.READ, parse(selector), self._hub.directory)

    def _need(self, caller: Caller) -> str:
        caller.need("events:read")
        return need_account(caller)

    def _mine(self, name: str, caller: Caller) -> Consumer:
        account = self._need(caller)
        consumer = self._all.get((caller.world, account, name))
        if consumer is None:
            raise NotFound(
                f"There is no consumer {ascii(name[:80])}.", next="Create the consumer first."
            )
        return consumer

    def _up_to(self, cursor: str) -> int:
        """The seq of an ack's cursor, as far as it still means what it meant."""
        place = parse_cursor(cursor)
        return resolve(place, epochs=self._hub.log_epochs, last_seq=self._hub.fanout.position).seq

    def _lag(self, consumer: Consumer) -> int:
        return max(self._hub.fanout.position - consumer.read_to, 0)

    def _info(self, consumer: Consumer) -> ConsumerInfo:
        return ConsumerInfo(
            name=consumer.name,
            channels=list(consumer.channels),
            ack_wait_s=consumer.ack_wait_s,
            max_attempts=consumer.max_attempts,
            floor=f"{self._hub.log_epoch}-{consumer.floor}",
            in_flight=len(consumer.pending),
            lag=self._lag(consumer),
        )


def _is_dead_letter(consumer: Consumer, body: bytes) -> bool:
    """Whether an event is a dead letter already: one about it would hold it, and so on."""
    return place_of(body)[1] == f"agent.{consumer.account}.dead-letter"


def _still_good(hub: Hub, record: Record) -> int:
    """The last seq up to which a stored position means what it meant."""
    position = hub.fanout.position
    return branch_of(record.epoch, epochs=hub.log_epochs, last_seq=position)
