"""Publishing without subscribers: what the hub acknowledges, by HTTP and by WebSocket."""

import itertools
import random
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load.fanout import payload
from benchmarks.load.latency import percentiles
from benchmarks.machine import cpu_s
from benchmarks.wires import Connection
from benchmarks.wires.websocket import Hub

READ_BYTES = 256 * 1024
STALL_MAX_S = 30.0
ZIPF_CHUNK = 50_000


def zipf(channels: int, seed: int = 1) -> Iterator[int]:
    """Channel numbers: the k-th most frequent one comes 1/k times as often as the first."""
    chance = random.Random(seed)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, channels + 1)))
    while True:
        yield from chance.choices(range(channels), cum_weights=weights, k=ZIPF_CHUNK)


def commands(client: Hub, *, channels: int, payload_bytes: int, key: str) -> Iterator[bytes]:
    """Publish frames without end; with `key`, each has a dedupe key of its own."""
    data = payload(payload_bytes)
    if not key and not channels:
        yield from itertools.repeat(client.frame(data))
    spread = zipf(channels) if channels else itertools.repeat(-1)
    for number, channel in enumerate(spread):
        name = client.channel if channel < 0 else f"public.z{channel}"
        yield client.publish_to(name, data, f"{key}-{number}" if key else "")


@dataclass(slots=True)
class Pipe:
    """One pipelined WebSocket: what is on its way, and the answers."""

    connection: Connection
    outgoing: memoryview = field(default_factory=lambda: memoryview(b""))
    tail: bytes = b""
    sent: int = 0
    acked: int = 0

    def push(self) -> None:
        try:
            self.outgoing = self.outgoing[self.connection.socket.send(self.outgoing) :]
        except BlockingIOError:
            return

    def read(self, client: Hub) -> None:
        data = self.tail + self.connection.socket.recv(READ_BYTES)
        if len(data) == len(self.tail):
            raise ConnectionError(f"closed by the server after {self.acked} answers")
        tally = client.tally_acks(data)
        self.acked += tally.messages
        self.tail = data[tally.consumed :]


def ws_publish(
    *,
    wire: str,
    port: int,
    token: str,
    pid: int,
    connections: int = 1,
    window: int = 1024,
    seconds: float = 0.0,
    count: int = 0,
    channels: int = 0,
    payload_bytes: int = 200,
    key: str = "",
    topic: str = "bench",
) -> dict[str, Any]:
    """Publish for so many seconds or so many events, whichever ends first (0: no bound)."""
    assert wire == "hub"
    assert seconds or count
    client = Hub(port=port, token=token, topic=topic)
    source = commands(client, channels=channels, payload_bytes=payload_bytes, key=key)
    poller = select.epoll()
    pipes: dict[int, Pipe] = {}
    for _ in range(connections):
        pipe = Pipe(client.publisher())
        pipe.connection.socket.setblocking(False)
        poller.register(pipe.connection.socket.fileno(), select.EPOLLIN)
        pipes[pipe.connection.socket.fileno()] = pipe
    half = max(1, window // 2)
    server_s, load_s, began = cpu_s(pid), time.process_time(), time.perf_counter()
    stop_at = began + seconds if seconds else float("inf")
    left, sent, acked, moved_at = count or 1 << 62, 0, 0, began
    while True:
        now = time.perf_counter()
        is_open = now < stop_at and left > 0
        for pipe in pipes.values():
            if is_open and left > 0 and pipe.sent - pipe.acked <= half and not pipe.outgoing:
                batch = min(half, left)
                pipe.outgoing = memoryview(b"".join(itertools.islice(source, batch)))
                pipe.sent += batch
                sent += batch
                left -= batch
            if pipe.outgoing:
                pipe.push()
        if not is_open and acked == sent:
            break
        for fd, _ in poller.poll(0.001 if any(p.outgoing for p in pipes.values()) else 0.05):
            pipe = pipes[fd]
            before = pipe.acked
            pipe.read(client)
            acked += pipe.acked - before
            moved_at = now
        if now - moved_at > STALL_MAX_S:
            raise TimeoutError(f"{sent} sent, {acked} acknowledged, then nothing")
    return {
        "acked": acked,
        "wall_s": time.perf_counter() - began,
        "server_cpu_s": cpu_s(pid) - server_s,
        "load_cpu_s": time.process_time() - load_s,
    }


@dataclass(slots=True)
class Client:
    """One HTTP/1.1 client that keeps its connection and waits for each answer."""

    socket: socket.socket
    asked_at: float = 0.0
    tail: bytes = b""

    def answered(self) -> bool:
        """Read; true when the whole answer is there. Anything but a 201 stops the run."""
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise ConnectionError("closed by the server")
        data = self.tail + data
        head = data.find(b"\r\n\r\n")
        if head < 0:
            self.tail = data
            return False
        if not data.startswith(b"HTTP/1.1 201"):
            raise ConnectionError(f"a publish was refused: {data[:400]!r}")
        at = data.lower().index(b"content-length:") + 15
        size = int(data[at : data.index(b"\r", at)])
        if len(data) < head + 4 + size:
            self.tail = data
            return False
        self.tail = b""
        return True


def http_publish(
    *,
    wire: str,
    port: int,
    token: str,
    pid: int,
    clients: int,
    seconds: float,
    key: str,
    payload_bytes: int = 200,
    topic: str = "bench",
) -> dict[str, Any]:
    """So many clients, each with a connection of its own and one request in flight."""
    assert wire == "hub"
    body = b'{"data":' + payload(payload_bytes) + b',"dedupe_key":"' + key.encode() + b'-%010d"}'
    head = (
        f"POST /api/v1/channels/public.{topic}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body % 0)}\r\n\r\n"
    ).encode()
    poller = select.epoll()
    everyone: dict[int, Client] = {}
    for _ in range(clients):
        client = Client(Connection(port).socket)
        poller.register(client.socket.fileno(), select.EPOLLIN)
        everyone[client.socket.fileno()] = client
    server_s, load_s, began = cpu_s(pid), time.process_time(), time.perf_counter()
    numbers = itertools.count()
    latencies: list[float] = []
    for client in everyone.values():
        client.asked_at = time.perf_counter()
        client.socket.sendall(head + body % next(numbers))
    stop_at, busy = began + seconds, clients
    while busy:
        ready = poller.poll(STALL_MAX_S)
        if not ready:
            raise TimeoutError(f"{len(latencies)} answers, then none for {STALL_MAX_S:.0f} s")
        for fd, _ in ready:
            client = everyone[fd]
            if not client.answered():
                continue
            now = time.perf_counter()
            latencies.append((now - client.asked_at) * 1e3)
            if now >= stop_at:
                busy -= 1
                continue
            client.asked_at = now
            client.socket.sendall(head + body % next(numbers))
    return {
        "acked": len(latencies),
        "wall_s": time.perf_counter() - began,
        "server_cpu_s": cpu_s(pid) - server_s,
        "load_cpu_s": time.process_time() - load_s,
        "latency_ms": percentiles(latencies),
    }
