"""The calls to the hub that the connections of a door wait for, and who owns them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class CallOwner:
    """A door as the owner of calls that wait: they end with it at the latest."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a call to the hub that waits. The work answers for itself and does not raise."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """End the calls that still wait."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
