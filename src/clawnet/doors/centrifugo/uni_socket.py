"""The unidirectional WebSocket: one ConnectRequest comes in, then only pushes go out."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import msgspec

from clawnet.core.errors import BadRequest
from clawnet.doors.centrifugo import codes
from clawnet.doors.centrifugo.backlog import check_size
from clawnet.doors.centrifugo.client import Client
from clawnet.doors.centrifugo.json import JsonEncoding
from clawnet.doors.centrifugo.protobuf import ProtobufEncoding, decode
from clawnet.doors.centrifugo.socket import SECRETS, CentrifugoSocket, Sockets
from clawnet.doors.centrifugo.wire import BadCommand, ConnectRequest, Encoding
from clawnet.doors.connections import Standing
from clawnet.doors.protocol import Refusal, Upgrade
from clawnet.doors.ws.frames import binary_frame, text_frame
from clawnet.doors.ws.handshake import accept
from clawnet.doors.ws.socket import SocketConnection

if TYPE_CHECKING:
    from clawnet.doors.centrifugo.door import CentrifugoDoor

UNI_PATH = "/connection/uni_websocket"

_decode = msgspec.json.Decoder(ConnectRequest)


def connect_request(message: bytes, *, is_protobuf: bool) -> ConnectRequest:
    """What a unidirectional client says, once. Raises BadCommand."""
    check_size(message)
    if is_protobuf:
        return decode(ConnectRequest, message)
    try:
        return _decode.decode(message)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadCommand(str(error).rstrip(".")[:200]) from None


class UniSockets:
    """Takes the upgrades of UNI_PATH. One for each door."""

    def __init__(self, door: CentrifugoDoor, sockets: Sockets) -> None:
        self._door = door
        self._sockets = sockets
        self._json = JsonEncoding(text_frame, is_uni=True)
        self._protobuf = ProtobufEncoding(binary_frame, is_uni=True)

    def take(self, upgrade: Upgrade) -> UniSocket | Refusal:
        """A connection for an upgrade request, or a refusal. Raises BadRequest."""
        query = parse_qs(upgrade.query, keep_blank_values=True)
        if any(name in query for name in SECRETS):
            raise BadRequest(
                "A token in the address is not accepted.", next="Send it in the connect request."
            )
        is_protobuf = "protobuf" in (*query.get("cf_protocol", ()), *query.get("format", ()))
        response = accept(upgrade)
        if isinstance(response, Refusal):
            return response
        return UniSocket(
            self._door,
            self._sockets,
            encoding=self._protobuf if is_protobuf else self._json,
            handshake=response,
            address=upgrade.admitted.client,
            is_local=upgrade.admitted.is_local,
            is_raw=query.get("envelope", [""])[-1] == "raw",
        )


class UniSocket(CentrifugoSocket):
    """A client that only listens. What it says after its ConnectRequest is passed over."""

    __slots__ = ("_is_asked",)

    def __init__(
        self,
        door: CentrifugoDoor,
        sockets: Sockets,
        *,
        encoding: Encoding,
        handshake: bytes,
        address: str | None,
        is_local: bool,
        is_raw: bool,
    ) -> None:
        # Not CentrifugoSocket's: that would make a client of the other kind.
        SocketConnection.__init__(
            self, sockets, handshake=handshake, address=address, standing=Standing.SILENT
        )
        self.encoding = encoding
        self._is_on_hold = False
        self._has_frame_pings = False
        self._is_asked = False
        self.client = Client(
            door,
            self,
            transport="uni_websocket",
            is_local=is_local,
            is_raw=is_raw,
            is_uni=True,
        )

    def _handle(self, message: bytes) -> None:
        if self._is_asked:
            return
        self._is_asked = True
        is_protobuf = isinstance(self.encoding, ProtobufEncoding)
        try:
            asked = connect_request(message, is_protobuf=is_protobuf)
        except BadCommand:
            self.client.disconnect(*codes.BAD_REQUEST)
            return
        self.client.connect_uni(asked)
