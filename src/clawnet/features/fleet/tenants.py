"""The worlds of the tenants: made when the hub starts, where they are not there yet."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from clawnet.core.callers import Caller
from clawnet.core.calls.worlds import CreateWorld, WorldCreated
from clawnet.core.errors import Conflict

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

ADMIN = Caller(account="admin", role="master")
"""Who makes worlds: the hub's own administrator, whose configuration names the tenants."""

_log = logging.getLogger(__name__)


async def make_worlds(
    hub: Hub, worlds: Iterable[str], *, there: set[str], folder: Path | None
) -> None:
    """Make those that are not `there`, and add to it what is.

    A world is made with an account that administers it; its token is written into the data
    folder, `admin.<world>.token`, readable by the hub's user alone, and nowhere else. Raises
    ClawError; what was made by then is there.
    """
    for world in worlds:
        if world in there:
            continue
        try:
            made: WorldCreated = await hub.call(CreateWorld(id=world), caller=ADMIN)
        except Conflict:
            # It was made by hand, or at an earlier start.
            there.add(world)
            continue
        if folder is not None:
            path = folder / f"admin.{world}.token"
            try:
                await asyncio.to_thread(_write, path, made.token)
                _log.info("the world %s is made; its admin's token is in %s", world, path.name)
            except OSError as error:
                _log.error(
                    "the world %s is made, but its admin's token could not be written: %s",
                    world,
                    type(error).__name__,
                )
        there.add(world)


def _write(path: Path, token: str) -> None:
    path.unlink(missing_ok=True)
    # Never through a link, and never readable by others, not even for a moment.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o600), "w", encoding="ascii") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
