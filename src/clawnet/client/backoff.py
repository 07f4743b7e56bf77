"""How long to wait before the next attempt. Pure: chance comes in as an argument."""

from __future__ import annotations

import random as _random
from collections.abc import Callable

FIRST_S = 0.1
MOST_S = 5.0


class Backoff:
    """Doubling waits with jitter, so that the clients of a hub do not all return at once.

    The n-th wait lies between half and all of `first_s * 2**n`, which is
    never more than `most_s`. What the hub asked for is waited for at least.
    """

    def __init__(
        self,
        *,
        first_s: float = FIRST_S,
        most_s: float = MOST_S,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._random = random
        self._attempts = 0

    def next_s(self, retry_after_s: float | None = None) -> float:
        """The wait before the next attempt."""
        # The exponent is bounded, since a client may try for weeks.
        bound = min(self._most_s, self._first_s * 2.0 ** min(self._attempts, 30))
        self._attempts += 1
        wait = bound * (0.5 + 0.5 * self._random())
        if retry_after_s is None:
            return wait
        # Never earlier than asked, and spread, for the same reason as above.
        return retry_after_s + min(wait, 0.5 + 0.1 * retry_after_s)

    def reset(self) -> None:
        """The other side answered: begin with short waits again."""
        self._attempts = 0
