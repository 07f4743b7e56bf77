"""Which commands of a task of kind `exec` may run here: none, unless the owner allowed them. Pure.

A command is split into words as a shell would, and no shell ever sees it. It runs only if its
first words are those of an entry of the allow-list, or all its words if the entry begins with `=`;
a substring of the deny-list wins over that.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

EXACTLY = "="
"""An entry that begins with it allows these words and none behind them."""


class NotAllowed(Exception):
    """The command may not run here, and why."""


def argv_of(command: str, *, allow: Sequence[Sequence[str]], deny: Sequence[str]) -> list[str]:
    """The words to run. Raises NotAllowed."""
    if not allow:
        raise NotAllowed("This agent runs no commands: its allow-list is empty.")
    if "\0" in command:
        raise NotAllowed("The command holds a NUL character.")
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise NotAllowed(f"The command cannot be split into words ({error}).") from None
    if not argv:
        raise NotAllowed("The command is empty.")
    # The words too: neither quotes nor blanks must hide what the deny-list looks for.
    shown = f"{command}\n{' '.join(argv)}\n{_plain(' '.join(argv))}".casefold()
    if any(one.casefold() in shown for entry in deny if entry for one in (entry, _plain(entry))):
        raise NotAllowed("The command is on this agent's deny-list.")
    if not any(_is_allowed(argv, entry) for entry in allow if entry):
        raise NotAllowed("The command is not on this agent's allow-list.")
    return argv


def _is_allowed(argv: Sequence[str], entry: Sequence[str]) -> bool:
    if entry[0].startswith(EXACTLY):
        return tuple(argv) == (entry[0].removeprefix(EXACTLY), *entry[1:])
    return tuple(argv[: len(entry)]) == tuple(entry)


def _plain(text: str) -> str:
    return " ".join(text.split()) or text
