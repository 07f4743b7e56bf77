"""Unicode's tables of look-alikes and scripts, as the package confusable-homoglyphs carries them.

Read when the first name beyond ASCII is met: 15 ms once, off the loop where that is possible.
The package's own reader takes 36 ms and keeps every character's name in memory, so its data
files are read directly.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import NamedTuple, TypeVar

import msgspec

from clawnet.core.handles import ASCII_LOOKS, Looks

_PACKAGE = "confusable_homoglyphs"
_LEFT_TO_RIGHT = "\u200e"

T = TypeVar("T")


class _Look(msgspec.Struct):
    c: str


class _Scripts(msgspec.Struct):
    code_points_ranges: list[tuple[int, int, int, int]]
    iso_15924_aliases: list[str]


class Lookalikes(NamedTuple):
    """The table for core.handles, and the script of a character."""

    looks: Looks
    script_of: Callable[[str], str]


async def lookalikes_for(*names: str) -> Lookalikes:
    """The tables that these names need, read in a thread if they have to be read."""
    if all(name.isascii() for name in names):
        return _PLAIN
    return await asyncio.to_thread(_load)


def lookalikes_of(name: str) -> Lookalikes:
    """As lookalikes_for(); reads in place if nobody has read them before."""
    return _PLAIN if name.isascii() else _load()


@cache
def _load() -> Lookalikes:
    found = _read("confusables.json", dict[str, list[_Look]])
    plain = {_bare(key): [_bare(one.c) for one in value] for key, value in found.items()}
    looks: dict[str, str] = {}
    for character, alike in plain.items():
        # The data has each pair both ways. A character with one partner is the one that is taken
        # for the other, unless both have but one: then the lower of the two stands for both.
        if len(character) == len(alike) == 1:
            other = alike[0]
            is_mutual = len(other) == 1 and len(plain.get(other, ())) == 1
            if not (is_mutual and character < other):
                looks[character] = other
    for character, other in list(looks.items()):
        # What ASCII has stands for itself, so that names within ASCII need no table.
        if character.isascii():
            del looks[character]
            if len(other) == 1 and not other.isascii():
                looks[other] = character
    ranges = _read("categories.json", _Scripts)
    starts = [one[0] for one in ranges.code_points_ranges]

    def script_of(character: str) -> str:
        code = ord(character)
        index = bisect_right(starts, code) - 1
        if index >= 0 and code <= ranges.code_points_ranges[index][1]:
            return ranges.iso_15924_aliases[ranges.code_points_ranges[index][2]]
        return "UNKNOWN"

    return Lookalikes({**looks, **ASCII_LOOKS}, script_of)


def _read(name: str, kind: type[T]) -> T:
    raw = resources.files(_PACKAGE).joinpath(name).read_bytes()
    return msgspec.json.decode(raw, type=kind)


def _bare(text: str) -> str:
    return text.strip(_LEFT_TO_RIGHT) or text


def _ascii_script(character: str) -> str:
    return "LATIN" if character.isalpha() else "COMMON"


_PLAIN = Lookalikes(ASCII_LOOKS, _ascii_script)
