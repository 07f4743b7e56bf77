"""One publisher, many subscribers: how much is delivered for how much server CPU, how late.

The generator must not be the bottleneck. One subscriber is read in full; it tells
how many bytes a message has. Of the others only the number of bytes is taken:
MSG_TRUNC lets the kernel throw the bytes away without copying them.
"""

import select
import socket
import time
from typing import Any

from benchmarks.load.latency import percentiles
from benchmarks.machine import cpu_s
from benchmarks.wires import WIRES, Connection, Wire

DISCARD_BYTES = 4 * 1024 * 1024
READ_BYTES = 256 * 1024
STALL_MAX_S = 15.0
WARM_UP_S = 0.25


class Parsed:
    """A subscriber, or the publisher, whose bytes are read and counted as messages."""

    __slots__ = ("message_bytes", "messages", "receive", "send", "tail", "tally")

    def __init__(self, connection: Connection, tally: Any) -> None:
        self.receive = connection.socket.recv
        self.send = connection.socket.send
        self.tally = tally
        self.tail = bytes(connection.unread)
        self.messages = 0
        self.message_bytes = 0

    def read(self) -> int:
        """Take what is there; gives the number of whole messages in it."""
        data = self.receive(READ_BYTES)
        if not data:
            raise ConnectionError(f"closed by the server after {self.messages} messages")
        if self.tail:
            data = self.tail + data
        tally = self.tally(data)
        self.tail = data[tally.consumed :]
        self.messages += tally.messages
        self.message_bytes += tally.message_bytes
        return int(tally.messages)


