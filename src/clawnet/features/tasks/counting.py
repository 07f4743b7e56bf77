"""How many tasks there are."""

from __future__ import annotations

from clawnet.core.callers import Caller
from clawnet.core.calls.tasks import ENDED, CountTasks, TaskCounts
from clawnet.features.tasks.book import Book
from clawnet.hub.accounts import need_account


class Counting:
    """Answers CountTasks."""

    def __init__(self, book: Book) -> None:
        self._book = book

    async def count(self, call: CountTasks, caller: Caller) -> TaskCounts:
        """Raises Unauthenticated, Forbidden."""
        need_account(caller)
        caller.need("events:read")
        counts = self._book.counts
        ended = sum(counts[caller.world, status] for status in ENDED)
        success = counts[caller.world, "completed"]
        total = len(self._book.of_world.get(caller.world, ()))
        return TaskCounts(total=total, open=total - ended, success=success, failed=ended - success)
