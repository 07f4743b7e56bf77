"""Interceptors: what looks at a proposed event before it is stored, and may patch or refuse it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.channels import is_pattern, matches
from clawnet.core.errors import ClawError, Refused

DEADLINE_S = 5.0
"""All interceptors of one event share this."""
RUNNING_MAX = 16

_log = logging.getLogger(__name__)


class Proposed(msgspec.Struct, frozen=True, kw_only=True):
    """An event as its sender wants it. `data` is admitted JSON text, `traceparent` W3C Trace
    Context as it is going to be stored (None: there is none, or it was malformed)."""

    caller: Caller
    channel: str
    type: str
    data: str
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None


class Patch(msgspec.Struct, frozen=True):
    """Go on with this JSON text as the data."""

    data: str


class Deny(msgspec.Struct, frozen=True):
    """Refuse the event; the sender is told the reason."""

    reason: str


Verdict = Patch | Deny | None
Intercept = Callable[[Proposed], Awaitable[Verdict]]


class Interceptor(msgspec.Struct, frozen=True, kw_only=True):
    """`intercept` is asked for events on `channels` (names and patterns), in order of
    (priority, name). Within `timeout_s` it answers a Patch, a Deny or None (pass).
    An error or a late answer refuses the event, unless `on_error` is `allow`.
    """

    name: str
    channels: tuple[str, ...]
    intercept: Intercept
    priority: int = 100
    timeout_s: float = 1.0
    on_error: str = "refuse"

    def covers(self, channel: str) -> bool:
        return any(
            matches(wanted, channel) if is_pattern(wanted) else wanted == channel
            for wanted in self.channels
        )


class Interceptors:
    """The registered interceptors of a hub."""

    def __init__(self) -> None:
        self._all: tuple[Interceptor, ...] = ()
        self._memo: dict[str, tuple[Interceptor, ...]] = {}
        self._slots = asyncio.Semaphore(RUNNING_MAX)

    def add(self, interceptor: Interceptor) -> None:
        """Register; one of the same name is replaced."""
        rest = [known for known in self._all if known.name != interceptor.name]
        self._all = tuple(sorted([*rest, interceptor], key=lambda i: (i.priority, i.name)))
        self._memo.clear()

    def remove(self, name: str) -> None:
        self._all = tuple(known for known in self._all if known.name != name)
        self._memo.clear()

    def of(self, channel: str) -> tuple[Interceptor, ...]:
        """Those that are asked about a channel, in order."""
        if not self._all:
            return ()
        found = self._memo.get(channel)
        if found is None:
            if len(self._memo) > 4_096:
                self._memo.clear()
            found = self._memo[channel] = tuple(i for i in self._all if i.covers(channel))
        return found

    async def run(self, proposed: Proposed, *, admit: Callable[[str], str]) -> str:
        """Ask all in order; returns the data to store. Raises Refused, and what `admit` raises
        for a patch: the next one in order is shown admitted data only."""
        try:
            async with asyncio.timeout(DEADLINE_S), self._slots:
                for interceptor in self.of(proposed.channel):
                    verdict = await self._ask(interceptor, proposed)
                    if isinstance(verdict, Deny):
                        raise Refused(verdict.reason, interceptor=interceptor.name)
                    if isinstance(verdict, Patch):
                        proposed = msgspec.structs.replace(proposed, data=admit(verdict.data))
        except TimeoutError:
            raise Refused("The interceptors did not decide within their deadline.") from None
        return proposed.data

    async def _ask(self, interceptor: Interceptor, proposed: Proposed) -> Verdict:
        limit_s = min(interceptor.timeout_s, DEADLINE_S)
        try:
            async with asyncio.timeout(limit_s):
                return await interceptor.intercept(proposed)
        except TimeoutError:
            problem = f"did not answer within {limit_s:g} s"
        except ClawError:
            raise
        except Exception:  # somebody else's code: whatever it raises is its failure, not the hub's
            _log.exception("interceptor %s failed", interceptor.name)
            problem = "failed"
        if interceptor.on_error == "allow":
            return None
        raise Refused(
            f"The interceptor {interceptor.name} {problem}.", interceptor=interceptor.name
        )
