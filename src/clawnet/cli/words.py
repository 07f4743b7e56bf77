"""Which words of `claw pub` are options and which are the message. Pure.

Options stand before the message: `claw pub --json public.lobby --key k hello`.
Behind a message of one word (a quoted one, mostly) they are understood as
well: `claw pub public.lobby "hello there" --json`. Once something else
follows the first word, all of it is text: `claw pub public.lobby say --json
twice`. If such a text ends with options (`hi there --json`) nobody can tell
what was meant, so that is `tail`, to be refused. After `--` everything is text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Words(NamedTuple):
    """`options` for the parser as they stood; `channel` is None if there is none.

    `tail` is what of `words` may have been meant as options.
    """

    options: list[str]
    channel: str | None
    words: list[str]
    tail: tuple[str, ...] = ()


def split(arguments: Sequence[str], *, flags: frozenset[str], valued: frozenset[str]) -> Words:
    """Part the arguments of `pub`. `flags` take no value, `valued` one (`--key k`, `--key=k`)."""
    left = list(arguments)
    options: list[str] = []
    while left and left[0] != "--" and _looks_like_option(left[0]):
        # Before the channel nothing can be text; an unknown option is the parser's to refuse.
        taken = _option_at(left, flags, valued)
        options += left[: taken or 1]
        del left[: taken or 1]
    if left and left[0] == "--":
        del left[0]
        return Words(options, left[0] if left else None, left[1:])
    if not left:
        return Words(options, None, [])
    channel = left.pop(0)
    run, left = _leading_options(left, flags, valued)
    options += run
    if left and left[0] == "--":
        return Words(options, channel, left[1:])
    if len(left) > 1:
        run, rest = _leading_options(left[1:], flags, valued)
        if not rest:
            return Words(options + run, channel, left[:1])
        if rest[0] == "--":
            return Words(options + run, channel, left[:1] + rest[1:])
    return Words(options, channel, left, _trailing_options(left, flags, valued))


def _trailing_options(
    words: list[str], flags: frozenset[str], valued: frozenset[str]
) -> tuple[str, ...]:
    """The options behind the first word with which the words (before a `--`) end."""
    said = words[: words.index("--")] if "--" in words else words
    for at in range(1, len(said)):
        run, rest = _leading_options(said[at:], flags, valued)
        if run and not rest:
            return tuple(run)
    return ()


def _leading_options(
    words: list[str], flags: frozenset[str], valued: frozenset[str]
) -> tuple[list[str], list[str]]:
    at = 0
    while at < len(words):
        taken = _option_at(words[at:], flags, valued)
        if not taken:
            break
        at += taken
    return words[:at], words[at:]


def _option_at(words: list[str], flags: frozenset[str], valued: frozenset[str]) -> int:
    """How many words the option at the front takes; 0 if there is none."""
    first = words[0]
    if first in flags:
        return 1
    if first in valued:
        return min(2, len(words))
    name, sign, _ = first.partition("=")
    return 1 if sign and name.startswith("--") and name in valued else 0


def _looks_like_option(word: str) -> bool:
    return word.startswith("-") and word != "-"
