"""A hub as a process for all tests here, accounts on it, and the clients that speak to it."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.cli.program import HubProcess, Program
from tests.clients.node import Node, NoNode, node

KEY = "a key that the application shares with the hub, and nobody else"
API_KEY = "the key of the application's backend"
CONFIG = f"""
dev = true

[limits]
enabled = false

[tokens]
jwt_key = "{KEY}"

[centrifugo]
api_key = "{API_KEY}"
anonymous = true

[channels.namespaces.open]
publish = "accounts"
read = "accounts"
history = "accounts"
presence = "accounts"
force_push_join_leave = true
allowed_delta_types = ["fossil"]

[channels.namespaces.world]
publish = "anyone"
read = "anyone"

[channels.namespaces.closed]
"""


class Hub:
    """A hub, its accounts and its tokens."""

    def __init__(self, folder: Path) -> None:
        program = Program(folder / "home")
        config = folder / "home" / "config" / "clawnet"
        config.mkdir(parents=True)
        (config / "config.toml").write_text(CONFIG)
        self.process = HubProcess(program, folder / "data")
        self.process.start()
        self._tokens: dict[str, str] = {}

    @property
    def url(self) -> str:
        return self.process.url

    def end(self) -> None:
        self.process.program.end()

    def restart(self) -> None:
        """Stopped in order, and started again at the same address."""
        self.process.stop()
        self.process.start()

    def ask(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> Any:
        """One request to the hub; the admin's, unless another token is given."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {token or self.process.admin_token}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=15) as answer:
            return json.loads(answer.read() or b"null")

    def token(self, account: str) -> str:
        """A token of an account, which is made if need be."""
        if account not in self._tokens:
            self.ask("POST", "/api/v1/accounts", {"id": account})
            made = self.ask("POST", "/api/v1/tokens", {"account": account})
            self._tokens[account] = made["token"]
        return self._tokens[account]

    def api(self, method: str, body: Any) -> Any:
        """A call of the server API, as an application's backend makes it."""
        request = urllib.request.Request(
            f"{self.url}/api/{method}",
            data=json.dumps(body).encode(),
            headers={"X-API-Key": API_KEY, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=15) as answer:
            return json.loads(answer.read())

    def publish(self, account: str, channel: str, *values: Any) -> None:
        """Published by the hub's own interface, all in one."""
        events = [{"channel": channel, "data": value} for value in values]
        path = "/api/v1/events/batch"
        self.ask("POST", path, {"events": events}, token=self.token(account))


def foreign(sub: str, *, lasts_s: float | None = 3600, **claims: Any) -> str:
    """A token that the application signed itself."""
    if lasts_s is not None:
        claims["exp"] = int(time.time() + lasts_s)
    return jwt.encode({"sub": sub, **claims}, KEY, algorithm="HS256")


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The hub of all tests that leave it running."""
    made = Hub(tmp_path_factory.mktemp("hub"))
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def own_hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub of one test, that it may stop."""
    made = Hub(tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(scope="session")
def _nodes() -> Iterator[list[Node]]:
    nodes: list[Node] = []
    yield nodes
    for one in nodes:
        one.stop()


@pytest.fixture
def js(_nodes: list[Node]) -> Node:
    """The npm client. Its process serves several tests; clients have names of their own."""
    try:
        node()
    except NoNode as why:
        pytest.skip(str(why))
    if not _nodes or not _nodes[-1].is_alive:
        _nodes.append(Node())
    return _nodes[-1]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name for this test's client and channels that no other test has."""
    kept = [letter if letter.isalnum() else "-" for letter in request.node.name.lower()]
    return "".join(kept)[-50:].strip("-")
