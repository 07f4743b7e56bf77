"""Keeps the publishes of one connection to one channel in order while interceptors think."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from clawnet.core.errors import Unavailable

WAITING_MAX = 1_024

Work = Callable[[], Coroutine[Any, Any, None]]


class Lane:
    """One for each connection (or HTTP request). Work on one channel runs one after the other."""

    __slots__ = ("_queues",)

    def __init__(self) -> None:
        self._queues: dict[str, deque[Work]] = {}

    def is_busy(self, channel: str) -> bool:
        """Whether something on this channel is still being decided, so that others must wait."""
        return channel in self._queues

    def put(self, channel: str, work: Work, spawn: Callable[..., asyncio.Task[None]]) -> None:
        """Run `work` after all earlier work on the channel. Raises Unavailable when full."""
        queue = self._queues.get(channel)
        if queue is not None:
            if len(queue) >= WAITING_MAX:
                raise Unavailable(
                    "Too many publishes of this connection wait for interceptors.",
                    retry_after_s=0.5,
                )
            queue.append(work)
            return
        self._queues[channel] = deque([work])
        spawn(self._run(channel))

    async def _run(self, channel: str) -> None:
        queue = self._queues[channel]
        try:
            while queue:
                await queue[0]()
                queue.popleft()
        finally:
            del self._queues[channel]
            # Only at the end of the hub (this task is cancelled) is anything left. It cannot be
            # stored any more, but each sender must be answered; that waits for nothing.
            for work in list(queue)[1:]:
                await work()
