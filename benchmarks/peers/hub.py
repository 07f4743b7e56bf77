"""The hub itself, started as a user starts it: `claw up`."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.peers.server import Missing, Server, free_port, spawn

# Rates are what is measured, so the limits on rates are off; rights stay on.
ENVIRONMENT = {"CLAWNET_LIMITS_ENABLED": "false"}
SECRET = "benchmarks enrol with this"


def start_memory(folder: Path) -> Server:
    """The hub with the volatile engine."""
    return start(folder, engine="memory")


def start_sqlite(folder: Path) -> Server:
    """The hub with the default engine: acknowledged means on disk."""
    return start(folder, engine="sqlite")


def start_for_agents(folder: Path, *, engine: str) -> Server:
    """A hub whose token is a secret by which agents enrol, as workers and as masters."""
    folder.mkdir(parents=True, exist_ok=True)
    more = {"CLAWNET_SECRET": SECRET, "CLAWNET_FLEET_SECRET_ROLES": "worker,master"}
    return replace(start(folder, engine=engine, more=more), wire="c2cp", token=SECRET)


def start(folder: Path, *, engine: str, more: Mapping[str, str] | None = None) -> Server:
    """Run a hub on `folder/data`; data that is there already is served again.

    `more` goes into its environment.
    """
    port = free_port()
    data = folder / "data"
    server = spawn(
        [*command(), "up", "--port", str(port), "--data-dir", data, "--engine", engine],
        name=f"hub {engine}",
        wire="hub",
        port=port,
        folder=folder,
        environment={**ENVIRONMENT, **(more or {})},
    )
    return replace(server, token=admin_token(data))


def command() -> list[str]:
    """`claw` of this environment. Raises Missing."""
    beside = Path(sys.executable).with_name("claw")
    if beside.exists():
        return [str(beside)]
    found = shutil.which("claw", path=os.environ.get("PATH"))
    if found is None:
        raise Missing("claw is not installed in this environment")
    return [found]


def admin_token(data: Path) -> str:
    """The token that the first start wrote. Raises Missing."""
    try:
        return (data / "admin.token").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise Missing(f"the hub wrote no admin.token: {error}") from None
