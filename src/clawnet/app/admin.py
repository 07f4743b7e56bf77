"""What only a master may have the running process do: so far, a backup.

    POST /api/v1/admin/backup  ->  lines of JSON: {"done", "total"} …, then {"path", …}
                                   or, in their place, {"error": {…}}

The copy lies in the data folder; `claw backup` on the same machine moves it
to where it is wanted. No path comes from the request, so that a token never
decides where the hub's user writes.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol

import msgspec
from starlette.types import Receive, Scope, Send

from clawnet.app.backups import describe, make_folder
from clawnet.app.config import EngineName
from clawnet.app.engines import ENGINE_FILES
from clawnet.app.folder import DataFolder
from clawnet.core.errors import (
    BadConfiguration,
    ClawError,
    Conflict,
    DiskFull,
    Forbidden,
    MethodNotAllowed,
    Unauthenticated,
    Unavailable,
)
from clawnet.doors.http.describe import operation
from clawnet.doors.problem import body_of, headers_of
from clawnet.hub.hub import Hub
from clawnet.hub.worlds import MAIN

PATH = "/api/v1/admin/backup"
BACKUPS = "backups"
STEP_PAUSE_S = 0.002
"""Between two steps, so that commits are not kept waiting by a large copy."""


class CopiesInSteps(Protocol):
    """An engine that can be copied while it commits."""

    def backup_steps(self, target: Path) -> Generator[tuple[int, int]]: ...


class BackupApp:
    """The ASGI app of PATH. One backup at a time."""

    def __init__(self, hub: Hub, folder: DataFolder, *, engine: Any, name: EngineName) -> None:
        self._hub = hub
        self._folder = folder
        self._engine = engine
        self._name = name
        self._is_busy = False

    @operation(
        tag="admin",
        answer=str,
        media_type="application/x-ndjson",
        is_stream=True,
        errors=(BadConfiguration, Conflict, DiskFull),
    )
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Copy the hub's data into its data folder, while it runs.

        For masters. Lines of JSON say how far it is; the last one has the `path`, or an `error`.
        """
        try:
            self._admit(scope)
        except ClawError as error:
            headers = headers_of(error)
            await send({"type": "http.response.start", "status": error.status, "headers": headers})
            await send({"type": "http.response.body", "body": body_of(error)})
            return
        headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with aclosing(self._lines()) as lines:
            async for line in lines:
                body = msgspec.json.encode(line) + b"\n"
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _admit(self, scope: Scope) -> None:
        """Raise unless this is a master's POST and nothing is in its way."""
        if scope["method"] != "POST":
            raise MethodNotAllowed("A backup is asked for with POST.", next="Use POST.")
        headers = dict(scope["headers"])
        kind, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if kind.lower() != "bearer":
            raise Unauthenticated("This needs a token.")
        caller = self._hub.authenticate(token.strip())
        # A backup holds every world, so a master of another one must not cause it either.
        if caller.role != "master" or caller.world != MAIN or not caller.allows("*"):
            raise Forbidden(
                "Only a master of the world main backs up the hub.",
                next="Use such a master's token, with all scopes.",
            )
        if self._name not in ENGINE_FILES:
            raise BadConfiguration(f"The engine {self._name} keeps nothing to back up.")
        if self._is_busy:
            raise Conflict("A backup runs already.", next="Wait until it has ended.")

    async def _lines(self) -> AsyncGenerator[dict[str, Any]]:
        self._is_busy = True
        name = time.strftime("clawnet-%Y%m%dT%H%M%SZ", time.gmtime())
        target = self._folder.path / BACKUPS / name
        is_whole = False
        try:
            make_folder(target)
            async with aclosing(self._copied(target / ENGINE_FILES[self._name])) as steps:
                async for done, total in steps:
                    yield {"done": done, "total": total}
            manifest = await asyncio.to_thread(
                describe, target, self._folder, engine=self._engine, name=self._name
            )
            is_whole = True
            yield {"path": str(target), **msgspec.to_builtins(manifest)}
        except ClawError as error:
            yield {"error": error.as_dict()}
        except OSError as error:
            yield {"error": DiskFull(f"The backup cannot be written ({error.strerror}).").as_dict()}
        finally:
            self._is_busy = False
            if not is_whole:
                shutil.rmtree(target, ignore_errors=True)

    async def _copied(self, target: Path) -> AsyncGenerator[tuple[int, int]]:
        """Copy in steps where commits run, so that commits go on between them."""
        engine: CopiesInSteps = self._engine
        steps = engine.backup_steps(target)
        try:
            while True:
                if not self._hub.is_ready:
                    raise Unavailable("The hub is stopping.", retry_after_s=1.0)
                step = await self._hub.committer.run(lambda: next(steps, None))
                if step is None:
                    return
                yield step
                await asyncio.sleep(STEP_PAUSE_S)
        finally:
            await self._hub.committer.run(steps.close)
