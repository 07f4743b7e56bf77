"""The protocol on a WebSocket: /connection/websocket."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar
from urllib.parse import parse_qs

from clawnet.core.errors import BadRequest
from clawnet.core.live import End
from clawnet.doors.centrifugo import codes
from clawnet.doors.centrifugo.client import Client
from clawnet.doors.centrifugo.outlet import ClientOutlet
from clawnet.doors.centrifugo.wire import Encoding
from clawnet.doors.connections import Standing
from clawnet.doors.protocol import Refusal, Upgrade
from clawnet.doors.ws.handshake import accept
from clawnet.doors.ws.socket import SocketConnection, SocketDoor
from clawnet.hub.sessions import Session

if TYPE_CHECKING:
    from clawnet.doors.centrifugo.door import CentrifugoDoor

PROTOBUF = "centrifuge-protobuf"
SUBPROTOCOLS = (PROTOBUF, "centrifuge-json")
SECRETS = ("token", "access_token", "cf_connect")
"""Parameters that would put a token into the address, which is logged on its way."""


AT_ONCE_BYTES = 16_384
"""What is larger does not wait for the end of the turn, to be joined with the rest."""


class Sockets(SocketDoor):
    """What all WebSockets of this door share; takes their upgrades."""

    def __init__(self, door: CentrifugoDoor) -> None:
        super().__init__(door.connections)
        self.door = door

    def take(self, upgrade: Upgrade) -> CentrifugoSocket | Refusal:
        """A connection for an upgrade request, or a refusal. Raises BadRequest."""
        query = parse_qs(upgrade.query, keep_blank_values=True) if upgrade.query else {}
        if any(name in query for name in SECRETS):
            raise BadRequest(
                "A token in the address is not accepted.", next="Send it in the connect command."
            )
        chosen = _subprotocol(upgrade)
        is_protobuf = chosen == PROTOBUF or any(
            query.get(name, [""])[-1] == "protobuf" for name in ("cf_protocol", "format")
        )
        response = accept(upgrade, subprotocol=chosen)
        if isinstance(response, Refusal):
            return response
        return CentrifugoSocket(
            self,
            encoding=self.door.encodings["protobuf-ws" if is_protobuf else "json-ws"],
            handshake=response,
            address=upgrade.admitted.client,
            is_local=upgrade.admitted.is_local,
            is_raw=query.get("envelope", [""])[-1] == "raw",
            has_frame_pings=query.get("cf_ws_frame_ping_pong", [""])[-1] == "true",
        )


class CentrifugoSocket(ClientOutlet, SocketConnection):
    """A Wire for its client, an Outlet for the hub, a Connection for the registry."""

    __slots__ = ("_has_frame_pings", "_is_on_hold", "client", "encoding")

    OF_END: ClassVar = codes.OF_END

    def __init__(
        self,
        sockets: Sockets,
        *,
        encoding: Encoding,
        handshake: bytes,
        address: str | None,
        is_local: bool,
        is_raw: bool,
        has_frame_pings: bool = False,
    ) -> None:
        super().__init__(sockets, handshake=handshake, address=address, standing=Standing.SILENT)
        self.encoding = encoding
        self._is_on_hold = False
        self._has_frame_pings = has_frame_pings
        self.client = Client(
            sockets.door,
            self,
            transport="websocket",
            is_local=is_local,
            is_raw=is_raw,
            has_pings=not has_frame_pings,
        )

    # --- Wire ---------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """The transport is above its high-water mark."""
        return self._is_full

    def say(self, frames: bytes) -> None:
        """Queue an answer or a push behind what was said before in this turn."""
        self._say(frames)
        if len(frames) > AT_ONCE_BYTES:
            # The transport is to see now how much it is: the next command may be as much.
            self._write_out()

    def finish(self, code: int, reason: str) -> None:
        """Close, after what was said."""
        self._begin_close(code, reason)

    def hold(self) -> None:
        """Take no more messages until release()."""
        self._is_on_hold = True
        self._settle()

    def release(self) -> None:
        self._is_on_hold = False
        self._work_soon()

    def opened(self, session: Session, standing: Standing) -> None:
        """The client's session began."""
        self._session = session
        self._door.connections.promote(self, standing)
        if self._is_full:
            session.pause()

    # --- Outlet and Connection ----------------------------------------------

    def close(self, end: End) -> None:
        """End the connection with the code for the reason."""
        self.client.stop()
        SocketConnection.close(self, end)

    def on_time(self) -> float | None:
        """The client keeps the time itself, but for a close that is not answered and for pings
        of the WebSocket's own."""
        if self._is_ending or self._has_frame_pings:
            return SocketConnection.on_time(self)
        return None

    def abort(self) -> None:
        """Drop the connection and what is queued."""
        was_standing = self._transport is not None
        SocketConnection.abort(self)
        if not was_standing:
            self.client.lost()

    # --- what SocketConnection asks -----------------------------------------

    def _handle(self, message: bytes) -> None:
        self.client.hear(message)

    def resume_writing(self) -> None:
        """The client has taken what there was."""
        SocketConnection.resume_writing(self)
        self.client.go_on()

    def _is_waiting(self) -> bool:
        return self._is_on_hold

    def _over(self) -> None:
        self.client.lost()


def _subprotocol(upgrade: Upgrade) -> str | None:
    """The first of ours that the client offers."""
    offered = [
        text.strip()
        for name, value in upgrade.headers
        if name == b"sec-websocket-protocol"
        for text in value.decode("latin-1").split(",")
    ]
    return next((name for name in SUBPROTOCOLS if name in offered), None)
