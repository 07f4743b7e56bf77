"""WebSocket servers: the bare broadcasters, the hub, Socket.IO."""

import base64
import json
import os
from typing import Any, ClassVar

from benchmarks.wires.wire import Connection, Tally, Wire

MASK = b"\x5a\xc3\x17\x88"
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def masked(payload: bytes, opcode: int = TEXT) -> bytes:
    """A whole client frame. The mask is the same for all: its secrecy protects proxies only."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big")
    key = (MASK * (size // 4 + 1))[:size]
    body = int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")
    return head + MASK + body.to_bytes(size, "big")


def shake_hands(connection: Connection, path: str, *, token: str = "") -> None:
    """The opening handshake of RFC 6455; raises ConnectionError on a refusal."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    ]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    connection.send(("\r\n".join(lines) + "\r\n\r\n").encode())
    answer = connection.read_until(b"\r\n\r\n")
    if not answer.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(f"no WebSocket at {path}: {answer[:200]!r}")


def read_frame(connection: Connection) -> tuple[int, bytes]:
    """One server frame: opcode and payload."""
    head = connection.read(2)
    size = head[1] & 127
    if size == 126:
        size = int.from_bytes(connection.read(2), "big")
    elif size == 127:
        size = int.from_bytes(connection.read(8), "big")
    return head[0] & 15, connection.read(size)


def tally_frames(data: bytes | bytearray, mark: bytes = b"") -> Tally:
    """Count whole text frames, or those of them whose payload begins with `mark`."""
    at = messages = counted = 0
    end = len(data)
    while end - at >= 2:
        size = data[at + 1]
        body = at + 2
        if size == 126:
            if end - at < 4:
                break
            size = data[at + 2] << 8 | data[at + 3]
            body = at + 4
        elif size == 127:
            if end - at < 10:
                break
            size = int.from_bytes(data[at + 2 : at + 10], "big")
            body = at + 10
        after = body + size
        if after > end:
            break
        opcode = data[at] & 15
        if opcode == TEXT and data.startswith(mark, body):
            messages += 1
            counted += after - at
        elif opcode == CLOSE:
            raise ConnectionError(f"closed by the server: {bytes(data[body:after])!r}")
        at = after
    return Tally(messages, counted, at)


class PlainWebSocket(Wire):
    """A broadcaster: what is sent at /pub comes out at /sub as it is."""

    def publisher(self) -> Connection:
        connection = Connection(self.port)
        shake_hands(connection, "/pub")
        return connection

    def subscriber(self, number: int) -> Connection:
        connection = Connection(self.port)
        shake_hands(connection, "/sub")
        return connection

    def frame(self, payload: bytes) -> bytes:
        return masked(payload)

    def tally(self, data: bytes | bytearray) -> Tally:
        return tally_frames(data)


class Hub(Wire):
    """The hub's native WebSocket."""

    acks: ClassVar[int] = 1
    path: ClassVar[str] = "/api/v1/events/stream"

    @property
    def channel(self) -> str:
        return f"public.{self.topic}"

    def publisher(self) -> Connection:
        connection = Connection(self.port)
        shake_hands(connection, self.path, token=self.token)
        return connection

    def subscriber(self, number: int) -> Connection:
        connection = self.publisher()
        self.subscribe(connection)
        return connection

    def subscribe(self, connection: Connection, **more: Any) -> None:
        """Subscribe and wait for the answer; `more` goes into the command (`since`)."""
        command = {"action": "subscribe", "channels": [self.channel], "id": 1, **more}
        connection.send(masked(json.dumps(command).encode()))
        while True:
            opcode, payload = read_frame(connection)
            if opcode != TEXT:
                continue
            answer = json.loads(payload)
            if answer.get("id") == 1:
                if answer.get("type") != "ok":
                    raise ConnectionError(f"subscribe was refused: {payload[:300]!r}")
                return

    def frame(self, payload: bytes) -> bytes:
        return self.publish_to(self.channel, payload)

    @staticmethod
    def publish_to(channel: str, payload: bytes, dedupe_key: str = "") -> bytes:
        """A publish command; every one carries id 2, since answers come in order."""
        key = f'"dedupe_key":"{dedupe_key}",' if dedupe_key else ""
        head = f'{{"action":"publish","channel":"{channel}",{key}"id":2,"data":'
        return masked(head.encode() + payload + b"}")

    def tally(self, data: bytes | bytearray) -> Tally:
        return tally_frames(data, b'{"type":"event"')

    def tally_acks(self, data: bytes | bytearray) -> Tally:
        """Count the answers; anything that is not an `ok` stops the run."""
        tally = tally_frames(data, b'{"type":"ok"')
        refused = data.find(b'{"type":"error"', 0, tally.consumed)
        if refused >= 0:
            raise ConnectionError(
                f"a publish was refused: {bytes(data[refused : refused + 300])!r}"
            )
        return tally


class SocketIO(Wire):
    """Socket.IO 4 over WebSocket only: Engine.IO `4` (message), Socket.IO `2` (event)."""

    def publisher(self) -> Connection:
        connection = Connection(self.port)
        shake_hands(connection, "/socket.io/?EIO=4&transport=websocket")
        self._expect(connection, b"0")
        connection.send(masked(b"40"))
        self._expect(connection, b"40")
        return connection

    def subscriber(self, number: int) -> Connection:
        connection = self.publisher()
        connection.send(masked(b'421["sub"]'))
        self._expect(connection, b"431")
        return connection

    def frame(self, payload: bytes) -> bytes:
        return masked(b'42["pub",' + payload + b"]")

    def tally(self, data: bytes | bytearray) -> Tally:
        return tally_frames(data, b"42")

    @staticmethod
    def _expect(connection: Connection, mark: bytes) -> None:
        _, payload = read_frame(connection)
        if not payload.startswith(mark):
            raise ConnectionError(f"expected {mark!r}, was given {payload[:200]!r}")
