"""The relay of python-socketio's server, in this environment."""

import importlib.util
import sys
from pathlib import Path

from benchmarks.peers.server import Missing, Server, free_port, spawn

SCRIPT = Path(__file__).with_name("python_relay.py")
NEEDED = ("socketio", "uvicorn")


def start(folder: Path) -> Server:
    """Messages by Socket.IO that each receiver acknowledges; nothing is stored. Raises Missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Missing(f"not installed: {', '.join(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    return spawn(
        [sys.executable, SCRIPT, str(port)],
        name="python-socketio",
        wire="relayed",
        port=port,
        folder=folder,
    )
