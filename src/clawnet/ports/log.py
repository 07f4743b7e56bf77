"""The log and the state: what an engine promises. The suites in clawnet.testing hold it to this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from clawnet.core.events import Existing
from clawnet.core.positions import EpochStart
from clawnet.core.units import Outcome, Unit

__all__ = ["EpochStart"]

READ_MAX_EVENTS = 1_000
READ_MAX_BYTES = 1_048_576


class ChannelHead(msgspec.Struct, frozen=True):
    """A channel's extent: offsets `first`..`last` are retained (first = last + 1 if none).

    `last_seq` and `last_ts_ms` are those of its newest event ever.
    """

    world: str
    name: str
    epoch: str
    first: int
    last: int
    last_seq: int
    last_ts_ms: int


class Missing(msgspec.Struct, frozen=True):
    """Offsets `first`..`last` of a channel that were asked for and are no longer retained."""

    channel: str
    first: int
    last: int


class Chunk(msgspec.Struct, frozen=True):
    """A bounded piece of a read.

    `body` holds native envelopes as UTF-8 JSON, one per line, joined by \\n
    (empty if none), in the order of the read. `count` is how many. `offset`
    and `seq` are the position to go on from: pass them as `after` (or
    `before`, if reversed) of the next read; they advance even if nothing
    matched. `is_end` says that nothing more lay within the bounds when it was
    read. `missing` names the retained-no-more offsets inside the range that
    was walked.
    """

    body: bytes
    count: int
    offset: int
    seq: int
    is_end: bool
    missing: tuple[Missing, ...] = ()


class Piece(msgspec.Struct, frozen=True):
    """What one bounded piece of a trim did.

    `removed` events are gone. `place` is where the next piece goes on: pass it
    as `after_seq` (or `before`); at the end it is the bound. `kept` counts the
    due events that were spared for being among the newest. `is_end`: nothing
    is left to look at.
    """

    removed: int
    place: int
    is_end: bool
    kept: int = 0


IsDue = Callable[[str, str], bool]
"""Whether events of a (channel, type) are meant. The same answer for the same question, and no
waiting: it is asked where commit() runs."""


class StateEntry(msgspec.Struct, frozen=True):
    """A key's value (JSON text) and revision (from 1)."""

    key: str
    value: str
    revision: int


