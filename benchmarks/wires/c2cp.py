"""C2CP over Socket.IO and WebSocket: agents of the hub, and the peers that are acknowledged.

The mask key is zero: a frame is then made by putting pieces together, and an acknowledgement of
each message by each receiver costs the generator next to nothing.
"""

import json
from collections.abc import Iterator
from typing import Any, ClassVar

from benchmarks.wires.websocket import CLOSE, TEXT, read_frame, shake_hands
from benchmarks.wires.wire import Connection

PATH = "/socket.io/?EIO=4&transport=websocket"
REFUSED = b'"ok":false'


def clear(payload: bytes) -> bytes:
    """A whole text frame of a client, masked with zeros."""
    size = len(payload)
    if size < 126:
        return b"\x81" + bytes((0x80 | size,)) + b"\0\0\0\0" + payload
    if size < 65_536:
        return b"\x81\xfe" + size.to_bytes(2, "big") + b"\0\0\0\0" + payload
    return b"\x81\xff" + size.to_bytes(8, "big") + b"\0\0\0\0" + payload


PONG = clear(b"3")


def event(name: str, said: Any, id: int | None = None) -> bytes:
    """A frame with an event; with an id, the server is to acknowledge it."""
    number = b"" if id is None else b"%d" % id
    body = json.dumps(said, separators=(",", ":")).encode()
    return clear(b'42%b["%b",%b]' % (number, name.encode(), body))


def acks(ids: list[bytes]) -> bytes:
    """The frames with the callbacks of these ids."""
    size = len(ids[0]) if ids else 0
    if any(len(one) != size for one in ids):
        return b"".join([clear(b"43%b[]" % one) for one in ids])
    # Measured: 0.1 µs each; one by one they cost 0.7.
    head = b"\x81" + bytes((0x80 | (size + 4),)) + b"\0\0\0\x0043"
    return head + (b"[]" + head).join(ids) + b"[]" if ids else b""


class Stream:
    """What a server sends on one connection, cut into Engine.IO messages."""

    __slots__ = ("bytes", "tail")

    def __init__(self, unread: bytes = b"") -> None:
        self.tail = unread
        self.bytes = len(unread)

    def take(self, data: bytes) -> Iterator[bytes]:
        """The messages that are whole now. Raises ConnectionError if the server closes."""
        self.bytes += len(data)
        if self.tail:
            data = self.tail + data
        at, end = 0, len(data)
        while end - at >= 2:
            size, body = data[at + 1], at + 2
            if size == 126:
                if end - at < 4:
                    break
                size, body = data[at + 2] << 8 | data[at + 3], at + 4
            elif size == 127:
                if end - at < 10:
                    break
                size, body = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if body + size > end:
                break
            if data[at] & 15 == CLOSE:
                raise ConnectionError(f"closed by the server: {data[body : body + size]!r}")
            at, message = body + size, data[body : body + size]
            yield message
        self.tail = data[at:]


class Acked:
    """One protocol of messages that every receiver acknowledges by the Socket.IO callback."""

    opening: ClassVar[bytes]
    """How a message begins behind its id."""

    def __init__(self, *, port: int, token: str = "", topic: str = "bench") -> None:
        self.port = port
        self.token = token
        self.topic = topic

    def receiver(self, number: int) -> Connection:
        """A connection that is given all that is said from now on."""
        raise NotImplementedError

    def sender(self) -> Connection:
        """One that may speak."""
        raise NotImplementedError

    def message(self, number: int, text: str) -> bytes:
        """A frame that says something, with the acknowledgement id `number`."""
        raise NotImplementedError

    def enter(self, auth: dict[str, Any] | None = None) -> Connection:
        """Connect to the namespace `/`."""
        connection = Connection(self.port)
        shake_hands(connection, PATH)
        self.wait_for(connection, b"0")
        connection.send(clear(b"40" + (json.dumps(auth).encode() if auth else b"")))
        self.wait_for(connection, b"40")
        return connection

    @staticmethod
    def wait_for(connection: Connection, mark: bytes) -> bytes:
        """Read on to the message that begins so. Raises ConnectionError at a refusal."""
        while True:
            opcode, payload = read_frame(connection)
            if opcode == TEXT and payload.startswith(mark):
                return payload
            if opcode != TEXT or payload.startswith((b"44", b"41", b'42["error"')):
                raise ConnectionError(f"expected {mark!r}, was given {payload[:300]!r}")


class C2cp(Acked):
    """Agents that speak version 2 and enrol by the secret; the token is that secret."""

    opening = b'["chat_message",{"self":false'

    def agent(
        self, name: str, *, version: int = 2, role: str = "worker", **more: Any
    ) -> Connection:
        """An agent that is in, and of v2 has begun."""
        auth = {"token": self.token, "agent_id": name, "role": role, "protocol": version, **more}
        connection = self.enter(auth)
        if version == 2:
            self.wait_for(connection, b'42["session",')
        return connection

    def receiver(self, number: int) -> Connection:
        return self.agent(f"{self.topic}-r{number}")

    def sender(self) -> Connection:
        return self.agent(f"{self.topic}-s")

    def message(self, number: int, text: str) -> bytes:
        said = {
            "to_type": "global",
            "to_id": "",
            "payload": {"text": text},
            "dedupe_key": f"{self.topic}.{number}",
        }
        return event("chat_send", said, number)


class Relayed(Acked):
    """A relay of python-socketio: `pub` from one is the event `msg` for all in the room."""

    opening = b'["msg",'

    def receiver(self, number: int) -> Connection:
        connection = self.enter()
        connection.send(clear(b'421["sub"]'))
        self.wait_for(connection, b"431")
        return connection

    def sender(self) -> Connection:
        return self.enter()

    def message(self, number: int, text: str) -> bytes:
        return event("pub", {"text": text}, number)


ACKED: dict[str, type[Acked]] = {"c2cp": C2cp, "relayed": Relayed}
