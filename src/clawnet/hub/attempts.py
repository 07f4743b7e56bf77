"""Failed attempts to log in are limited, per address and per pair of address and claimed client.

Secrets of 256 bits cannot be guessed; this keeps a client with an old secret from asking in a
loop, and the log readable. Who attempts from elsewhere does not lock anybody out.
"""

from __future__ import annotations

from clawnet.core.errors import RateLimited
from clawnet.core.limits import Bucket
from clawnet.ports.clock import Clock

PER_ADDRESS = (1.0, 100.0)
PER_CLIENT = (1 / 6, 10.0)
REMEMBERED_MAX = 10_000


class Attempts:
    """Buckets that only failures take from."""

    def __init__(self, clock: Clock, *, is_enabled: bool = True) -> None:
        self._clock = clock
        self._is_enabled = is_enabled
        self._buckets: dict[tuple[str, str | None], Bucket] = {}

    def check(self, address: str, client: str) -> None:
        """Raise RateLimited, with the time to wait, if too many have failed."""
        now_s = self._clock.steady_s()
        for key in _keys(address, client):
            bucket = self._buckets.get(key)
            wait_s = 0.0 if bucket is None else bucket.wait_s(1, now_s=now_s)
            if wait_s:
                raise RateLimited(
                    "Too many attempts have failed.",
                    next="Wait as long as Retry-After says, and look at the secret meanwhile.",
                    retry_after_s=wait_s,
                )

    def failed(self, address: str, client: str) -> None:
        """Take note of a failure."""
        if not self._is_enabled:
            return
        now_s = self._clock.steady_s()
        for key in _keys(address, client):
            bucket = self._buckets.get(key)
            if bucket is None:
                self._make_room(now_s)
                rate_per_s, burst = PER_ADDRESS if key[1] is None else PER_CLIENT
                bucket = self._buckets[key] = Bucket(
                    rate_per_s=rate_per_s, burst=burst, now_s=now_s
                )
            bucket.take(1, now_s=now_s)

    def _make_room(self, now_s: float) -> None:
        if len(self._buckets) < REMEMBERED_MAX:
            return
        for key in [k for k, bucket in self._buckets.items() if bucket.is_full(now_s=now_s)]:
            del self._buckets[key]
        if len(self._buckets) >= REMEMBERED_MAX:
            # The oldest half, so that this is not done again for each new one.
            for key in list(self._buckets)[: REMEMBERED_MAX // 2]:
                del self._buckets[key]


def _keys(address: str, client: str) -> tuple[tuple[str, str | None], ...]:
    return ((address, None), (address, client[:64].lower()))
