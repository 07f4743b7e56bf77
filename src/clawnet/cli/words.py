"""Which words of `claw pub` are options and which are the message. Pure.

Options stand before the message: `claw pub --json public.lobby --key k hello`.
Behind a message of one word (a quoted one, mostly) they are understood as
well: `claw pub public.lobby "hello there" --json`. Once something else
follows the first word, all of it is text: `claw pub public.lobby say --json
twice`. If such a text ends with options (`hi there --json`) nobody can tell
what was meant, so that is `tail`, to be refused. So is an option that there is not,
where one may stand: it is mistyped, and what is published cannot be taken back.
After `--` everything is text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_OPTION = re.compile(r"--[A-Za-z][A-Za-z0-9_-]*(=.*)?\Z", re.DOTALL)
"""What was meant as a long option, known or not; `---` and a quoted `--key is one` are text."""


class Words(NamedTuple):
    """`options` for the parser as they stood; `channel` is None if there is none.

    `tail` is what of `words` may have been meant as options, `unknown` the first that there is
    not, and `valueless` the first without the value that it needs.
    """

    options: list[str]
    channel: str | None
    words: list[str]
    tail: tuple[str, ...] = ()
    unknown: str | None = None
    valueless: str | None = None


def split(arguments: Sequence[str], *, flags: frozenset[str], valued: frozenset[str]) -> Words:
    """Part the arguments of `pub`. `flags` take no value, `valued` one (`--key k`, `--key=k`)."""
    found = _split(arguments, flags, valued)
    at = 0
    while at < len(found.options):
        taken = _option_at(found.options[at:], flags, valued)
        if taken == 1 and found.options[at] in valued:
            return found._replace(valueless=found.options[at])
        at += taken or 1
    return found


def nearest(option: str, known: frozenset[str]) -> str | None:
    """The long option that was probably meant."""
    import difflib

    name = option.partition("=")[0]
    near = difflib.get_close_matches(
        name, sorted(one for one in known if one.startswith("--")), n=1, cutoff=0.75
    )
    return near[0] if near else None


def _split(arguments: Sequence[str], flags: frozenset[str], valued: frozenset[str]) -> Words:
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
    if left and _OPTION.match(left[0]):
        return Words(options, channel, left, unknown=left[0])
    if len(left) > 1:
        run, rest = _leading_options(left[1:], flags, valued)
        if not rest:
            return Words(options + run, channel, left[:1])
        if rest[0] == "--":
            return Words(options + run, channel, left[:1] + rest[1:])
    tail = _trailing_options(left, flags, valued)
    return Words(options, channel, left, tail, _unknown_in(tail, flags, valued))


def _trailing_options(
    words: list[str], flags: frozenset[str], valued: frozenset[str]
) -> tuple[str, ...]:
    """The options, known or not, behind the first word with which the words (before `--`) end."""
    said = words[: words.index("--")] if "--" in words else words
    for start in range(1, len(said)):
        at = start
        while at < len(said):
            taken = _option_at(said[at:], flags, valued)
            if not taken and _OPTION.match(said[at]):
                # One that there is not has a value if it looks like one that has.
                taken = 2 if start == 1 and nearest(said[at], valued) else 1
            if not taken:
                break
            at += taken
        if at >= len(said):
            return tuple(said[start:])
    return ()


def _unknown_in(tail: Sequence[str], flags: frozenset[str], valued: frozenset[str]) -> str | None:
    at = 0
    while at < len(tail):
        taken = _option_at(tail[at:], flags, valued)
        if not taken:
            return tail[at]
        at += taken
    return None


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


def _option_at(words: Sequence[str], flags: frozenset[str], valued: frozenset[str]) -> int:
    """How many words the option at the front takes; 0 if there is none.

    Another option, known or not, or `--`, is never taken for a value (`--key=--x` says it).
    """
    first = words[0]
    if first in flags:
        return 1
    if first in valued:
        if len(words) == 1 or words[1] == "--":
            return 1
        is_option = _OPTION.match(words[1]) or _is_option(words[1], flags, valued)
        return 1 if is_option else 2
    return 1 if _is_option(first, flags, valued) else 0


def _is_option(word: str, flags: frozenset[str], valued: frozenset[str]) -> bool:
    name, sign, _ = word.partition("=")
    if sign:
        return name.startswith("--") and name in valued
    return word in flags or word in valued


def _looks_like_option(word: str) -> bool:
    return word.startswith("-") and word != "-"
