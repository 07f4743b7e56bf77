"""The committer's decision, without any I/O: what a group of units comes to.

The ledger holds what must be known to decide (channel heads, revisions, the
newest dedupe identities). `decide` changes nothing in it: the engine writes
the decision down and then calls `apply`, or drops it if the environment
failed, and then nothing was assigned. Both engines use it, so they cannot
differ in what they admit. Removing events is the engines' business; they tell
the ledger by `put_head` and `forget`.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress

import msgspec

from clawnet.core.errors import ClawError, Conflict, DedupeConflict
from clawnet.core.events import Draft, Existing, Stored, render_head
from clawnet.core.ids import event_id, event_id_prefix, salt_of
from clawnet.core.times import rfc3339
from clawnet.core.units import Committed, Delete, Outcome, Put, Unit

INCARNATION = 1

_NOTHING: Mapping[bytes, Existing] = {}


class Head(msgspec.Struct, frozen=True, gc=False):
    """A channel's extent as the committer knows it; a change is a new value.

    Offsets below `first` are gone. `gone_offset` and `gone_seq` are those of
    the newest event ever removed (0 if none): above it nothing is missing.
    """

    id: int
    world: str
    name: str
    incarnation: int
    first: int
    last: int
    last_seq: int
    last_ts_ms: int
    gone_offset: int = 0
    gone_seq: int = 0


class Change(msgspec.Struct, frozen=True, gc=False):
    """What is to be written for a key: `value` None removes it."""

    value: str | None
    revision: int


@dataclass(slots=True)
class Decision:
    """What a group comes to. `events` and `drafts` run side by side, in seq order."""

    outcomes: list[Outcome]
    now_ms: int
    last_seq: int
    revision_floor: int
    events: list[Stored] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    heads: dict[tuple[str, str], Head] = field(default_factory=dict)
    new_heads: list[tuple[str, str]] = field(default_factory=list)
    changes: dict[str, Change] = field(default_factory=dict)
    identities: dict[bytes, Existing] = field(default_factory=dict)
    blanks: list[int] = field(default_factory=list)
    """Seqs whose events lose their data; some may not be retained."""


class Ledger:
    """Heads, revisions and dedupe identities of one log; see the module."""

    def __init__(
        self,
        *,
        epoch: str,
        last_seq: int = 0,
        heads: Iterable[Head] = (),
        revisions: Mapping[str, int] | None = None,
        revision_floor: int = 0,
    ) -> None:
        self.epoch = epoch
        self.last_seq = last_seq
        # A key that was deleted has no entry left. Its revision goes into the floor, from
        # which new keys start, so that a revision grows across a Delete without tombstones.
        self.revision_floor = revision_floor
        self.revisions: dict[str, int] = dict(revisions or {})
        # Two generations of identities: the older one is forgotten as a whole when an
        # index on disk has taken it over. The memory engine never rotates.
        self.recent: dict[bytes, Existing] = {}
        self.older: dict[bytes, Existing] = {}
        self.gone_seq = 0
        self._salt = salt_of(epoch)
        self._heads: dict[tuple[str, str], Head] = {}
        self._keys: dict[int, tuple[str, str]] = {}
        self._names: dict[str, list[str]] = {}
        self._next_channel_id = 1
        for head in heads:
            self._heads[head.world, head.name] = head
            self._keys[head.id] = (head.world, head.name)
            self._names.setdefault(head.world, []).append(head.name)
            self._next_channel_id = max(self._next_channel_id, head.id + 1)
            self.gone_seq = max(self.gone_seq, head.gone_seq)
        for names in self._names.values():
            names.sort()

    def decide(
        self,
        units: Sequence[Unit],
        *,
        now_ms: int,
        known: Mapping[bytes, Existing] = _NOTHING,
    ) -> Decision:
        """Decide a group, in order. `known` has first events that an index found for its keys."""
        return _Group(self, now_ms=now_ms, known=known).decide(units)

    def apply(self, decision: Decision) -> None:
        """The decision is written: from now on it is what later groups build on."""
        for world, name in decision.new_heads:
            self._keys[decision.heads[world, name].id] = (world, name)
            insort(self._names.setdefault(world, []), name)
        self._next_channel_id += len(decision.new_heads)
        self._heads.update(decision.heads)
        self.recent.update(decision.identities)
        for key, change in decision.changes.items():
            if change.value is None:
                self.revisions.pop(key, None)
            else:
                self.revisions[key] = change.revision
        self.revision_floor = decision.revision_floor
        self.last_seq = decision.last_seq

    def first_event(self, identity: bytes) -> Existing | None:
        """The first event of an identity, if it is among those held here."""
        return self.recent.get(identity) or self.older.get(identity)

    def forget(self, identity: bytes, seq: int) -> None:
        """The event at `seq` was removed, so its key may be used anew."""
        for generation in (self.recent, self.older):
            existing = generation.get(identity)
            if existing is not None and existing.seq == seq:
                del generation[identity]

    def head(self, world: str, name: str) -> Head | None:
        """A channel's head, or None if nothing was ever published there."""
        return self._heads.get((world, name))

    def head_by_id(self, id: int) -> Head:
        """The head of a channel that is known to exist."""
        return self._heads[self._keys[id]]

    def put_head(self, head: Head) -> None:
        """Replace the head of a known channel, after events of it were removed."""
        self._heads[head.world, head.name] = head
        self.gone_seq = max(self.gone_seq, head.gone_seq)

    @property
    def channel_count(self) -> int:
        """How many channels there ever were."""
        return len(self._heads)

    def heads(self) -> list[Head]:
        """All heads, in no order."""
        return list(self._heads.values())

    def heads_after(self, world: str, *, after: str, limit: int) -> list[Head]:
        """Heads of a world by name, behind `after`."""
        names = self._names.get(world, [])
        start = bisect_right(names, after)
        return [self._heads[world, name] for name in names[start : start + limit]]

    def channel_epoch(self, head: Head) -> str:
        """`<log epoch>.<incarnation>`."""
        return f"{self.epoch}.{head.incarnation}"


