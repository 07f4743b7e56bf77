"""A fresh hub with olga, greta, walt, wanda (warden) and max (master), and clients for them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import httpx

from clawnet.core.callers import HUB
from clawnet.hub.directory import Account, Token
from clawnet.hub.hub import Hub
from clawnet.testing.running import Running
from tests.rights import asking
from tests.rights.asking import Http, Socket
from tests.rights.population import Asker, say

ROLES = {"olga": "worker", "greta": "worker", "walt": "worker", "wanda": "warden", "max": "master"}


class World:
    """Tokens by account, and a client for whoever is asked for; closed with the test."""

    def __init__(self, running: Running, stack: AsyncExitStack) -> None:
        self.running = running
        self.hub: Hub = running.hub
        self.tokens: dict[str, str] = {}
        self.token_ids: dict[str, str] = {}
        self._stack = stack
        self._clients: dict[str, Http] = {}

    async def people(self) -> World:
        for who, role in ROLES.items():
            made = await self.running.new_token(who, role=role)  # type: ignore[arg-type]
            self.tokens[who], self.token_ids[who] = made.token, made.id
        return self

    def asker(self, who: str) -> Asker:
        """Someone by name, or `anyone` without a token; else the name is a token."""
        token = None if who == "anyone" else self.tokens.get(who, who)
        return Asker(who, self.running, token)

    async def http(self, who: str) -> Http:
        if who not in self._clients:
            self._clients[who] = await self._stack.enter_async_context(asking.http(self.asker(who)))
        return self._clients[who]

    async def socket(self, who: str) -> Socket:
        opened = await self._stack.enter_async_context(asking.socket(self.asker(who)))
        assert opened is not None, "the handshake was refused"
        return opened

    async def ask(self, who: str, method: str, path: str, body: Any = None) -> httpx.Response:
        client = await self.http(who)
        return await client.ask(method, f"/api/v1{path}", body)

    async def does(self, who: str, method: str, path: str, body: Any = None) -> Any:
        """ask() for what must succeed; the answer's body."""
        answer = await self.ask(who, method, path, body)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    async def publish(self, who: str, channel: str, data: Any) -> Any:
        return await self.does(who, "POST", f"/channels/{quote(channel)}/events", {"data": data})

    async def says(self, channel: str, text: str) -> None:
        """The hub itself says something there."""
        await self.hub.publish_wait(HUB, say(channel, text))

    async def grant(self, who: str, to: str, channel: str, *verbs: str) -> None:
        body: dict[str, Any] = {"account": to, "channel": channel}
        await self.does(who, "POST", "/grants", body | ({"verbs": verbs} if verbs else {}))

    async def revoke(self, who: str, to: str, channel: str) -> None:
        await self.does(who, "DELETE", "/grants", {"account": to, "channel": channel})

    async def revoke_token(self, whose: str) -> None:
        await self.does("max", "DELETE", f"/tokens/{self.token_ids[whose]}")

    async def stored(self, channel: str) -> list[Any]:
        """The data of all events of a channel, as the warden reads it."""
        page = await self.does("wanda", "GET", f"/channels/{quote(channel)}/events?limit=1000")
        return [event["data"] for event in page["events"]]

    def stranger(self, world: str, who: str, *, role: str = "worker") -> str:
        """Put an account of another world straight into the directory; its token."""
        directory, vault = self.hub.directory, self.hub.vault
        directory.put_account(
            Account(
                world=world, id=who, name=who, handle=who, role=role, kind="agent", created_ms=0
            )
        )
        text, hashed = vault.new_token()
        token_id = vault.new_id()
        directory.put_token(
            Token(
                id=token_id, hash=hashed, world=world, account=who, name="default", scopes=["*"],
                created_ms=0,
            )
        )  # fmt: skip
        self.token_ids[f"{who}@{world}"] = token_id
        self.tokens[f"{who}@{world}"] = text
        return f"{who}@{world}"
