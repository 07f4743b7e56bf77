"""The native WebSocket door: takes upgrades, and holds what its connections share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any
from urllib.parse import parse_qs

from clawnet.core.errors import BadRequest
from clawnet.doors.connections import Connections, Standing
from clawnet.doors.protocol import Refusal, Upgrade, bearer_of
from clawnet.doors.ws.connection import LiveConnection
from clawnet.doors.ws.handshake import accept
from clawnet.doors.ws.socket import SocketConnection
from clawnet.hub.hub import Hub

PATH = "/api/v1/events/stream"

_log = logging.getLogger(__name__)


class WebSocketDoor:
    """Give its take() to the seam as the door of PATH. One for each server."""

    def __init__(self, hub: Hub, connections: Connections) -> None:
        self.hub = hub
        self.connections = connections
        self.settings = connections.settings
        self.loop = asyncio.get_running_loop()
        self._to_flush: list[SocketConnection] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, upgrade: Upgrade) -> LiveConnection | Refusal:
        """A connection for an upgrade request, or a refusal.

        Raises BadRequest for an unknown format and Unauthenticated for a token
        that is not valid: a wrong token is told before the connection stands.
        """
        _check_query(upgrade.query)
        response = accept(upgrade)
        if isinstance(response, Refusal):
            return response
        token = bearer_of(upgrade.headers)
        caller = None if token is None else self.hub.authenticate(token)
        connection = LiveConnection(
            self,
            handshake=response,
            address=upgrade.admitted.client,
            standing=Standing.SILENT if caller is None else Standing.KNOWN,
            is_local=upgrade.admitted.is_local,
        )
        if caller is not None:
            connection.open(caller)
        return connection

    def flush_soon(self, connection: SocketConnection) -> None:
        """Have the connection's answers written, joined, at the end of this turn."""
        if not self._to_flush:
            self.loop.call_soon(self._flush)
        self._to_flush.append(connection)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a call to the hub that waits. The work answers for itself and does not raise."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End the calls that still wait."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _flush(self) -> None:
        connections, self._to_flush = self._to_flush, []
        for connection in connections:
            connection.flush()


def _check_query(query: str) -> None:
    for name, values in parse_qs(query, keep_blank_values=True).items():
        if name != "format":
            raise BadRequest(
                f"There is no parameter {ascii(name[:80])} here.",
                next="Send subscribe, and auth if there is no Authorization header, as messages.",
            )
        if values != ["native"]:
            raise BadRequest("Only the format native is offered yet.", next="Leave format out.")
