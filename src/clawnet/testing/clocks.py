"""A clock that moves only when told to, and chance that repeats."""

from __future__ import annotations

from hashlib import blake2b


class FakeClock:
    """Both clocks stand still until `advance`; `jump` moves the wall alone."""

    def __init__(self, *, wall_ms: int = 1_800_000_000_000) -> None:
        self._wall_ms = wall_ms
        self._steady_s = 0.0

    def wall_ms(self) -> int:
        return self._wall_ms

    def steady_s(self) -> float:
        return self._steady_s

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self._wall_ms += round(seconds * 1000)
        self._steady_s += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall's clock forward or back, as an administrator or NTP would."""
        self._wall_ms += round(seconds * 1000)


class FakeRandomness:
    """A sequence that is the same in each run and never repeats within one."""

    def __init__(self, seed: str = "clawnet") -> None:
        self._seed = seed
        self._calls = 0

    def token_bytes(self, n: int) -> bytes:
        self._calls += 1
        return blake2b(f"{self._seed}:{self._calls}".encode(), digest_size=64).digest()[:n]
