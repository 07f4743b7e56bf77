"""What a position that a client brings still means, given the log's lineage of epochs.

A restore begins a new epoch at the branch. A position of an older epoch below
the branch means the same event as ever; one beyond it lies in history that
was put back, and one of an unknown epoch in another log altogether.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from clawnet.core.cursors import Cursor


class EpochStart(msgspec.Struct, frozen=True):
    """A log epoch and the first seq it may have given."""

    epoch: str
    first_seq: int


class Resolved(msgspec.Struct, frozen=True):
    """Go on behind `seq`. `lost` are the first and last seq that mean nothing any more."""

    seq: int
    lost: tuple[int, int] | None = None


def resolve(cursor: Cursor, *, epochs: Sequence[EpochStart], last_seq: int) -> Resolved:
    """Where reading goes on from a cursor, and what can no longer be had."""
    branch = branch_of(cursor.epoch, epochs=epochs, last_seq=last_seq)
    if cursor.seq <= branch:
        return Resolved(cursor.seq)
    return Resolved(branch, (branch + 1, cursor.seq))


def branch_of(epoch: str, *, epochs: Sequence[EpochStart], last_seq: int) -> int:
    """The last seq up to which positions of `epoch` still hold; 0 for an unknown epoch."""
    for index, start in enumerate(epochs):
        if start.epoch == epoch:
            if index + 1 < len(epochs):
                # Several restores may each have cut deeper than the one before.
                return min(later.first_seq for later in epochs[index + 1 :]) - 1
            return last_seq
    return 0
