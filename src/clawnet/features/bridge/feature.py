"""Publishes the hub's events into a Centrifugo, and tells it who may not follow any more.

Two durable places in the log: up to `sent` every event was published there, up to `rights` every
narrowing was told. Both are stored behind, so that a crash repeats and never skips. Before any
event is published the narrowings so far are told: what was said after a revoke reaches nobody who
was revoked before Centrifugo, too. The hub itself waits for none of this.

One request holds one event of a channel at most, and the next of a channel goes when that is
there: otherwise one that fails would come behind those that followed it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.channels import parse
from clawnet.core.claw import Said, asked_on, claw_data, names_of, said
from clawnet.core.errors import ClawError
from clawnet.core.events import Stored
from clawnet.core.positions import branch_of
from clawnet.core.rights import Allowed, Verb, decide
from clawnet.core.units import Put, Unit
from clawnet.features.bridge.centrifugo import Centrifugo, Command, Down, Rejected, Reply
from clawnet.features.bridge.orders import (
    CHANNELS,
    RIGHTS_CHANGED,
    Empty,
    End,
    Leave,
    Order,
    order_of,
)
from clawnet.hub.features import Feature, Row

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

WORLD = "main"
"""Centrifugo knows one world: a connection's user is an account of it."""

ROOTS = frozenset({"public", "agent", "room", "dm", "system"})
"""Namespaces whose channels its clients may follow (deploy/centrifugo declares these)."""

KEY = "bridge/centrifugo"
CHUNK_EVENTS = 500
COMMANDS_MAX = 200
"""In one request."""
RECORD_EVERY_S = 1.0
LOOK_AGAIN_S = 10.0
TELL_AGAIN_S = 5.0
"""A subscription that Centrifugo had asked about before the right was taken may come into force
after it was told; so it is told once more, when its question has timed out at the latest."""
AGAIN_MAX = 1_000
RETRY_MIN_S = 0.1
RETRY_MAX_S = 15.0

_log = logging.getLogger(__name__)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """As stored under KEY."""

    epoch: str
    sent: int
    rights: int


class Publication(NamedTuple):
    """One event on one name, on its way."""

    name: str
    command: Command


class Again(NamedTuple):
    """Orders to be told once more; `after` is the place before their events."""

    due_s: float
    after: int
    orders: tuple[Order, ...]


