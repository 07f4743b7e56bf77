"""What every protocol must offer to the load generator."""

import socket
import time
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

HANDSHAKE_MAX_S = 20.0
TOPIC = "bench"


class Tally(NamedTuple):
    """What a piece of a byte stream held: whole messages, and the bytes it was read up to."""

    messages: int
    message_bytes: int
    consumed: int


class Connection:
    """A blocking socket for the handshake; afterwards the generator takes the socket over."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), HANDSHAKE_MAX_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unread = bytearray()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read_until(self, mark: bytes) -> bytes:
        """Everything up to and including `mark`; what follows stays unread."""
        deadline = time.monotonic() + HANDSHAKE_MAX_S
        while (at := self.unread.find(mark)) < 0:
            self._fill(deadline)
        return self.take(at + len(mark))

    def read(self, count: int) -> bytes:
        deadline = time.monotonic() + HANDSHAKE_MAX_S
        while len(self.unread) < count:
            self._fill(deadline)
        return self.take(count)

    def take(self, count: int) -> bytes:
        taken = bytes(self.unread[:count])
        del self.unread[:count]
        return taken

    def _fill(self, deadline: float) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError(
                f"closed during the handshake after {bytes(self.unread)[-200:]!r}"
            )
        if time.monotonic() > deadline:
            raise TimeoutError(f"no handshake, last bytes {bytes(self.unread)[-200:]!r}")
        self.unread += data


class Wire(ABC):
    """One protocol.

    W1 identical  with `is_identical`, every subscriber is sent the same bytes, so the bytes of
                  one that is read in full tell how many messages the others were given.
    W2 acks       a publish is answered exactly `acks` times; `tally_acks` counts the answers.
    W3 quiet      `settle_s` after the last handshake nothing but messages reaches a subscriber.
    """

    is_identical: ClassVar[bool] = True
    acks: ClassVar[int] = 0
    settle_s: ClassVar[float] = 0.0

    def __init__(self, *, port: int, token: str = "", topic: str = TOPIC) -> None:
        self.port = port
        self.token = token
        self.topic = topic

    @abstractmethod
    def publisher(self) -> Connection:
        """A connection ready to publish."""

    @abstractmethod
    def subscriber(self, number: int) -> Connection:
        """A connection that is subscribed: the server has said so."""

    @abstractmethod
    def frame(self, payload: bytes) -> bytes:
        """The bytes that publish a payload, a JSON object."""

    @abstractmethod
    def tally(self, data: bytes | bytearray) -> Tally:
        """Count the messages at the front of what a subscriber has read."""

    def tally_acks(self, data: bytes | bytearray) -> Tally:
        """Count the answers at the front of what a publisher has read."""
        return Tally(0, 0, len(data))

    def prepare(self) -> None:
        """Make what the server needs before the first subscriber (a stream, a channel)."""

    def finish(self) -> None:
        """Remove what `prepare` made."""
