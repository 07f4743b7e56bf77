"""The hub: the one object doors talk to. It wires its parts, and holds the live sessions.

What is published goes limits → rights → dedupe → interceptors → rights again (publishing.py) →
commit → ack → fan-out. Everything here runs on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import msgspec

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.publishing import Publish, Published
from clawnet.core.channels import matches
from clawnet.core.errors import ClawError, Unauthenticated, Unavailable
from clawnet.core.events import Draft, Stored
from clawnet.core.live import End, Outlet, Shape
from clawnet.core.positions import EpochStart
from clawnet.core.units import Delete, Put
from clawnet.hub import metrics
from clawnet.hub.attempts import Attempts
from clawnet.hub.changing import Changing
from clawnet.hub.committer import Committer
from clawnet.hub.consumers import Consumers
from clawnet.hub.controls import ControlBoard
from clawnet.hub.covered import Covered
from clawnet.hub.directory import Directory
from clawnet.hub.fanout import Fanout, World
from clawnet.hub.features import Feature
from clawnet.hub.foreign import Foreign
from clawnet.hub.interceptors import Interceptor, Interceptors
from clawnet.hub.jwts import Jwts, signing_key
from clawnet.hub.lanes import Lane
from clawnet.hub.presence import Presence
from clawnet.hub.publishing import Publishing, PublishReply
from clawnet.hub.ration import Ration
from clawnet.hub.refusals import Refusals
from clawnet.hub.registry import register_all
from clawnet.hub.retention import Retention
from clawnet.hub.serverlog import ServerLog
from clawnet.hub.sessions import Session
from clawnet.hub.settings import HubSettings
from clawnet.hub.storage import Storage
from clawnet.hub.subscriptions import Subscription
from clawnet.hub.told import Told
from clawnet.hub.uses import Uses
from clawnet.hub.vault import Vault
from clawnet.hub.watchers import Watchers
from clawnet.ports.clock import Clock, Randomness
from clawnet.ports.log import Engine

RESTART_DELAY_S = 1.0
"""How long after a failure one of the hub's loops begins again."""


SERVING = ("ready", "restoring")

Handler = Callable[[Any, Caller], Awaitable[Any]]
_log = logging.getLogger(__name__)


