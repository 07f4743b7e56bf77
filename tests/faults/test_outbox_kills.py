"""SIGKILL of who enqueues, and of the hub: what was enqueued arrives, once and in order."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from clawnet.client import Client
from clawnet.client.outbox_store import Store
from tests.cli.program import HubProcess, Program, running_hub
from tests.faults.outbox_victim import CHANNELS
from tests.forked import start

ROOT = Path(__file__).parents[2]

Told = dict[str, set[tuple[int, int]]]


def run_and_kill(hub: HubProcess, token: str, path: Path, turn: int, random: Random) -> list[str]:
    """Let a victim keep some events, kill it in what it does next; all it told."""
    victim = start(
        "tests.faults.outbox_victim:main",
        [hub.url, token, str(path), str(turn)],
        env=os.environ,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert victim.stdout is not None
    assert victim.stderr is not None
    with victim:
        lines = [victim.stdout.readline() for _ in range(random.randint(1, 120))]
        if random.random() < 0.3:
            toggle(hub)
            lines += [victim.stdout.readline() for _ in range(random.randint(1, 60))]
        victim.send_signal(signal.SIGKILL)
        lines += victim.stdout.readlines()
        said = victim.stderr.read().decode()
    assert victim.returncode == -signal.SIGKILL, f"the victim died by itself: {said}"
    return [line.decode() for line in lines if line.endswith(b"\n")]


def toggle(hub: HubProcess) -> None:
    """Kill the hub if it runs, else start it."""
    if hub.process is None:
        hub.start()
    else:
        hub.kill()


async def kill_rounds(folder: Path, *, rounds: int, seed: int) -> Told:
    """Kill as often as that on one outbox and one hub; then everything told has arrived."""
    random = Random(seed)
    path = folder / "outbox.db"
    told: Told = {channel: set() for channel in CHANNELS}
    waited = 0
    program = Program(folder / "home")
    program.environment["CLAWNET_LIMITS_ENABLED"] = "false"
    with running_hub(program, folder / "data") as hub:
        token = hub.account("victim")
        for turn in range(rounds):
            if random.random() < 0.4:
                toggle(hub)
            for line in run_and_kill(hub, token, path, turn, random):
                channel, *place = line.split()
                told[channel].add((int(place[0]), int(place[1])))
            store = Store(path, hub.url)
            waited += store.totals().waiting > 0
            store.close()
        if hub.process is None:
            hub.start()
        async with Client(hub.url, token, outbox=path) as client:
            assert await client.outbox.flush(max(60, rounds)) == 0
            assert await client.outbox.refused() == []
            for channel in CHANNELS:
                check(await stored(client, channel), told[channel])
    # The kills fell where it hurts, or the test says nothing.
    assert waited > rounds // 4
    return told


async def stored(client: Client, channel: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    since: int | None = 0
    while since is not None:
        page = await client.history(channel, since=since, limit=1_000)
        places: list[Any] = [msgspec.json.decode(event.data) for event in page.events]
        found += [(turn, number) for turn, number in places]
        since = page.events[-1].offset if page.events else None
    return found


def check(found: list[tuple[int, int]], told: set[tuple[int, int]]) -> None:
    assert told, "nothing was told"
    assert sorted(set(found)) == found, "an event is there twice, or out of order"
    there = set(found)
    assert told <= there, f"missing: {sorted(told - there)[:5]}"
    for turn, number in found:
        # What nobody was told of may be there, but never without what came before it.
        assert number == 0 or (turn, number - 1) in there, f"a hole before {turn}.{number}"


@pytest.mark.timeout(300)  # 24 starts of a process and some of a hub on a busy machine.
async def test_what_a_killed_process_enqueued_arrives_once_and_in_order(tmp_path: Path) -> None:
    told = await kill_rounds(tmp_path, rounds=24, seed=1)
    assert sum(len(places) for places in told.values()) > 500


@pytest.mark.soak
@pytest.mark.timeout(0)
async def test_five_hundred_kills_lose_nothing_that_was_enqueued(tmp_path: Path) -> None:
    await kill_rounds(tmp_path, rounds=500, seed=2)