class BridgeFeature(Feature):
    """Follows the log for one Centrifugo."""

    def __init__(self, centrifugo: Centrifugo) -> None:
        self._centrifugo = centrifugo
        self._hub: Hub
        self._sent = 0
        self._rights = 0
        self._rights_head = 0
        """The newest event that may be a narrowing."""
        self._upto = 0
        """Where `_sent` will be when `_pending` is empty."""
        self._pending: list[Publication] = []
        self._orders: list[Order] = []
        self._orders_upto = 0
        self._again: deque[Again] = deque()
        self._names: frozenset[str] = frozenset()
        self._names_seen = 0
        self._news = asyncio.Event()
        self._stored: tuple[int, int] | None = None
        self._recorded_s = 0.0
        self._is_down = False

    @property
    def lag(self) -> int:
        """How far behind the log Centrifugo is told, in places."""
        return max(self._hub.fanout.position - self._sent, 0)

    # --- Feature ------------------------------------------------------------

    def register(self, hub: Hub) -> None:
        """Nothing is asked of it: it follows."""
        self._hub = hub

    async def load(self) -> None:
        """Go on where the run before was. The first run begins with what is said from now on."""
        hub = self._hub
        head = hub.fanout.position
        entries = await hub.storage.read(lambda engine: engine.scan("bridge"))
        stored = [entry.value for entry in entries if entry.key == KEY]
        self._rights_head = head
        if not stored:
            self._sent = self._rights = head
            try:
                # Now: a crash before the first event was told must not skip it.
                await self._record()
            except ClawError as error:
                # A full disk keeps no hub from starting; it is stored as soon as it can be.
                _log.warning("where the bridge begins is not stored: %s", error.message)
            return
        record = msgspec.json.decode(stored[0], type=Record)
        good = branch_of(record.epoch, epochs=hub.log_epochs, last_seq=head)
        self._sent, self._rights = min(record.sent, good), min(record.rights, good)

    async def run(self) -> None:
        """Publish and tell, until the hub closes."""
        try:
            await self._follow()
        finally:
            await self._centrifugo.close()

    async def _follow(self) -> None:
        """Wait when there is nothing to tell, and longer and longer while Centrifugo is down."""
        retry_s = RETRY_MIN_S
        while True:
            self._news.clear()
            try:
                is_more = await self._round()
            except (Down, Rejected) as why:
                if not self._is_down:
                    self._is_down = True
                    _log.warning("Centrifugo is not told of events, they wait: %s", why)
                await self._record_if_due()
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, RETRY_MAX_S)
                continue
            if self._is_down:
                self._is_down = False
                _log.warning("Centrifugo answers again; %d places in the log to go", self.lag)
            retry_s = RETRY_MIN_S
            await self._record_if_due()
            if not is_more:
                await self._rest()

    async def flush(self) -> None:
        """Store how far it is."""
        await self._record()

    def metrics(self) -> list[Row]:
        """How far behind Centrifugo is."""
        text = "Newest places of the log that Centrifugo in front was not told of."
        return [("clawnet_bridge_lag_events", "gauge", text, self.lag)]

    def stored(self, stored: list[Stored]) -> None:
        """Something new to tell."""
        for event in stored:
            if event.world == WORLD and event.channel in CHANNELS:
                self._rights_head = event.seq
        self._news.set()

    # --- inside -------------------------------------------------------------

    async def _rest(self) -> None:
        """Wait for news, or until something is due."""
        wait_s = LOOK_AGAIN_S
        if self._again:
            wait_s = min(wait_s, self._again[0].due_s - self._hub.clock.steady_s())
        if self._stored != self._place():
            wait_s = min(wait_s, RECORD_EVERY_S)
        try:
            async with asyncio.timeout(max(wait_s, 0.01)):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _round(self) -> bool:
        """One step; whether there is more to do. Raises Down, Rejected."""
        await self._tell_rights()
        if not self._pending:
            await self._read_on()
        if self._pending:
            await self._publish_some()
        if not self._pending:
            self._sent = max(self._sent, self._upto)
        return bool(self._pending) or self._sent < self._hub.fanout.position

    async def _read_on(self) -> None:
        """Take up the next piece of the log."""
        hub, names, after = self._hub, self._followed(), self._sent
        head = hub.fanout.position
        chunk = await hub.storage.read(
            lambda log: log.read_log(
                WORLD, names, after_seq=after, up_to_seq=head, limit=CHUNK_EVENTS
            )
        )
        for missing in chunk.missing:
            _log.warning(
                "Centrifugo was never told of %s: offsets %d to %d were trimmed before",
                missing.channel, missing.first, missing.last,
            )  # fmt: skip
        pending: list[Publication] = []
        for body in chunk.body.split(b"\n") if chunk.count else ():
            event = said(body)
            for name in await self._untold(event):
                publish = {
                    "channel": name,
                    "data": msgspec.Raw(claw_data(event)),
                    "idempotency_key": event.id,
                }
                pending.append(Publication(name, {"publish": publish}))
        # Together: what fails before is read again from the same place.
        self._upto = max(after, head if chunk.is_end else chunk.seq)
        self._pending = pending

    async def _untold(self, event: Said) -> list[str]:
        """The names whose subscribers at Centrifugo have to be told of an event.

        It tells those of the name on which it asked itself, but not if it never had the answer.
        """
        own = asked_on(event)
        if own is None or not await self._hub.told.is_told(event.id):
            return names_of(event)
        return [name for name in names_of(event) if name != own]

    async def _publish_some(self) -> None:
        """Publish the first that waits of each channel. Raises Down if any has to be repeated."""
        wave: dict[str, Publication] = {}
        rest: list[Publication] = []
        for publication in self._pending:
            if publication.name in wave or len(wave) >= COMMANDS_MAX:
                rest.append(publication)
            else:
                wave[publication.name] = publication
        failed = await self._publish(list(wave.values()))
        # Those that failed stay before what follows them.
        self._pending = failed + rest
        if failed:
            raise Down("it could not take some events")

    async def _publish(self, wave: list[Publication]) -> list[Publication]:
        """Publish; returns what has to be tried again. What never passes is left out and logged."""
        try:
            # Each is on a channel of its own, so they need not wait for each other.
            replies = await self._centrifugo.batch([one.command for one in wave], parallel=True)
        except Rejected as why:
            if len(wave) == 1:
                _log.warning("Centrifugo refuses an event on %s for good: %s", wave[0].name, why)
                return []
            # One of them cannot pass; the others can.
            return [
                again for number in range(len(wave))
                for again in await self._publish(wave[number : number + 1])
            ]  # fmt: skip
        again = []
        for publication, reply in zip(wave, replies, strict=True):
            if reply.error is not None and reply.error.is_passing:
                again.append(publication)
            elif reply.error is not None:
                _log.warning(
                    "Centrifugo refuses an event on %s for good: %d %s",
                    publication.name, reply.error.code, ascii(reply.error.message[:100]),
                )  # fmt: skip
        return again

    def _followed(self) -> frozenset[str]:
        """The known channels that its clients may follow."""
        listed = self._hub.fanout.world(WORLD).names_listed
        new = listed[self._names_seen :]
        if new:
            self._names_seen = len(listed)
            self._names |= {name for name in new if name.partition(".")[0] in ROOTS}
        return self._names

    # --- narrowings ---------------------------------------------------------

    async def _tell_rights(self) -> None:
        """Tell every narrowing up to now. Raises Down."""
        while self._orders or self._rights < self._rights_head:
            if not self._orders:
                await self._read_rights()
            await self._obey(self._orders)
            if self._orders:
                self._tell_again(tuple(self._orders))
            self._orders = []
            self._rights = self._orders_upto
        now_s = self._hub.clock.steady_s()
        while self._again and self._again[0].due_s <= now_s:
            await self._obey(self._again[0].orders)
            self._again.popleft()

    async def _read_rights(self) -> None:
        hub, after = self._hub, self._rights
        head = hub.fanout.position
        chunk = await hub.storage.read(
            lambda log: log.read_log(
                WORLD, CHANNELS, after_seq=after, up_to_seq=head, limit=CHUNK_EVENTS
            )
        )
        bodies = chunk.body.split(b"\n") if chunk.count else []
        # Repeated ones are told once, so that a flood of locks costs Centrifugo little.
        self._orders = list(dict.fromkeys(o for o in map(order_of, bodies) if o is not None))
        if chunk.missing:
            _log.warning("narrowings were trimmed before Centrifugo was told: all begin anew")
            users = ["", *(account.id for account in hub.directory.accounts(WORLD))]
            self._orders = [End(user, *RIGHTS_CHANGED) for user in users]
        self._orders_upto = max(after, head if chunk.is_end else chunk.seq)

    def _tell_again(self, orders: tuple[Order, ...]) -> None:
        due_s = self._hub.clock.steady_s() + TELL_AGAIN_S
        if len(self._again) >= AGAIN_MAX:
            last = self._again.pop()
            orders = tuple(dict.fromkeys((*last.orders, *orders)))
            self._again.append(Again(due_s, last.after, orders))
            return
        self._again.append(Again(due_s, self._rights, orders))

    async def _obey(self, orders: Iterable[Order]) -> None:
        """Tell orders that still hold. Raises Down."""
        ends = [order for order in orders if isinstance(order, End)]
        leaves = [order for order in orders if isinstance(order, Leave)]
        empties = [order for order in orders if isinstance(order, Empty)]
        for start in range(0, len(empties), COMMANDS_MAX):
            leaves += await self._present(empties[start : start + COMMANDS_MAX])
        commands: list[Command] = [
            {"unsubscribe": {"user": leave.user, "channel": leave.channel}}
            for leave in dict.fromkeys(leaves)
            # The right may have been given again meanwhile.
            if not self._may_follow(leave.user, leave.channel)
        ]
        commands += [
            {"disconnect": {"user": e.user, "disconnect": {"code": e.code, "reason": e.reason}}}
            for e in ends
        ]
        for start in range(0, len(commands), COMMANDS_MAX):
            some = commands[start : start + COMMANDS_MAX]
            for reply in await self._told(some):
                if reply is not None:
                    _log.warning("Centrifugo refuses to take a right away: %s", ascii(reply[:100]))

    async def _present(self, empties: list[Empty]) -> list[Leave]:
        """Who is on these channels."""
        asked: list[Command] = [{"presence": {"channel": one.channel}} for one in empties]
        found: list[Leave] = []
        for one, reply in zip(empties, await self._batch(asked), strict=True):
            if reply.presence is not None:
                users = {client.user for client in reply.presence.presence.values()}
            else:
                # It keeps no presence there: anybody may be on it.
                users = {account.id for account in self._hub.directory.accounts(WORLD)} | {""}
            found += [Leave(user, one.channel) for user in sorted(users)]
        return found

    async def _told(self, commands: list[Command]) -> list[str | None]:
        return [
            None if reply.error is None else f"{reply.error.code} {reply.error.message}"
            for reply in await self._batch(commands)
        ]

    async def _batch(self, commands: list[Command]) -> list[Reply]:
        """Raises Down, also for what passes by itself: the whole is told again then."""
        try:
            replies = await self._centrifugo.batch(commands)
        except Rejected as why:
            # Nothing may be left out here.
            raise Down(f"it refuses to take rights away: {why}") from None
        for reply in replies:
            if reply.error is not None and reply.error.is_passing:
                raise Down(f"error {reply.error.code}")
        return replies

    def _may_follow(self, user: str, name: str) -> bool:
        try:
            channel = parse(name)
        except ClawError:
            return False
        caller = Caller(account=None, scopes=frozenset({"events:read"}))
        if user:
            account = self._hub.directory.account(WORLD, user)
            if account is None or account.is_deleted:
                return False
            caller = Caller(account=account.id, role=account.role, kind=account.kind)
        decision = decide(caller, Verb.SUBSCRIBE, channel, self._hub.directory)
        return isinstance(decision, Allowed)

    # --- how far it is ------------------------------------------------------

    def _place(self) -> tuple[int, int]:
        rights = self._again[0].after if self._again else self._rights
        return self._sent, rights

    async def _record_if_due(self) -> None:
        now_s = self._hub.clock.steady_s()
        if self._stored == self._place() or now_s - self._recorded_s < RECORD_EVERY_S:
            return
        self._recorded_s = now_s
        try:
            await self._record()
        except ClawError as error:
            _log.warning("how far Centrifugo was told is not stored: %s", error.message)

    async def _record(self) -> None:
        place = self._place()
        if self._stored == place:
            return
        record = Record(epoch=self._hub.log_epoch, sent=place[0], rights=place[1])
        change = Put(KEY, msgspec.json.encode(record).decode())
        await self._hub.committer.commit(Unit(changes=(change,)))
        self._stored = place
