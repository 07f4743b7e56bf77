"""How large a run is: the sizes of the full one and of the quick one."""

import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the groups of rows ask before they measure."""

    folder: Path
    rounds: int
    crowds: tuple[int, int]  # subscribers of the fan-out
    phase_s: float
    latency_s: float
    publish_s: float
    events: int  # stored, for the rows about a full log
    fill_max_s: float
    flat_events: int  # published per round onto the full and onto the empty log
    replay_events: int
    idle_connections: int
    idle_s: float
    comers: int  # clients of the Centrifugo door that connect as fast as they can
    chat_s: float
    fleet_s: float
    filters: int
    cold_starts: int
    began: float = field(default_factory=time.monotonic)

    @staticmethod
    def full(folder: Path, *, events: int | None, rounds: int | None) -> "Plan":
        return Plan(
            folder=folder,
            rounds=rounds or 5,
            crowds=(100, 1000),
            phase_s=0.8,
            latency_s=2.0,
            publish_s=2.5,
            events=events or 10_000_000,
            fill_max_s=300.0,
            flat_events=50_000,
            replay_events=500_000,
            idle_connections=10_000,
            idle_s=10.0,
            comers=10_000,
            chat_s=2.0,
            fleet_s=20.0,
            filters=10_000,
            cold_starts=10,
        )

    @staticmethod
    def quick(folder: Path, *, events: int | None, rounds: int | None) -> "Plan":
        return Plan(
            folder=folder,
            rounds=rounds or 1,
            crowds=(100, 300),
            phase_s=0.3,
            latency_s=1.0,
            publish_s=1.0,
            events=events or 200_000,
            fill_max_s=20.0,
            flat_events=20_000,
            replay_events=50_000,
            idle_connections=1_000,
            idle_s=3.0,
            comers=2_000,
            chat_s=1.0,
            fleet_s=10.0,
            filters=10_000,
            cold_starts=3,
        )

    def say(self, words: str) -> None:
        """Progress, on stderr: stdout is for the table."""
        print(f"[{time.monotonic() - self.began:6.1f} s] {words}", file=sys.stderr, flush=True)

    def shuffled(self, names: list[str], number: int) -> list[str]:
        """The order within a round: another one each time, the same in each run."""
        return random.Random(number).sample(names, len(names))
