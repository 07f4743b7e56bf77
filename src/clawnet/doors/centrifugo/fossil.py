"""Patches in the delta format of Fossil, as Centrifugo's clients apply them.

The format (fossil-scm.org, "Delta Format"): the target's length and a newline, then pieces
`<length>@<offset>,` (copy from the source) and `<length>:<bytes>` (insert), then the target's
checksum and `;`. Numbers are written in base 64. Only making patches lives here.

Patches are made on the loop, so the work is bounded: what common ends do not cover is searched
by blocks, for so many steps at most. Measured, the worst case takes about 2 ms.
"""

from __future__ import annotations

import sys
from array import array

SOURCE_MAX_BYTES = 64 * 1024
"""Past this nothing is searched; a common beginning and end are still found."""
STEPS_MAX = 3_500
"""How many places of the target are looked up; what is left then is inserted as it is."""

_BLOCK = 16
"""What two texts must share to be found, more or less (a copy costs about 8 bytes)."""
_COPY_MIN = 12
_NEAR = 4_096
_DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"


def create(source: bytes, target: bytes, *, is_text: bool) -> bytes:
    """A patch that makes `target` of `source`; it may be longer than the target itself.

    `is_text`: both are UTF-8 and so is the patch, because no code point is cut.
    """
    shortest = min(len(source), len(target))
    head = _same_ahead(source, 0, target, 0, shortest)
    tail = _same_behind(source, len(source), target, len(target), shortest - head)
    patch = _Patch(target, is_text=is_text)
    patch.copy(0, 0, head)
    end = len(target) - tail
    if end - head > _BLOCK and _BLOCK < len(source) <= SOURCE_MAX_BYTES:
        _search(patch, source, target, head, end)
    patch.copy(len(source) - tail, end, tail)
    return patch.text()


class _Patch:
    """The pieces of a patch, from the front of the target to its end."""

    __slots__ = ("_is_text", "_parts", "_target", "written")

    def __init__(self, target: bytes, *, is_text: bool) -> None:
        self._target = target
        self._is_text = is_text
        self._parts = [_number(len(target)), b"\n"]
        self.written = 0
        """How much of the target the pieces make."""

    def copy(self, offset: int, at: int, length: int) -> None:
        """Make target[at : at + length] by copying, what lies before it by inserting."""
        end = at + length
        if self._is_text:
            target, total = self._target, len(self._target)
            while at < end and target[at] & 0xC0 == 0x80:
                at += 1
                offset += 1
            while at < end < total and target[end] & 0xC0 == 0x80:
                end -= 1
        if end - at >= _COPY_MIN:
            self._insert(at)
            self._parts += (_number(end - at), b"@", _number(offset), b",")
            self.written = end

    def text(self) -> bytes:
        self._insert(len(self._target))
        self._parts += (_number(_checksum(self._target)), b";")
        return b"".join(self._parts)

    def _insert(self, end: int) -> None:
        if end > self.written:
            self._parts += (_number(end - self.written), b":", self._target[self.written : end])
            self.written = end


def _search(patch: _Patch, source: bytes, target: bytes, start: int, end: int) -> None:
    """Copies for target[start:end], from anywhere in the source."""
    # Every block is at a multiple of its length; a match is found where the target holds one of
    # them, and then grown to both sides.
    places = {
        source[at : at + _BLOCK]: at
        for at in range((len(source) - _BLOCK) // _BLOCK * _BLOCK, -1, -_BLOCK)
    }
    find = places.get
    at, behind = start, start
    last = end - _BLOCK
    left = STEPS_MAX
    while at <= last and left > 0:
        left -= 1
        block = target[at : at + _BLOCK]
        place = find(block)
        if place is None:
            at += 1
            continue
        # Texts repeat themselves; of several places it is mostly the next one behind what was
        # copied last.
        near = source.find(block, behind, behind + _NEAR)
        place = near if near >= 0 else place
        grown = _same_behind(source, place, target, at, min(place, at - max(patch.written, start)))
        room = min(len(source) - place, end - at) - _BLOCK
        length = _BLOCK + _same_ahead(source, place + _BLOCK, target, at + _BLOCK, room)
        patch.copy(place - grown, at - grown, grown + length)
        at += length
        behind = place + length
        # A match costs as much as so many steps.
        left -= 30


def _same_ahead(a: bytes, i: int, b: bytes, j: int, limit: int) -> int:
    """How many bytes from a[i] and b[j] on are the same, at most `limit`."""
    count, step = 0, 64
    while count < limit:
        stop = min(count + step, limit)
        x, y = a[i + count : i + stop], b[j + count : j + stop]
        if x != y:
            differing = int.from_bytes(x, "big") ^ int.from_bytes(y, "big")
            return count + len(x) - (differing.bit_length() + 7) // 8
        count = stop
        step = min(step * 4, 4096)
    return limit


def _same_behind(a: bytes, i: int, b: bytes, j: int, limit: int) -> int:
    """How many bytes before a[i] and b[j] are the same, at most `limit`."""
    count, step = 0, 64
    while count < limit:
        stop = min(count + step, limit)
        x, y = a[i - stop : i - count], b[j - stop : j - count]
        if x != y:
            differing = int.from_bytes(x, "big") ^ int.from_bytes(y, "big")
            return count + ((differing & -differing).bit_length() - 1) // 8
        count = stop
        step = min(step * 4, 4096)
    return limit


def _checksum(data: bytes) -> int:
    """The sum of the 32-bit big-endian words, the last one filled with zeros."""
    words = array("I", data + bytes(-len(data) % 4))
    if sys.byteorder == "little":
        words.byteswap()
    return sum(words) & 0xFFFFFFFF


def _number(value: int) -> bytes:
    digits = bytearray()
    while True:
        digits.append(_DIGITS[value & 63])
        value >>= 6
        if not value:
            digits.reverse()
            return bytes(digits)
