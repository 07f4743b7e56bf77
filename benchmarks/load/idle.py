"""Many subscribers to whom nothing happens: what each costs in memory, all of them in CPU."""

import select
import time
from typing import Any

from benchmarks.machine import cpu_s, memory_bytes
from benchmarks.wires import WIRES, Connection
from benchmarks.wires.websocket import PING, PONG, masked

READ_BYTES = 65536


def idle(
    *,
    wire: str,
    port: int,
    token: str,
    pid: int,
    connections: int,
    seconds: float,
    settle_s: float = 2.0,
    topic: str = "idle",
) -> dict[str, Any]:
    """Open the connections, let the server come to rest, then watch it."""
    client = WIRES[wire](port=port, token=token, topic=topic)
    client.prepare()
    # The first ones make the server load what it loads once.
    first = [client.subscriber(-1 - number) for number in range(20)]
    before = memory_bytes(pid)
    opened_at = time.perf_counter()
    everyone = {}
    poller = select.epoll()
    for number in range(connections):
        connection = client.subscriber(number)
        everyone[connection.socket.fileno()] = connection
        poller.register(connection.socket.fileno(), select.EPOLLIN)
    open_s = time.perf_counter() - opened_at
    _rest(poller, everyone, settle_s + client.settle_s)
    after = memory_bytes(pid)
    server_s, began = cpu_s(pid), time.perf_counter()
    _rest(poller, everyone, seconds)
    wall_s = time.perf_counter() - began
    cpu = cpu_s(pid) - server_s
    for connection in (*first, *everyone.values()):
        connection.socket.close()
    client.finish()
    return {
        "connections": connections,
        "open_s": open_s,
        "kb_per_connection": (after - before) / 1024 / connections,
        "cpu_percent": 100 * cpu / wall_s,
    }


def _rest(poller: select.epoll, everyone: dict[int, Connection], seconds: float) -> None:
    """Wait, and answer the server's pings as a client must."""
    until = time.perf_counter() + seconds
    while (left := until - time.perf_counter()) > 0:
        for fd, _ in poller.poll(left):
            connection = everyone[fd]
            data = connection.socket.recv(READ_BYTES)
            if not data:
                raise ConnectionError("an idle connection was closed by the server")
            if data.startswith(b"PING\r\n"):
                connection.send(b"PONG\r\n")
            elif data[0] == 0x80 | PING:
                connection.send(masked(data[2 : 2 + (data[1] & 127)], PONG))
