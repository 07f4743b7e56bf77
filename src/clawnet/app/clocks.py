"""The real clocks and the real randomness."""

from __future__ import annotations

import os
import time


class SystemClock:
    """See clawnet.ports.clock.Clock."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def steady_s(self) -> float:
        return time.monotonic()


class SystemRandomness:
    """See clawnet.ports.clock.Randomness."""

    def token_bytes(self, n: int) -> bytes:
        return os.urandom(n)
