"""The Socket.IO door: one for both versions of C2CP, on /socket.io/."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from clawnet.core.live import End
from clawnet.doors.calls import CallOwner
from clawnet.doors.connections import Connections
from clawnet.doors.socketio.conversation import Conversations
from clawnet.doors.socketio.engine import CONNECT_MAX_S, Links
from clawnet.doors.socketio.link import ClientLink
from clawnet.doors.socketio.settings import SocketioSettings
from clawnet.doors.socketio.socket import Sockets
from clawnet.doors.socketio.talk import Link, Talk
from clawnet.hub.hub import Hub

if TYPE_CHECKING:
    from clawnet.doors.protocol import UpgradeDoor

PATH = "/socket.io/"


class SocketioDoor(CallOwner):
    """What its connections share. `talk` is what is said on them."""

    def __init__(self, hub: Hub, connections: Connections, settings: SocketioSettings) -> None:
        super().__init__()
        self.hub = hub
        self.connections = connections
        self.settings = settings
        self.links = Links(
            waiting_max=settings.clients_without_auth_max,
            links_max=connections.settings.connections_max,
        )
        self.talk: Callable[[Link], Talk] = Conversations(hub)
        self._sockets = Sockets(self)
        self.upgrades: dict[str, UpgradeDoor] = {
            PATH: self._sockets.take,
            PATH.rstrip("/"): self._sockets.take,
        }

    def open(self, *, address: str, is_local: bool) -> ClientLink:
        """A new session. Raises Unavailable where there is no room."""
        link = ClientLink(self, address=address, is_local=is_local)
        self.links.add(link)
        # on_time() asks for a CONNECT until there is one, then pings.
        self.connections.wheel.set(link, CONNECT_MAX_S)
        return link

    async def close(self) -> None:
        """End the sessions that poll, as the server ends the WebSockets, and what still waits."""
        for link in list(self.links.by_secret.values()):
            link.close(End.SHUTDOWN)
        await super().close()
