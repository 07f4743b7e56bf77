"""Events in Supabase, by PostgREST over HTTP; deploy/supabase/schema.sql makes the table."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec

from clawnet.connectors.warden.keeping import Down, blanked, blanks_of, row_of
from clawnet.core.events import Event

TABLE = "clawnet_events"
ROWS_AT_ONCE = 200
PAGE_ROWS = 500
TIMEOUT_S = 10.0
ANSWER_MAX_S = 60.0
"""However slowly an answer drips."""
ANSWER_MAX_BYTES = 33_554_432


class Supabase:
    """A Place. `url` is the project's (https://….supabase.co), `key` its service role key."""

    name = "supabase"

    def __init__(
        self, url: str, key: str, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._table = f"{url.rstrip('/')}/rest/v1/{TABLE}"
        self._client = httpx.AsyncClient(
            headers={"apikey": key, "authorization": f"Bearer {key}"},
            timeout=TIMEOUT_S,
            transport=transport,
            follow_redirects=False,
        )

    # --- Place --------------------------------------------------------------

    async def keep(self, events: Sequence[Event]) -> None:
        """Raises Down."""
        for start in range(0, len(events), ROWS_AT_ONCE):
            some = events[start : start + ROWS_AT_ONCE]
            # One statement cannot change a row twice.
            rows = {event.id: row_of(event) for event in some}
            await self._upsert(list(rows.values()))
        for gone in blanks_of(events):
            await self._blank(gone)

    async def newest(self, world: str, limit: int) -> list[Event]:
        """Raises Down."""
        found: list[Event] = []
        while len(found) < limit:
            query = {
                "select": "event",
                "world": f"eq.{world}",
                "order": "n.desc",
                "limit": str(min(PAGE_ROWS, limit - len(found))),
                "offset": str(len(found)),
            }
            page = await self._ask("GET", params=query)
            try:
                rows = msgspec.json.decode(page, type=list[_Row])
            except msgspec.MsgspecError:
                raise Down("Supabase answered something else than rows") from None
            found += [row.event for row in rows]
            if not rows:
                break
        found.reverse()
        return found

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.aclose()

    # --- inside -------------------------------------------------------------

    async def _upsert(self, rows: list[dict[str, Any]]) -> None:
        await self._ask(
            "POST",
            params={"on_conflict": "id"},
            content=msgspec.json.encode(rows),
            headers={
                "content-type": "application/json",
                "prefer": "resolution=merge-duplicates,return=minimal",
            },
        )

    async def _blank(self, id: str) -> None:
        page = await self._ask("GET", params={"select": "event", "id": f"eq.{id}"})
        try:
            rows = msgspec.json.decode(page, type=list[_Row])
        except msgspec.MsgspecError:
            raise Down("Supabase answered something else than rows") from None
        if rows and not rows[0].event.deleted:
            await self._upsert([row_of(blanked(rows[0].event))])

    async def _ask(self, method: str, **named: Any) -> bytes:
        try:
            async with (
                asyncio.timeout(ANSWER_MAX_S),
                self._client.stream(method, self._table, **named) as answer,
            ):
                body = b""
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > ANSWER_MAX_BYTES:
                        raise Down("Supabase answered far too much")
                if not answer.is_success:
                    raise Down(f"Supabase answered {answer.status_code}: {ascii(body[:200])}")
                return body
        except (httpx.HTTPError, TimeoutError) as error:
            raise Down(f"Supabase is not reached ({type(error).__name__})") from None


class _Row(msgspec.Struct, frozen=True):
    event: Event
