"""A started hub with accounts, for tests of what lies above the engine.

`HubRig` holds the hub with a clock and an engine that can be made to fail; `Gate`
stops the hub's reads, so that a test can act at every single await.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.accounts import AccountKind, CreateAccount, Role
from clawnet.core.calls.live import Subscribe, Subscribed
from clawnet.core.calls.publishing import Publish, Published
from clawnet.core.calls.tokens import CreateToken
from clawnet.core.cursors import Since
from clawnet.core.errors import ClawError, DiskFull, OutcomeUnknown
from clawnet.core.units import Outcome, Unit
from clawnet.engines.memory import MemoryEngine
from clawnet.features import FeatureSettings, attach_all
from clawnet.hub.hub import Hub
from clawnet.hub.sessions import Session
from clawnet.hub.settings import HubSettings
from clawnet.ports.log import Engine
from clawnet.testing.clocks import FakeRandomness
from clawnet.testing.loops import LoopClock
from clawnet.testing.outlets import LineShape, RecordingOutlet

T = TypeVar("T")
LINES = LineShape()


class FaultyEngine:
    """An engine whose disk can be full or broken, and which outlives the hub that closes it."""

    def __init__(self, engine: Engine) -> None:
        self.real = engine
        self.is_full = False
        self.is_broken = False
        self.closed = 0
        self.commits = 0

    def commit(self, units: Sequence[Unit]) -> list[Outcome]:
        """As the engine, or DiskFull for all, or OutcomeUnknown."""
        self.commits += 1
        if self.is_broken:
            raise OutcomeUnknown("The disk is gone.")
        if self.is_full:
            return [DiskFull("The disk is full; nothing was stored.") for _ in units]
        return self.real.commit(units)

    def close(self) -> None:
        self.closed += 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class HubRig:
    """A hub and what a test needs around it."""

    def __init__(self, hub: Hub, clock: LoopClock, engine: FaultyEngine) -> None:
        self.hub = hub
        self.clock = clock
        self.engine = engine
        self.failures: list[ClawError] = []
        self.features: FeatureSettings | None = None
        self._starts = 0

    # --- accounts -----------------------------------------------------------

    async def account(
        self,
        id: str,
        *,
        role: Role = "worker",
        kind: AccountKind = "agent",
        scopes: Sequence[str] = ("*",),
    ) -> Caller:
        """A new account, called by a new token."""
        await self.hub.call(CreateAccount(id=id, role=role, kind=kind), caller=HUB)
        return await self.caller(id, scopes=scopes)

    async def caller(
        self, id: str, *, scopes: Sequence[str] = ("*",), expires_in_s: float | None = None
    ) -> Caller:
        """A caller by one more token of an account."""
        token = await self.token(id, scopes=scopes, expires_in_s=expires_in_s)
        return self.hub.authenticate(token)

    async def token(
        self, id: str, *, scopes: Sequence[str] = ("*",), expires_in_s: float | None = None
    ) -> str:
        """The text of a new token."""
        call = CreateToken(account=id, scopes=list(scopes), expires_in_s=expires_in_s)
        made = await self.hub.call(call, caller=HUB)
        return str(made.token)

    # --- events -------------------------------------------------------------

    async def publish(
        self, caller: Caller, channel: str, data: Any = None, **named: Any
    ) -> Published:
        """Publish and wait for the outcome."""
        return await self.hub.publish_wait(caller, event(channel, data, **named))

    async def fill(self, caller: Caller, channel: str, n: int) -> list[Published]:
        """`n` events with their number from 1 as data."""
        return [await self.publish(caller, channel, i + 1) for i in range(n)]

    def connect(
        self,
        caller: Caller,
        *channels: str,
        since: Since | dict[str, Since] | None = None,
        shape: LineShape = LINES,
        high_water: int | None = None,
    ) -> RecordingOutlet:
        """A live session, subscribed if channels are named."""
        outlet = RecordingOutlet(high_water=high_water)
        outlet.session = self.hub.open(caller, outlet, shape)
        if channels:
            self.subscribe(outlet, *channels, since=since)
        return outlet

    def subscribe(
        self,
        outlet: RecordingOutlet,
        *channels: str,
        since: Since | dict[str, Since] | None = None,
    ) -> Subscribed:
        """One more subscription of a session."""
        return session_of(outlet).subscribe(Subscribe(channels=channels, since=since))

    async def settle(self) -> None:
        """Give everything that can run its turns; no time passes."""
        for _ in range(60):
            await asyncio.sleep(0)

    # --- life ---------------------------------------------------------------

    async def restart(self, settings: HubSettings | None = None) -> None:
        """Stop the hub in order and start another on the same storage."""
        await self.hub.stop_accepting()
        await self.hub.drain()
        await self.hub.close()
        await self._start(settings)

    async def crash(self, settings: HubSettings | None = None) -> None:
        """Forget the hub as a kill would, and start another on the same storage."""
        await abandon(self.hub)
        await self._start(settings)

    async def _start(self, settings: HubSettings | None) -> None:
        self._starts += 1
        self.hub = make_hub(
            self.engine,
            self.clock,
            settings or self.hub.settings,
            on_failed=self.failures.append,
            seed=f"hub {self._starts}",
        )
        attach_all(self.hub, self.features)
        await self.hub.start()


class Gate:
    """Acts at the n-th await of the hub's reads: before or after the engine was asked.

    `action` runs to its end in a task of its own while the read waits, so what
    it does has been answered before the read goes on.
    """

    def __init__(self, hub: Hub, *, at: int, action: Callable[[], Awaitable[Any]]) -> None:
        self.points = 0
        self.at = at
        self._action = action
        self._acting: asyncio.Task[Any] | None = None
        self._storage = hub.storage
        self._read = hub.storage.read
        hub.storage.read = self._gated  # type: ignore[method-assign]

    @property
    def was_reached(self) -> bool:
        """Whether there was an n-th await."""
        return self._acting is not None

    async def open(self) -> None:
        """Let reads pass again; the action has ended and did not fail."""
        self._storage.read = self._read  # type: ignore[method-assign]
        if self._acting is not None:
            await self._acting

    async def _gated(self, work: Callable[[Engine], T]) -> T:
        await self._point()
        found = await self._read(work)
        await self._point()
        return found

    async def _point(self) -> None:
        if self._acting is not None:
            # What the action itself reads, and what comes behind it, is not stopped.
            return
        number = self.points
        self.points += 1
        if number == self.at:
            # A task of its own, since it may cancel the one that reads.
            self._acting = asyncio.get_running_loop().create_task(self._run())
            await asyncio.wait([self._acting])

    async def _run(self) -> None:
        await self._action()


def event(channel: str, data: Any = None, **named: Any) -> Publish:
    """A publish of any JSON-able value."""
    return Publish(channel=channel, data=msgspec.Raw(msgspec.json.encode(data)), **named)


def session_of(outlet: RecordingOutlet) -> Session:
    """The session of an outlet that was connected."""
    assert outlet.session is not None
    return outlet.session


def make_hub(
    engine: Any,
    clock: LoopClock,
    settings: HubSettings | None = None,
    *,
    is_loopback: bool = True,
    on_failed: Callable[[ClawError], None] | None = None,
    seed: str = "hub",
) -> Hub:
    """A hub that is not started. Two hubs on one storage need different seeds."""
    return Hub(
        engine,
        clock=clock,
        randomness=FakeRandomness(seed),
        pepper=b"pepper",
        settings=settings,
        is_loopback=is_loopback,
        on_failed=on_failed,
    )


async def abandon(hub: Hub) -> None:
    """End a hub's tasks and nothing else: nothing is flushed, nobody is told."""
    for task in list(hub._tasks):
        task.cancel()
    await asyncio.gather(*hub._tasks, return_exceptions=True)


@asynccontextmanager
async def started_hub(
    settings: HubSettings | None = None,
    *,
    engine: Engine | None = None,
    is_loopback: bool = True,
    features: FeatureSettings | None = None,
) -> AsyncIterator[HubRig]:
    """A hub on the memory engine (or the one given) until the block ends."""
    clock = LoopClock()
    real = engine or MemoryEngine(clock=clock, randomness=FakeRandomness("engine"))
    faulty = FaultyEngine(real)
    failures: list[ClawError] = []
    hub = make_hub(faulty, clock, settings, is_loopback=is_loopback, on_failed=failures.append)
    rig = HubRig(hub, clock, faulty)
    rig.failures = failures
    rig.features = features
    attach_all(hub, features)
    await hub.start()
    try:
        yield rig
    finally:
        faulty.is_full = faulty.is_broken = False
        await rig.hub.close()
        await asyncio.to_thread(real.close)
