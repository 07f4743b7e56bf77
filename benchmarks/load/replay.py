"""Reading a channel from its beginning: how fast the log reaches one WebSocket."""

import json
import time
from typing import Any

from benchmarks.machine import cpu_s
from benchmarks.wires.websocket import Hub, masked, tally_frames

READ_BYTES = 1024 * 1024


def replay(
    *, wire: str, port: int, token: str, pid: int, events: int, topic: str = "bench"
) -> dict[str, Any]:
    """Subscribe with `since` 0 and count until all events were given."""
    assert wire == "hub"
    client = Hub(port=port, token=token, topic=topic)
    connection = client.publisher()
    command = {
        "action": "subscribe",
        "channels": [client.channel],
        "since": {client.channel: 0},
        "id": 1,
    }
    server_s, load_s, began = cpu_s(pid), time.process_time(), time.perf_counter()
    connection.send(masked(json.dumps(command).encode()))
    tail, seen, size = b"", 0, 0
    while seen < events:
        data = connection.socket.recv(READ_BYTES)
        if not data:
            raise ConnectionError(f"closed by the server after {seen} events")
        size += len(data)
        data = tail + data
        if not seen and b'{"type":"error"' in data[:300]:
            raise ConnectionError(f"subscribe was refused: {data[:300]!r}")
        tally = tally_frames(data, b'{"type":"event"')
        seen += tally.messages
        tail = data[tally.consumed :]
    wall_s = time.perf_counter() - began
    return {
        "events": seen,
        "bytes": size,
        "wall_s": wall_s,
        "server_cpu_s": cpu_s(pid) - server_s,
        "load_cpu_s": time.process_time() - load_s,
    }
