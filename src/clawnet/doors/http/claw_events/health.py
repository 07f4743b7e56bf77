"""GET /health: whether the hub can store what it is given, found out by storing something."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec

from clawnet.core.errors import ClawError, Unavailable
from clawnet.core.units import Put, Unit
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.claw_events.answers import claw_errors
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request
from clawnet.hub.hub import Hub

PROBE_EVERY_S = 2.0
"""Whoever asks more often is told what was found last: anybody may ask."""
PROBE_MAX_S = 5.0
KEY = "health/probe"


class Healthy(msgspec.Struct, frozen=True, kw_only=True):
    """The hub stores what it is given."""

    ok: Literal[True] = True


class Probe:
    """Stores something small now and then. Whoever asks meanwhile waits for the same answer."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._at_s: float | None = None
        self._found: ClawError | None = None
        self._lock = asyncio.Lock()

    async def look(self) -> ClawError | None:
        # The lock is held for PROBE_MAX_S at most.
        async with self._lock:
            now_s = self._hub.clock.steady_s()
            if self._at_s is None or now_s - self._at_s >= PROBE_EVERY_S:
                self._found = await self._store()
                self._at_s = now_s
            return self._found

    async def _store(self) -> ClawError | None:
        unit = Unit(changes=(Put(KEY, str(self._hub.clock.wall_ms())),))
        try:
            async with asyncio.timeout(PROBE_MAX_S):
                await self._hub.committer.commit(unit)
        except TimeoutError:
            return Unavailable(f"Nothing was stored for {PROBE_MAX_S:g} s.")
        except ClawError as error:
            return error
        return None


@claw_errors
@operation(tag="claw.events", answer=Healthy, is_open=True)
async def health(request: Request) -> Answer:
    """Whether the hub can store; 503 while it cannot."""
    request.query()
    hub = request.hub
    if not hub.is_ready:
        raise Unavailable(f"The hub is {hub.state}.", retry_after_s=1.0)
    error = await request.door.probe.look()
    if error is not None:
        raise Unavailable(f"The hub cannot store: {error.message}", retry_after_s=PROBE_EVERY_S)
    return json_answer(Healthy())
