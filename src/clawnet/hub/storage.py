"""Reads of the log from the loop: inline for engines that do not block, on a few threads else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from clawnet.ports.log import Engine

READERS = 2

T = TypeVar("T")


class Storage:
    """The engine's reads, awaitable. Writes go through hub.committer alone."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._pool: ThreadPoolExecutor | None = None
        if engine.is_blocking:
            self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="clawnet-reader")

    async def read(self, work: Callable[[Engine], T]) -> T:
        """Run one bounded read. What it returns may be old by the time it is here."""
        if self._pool is None:
            return work(self.engine)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, work, self.engine)

    def close(self) -> None:
        """Let running reads end."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
