"""What a warden kept, handed back to a hub that began empty."""

from __future__ import annotations

import msgspec

from clawnet.core.events import Event

RESTORE_EVENTS_MAX = 500
RESTORE_MAX_BYTES = 4_194_304


class ReadRestore(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the hub waits for what a warden kept; by a warden. Answered with Restoring."""


class Restoring(msgspec.Struct, frozen=True, kw_only=True):
    """`epoch` is the log's own, under which everything is stored anew. `wait_s` is how long the
    hub still waits, `restored` how many events it was given back."""

    restoring: bool
    epoch: str
    wait_s: float
    restored: int


class RestoreEvents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give back events of the warden's world, oldest first: they keep their ids, times, types and
    senders and get new places. What was given back already is passed over.

    Raises Forbidden, Conflict if the hub does not restore (any more), BadRequest with `index`.
    """

    events: list[Event]


class RestoreDone(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That was all: the hub takes publishes. Answered with Restoring."""
