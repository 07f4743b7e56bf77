"""A process that is to be killed: stores numbered units and tells of each acknowledged event.

Run with the folder and the number of the first unit. Each line on stdout is
`<unit> <seq>:<offset> …`, written after the commit returned and before the
next one begins.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from pathlib import Path

from clawnet.core.events import Stored
from clawnet.core.units import Committed, Put, Unit
from clawnet.engines.sqlite.engine import SqliteEngine
from tests.faults.ledger import draft

WORLD = "main"
CHANNEL = "public.kill"
STATE_KEY = "kill/unit"


class _Clock:
    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def steady_s(self) -> float:
        return time.monotonic()


class _Randomness:
    def token_bytes(self, n: int) -> bytes:
        return secrets.token_bytes(n)


def open_engine(folder: Path) -> SqliteEngine:
    """The engine as the hub opens it, with true fsyncs; without the ballast, to start fast."""
    return SqliteEngine(folder, clock=_Clock(), randomness=_Randomness(), ballast_bytes=0)


def size_of(number: int) -> int:
    """How many events a unit has: mostly one, now and then many pages."""
    return 40 if number % 16 == 0 else 1 + number % 3


def unit(number: int) -> Unit:
    """The unit of a number; the same number is the same unit."""
    drafts = [
        draft(
            number * 100 + index,
            world=WORLD,
            channel=CHANNEL,
            type="x.message",
            key=f"{number}.{index}",
            pad="p" * (400 * (number % 4)),
        )
        for index in range(size_of(number))
    ]
    return Unit(drafts=tuple(drafts), changes=(Put(STATE_KEY, str(number)),))


def main() -> None:
    """Store until killed."""
    engine = open_engine(Path(sys.argv[1]))
    number = int(sys.argv[2])
    while True:
        [outcome] = engine.commit([unit(number)])
        assert isinstance(outcome, Committed)
        places = []
        for event in outcome.events:
            assert isinstance(event, Stored)
            places.append(f"{event.seq}:{event.offset}")
        os.write(1, f"{number} {' '.join(places)}\n".encode())
        number += 1


if __name__ == "__main__":
    main()