class _Group:
    """The working copy for one group: reads through to the ledger, writes to the decision."""

    __slots__ = (
        "_channel_epoch",
        "_decision",
        "_id_prefix",
        "_known",
        "_ledger",
        "_next_channel_id",
        "_now_ms",
        "_now_text",
    )

    def __init__(self, ledger: Ledger, *, now_ms: int, known: Mapping[bytes, Existing]) -> None:
        self._ledger = ledger
        self._known = known
        self._now_ms = now_ms
        self._now_text = rfc3339(now_ms)
        self._id_prefix = event_id_prefix(ts_ms=now_ms, salt=ledger._salt)
        self._channel_epoch = f"{ledger.epoch}.{INCARNATION}"
        self._next_channel_id = ledger._next_channel_id
        self._decision = Decision(
            outcomes=[],
            now_ms=now_ms,
            last_seq=ledger.last_seq,
            revision_floor=ledger.revision_floor,
        )

    def decide(self, units: Sequence[Unit]) -> Decision:
        outcomes = self._decision.outcomes
        for unit in units:
            drafts = unit.drafts
            # Measured: a unit of one draft is nearly all traffic, and this branch saves it
            # a fifth of the decision.
            if len(drafts) == 1 and not unit.changes and not unit.blanks:
                draft = drafts[0]
                first = None if draft.identity is None else self._first_event(draft.identity)
                if first is None:
                    outcomes.append(Committed((self._store(draft),)))
                elif first.digest == draft.digest:
                    outcomes.append(Committed((first,)))
                else:
                    outcomes.append(_dedupe_conflict(0))
            else:
                outcomes.append(self._unit(unit))
        return self._decision

    def _unit(self, unit: Unit) -> Outcome:
        # All that can refuse the unit comes before anything is assigned.
        refusal = self._dedupe_refusal(unit.drafts)
        if refusal is not None:
            return refusal
        happening = self._happening(unit) if unit.ties else []
        due = tuple(compress(unit.changes, happening)) if happening else unit.changes
        decided = self._decide_changes(due)
        if isinstance(decided, ClawError):
            return decided
        changes, revisions = decided
        self._decision.changes.update(changes)
        # What this unit itself stores cannot be meant: its seqs are given here.
        self._decision.blanks += [s for s in unit.blanks if 0 < s <= self._decision.last_seq]
        events: list[Stored | Existing] = []
        for draft in unit.drafts:
            first = None if draft.identity is None else self._first_event(draft.identity)
            events.append(self._store(draft) if first is None else first)
        if len(due) < len(unit.changes):
            given = iter(revisions)
            revisions = tuple([next(given) if is_due else 0 for is_due in happening])
        return Committed(tuple(events), revisions)

    def _happening(self, unit: Unit) -> list[bool]:
        """For each tied change, whether its event is new: also not a repeat within the unit."""
        seen: set[bytes] = set()
        new: list[bool] = []
        for draft in unit.drafts:
            identity = draft.identity
            if identity is None:
                new.append(True)
                continue
            # Nothing of the unit is stored yet, so its own earlier events are asked apart.
            new.append(identity not in seen and self._first_event(identity) is None)
            seen.add(identity)
        return [new[index] for index in unit.ties]

    def _first_event(self, identity: bytes) -> Existing | None:
        # `recent` before `older`: a rotation between the two lookups moves entries that way.
        ledger = self._ledger
        return (
            self._decision.identities.get(identity)
            or ledger.recent.get(identity)
            or ledger.older.get(identity)
            or self._known.get(identity)
        )

    def _dedupe_refusal(self, drafts: tuple[Draft, ...]) -> ClawError | None:
        fresh: dict[bytes, bytes | None] = {}
        for index, draft in enumerate(drafts):
            if draft.identity is None:
                continue
            first = self._first_event(draft.identity)
            if first is not None:
                digest: bytes | None = first.digest
            elif draft.identity in fresh:
                digest = fresh[draft.identity]
            else:
                fresh[draft.identity] = draft.digest
                continue
            if digest != draft.digest:
                return _dedupe_conflict(index)
        return None

    def _decide_changes(
        self, changes: tuple[Put | Delete, ...]
    ) -> tuple[dict[str, Change], tuple[int, ...]] | ClawError:
        decided: dict[str, Change] = {}
        revisions: list[int] = []
        floor = self._decision.revision_floor
        for change in changes:
            key = change.key
            present = decided.get(key) or self._decision.changes.get(key)
            if present is None:
                revision = self._ledger.revisions.get(key, 0)
            else:
                revision = 0 if present.value is None else present.revision
            if change.if_revision is not None and change.if_revision != revision:
                what = "is absent" if revision == 0 else f"has revision {revision}"
                return Conflict(
                    f"{key} {what}; the change was meant for revision {change.if_revision}.",
                    key=key,
                    revision=revision,
                )
            if isinstance(change, Put):
                revision = (revision or floor) + 1
                decided[key] = Change(change.value, revision)
                revisions.append(revision)
            else:
                floor = max(floor, revision)
                decided[key] = Change(None, 0)
                revisions.append(0)
        self._decision.revision_floor = floor
        return decided, tuple(revisions)

    def _store(self, draft: Draft) -> Stored:
        decision = self._decision
        seq = decision.last_seq + 1
        decision.last_seq = seq
        ts_ms = draft.ts_ms
        if ts_ms is None:
            ts_ms = self._now_ms
            ts = self._now_text
            own_id = draft.id or f"{self._id_prefix}{seq:012x}"
        else:
            ts = rfc3339(ts_ms)
            own_id = draft.id or event_id(ts_ms=ts_ms, seq=seq, salt=self._ledger._salt)
        world = draft.world
        name = draft.channel
        key = (world, name)
        head = decision.heads.get(key) or self._ledger._heads.get(key)
        if head is None:
            head = Head(self._next_channel_id, world, name, INCARNATION, 1, 1, seq, ts_ms)
            self._next_channel_id += 1
            decision.new_heads.append(key)
            epoch = self._channel_epoch
        else:
            head = Head(
                head.id,
                world,
                name,
                head.incarnation,
                head.first,
                head.last + 1,
                seq,
                ts_ms,
                head.gone_offset,
                head.gone_seq,
            )
            epoch = (
                self._channel_epoch
                if head.incarnation == INCARNATION
                else self._ledger.channel_epoch(head)
            )
        decision.heads[key] = head
        stored = Stored(
            seq,
            world,
            name,
            head.last,
            epoch,
            own_id,
            ts_ms,
            draft.type,
            draft.actor_id,
            render_head(id=own_id, ts=ts, members=draft.members),
            draft.data,
        )
        decision.events.append(stored)
        decision.drafts.append(draft)
        if draft.identity is not None:
            digest = draft.digest or b""
            decision.identities[draft.identity] = Existing(seq, head.last, epoch, own_id, digest)
        return stored


def _dedupe_conflict(index: int) -> DedupeConflict:
    return DedupeConflict("The dedupe key was used before with other content.", index=index)
