"""Answers that are waited for: opened with the event, ended by the answer, told if missed.

An expectation is stored in the unit of its event and removed in the unit of the answer,
or in that of the `expectation.missed` event. Which of the two comes first is decided by the
revision at the commit: never both, never neither. Times are by the hub's trusted clock, so a
wall clock that jumps misses nothing, and a hub that is down lets nobody be late.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.publishing import Publish
from clawnet.core.channels import parse
from clawnet.core.errors import ClawError, Conflict, TooManyExpectations
from clawnet.core.events import Draft, Stored
from clawnet.core.rights import Allowed, Verb, decide
from clawnet.core.times import rfc3339
from clawnet.core.trace import admit_traceparent
from clawnet.core.units import Committed, Delete, Outcome, Put, Unit
from clawnet.features.deadlines.expectation import (
    KIND,
    Expectation,
    OpenOnes,
    Record,
    key_of,
)
from clawnet.hub.features import Feature
from clawnet.ports.log import Engine

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

OPEN_PER_ACCOUNT_MAX = 1_000
ALIKE_PER_ACCOUNT_MAX = 16
"""With one correlation id: every event that names it asks about all of these."""
MISSED_AT_ONCE = 256
FOUND_AT_ONCE = 200
"""Events that are looked for in one read when the hub starts."""
LOOK_AGAIN_S = 10.0
"""The trusted clock may be corrected while the loop waits for a time by it."""
RETRY_AFTER_MS = 1_000

_log = logging.getLogger(__name__)


class DeadlinesFeature(Feature):
    """Implements clawnet.hub.publishing.Companion; everything is learned in settled()."""

    def __init__(self, *, open_per_account_max: int = OPEN_PER_ACCOUNT_MAX) -> None:
        self.open = OpenOnes()
        self._open_max = open_per_account_max
        self._opening = OpenOnes()
        """What publishes on their way will open, unless they turn out to be repeats."""
        self._on_way: dict[int, _OnWay] = {}
        """By the draft's id(): it lives until settled() was called."""
        self._sooner: asyncio.Event = asyncio.Event()
        self._hub: Hub

    # --- Feature ------------------------------------------------------------

    def register(self, hub: Hub) -> None:
        """Accompany the events that expect an answer or may be one."""
        self._hub = hub
        hub.publishing.accompany(self)

    async def load(self) -> None:
        """Take up what is open."""
        hub = self._hub
        entries = await hub.storage.read(lambda engine: engine.scan(KIND))
        for start in range(0, len(entries), FOUND_AT_ONCE):
            some = entries[start : start + FOUND_AT_ONCE]
            records = [msgspec.json.decode(entry.value, type=Record) for entry in some]

            def find(engine: Engine, records: list[Record] = records) -> list[str | None]:
                return [_event_id(engine, record) for record in records]

            ids = await hub.storage.read(find)
            for entry, record, event_id in zip(some, records, ids, strict=True):
                self.open.add(Expectation(record, revision=entry.revision, event_id=event_id))

    async def run(self) -> None:
        """Tell of each that is due."""
        while True:
            due = self.open.due(self._hub.retention.now_ms(), MISSED_AT_ONCE)
            if due and self._hub.is_ready:
                await self._miss(due)
                continue
            for one in due:
                # The hub is stopping; what is left is told after the next start.
                self.open.push(one, self._hub.retention.now_ms() + RETRY_AFTER_MS)
            self._sooner.clear()
            try:
                async with asyncio.timeout(self._wait_s()):
                    await self._sooner.wait()
            except TimeoutError:
                pass

    # --- Companion ----------------------------------------------------------

    def accompany(
        self, caller: Caller, call: Publish, draft: Draft, removed: Set[str]
    ) -> tuple[Put | Delete, ...] | None:
        """Raises TooManyExpectations."""
        if call.expect is None and not self.open and not self._opening:
            return None
        opened = None if call.expect is None else self._opened(call, draft)
        answered = [
            one.key
            for one in self._named(draft.world, call)
            if one.key not in removed and self._is_answer(one, caller, draft)
        ]
        if opened is None and not answered:
            return None
        coming = None if opened is None else Expectation(opened, revision=0, event_id=None)
        self._on_way[id(draft)] = _OnWay(coming, answered)
        changes: list[Put | Delete] = [Delete(key) for key in answered]
        if coming is not None:
            self._opening.add(coming)
            changes.insert(0, Put(coming.key, msgspec.json.encode(opened).decode()))
        return tuple(changes)

    def settled(self, call: Publish, draft: Draft, outcome: Outcome) -> None:
        """Follow in memory what the unit did to the state."""
        way = self._on_way.pop(id(draft))
        coming = way.coming
        # A repeat that was queued behind it has taken its place, and stays.
        if coming is not None and self._opening.get(coming.key) is coming:
            self._opening.remove(coming.key)
        if not isinstance(outcome, Committed) or not isinstance(outcome.events[0], Stored):
            # Refused, or a repeat: nothing of it happened.
            return
        for key in way.answered:
            self.open.remove(key)
        if coming is not None:
            event_id = outcome.events[0].id
            one = Expectation(coming.record, revision=outcome.revisions[0], event_id=event_id)
            self.open.add(one)
            if self.open.next_due_ms() == one.record.due_ms:
                self._sooner.set()

    # --- inside -------------------------------------------------------------

    def _opened(self, call: Publish, draft: Draft) -> Record:
        assert call.expect is not None
        assert draft.identity is not None, "an event that expects an answer has an identity"
        assert draft.correlation_id is not None, "and a correlation id"
        within_s = call.expect.reply_within_s
        record = Record(
            world=draft.world,
            sender=draft.actor_id,
            channel=draft.channel,
            correlation_id=draft.correlation_id,
            reply_within_s=within_s,
            due_ms=self._hub.retention.now_ms() + round(within_s * 1000),
            identity=draft.identity.hex(),
            traceparent=admit_traceparent(call.traceparent),
        )
        key = key_of(record)
        if key in self.open or key in self._opening:
            # A repeat of what is open opens nothing.
            return record
        sender = (draft.world, draft.actor_id)
        both = (self.open, self._opening)
        if sum(ones.count(*sender) for ones in both) >= self._open_max:
            raise TooManyExpectations(
                f"{draft.actor_id} waits for {self._open_max} answers already; "
                "this event is not stored.",
                limit=self._open_max,
            )
        alike = sum(ones.count_alike(*sender, record.correlation_id) for ones in both)
        if alike >= ALIKE_PER_ACCOUNT_MAX:
            raise TooManyExpectations(
                f"{draft.actor_id} waits for {ALIKE_PER_ACCOUNT_MAX} answers with this "
                "correlation id already; this event is not stored.",
                next="Leave out correlation_id, so that the hub gives one of its own, or publish "
                "without expect.",
                limit=ALIKE_PER_ACCOUNT_MAX,
            )
        return record

    def _named(self, world: str, call: Publish) -> Iterator[Expectation]:
        """What the event names: of what is open, and of what is queued before it.

        The event of what is queued has no id yet. Its Put comes before this event's Delete;
        where it does not happen, there is nothing to delete, which is no error.
        """
        yield from self.open.answered_by(world, call.correlation_id, call.causation_id)
        for one in self._opening.answered_by(world, call.correlation_id, None):
            if one.key not in self.open:
                yield one

    def _is_answer(self, one: Expectation, caller: Caller, draft: Draft) -> bool:
        """Whether this event ends it: said by whom it was for, where its sender can read it."""
        record = one.record
        if caller.account is None or caller.is_hub or not one.is_awaited_from(caller.account):
            return False
        asked = self._hub.directory.account(record.world, record.sender)
        if asked is None or asked.is_deleted:
            return False
        facts = self._hub.directory
        # What the accounts may do counts, whatever their tokens are narrowed to.
        answers = Caller(account=caller.account, role=caller.role, world=record.world)
        asks = Caller(account=asked.id, role=asked.role, world=record.world)
        return all(
            isinstance(decide(who, Verb.READ, parse(channel), facts), Allowed)
            for who, channel in ((answers, record.channel), (asks, draft.channel))
        )

    async def _miss(self, due: list[Expectation]) -> None:
        """Tell the senders, and end what is due; what cannot be stored is tried again."""
        waiting = [
            asyncio.ensure_future(self._hub.committer.commit(self._missed(one))) for one in due
        ]
        # No deadline: the committer answers every unit, also when storage fails.
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        now_ms = self._hub.retention.now_ms()
        for one, outcome in zip(due, outcomes, strict=True):
            if isinstance(outcome, Conflict) and outcome.facts.get("revision"):
                # It is there with another revision, so nobody answered it.
                _log.warning("a missed answer is told later: %s", outcome)
                one.revision = outcome.facts["revision"]
                self.open.push(one, now_ms + RETRY_AFTER_MS)
            elif isinstance(outcome, Committed | Conflict):
                # A conflict: the answer was stored first.
                self.open.remove(one.key)
            else:
                _log.warning("a missed answer is told later: %s", outcome)
                self.open.push(one, now_ms + RETRY_AFTER_MS)

    def _missed(self, one: Expectation) -> Unit:
        """The unit that ends an expectation: with the event, unless nobody is there to read it."""
        record = one.record
        over = Delete(one.key, one.revision)
        if not self._hub.directory.has_account(record.world, record.sender):
            return Unit(changes=(over,))
        data = {
            "event_id": one.event_id,
            "channel": record.channel,
            "correlation_id": record.correlation_id,
            "reply_within_s": record.reply_within_s,
            "due": rfc3339(record.due_ms),
        }
        draft = self._hub.publishing.render(
            msgspec.structs.replace(HUB, world=record.world),
            f"agent.{record.sender}.inbox",
            type="expectation.missed",
            data=msgspec.json.encode(data).decode(),
            dedupe_key=f"missed:{record.identity}:{record.due_ms}",
            correlation_id=record.correlation_id,
            causation_id=one.event_id,
            traceparent=record.traceparent,
        )
        return Unit(drafts=(draft,), changes=(over,))

    def _wait_s(self) -> float:
        due_ms = self.open.next_due_ms()
        if due_ms is None:
            return LOOK_AGAIN_S
        left_s = (due_ms - self._hub.retention.now_ms()) / 1000
        return min(max(left_s, 0.001), LOOK_AGAIN_S)


def _event_id(engine: Engine, record: Record) -> str | None:
    """The id of the event that waits; None if it was trimmed, or cannot be found now."""
    try:
        first = engine.find(bytes.fromhex(record.identity))
    except ClawError as error:
        # An index is made anew: the answer is then known by its correlation id only.
        _log.info("the event of an expected answer is not found: %s", error.message)
        return None
    return None if first is None else first.id


class _OnWay:
    """What a queued event will change: the one that it opens, the keys that it answers."""

    __slots__ = ("answered", "coming")

    def __init__(self, coming: Expectation | None, answered: list[str]) -> None:
        self.coming = coming
        self.answered = answered
