"""Holes between offsets."""

from __future__ import annotations

from collections.abc import Iterable

from clawnet.core.ledger import Head
from clawnet.ports.log import Missing


def gaps(name: str, after: int, offsets: Iterable[int]) -> list[Missing]:
    """What lies between ascending offsets of a channel, from behind `after` on."""
    found = []
    for offset in offsets:
        if offset > after + 1:
            found.append(Missing(name, after + 1, offset - 1))
        after = offset
    return found


def below_gone(head: Head, found: int, seq: int) -> int:
    """Log.offset_at, given the newest retained offset at or before `seq` (0 if none).

    A removed event may have been newer; if removed ones lie on both sides of
    `seq`, which were before it is not known any more, and the lower bound stands.
    """
    return max(found, head.gone_offset) if head.gone_seq <= seq else found
