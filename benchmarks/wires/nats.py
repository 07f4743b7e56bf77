"""NATS: core publish and subscribe, and JetStream with a push consumer per subscriber."""

import json
import secrets
from typing import Any, ClassVar

from benchmarks.wires.wire import Connection, Tally, Wire

HELLO = (
    b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\nPING\r\n'
)
STREAM = "BENCH"
ACKS = "_INBOX.bench.acks"


class Nats(Wire):
    """Core NATS. The server pings each client once about two seconds after it connected."""

    settle_s: ClassVar[float] = 2.6

    def publisher(self) -> Connection:
        connection = Connection(self.port)
        connection.read_until(b"\r\n")  # INFO
        connection.send(HELLO)
        connection.read_until(b"PONG\r\n")
        return connection

    def subscriber(self, number: int) -> Connection:
        connection = self.publisher()
        connection.send(f"SUB {self.topic} 1\r\nPING\r\n".encode())
        connection.read_until(b"PONG\r\n")
        return connection

    def frame(self, payload: bytes) -> bytes:
        return b"PUB %b %d\r\n%b\r\n" % (self.topic.encode(), len(payload), payload)

    def tally(self, data: bytes | bytearray) -> Tally:
        return tally_messages(data)


class JetStream(Nats):
    """A stream on files; each subscriber reads it by its own ephemeral push consumer.

    What a subscriber is given is then what was stored. The deliveries differ between the
    subscribers (the consumer's name and what is pending stand in each), so all are parsed.
    """

    is_identical: ClassVar[bool] = False
    acks: ClassVar[int] = 1

    def prepare(self) -> None:
        self._ask(
            f"STREAM.CREATE.{STREAM}",
            {"name": STREAM, "subjects": [self.topic], "storage": "file", "retention": "limits"},
        )

    def finish(self) -> None:
        self._ask(f"STREAM.DELETE.{STREAM}", {})

    def publisher(self) -> Connection:
        connection = super().publisher()
        connection.send(f"SUB {ACKS} 1\r\nPING\r\n".encode())
        connection.read_until(b"PONG\r\n")
        return connection

    def subscriber(self, number: int) -> Connection:
        connection = Nats.publisher(self)
        inbox = f"_BENCH.{secrets.token_hex(4)}.{number}"
        connection.send(f"SUB {inbox} 1\r\n".encode())
        config = {
            "deliver_subject": inbox,
            "deliver_policy": "new",
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
        }
        self._ask(
            f"CONSUMER.CREATE.{STREAM}", {"stream_name": STREAM, "config": config}, connection
        )
        return connection

    def frame(self, payload: bytes) -> bytes:
        head = f"PUB {self.topic} {ACKS} {len(payload)}\r\n".encode()
        return head + payload + b"\r\n"

    def tally_acks(self, data: bytes | bytearray) -> Tally:
        tally = tally_messages(data)
        refused = data.find(b'"error":', 0, tally.consumed)
        if refused >= 0:
            raise ConnectionError(
                f"a publish was refused: {bytes(data[refused : refused + 200])!r}"
            )
        return tally

    def _ask(self, subject: str, body: dict[str, Any], on: Connection | None = None) -> None:
        connection = on or Nats.publisher(self)
        inbox = f"_INBOX.{secrets.token_hex(8)}"
        data = json.dumps(body).encode()
        connection.send(
            f"SUB {inbox} 9\r\nPUB $JS.API.{subject} {inbox} {len(data)}\r\n".encode()
            + data
            + b"\r\n"
        )
        head = connection.read_until(b"\r\n")
        while not head.startswith(b"MSG"):
            head = connection.read_until(b"\r\n")
        answer = json.loads(connection.read(int(head.split()[-1]) + 2))
        connection.send(b"UNSUB 9\r\nPING\r\n")
        connection.read_until(b"PONG\r\n")
        if on is None:
            connection.socket.close()
        if "error" in answer:
            raise ConnectionError(f"JetStream refused {subject}: {answer['error']}")


def tally_messages(data: bytes | bytearray) -> Tally:
    """Count `MSG subject sid [reply] size` with its payload; PING and PONG are passed over."""
    at = messages = counted = 0
    end = len(data)
    while (line := data.find(b"\r\n", at)) >= 0:
        if data[at] != 77:  # not M(SG)
            if data.startswith(b"-ERR", at):
                raise ConnectionError(f"nats-server says {bytes(data[at:line])!r}")
            at = line + 2
            continue
        after = line + 4 + int(data[data.rfind(b" ", at, line) + 1 : line])
        if after > end:
            break
        messages += 1
        counted += after - at
        at = after
    return Tally(messages, counted, at)
