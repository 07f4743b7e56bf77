"""What the hub refused, and who came in by a token it had, counted until the audit takes it.

Attackers can cause any number of either, so alike ones are one entry with a count, and beyond a
bound they are counted together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from clawnet.core.callers import Caller
from clawnet.core.errors import ClawError, Forbidden, Unauthenticated

ENTRIES_MAX = 1_000
WHAT_MAX_CHARS = 120
LOGIN = "login"


class Refusal(NamedTuple):
    """`account` is None for who showed no valid token; `what` is a call's name, a channel or a
    door; `code` is LOGIN if it was let in."""

    world: str
    account: str | None
    what: str
    code: str


class Refusals:
    """Counts."""

    def __init__(self) -> None:
        self._counts: dict[Refusal, int] = {}
        self.is_kept = False
        """Whether anybody takes them; else none are kept."""

    def note(self, caller: Caller | None, what: str, error: ClawError) -> None:
        """A request was refused. Only what was refused for lack of rights is noted."""
        if not self.is_kept or not isinstance(error, Forbidden | Unauthenticated):
            return
        world, account = ("main", None) if caller is None else (caller.world, caller.account)
        self._count(Refusal(world, account, ascii(what[:WHAT_MAX_CHARS])[1:-1], error.code))

    def let_in(self, caller: Caller, door: str) -> None:
        """An account came in at a door by a token that it had. What makes a token is an event of
        its own."""
        if self.is_kept:
            self._count(Refusal(caller.world, caller.account, door, LOGIN))

    @contextmanager
    def noting(self, caller: Caller | None, what: str) -> Iterator[None]:
        """note() what is raised in the block."""
        try:
            yield
        except ClawError as error:
            self.note(caller, what, error)
            raise

    def _count(self, entry: Refusal) -> None:
        if entry not in self._counts and len(self._counts) >= ENTRIES_MAX:
            entry = Refusal(entry.world, None, "(others)", entry.code)
        self._counts[entry] = self._counts.get(entry, 0) + 1

    def take(self) -> dict[Refusal, int]:
        """What was noted since the last time."""
        taken, self._counts = self._counts, {}
        return taken
