"""The HTTP API of a Centrifugo, as far as the bridge speaks it: batches, and what came of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from clawnet.core.errors import BadConfiguration

Command = dict[str, Any]
"""One method with its request: `{"publish": {…}}`."""

ANSWER_MAX_BYTES = 8_388_608
TRY_AGAIN_CODES = frozenset({100, 111, 113})
"""Centrifugo's errors that pass by themselves: internal, too many requests, conflict."""
NEVER_STATUSES = frozenset({400, 413, 414, 415, 422})
"""Of a request that would fail alike for ever."""


class Down(Exception):
    """It did not answer, or with what will not stay so: to be tried again."""


class Rejected(Exception):
    """It understood, and the same request will never pass."""


class ReplyError(msgspec.Struct, frozen=True, kw_only=True):
    """Why one command failed."""

    code: int = 100
    message: str = ""
    temporary: bool = False

    @property
    def is_passing(self) -> bool:
        return self.temporary or self.code in TRY_AGAIN_CODES


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """One client of a channel."""

    user: str = ""


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """Who follows a channel, by client."""

    presence: dict[str, Presence] = {}


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one command. Results are looked at only where they say something."""

    error: ReplyError | None = None
    presence: Present | None = None


class _Replies(msgspec.Struct, frozen=True, kw_only=True):
    replies: list[Reply]


_replies = msgspec.json.Decoder(_Replies)
_encode = msgspec.json.Encoder().encode


class Centrifugo:
    """A client of one. Raises BadConfiguration for what is no URL."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None,
        timeout_s: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`transport` is for tests: what stands at the other end."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise BadConfiguration(
                "bridge.centrifugo_url is not an http or https URL.",
                next="Give the API's address: http://centrifugo:8000/api.",
            )
        if not key:
            raise BadConfiguration(
                "bridge.centrifugo_url is set, and centrifugo.api_key is not.",
                next="Give the hub the key of that Centrifugo's API (CENTRIFUGO_API_KEY).",
            )
        self._url = f"{url.rstrip('/')}/batch"
        self._timeout_s = timeout_s
        self._headers = {"X-API-Key": key, "Content-Type": "application/json"}
        self._transport = transport
        self._client: httpx.AsyncClient | None = None

    async def batch(self, commands: Sequence[Command], *, parallel: bool = False) -> list[Reply]:
        """Run commands; one reply for each, in order. Raises Down, Rejected."""
        body = _encode({"commands": commands, "parallel": parallel})
        try:
            async with asyncio.timeout(self._timeout_s):
                status, answer = await self._post(body)
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL) as error:
            raise Down(f"{type(error).__name__}: {ascii(str(error)[:200])}") from None
        if status in NEVER_STATUSES:
            raise Rejected(f"HTTP status {status}")
        if status != 200:
            raise Down(f"HTTP status {status}")
        try:
            replies = _replies.decode(answer).replies
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            raise Down("its answer is none of Centrifugo's") from None
        if len(replies) != len(commands):
            raise Down("it answered something else than was asked")
        return replies

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        if self._client is None:
            # No redirect is followed, no proxy of the environment used: the key goes there only.
            self._client = httpx.AsyncClient(
                headers=self._headers,
                timeout=self._timeout_s,
                follow_redirects=False,
                trust_env=False,
                transport=self._transport,
            )
        async with self._client.stream("POST", self._url, content=body) as response:
            answer = bytearray()
            async for piece in response.aiter_bytes():
                answer += piece
                if len(answer) > ANSWER_MAX_BYTES:
                    raise Down("its answer is too large")
            return response.status_code, bytes(answer)

    async def close(self) -> None:
        """Let the connections go; the next batch opens others."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
