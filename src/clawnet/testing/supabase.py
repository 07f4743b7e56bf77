"""A Supabase for tests: what PostgREST answers for the table of deploy/supabase/schema.sql.

It upserts by id and keeps the order of first inserts, as the real one does with its identity
column, filters by `eq.`, orders by n and cuts. `trouble` lets it misbehave.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import httpx

from clawnet.testing.listening import Listening

KEY = "service-role-key"
PATH = "/rest/v1/clawnet_events"
COLUMNS = frozenset(
    "id world channel channel_offset epoch seq ts type actor correlation_id event".split()
)

Trouble = Literal["down", "failing", "half", "nonsense"]
"""`half` stores what it is given and then fails, as a lost answer looks."""


class FakeSupabase(Listening):
    """`rows` by id, in the order of their first insert."""

    def __init__(self) -> None:
        super().__init__()
        self.url = "http://supabase.test"
        self.rows: dict[str, dict[str, Any]] = {}
        self.trouble: Trouble | None = None
        self.asked = 0

    @property
    def events(self) -> list[dict[str, Any]]:
        return [row["event"] for row in self.rows.values()]

    def transport(self) -> httpx.MockTransport:
        """The same answers without a network."""

        async def handle(request: httpx.Request) -> httpx.Response:
            if self.trouble == "down":
                raise httpx.ConnectError("refused")
            headers = {name.lower(): value for name, value in request.headers.items()}
            target = request.url.raw_path.decode()
            status, body = self.answer(request.method, target, headers, request.content)
            return httpx.Response(status, content=body)

        return httpx.MockTransport(handle)

    def answer(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes]:
        """Status and body."""
        self.asked += 1
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if self.trouble in ("failing", "down"):
            return 503, b'{"message":"the database is away"}'
        if self.trouble == "nonsense":
            return 200, b"<!doctype html>"
        if headers.get("apikey") != KEY or headers.get("authorization") != f"Bearer {KEY}":
            return 401, b'{"message":"Invalid API key"}'
        if parts.path != PATH:
            return 404, b'{"message":"Could not find the table"}'
        if method == "POST":
            return self._upsert(query, headers, body)
        if method == "GET":
            return self._select(query)
        return 405, b"{}"

    def _upsert(
        self, query: dict[str, str], headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes]:
        rows = json.loads(body)
        ids = [row["id"] for row in rows]
        if len(set(ids)) != len(ids):
            # As PostgreSQL: ON CONFLICT DO UPDATE command cannot affect row a second time.
            return 500, b'{"code":"21000"}'
        if any(set(row) - COLUMNS for row in rows):
            return 400, b'{"code":"PGRST204"}'
        merges = "resolution=merge-duplicates" in headers.get("prefer", "")
        is_known = any(id_ in self.rows for id_ in ids)
        if is_known and not (merges and query.get("on_conflict") == "id"):
            return 409, b'{"code":"23505"}'
        for row in rows:
            self.rows.setdefault(row["id"], {}).update(row)
        if self.trouble == "half":
            return 502, b"{}"
        return 201, b""

    def _select(self, query: dict[str, str]) -> tuple[int, bytes]:
        rows = list(self.rows.values())
        if query.get("order") == "n.desc":
            rows.reverse()
        for name, wanted in query.items():
            if wanted.startswith("eq."):
                rows = [row for row in rows if row[name] == wanted[3:]]
        start = int(query.get("offset", "0"))
        rows = rows[start : start + int(query.get("limit", "1000"))]
        columns = query["select"].split(",")
        # As a column of the type json: letter for letter, of what was compact.
        chosen = [{name: row[name] for name in columns} for row in rows]
        return 200, json.dumps(chosen, separators=(",", ":"), ensure_ascii=False).encode()

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        self.url = f"http://127.0.0.1:{await self.listen()}"

    async def respond(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        asked: tuple[str, str, dict[str, str], bytes],
    ) -> None:
        status, answer = self.answer(*asked)
        head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(answer)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + answer)


@asynccontextmanager
async def fake_supabase() -> AsyncIterator[FakeSupabase]:
    """One that listens until the block ends."""
    supabase = FakeSupabase()
    await supabase.start()
    try:
        yield supabase
    finally:
        await supabase.stop()
