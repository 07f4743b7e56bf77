"""Where a subscription stands: what was seen, and from where to resume. Pure.

Two memories, because either alone can be short of something. The cursor is
the place to resume at, and only frames that carry one move it. The offsets
know, for each channel, the newest event that was handed over, so that what
lies between the cursor and there is not handed over twice.
"""

from __future__ import annotations

from clawnet.core.channels import canonical, is_pattern
from clawnet.core.cursors import Ago, parse_since
from clawnet.core.errors import BadRequest
from clawnet.core.events import Event

SINCE = str | dict[str, int] | None


class Position:
    """The position of one subscription to `channels`, begun at `since`."""

    def __init__(self, channels: list[str], since: SINCE, *, now_s: float) -> None:
        self._channels = [canonical(name) for name in channels]
        self._asked = since
        self._asked_s = now_s
        self._cursor: str | None = None
        self._newest: dict[str, tuple[str, int]] = {}

    @property
    def cursor(self) -> str | None:
        """The place behind everything that was handed over; None before the hub named one."""
        return self._cursor

    def begun(self, cursor: str | None) -> None:
        """The hub opened the subscription.

        Its cursor is where a subscription from now on begins. With a `since`, events behind
        that are still to come, and a client that returned to this cursor would miss them.
        """
        if self._asked is None and self._cursor is None:
            self._cursor = cursor

    def admits(self, event: Event, cursor: str | None) -> bool:
        """Whether this event is new here; if so, it counts as handed over."""
        is_new = self._is_new(event)
        if is_new:
            self._newest[event.channel] = (event.epoch, event.offset)
        if cursor is not None:
            self._cursor = cursor
        return is_new

    def _is_new(self, event: Event) -> bool:
        newest = self._newest.get(event.channel)
        # Offsets of another epoch say nothing about this one's.
        return newest is None or newest[0] != event.epoch or event.offset > newest[1]

    def resume(self, *, now_s: float) -> SINCE:
        """The `since` with which to subscribe now. `now_s` is on the same steady clock."""
        if self._cursor is not None:
            return self._cursor
        if isinstance(self._asked, str):
            return self._aged(self._asked, now_s)
        if not self._newest or any(is_pattern(name) for name in self._channels):
            return self._asked
        if isinstance(self._asked, dict):
            return {**self._asked, **{name: at for name, (_, at) in self._newest.items()}}
        if len(self._channels) == len(self._newest):
            return {name: at for name, (_, at) in self._newest.items()}
        # Some channels have not spoken yet: from where they were asked for; the doubles of the
        # others are sorted out by their offsets.
        return self._asked

    def _aged(self, asked: str, now_s: float) -> str:
        """The same place as it was when it was asked for: 10m, five minutes later, is 15m."""
        try:
            place = parse_since(asked)
        except BadRequest:
            return asked  # the hub says what is wrong with it
        if not isinstance(place, Ago):
            return asked
        return f"{place.ms + round((now_s - self._asked_s) * 1_000)}ms"
