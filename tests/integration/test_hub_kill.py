"""SIGKILL of a whole hub under load: what it acknowledged over HTTP is there after the restart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from http.client import HTTPConnection, HTTPException
from itertools import count
from pathlib import Path
from random import Random
from threading import Lock, Semaphore, Thread
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from tests.faults.kill import Diary, Position
from tests.forked import start

CHANNEL = "public.kill"
PUBLISHERS = 4


class Hub:
    """A `claw up` on a data folder, to be killed."""

    def __init__(self, data_dir: Path) -> None:
        # To a file: nobody reads a pipe while the hub runs, and a full pipe would stop it.
        self._errors = data_dir.with_suffix(".stderr").open("ab")
        self.process = start(
            "clawnet.cli.main:main",
            ["up", "--port", "0", "--data-dir", str(data_dir)],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "CLAWNET_LIMITS_ENABLED": "false"},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert "listening" in line, f"the hub did not start; see {self._errors.name}"
        self.address = urlsplit(line.split()[-1]).netloc
        self.token = (data_dir / "admin.token").read_text().strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.returncode == -signal.SIGKILL, "the hub died by itself"
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()


class Client:
    """One connection with the admin's token."""

    def __init__(self, hub: Hub) -> None:
        self._connection = HTTPConnection(hub.address, timeout=30)
        self._headers = {
            "Authorization": f"Bearer {hub.token}",
            "Content-Type": "application/json",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        content = None if body is None else json.dumps(body)
        self._connection.request(method, f"/api/v1{path}", content, self._headers)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def publish(self, unit: int, size: int) -> list[Position]:
        """Publish a unit, as a batch if it has several events; its positions."""
        events = [
            {
                "data": {"unit": unit, "index": index, "pad": "p" * (unit % 7 * 300)},
                "dedupe_key": f"{unit}.{index}",
            }
            for index in range(size)
        ]
        if size == 1:
            status, answer = self.ask("POST", f"/channels/{CHANNEL}/events", events[0])
            answers = [answer]
        else:
            batch = {"events": [{"channel": CHANNEL, **event} for event in events]}
            status, answer = self.ask("POST", "/events/batch", batch)
            answers = answer.get("events", [])
        assert status in (200, 201), answer
        return [Position(answer["seq"], answer["offset"]) for answer in answers]


class Load:
    """Publishers that go on until the hub is gone. `unknown` are units without an answer."""

    def __init__(self, hub: Hub, diary: Diary, numbers: Any) -> None:
        self.acknowledged = Semaphore(0)
        self.unknown: list[tuple[int, int]] = []
        self.errors: list[AssertionError] = []
        self._hub = hub
        self._diary = diary
        self._numbers = numbers
        self._lock = Lock()
        self._threads = [Thread(target=self._publish) for _ in range(PUBLISHERS)]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        for thread in self._threads:
            thread.join()
        assert not self.errors, self.errors[0]

    def _publish(self) -> None:
        with Client(self._hub) as client:
            while True:
                with self._lock:
                    unit = next(self._numbers)
                    size = 5 if unit % 9 == 0 else 1
                    self._diary.tried[str(unit)] = size
                try:
                    positions = client.publish(unit, size)
                except (OSError, HTTPException):
                    self.unknown.append((unit, size))
                    return
                except AssertionError as error:
                    self.errors.append(error)
                    return
                finally:
                    self.acknowledged.release()
                with self._lock:
                    for index, position in enumerate(positions):
                        self._diary.acknowledged[f"{unit}.{index}"] = position


def read_on(client: Client, diary: Diary) -> None:
    """Read what the channel has got since."""
    while True:
        path = f"/channels/{CHANNEL}/events?since={diary.last.offset}&limit=1000"
        status, answer = client.ask("GET", path)
        assert status == 200, answer
        assert not answer.get("gap"), answer
        for event in answer["events"]:
            diary.read(event["dedupe_key"], Position(event["seq"], event["offset"]))
        if not answer["events"]:
            return


def repeat_unknown(client: Client, diary: Diary, unknown: list[tuple[int, int]]) -> None:
    """What had no answer is sent again with the same keys: first events stay the first."""
    for unit, size in unknown:
        for _ in range(2):
            for index, position in enumerate(client.publish(unit, size)):
                key = f"{unit}.{index}"
                assert diary.seen.get(key, position) == position, "a repeat was stored again"
                assert diary.acknowledged.setdefault(key, position) == position


def kill_rounds(data_dir: Path, *, rounds: int, seed: int) -> Diary:
    """Load, kill, restart and look, as often as that on one data folder."""
    random = Random(seed)
    diary = Diary()
    numbers = count(1)
    unknown: list[tuple[int, int]] = []
    for turn in range(rounds + 1):
        hub = Hub(data_dir)
        try:
            with Client(hub) as client:
                if turn > 0:
                    read_on(client, diary)
                    diary.check()
                    repeat_unknown(client, diary, unknown)
                    read_on(client, diary)
                    diary.check()
            load = Load(hub, diary, numbers)
            for _ in range(random.randint(1, 150)):
                assert load.acknowledged.acquire(timeout=30), "the hub does not answer"
        finally:
            hub.kill()
        load.wait()
        unknown = load.unknown
    return diary


@pytest.mark.timeout(300)  # 50 starts of a hub on a busy machine.
def test_a_killed_hub_has_what_it_acknowledged(tmp_path: Path) -> None:
    diary = kill_rounds(tmp_path / "data", rounds=50, seed=1)
    assert len(diary.acknowledged) > 1_000


@pytest.mark.soak
def test_a_thousand_kills_of_a_hub_lose_nothing(tmp_path: Path) -> None:
    kill_rounds(tmp_path / "data", rounds=1_000, seed=2)
