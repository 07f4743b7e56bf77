"""What a warden keeps of an event, and what a place to keep it promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from clawnet.core.events import Event

DELETED = "chat.deleted"


class Down(Exception):
    """A place cannot be written or read for now; the text says why, for a person."""


class Place(Protocol):
    """Where events are kept.

    K1 idempotent  what is kept twice is there once, by its id.
    K2 all or Down keep() returns when all of it is there for good, or raises Down; what of it is
                   there then does no harm when it is repeated.
    K3 in order    newest() gives them in the order in which they were first kept.
    K4 blank       a message that was deleted is given back as its tombstone.
    """

    name: str

    async def keep(self, events: Sequence[Event]) -> None: ...

    async def newest(self, world: str, limit: int) -> list[Event]:
        """The newest `limit` of a world, oldest first. Raises Down."""

    async def close(self) -> None: ...


class _Deleted(msgspec.Struct, frozen=True):
    id: str


def blanks_of(events: Sequence[Event]) -> list[str]:
    """The ids of the messages that these events say are deleted."""
    found: list[str] = []
    for event in events:
        if event.type == DELETED:
            try:
                found.append(msgspec.json.decode(event.data, type=_Deleted).id)
            except msgspec.MsgspecError:
                # Said by something else than the hub's chat: it names no message.
                continue
    return found


def blanked(event: Event) -> Event:
    """The tombstone of a message."""
    return msgspec.structs.replace(event, data=msgspec.Raw(b"null"), deleted=True)


def newest_per_channel(events: Sequence[Event], limit: int) -> list[Event]:
    """Of each channel the newest `limit`, in the order given."""
    left: dict[str, int] = {}
    found: list[Event] = []
    for event in reversed(events):
        count = left.get(event.channel, 0)
        if count < limit:
            left[event.channel] = count + 1
            found.append(event)
    found.reverse()
    return found


def merged(*lists: Sequence[Event]) -> list[Event]:
    """Several readings, the later ones newer, each event once, deleted ones as tombstones."""
    found: dict[str, Event] = {}
    for events in lists:
        for event in events:
            before = found.get(event.id)
            found[event.id] = blanked(event) if before is not None and before.deleted else event
    for gone in blanks_of(list(found.values())):
        if gone in found:
            found[gone] = blanked(found[gone])
    return list(found.values())


def row_of(event: Event) -> dict[str, Any]:
    """An event as a row of deploy/supabase/schema.sql."""
    return {
        "id": event.id,
        "world": event.world,
        "channel": event.channel,
        "channel_offset": event.offset,
        "epoch": event.epoch,
        "seq": event.seq,
        "ts": event.ts,
        "type": event.type,
        "actor": event.actor.id,
        "correlation_id": event.correlation_id,
        "event": msgspec.Raw(msgspec.json.encode(event)),
    }
