"""The client side of each server's protocol, only as much as a load generator needs.

Frames are made by hand and whole, so that a publish costs the generator one
write. Reading counts messages; it does not decode them.
"""

from benchmarks.wires.centrifugo import Centrifugo, HeardByCentrifugo
from benchmarks.wires.mqtt import Mqtt
from benchmarks.wires.nats import JetStream, Nats
from benchmarks.wires.redis import Redis
from benchmarks.wires.websocket import Hub, PlainWebSocket, SocketIO
from benchmarks.wires.wire import Connection, Tally, Wire

__all__ = ["WIRES", "Connection", "Tally", "Wire"]

WIRES: dict[str, type[Wire]] = {
    "ws": PlainWebSocket,
    "hub": Hub,
    "centrifugo": Centrifugo,
    "heard-by-centrifugo": HeardByCentrifugo,
    "socketio": SocketIO,
    "redis": Redis,
    "nats": Nats,
    "jetstream": JetStream,
    "mqtt": Mqtt,
}
