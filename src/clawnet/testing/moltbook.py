"""A Moltbook for tests: a small HTTP server on a free port, with what the real one answers.

It has agents with profiles and posts and gives out identity tokens. `trouble` lets it misbehave:
be slow, be down, answer with far too much, with something else, or redirect as its bare domain.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import httpx

from clawnet.testing.listening import Listening

PATH = "/api/v1"
KEY = "moltbook_key_of_the_hub"
APP_KEY = "moltdev_key_of_the_hub"
CHUNK_BYTES = 16_384

Trouble = Literal[
    "slow", "failing", "large", "large_unannounced", "nonsense", "other_json", "redirect",
    "limited", "says_failed", "compressed",
]  # fmt: skip


@dataclass
class FakeAgent:
    """An agent as its profile shows it. A post is a text, or a dict as the API has them."""

    name: str
    description: str = ""
    posts: list[Any] = field(default_factory=list)


@dataclass
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class FakeMoltbook(Listening):
    """`url` is what identity.moltbook_url is set to; `asked` is every request that came."""

    def __init__(self) -> None:
        super().__init__()
        self.url = ""
        self.agents: dict[str, FakeAgent] = {}
        self.tokens: dict[str, tuple[str, str]] = {}
        self.trouble: Trouble | None = None
        self.shown_instead: str | None = None
        """An agent whose profile is shown whoever is asked for."""
        self.held: asyncio.Event | None = None
        """Through transport(): no answer before this is set."""
        self.asked: list[Asked] = []
        self.taken_bytes = 0
        """Through transport(): so much of its bodies was read."""

    # --- what tests do with it ----------------------------------------------

    def agent(self, name: str, description: str = "", *, posts: tuple[Any, ...] = ()) -> FakeAgent:
        """An agent that is there from now on. Names differ in more than their case."""
        made = FakeAgent(name, description, list(posts))
        self.agents[name.lower()] = made
        return made

    def identity_token(self, name: str, *, audience: str) -> str:
        """As POST /agents/me/identity-token would give it to that agent."""
        token = f"idt_{len(self.tokens)}_{name}"
        self.tokens[token] = (name, audience)
        return token

    async def start(self, port: int = 0) -> None:
        """Listen; on the same port again after stop(), if it is given."""
        self.url = f"http://127.0.0.1:{await self.listen(port)}{PATH}"

    def transport(self) -> httpx.MockTransport:
        """The same answers without a network, for tests in which no time passes."""
        return httpx.MockTransport(self._handle)

    # --- what it answers ----------------------------------------------------

    def answer(self, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        self.asked.append(asked)
        json_type = {"content-type": "application/json"}
        match self.trouble:
            case "failing":
                return 503, json_type, _error("Service unavailable", "Try again later")
            case "limited":
                return 429, {**json_type, "retry-after": "30"}, _error("Too many requests", "Wait")
            case "redirect":
                target = f"http://www.moltbook.invalid{asked.path}"
                return 307, {"location": target}, b"Redirecting..."
            case "large" | "large_unannounced":
                padded = {"success": True, "agent": {"name": "x", "description": "y" * 1_000_000}}
                return 200, json_type, json.dumps(padded).encode()
            case "nonsense":
                return 200, {"content-type": "text/html"}, b"<!doctype html><p>Hello"
            case "other_json":
                return 200, json_type, b'[{"agent": 1}]'
            case "says_failed":
                agent = {"name": asked.query.get("name", "x"), "description": "?"}
                failed = {"success": False, "error": "Something went wrong", "agent": agent}
                return 200, json_type, json.dumps(failed).encode()
            case "compressed":
                return 200, {**json_type, "content-encoding": "br"}, b"\x0b\x02\x80{}\x03"
        if (asked.method, asked.path) == ("GET", f"{PATH}/agents/profile"):
            return self._profile(asked)
        if (asked.method, asked.path) == ("POST", f"{PATH}/agents/verify-identity"):
            return self._verify(asked)
        return 404, json_type, _error("Not found", "Look at skill.md")

    def _profile(self, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        headers = {"content-type": "application/json"}
        if asked.headers.get("authorization") != f"Bearer {KEY}":
            return 401, headers, _error("No API key provided", "Authorization: Bearer YOUR_KEY")
        name = asked.query.get("name", "")
        if self.shown_instead is not None:
            name = self.shown_instead
        agent = self.agents.get(name.lower())
        if agent is None:
            return 404, headers, _error("Bot not found", "Check the name")
        posts = [
            post
            if isinstance(post, dict)
            else {"id": str(n), "title": "A post", "content": post, "upvotes": n}
            for n, post in enumerate(agent.posts)
        ]
        profile = {
            "success": True,
            "agent": {
                "name": agent.name,
                "description": agent.description,
                "is_claimed": True,
                "karma": 7,
            },
            "recentPosts": posts,
        }
        return 200, headers, json.dumps(profile).encode()

    def _verify(self, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        headers = {"content-type": "application/json"}
        if asked.headers.get("x-moltbook-app-key") != APP_KEY:
            return 401, headers, _error("Missing app key", "X-Moltbook-App-Key")
        name, audience = self.tokens.get(asked.body.get("token"), ("", ""))
        if not name or audience != asked.body.get("audience"):
            told = {"success": False, "valid": False, "error": "invalid_token", "hint": "Get one"}
            return 401, headers, json.dumps(told).encode()
        told = {"success": True, "valid": True, "agent": {"name": name, "karma": 7}}
        return 200, headers, json.dumps(told).encode()

    # --- how it answers -----------------------------------------------------

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        if self._server is None and self.url == "down":
            raise httpx.ConnectError("refused")
        if self.held is not None:
            await self.held.wait()
        headers = {name.lower(): value for name, value in request.headers.items()}
        target = request.url.raw_path.decode()
        status, shown, body = self.answer(_asked(request.method, target, headers, request.content))
        if self.trouble != "large_unannounced":
            shown = {**shown, "content-length": str(len(body))}
        return httpx.Response(status, headers=shown, stream=_Taken(self, body))

    async def respond(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        asked: tuple[str, str, dict[str, str], bytes],
    ) -> None:
        if self.trouble == "slow":
            # Until the client gives up.
            await reader.read()
            return
        status, shown, answer = self.answer(_asked(*asked))
        if self.trouble != "large_unannounced":
            shown = {**shown, "content-length": str(len(answer))}
        text = "".join(f"{name}: {value}\r\n" for name, value in shown.items())
        writer.write(f"HTTP/1.1 {status} X\r\n{text}connection: close\r\n\r\n".encode())
        for at in range(0, len(answer), CHUNK_BYTES):
            writer.write(answer[at : at + CHUNK_BYTES])
            await writer.drain()


class _Taken(httpx.AsyncByteStream):
    """A body that counts what is read of it."""

    def __init__(self, moltbook: FakeMoltbook, body: bytes) -> None:
        self._moltbook = moltbook
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self._body), CHUNK_BYTES):
            part = self._body[at : at + CHUNK_BYTES]
            self._moltbook.taken_bytes += len(part)
            yield part


@asynccontextmanager
async def fake_moltbook() -> AsyncIterator[FakeMoltbook]:
    """One that listens until the block ends."""
    moltbook = FakeMoltbook()
    await moltbook.start()
    try:
        yield moltbook
    finally:
        await moltbook.stop()


def _asked(method: str, target: str, headers: dict[str, str], body: bytes) -> Asked:
    parts = urlsplit(target)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return Asked(method, parts.path, query, headers, json.loads(body) if body else None)


def _error(error: str, hint: str) -> bytes:
    return json.dumps({"success": False, "error": error, "hint": hint}).encode()
