"""The QA scenarios of the chat's requirements, run as they are written, against one hub.

Warden persistence has its own test (test_warden.py), as it starts the hub twice.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import socketio

from clawnet.client.http import HubHttp
from tests.cli.program import HubProcess, Program, running_hub

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the scenarios use curl")
SECRET = "what agents share"
BURST = 60
WITHIN_S = 10


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("hub")
    program = Program(folder / "home")
    program.environment |= {
        "CLAWNET_SECRET": SECRET,
        "CLAWNET_HTTP_CHAT_PER_S": "5",
        "CLAWNET_HTTP_CHAT_BURST": str(BURST),
    }
    with running_hub(program, folder / "data", "--engine", "memory") as hub:
        yield hub


def curl(hub: HubProcess, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
    """Status and answer of a request as a person would make it."""
    words = ["curl", "-sS", "-m", "20", "-w", "\n%{http_code}"]
    words += ["-H", f"Authorization: Bearer {token or hub.admin_token}"]
    if body is not None:
        words += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    done = subprocess.run([*words, hub.url + path], capture_output=True, check=True, text=True)
    text, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(text)


class Agent:
    """A Socket.IO client that speaks version 2 and keeps what it hears."""

    def __init__(self, hub: HubProcess, name: str, **auth: Any) -> None:
        self.heard: list[tuple[str, Any]] = []
        self._hub = hub
        self._auth = {"token": SECRET, "agent_id": name, "protocol": 2, **auth}
        self._came = asyncio.Event()
        self.client = socketio.AsyncClient(reconnection=False)
        self.client.on("*", self._hear)

    async def __aenter__(self) -> "Agent":
        await self.client.connect(self._hub.url, auth=self._auth, transports=["websocket"])
        await self.hears("session")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.disconnect()

    async def _hear(self, name: str, *data: Any) -> Any:
        self.heard.append((name, data[0] if data else None))
        self._came.set()
        return {"ok": True}

    async def hears(self, name: str, **members: Any) -> Any:
        """The first of these events whose data have these members."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                for one, data in self.heard:
                    if one == name and all(data.get(key) == members[key] for key in members):
                        return data
                self._came.clear()
                await self._came.wait()

    async def call(self, name: str, data: Any) -> Any:
        return await self.client.call(name, data, timeout=WITHIN_S)


def message(text: str, to_type: str = "global", to_id: str = "", **more: Any) -> dict[str, Any]:
    return {"to_type": to_type, "to_id": to_id, "payload": {"text": text}, **more}


async def test_at_least_once_chat_delivery(hub: HubProcess) -> None:
    """Send chat_send with id=msg-001 to global, lose the ack, retry within 2 s: stored once."""
    async with Agent(hub, "one") as one, Agent(hub, "two") as two:
        sent = message("stored once", id="msg-001")
        began_s = time.monotonic()
        await one.client.emit("chat_send", sent)  # nobody waits for the ack: it is lost
        first = await two.hears("chat_message", dedupe_key="msg-001")
        ack = await one.call("chat_send", sent)
        assert time.monotonic() - began_s < 2
        assert ack["ok"] and ack["deduped"] and ack["id"] == first["id"]
        # What is said behind it has come, so a second one would have come before.
        await one.call("chat_send", message("behind it"))
        await two.hears("chat_message", payload={"text": "behind it"})
    heard = [data["id"] for name, data in two.heard if name == "chat_message"]
    assert heard.count(first["id"]) == 1 and len(heard) == 2
    _, page = curl(hub, "/api/v1/rooms/global/history")
    assert [one["dedupe_key"] for one in page["events"]].count("msg-001") == 1


def test_handle_registration_and_uniqueness(hub: HubProcess) -> None:
    """POST the same handle for agent-001 and agent-002: the second fails with a conflict."""
    status, made = curl(hub, "/api/v1/handles", {"agent_id": "agent-001", "handle": "alpha"})
    assert status == 201 and made["handle"] == "alpha"
    status, refused = curl(hub, "/api/v1/handles", {"agent_id": "agent-002", "handle": "alpha"})
    assert status == 409 and refused["code"] == "conflict"


