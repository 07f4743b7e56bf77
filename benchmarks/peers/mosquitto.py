"""mosquitto with QoS 0; only where the machine has it, no wheel brings it."""

import shutil
from pathlib import Path

from benchmarks.peers.server import Missing, Server, free_port, spawn


def start(folder: Path) -> Server:
    """Anonymous, on loopback, without a queue limit for QoS 0."""
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        raise Missing("mosquitto is not installed on this machine")
    port = free_port()
    settings = folder / "mosquitto.conf"
    settings.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n",
        encoding="utf-8",
    )
    return spawn([program, "-c", settings], name="mosquitto", wire="mqtt", port=port, folder=folder)
