"""Event ids: `evt_` and a UUIDv7 (RFC 9562) that embeds the event's seq.

Layout of the 128 bits: 48 time in ms, 4 version, 12 salt, 2 variant, 14 salt,
48 seq. The salt is the log epoch's, so ids of two logs differ even for the
same millisecond and seq, and an id leads to its place without an index.
"""

from __future__ import annotations

import re

_EVENT_ID = re.compile(
    r"evt_[0-9a-f]{8}-[0-9a-f]{4}-7([0-9a-f]{3})-([89ab][0-9a-f]{3})-([0-9a-f]{12})\Z"
)


def event_id(*, ts_ms: int, seq: int, salt: int) -> str:
    """The id of the event at `seq`; `salt` has 26 bits."""
    return f"{event_id_prefix(ts_ms=ts_ms, salt=salt)}{seq:012x}"


def event_id_prefix(*, ts_ms: int, salt: int) -> str:
    """What the ids of one millisecond have in common: all but the 12 digits of the seq."""
    return (
        f"evt_{ts_ms >> 16 & 0xFFFFFFFF:08x}-{ts_ms & 0xFFFF:04x}-7{salt >> 14 & 0xFFF:03x}-"
        f"{0x8000 | salt & 0x3FFF:04x}-"
    )


def seq_from_id(text: str) -> int | None:
    """The seq that an event id embeds, or None if the text is no event id."""
    found = _EVENT_ID.match(text)
    return int(found[3], 16) if found else None


def salt_from_id(text: str) -> int | None:
    """The salt that an event id embeds, or None if the text is no event id."""
    found = _EVENT_ID.match(text)
    return int(found[1], 16) << 14 | int(found[2], 16) & 0x3FFF if found else None


def salt_of(epoch: str) -> int:
    """The 26 bits by which the ids of a log epoch differ from another's."""
    from hashlib import blake2b

    return int.from_bytes(blake2b(epoch.encode(), digest_size=4).digest(), "big") >> 6
