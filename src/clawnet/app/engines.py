"""Picks the engine. Nothing else in the program names one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clawnet.app.config import EngineName
from clawnet.core.errors import BadConfiguration
from clawnet.ports.clock import Clock, Randomness
from clawnet.ports.log import Engine

ENGINE_FILES: dict[EngineName, str] = {"sqlite": "log.db"}
"""The one file that holds everything, for the engines that can be backed up."""


def open_engine(name: EngineName, path: Path, *, clock: Clock, randomness: Randomness) -> Engine:
    """Open the engine on its data folder. Raises StorageCorrupt, BadConfiguration, AlreadyRunning.

    May take a while: what an unclean end left behind is mended here.
    """
    if name == "memory":
        from clawnet.engines.memory import MemoryEngine

        return MemoryEngine(path, clock=clock, randomness=randomness)
    from clawnet.engines.sqlite.engine import SqliteEngine

    return SqliteEngine(path, clock=clock, randomness=randomness)


def put_back(
    name: EngineName, copy: Path, folder: Path, *, progress: Callable[[int, int], None]
) -> None:
    """Put an engine's copy in place of what it keeps in `folder`; the next start is a new epoch.

    Raises StorageCorrupt for a copy that cannot be used; nothing is changed then.
    """
    if name != "sqlite":
        raise BadConfiguration(f"The engine {name} keeps nothing that could be restored.")
    from clawnet.engines.sqlite.backups import restore

    restore(copy, folder, progress=progress)
