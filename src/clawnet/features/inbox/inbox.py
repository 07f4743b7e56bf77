"""The inbox of each account: what is addressed to it and not acknowledged.

Only the account itself reads and acknowledges it; whoever else may read these channels
(a warden) reads them as events. What is acknowledged is on disk before that is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from weakref import WeakValueDictionary

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.inbox import (
    ACK_EVENTS_MAX,
    ACK_GAPS_MAX,
    BUDGET_TOKENS_MAX,
    INBOX_LIMIT_MAX,
    AckInbox,
    InboxAcked,
    InboxPage,
    Lag,
    ReadInbox,
)
from clawnet.core.calls.reading import WAIT_MAX_S, Gap
from clawnet.core.channels import parse
from clawnet.core.cursors import parse_cursor
from clawnet.core.errors import BadRequest, Conflict
from clawnet.core.events import Stored, place_of
from clawnet.core.ids import seq_from_id
from clawnet.core.positions import branch_of, resolve
from clawnet.core.rights import Allowed, Verb, decide
from clawnet.core.units import Delete, Put, Unit
from clawnet.features.inbox.choosing import Choice, Oldest, choose, sent
from clawnet.features.inbox.leases import Leases
from clawnet.features.inbox.marks import RANGES_MAX, Marks, Span, merged
from clawnet.features.inbox.reading import Box, Merge, Walk
from clawnet.features.inbox.receipts import Receipts
from clawnet.hub.accounts import EVENTS as ACCOUNT_EVENTS
from clawnet.hub.accounts import need_account
from clawnet.hub.hub import Hub
from clawnet.ports.log import Engine

GAPS_MAX = 100
"""So many gaps are told at once; the rest when these are acknowledged."""
IDS_AT_ONCE = 25
ACTED_AT_ONCE = 500
ACTED_MAX = 10_000
"""Of so many messages the senders hear, when one ack stands for more."""


def addressed(account: str) -> tuple[str, ...]:
    """The channels whose events count as sent to an account.

    The one place that says so: direct messages, mentions and tasks are added here.
    """
    return (f"agent.{account}.inbox",)


class Inbox:
    """Handlers of core.calls.inbox."""

    def __init__(self, hub: Hub, *, receipts: Receipts, leases: Leases) -> None:
        self._hub = hub
        self._receipts = receipts
        self._leases = leases
        self._marks: dict[tuple[str, str], dict[str, Marks]] = {}
        self._waiters: dict[asyncio.Future[None], tuple[str, str, frozenset[str]]] = {}
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def register(self) -> None:
        self._hub.handle(ReadInbox, self.read)
        self._hub.handle(AckInbox, self.ack)
        self._hub.follow_rights(self._rights_changed)

    async def load(self) -> None:
        """Take up what is stored, but for accounts that are gone."""
        entries = await self._hub.storage.read(lambda engine: engine.scan("inbox"))
        for number, entry in enumerate(entries):
            if number % 1_000 == 999:
                await asyncio.sleep(0)
            marks = msgspec.json.decode(entry.value, type=Marks)
            if self._hub.directory.has_account(marks.world, marks.account):
                self._keep(marks)

    def stored(self, stored: list[Stored]) -> None:
        """New events were committed: let the reads that wait for such look."""
        changed: dict[str, set[str]] = {}
        for event in stored:
            # Imported events may have this type and stand in this channel as well.
            if (
                event.type == "account.deleted"
                and event.channel == ACCOUNT_EVENTS
                and '"imported":' not in event.head
            ):
                self._forget(event)
            if self._waiters:
                changed.setdefault(event.world, set()).add(event.channel)
        for waiter, (world, _, names) in self._waiters.items():
            found = changed.get(world)
            if found is not None and not waiter.done() and not found.isdisjoint(names):
                waiter.set_result(None)

    def _rights_changed(self, world: str, account: str) -> None:
        """Let the account's own reads look whether they may still wait."""
        for waiter, (of_world, of_account, _) in self._waiters.items():
            if (of_world, of_account) == (world, account) and not waiter.done():
                waiter.set_result(None)

    # --- reading ------------------------------------------------------------

    async def read(self, call: ReadInbox, caller: Caller) -> InboxPage:
        """Raises Unauthenticated, Forbidden, BadRequest."""
        account = self._need(caller)
        _check(call)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + call.wait_s
        names = frozenset(addressed(account))
        with ExitStack() as waiting:
            if call.wait_s:
                # Who waits here is woken by what comes: that is what a lease says.
                waiting.enter_context(self._leases.hold(caller.world, account, how="waiting inbox"))
            while True:
                # Registered before the look: what comes between them ends the wait at once.
                waiter: asyncio.Future[None] = loop.create_future()
                self._waiters[waiter] = (caller.world, account, names)
                try:
                    page, is_waiting = await self._look(call, caller, account)
                    left = deadline - loop.time()
                    if is_waiting or left <= 0:
                        break
                    left = self._hub.directory.until_expiry(caller, left)
                    await asyncio.wait([waiter], timeout=left)
                finally:
                    self._waiters.pop(waiter, None)
                caller = self._hub.directory.refresh(caller)
                self._need(caller)
        self._hub.presence.visited(caller.world, account)
        given = [_id_of(message.event) for message in page.messages]
        self._receipts.offered(caller.world, account, given)
        self._receipts.woken(caller.world, account, given)
        return page

    async def _look(self, call: ReadInbox, caller: Caller, account: str) -> tuple[InboxPage, bool]:
        """The answer as it is now, and whether there is anything to answer."""
        hub = self._hub
        # What was not fanned out yet is left for the next look: it has no receipts so far.
        position = hub.fanout.position
        after = None if call.after is None else self._seq(call.after)
        boxes = await self._boxes(caller, account, after=after)
        choice = await self._choose(call, boxes, position)
        oldest = choice.oldest or await self._oldest(boxes, position)
        # Reads lie between the first decision and here: nothing is given that was revoked.
        caller = hub.directory.refresh(caller)
        self._need(caller)
        opened = {name: self._from_offset(caller, name) for name in addressed(account)}
        messages = [
            choice.messages[line.seq]
            for line in choice.lines
            if (start := opened.get(line.channel)) is not None and line.offset >= start
        ]
        gaps = [gap for gap in _gaps(boxes, choice.lost) if opened.get(gap.channel) is not None]
        unread = sum(box.unread for box in boxes)
        age_s = None if oldest is None else (hub.clock.wall_ms() - oldest.ms) / 1000
        page = InboxPage(
            messages=messages,
            unread=unread,
            left_out=max(unread - len(messages), 0),
            lag=Lag(
                events=unread,
                oldest=None if oldest is None else oldest.text,
                oldest_s=None if age_s is None else round(max(age_s, 0.0), 3),
            ),
            gap=gaps[0] if gaps else None,
            gaps=gaps,
            cursor=f"{hub.log_epoch}-{choice.reached or position}",
        )
        return page, bool(gaps) or choice.is_any

    async def _choose(self, call: ReadInbox, boxes: Sequence[Box], position: int) -> Choice:
        is_backward = call.budget_tokens is not None
        walks = [
            Walk(self._hub, box, up_to_seq=position, is_backward=is_backward, chunk=call.limit)
            for box in boxes
        ]
        world = boxes[0].marks.world if boxes else ""
        choice = await choose(
            call,
            Merge(walks, is_backward=is_backward),
            account_of=lambda name: self._hub.directory.account(world, name),
        )
        choice.lost = {walk.box.marks.channel: walk.lost for walk in walks}
        return choice

    async def _oldest(self, boxes: Sequence[Box], position: int) -> Oldest | None:
        """When the oldest unread message was sent."""
        walks = [
            Walk(
                self._hub,
                msgspec.structs.replace(box, start=0),
                up_to_seq=position,
                is_backward=False,
                chunk=1,
            )
            for box in boxes
        ]
        line = await Merge(walks, is_backward=False).take()
        return None if line is None else sent(line)

    async def _boxes(self, caller: Caller, account: str, *, after: int | None) -> list[Box]:
        """The channels that are addressed to the account, which may be read and hold events."""
        hub = self._hub
        found: list[Box] = []
        for name in addressed(account):
            opened = self._from_offset(caller, name)
            marks = await self._rebased(caller.world, account, name)
            behind = 0
            if after is not None:
                behind = await hub.storage.read(
                    lambda log, name=name: log.offset_at(caller.world, name, after)  # type: ignore[misc]
                )
            # Asked last and not awaited: what was trimmed meanwhile is told as a gap.
            head = hub.storage.engine.channel(caller.world, name)
            if head is None or opened is None:
                continue
            found.append(
                Box(
                    marks=marks,
                    first=max(head.first, opened),
                    last=head.last,
                    start=max(behind + 1, opened, 1),
                )
            )
        return found

    # --- acknowledging ------------------------------------------------------

    async def ack(self, call: AckInbox, caller: Caller) -> InboxAcked:
        """Raises BadRequest, Conflict if too many ranges would be left, DiskFull, Unavailable."""
        account = self._need(caller)
        if not call.events and not call.gaps and call.through is None:
            raise BadRequest(
                "The acknowledgement names nothing.",
                next='Send "events": ["evt_…"] with the ids of messages that were shown.',
            )
        if len(call.events) > ACK_EVENTS_MAX or len(call.gaps) > ACK_GAPS_MAX:
            raise BadRequest(
                f"One acknowledgement names at most {ACK_EVENTS_MAX} events and "
                f"{ACK_GAPS_MAX} gaps.",
                next="Send several.",
            )
        # Runs to its end even if the caller goes away: memory and disk must stay alike.
        return await asyncio.shield(self._hub.spawn(self._acknowledge(call, caller, account)))

    async def _acknowledge(self, call: AckInbox, caller: Caller, account: str) -> InboxAcked:
        hub = self._hub
        key = (caller.world, account)
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        # No deadline: the committer answers every unit, so the lock is always given back.
        async with lock:
            names = addressed(account)
            before = {name: await self._rebased(caller.world, account, name) for name in names}
            handled = _Handled(names)
            await self._find_events(call, caller, handled)
            await self._find_gaps(call, caller, handled)
            if call.through is not None:
                seq = self._seq(call.through)
                for name in names:
                    await self._find_through(before[name], seq, handled)
            # No await from here to the queue: what was revoked meanwhile is refused.
            caller = hub.directory.refresh(caller)
            self._need(caller)
            changed: list[Marks] = []
            for name, spans in handled.spans.items():
                if self._from_offset(caller, name) is None:
                    continue
                marks = before[name].adding(spans)
                if len(marks.ranges) > RANGES_MAX:
                    raise Conflict(
                        f"More than {RANGES_MAX} separate ranges would be acknowledged; "
                        "nothing was.",
                        next="Acknowledge the oldest unread messages first: claw inbox --ack "
                        "without --budget shows them.",
                    )
                if marks != before[name]:
                    changed.append(marks)
            if changed:
                changes = tuple(Put(m.key, msgspec.json.encode(m).decode()) for m in changed)
                await hub.committer.commit(Unit(changes=changes))
            acked = 0
            for marks in changed:
                acked += before[marks.channel].count(1, self._last(marks))
                acked -= marks.count(1, self._last(marks))
                if hub.directory.has_account(*key):
                    self._keep(marks)
        for start in range(0, len(handled.ids), ACTED_AT_ONCE):
            self._receipts.acted(*key, handled.ids[start : start + ACTED_AT_ONCE])
            await asyncio.sleep(0)
        unread = sum(box.unread for box in await self._boxes(caller, account, after=None))
        return InboxAcked(acked=acked, unread=unread, unknown=handled.unknown)

    async def _find_events(self, call: AckInbox, caller: Caller, handled: _Handled) -> None:
        """The places of the events that are named. Ids tell nothing about other channels."""
        world = caller.world
        for start in range(0, len(call.events), IDS_AT_ONCE):
            ids = call.events[start : start + IDS_AT_ONCE]
            seqs = [seq_from_id(named) for named in ids]

            def get(log: Engine, seqs: list[int | None] = seqs) -> list[bytes | None]:
                return [None if seq is None else log.get(world, seq) for seq in seqs]

            for named, body in zip(ids, await self._hub.storage.read(get), strict=True):
                # As Reading.event(): the id stands in front of all that a sender writes.
                if body is None or f'"id":"{named}"'.encode() not in body[:600]:
                    handled.unknown.append(named)
                    continue
                _, name, offset = place_of(body)
                opened = self._from_offset(caller, name) if name in handled.spans else None
                if opened is None or offset < opened:
                    handled.unknown.append(named)
                    continue
                handled.ids.append(named)
                handled.spans[name].append((offset, offset))
            await asyncio.sleep(0)

    async def _find_gaps(self, call: AckInbox, caller: Caller, handled: _Handled) -> None:
        """What of the gaps is really gone; events that a restore brought back stay unread."""
        for told in call.gaps:
            spans = handled.spans.get(told.channel)
            if spans is None or not 1 <= told.first <= told.last:
                continue
            chunk = await self._hub.storage.read(
                lambda log, told=told: log.read_channel(  # type: ignore[misc]
                    caller.world, told.channel, after=told.first - 1, limit=1_000
                )
            )
            for missing in chunk.missing:
                spans.append((max(missing.first, told.first), min(missing.last, told.last)))

    async def _find_through(self, marks: Marks, seq: int, handled: _Handled) -> None:
        hub = self._hub
        last = await hub.storage.read(lambda log: log.offset_at(marks.world, marks.channel, seq))
        if not last:
            return
        handled.spans[marks.channel].append((1, last))
        box = Box(marks=marks, first=1, last=last, start=1)
        walk = Walk(hub, box, up_to_seq=hub.fanout.position, is_backward=True, chunk=ACTED_MAX)
        for number in range(ACTED_MAX):
            line = await walk.take()
            if line is None:
                break
            handled.ids.append(_id_of(line.body))
            if number % 100 == 99:
                await asyncio.sleep(0)

    # --- inside -------------------------------------------------------------

    def _need(self, caller: Caller) -> str:
        account = need_account(caller)
        caller.need("events:read")
        return account

    def _from_offset(self, caller: Caller, name: str) -> int | None:
        """The first offset that the caller may read; None if it may not."""
        decision = decide(caller, Verb.READ, parse(name), self._hub.directory)
        return decision.from_offset if isinstance(decision, Allowed) else None

    def _seq(self, cursor: str) -> int:
        """The seq of a cursor, as far as it still means what it meant. Raises BadRequest."""
        place = parse_cursor(cursor)
        return resolve(place, epochs=self._hub.log_epochs, last_seq=self._hub.fanout.position).seq

    def _last(self, marks: Marks) -> int:
        head = self._hub.storage.engine.channel(marks.world, marks.channel)
        return 0 if head is None else head.last

    async def _rebased(self, world: str, account: str, name: str) -> Marks:
        """The marks of a channel, in its present epoch.

        After a restore the offsets beyond the branch are given to other events: what was
        acknowledged of those that went away says nothing about the new ones.
        """
        hub = self._hub
        head = hub.storage.engine.channel(world, name)
        epoch = head.epoch if head is not None else f"{hub.log_epoch}.1"
        marks = self._marks.get((world, account), {}).get(name)
        if marks is None:
            return Marks(world=world, account=account, channel=name, epoch=epoch)
        if marks.epoch == epoch:
            return marks
        log_epoch, _, incarnation = marks.epoch.rpartition(".")
        good = 0
        if incarnation == epoch.rpartition(".")[2]:
            branch = branch_of(log_epoch, epochs=hub.log_epochs, last_seq=hub.fanout.position)
            good = await hub.storage.read(lambda log: log.offset_at(world, name, branch))
        return marks.cut(good, epoch=epoch)

    def _keep(self, marks: Marks) -> None:
        self._marks.setdefault((marks.world, marks.account), {})[marks.channel] = marks

    def _forget(self, event: Stored) -> None:
        """An account was deleted; its id is never given again."""
        account = msgspec.json.decode(event.data).get("account")
        gone = self._marks.pop((event.world, account), None)
        if gone and self._hub.is_ready:
            changes = tuple(Delete(marks.key) for marks in gone.values())
            self._hub.spawn(self._hub.committer.commit(Unit(changes=changes)))


