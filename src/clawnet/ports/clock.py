"""Time and randomness, as the hub is given them."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Two clocks: the wall's, which may jump, and a steady one, which may not.

    C1 wall    `wall_ms` is milliseconds since 1970 UTC; it may jump either way.
    C2 steady  `steady_s` never goes back and advances by true seconds.
    """

    def wall_ms(self) -> int: ...
    def steady_s(self) -> float: ...


class Randomness(Protocol):
    """R1 secret  `token_bytes(n)` is unpredictable, fit for keys and epochs."""

    def token_bytes(self, n: int) -> bytes: ...
