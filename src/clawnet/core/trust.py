"""A clock to age things by: follows the wall's clock, but believes no jump at once.

Retention and expiry use it, so that a wall clock that jumps a year ahead
trims and expires nothing at once, and one that jumps back revives nothing.
"""

from __future__ import annotations

JUMP_MIN_S = 60.0
"""A difference of wall and steady clock below this is ordinary adjustment."""
BELIEVE_AFTER_S = 86_400.0
"""A jump is believed when it has held for so long while the hub ran."""


class TrustedClock:
    """Milliseconds since 1970 by the wall clock, less the jumps not yet believed.

    It never goes back: what has expired stays expired. A wall that was set back is
    not followed, however long it holds; time then goes on by the steady clock.
    """

    def __init__(self, *, wall_ms: int, steady_s: float, last_trusted_ms: int | None) -> None:
        """`last_trusted_ms` is what an earlier run recorded last; None at the first start."""
        self._steady_s = steady_s
        self._trusted_ms = float(wall_ms)
        self._doubted_since_s: float | None = None
        if last_trusted_ms is not None and abs(wall_ms - last_trusted_ms) > JUMP_MIN_S * 1000:
            # How long the hub was off is not known; being off is not a jump, but it
            # looks like one, so time goes on from where it was until this one has held.
            self._trusted_ms = float(last_trusted_ms)
            self._doubted_since_s = steady_s

    def now_ms(self, *, wall_ms: int, steady_s: float) -> int:
        """The trusted time now. Call it at least once an hour."""
        before_ms = self._trusted_ms
        self._trusted_ms += (steady_s - self._steady_s) * 1000
        self._steady_s = steady_s
        ahead_ms = wall_ms - self._trusted_ms
        if abs(ahead_ms) <= JUMP_MIN_S * 1000:
            # Forward at once; back never, time stands still until the wall caught up.
            self._trusted_ms = max(before_ms, float(wall_ms))
            self._doubted_since_s = None
        elif ahead_ms < 0:
            self._doubted_since_s = None
        elif self._doubted_since_s is None:
            self._doubted_since_s = steady_s
        elif steady_s - self._doubted_since_s >= BELIEVE_AFTER_S:
            self._trusted_ms = float(wall_ms)
            self._doubted_since_s = None
        return int(self._trusted_ms)
