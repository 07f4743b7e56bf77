"""What the hub asks an engine to commit, and what the engine answers.

A unit is atomic: one publish, one batch, or one change of state with its
events. A group is many units in one transaction; the fate of one unit does
not touch the others of its group.
"""

from __future__ import annotations

import msgspec

from clawnet.core.errors import ClawError
from clawnet.core.events import Draft, Existing, Stored

GROUP_MAX_EVENTS = 512
GROUP_MAX_BYTES = 1_048_576


class Put(msgspec.Struct, frozen=True):
    """Set `key` (`kind/id`) to `value` (JSON text).

    `if_revision`: None for whatever was there, 0 only if the key is absent,
    else only if the key still has that revision.
    """

    key: str
    value: str
    if_revision: int | None = None


class Delete(msgspec.Struct, frozen=True):
    """Remove `key`; `if_revision` as in Put. Removing what is not there is no error."""

    key: str
    if_revision: int | None = None


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """What is committed whole or not at all.

    `is_narrowing` marks revocations: they may use the ballast when the disk is full.
    `ties` names, for each change, the draft (by index) to which it belongs: if that event was
    there before (a repeated publish, also of an earlier draft of this unit), the change does
    not happen either. Empty: all happen.
    `blanks` are seqs of retained events whose data become null; what is not there is passed over.
    """

    drafts: tuple[Draft, ...] = ()
    changes: tuple[Put | Delete, ...] = ()
    is_narrowing: bool = False
    ties: tuple[int, ...] = ()
    blanks: tuple[int, ...] = ()


class Committed(msgspec.Struct, frozen=True):
    """The unit is durable. One entry for each draft: Stored if new, Existing if repeated.

    `revisions` holds the new revision of each Put, in order (0 for a Delete, and for what
    did not happen because its event was a repeat).
    """

    events: tuple[Stored | Existing, ...]
    revisions: tuple[int, ...] = ()


Outcome = Committed | ClawError
"""What became of one unit: committed, or refused with nothing stored
(DedupeConflict with `index`, Conflict with `key` and its `revision`, 0 if absent, DiskFull)."""