class _Handled:
    """What an acknowledgement names: offsets by channel, ids, and ids that are none."""

    __slots__ = ("ids", "spans", "unknown")

    def __init__(self, names: Sequence[str]) -> None:
        self.spans: dict[str, list[Span]] = {name: [] for name in names}
        self.ids: list[str] = []
        self.unknown: list[str] = []


def _check(call: ReadInbox) -> None:
    if not 1 <= call.limit <= INBOX_LIMIT_MAX:
        raise BadRequest(
            f"limit must be 1 to {INBOX_LIMIT_MAX}.", next="Acknowledge these and read on."
        )
    if call.budget_tokens is not None and not 1 <= call.budget_tokens <= BUDGET_TOKENS_MAX:
        raise BadRequest(
            f"budget must be 1 to {BUDGET_TOKENS_MAX} tokens.", next="Leave it out for no budget."
        )
    if call.cut_bytes is not None and call.cut_bytes < 1:
        raise BadRequest("cut must be 1 or more bytes.", next="Leave it out to cut nothing.")
    if not 0 <= call.wait_s <= WAIT_MAX_S:
        raise BadRequest(
            f"wait must be 0 to {WAIT_MAX_S:g} seconds.", next="Wait again after the answer."
        )


def _gaps(boxes: Sequence[Box], lost: dict[str, list[Span]]) -> list[Gap]:
    """What is unread and can no longer be had, of what this look is to give."""
    found: list[Gap] = []
    for box in boxes:
        name = box.marks.channel
        trimmed = box.marks.unread(box.start, box.first - 1)
        for first, last in merged([*trimmed, *lost.get(name, ())]):
            found.append(Gap(channel=name, first=first, last=last, oldest=last + 1))
    return found[:GAPS_MAX]


def _id_of(body: msgspec.Raw | bytes) -> str:
    return msgspec.json.decode(body, type=_Named).id


class _Named(msgspec.Struct, frozen=True):
    id: str