class Log(Protocol):
    """Append-only record, ordered within a channel.

    L1 dense     offsets in a channel start at 1 and grow by exactly 1; seq grows across the log.
    L2 atomic    a unit appears whole or not at all; a refused unit leaves nothing, no key either.
    L3 settled   once position n is readable, nothing below n appears later.
    L4 epoch     changes exactly when old positions may be reused: at creation, at a restore,
                 at a start below the recorded high-water mark; `epochs` keeps the lineage, so a
                 position of an earlier epoch below the branch is still good.
    L5 dedupe    a repeated identity with the same digest returns the first event for as long as
                 that event is retained; with another digest the unit is a DedupeConflict.
                 This holds within one unit and one group as well.
    L6 durable   if `is_durable`, what commit() answered as Committed is there after a power cut.
    L7 bounded   a read returns at most READ_MAX_EVENTS events and about READ_MAX_BYTES, and
                 holds no transaction open after it returned.
    L8 trimmed   a trim never touches what is younger or among the newest `keep`; offsets are
                 never given again; what is gone is named as missing by the reads that cross it.
    L9 reversed  a reverse read gives exactly the forward read's events, backwards.
    L10 chained  `correlated` gives exactly the retained events of a world whose correlation id or
                 W3C trace id the key names, by seq; the two kinds of key never meet.
    L11 spared   a trim by rule removes only what is_due() names, whatever lies around it; a piece
                 looks at a bounded number of events, removed or not.
    L12 blanked  the events that a committed unit blanks (Unit.blanks) have `null` as data and the
                 member "deleted" from then on, in every read, and nothing else of them changes:
                 place, id and dedupe key stay. Blanking twice, or what is not there, is no error.

    `is_blocking` engines are called on threads: commit() from one writer
    thread only, reads from others at the same time; the others inline on the loop.
    """

    is_blocking: bool
    is_durable: bool

    @property
    def epoch(self) -> str:
        """The present log epoch: short lower-case text."""

    @property
    def epochs(self) -> tuple[EpochStart, ...]:
        """The lineage, oldest first; the last is the present one."""

    @property
    def last_seq(self) -> int:
        """The newest seq that is durable; 0 for an empty log."""

    @property
    def first_seq(self) -> int:
        """The oldest seq that may still be retained; last_seq + 1 for an empty log."""

    def commit(self, units: Sequence[Unit]) -> list[Outcome]:
        """Decide and store one group; one outcome for each unit, in order.

        Raises OutcomeUnknown if the storage failed at the commit: the hub must
        stop. A full disk is DiskFull for every unit of the group and nothing is assigned.
        """

    def channel(self, world: str, name: str) -> ChannelHead | None:
        """The extent of a channel; None if nothing was ever published there."""

    def channels(self, world: str, *, after: str, limit: int) -> list[ChannelHead]:
        """Channels by name, behind `after` ("" for the start)."""

    def read_channel(
        self,
        world: str,
        name: str,
        *,
        after: int = 0,
        up_to_seq: int | None = None,
        limit: int = READ_MAX_EVENTS,
        max_bytes: int = READ_MAX_BYTES,
    ) -> Chunk:
        """Events of one channel with offset > `after`, ascending, none newer than `up_to_seq`."""

    def read_channel_reverse(
        self,
        world: str,
        name: str,
        *,
        before: int | None = None,
        limit: int = READ_MAX_EVENTS,
        max_bytes: int = READ_MAX_BYTES,
    ) -> Chunk:
        """Events of one channel with offset < `before` (None: from the head), descending."""

    def read_log(
        self,
        world: str,
        names: frozenset[str],
        *,
        after_seq: int,
        up_to_seq: int | None = None,
        limit: int = READ_MAX_EVENTS,
        max_bytes: int = READ_MAX_BYTES,
    ) -> Chunk:
        """Events of several channels with seq > `after_seq`, ascending by seq.

        Walks a bounded piece of the log, so a chunk may be empty and not the
        end; `missing` is filled for the channels among `names` whose first
        retained offset moved beyond `after_seq`.
        """

    def get(self, world: str, seq: int) -> bytes | None:
        """The native envelope at a seq, or None if it is not retained or of another world."""

    def seq_before(self, ts_ms: int) -> int:
        """The largest seq such that everything up to it is older than `ts_ms` (approximate by
        the sparse time index: never too large, at most 1,024 events too small)."""

    def offset_at(self, world: str, name: str, seq: int) -> int:
        """The offset of the newest event of the channel with seq <= `seq`, retained or removed.

        0 if there was none. If events on both sides of `seq` are removed it may be too small,
        never too large: a read from there names as missing all that may have been missed.
        """

    def find(self, identity: bytes) -> Existing | None:
        """The first event of a dedupe identity, if it is retained.

        Raises Unavailable while an index is made anew over more than can be looked through.
        """

    def correlated(
        self,
        world: str,
        key: str,
        *,
        after_seq: int = 0,
        limit: int = READ_MAX_EVENTS,
        max_bytes: int = READ_MAX_BYTES,
    ) -> Chunk:
        """Events of a chain with seq > `after_seq`, ascending by seq.

        `key` is core.trace.correlation_key() of a correlation id, or trace_key() of a trace id.
        A chain has no offsets: `offset` is 0 and nothing is missing.
        """

    def trim_before(self, seq: int) -> int:
        """Remove events up to and including `seq`; a bounded piece.

        Returns how many events were removed; call again until 0. Runs where commit() runs.
        """

    def trim_due(self, seq: int, *, after_seq: int, is_due: IsDue) -> Piece:
        """Remove the events in (`after_seq`, `seq`] that `is_due` names; a bounded piece.

        Runs where commit() runs.
        """

    def trim_channel_due(
        self, world: str, name: str, *, is_due: IsDue, keep: int, before: int | None, above: int
    ) -> Piece:
        """Of a channel's events that `is_due` names, keep the newest `keep`; a bounded piece.

        Walks down from below offset `before` (None: from the head) to `above`, which is spared
        with all below it; the next piece is given what is left of `keep`. Runs where commit()
        runs.
        """

    def trim_channel(self, world: str, name: str, *, keep: int) -> int:
        """Keep only the newest `keep` events of a channel; as trim_before."""

    def close(self) -> None:
        """Flush and release everything; idempotent."""


class State(Protocol):
    """Small documents by key `kind/id`, changed only inside a unit.

    S1 with events   a unit's changes are committed with its events or not at all; those that
                     belong to a repeat (Unit.ties) do not happen.
    S2 revision      a Put or Delete with a wrong `if_revision` refuses the whole unit (Conflict).
    S3 absent        `if_revision=0` succeeds exactly for the first of two rivals.
    S4 monotone      a key's revision grows with every Put, also across a Delete.
    S5 durable       as L6.
    """

    def scan(self, kind: str) -> list[StateEntry]:
        """All entries whose key begins with `kind/`, by key."""


class Engine(Log, State, Protocol):
    """A log and a state that commit together."""


@runtime_checkable
class Indexed(Protocol):
    """Trait: an engine whose indices follow the log."""

    @property
    def index_lag(self) -> int:
        """How many of the newest events the indices lack; reads know them all the same."""


class Backups(Protocol):
    """Trait: an engine that can be copied while it runs."""

    def backup(self, target: Path, *, progress: Callable[[int, int], None]) -> None:
        """Write a consistent copy to the file `target`; progress(done, total) in pages.

        Runs where commit() runs, in bounded pieces between groups, so that writing goes on.
        """
