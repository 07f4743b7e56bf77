"""The hub's Centrifugo door, in JSON over a WebSocket."""

import json
from typing import Any, ClassVar

from benchmarks.wires.websocket import TEXT, Hub, masked, read_frame, shake_hands, tally_frames
from benchmarks.wires.wire import Connection, Tally


class Centrifugo(Hub):
    """As its clients speak it: connect and subscribe stand in one frame."""

    path: ClassVar[str] = "/connection/websocket"

    def publisher(self) -> Connection:
        connection = Connection(self.port)
        shake_hands(connection, self.path)
        connection.send(masked(self.hello()))
        self._expect(connection, 1)
        return connection

    def subscriber(self, number: int) -> Connection:
        connection = Connection(self.port)
        shake_hands(connection, self.path)
        connection.send(masked(self.hello(channel=self.channel)))
        self._expect(connection, 1)
        self._expect(connection, 2)
        return connection

    def hello(self, *, channel: str = "", **more: Any) -> bytes:
        """The commands of a client that connects; `more` goes into subscribe (recover …)."""
        lines = [json.dumps({"id": 1, "connect": {"token": self.token}})]
        if channel:
            lines.append(json.dumps({"id": 2, "subscribe": {"channel": channel, **more}}))
        return "\n".join(lines).encode()

    def frame(self, payload: bytes) -> bytes:
        head = f'{{"id":3,"publish":{{"channel":"{self.channel}","data":'
        return masked(head.encode() + payload + b"}}")

    def tally(self, data: bytes | bytearray) -> Tally:
        return tally_frames(data, b'{"push":')

    def tally_acks(self, data: bytes | bytearray) -> Tally:
        """Count the answers; an error among them stops the run."""
        tally = tally_frames(data, b'{"id":3,')
        refused = data.find(b'{"id":3,"error"', 0, tally.consumed)
        if refused >= 0:
            said = bytes(data[refused : refused + 300])
            raise ConnectionError(f"a publish was refused: {said!r}")
        return tally

    @staticmethod
    def _expect(connection: Connection, id: int) -> None:
        while True:
            opcode, payload = read_frame(connection)
            if opcode != TEXT:
                continue
            for line in payload.split(b"\n"):
                answer = json.loads(line)
                if "error" in answer:
                    raise ConnectionError(f"refused: {payload[:300]!r}")
                if answer.get("id") == id:
                    return


class HeardByCentrifugo(Hub):
    """Subscribers of the Centrifugo door, and a publisher of the native one: what is compared
    with the native door is then the fan-out alone."""

    def __init__(self, *, port: int, token: str = "", topic: str = "bench") -> None:
        super().__init__(port=port, token=token, topic=topic)
        self._listening = Centrifugo(port=port, token=token, topic=topic)

    def subscriber(self, number: int) -> Connection:
        return self._listening.subscriber(number)

    def tally(self, data: bytes | bytearray) -> Tally:
        return self._listening.tally(data)
