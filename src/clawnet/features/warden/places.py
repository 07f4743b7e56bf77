"""Where the events of one channel stand now that stood elsewhere in a log that is gone. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right


class Places:
    """How the offsets of a channel moved from the log before to this one.

    Events of that log are known by their offsets in it. Older ones were handed back to it as they
    are to this one, so where they stood in it is not known to the event: they count as before all
    of its own. `older_before` is how many there were then.
    """

    def __init__(self, *, older_before: int = 0) -> None:
        self.older = 0
        """How many are of older logs."""
        self.count = 0
        self._older_before = older_before
        self._older_last = 0
        self._before = array("q")
        self._now = array("q")
        self._is_ordered = True

    def add(self, before: int | None, now: int) -> None:
        """An event stands at `now`; `before` is its offset in the log before, None if older."""
        self.count += 1
        if before is None:
            self.older += 1
            self._older_last = now
            self._is_ordered &= not self._before
            return
        self._is_ordered &= not self._before or before > self._before[-1]
        self._before.append(before)
        self._now.append(now)

    def opened(self, offset: int, *, head: int) -> int:
        """Where what was open from `offset` on begins now, so that nothing else is open: behind
        all that is older, and behind everything if that is not known."""
        if not self._is_ordered:
            return head + 1
        index = bisect_left(self._before, offset)
        if index < len(self._now):
            return self._now[index]
        return head + 1

    def handled(self, offset: int) -> int:
        """Up to where everything is handled now that was up to `offset`."""
        index = bisect_right(self._before, offset)
        if index and self._is_ordered:
            return self._now[index - 1]
        # The newest of the older ones stood at the end of what was handed back then.
        left = max(self._older_before - max(offset, 0), 0)
        return max(self._older_last - left, 0) if self._is_ordered else 0
