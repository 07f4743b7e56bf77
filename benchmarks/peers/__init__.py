"""The servers that are measured: the hub and what it is compared with.

`start(name, folder)` gives a running server on a free port of 127.0.0.1, or
raises `Missing` with the reason why this machine cannot have it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.peers import broadcaster, hub, mosquitto, nats, node, redis
from benchmarks.peers.server import Missing, Server

__all__ = ["STARTERS", "Missing", "Server", "start", "together"]

STARTERS: dict[str, Callable[[Path], Server]] = {
    "hub memory": hub.start_memory,
    "hub sqlite": hub.start_sqlite,
    "C broadcaster": broadcaster.start,
    "Redis pub/sub": redis.start,
    "nats-server": nats.start_core,
    "JetStream (file)": nats.start_jetstream,
    "node ws": node.start_ws,
    "socket.io": node.start_socketio,
    "JSON-file relay": node.start_json_relay,
    "mosquitto": mosquitto.start,
}


def start(name: str, folder: Path) -> Server:
    """Start one server with its data below `folder`."""
    own = folder / name.replace(" ", "-").replace("/", "-").replace("(", "").replace(")", "")
    own.mkdir(parents=True, exist_ok=True)
    return STARTERS[name](own)


@contextmanager
def together(names: list[str], folder: Path) -> Iterator[dict[str, Server | Missing]]:
    """Run several servers side by side; every one that started is stopped at the end."""
    with ExitStack() as stack:
        servers: dict[str, Server | Missing] = {}
        for name in names:
            try:
                server = start(name, folder)
            except Missing as reason:
                servers[name] = reason
                continue
            stack.callback(server.close)
            servers[name] = server
        yield servers
