"""Receipts: how far each message to an inbox came, as far as it was observed.

Observations live in memory, the newest 100,000 of the last 7 days, and are written behind
once a second, 64 to an entry of the state. So they survive an orderly restart, and a killed
hub forgets at most the last second of them; that a message is stored is always known, since
the log says it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence, Set
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.publishing import Publish
from clawnet.core.calls.reading import WAIT_MAX_S
from clawnet.core.calls.receipts import (
    STEPS,
    WOKEN_MAX_EVENTS,
    Confirmed,
    ConfirmWoken,
    ReadReceipt,
    Receipt,
    Step,
)
from clawnet.core.channels import Kind, matches, parse
from clawnet.core.errors import BadRequest, ClawError, NotFound
from clawnet.core.events import Draft, Event, Stored, place_of
from clawnet.core.ids import seq_from_id
from clawnet.core.rights import Allowed, Verb, decide
from clawnet.core.times import rfc3339
from clawnet.core.units import Committed, Delete, Outcome, Put, Unit
from clawnet.features.inbox.leases import Leases, ago_text
from clawnet.hub.accounts import need_account
from clawnet.hub.subscriptions import State

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

KEPT_MAX = 100_000
KEPT_MS = 7 * 86_400_000
ALIKE_MAX = 16
"""An answer that names only a correlation id answers the newest of so many."""
PAGE_RECEIPTS = 64
PAGES_PER_UNIT_MAX = 32
WRITE_EVERY_S = 1.0
_KIND = "receipt"
_INBOX = ".inbox"

_log = logging.getLogger(__name__)


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What was observed of one message. Times in ms; 0 is not yet."""

    seq: int
    id: str
    world: str
    sender: str
    recipient: str
    stored: int
    offered: int = 0
    woken: int = 0
    acted: int = 0
    correlation: str | None = None


class _Members(msgspec.Struct):
    correlation_id: str | None = None


_members = msgspec.json.Decoder(_Members).decode
_records = msgspec.json.Decoder(list[Record]).decode


