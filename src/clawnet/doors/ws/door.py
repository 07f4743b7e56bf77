"""The native WebSocket door: takes upgrades, and holds what its connections share."""

from __future__ import annotations

import logging
from urllib.parse import parse_qs

from clawnet.core.errors import BadRequest
from clawnet.doors.calls import CallOwner
from clawnet.doors.connections import Connections, Standing
from clawnet.doors.protocol import Refusal, Upgrade, bearer_of
from clawnet.doors.ws.connection import LiveConnection
from clawnet.doors.ws.handshake import accept
from clawnet.doors.ws.socket import SocketDoor
from clawnet.hub.hub import Hub

PATH = "/api/v1/events/stream"

_log = logging.getLogger(__name__)


class WebSocketDoor(SocketDoor, CallOwner):
    """Give its take() to the seam as the door of PATH. One for each server."""

    def __init__(self, hub: Hub, connections: Connections) -> None:
        SocketDoor.__init__(self, connections)
        CallOwner.__init__(self)
        self.hub = hub

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


def _check_query(query: str) -> None:
    for name, values in parse_qs(query, keep_blank_values=True).items():
        if name != "format":
            raise BadRequest(
                f"There is no parameter {ascii(name[:80])} here.",
                next="Send subscribe, and auth if there is no Authorization header, as messages.",
            )
        if values != ["native"]:
            raise BadRequest("Only the format native is offered yet.", next="Leave format out.")
