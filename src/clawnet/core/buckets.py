"""Token buckets by key, of one rate: a bounded table. Time is given, not read."""

from __future__ import annotations

from collections.abc import Hashable

from clawnet.core.limits import Bucket

KEYS_MAX = 10_000


class Buckets:
    """Holds what is not full; beyond its bound it forgets who was idle longest."""

    def __init__(self, *, rate_per_s: float, burst: float, keys_max: int = KEYS_MAX) -> None:
        self.rate_per_s = rate_per_s
        self.burst = burst
        self._keys_max = keys_max
        self._buckets: dict[Hashable, Bucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Hashable, *, now_s: float, n: float = 1) -> float:
        """0.0 if `n` could be taken, else the seconds until it can be."""
        # The order of the table is that of the last use.
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            if len(self._buckets) >= self._keys_max:
                self._forget(now_s)
            bucket = Bucket(rate_per_s=self.rate_per_s, burst=self.burst, now_s=now_s)
        self._buckets[key] = bucket
        return bucket.take(n, now_s=now_s)

    def _forget(self, now_s: float) -> None:
        for key in [k for k, bucket in self._buckets.items() if bucket.is_full(now_s=now_s)]:
            del self._buckets[key]
        while len(self._buckets) >= self._keys_max:
            del self._buckets[next(iter(self._buckets))]
