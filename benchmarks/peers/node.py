"""The node servers: `ws`, `socket.io`, and a Socket.IO relay that keeps a JSON file."""

import functools
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.server import Missing, Server, free_port, spawn

HERE = Path(__file__).parent
INSTALL_MAX_S = 120.0
STORED_TEXT_CHARS = 185


def start_ws(folder: Path) -> Server:
    """The broadcast example of `ws`."""
    return _start(folder, name="node ws", wire="ws", script="ws_server.js")


def start_socketio(folder: Path) -> Server:
    """A room of `socket.io`."""
    return _start(folder, name="socket.io", wire="socketio", script="socketio_server.js")


def start_json_relay(folder: Path) -> Server:
    """Socket.IO that rewrites a JSON file for each message."""
    return _start(folder, name="JSON-file relay", wire="socketio", script="json_relay.js")


def start_full_json_relay(folder: Path, *, stored: int) -> Server:
    """The same, keeping so many messages, and there are as many."""
    folder.mkdir(parents=True, exist_ok=True)
    message = {
        "ts": "2026-01-01T10:00:00.000Z",
        "sender": "x" * 20,
        "data": {"n": 1, "text": "x" * STORED_TEXT_CHARS},
    }
    (folder / "messages.json").write_text(json.dumps([message] * stored, separators=(",", ":")))
    return _start(
        folder, name="JSON-file relay", wire="socketio", script="json_relay.js", words=[str(stored)]
    )


def _start(folder: Path, *, name: str, wire: str, script: str, words: Sequence[str] = ()) -> Server:
    port = free_port()
    command: list[str | Path] = [program(), HERE / script, str(port), folder, *words]
    return spawn(command, name=name, wire=wire, port=port, folder=folder)


@functools.cache
def program() -> str:
    """Path of node, with the packages of `package.json` installed. Raises Missing."""
    found = shutil.which("node")
    if found is None:
        raise Missing("node is not installed on this machine")
    if (HERE / "node_modules" / "ws").exists() and (HERE / "node_modules" / "socket.io").exists():
        return found
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("npm is not installed, so ws and socket.io cannot be fetched")
    try:
        done = subprocess.run(
            [npm, "ci"], cwd=HERE, capture_output=True, text=True, timeout=INSTALL_MAX_S
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"npm ci took longer than {INSTALL_MAX_S:.0f} s") from None
    if done.returncode:
        raise Missing("npm could not fetch ws and socket.io (is there a registry?)")
    return found
