"""One timer for all connections: who is silent, whose head takes too long, whom to ping.

A timer of the event loop for each of 10,000 connections costs memory and a
heap that is sorted again and again; here a connection stands in a slot, and a
slot comes up twice a second. Time is what advance() is told, so a test moves
it by hand.
"""

from __future__ import annotations

from typing import Protocol

TICK_S = 0.5
SLOTS = 256
DELAY_MAX_S = TICK_S * (SLOTS - 1)
_NOWHERE = -1
_DUE = SLOTS


class Timed(Protocol):
    """Something with a time. `wheel_slot` belongs to the wheel and begins as -1."""

    wheel_slot: int

    def on_time(self) -> float | None:
        """Its time has come. Answers after how many seconds again; None is never."""


class Wheel:
    """Slots of half a second. A thing stands in at most one; its time is never early."""

    def __init__(self) -> None:
        self._slots: list[dict[Timed, None]] = [{} for _ in range(SLOTS + 1)]
        self._tick = 0
        self._rest_s = 0.0

    def __len__(self) -> int:
        return sum(len(slot) for slot in self._slots)

    @property
    def now_s(self) -> float:
        """The wheel's own time: the sum of what it was advanced by."""
        return self._tick * TICK_S

    def set(self, thing: Timed, delay_s: float) -> None:
        """Call the thing's on_time after so many seconds (DELAY_MAX_S at most), and not before."""
        self.clear(thing)
        # One tick more than the quotient: the present tick is already partly over.
        ticks = min(int(delay_s / TICK_S) + 1, SLOTS - 1)
        slot = (self._tick + ticks) % SLOTS
        self._slots[slot][thing] = None
        thing.wheel_slot = slot

    def clear(self, thing: Timed) -> None:
        """Forget the thing. One that stands nowhere is no error."""
        if thing.wheel_slot != _NOWHERE:
            self._slots[thing.wheel_slot].pop(thing, None)
            thing.wheel_slot = _NOWHERE

    def turn(self, elapsed_s: float) -> None:
        """Let time pass; what is due now waits for run()."""
        self._rest_s += elapsed_s
        due = self._slots[_DUE]
        while self._rest_s >= TICK_S:
            self._rest_s -= TICK_S
            self._tick += 1
            slot = self._slots[self._tick % SLOTS]
            for thing in slot:
                thing.wheel_slot = _DUE
            due.update(slot)
            slot.clear()

    def run(self, limit: int) -> bool:
        """Serve up to `limit` things that are due; whether there are more.

        After 10,000 connections came in one second, 10,000 pings are due in
        one; in pieces they do not hold up the loop.
        """
        due = self._slots[_DUE]
        for _ in range(min(limit, len(due))):
            thing, _nothing = due.popitem()
            thing.wheel_slot = _NOWHERE
            delay_s = thing.on_time()
            if delay_s is not None:
                self.set(thing, delay_s)
        return bool(due)

    def advance(self, elapsed_s: float) -> None:
        """Let time pass and serve everything that falls due, tick by tick."""
        while elapsed_s > 0:
            self.turn(min(elapsed_s, TICK_S))
            elapsed_s -= TICK_S
            while self.run(1_000):
                pass
