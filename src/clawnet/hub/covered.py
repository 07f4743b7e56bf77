"""What a catch-up remembers of its patterns between two chunks. Hub.covered() fills it."""

from __future__ import annotations

from clawnet.core.callers import Caller


class Covered:
    """The names that a subscription's patterns cover, found under certain rights."""

    __slots__ = ("count", "names", "rights")

    def __init__(self, rights: tuple[Caller, int]) -> None:
        self.rights = rights
        self.names: set[str] = set()
        self.count = 0
        """So many of the world's listed names were asked."""
