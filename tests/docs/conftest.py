"""A hub, a client of it, and `claw` in this process: what the advice of an error is tried with."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from clawnet.cli.main import main
from clawnet.core.calls.accounts import Role
from clawnet.testing.running import Running, running_hub

PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b")


class Met:
    """An error as its caller saw it: the problem document, with the answer's headers."""

    def __init__(self, answer: httpx.Response, code: str) -> None:
        self.problem: dict[str, Any] = answer.json()
        assert self.problem.get("code") == code, answer.text
        self.headers = answer.headers
        self.detail: str = self.problem["detail"]
        self.next: str = self.problem["next"]

    def command(self, text: str, **values: str) -> list[str]:
        """A command line that the advice holds, with its words in capitals filled in."""
        assert text in self.next, (text, self.next)
        return [PLACEHOLDER.sub(lambda word: values[word[0]], one) for one in text.split()][1:]

    def advises(self, text: str) -> None:
        """Assert that this is in the advice or in the message it points to."""
        assert text in f"{self.detail} {self.next}", (text, self.detail, self.next)


class Place:
    """A running hub and a client."""

    def __init__(self, running: Running, client: httpx.AsyncClient) -> None:
        self.running = running
        self.client = client

    async def ask(
        self, method: str, path: str, *, as_: str | None = "alice", **more: Any
    ) -> httpx.Response:
        """A request, as an account (None: without a token)."""
        headers = dict(more.pop("headers", {}))
        if as_ is not None:
            role: Role = "master" if as_ == "root" else "worker"
            headers["Authorization"] = f"Bearer {await self.running.token(as_, role=role)}"
        return await self.client.request(method, path, headers=headers, **more)

    async def meets(self, code: str, method: str, path: str, **more: Any) -> Met:
        """The same, refused with this code."""
        return Met(await self.ask(method, path, **more), code)

    async def works(self, method: str, path: str, **more: Any) -> Any:
        """The same, answered."""
        answer = await self.ask(method, path, **more)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def claw(self, words: list[str], *, as_: str) -> int:
        """A command line in a thread; gives its exit code."""
        role: Role = "master" if as_ == "root" else "worker"
        token = await self.running.token(as_, role=role)
        words = ["--server", self.running.url, "--token", token, *words]
        return await asyncio.to_thread(main, words)


@asynccontextmanager
async def place(*args: Any, **named: Any) -> AsyncIterator[Place]:
    """A hub of a scenario's own; arguments as of running_hub."""
    async with (
        running_hub(*args, **named) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=20) as client,
    ):
        yield Place(running, client)


@pytest.fixture(autouse=True)
def home(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's user is read or changed."""
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("CLAWNET_SERVER", "CLAWNET_TOKEN", "CLAWNET_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
