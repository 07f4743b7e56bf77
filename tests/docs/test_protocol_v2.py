"""docs/PROTOCOL_v2.md is walked, example by example, by real clients against a hub.

`…` at the end of a text stands for any value; in what a client says, for the newest one of that
name that it was given.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import socketio

from clawnet.features import FeatureSettings
from clawnet.features.fleet.settings import FleetSettings
from clawnet.testing.running import Running, running_hub

PAGE = Path(__file__).parents[2] / "docs" / "PROTOCOL_v2.md"
SECRET = "the shared secret"
WAIT_S = 10.0
TOLD_WITHOUT_EXAMPLE = {"error", "gap", "dropped"}
"""They come of what an example cannot cause; tests/doors/c2cp has them."""


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], Any]]:
    return {"asyncio": asyncio.new_event_loop}


def examples() -> list[dict[str, Any]]:
    """What the page shows, in its order."""
    return [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.S)]


class Client:
    """A client of the page, with what it was told and not yet asked for."""

    def __init__(self) -> None:
        self.socket = socketio.AsyncClient(reconnection=False)
        self.told: list[tuple[str, Any]] = []
        self.seen: dict[str, Any] = {}
        self.refused: Any = None
        self._something = asyncio.Event()
        self.socket.on("*", self._hear)
        self.socket.on("connect_error", self._refuse)

    async def _hear(self, name: str, data: Any = None) -> None:
        self.told.append((name, data))
        self.note(data)
        self._something.set()

    async def _refuse(self, data: Any) -> None:
        self.refused = data

    def note(self, value: Any) -> None:
        """Remember the members of what was said, for `…`."""
        if isinstance(value, dict):
            for name, member in value.items():
                self.note(member)
                self.seen[name] = member

    def filled(self, value: Any, name: str = "") -> Any:
        """What an example says, with `…` filled in."""
        if isinstance(value, dict):
            return {key: self.filled(member, key) for key, member in value.items()}
        if value == "last of task_ids…":
            return self.seen["task_ids"][-1]
        if value == "cursor…":
            return self.seen["cursor"]
        if isinstance(value, str) and value.endswith("…"):
            return self.seen[name]
        return value

    async def hears(self, name: str, wanted: Any) -> None:
        """Wait for an event that is as the example shows it."""

        def found() -> tuple[str, Any] | None:
            fitting = (one for one in self.told if one[0] == name and is_like(one[1], wanted))
            return next(fitting, None)

        try:
            async with asyncio.timeout(WAIT_S):
                while (event := found()) is None:
                    self._something.clear()
                    await self._something.wait()
        except TimeoutError:
            near = [data for it, data in self.told if it == name]
            raise AssertionError((name, wanted, near)) from None
        self.told.remove(event)


def is_like(value: Any, shown: Any) -> bool:
    """Whether a value is as the page shows it: the same members, `…` for any."""
    if isinstance(shown, str) and shown.endswith("…"):
        return shown == "…" or (isinstance(value, str) and value.startswith(shown[:-1]))
    if isinstance(shown, dict):
        return (
            isinstance(value, dict)
            and value.keys() == shown.keys()
            and all(is_like(value[name], member) for name, member in shown.items())
        )
    if isinstance(shown, list):
        return (
            isinstance(value, list) and len(value) == len(shown) and all(map(is_like, value, shown))
        )
    return bool(value == shown) and isinstance(value, bool) is isinstance(shown, bool)


async def connect(hub: Running, client: Client, example: dict[str, Any]) -> None:
    auth = dict(example["connects"])
    if auth["token"] == "claw_…":
        auth["token"] = await hub.token(auth["agent_id"], role="master")
    # One of them polls all the time, one comes to WebSocket from there.
    chosen = {"rex": ["polling"], "boss": None}.get(auth["agent_id"], ["websocket"])
    try:
        await client.socket.connect(hub.url, auth=auth, transports=chosen)
    except socketio.exceptions.ConnectionError:
        assert client.refused["message"] == example["connect_error"]
        return
    assert "connect_error" not in example, example


async def test_every_example_is_what_happens(tmp_path: Path) -> None:
    features = FeatureSettings(fleet=FleetSettings(secret=SECRET), has_timers=False)
    clients: dict[str, Client] = {}
    async with running_hub("sqlite", data_dir=tmp_path, features=features) as hub:
        try:
            for example in examples():
                client = clients.setdefault(example["client"], Client())
                if "connects" in example:
                    await connect(hub, client, example)
                elif "emits" in example:
                    data = client.filled(example["data"])
                    answer = await client.socket.call(example["emits"], data, timeout=WAIT_S)
                    client.note(answer)
                    assert is_like(answer, example["ack"]), (example, answer)
                else:
                    await client.hears(example["receives"], example["data"])
        finally:
            for client in clients.values():
                await client.socket.disconnect()


def test_every_event_of_the_table_has_an_example() -> None:
    table = PAGE.read_text().partition("## All events")[2].partition("## Limits")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    shown = {one.get("emits") or one.get("receives") for one in examples()} - {None}
    assert named - TOLD_WITHOUT_EXAMPLE == shown
