"""SIGKILL at a random moment: the engine keeps what it acknowledged and can be opened again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from random import Random

import msgspec
import pytest

from clawnet.core.events import Event, Existing
from clawnet.core.units import Committed
from tests.faults.kill import Diary, Position
from tests.faults.victim import CHANNEL, STATE_KEY, WORLD, open_engine, size_of, unit
from tests.forked import start

ROOT = Path(__file__).parents[2]


def run_and_kill(folder: Path, *, first: int, acks: int) -> list[str]:
    """Let a victim acknowledge `acks` units, kill it in what it does next; all it told."""
    victim = start(
        "tests.faults.victim:main",
        [str(folder), str(first)],
        env=os.environ,
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert victim.stdout is not None
    with victim:
        lines = [victim.stdout.readline() for _ in range(acks)]
        victim.send_signal(signal.SIGKILL)
        # What it told between the last line read and the signal is in the pipe.
        lines += victim.stdout.readlines()
    assert victim.returncode == -signal.SIGKILL, "the victim died by itself"
    return [line.decode() for line in lines if line.endswith(b"\n")]


def read_on(folder: Path, diary: Diary) -> int | None:
    """Read what the log has got since; the number of the unit that the state speaks of."""
    engine = open_engine(folder)
    try:
        while True:
            chunk = engine.read_channel(WORLD, CHANNEL, after=diary.last.offset)
            for line in chunk.body.splitlines():
                event = msgspec.json.decode(line, type=Event)
                assert event.dedupe_key is not None
                diary.read(event.dedupe_key, Position(event.seq, event.offset))
            if chunk.is_end:
                break
        entries = engine.scan(STATE_KEY.partition("/")[0])
        number = int(entries[0].value) if entries else None
        if number is not None:
            [outcome] = engine.commit([unit(number)])
            assert isinstance(outcome, Committed)
            for index, first in enumerate(outcome.events):
                assert isinstance(first, Existing), "a repeat was stored again"
                assert Position(first.seq, first.offset) == diary.seen[f"{number}.{index}"]
        return number
    finally:
        engine.close()


def kill_rounds(folder: Path, *, rounds: int, seed: int) -> Diary:
    """Kill as often as that on one folder, and look after each."""
    random = Random(seed)
    diary = Diary()
    number = 1
    for _ in range(rounds):
        acks = random.randint(1, 60)
        lines = run_and_kill(folder, first=number, acks=acks)
        for line in lines:
            name, *places = line.split()
            for index, place in enumerate(places):
                seq, offset = re.fullmatch(r"(\d+):(\d+)", place).groups()  # type: ignore[union-attr]
                diary.acknowledged[f"{name}.{index}"] = Position(int(seq), int(offset))
        acknowledged = int(lines[-1].split()[0])
        # One more may be stored: killed between the commit and the word of it.
        diary.tried |= {str(n): size_of(n) for n in range(number, acknowledged + 2)}
        stored = read_on(folder, diary)
        diary.check()
        in_flight = f"{acknowledged + 1}.0" in diary.seen
        assert stored == acknowledged + in_flight, "the state does not fit the events"
        number = stored + 1
    return diary


def test_a_killed_engine_has_what_it_acknowledged(tmp_path: Path) -> None:
    diary = kill_rounds(tmp_path, rounds=50, seed=1)
    assert len(diary.acknowledged) > 1_000


@pytest.mark.soak
def test_a_thousand_kills_lose_nothing(tmp_path: Path) -> None:
    kill_rounds(tmp_path, rounds=1_000, seed=2)
