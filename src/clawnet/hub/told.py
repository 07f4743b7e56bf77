"""Which events a broker in front of the hub tells its own subscribers: those it was answered with.

The door that answers notes it; whoever publishes into that broker asks. Held in memory only: of
what is not known here, as after a restart, nobody says that it was told. Twice is better than
never.
"""

from __future__ import annotations

import asyncio

EVENTS_MAX = 20_000
"""The oldest are forgotten: those that nobody asked about, or that are asked about very late."""
WAIT_MAX_S = 1.0
"""A door settles what it owes within this; what it never settles must not hold up the others."""


class Told:
    """Each event is owed, settled and asked about once, in this order or asked about earlier."""

    def __init__(self, *, events_max: int = EVENTS_MAX) -> None:
        self._max = events_max
        self._all: dict[str, asyncio.Future[bool]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def owe(self, event: str) -> None:
        """The broker's answer is being made. To be called before anybody hears of the event."""
        if len(self._all) >= self._max:
            del self._all[next(iter(self._all))]
        self._all[event] = asyncio.get_running_loop().create_future()

    def settle(self, event: str, *, is_told: bool) -> None:
        """What became of the answer: whether the broker certainly has it."""
        # What was not told needs no note, and who waits for it is still answered.
        owed = self._all.get(event) if is_told else self._all.pop(event, None)
        if owed is not None and not owed.done():
            owed.set_result(is_told)

    async def is_told(self, event: str) -> bool:
        """Whether the broker has it, which is waited for shortly; forgotten once it was said."""
        owed = self._all.get(event)
        if owed is None:
            return False
        try:
            await asyncio.wait((owed,), timeout=WAIT_MAX_S)
            return owed.done() and owed.result()
        finally:
            self._all.pop(event, None)
