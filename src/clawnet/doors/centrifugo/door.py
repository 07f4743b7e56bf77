"""The Centrifugo door: what its connections share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from msgspec import Raw

from clawnet.core.callers import Caller
from clawnet.core.live import Shape
from clawnet.doors.calls import CallOwner
from clawnet.doors.centrifugo.api_methods import ServerApi
from clawnet.doors.centrifugo.clients import Clients
from clawnet.doors.centrifugo.delta import Deltas
from clawnet.doors.centrifugo.json import JsonEncoding
from clawnet.doors.centrifugo.protobuf import ProtobufEncoding
from clawnet.doors.centrifugo.settings import CentrifugoSettings
from clawnet.doors.centrifugo.shapes import EventShape
from clawnet.doors.centrifugo.socket import Sockets
from clawnet.doors.centrifugo.tokens import Tokens
from clawnet.doors.centrifugo.uni_socket import UNI_PATH, UniSockets
from clawnet.doors.centrifugo.wire import Encoding
from clawnet.doors.connections import Connections
from clawnet.doors.ws.frames import binary_frame, text_frame
from clawnet.hub.hub import Hub

if TYPE_CHECKING:
    from clawnet.doors.protocol import UpgradeDoor

PATH = "/connection/websocket"

RpcHandler = Callable[[Caller, Raw], Awaitable[Raw]]


class CentrifugoDoor(CallOwner):
    """One for each server. `upgrades` are its WebSocket paths, `rpc` the methods that clients may
    call, `node` is what the hub calls itself on this wire."""

    def __init__(self, hub: Hub, connections: Connections, settings: CentrifugoSettings) -> None:
        super().__init__()
        self.hub = hub
        self.connections = connections
        self.settings = settings
        self.node = hub.randomness.token_bytes(16).hex()
        self.clients = Clients()
        self.tokens = Tokens(hub, settings)
        self.api = ServerApi(self)
        self.warned_s: float | None = None
        """When it was last logged that somebody asks a proxy without the secret."""
        self.rpc: dict[str, RpcHandler] = {}
        self.encodings: dict[str, Encoding] = {
            "json-ws": JsonEncoding(text_frame),
            "protobuf-ws": ProtobufEncoding(binary_frame),
        }
        self.sockets = Sockets(self)
        self.upgrades: dict[str, UpgradeDoor] = {
            PATH: self.sockets.take,
            UNI_PATH: UniSockets(self, self.sockets).take,
        }
        self._shapes: dict[tuple[str, bool], Shape] = {}
        self._deltas: dict[tuple[str, bool], Deltas] = {}

    def shape(self, encoding: Encoding, *, is_raw: bool) -> Shape:
        """How events look on connections of a kind; one object for all of them."""
        shape = self._shapes.get((encoding.key, is_raw))
        if shape is None:
            shape = EventShape(encoding, is_raw, self.hub)
            self._shapes[encoding.key, is_raw] = shape
        return shape

    def deltas(self, encoding: Encoding, *, is_raw: bool) -> Deltas:
        """The same for who asked for patches."""
        deltas = self._deltas.get((encoding.key, is_raw))
        if deltas is None:
            deltas = self._deltas[encoding.key, is_raw] = Deltas(encoding, is_raw, self.hub)
        return deltas
