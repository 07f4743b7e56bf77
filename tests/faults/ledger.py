"""What a log must hold after a fault, from what was asked of it and what it answered.

The ledger follows a history of marks (asked, answered, trimming). At any
place in it, `audit` compares an engine with it: what was acknowledged is
there, what was refused is not, and the group in flight is whole or absent
unit by unit. It knows the ports only.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from random import Random

import msgspec

from clawnet.core.errors import ClawError
from clawnet.core.events import (
    Draft,
    Event,
    Existing,
    Stored,
    content_digest,
    dedupe_identity,
    render_members,
    render_opening,
)
from clawnet.core.ids import seq_from_id
from clawnet.core.positions import EpochStart
from clawnet.core.units import Committed, Delete, Outcome, Put, Unit
from clawnet.ports.log import Engine

ACTOR = "ann"
ACTOR_JSON = '{"id":"ann","handle":"ann"}'

Place = tuple[str, str]
"""World and channel."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A group goes to the engine."""

    units: tuple[Unit, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """The engine has answered the group that was asked last."""

    outcomes: tuple[Outcome, ...]
    epochs: tuple[EpochStart, ...]


@dataclass(frozen=True, slots=True)
class Trimming:
    """These events may be gone from here on."""

    seqs: frozenset[int]


Entry = Asked | Answered | Trimming


def draft(
    number: int, *, world: str, channel: str, type: str, key: str | None = None, pad: str = ""
) -> Draft:
    """A draft whose data is unlike any other's; a key makes it repeatable."""
    data = f'{{"n":{number},"pad":"{pad}"}}'
    return Draft(
        world=world,
        channel=channel,
        type=type,
        actor_id=ACTOR,
        members=render_members(
            render_opening(type=type, source="user", actor_json=ACTOR_JSON, world=world),
            dedupe_key=key,
        ),
        data=data,
        identity=None
        if key is None
        else dedupe_identity(world=world, actor_id=ACTOR, channel=channel, key=key),
        digest=None if key is None else content_digest(type=type, data=data),
    )


@dataclass(slots=True)
class Ledger:
    """What is certain by now, and what is in flight."""

    events: dict[int, Stored] = field(default_factory=dict)
    drafts: dict[int, Draft] = field(default_factory=dict)
    by_data: dict[str, int] = field(default_factory=dict)
    by_identity: dict[bytes, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    may_be_gone: set[int] = field(default_factory=set)
    states: dict[str, tuple[str, int]] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)
    heads: dict[Place, int] = field(default_factory=dict)
    in_flight: tuple[Unit, ...] = ()
    epochs: tuple[EpochStart, ...] = ()

    def follow(self, entry: Entry) -> None:
        """Take note of one mark."""
        match entry:
            case Asked(units=units):
                self.in_flight = units
            case Answered(outcomes=outcomes, epochs=epochs):
                self.epochs = epochs
                for unit, outcome in zip(self.in_flight, outcomes, strict=True):
                    self._follow_outcome(unit, outcome)
                self.in_flight = ()
            case Trimming(seqs=seqs):
                self.may_be_gone |= seqs

    def retained(self) -> list[int]:
        """The seqs that must be there."""
        return [seq for seq in self.events if seq not in self.may_be_gone]

    def _follow_outcome(self, unit: Unit, outcome: Outcome) -> None:
        if isinstance(outcome, ClawError):
            self.refused |= {draft.data for draft in unit.drafts} - set(self.by_data)
            return
        for asked, event in zip(unit.drafts, outcome.events, strict=True):
            if isinstance(event, Stored):
                self.add(asked, event)
            else:
                assert asked.identity is not None
                assert event.seq == self.by_identity[asked.identity], "another first event"
        for change, revision in zip(unit.changes, outcome.revisions, strict=True):
            self.change(change, revision)

    def add(self, asked: Draft, event: Stored) -> None:
        """An event is certain."""
        place = (asked.world, asked.channel)
        assert event.offset == self.heads.get(place, 0) + 1, "offsets are not dense"
        assert event.seq not in self.events, "a seq was given twice"
        self.heads[place] = event.offset
        self.events[event.seq] = event
        self.drafts[event.seq] = asked
        self.by_data[asked.data] = event.seq
        if asked.identity is not None:
            self.by_identity[asked.identity] = event.seq

    def change(self, change: Put | Delete, revision: int) -> None:
        """A change of state is certain."""
        if isinstance(change, Delete):
            self.states.pop(change.key, None)
            return
        assert revision > self.revisions.get(change.key, 0), "a revision did not grow"
        self.revisions[change.key] = revision
        self.states[change.key] = (change.value, revision)


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit found: the units in flight that turned out to be stored."""

    stored_in_flight: int
    events: int


def audit(engine: Engine, ledger: Ledger, *, random: Random, is_adopting: bool = False) -> Audited:
    """Compare a freshly opened engine with the ledger and go on writing to it.

    With `is_adopting` it writes nothing; the ledger takes over what was found of the
    units in flight, so that the history can go on from here.
    """
    found = read_all(engine, ledger)
    _check_events(engine, ledger, found)
    applied = _check_in_flight(engine, ledger, found)
    _check_positions(engine, ledger, found, random)
    # The newest, which a fault is likely to hit, and some others: each is a query.
    keys = list(ledger.by_identity.items())
    for identity, seq in {*keys[-20:], *random.sample(keys, min(20, len(keys)))}:
        first = engine.find(identity)
        if first is None:
            assert seq in ledger.may_be_gone, f"the dedupe key of {seq} was forgotten"
        else:
            event = ledger.events[seq]
            assert (first.seq, first.offset, first.id) == (seq, event.offset, event.id)
            assert first.digest == ledger.drafts[seq].digest
    result = Audited(stored_in_flight=len(applied), events=len(found))
    if is_adopting:
        _adopt(engine, ledger, found)
    else:
        _check_repeats(engine, ledger, random)
        _check_goes_on(engine, ledger, found)
    return result


def read_all(engine: Engine, ledger: Ledger) -> dict[int, tuple[Place, Event]]:
    """Every event by seq, read channel by channel; offsets are dense or named as missing."""
    places = set(ledger.heads)
    places |= {(draft.world, draft.channel) for unit in ledger.in_flight for draft in unit.drafts}
    found: dict[int, tuple[Place, Event]] = {}
    for world, name in sorted(places):
        after, accounted = 0, 0
        while True:
            chunk = engine.read_channel(world, name, after=after)
            events = [
                msgspec.json.decode(line, type=Event) for line in chunk.body.split(b"\n") if line
            ]
            assert len(events) == chunk.count
            missing = {n for gap in chunk.missing for n in range(gap.first, gap.last + 1)}
            offsets = [event.offset for event in events]
            assert sorted({*offsets, *missing}) == list(
                range(accounted + 1, accounted + 1 + len(offsets) + len(missing))
            ), f"offsets of {name} are not dense: {offsets}, missing {chunk.missing}"
            accounted += len(offsets) + len(missing)
            for event in events:
                found[event.seq] = ((world, name), event)
            if chunk.is_end:
                break
            assert chunk.offset > after, "the read does not advance"
            after = chunk.offset
        head = engine.channel(world, name)
        assert (head.last if head else 0) == accounted, f"the head of {name} is wrong"
    return found


def _check_events(engine: Engine, ledger: Ledger, found: dict[int, tuple[Place, Event]]) -> None:
    for seq, stored in ledger.events.items():
        if seq not in found:
            assert seq in ledger.may_be_gone, f"acknowledged event {seq} is missing"
            continue
        place, event = found[seq]
        assert place == (stored.world, stored.channel)
        assert (event.offset, event.epoch, event.id) == (stored.offset, stored.epoch, stored.id)
        assert bytes(event.data).decode() == ledger.drafts[seq].data
    for _, event in found.values():
        assert bytes(event.data).decode() not in ledger.refused, "a refused unit left an event"
        assert seq_from_id(event.id) == event.seq
    if ledger.epochs:
        assert engine.epochs == ledger.epochs, "a new epoch, though nothing was lost"


def _check_in_flight(
    engine: Engine, ledger: Ledger, found: dict[int, tuple[Place, Event]]
) -> set[int]:
    """Which units of the group in flight are stored; each whole or not at all."""
    texts = {bytes(event.data).decode() for _, event in found.values()}
    unknown = texts - set(ledger.by_data)
    fresh = [
        {draft.data for draft in unit.drafts} - set(ledger.by_data) for unit in ledger.in_flight
    ]
    assert unknown <= set().union(*fresh), "an event that nobody asked for"
    applied = set()
    for index, datas in enumerate(fresh):
        assert not datas & texts or datas <= texts, "a unit is stored in part"
        if datas & texts:
            applied.add(index)
    _check_states(engine, ledger, applied=applied, fresh=fresh)
    return applied


def _check_states(
    engine: Engine, ledger: Ledger, *, applied: set[int], fresh: list[set[str]]
) -> None:
    kinds = {key.partition("/")[0] for key in ledger.revisions}
    changes: dict[str, list[tuple[int, str | None]]] = defaultdict(list)
    for index, unit in enumerate(ledger.in_flight):
        for change in unit.changes:
            kinds.add(change.key.partition("/")[0])
            value = change.value if isinstance(change, Put) else None
            changes[change.key].append((index, value))
    entries = {entry.key: entry for kind in sorted(kinds) for entry in engine.scan(kind)}
    for key in {*entries, *ledger.states, *changes}:
        entry = entries.get(key)
        known = ledger.states.get(key)
        if key not in changes:
            assert (entry and (entry.value, entry.revision)) == known, f"state {key} is wrong"
            continue
        value = entry.value if entry else None
        allowed: set[str | None] = {known[0] if known else None}
        for index, new in changes[key]:
            if index in applied:
                allowed = {new}
            elif not fresh[index]:  # Nothing else shows whether this unit is stored.
                allowed.add(new)
        assert value in allowed, f"state {key} does not fit the events of its unit"


def _check_positions(
    engine: Engine, ledger: Ledger, found: dict[int, tuple[Place, Event]], random: Random
) -> None:
    """The ways to an event agree: by seq, by the log in order."""
    last = max(found, default=0)
    assert engine.last_seq >= max(last, max(ledger.events, default=0))
    if found:
        assert engine.first_seq <= min(found)
    for world in sorted({place[0] for place, _ in found.values()}):
        names = frozenset(place[1] for place, _ in found.values() if place[0] == world)
        seqs: list[int] = []
        after = 0
        while True:
            chunk = engine.read_log(world, names, after_seq=after)
            lines = [line for line in chunk.body.split(b"\n") if line]
            seqs += [msgspec.json.decode(line, type=Event).seq for line in lines]
            if chunk.is_end:
                break
            assert chunk.seq > after, "the read does not advance"
            after = chunk.seq
        assert seqs == sorted(seq for seq, (place, _) in found.items() if place[0] == world)
    for seq in random.sample(sorted(found), min(5, len(found))):
        assert engine.get(found[seq][0][0], seq) is not None
    gone = sorted(ledger.events.keys() - found.keys())
    for seq in random.sample(gone, min(5, len(gone))):
        assert engine.get(ledger.events[seq].world, seq) is None


def _check_repeats(engine: Engine, ledger: Ledger, random: Random) -> None:
    """A repeat is answered with the first event, also of what was in flight."""
    certain = [seq for seq in ledger.by_identity.values() if seq not in ledger.may_be_gone]
    for seq in random.sample(certain, min(4, len(certain))):
        [outcome] = engine.commit([Unit(drafts=(ledger.drafts[seq],))])
        assert isinstance(outcome, Committed)
        [event] = outcome.events
        assert isinstance(event, Existing), f"the repeat of {seq} was stored again"
        assert (event.seq, event.id) == (seq, ledger.events[seq].id)
    for unit in ledger.in_flight:
        for asked in unit.drafts:
            if asked.identity is not None:
                firsts = {_place(engine.commit([Unit(drafts=(asked,))])[0]) for _ in range(2)}
                assert len(firsts) == 1, "two events of one key"


def _place(outcome: Outcome) -> object:
    if isinstance(outcome, ClawError):  # The key was in use before the unit in flight.
        return outcome.code
    [event] = outcome.events
    return event.seq, event.offset, event.id


def _check_goes_on(engine: Engine, ledger: Ledger, found: dict[int, tuple[Place, Event]]) -> None:
    """New events go to the next offset, behind every seq there was."""
    for number, (world, channel) in enumerate(sorted(ledger.heads)):
        head = engine.channel(world, channel)
        newest = engine.last_seq
        asked = draft(-1 - number, world=world, channel=channel, type="x.message")
        [outcome] = engine.commit([Unit(drafts=(asked,))])
        assert isinstance(outcome, Committed)
        [event] = outcome.events
        assert isinstance(event, Stored)
        assert event.offset == (head.last if head else 0) + 1
        assert event.seq > newest
        chunk = engine.read_channel(world, channel, after=event.offset - 1)
        assert chunk.count == 1
    assert not found or engine.last_seq > max(found)


def _adopt(engine: Engine, ledger: Ledger, found: dict[int, tuple[Place, Event]]) -> None:
    asked = {draft.data: draft for unit in ledger.in_flight for draft in unit.drafts}
    for seq in sorted(found.keys() - ledger.events.keys()):
        (world, channel), event = found[seq]
        data = bytes(event.data).decode()
        ledger.add(
            asked[data],
            Stored(
                seq=seq,
                world=world,
                channel=channel,
                offset=event.offset,
                epoch=event.epoch,
                id=event.id,
                ts_ms=0,
                type=event.type,
                actor_id=event.actor.id,
                head="",
                data=data,
            ),
        )
    for unit in ledger.in_flight:
        for change in unit.changes:
            ledger.states.pop(change.key, None)
            for entry in engine.scan(change.key.partition("/")[0]):
                if entry.key == change.key:
                    ledger.states[entry.key] = (entry.value, entry.revision)
                    ledger.revisions[entry.key] = max(
                        entry.revision, ledger.revisions.get(entry.key, 0)
                    )
    ledger.in_flight = ()
    ledger.may_be_gone -= found.keys()  # It came back, and nobody has trimmed it again.