class Crowd:
    """The connections of one run and what they were given since `reset`."""

    def __init__(self, wire: Wire, *, subscribers: int, parsed: int) -> None:
        self.wire = wire
        self.subscribers = subscribers
        self.poller = select.epoll()
        self.scratch = bytearray(DISCARD_BYTES)
        self.discards: dict[int, Any] = {}
        self.parsed: dict[int, Parsed] = {}
        self.other_bytes = 0
        self.parsed_messages = 0
        self.arrivals: list[tuple[int, int, float]] | None = None
        self.keep: list[Connection] = []
        if not wire.is_identical:
            parsed = subscribers
        step = max(1, subscribers // parsed)
        for number in range(subscribers):
            connection = wire.subscriber(number)
            fd = self._adopt(connection)
            if number % step == 0 and len(self.parsed) < parsed:
                self.parsed[fd] = Parsed(connection, wire.tally)
            else:
                self.discards[fd] = connection.socket.recv_into
        self.first = next(iter(self.parsed.values()))
        publisher = wire.publisher()
        self.publisher_fd = self._adopt(publisher)
        self.publisher = Parsed(publisher, wire.tally_acks)
        self.outgoing = memoryview(b"")
        self.sent = 0

    def _adopt(self, connection: Connection) -> int:
        connection.socket.setblocking(False)
        fd = connection.socket.fileno()
        self.poller.register(fd, select.EPOLLIN)
        self.keep.append(connection)  # else the socket would be closed
        return fd

    def reset(self) -> None:
        """Begin a new count. Everything sent before has arrived."""
        self.sent = self.other_bytes = self.parsed_messages = 0
        for reader in (*self.parsed.values(), self.publisher):
            reader.messages = reader.message_bytes = 0

    def settle(self, seconds: float) -> None:
        """Read whatever a server says of its own accord."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            self.pump(0.05)
        self.reset()

    def publish(self, frames: bytes, count: int) -> None:
        """Send frames; what the kernel does not take now goes out with the next `pump`."""
        self.sent += count
        self.outgoing = memoryview(bytes(self.outgoing) + frames if self.outgoing else frames)
        self._push()

    def _push(self) -> None:
        try:
            self.outgoing = self.outgoing[self.publisher.send(self.outgoing) :]
        except BlockingIOError:
            return

    def pump(self, timeout_s: float) -> None:
        """Wait for bytes, at most so long, and take them."""
        if self.outgoing:
            self._push()
            timeout_s = min(timeout_s, 0.0005)
        discards, scratch, taken = self.discards, self.scratch, 0
        for fd, _ in self.poller.poll(timeout_s, 2048):
            discard = discards.get(fd)
            if discard is not None:
                count = discard(scratch, DISCARD_BYTES, socket.MSG_TRUNC)
                if count == 0:
                    raise ConnectionError("a subscriber was closed by the server")
                taken += count
            elif fd == self.publisher_fd:
                self.publisher.read()
            else:
                self._read_parsed(self.parsed[fd])
        self.other_bytes += taken

    def _read_parsed(self, reader: Parsed) -> None:
        count = reader.read()
        self.parsed_messages += count
        if self.arrivals is not None and count:
            self.arrivals.append((reader.messages - count, reader.messages, time.perf_counter()))

    def arrived(self) -> int:
        """How many messages have reached everyone, and were acknowledged if the server does."""
        count = self.parsed_messages // len(self.parsed)
        if self.discards and self.first.message_bytes:
            shares = len(self.discards) * self.first.message_bytes
            count = min(count, self.other_bytes * self.first.messages // shares)
        elif self.discards:
            count = 0
        if self.wire.acks:
            count = min(count, self.publisher.messages // self.wire.acks)
        return count

    def drain(self) -> None:
        """Wait until everything that was sent has arrived everywhere."""
        seen, moved_at = -1, time.perf_counter()
        while (arrived := self.arrived()) < self.sent:
            self.pump(0.05)
            now = time.perf_counter()
            progress = self.other_bytes + self.parsed_messages + self.publisher.messages + arrived
            if progress != seen:
                seen, moved_at = progress, now
            elif now - moved_at > STALL_MAX_S:
                raise TimeoutError(
                    f"{self.sent} sent, {arrived} arrived everywhere, "
                    f"{self.publisher.messages} acknowledged"
                )


def fan_out(
    *,
    wire: str,
    port: int,
    token: str,
    pid: int,
    subscribers: int,
    phases: list[dict[str, Any]],
    payload_bytes: int = 200,
    parsed: int = 1,
    topic: str = "bench",
) -> dict[str, Any]:
    """Run phases one after the other over the same connections; `phases` has a result for each.

    A phase is `{mode: single | pipelined | rate, seconds, window?, rate?}`: one message in
    flight; at most `window` in flight, half of it sent as one write whenever it is free; or
    `rate` messages a second sent when they are due, whatever has arrived.
    """
    client = WIRES[wire](port=port, token=token, topic=topic)
    client.prepare()
    frame = client.frame(payload(payload_bytes))
    crowd = Crowd(client, subscribers=subscribers, parsed=parsed)
    crowd.settle(client.settle_s or 0.1)
    results = []
    for phase in phases:
        mode = MODES[phase["mode"]]
        mode(crowd, frame, {**phase, "seconds": min(WARM_UP_S, phase["seconds"])})
        crowd.reset()
        server_s, load_s, began = cpu_s(pid), time.process_time(), time.perf_counter()
        extra = mode(crowd, frame, phase)
        results.append(
            {
                "mode": phase["mode"],
                "messages": crowd.sent,
                "deliveries": crowd.sent * subscribers,
                "frame_bytes": crowd.first.message_bytes / max(1, crowd.first.messages),
                "wall_s": time.perf_counter() - began,
                "server_cpu_s": cpu_s(pid) - server_s,
                "load_cpu_s": time.process_time() - load_s,
                **extra,
            }
        )
        crowd.reset()
    for connection in crowd.keep:
        connection.socket.close()
    client.finish()
    return {"phases": results}


def payload(size: int) -> bytes:
    """A JSON object of exactly so many bytes."""
    head, end = b'{"n":1,"text":"', b'"}'
    return head + b"x" * (size - len(head) - len(end)) + end


def _single(crowd: Crowd, frame: bytes, phase: dict[str, Any]) -> dict[str, Any]:
    until = time.perf_counter() + phase["seconds"]
    while time.perf_counter() < until:
        crowd.publish(frame, 1)
        crowd.drain()
    return {}


def _pipelined(crowd: Crowd, frame: bytes, phase: dict[str, Any]) -> dict[str, Any]:
    half = phase["window"] // 2
    frames = frame * half
    until = time.perf_counter() + phase["seconds"]
    while time.perf_counter() < until:
        while crowd.sent - crowd.arrived() <= half and not crowd.outgoing:
            crowd.publish(frames, half)
        crowd.pump(0.01)
    crowd.drain()
    return {}


def _rate(crowd: Crowd, frame: bytes, phase: dict[str, Any]) -> dict[str, Any]:
    interval = 1.0 / phase["rate"]
    count = int(phase["seconds"] * phase["rate"])
    arrivals: list[tuple[int, int, float]] = []
    crowd.arrivals = arrivals
    began = time.perf_counter()
    number = 0
    while number < count:
        while number < count and time.perf_counter() >= began + number * interval:
            crowd.publish(frame, 1)
            number += 1
        crowd.pump(0)  # spinning: a sleep would be as long as what is measured
    crowd.drain()
    crowd.arrivals = None
    # From when a message was due, not from when it was sent: a late generator counts.
    late = [
        (at - began - number * interval) * 1e3
        for first, after, at in arrivals
        for number in range(first, after)
    ]
    return {"latency_ms": percentiles(late)}


MODES = {"single": _single, "pipelined": _pipelined, "rate": _rate}
