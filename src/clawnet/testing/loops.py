"""An event loop in which no test waits: time passes when nothing is left to do, and at once.

A timer of ten seconds ends as soon as everything that could run has run, so deadlines,
batches and waits can be tested as they are, without sleeping and always alike.
"""

from __future__ import annotations

import asyncio
import selectors

RUNAWAY_S = 20_000.0
"""A loop that has only timers left for so long waits for what never comes."""


class _Idle(selectors.DefaultSelector):
    """Instead of waiting for the next timer, says how long the wait would have been."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            # No timer at all: only a thread or a socket can go on from here.
            return super().select(None)
        ready = super().select(0)
        if not ready and timeout > 0:
            self.skipped_s += timeout
            if self.skipped_s > RUNAWAY_S:
                raise RuntimeError("The test waits for something that never happens.")
        return ready


class TimelessLoop(asyncio.SelectorEventLoop):
    """`time()` stands still while anything can run, then leaps to the next timer.

    Not for engines and clients that use threads: their work takes no time here,
    so that every deadline would be over before it.
    """

    def __init__(self) -> None:
        self._idle = _Idle()
        super().__init__(self._idle)

    def time(self) -> float:
        return self._idle.skipped_s

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        # Since Python 3.12 its threads are given 300 s to end, which here are over at once.
        await super().shutdown_default_executor()


class LoopClock:
    """Both clocks of ports.clock, by the running loop's time.

    `pass_time` lets timers end; `advance` moves both clocks without it, for
    days and years; `jump` moves the wall alone.
    """

    def __init__(self, *, wall_ms: int = 1_800_000_000_000) -> None:
        # An engine's threads ask as well.
        self._loop = asyncio.get_running_loop()
        self._wall_ms = wall_ms
        self._leapt_s = 0.0

    def wall_ms(self) -> int:
        return self._wall_ms + round(self.steady_s() * 1000)

    def steady_s(self) -> float:
        return self._leapt_s + self._loop.time()

    def advance(self, seconds: float) -> None:
        """Both clocks go on; the loop's timers do not notice."""
        self._leapt_s += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall's clock forward or back, as an administrator or NTP would."""
        self._wall_ms += round(seconds * 1000)

    async def pass_time(self, seconds: float) -> None:
        """Let so much time pass for everybody: timers end in their order."""
        await asyncio.sleep(seconds)
