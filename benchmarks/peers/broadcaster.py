"""The bare C broadcaster: what the kernel allows, with nothing of a hub in it."""

import shutil
import subprocess
from pathlib import Path

from benchmarks.peers.server import Missing, Server, free_port, spawn

SOURCE = Path(__file__).with_name("broadcaster.c")
PROGRAM = Path(__file__).with_name("build") / "broadcaster"


def start(folder: Path) -> Server:
    """Build it if the source is newer, then run it."""
    port = free_port()
    return spawn([_build(), str(port)], name="C broadcaster", wire="ws", port=port, folder=folder)


def _build() -> Path:
    if PROGRAM.exists() and PROGRAM.stat().st_mtime >= SOURCE.stat().st_mtime:
        return PROGRAM
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Missing("no C compiler (cc, gcc or clang) to build the broadcaster")
    PROGRAM.parent.mkdir(exist_ok=True)
    done = subprocess.run(
        [compiler, "-O2", "-o", str(PROGRAM), str(SOURCE)], capture_output=True, text=True
    )
    if done.returncode:
        raise Missing(f"the broadcaster did not build: {done.stderr.strip()[-300:]}")
    return PROGRAM
