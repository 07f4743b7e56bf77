"""The ids by which clients acknowledge: the same bytes for every reader, and no table of
deliveries behind them.

An id is `number_of(channel) << 32 | offset`, so it tells its place without a lookup. Ids of
number 0 are those of what has no place: work that is announced again. Which work an id announces
is known to the connection that it was written to (v2_outlet.py).
"""

from __future__ import annotations

from typing import NamedTuple

from clawnet.ports.clock import Randomness

NUMBERS = (1 << 21) - 1
"""An id must stay below 2**53 for JavaScript."""
CHANNELS_MAX = 1 << 18
"""Channels beyond have no number, and what comes on them is acknowledged by chat_ack."""
OFFSET_BITS = 32
OFFSET_MAX = (1 << OFFSET_BITS) - 1


class Place(NamedTuple):
    """What an acknowledgement is of."""

    world: str
    channel: str
    offset: int


class Numbers:
    """Gives each channel of each world a number for as long as the hub runs.

    Clients acknowledge late, by whatever connection they have then. What they were given by the
    hub before its restart must not look like something else here, so numbers begin at random.
    """

    def __init__(self, randomness: Randomness) -> None:
        self._numbers: dict[tuple[str, str], int] = {}
        self._names: list[tuple[str, str]] = []
        self._first = int.from_bytes(randomness.token_bytes(4), "big") % NUMBERS
        self._signals = int.from_bytes(randomness.token_bytes(4), "big")

    def id_of(self, world: str, channel: str, offset: int) -> int | None:
        """The id for one place; None if there are too many channels."""
        number = self._numbers.get((world, channel))
        if number is None:
            if len(self._names) >= CHANNELS_MAX:
                return None
            # From 1: those of number 0 have no place.
            number = 1 + (self._first + len(self._names)) % NUMBERS
            self._numbers[world, channel] = number
            self._names.append((world, channel))
        return None if offset > OFFSET_MAX else number << OFFSET_BITS | offset

    def place_of(self, id: int) -> Place | None:
        """The place of an id; None if there is none."""
        number, offset = id >> OFFSET_BITS, id & OFFSET_MAX
        if not 0 < number <= NUMBERS:
            return None
        index = (number - 1 - self._first) % NUMBERS
        return Place(*self._names[index], offset) if index < len(self._names) else None

    def signal_id(self) -> int:
        """Another id, of something that has no place."""
        self._signals = (self._signals + 1) & OFFSET_MAX
        return self._signals
