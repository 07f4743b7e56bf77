"""Picks what a trim removes and what that does to the heads. Reads only; the writer deletes."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass

import apsw
import msgspec

from clawnet.core.ledger import Head
from clawnet.engines.sqlite.places import Pair, Places
from clawnet.ports.log import IsDue, Piece

PIECE_EVENTS = 1_000
"""So many at once: about a millisecond in the log."""

LOOK_EVENTS = 2_048
"""So many are looked at for a trim by rule, removed or not: two milliseconds."""

CHANNELS_MAX = 128
"""A piece of a trim by rule touches no more: where there are holes, the new beginning of each has
to be looked up (measured: 0.1 ms)."""

_FIRST_PAGE = 16
"""The next event that is kept is nearly always near."""

_PICK = """SELECT group_concat(seq), group_concat(channel_id), group_concat(offset) FROM (
    SELECT seq, channel_id, offset FROM main.log
    WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?)"""
_LOOK = """SELECT group_concat(seq), group_concat(channel_id), group_concat(offset),
    json_group_array(type) FROM (
    SELECT seq, channel_id, offset, type FROM main.log
    WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?)"""
_TYPES = """SELECT group_concat(seq), json_group_array(type) FROM (
    SELECT l.seq, l.type FROM carray(?) AS s CROSS JOIN main.log AS l ON l.seq = s.value)"""


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


def pick_before(places: Places, *, after_seq: int, seq: int) -> Removal:
    """The oldest events in (`after_seq`, `seq`]; a bounded piece."""
    row = places.connection.execute(_PICK, (after_seq, seq, PIECE_EVENTS)).fetchone()
    assert row is not None, "an aggregate always has a row"
    if row[0] is None:
        return Removal(seqs=[], channels={})
    seqs, channel_ids, offsets = (_decoder.decode(f"[{text}]") for text in row)
    channels: dict[int, list[Pair]] = {}
    for channel_id, offset, place in zip(channel_ids, offsets, seqs, strict=True):
        channels.setdefault(channel_id, []).append((offset, place))
    return Removal(seqs=seqs, channels=channels)


def pick_due(
    places: Places, *, after_seq: int, seq: int, is_due: IsDue, heads: Callable[[int], Head]
) -> tuple[Removal, Piece]:
    """The events in (`after_seq`, `seq`] that are due; a bounded piece, and how far it is."""
    row = places.connection.execute(_LOOK, (after_seq, seq, LOOK_EVENTS)).fetchone()
    assert row is not None, "an aggregate always has a row"
    if row[0] is None:
        return Removal(seqs=[], channels={}), Piece(0, max(seq, after_seq), True)
    seqs, channel_ids, offsets = (_decoder.decode(f"[{text}]") for text in row[:3])
    types = _texts.decode(row[3])
    picked: list[int] = []
    channels: dict[int, list[Pair]] = {}
    known: dict[tuple[int, str], bool] = {}
    place, is_end = seq, len(seqs) < LOOK_EVENTS
    if not is_end:
        place = seqs[-1]
    for channel_id, offset, at, type_ in zip(channel_ids, offsets, seqs, types, strict=True):
        is_meant = known.get((channel_id, type_))
        if is_meant is None:
            is_meant = known[channel_id, type_] = is_due(heads(channel_id).name, type_)
        if not is_meant:
            continue
        is_full = len(channels) == CHANNELS_MAX and channel_id not in channels
        if is_full or len(picked) == PIECE_EVENTS:
            place, is_end = at - 1, False
            break
        picked.append(at)
        channels.setdefault(channel_id, []).append((offset, at))
    return Removal(seqs=picked, channels=channels), Piece(len(picked), place, is_end)


def pick_channel_due(
    places: Places, head: Head, *, is_due: IsDue, keep: int, before: int | None, above: int
) -> tuple[Removal, Piece]:
    """A channel's events that are due, newest first, beyond the newest `keep`; a piece."""
    top = head.last + 1 if before is None else min(before, head.last + 1)
    pairs = places.descending(head, before=top, up_to_seq=head.last_seq, limit=PIECE_EVENTS)
    is_end = len(pairs) < PIECE_EVENTS or pairs[-1][0] <= above + 1
    place = above if is_end else pairs[-1][0]
    pairs = [pair for pair in pairs if pair[0] > above]
    types = _types_of(places, [seq for _, seq in pairs])
    kept = 0
    picked: list[Pair] = []
    for pair in pairs:
        type_ = types.get(pair[1])
        if type_ is None or not is_due(head.name, type_):
            continue
        if kept < keep:
            kept += 1
        else:
            picked.append(pair)
    picked.reverse()
    removal = Removal(seqs=[seq for _, seq in picked], channels={head.id: picked} if picked else {})
    return removal, Piece(len(picked), place, is_end, kept)


def _types_of(places: Places, seqs: list[int]) -> dict[int, str]:
    """The types of those of the events that are in the log."""
    if not seqs:
        return {}
    row = places.connection.execute(_TYPES, (apsw.carray(array("q", seqs)),)).fetchone()
    assert row is not None, "an aggregate always has a row"
    if row[0] is None:
        return {}
    return dict(zip(_decoder.decode(f"[{row[0]}]"), _texts.decode(row[1]), strict=True))


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
    if first not in removed:
        # What a rule keeps at the channel's beginning stays there: nothing need be looked up.
        return mark_gone(head, pairs)
    while first in removed:
        first += 1
    page = _FIRST_PAGE
    # Above the newest event that was ever removed nothing is missing, so nothing need be asked.
    while first <= head.gone_offset:
        following = places.ascending(head, after=first - 1, up_to_seq=head.last_seq, limit=page)
        there = set(places.existing([seq for _, seq in following])[0])
        left = [o for o, seq in following if seq in there and o not in removed]
        if left:
            first = left[0]
            break
        first = following[-1][0] + 1 if following else head.last + 1
        if len(following) < page:
            first = head.last + 1
            break
        page = PIECE_EVENTS
    while first in removed:
        # The walk ended behind the last hole, where what this trim removes may go on.
        first += 1
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
_texts = msgspec.json.Decoder(list[str])
