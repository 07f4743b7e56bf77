"""Repeating a request that is safe to repeat, until it is answered or time is up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from clawnet.client.backoff import Backoff
from clawnet.client.errors import HubUnreachable
from clawnet.core.errors import ClawError, OutcomeUnknown

T = TypeVar("T")

LAST_WITHIN_S = 1.0
"""So long before the end the last attempt begins, at the earliest."""


class Retry:
    """Attempts with growing waits within `within_s`; None means for ever.

    Only what the hub calls retryable is repeated: 429, 503 and 507, and lost
    connections; what it asks for in Retry-After is waited for, and `on_failure`
    hears of each that will be repeated. When time is up the last failure is
    raised; before that, what would come too late is tried once more, in time
    for an answer. `is_unsure` says afterwards whether one of
    the attempts may have had its effect without an answer.
    """

    def __init__(
        self,
        within_s: float | None,
        *,
        backoff: Backoff | None = None,
        on_failure: Callable[[ClawError], None] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_unsure = False
        self._backoff = backoff or Backoff()
        self._on_failure = on_failure
        self._sleep = sleep
        self._now = now
        self._end = None if within_s is None else now() + within_s

    def left_s(self, most_s: float) -> float:
        """How long the next attempt may take: at most `most_s`, and never nothing."""
        return most_s if self._end is None else max(0.05, min(most_s, self._end - self._now()))

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Call `attempt` until it returns. Raises its ClawError."""
        is_last = False
        while True:
            try:
                return await attempt()
            except ClawError as error:
                if not error.retryable:
                    raise
                self.is_unsure = self.is_unsure or _may_have_happened(error)
                wait_s = self._backoff.next_s(error.retry_after_s)
                left_s = None if self._end is None else self._end - self._now()
                if left_s is not None and wait_s >= left_s:
                    if is_last or left_s <= (error.retry_after_s or 0.0):
                        raise
                    is_last = True
                    early_s = left_s - min(LAST_WITHIN_S, left_s / 2)
                    wait_s = max(early_s, error.retry_after_s or 0.0)
                if self._on_failure is not None:
                    self._on_failure(error)
            await self._sleep(wait_s)


def _may_have_happened(error: ClawError) -> bool:
    if isinstance(error, HubUnreachable):
        return not error.facts.get("is_refused", False)
    return isinstance(error, OutcomeUnknown)
