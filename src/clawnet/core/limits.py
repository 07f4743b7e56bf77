"""Token buckets: how fast an account may send."""

from __future__ import annotations


class Bucket:
    """Fills at `rate_per_s` up to `burst`; each take() costs tokens. Time is given, not read."""

    __slots__ = ("_at_s", "_level", "burst", "rate_per_s")

    def __init__(self, *, rate_per_s: float, burst: float, now_s: float) -> None:
        self.rate_per_s = rate_per_s
        self.burst = burst
        self._level = burst
        self._at_s = now_s

    def take(self, n: float, *, now_s: float) -> float:
        """Take `n` tokens: 0.0 if they were there, else the seconds until they will be.

        A wait takes nothing. More than `burst` at once is charged as `burst`,
        so that a large batch is possible from a full bucket.
        """
        level = min(self.burst, self._level + (now_s - self._at_s) * self.rate_per_s)
        self._at_s = now_s
        wanted = min(n, self.burst)
        if level >= wanted:
            self._level = level - wanted
            return 0.0
        self._level = level
        return (wanted - level) / self.rate_per_s

    def wait_s(self, n: float, *, now_s: float) -> float:
        """What take() would answer, taking nothing."""
        level = min(self.burst, self._level + (now_s - self._at_s) * self.rate_per_s)
        return max(min(n, self.burst) - level, 0.0) / self.rate_per_s

    def is_full(self, *, now_s: float) -> bool:
        """Whether nothing was taken for so long that the bucket can be forgotten."""
        return self._level + (now_s - self._at_s) * self.rate_per_s >= self.burst
