"""Many clients of the Centrifugo door that come at once: how fast they are in, what they are given.

Each is a small state machine on one epoll: handshake, connect and subscribe in one frame, then
whatever the subscription brings, every offset of which is checked.
"""

import base64
import json
import os
import select
import socket
import time
from typing import Any

from benchmarks.load.latency import percentiles
from benchmarks.machine import cpu_s
from benchmarks.wires.centrifugo import Centrifugo
from benchmarks.wires.websocket import TEXT, masked, read_frame

READ_BYTES = 256 * 1024
ALL_MAX_S = 60.0
PIECE = 100
"""How many sockets are opened between two looks at what came."""


class Client:
    """One that comes (back). `offset` is the last that it has; with an epoch it recovers."""

    def __init__(self, wire: Centrifugo, *, offset: int = 0, epoch: str = "") -> None:
        self.wire = wire
        self.offset = offset
        self.epoch = epoch
        self.is_subscribed = False
        self.in_at_s = 0.0
        self.wrong = 0
        self._is_open = False
        self._unread = b""
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def come(self) -> None:
        """Open the socket and ask for the WebSocket."""
        self.socket.connect(("127.0.0.1", self.wire.port))
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {self.wire.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def read(self) -> None:
        """Take what is there."""
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise ConnectionError(f"closed by the server: {self._unread[-200:]!r}")
        self._unread += data
        if not self._is_open:
            head, found, self._unread = self._unread.partition(b"\r\n\r\n")
            if not found:
                self._unread = head
                return
            if not head.startswith(b"HTTP/1.1 101"):
                raise ConnectionError(f"no WebSocket: {head[:200]!r}")
            self._is_open = True
            wish: dict[str, Any] = {}
            if self.epoch:
                wish = {"recover": True, "offset": self.offset, "epoch": self.epoch}
            hello = self.wire.hello(channel=self.wire.channel, **wish)
            self.socket.sendall(masked(hello))
        while self._take_frame():
            pass

    def _take_frame(self) -> bool:
        data = self._unread
        if len(data) < 2:
            return False
        size, at = data[1] & 127, 2
        if size == 126:
            size, at = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, at = int.from_bytes(data[2:10], "big"), 10
        if len(data) < at + size or len(data) < at:
            return False
        self._unread = data[at + size :]
        if data[0] & 15 == TEXT:
            for line in data[at : at + size].split(b"\n"):
                self._take(json.loads(line))
        return True

    def _take(self, said: dict[str, Any]) -> None:
        if "error" in said:
            raise ConnectionError(f"refused: {said}")
        if "subscribe" in said:
            self.is_subscribed = True
            self.in_at_s = time.perf_counter()
            answer = said["subscribe"]
            if self.epoch and not answer.get("recovered"):
                self.wrong += 1
            if not self.epoch:
                self.offset, self.epoch = answer.get("offset", 0), answer["epoch"]
            for one in answer.get("publications", ()):
                self._count(one)
        elif "push" in said and "pub" in said["push"]:
            self._count(said["push"]["pub"])

    def _count(self, publication: dict[str, Any]) -> None:
        if publication["offset"] != self.offset + 1:
            self.wrong += 1
        self.offset = publication["offset"]
        self.in_at_s = time.perf_counter()


def connects(
    *, wire: str, port: int, token: str, pid: int, clients: int, topic: str = "connects"
) -> dict[str, Any]:
    """How many clients connect and subscribe in a second."""
    client = Centrifugo(port=port, token=token, topic=topic)
    client.subscriber(0).socket.close()
    everyone = [Client(client) for _ in range(clients)]
    server_s, began = cpu_s(pid), time.perf_counter()
    _all_in(everyone, until=lambda one: one.is_subscribed)
    wall_s = time.perf_counter() - began
    for one in everyone:
        one.socket.close()
    return {"clients": clients, "wall_s": wall_s, "server_cpu_s": cpu_s(pid) - server_s}


def recover(
    *,
    wire: str,
    port: int,
    token: str,
    pid: int,
    clients: int,
    missed: int,
    topic: str = "recover",
) -> dict[str, Any]:
    """Clients are cut off, events happen, and all come back at once while others are published."""
    client = Centrifugo(port=port, token=token, topic=topic)
    publisher = client.publisher()
    everyone = [Client(client) for _ in range(clients)]
    _all_in(everyone, until=lambda one: one.is_subscribed)
    for one in everyone:
        one.socket.close()
    _publish(client, publisher, missed)
    back = [Client(client, offset=one.offset, epoch=one.epoch) for one in everyone]
    top = everyone[0].offset + missed
    began = time.perf_counter()
    # Some are told live while the others are still on their way.
    live = missed // 2
    publisher.send(client.frame(b'{"live":1}') * live)
    _all_in(back, until=lambda one: one.is_subscribed and one.offset >= top + live)
    took_ms = [1000 * (one.in_at_s - began) for one in back]
    wrong = sum(one.wrong + (one.offset != top + live) for one in back)
    for one in back:
        one.socket.close()
    return {"clients": clients, "wrong": wrong, "latency_ms": percentiles(took_ms)}


def _publish(client: Centrifugo, publisher: Any, count: int) -> None:
    """Publish, and wait for every answer."""
    publisher.send(client.frame(b'{"missed":1}') * count)
    answered = 0
    while answered < count:
        _, payload = read_frame(publisher)
        if b'"error"' in payload:
            raise ConnectionError(f"a publish was refused: {payload[:300]!r}")
        answered += len(payload.split(b"\n"))


def _all_in(everyone: list[Client], *, until: Any) -> None:
    """Let all come, and read for them until each has what it waits for."""
    poller = select.epoll()
    waiting: dict[int, Client] = {}
    coming = iter(everyone)
    deadline = time.monotonic() + ALL_MAX_S
    is_more = True
    while is_more or waiting:
        for _ in range(PIECE):
            one = next(coming, None)
            if one is None:
                is_more = False
                break
            one.come()
            waiting[one.socket.fileno()] = one
            poller.register(one.socket.fileno(), select.EPOLLIN)
        for fd, _ in poller.poll(0 if is_more else 1.0):
            one = waiting[fd]
            one.read()
            if until(one):
                poller.unregister(fd)
                del waiting[fd]
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(waiting)} of {len(everyone)} clients wait for something")
    poller.close()
