"""Redis pub/sub, RESP 2."""

from typing import ClassVar

from benchmarks.wires.wire import Connection, Tally, Wire


class Redis(Wire):
    """PUBLISH and SUBSCRIBE; the answer to a publish is the number of receivers."""

    acks: ClassVar[int] = 1

    def publisher(self) -> Connection:
        return Connection(self.port)

    def subscriber(self, number: int) -> Connection:
        connection = Connection(self.port)
        connection.send(_command(b"SUBSCRIBE", self.topic.encode()))
        connection.read_until(b":1\r\n")
        return connection

    def frame(self, payload: bytes) -> bytes:
        return _command(b"PUBLISH", self.topic.encode(), payload)

    def tally(self, data: bytes | bytearray) -> Tally:
        """Messages are `*3 $7 message $n topic $n payload`: the head has one fixed length."""
        head = len(f"*3\r\n$7\r\nmessage\r\n${len(self.topic)}\r\n{self.topic}\r\n")
        at = messages = 0
        while (line := data.find(b"\r\n", at + head)) >= 0:
            after = line + 2 + int(data[at + head + 1 : line]) + 2
            if after > len(data):
                break
            messages += 1
            at = after
        return Tally(messages, at, at)

    def tally_acks(self, data: bytes | bytearray) -> Tally:
        if data.find(b"-") >= 0:
            raise ConnectionError(f"a publish was refused: {bytes(data[:200])!r}")
        consumed = data.rfind(b"\n") + 1
        return Tally(data.count(b"\n"), consumed, consumed)


def _command(*words: bytes) -> bytes:
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"".join(parts)