class Hub:
    """Start it with start(), stop it with stop_accepting(), drain() and close(), in that order."""

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Clock,
        randomness: Randomness,
        pepper: bytes,
        settings: HubSettings | None = None,
        is_loopback: bool = True,
        on_failed: Callable[[ClawError], None] | None = None,
    ) -> None:
        """`pepper` is the secret with which token hashes are keyed; `on_failed` is called
        when storage failed and the process must end."""
        self.settings = settings or HubSettings()
        self.clock = clock
        self.randomness = randomness
        self.is_loopback = is_loopback
        self.directory = Directory(self.settings.channels, is_loopback=is_loopback)
        self.storage = Storage(engine)
        self.fanout = Fanout(log_epoch=lambda: self.log_epoch)
        self.interceptors = Interceptors()
        self.watchers = Watchers()
        chosen = self.settings.tokens
        self.jwts = Jwts(
            self.directory,
            key=signing_key(chosen.jwt_key, pepper),
            ttl_max_s=chosen.jwt_ttl_max_s,
            randomness=randomness,
        )
        self.vault = Vault(
            self.directory,
            pepper=pepper,
            randomness=randomness,
            jwts=self.jwts,
            in_use=self._tokens_in_use,
        )
        self.uses = Uses(self)
        self.attempts = Attempts(clock, is_enabled=self.settings.limits.enabled)
        self.ration = Ration(self.settings.limits, clock)
        self.presence = Presence(self)
        self.consumers = Consumers(self)
        self.foreign = Foreign(self)
        self.told = Told()
        self.refusals = Refusals()
        self.controls = ControlBoard(self)
        self.retention = Retention(self)
        self.directory.now_ms = self.retention.now_ms
        self.slow: set[Session] = set()
        self.sessions: dict[tuple[str, str | None], set[Session]] = {}
        self.leaving: set[Session] = set()
        """Sessions that are over, whose doors may yet send what is queued: see Session.leave()."""
        self.published = 0
        self.refused = 0
        self.loop_lag_s = 0.0
        self.loop_lag_max_s = 0.0
        self.state = "starting"
        self._engine = engine
        self._on_failed = on_failed
        self._handlers: dict[type, tuple[Handler, bool]] = {}
        self._changing = Changing(self)
        self.publishing = Publishing(self)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._committer: Committer | None = None
        self._features: list[Feature] = []
        self._rights_followers: tuple[Callable[[str, str], None], ...] = ()
        self.server_log = ServerLog(self)
        register_all(self)

    # --- life ---------------------------------------------------------------

    async def start(self) -> None:
        """Load what decisions need and begin to take publishes."""
        self._committer = Committer(self._engine, on_stored=self._stored, on_failed=self._failed)
        await self.storage.read(lambda _: self.vault.load(self._engine))
        self.fanout.position = self._engine.last_seq
        worlds = {account.world for account in self.directory.all_accounts()} | {"main"}
        await self.fanout.load(self.storage, worlds)
        await self.consumers.load()
        await self.retention.load()
        for feature in self._features:
            await feature.load()
        self.state = "ready" if self.committer.held is None else "restoring"
        for run in (self._sweep, self.presence.run, self.consumers.run, self.retention.run):
            self.spawn(self._forever(run))
        for feature in self._features:
            self.spawn(self._forever(feature.run))

    async def stop_accepting(self) -> None:
        """From now on publishes are refused as Unavailable; what is queued goes on."""
        if self.state in SERVING:
            self.state = "stopping"

    async def drain(self) -> None:
        """Wait until what was queued is durable, answered and fanned out."""
        if self._committer is not None:
            await self._committer.drain()

    async def close(self) -> None:
        """End live sessions with a code to come back, store floors, close the engine."""
        await self.stop_accepting()
        for session in self._all_sessions():
            session.end(End.SHUTDOWN)
        if self._committer is not None:
            if self.state != "failed":
                await self._flush(self.consumers.flush)
                for feature in self._features:
                    await self._flush(feature.flush)
                await self._flush(self.retention.record)
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._committer.close()
            self._committer = None
        # Nothing is revoked any more; their connections end with the server.
        self.leaving.clear()
        self.storage.close()
        await asyncio.to_thread(self._engine.close)

    async def _flush(self, work: Callable[[], Awaitable[None]]) -> None:
        """Store what one part wrote behind. What fails there keeps no other from its own."""
        try:
            await work()
        except ClawError as error:
            # A full disk: what it had stored stays as it was, and the hub closes all the same.
            _log.warning("%s failed at the end: %s", work.__qualname__, error.message)
        except Exception:  # a defect in one feature must not keep the hub from closing
            _log.exception("%s failed at the end", work.__qualname__)

    @property
    def is_ready(self) -> bool:
        return self.state == "ready"

    @property
    def log_epoch(self) -> str:
        return self._engine.epoch

    @property
    def log_epochs(self) -> tuple[EpochStart, ...]:
        return self._engine.epochs

    @property
    def committer(self) -> Committer:
        assert self._committer is not None, "the hub was not started"
        return self._committer

    def metrics(self, *, world: str | None = None) -> str:
        """What the hub counts, as Prometheus text; names only of one world, if one is given."""
        return metrics.render(self, world=world)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a task that the hub owns: it ends with the hub at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        # A ClawError is an answer, which who awaits the task is given.
        if error is not None and not isinstance(error, ClawError):
            _log.error("a task of the hub ended unexpectedly", exc_info=error)

    async def _forever(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run one of the hub's loops, and begin it again if it fails."""
        while True:
            try:
                await run()
                return
            except Exception:  # a defect in one round must not end sweeping, presence, expiry
                _log.exception("%s failed and goes on", run.__qualname__)
            # A loop that fails at its first step must not spin.
            await asyncio.sleep(RESTART_DELAY_S)

    # --- features -----------------------------------------------------------

    @property
    def features(self) -> Sequence[Feature]:
        """Those that are attached, in this order."""
        return self._features

    def attach(self, feature: Feature) -> None:
        """Add a feature before start(): it registers its calls and follows what is stored."""
        assert self.state == "starting", "features are attached before the hub starts"
        feature.register(self)
        self._features.append(feature)

    def follow_rights(self, follower: Callable[[str, str], None]) -> None:
        """Call `follower(world, account)` when rights of an account change or a token of it ends.

        At once, as the live sessions are told, and before it is stored; must be quick. Not for
        a lock of a channel, nor for a token that expires.
        """
        self._rights_followers = (*self._rights_followers, follower)

    # --- callers ------------------------------------------------------------

    def authenticate(self, token: str, *, is_last: bool = True) -> Caller:
        """The caller of a token. Raises Unauthenticated. `is_last`: what is none is refused; else
        it is looked at as something else, which has its own refusals."""
        try:
            caller = self.vault.authenticate(token, now_ms=self.retention.now_ms())
        except ClawError as error:
            if is_last:
                self.refusals.note(None, "a token", error)
            raise
        if caller.token_id is not None:
            self.uses.marks.add(caller.token_id)
        return caller

    def anonymous(self, *, is_local: bool) -> Caller:
        """A caller without a token. Raises Unauthenticated where nothing may be read so.

        What is open because the hub is bound to loopback is so only for requests
        that are local as well (`is_local`, the gate's verdict).
        """
        is_chosen = self.settings.channels.anonymous_read is True
        if not (self.directory.anonymous_read and (is_local or is_chosen)):
            raise Unauthenticated("This needs a token.")
        return Caller(account=None, scopes=frozenset({"events:read"}))

    # --- typed calls --------------------------------------------------------

    def handle(self, call: type, handler: Handler, *, is_change: bool = False) -> None:
        """Let `handler(request, caller)` answer requests of a type. One for each type.

        Changes of the directory (`is_change`) run one after the other, so that a
        widening that is being committed cannot undo a narrowing behind it, and
        run to their end even if the caller goes away.
        """
        assert call not in self._handlers, f"{call.__name__} is handled twice"
        self._handlers[call] = (handler, is_change)

    async def call(self, request: Any, *, caller: Caller) -> Any:
        """Answer a typed request of core.calls for a caller. Raises ClawError."""
        self.refuse_unless_serving()
        self.ration.take_call(caller)
        known = self._handlers.get(type(request))
        assert known is not None, f"nothing handles {type(request).__name__}"
        handler, is_change = known
        caller = self.directory.refresh(caller)
        try:
            if is_change:
                changing = self._changing.run(handler, request, caller)
                return await asyncio.shield(self.spawn(changing))
            return await handler(request, caller)
        except ClawError as error:
            self.refusals.note(caller, type(request).__name__, error)
            raise

    # --- publishing ---------------------------------------------------------

    def publish(self, caller: Caller, call: Publish, *, lane: Lane, reply: PublishReply) -> None:
        """Take a publish; `reply` is called once, when it is durable or refused.

        Publishes of one lane on one channel are stored in the order of the calls.
        """
        self.publishing.publish(caller, call, lane=lane, reply=reply)

    async def publish_wait(self, caller: Caller, call: Publish) -> Published:
        """publish() and wait for the outcome. Raises ClawError."""
        return await self.publishing.publish_wait(caller, call)

    def signal(self, caller: Caller, channel: str, type: str, data: bytes) -> None:
        """Tell who is live on a channel something that need not be kept. Raises ClawError."""
        self.publishing.signal(caller, channel, type, data)

    def intercept(self, interceptor: Interceptor) -> None:
        """Register an interceptor; one of the same name is replaced."""
        self.interceptors.add(interceptor)

    async def change(
        self,
        *changes: Put | Delete,
        events: tuple[Draft, ...] = (),
        is_narrowing: bool = False,
        kept: tuple[Put | Delete, ...] | None = None,
    ) -> None:
        """Commit changes of state with their events. Raises Conflict, DiskFull, Unavailable.

        A narrowing that cannot be stored is in force in memory all the same. What of it
        must come to disk (`kept`; None is all of it) is stored with the next change, so
        that a repeated revoke is acknowledged only when a restart cannot undo it.
        """
        await self._changing.commit(*changes, events=events, is_narrowing=is_narrowing, kept=kept)

    def note(self, caller: Caller, channel: str, type: str, data: Any) -> Draft:
        """An event in which the hub records what `caller` did. `data` is a JSON-able value."""
        by = {"by": caller.account, **data}
        voice = msgspec.structs.replace(HUB, world=caller.world)
        return self.publishing.render(
            voice, channel, type=type, data=msgspec.json.encode(by).decode()
        )

    # --- live ---------------------------------------------------------------

    def open(
        self,
        caller: Caller,
        outlet: Outlet,
        shape: Shape,
        *,
        is_merged: bool = True,
        is_onlooker: bool = False,
    ) -> Session:
        """Begin a live session; `is_merged`: its events come in seq order over all channels,
        `is_onlooker`: the account does not count as there by it.

        Raises TooManySubscriptions, Unauthenticated, Unavailable.
        """
        self.refuse_unless_serving()
        # The door may have waited since it authenticated the caller; a session that begins
        # with a revoked token would never be looked at again.
        caller = self.directory.refresh(caller)
        session = Session(self, caller, outlet, shape, is_merged=is_merged)
        session.is_onlooker = is_onlooker
        key = (caller.world, caller.account)
        peers = self.sessions.setdefault(key, set())
        self.ration.check_sessions(caller, len(peers))
        peers.add(session)
        if caller.account is not None and not is_onlooker:
            self.presence.connected(caller.world, caller.account)
        return session

    def closed(self, session: Session) -> None:
        """A session is over (called by it)."""
        self.slow.discard(session)
        key = (session.caller.world, session.caller.account)
        peers = self.sessions.get(key)
        if peers is not None and session in peers:
            peers.discard(session)
            if session.caller.token_id is not None:
                self.uses.marks.add(session.caller.token_id)
            if not peers:
                del self.sessions[key]
            if session.caller.account is not None and not session.is_onlooker:
                self.presence.disconnected(session.caller.world, session.caller.account)

    def covered(self, world: World, subscription: Subscription) -> set[str]:
        """The known channels that a subscription's patterns cover and its owner may read."""
        # Measured: 50,000 names take 184 ms, so only what is new since the last chunk is asked.
        rights = (subscription.session.caller, self.directory.version)
        known = subscription.covered
        if known is None or known.rights != rights:
            known = subscription.covered = Covered(rights)
        for name in world.names_listed[known.count :]:
            is_meant = any(matches(pattern, name) for pattern in subscription.patterns)
            if is_meant and subscription.may_read(name):
                known.names.add(name)
        known.count = len(world.names_listed)
        return known.names

    # --- narrowing in memory ------------------------------------------------

    def rights_changed(
        self,
        world: str,
        account: str,
        *,
        narrowed: str | None = None,
        widened: str | None = None,
    ) -> None:
        """Apply changed rights of an account to its live sessions, now. No await.

        `narrowed` is the name or pattern on which rights were taken away, `widened` that on which
        they were given; without either anything may have changed.
        """
        self.fanout.rights_changed(world)
        for session in self._given_to(world, account):
            self._recheck(session, narrowed, widened)
        self._tell_rights(world, account)

    def channel_rights_changed(
        self, world: str, *, narrowed: str | None = None, widened: str | None = None
    ) -> None:
        """Apply a changed lock to all live sessions of the world, now. No await."""
        self.fanout.rights_changed(world)
        for session in (*self._all_sessions(), *self.leaving):
            if session.caller.world == world:
                self._recheck(session, narrowed, widened)

    def token_revoked(self, world: str, account: str) -> None:
        """End the live sessions of an account whose token is gone, now. No await."""
        for session in self._given_to(world, account):
            token_id = session.caller.token_id
            if token_id is not None and self.directory.caller(token_id) is None:
                session.end(End.REVOKED)
        self._tell_rights(world, account)

    def _given_to(self, world: str, account: str) -> list[Session]:
        """The sessions of an account by which it is or may yet be given something."""
        whose = (world, account)
        leaving = [s for s in self.leaving if (s.caller.world, s.caller.account) == whose]
        return [*self.sessions.get(whose, ()), *leaving]

    def _tell_rights(self, world: str, account: str) -> None:
        for follower in self._rights_followers:
            follower(world, account)

    def _recheck(self, session: Session, narrowed: str | None, widened: str | None) -> None:
        token_id = session.caller.token_id
        if token_id is None:
            session.recheck(session.caller, narrowed=narrowed, widened=widened)
            return
        caller = self.directory.caller(token_id)
        if caller is None:
            session.end(End.REVOKED)
        else:
            session.recheck(caller, narrowed=narrowed, widened=widened)

    # --- inside -------------------------------------------------------------

    def _tokens_in_use(self, world: str, account: str) -> set[str]:
        """The tokens of an account's live sessions."""
        sessions = self.sessions.get((world, account), ())
        return {s.caller.token_id for s in sessions if s.caller.token_id is not None}

    def refuse_unless_ready(self) -> None:
        """Raise Unavailable while the hub starts, restores, stops or has failed."""
        if self.state != "ready":
            raise Unavailable(f"The hub is {self.state}.", retry_after_s=1.0)

    def refuse_unless_serving(self) -> None:
        """The same, but a hub that restores goes on with what stores nothing."""
        if self.state not in SERVING:
            raise Unavailable(f"The hub is {self.state}.", retry_after_s=1.0)

    def restored(self) -> None:
        """What a hub that began empty was to be given back is there: it takes publishes."""
        self.committer.held = None
        if self.state == "restoring":
            self.state = "ready"

    def _stored(self, stored: list[Stored]) -> None:
        self.fanout.deliver(stored)
        self.consumers.stored(stored)
        self.retention.stored(stored)
        for feature in self._features:
            try:
                feature.stored(stored)
            except Exception:  # a defect in one feature must not keep the others from following
                _log.exception("a feature failed to follow what was stored")

    def _failed(self, error: ClawError) -> None:
        if self.state == "failed":
            return
        _log.critical("storage failed, the hub stops: %s", error.message)
        self.state = "failed"
        if self._on_failed is not None:
            self._on_failed(error)

    def _all_sessions(self) -> list[Session]:
        return [session for peers in self.sessions.values() for session in peers]

    async def _sweep(self) -> None:
        """Once a second: end sessions without progress, and those whose token expired."""
        loop = asyncio.get_running_loop()
        rounds = 0
        while True:
            due = loop.time() + 1.0
            await asyncio.sleep(1.0)
            self.loop_lag_s = max(loop.time() - due, 0.0)
            rounds += 1
            worst = 0.0 if rounds % 60 == 0 else self.loop_lag_max_s
            self.loop_lag_max_s = max(worst, self.loop_lag_s)
            for session in list(self.slow):
                if session.is_stuck():
                    session.end(End.SLOW)
            for session in list(self.leaving):
                if session.is_stuck():
                    session.outlet.retract()
            if self._changing.is_due and self.is_ready:
                self.spawn(self._changing.retry())
            now_ms = self.retention.now_ms()
            for session in self._all_sessions():
                expires_ms = session.caller.expires_ms
                if expires_ms is not None and expires_ms + session.grace_ms <= now_ms:
                    session.end(End.EXPIRED)
            self.ration.forget_idle()