class Receipts:
    """Watches messages to inboxes and answers core.calls.receipts.

    Implements hub.publishing.Companion (an answer is an act) and hub.watchers.Watcher.
    """

    def __init__(self, hub: Hub, leases: Leases, *, kept_max: int = KEPT_MAX) -> None:
        self._hub = hub
        self._leases = leases
        self._kept_max = kept_max
        self._by_seq: dict[int, Record] = {}
        """In the order in which they were stored, so the first is the one to forget."""
        self._by_correlation: dict[tuple[str, str, str], list[int]] = {}
        """Those that may still be answered. Few, since each publish that names it asks them all."""
        self._pages: dict[int, list[int]] = {}
        self._page_of: dict[int, int] = {}
        self._open_page = 0
        self._dirty: set[int] = set()
        self._waiters: dict[int, set[asyncio.Future[None]]] = {}
        self._started_ms = hub.clock.wall_ms()

    def register(self) -> None:
        """Register the calls, and watch."""
        hub = self._hub
        hub.handle(ReadReceipt, self.read)
        hub.handle(ConfirmWoken, self.confirm)
        hub.publishing.accompany(self)
        hub.watchers.add(self)

    # --- life ---------------------------------------------------------------

    async def load(self) -> None:
        """Take up what earlier runs wrote."""
        hub = self._hub
        entries = await hub.storage.read(lambda engine: engine.scan(_KIND))
        last_seq = hub.storage.engine.last_seq
        for entry in entries:
            page = int(entry.key.partition("/")[2])
            self._open_page = max(self._open_page, page + 1)
            self._pages[page] = []
            for record in _records(entry.value):
                # Positions of a log that was put back may be given again to other events.
                if record.seq <= last_seq:
                    self._keep(record, page)
        self._dirty = {page for page in self._pages if not self._pages[page]}
        await self._catch_up(max(self._by_seq, default=0))

    async def run(self) -> None:
        """Write behind once a second, and notice leases that are over."""
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            self._leases.sweep()
            self.forget_old()
            try:
                await self.flush()
            except ClawError as error:
                # A full disk: what was observed stays in memory and is written later.
                _log.info("receipts wait to be written: %s", error.message)

    async def flush(self) -> None:
        """Write the pages that changed, a bounded number of them in one unit."""
        while self._dirty:
            pages = sorted(self._dirty)[:PAGES_PER_UNIT_MAX]
            changes = tuple(self._page_change(page) for page in pages)
            self._dirty.difference_update(pages)
            try:
                await self._hub.committer.commit(Unit(changes=changes))
            except ClawError:
                self._dirty.update(pages)
                raise

    async def _catch_up(self, seq: int) -> None:
        """Watch also what a killed hub had stored and not observed on disk, behind `seq`."""
        hub = self._hub
        before_ms = hub.retention.now_ms() - KEPT_MS
        old = await hub.storage.read(lambda log: log.seq_before(before_ms))
        found: list[Record] = []
        for world in {account.world for account in hub.directory.all_accounts()}:
            for name in [n for n in hub.fanout.world(world).names if n.endswith(_INBOX)]:
                found += await self._inbox_behind(world, name, max(seq, old))
                if len(found) > 2 * self._kept_max:
                    found = self._newest(found)
        for record in self._newest(found):
            if record.stored >= before_ms:
                self._keep(record, self._page())

    def _newest(self, records: list[Record]) -> list[Record]:
        """As many as are kept, in the order in which they were stored."""
        return sorted(records, key=lambda record: record.seq)[-self._kept_max :]

    async def _inbox_behind(self, world: str, name: str, seq: int) -> list[Record]:
        """The newest messages of an inbox behind `seq`; no more of them than are kept at all."""
        hub = self._hub
        head = hub.storage.engine.channel(world, name)
        if head is None or head.last_seq <= seq:
            return []
        after = await hub.storage.read(lambda log: log.offset_at(world, name, seq))
        after = max(after, head.last - self._kept_max)
        found: list[Record] = []
        while True:
            chunk = await hub.storage.read(
                lambda log: log.read_channel(world, name, after=after)  # noqa: B023
            )
            for line in chunk.body.split(b"\n") if chunk.count else ():
                event = msgspec.json.decode(line, type=Event)
                if event.actor.id != "hub":
                    found.append(_record_of(event, name.split(".")[1]))
            if chunk.is_end:
                return found
            after = chunk.offset

    def forget_old(self) -> None:
        """Forget what is older than 7 days."""
        before_ms = self._hub.retention.now_ms() - KEPT_MS
        while self._by_seq:
            oldest = next(iter(self._by_seq.values()))
            if oldest.stored >= before_ms:
                return
            self._forget(oldest)

    # --- what is observed ---------------------------------------------------

    def stored(self, stored: list[Stored]) -> None:
        """New events are committed and were handed to the live: keep those of inboxes."""
        for event in stored:
            if event.channel.endswith(_INBOX):
                self._stored(event)

    def offered(self, world: str, account: str, event_ids: Iterable[str]) -> None:
        """Messages were handed to a process of the account. Unknown ids are passed over."""
        self._reached(world, account, event_ids, "offered")

    def woken(self, world: str, account: str, event_ids: Iterable[str]) -> int:
        """A process of the account says that it has these; returns for how many that is new."""
        return self._reached(world, account, event_ids, "woken")

    def acted(self, world: str, account: str, event_ids: Iterable[str]) -> None:
        """The account acknowledged these messages, or answered them."""
        self._reached(world, account, event_ids, "acted")

    def handed_out(self, caller: Caller, bodies: Sequence[bytes]) -> None:
        """Implements Watcher."""
        own = f'"channel":"agent.{caller.account}.inbox"'.encode()
        for body in bodies:
            if own in body[:160]:
                record = self._by_seq.get(place_of(body)[0])
                if record is not None:
                    self._step(record, caller.world, caller.account, "offered")

    def acknowledged(self, world: str, account: str, seqs: Sequence[int]) -> None:
        """Implements Watcher."""
        for seq in seqs:
            record = self._by_seq.get(seq)
            if record is not None:
                self._step(record, world, account, "acted")

    def accompany(
        self, caller: Caller, call: Publish, draft: Draft, removed: Set[str]
    ) -> tuple[Put | Delete, ...] | None:
        """Asks to be told what became of an event that may answer a message."""
        return () if self._answered(draft, call.causation_id) else None

    def settled(self, call: Publish, draft: Draft, outcome: Outcome) -> None:
        """An answer was stored: who sent it has acted."""
        if isinstance(outcome, Committed):
            for record in self._answered(draft, call.causation_id):
                self._step(record, draft.world, draft.actor_id, "acted")

    # --- what is asked ------------------------------------------------------

    async def read(self, call: ReadReceipt, caller: Caller) -> Receipt:
        """Raises NotFound to all but the sender, the recipient and wardens; BadRequest."""
        need_account(caller)
        caller.need("events:read")
        if not 0 <= call.wait_s <= WAIT_MAX_S:
            raise BadRequest(
                f"wait must be 0 to {WAIT_MAX_S:g} seconds.", next="Ask again after the answer."
            )
        record = await self._find(call.event_id, caller)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + call.wait_s
        while not getattr(record, call.until):
            left = deadline - loop.time()
            if left <= 0:
                break
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.setdefault(record.seq, set()).add(waiter)
            try:
                await asyncio.wait([waiter], timeout=left)
            finally:
                waiters = self._waiters[record.seq]
                waiters.discard(waiter)
                if not waiters:
                    del self._waiters[record.seq]
        # The rights may be gone after the wait.
        self._need_party(record, self._hub.directory.refresh(caller))
        return self._receipt(record, call)

    async def confirm(self, call: ConfirmWoken, caller: Caller) -> Confirmed:
        """A process of the caller says that it has messages of its own inbox."""
        account = need_account(caller)
        caller.need("events:read")
        if len(call.events) > WOKEN_MAX_EVENTS:
            raise BadRequest(
                f"At most {WOKEN_MAX_EVENTS} events are confirmed at once.",
                next="Confirm them in several requests.",
            )
        return Confirmed(confirmed=self.woken(caller.world, account, call.events))

    # --- inside: records ----------------------------------------------------

    def _stored(self, event: Stored) -> None:
        channel = parse(event.channel)
        if channel.kind is not Kind.INBOX or channel.owner is None:
            return
        record = Record(
            seq=event.seq,
            id=event.id,
            world=event.world,
            sender=event.actor_id,
            recipient=channel.owner,
            stored=event.ts_ms,
            correlation=_correlation(event.head),
        )
        if event.actor_id != "hub":
            # What the hub says nobody waits for; it is still told from the log if asked.
            self._keep(record, self._page())
            if self._is_followed(record.world, record.recipient, event.channel, event.seq):
                self._step(record, record.world, record.recipient, "offered")

    def _is_followed(self, world: str, recipient: str, channel: str, seq: int) -> bool:
        """Whether a connection of the recipient was just written the event at `seq`."""
        for session in self._hub.sessions.get((world, recipient), ()):
            for subscription in session.subscriptions.values():
                # One that was filled by this very event is catching up again, from behind it.
                if subscription.state is not State.LIVE and subscription.seq < seq:
                    continue
                if channel in subscription.exact or any(
                    matches(pattern, channel) and subscription.may_read(channel)
                    for pattern in subscription.patterns
                ):
                    return True
        return False

    def _keep(self, record: Record, page: int) -> None:
        before = self._by_seq.get(record.seq)
        if before is not None:
            self._forget(before)
        self._by_seq[record.seq] = record
        self._page_of[record.seq] = page
        self._pages.setdefault(page, []).append(record.seq)
        self._dirty.add(page)
        if record.correlation is not None and not record.acted:
            key = (record.world, record.recipient, record.correlation)
            alike = self._by_correlation.setdefault(key, [])
            alike.append(record.seq)
            del alike[:-ALIKE_MAX]
        while len(self._by_seq) > self._kept_max:
            self._forget(next(iter(self._by_seq.values())))

    def _forget(self, record: Record) -> None:
        del self._by_seq[record.seq]
        page = self._page_of.pop(record.seq)
        self._pages[page].remove(record.seq)
        if not self._pages[page]:
            # A page is removed when it is empty; until then what it holds too much is harmless.
            self._dirty.add(page)
        self._unlink(record)

    def _unlink(self, record: Record) -> None:
        """It cannot be answered (any more)."""
        if record.correlation is None:
            return
        key = (record.world, record.recipient, record.correlation)
        alike = self._by_correlation.get(key, [])
        if record.seq in alike:
            alike.remove(record.seq)
            if not alike:
                del self._by_correlation[key]

    def _page(self) -> int:
        if len(self._pages.get(self._open_page, ())) >= PAGE_RECEIPTS:
            self._open_page += 1
        return self._open_page

    def _page_change(self, page: int) -> Put | Delete:
        key = f"{_KIND}/{page:012d}"
        seqs = self._pages.get(page)
        if not seqs:
            self._pages.pop(page, None)
            return Delete(key)
        return Put(key, msgspec.json.encode([self._by_seq[seq] for seq in seqs]).decode())

    def _reached(self, world: str, account: str, event_ids: Iterable[str], step: Step) -> int:
        count = 0
        for event_id in event_ids:
            record = self._record(event_id)
            if record is not None and self._step(record, world, account, step):
                count += 1
        return count

    def _record(self, event_id: str) -> Record | None:
        seq = seq_from_id(event_id)
        record = None if seq is None else self._by_seq.get(seq)
        return record if record is not None and record.id == event_id else None

    def _step(self, record: Record, world: str, account: str | None, step: Step) -> bool:
        """Note that a step was reached, with those before it; False if it was before."""
        if (record.world, record.recipient) != (world, account) or getattr(record, step):
            return False
        now_ms = max(self._hub.clock.wall_ms(), record.stored)
        for each in STEPS[1 : STEPS.index(step) + 1]:
            if not getattr(record, each):
                setattr(record, each, now_ms)
        if record.acted:
            self._unlink(record)
        page = self._page_of.get(record.seq)
        if page is not None:
            self._dirty.add(page)
        for waiter in self._waiters.get(record.seq, ()):
            if not waiter.done():
                waiter.set_result(None)
        return True

    def _answered(self, draft: Draft, causation_id: str | None) -> list[Record]:
        """The messages to the draft's sender that it answers."""
        cause = None if causation_id is None else self._record(causation_id)
        correlated: list[int] = []
        if draft.correlation_id is not None:
            key = (draft.world, draft.actor_id, draft.correlation_id)
            correlated = self._by_correlation.get(key, correlated)
        if cause is None and not correlated:
            return []
        found = {seq: self._by_seq[seq] for seq in correlated}
        if cause is not None:
            found[cause.seq] = cause
        return [
            record
            for record in found.values()
            if (record.world, record.recipient) == (draft.world, draft.actor_id)
            and not record.acted
        ]

    # --- inside: answers ----------------------------------------------------

    async def _find(self, event_id: str, caller: Caller) -> Record:
        """The record of an event; from the log if nothing was observed or it was forgotten."""
        missing = NotFound(f"There is no event {ascii(event_id[:60])} here.")
        record = self._record(event_id)
        if record is None:
            seq = seq_from_id(event_id)
            if seq is None:
                raise missing
            world = caller.world
            body = await self._hub.storage.read(lambda log: log.get(world, seq))
            if body is None:
                raise missing
            event = msgspec.json.decode(body, type=Event)
            if event.id != event_id:
                raise missing
            caller = self._hub.directory.refresh(caller)
            record = self._record(event_id) or self._of_log(event, caller, missing)
        self._need_party(record, caller)
        return record

    def _of_log(self, event: Event, caller: Caller, missing: NotFound) -> Record:
        channel = parse(event.channel)
        if channel.kind is not Kind.INBOX or channel.owner is None:
            decision = decide(caller, Verb.READ, channel, self._hub.directory)
            if event.actor.id != caller.account and (
                not isinstance(decision, Allowed) or event.offset < decision.from_offset
            ):
                raise missing
            raise BadRequest(
                f"{event.channel} is no inbox, and only messages to an inbox have receipts.",
                next="Publish on agent.<id>.inbox to learn whether that agent was woken.",
            )
        return _record_of(event, channel.owner)

    def _need_party(self, record: Record, caller: Caller) -> None:
        is_party = caller.account in (record.sender, record.recipient) or caller.role == "warden"
        if record.world != caller.world or not is_party:
            raise NotFound(f"There is no event {record.id} here.")

    def _receipt(self, record: Record, call: ReadReceipt) -> Receipt:
        is_reached = bool(getattr(record, call.until))
        return Receipt(
            event_id=record.id,
            channel=f"agent.{record.recipient}.inbox",
            sender=record.sender,
            recipient=record.recipient,
            stored=rfc3339(record.stored),
            offered=_time(record.offered),
            woken=_time(record.woken),
            acted=_time(record.acted),
            until=call.until,
            reached=is_reached,
            reason=None if is_reached else self._reason(record, call),
        )

    def _reason(self, record: Record, call: ReadReceipt) -> str:
        """Why the step that was asked for is not reached, in one sentence."""
        hub, who = self._hub, record.recipient
        if not hub.directory.has_account(record.world, who):
            return f"the account {who} was deleted"
        within = f" within {call.wait_s:g} s" if call.wait_s else ""
        if record.woken:
            return f"{who}'s process was woken and has not acted on the message{within}"
        if call.until == "offered":
            return self._not_offered(record, within)
        lease = self._leases.info(record.world, who)
        if lease.held:
            how = ascii(lease.how)[1:-1] if lease.how else "process"
            if record.offered:
                return (
                    f"{who}'s process ({how}) was given the message and has not confirmed it"
                    f"{within}"
                )
            return f"{who}'s process ({how}) holds a wake lease and took no message{within}"
        offered = "; the message was given to one of its readers" if record.offered else ""
        return f"{lease.reason}{offered}"

    def _not_offered(self, record: Record, within: str) -> str:
        hub, who = self._hub, record.recipient
        key = (record.world, who)
        if hub.sessions.get(key):
            return f"{who} is connected, and nothing of it follows its inbox{within}"
        lease = self._leases.info(*key)
        if lease.held:
            how = ascii(lease.how)[1:-1] if lease.how else "process"
            return f"{who}'s process ({how}) holds a wake lease and took no message{within}"
        left_ms = hub.presence.last_seen_ms(*key)
        visit_ms = hub.presence.last_visit_ms(*key)
        now_ms = hub.clock.wall_ms()
        if visit_ms is not None and visit_ms >= (left_ms or 0):
            ago = ago_text(now_ms - visit_ms)
            return f"{who} has nothing that follows its inbox; it was last seen {ago} ago"
        if left_ms is None:
            ago = ago_text(now_ms - self._started_ms)
            return f"{who} has not connected since the hub started {ago} ago"
        return f"{who} is not connected; it was {ago_text(now_ms - left_ms)} ago"


def _correlation(head: str) -> str | None:
    if '"correlation_id":' not in head:
        return None
    return _members(f"{{{head}}}".encode()).correlation_id


def _record_of(event: Event, recipient: str) -> Record:
    return Record(
        seq=event.seq,
        id=event.id,
        world=event.world,
        sender=event.actor.id,
        recipient=recipient,
        stored=_ms(event.ts),
        correlation=event.correlation_id,
    )


def _time(ms: int) -> str | None:
    return rfc3339(ms) if ms else None


def _ms(ts: str) -> int:
    from datetime import datetime

    return round(datetime.fromisoformat(ts).timestamp() * 1000)
