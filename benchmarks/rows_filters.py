"""The filter index: which of 10,000 filters of hooks and subscriptions an event meets."""

import random
import time
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any

from benchmarks.load.publish import zipf
from benchmarks.plan import Plan
from benchmarks.row import Row, Target, compare

US_MAX = 10
EVENTS = 20_000
ROUNDS = 5


def rows(plan: Plan) -> list[Row]:
    """Microseconds per event, for channels never seen and for the usual skewed traffic."""
    from clawnet.core.filters import PatternIndex  # the hub's own code, only this group needs it

    index: PatternIndex[int] = PatternIndex()
    for number, pattern in enumerate(islice(_patterns(), plan.filters)):
        index.add(pattern, number)
    names = _channels(EVENTS)
    skewed = [names[number] for number in islice(zipf(10_000), EVENTS)]
    cold, warm = [], []
    for _ in range(ROUNDS):
        index.add("bench.forget", -1)  # a change empties what the index remembers
        index.remove("bench.forget", -1)
        cold.append(_us_per_event(index, names))
        _us_per_event(index, skewed)
        warm.append(_us_per_event(index, skewed))
    found = sum(len(index.match(name)) for name in names) / len(names)
    note = f"{plan.filters:,} filters, {found:.1f} met by an event on average"
    target = Target(of="value", most=US_MAX)
    return [
        compare(
            f"{plan.filters:,} filters, channel not seen before",
            unit="us/event",
            ours=cold,
            target=target,
            note=note,
        ),
        compare(
            f"{plan.filters:,} filters, skewed traffic",
            unit="us/event",
            ours=warm,
            target=target,
            note=note,
        ),
    ]


def _patterns() -> Iterator[str]:
    """Six of ten exact names, the rest patterns of every form."""
    for number in cycle(range(10_000)):
        yield from (
            f"public.z{number}",
            f"public.z{number * 2 + 1}",
            f"agent.a{number}.inbox",
            f"agent.a{number}.t{number % 7}",
            f"room.r{number}",
            f"room.r{number * 3 + 1}",
            f"agent.a{number}.*",
            f"agent.a{number}.>",
            f"*.z{number}",
            f"agent.*.t{number}",
        )


def _channels(count: int) -> list[str]:
    chance = random.Random(2)
    return list(
        dict.fromkeys(
            f"public.z{chance.randrange(100_000)}"
            if chance.random() < 0.5
            else f"agent.a{chance.randrange(2_000)}.t{chance.randrange(100)}"
            for _ in range(count * 2)
        )
    )[:count]


def _us_per_event(index: Any, names: list[str]) -> float:
    began = time.perf_counter()
    for name in names:
        index.match(name)
    return (time.perf_counter() - began) / len(names) * 1e6
