"""How far an account has handled what its channels gave it. Pure.

A mark is a floor: everything up to it is acknowledged. What is acknowledged beyond a gap is
kept in memory only, and bounded, since it may be told again.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

ABOVE_MAX = 4_096
"""So many acknowledgements beyond a gap are kept of one channel; the others are forgotten."""
ABOVE_ALL_MAX = 32_768
"""And so many of all channels of an account."""
CHANNELS_MAX = 4_000
"""So many channels of one account are kept, those that moved last."""


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """A floor, and the epoch of the channel to which it belongs. As it is stored."""

    epoch: str
    floor: int


class Marks:
    """The marks of one account. `on_change` is called when a floor rose that is to be stored."""

    def __init__(self, stored: dict[str, Mark], *, on_change: Callable[[], None]) -> None:
        self.by_channel = dict(stored)
        self._on_change = on_change
        self._above: dict[str, set[int]] = {}
        self._above_count = 0

    def floor(self, channel: str) -> int | None:
        """Up to where all is acknowledged; None if the channel has no mark."""
        mark = self.by_channel.get(channel)
        return None if mark is None else mark.floor

    def has(self, channel: str, offset: int) -> bool:
        """Whether an offset is acknowledged."""
        mark = self.by_channel.get(channel)
        if mark is not None and offset <= mark.floor:
            return True
        above = self._above.get(channel)
        return above is not None and offset in above

    def take(self, channel: str, offset: int, *, epoch: str) -> None:
        """One offset is acknowledged. The channel needs a mark, see put()."""
        mark = self.by_channel[channel]
        floor = mark.floor
        if offset <= floor:
            return
        if offset > floor + 1:
            self._keep(channel, offset)
            return
        floor = offset
        above = self._above.get(channel)
        if above:
            # Step by step: to look through all of them for each that comes in order takes 0.1 ms.
            while floor + 1 in above:
                floor += 1
                above.discard(floor)
                self._above_count -= 1
        self._set(channel, Mark(epoch, floor))

    def put(self, channel: str, floor: int, *, epoch: str) -> None:
        """Everything up to `floor` is acknowledged. A floor falls only with a new epoch."""
        mark = self.by_channel.get(channel)
        if mark is not None and mark.epoch == epoch and floor <= mark.floor:
            return
        above = self._above.get(channel)
        if above:
            if mark is not None and mark.epoch != epoch:
                self._forget(above, None)
            while floor + 1 in above:
                floor += 1
            self._forget(above, floor)
        self._set(channel, Mark(epoch, floor))

    def _set(self, channel: str, mark: Mark) -> None:
        # Last are those that moved last, so that the first can be forgotten.
        self.by_channel.pop(channel, None)
        self.by_channel[channel] = mark
        if len(self.by_channel) > CHANNELS_MAX:
            oldest = next(iter(self.by_channel))
            del self.by_channel[oldest]
            self._above_count -= len(self._above.pop(oldest, ()))
        self._on_change()

    def _keep(self, channel: str, offset: int) -> None:
        above = self._above.setdefault(channel, set())
        if len(above) < ABOVE_MAX and self._above_count < ABOVE_ALL_MAX and offset not in above:
            above.add(offset)
            self._above_count += 1

    def _forget(self, above: set[int], floor: int | None) -> None:
        """Up to the floor; None: all."""
        before = len(above)
        above -= {offset for offset in above if floor is None or offset <= floor}
        self._above_count -= before - len(above)