async def test_dm_room_isolation(hub: HubProcess) -> None:
    """Of three agents, A sends B a direct message, and C does not receive it."""
    async with Agent(hub, "a1") as a, Agent(hub, "b1") as b, Agent(hub, "c1") as c:
        ack = await a.call("chat_send", message("for B alone", "dm", "b1"))
        assert ack["ok"]
        assert (await b.hears("chat_message"))["payload"] == {"text": "for B alone"}
        # The global message behind it reaches C, so the direct one would have.
        await a.call("chat_send", message("for all"))
        await c.hears("chat_message", payload={"text": "for all"})
        assert "for B alone" not in str(c.heard)
        refused = await c.call("replay", {"channel": "dm.a1.b1", "offset": 0})
        assert refused["ok"] is False and "for B alone" not in str(refused)


def test_room_history_endpoint(hub: HubProcess) -> None:
    """Send a message to room alpha; GET /api/v1/rooms/alpha/history holds it."""
    status, sent = curl(hub, "/api/v1/messages", message("in the room", "room", "alpha"))
    assert status == 201
    status, page = curl(hub, "/api/v1/rooms/alpha/history")
    assert status == 200
    (found,) = [one for one in page["events"] if one["id"] == sent["id"]]
    assert found["payload"] == {"text": "in the room"}


def test_cli_chat_send(hub: HubProcess) -> None:
    """clownet-cli chat --room=global --msg=ping; the newest message of the history says ping."""
    program = Path(sys.executable).with_name("clownet-cli")
    words = [str(program)] if program.exists() else [sys.executable, "-m", "clawnet.cli.main"]
    done = subprocess.run(
        [*words, "chat", "--room=global", "--msg=ping"],
        env=hub.program.environment | hub.environment(), capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("said on public.lobby at offset ")
    _, page = curl(hub, "/api/v1/rooms/global/history")
    assert page["events"][-1]["payload"] == {"text": "ping"}


async def test_chat_slash_command_dispatch(hub: HubProcess) -> None:
    """Send /status: a task_dispatch is sent, and its task_result is in the chat."""
    async with Agent(hub, "claw-1", capabilities=["openclaw"]) as agent:
        ack = await agent.call("chat_send", message("/status"))
        assert ack["ok"], ack
        task = await agent.hears("task_dispatch")
        assert task["kind"] == "openclaw"
        result = {"task_id": task["task_id"], "fence": task["fence"], "status": "completed"}
        answer = await agent.call("task_result", result | {"output": "all is well"})
        assert answer["ok"], answer
        token = (await agent.hears("session"))["session_token"]
    _, page = await asyncio.to_thread(curl, hub, "/api/v1/rooms/global/history", token=token)
    told = [one for one in page["events"] if one.get("type", "").startswith("task.")]
    assert told[-1]["type"] == "task.completed"
    assert told[-1]["payload"]["output"] == "all is well"
    assert len({one["correlation_id"] for one in told}) == 1


@pytest.mark.parametrize("has_token", [True, False])
def test_rate_limit(hub: HubProcess, has_token: bool) -> None:
    """A loop over /api/v1/rooms sees 429 once it is faster than its limit."""
    client = HubHttp(hub.url, hub.admin_token)
    headers = {}
    if has_token:
        client.call("POST", "/api/v1/accounts", body={"id": "looper"})
        made = client.call("POST", "/api/v1/tokens", body={"account": "looper"})
        headers = {"Authorization": f"Bearer {made['token']}"}
    with httpx.Client(base_url=hub.url, headers=headers, trust_env=False) as loop:
        found = [loop.get("/api/v1/rooms") for _ in range(BURST * 2 + 30)]
    codes = [answer.status_code for answer in found]
    assert codes[:BURST] == [200] * BURST and set(codes) == {200, 429}
    refused = next(answer for answer in found if answer.status_code == 429)
    assert refused.json()["code"] == "rate_limited" and int(refused.headers["retry-after"]) >= 1
