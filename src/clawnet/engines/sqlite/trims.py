"""Picks what a trim removes and what that does to the heads. Reads only; the writer deletes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from clawnet.core.ledger import Head
from clawnet.engines.sqlite.places import Pair, Places

PIECE_EVENTS = 1_000
"""So many at once: about a millisecond in the log."""

_PICK = """SELECT group_concat(seq), group_concat(channel_id), group_concat(offset) FROM (
    SELECT seq, channel_id, offset FROM main.log
    WHERE seq > ? AND seq <= ? AND type NOT IN (SELECT value FROM json_each(?))
    ORDER BY seq LIMIT ?)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """Events to be removed, by channel id: their places, ascending."""

    seqs: list[int]
    channels: dict[int, list[Pair]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trim:
    """A removal with what it does: the channels' heads before, meanwhile and after, and the
    dedupe identities that only the tail knows, each with its seq."""

    seqs: list[int]
    before: list[Head]
    marked: list[Head]
    moved: list[Head]
    identities: list[tuple[bytes, int]]


def prepare(places: Places, removal: Removal, *, heads: Callable[[int], Head]) -> Trim:
    """Work out what a removal does; `heads` gives a channel's head by its id."""
    before = [heads(channel_id) for channel_id in removal.channels]
    is_in_tail = bool(removal.seqs) and removal.seqs[-1] > places.tail_after
    return Trim(
        seqs=removal.seqs,
        before=before,
        marked=[mark_gone(head, removal.channels[head.id]) for head in before],
        moved=[move_first(places, head, removal.channels[head.id]) for head in before],
        identities=places.identities(removal.seqs) if is_in_tail else [],
    )


def pick_before(places: Places, *, after_seq: int, seq: int, keep_types: frozenset[str]) -> Removal:
    """The oldest events in (`after_seq`, `seq`] that need not be kept; a bounded piece."""
    row = places.connection.execute(
        _PICK, (after_seq, seq, json.dumps(sorted(keep_types)), PIECE_EVENTS)
    ).fetchone()
    assert row is not None, "an aggregate always has a row"
    if row[0] is None:
        return Removal(seqs=[], channels={})
    seqs, channel_ids, offsets = (_decoder.decode(f"[{text}]") for text in row)
    channels: dict[int, list[Pair]] = {}
    for channel_id, offset, place in zip(channel_ids, offsets, seqs, strict=True):
        channels.setdefault(channel_id, []).append((offset, place))
    return Removal(seqs=seqs, channels=channels)


def pick_channel(places: Places, head: Head, *, keep: int) -> Removal:
    """The oldest events of a channel beyond its newest `keep`; a bounded piece."""
    border = _kept_from(places, head, keep)
    after = head.first - 1
    while True:
        pairs = places.ascending(head, after=after, up_to_seq=head.last_seq, limit=PIECE_EVENTS)
        is_end = len(pairs) < PIECE_EVENTS
        if pairs:
            after = pairs[-1][0]
        pairs = [pair for pair in pairs if pair[0] < border]
        there = set(places.existing([seq for _, seq in pairs])[0])
        pairs = [pair for pair in pairs if pair[1] in there]
        if pairs or is_end or after >= border:
            seqs = [seq for _, seq in pairs]
            return Removal(seqs=seqs, channels={head.id: pairs} if pairs else {})


def mark_gone(head: Head, pairs: list[Pair]) -> Head:
    """The head that says how far events may be missing, before they are removed."""
    offset, seq = pairs[-1]
    return msgspec.structs.replace(
        head, gone_offset=max(head.gone_offset, offset), gone_seq=max(head.gone_seq, seq)
    )


def move_first(places: Places, head: Head, pairs: list[Pair]) -> Head:
    """The head once `pairs` are removed; `places` still has them."""
    removed = {offset for offset, _ in pairs}
    first = head.first
    while first in removed:
        first += 1
    # Above the newest event that was ever removed nothing is missing, so nothing need be asked.
    while first <= head.gone_offset:
        following = places.ascending(
            head, after=first - 1, up_to_seq=head.last_seq, limit=PIECE_EVENTS
        )
        there = set(places.existing([seq for _, seq in following])[0])
        left = [o for o, seq in following if seq in there and o not in removed]
        if left:
            first = left[0]
            break
        first = following[-1][0] + 1 if following else head.last + 1
        if len(following) < PIECE_EVENTS:
            first = head.last + 1
            break
    return msgspec.structs.replace(mark_gone(head, pairs), first=min(first, head.last + 1))


def _kept_from(places: Places, head: Head, keep: int) -> int:
    """The offset of the oldest among the newest `keep` events."""
    if keep <= 0:
        return head.last + 1
    dense = head.last - keep + 1
    if dense > head.gone_offset:
        return dense
    # There are holes, so it must be counted.
    before, left = head.last + 1, keep
    while pairs := places.descending(
        head, before=before, up_to_seq=head.last_seq, limit=PIECE_EVENTS
    ):
        there = set(places.existing([seq for _, seq in pairs])[0])
        kept = [offset for offset, seq in pairs if seq in there]
        if len(kept) >= left:
            return kept[left - 1]
        left -= len(kept)
        before = pairs[-1][0]
    return head.first


_decoder = msgspec.json.Decoder(list[int])
