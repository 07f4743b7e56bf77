"""How much work a regular expression can make per character. Pure; what is one and what is not
is decided by the engine that compiles it, which works in linear time: characters times atoms."""

from __future__ import annotations

import msgspec

ATOMS_MAX = 5_000


class Pattern(msgspec.Struct, frozen=True):
    """`atoms` places of the expression can be tried at once, repetitions counted. `is_bounded`:
    it starts at ^ and has no end of its own open, so it is over after as many characters."""

    atoms: int
    is_bounded: bool


class _Group:
    """What was read of a group: its atoms, and those of the last thing, which may be repeated."""

    __slots__ = ("atoms", "last")

    def __init__(self) -> None:
        self.atoms = 0
        self.last = 0

    def add(self, atoms: int) -> None:
        self.atoms = min(self.atoms + atoms, ATOMS_MAX)
        self.last = atoms


def pattern_of(text: str) -> Pattern:
    """Read an expression, liberally: what it overlooks is counted as one more atom."""
    groups = [_Group()]
    is_bounded = text.startswith("^")
    index = 0
    while index < len(text):
        char = text[index]
        group = groups[-1]
        if char == "\\":
            index = _after_escape(text, index)
            group.add(1)
            continue
        if char == "[":
            index = _after_class(text, index)
            group.add(1)
            continue
        if char == "(":
            groups.append(_Group())
        elif char == ")" and len(groups) > 1:
            groups.pop()
            groups[-1].add(max(group.atoms, 1))
        elif char in "*+" or (char == "|" and len(groups) == 1):
            is_bounded = False
        elif char == "{":
            index, times = _after_counts(text, index)
            if times is None:
                is_bounded = False
            # So many copies, of which one was counted.
            group.add(min(group.last * max((times or _least(text, index)) - 1, 0), ATOMS_MAX))
            continue
        else:
            group.add(1)
        index += 1
    while len(groups) > 1:
        inner = groups.pop()
        groups[-1].add(inner.atoms)
    return Pattern(max(groups[0].atoms, 1), is_bounded)


def _after_escape(text: str, index: int) -> int:
    index += 2
    if text[index - 1 : index] in ("p", "P", "u", "x") and text[index : index + 1] == "{":
        end = text.find("}", index)
        return len(text) if end < 0 else end + 1
    return index


def _after_class(text: str, index: int) -> int:
    """Behind a class; classes can hold classes."""
    depth = 0
    while index < len(text):
        char = text[index]
        if char == "\\":
            index += 1
        elif char == "[":
            depth += 1
        elif char == "]":
            depth -= 1
            if not depth:
                return index + 1
        index += 1
    return len(text)


def _after_counts(text: str, index: int) -> tuple[int, int | None]:
    """Behind {m}, {m,} or {m,n}, and the greatest count (None: no end)."""
    end = text.find("}", index)
    if end < 0:
        return len(text), 1
    least, comma, most = text[index + 1 : end].partition(",")
    if not least.strip().isdecimal():
        return end + 1, 1
    if not comma:
        return end + 1, min(int(least[:9]), ATOMS_MAX)
    if not most.strip().isdecimal():
        return end + 1, None
    return end + 1, min(int(most[:9]), ATOMS_MAX)


def _least(text: str, end: int) -> int:
    """The m of {m,} that ends before `end`."""
    least = text[text.rfind("{", 0, end) + 1 : end].partition(",")[0].strip()
    return min(int(least[:9]), ATOMS_MAX) + 1 if least.isdecimal() else 1
