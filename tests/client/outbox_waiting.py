"""How tests of the outbox wait for what it does by itself."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from clawnet.client import Client
from clawnet.core.errors import ClawError


async def until(fact: Callable[[], Awaitable[bool] | bool]) -> None:
    """Let everything run until it is so; a timeout around it is the end of patience."""
    while True:
        answer = fact()
        if answer if isinstance(answer, bool) else await answer:
            return
        await asyncio.sleep(0)


async def flush_for_ever(client: Client) -> None:
    while True:
        with suppress(ClawError):
            await client.outbox.flush(1)
