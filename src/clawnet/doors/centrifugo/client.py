"""One client's side of Centrifugo's protocol, whatever carries it.

Commands are handled one after the other in the order they came, and answered in that order; only
publishes go on while others wait for their commit. What is decided at once is answered within the
turn; what has to wait (a read of the log, a new account) holds the commands behind it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping
from functools import partial
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from clawnet.core.calls.reading import Gap
from clawnet.core.channels import canonical
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    Forbidden,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from clawnet.core.events import Origin
from clawnet.core.limits import Bucket
from clawnet.doors.centrifugo import backlog, codes, commands, connecting, subs, timing
from clawnet.doors.centrifugo.backlog import Backlog
from clawnet.doors.centrifugo.codes import Ended, Failed
from clawnet.doors.centrifugo.phases import Phase
from clawnet.doors.centrifugo.shapes import origin_of
from clawnet.doors.centrifugo.subs import Plan, Sub
from clawnet.doors.centrifugo.wire import (
    NO_DATA,
    BadCommand,
    ClientInfo,
    Command,
    ConnectRequest,
    Push,
    Reply,
    StreamPosition,
    Subscribe,
    Unsubscribe,
    Wire,
)
from clawnet.hub.sessions import Session

if TYPE_CHECKING:
    from clawnet.doors.centrifugo.door import CentrifugoDoor

COMMANDS_PER_TURN = 64
TURN_MAX_S = 0.001
PUBLISHES_MAX = 512
"""How many publishes of a client wait for their commit before it is read no further."""
REST_S = 0.05
"""How long a client waits that was told that it asks too much."""
EMULATED = ("http_stream", "sse")
"""Transports whose commands come by another request, which must name the client's session."""

_log = logging.getLogger(__name__)


class Client:
    """Made by a transport, which gives it commands and is its Wire and the hub's Outlet.

    10,000 of these may stand idle: there are slots, and no queue, table or timer of its own.
    """

    # fmt: off
    __slots__ = (
        "_by_number", "_is_due", "_is_working", "_origin", "_origin_of", "_outbox", "_queue",
        "_subs", "_task", "door", "expires_ms", "has_pings", "id", "info", "is_holding",
        "is_local", "is_pinged", "is_raw", "is_uni", "left", "next_s", "phase", "session",
        "session_id", "sub_expires_ms", "transport", "user", "wheel_slot", "wire",
    )
    # fmt: on

    def __init__(
        self,
        door: CentrifugoDoor,
        wire: Wire,
        *,
        transport: str,
        is_local: bool,
        is_raw: bool,
        is_uni: bool = False,
        has_pings: bool = True,
    ) -> None:
        """`has_pings`: the protocol's own; a WebSocket may have those of its own instead."""
        self.door = door
        self.wire = wire
        self.transport = transport
        self.is_raw = is_raw
        self.is_uni = is_uni
        self.id = _new_id(door)
        self.session_id = _new_id(door) if transport in EMULATED else ""
        self.user = ""
        self.info: Raw = NO_DATA
        self.session: Session | None = None
        self.wheel_slot = -1
        self.is_local = is_local
        self.has_pings = has_pings
        self.phase = Phase.NEW
        self._subs: dict[str, Sub] | None = None
        self._by_number: dict[int, str] | None = None
        self._queue: Backlog | None = None
        self._outbox: deque[commands.Slot] | None = None
        """The answers to publishes, in order."""
        self._origin: Origin | None = None
        self._origin_of: tuple[Raw, Raw] | None = None
        self._task: object | None = None
        self._is_working = False
        self._is_due = False
        self.is_holding = False
        self.is_pinged = False
        self.left: Bucket | None = None
        """How often it may leave channels, if it did."""
        self.expires_ms: int | None = None
        self.sub_expires_ms: int | None = None
        """When the first of the subscriptions expires."""
        wheel = door.connections.wheel
        stale_s = door.connections.settings.first_command_s
        self.next_s = wheel.now_s + stale_s
        """By the wheel's time: when the next ping is due, or the connection is stale."""
        wheel.set(self, stale_s)

    # --- what a transport calls ---------------------------------------------

    def receive(self, commands: list[Command]) -> None:
        """Take the commands of one message. Never raises."""
        if self.phase is Phase.OVER:
            return
        is_alone = self._queue is None and len(commands) == 1 and not self._is_busy
        if is_alone and not self._is_waiting(commands[0]):
            # As _work() does with one, which is what nearly always comes.
            self._is_working = True
            self._handle(commands[0])
            self._is_working = False
            if self._queue is not None:
                self._work()
            return
        self._put(commands)

    def hear(self, message: bytes) -> None:
        """Take one message as it came. Never raises."""
        if self.phase is Phase.OVER:
            return
        encoding = self.wire.encoding
        try:
            pieces = encoding.split(message)
            if isinstance(pieces, list) and len(pieces) == 1:
                is_known = self.phase is not Phase.NEW
                self.receive([backlog.read(encoding, pieces[0], is_known=is_known)])
                return
        except BadCommand:
            self.disconnect(*codes.BAD_REQUEST)
            return
        self._put(pieces)

    def go_on(self) -> None:
        """The client took what was said; handle what waited for that, in the next turn."""
        if self._queue is not None and not self._is_busy:
            self._is_due = True
            self.door.sockets.loop.call_soon(self._work)

    def connect_uni(self, request: ConnectRequest) -> None:
        """Connect on a unidirectional transport: nothing is asked afterwards."""
        self.receive([Command(id=1, connect=request)])

    def lost(self) -> None:
        """The transport is gone: leave everything. Idempotent."""
        self.phase = Phase.OVER
        self._queue = self._outbox = None
        self.door.connections.wheel.clear(self)
        # While the hub stops all go at once, and nobody has to be told of everybody.
        self.leave_hub(is_told=self.door.hub.is_ready)

    def stop(self) -> None:
        """The connection is being ended by somebody else; take no more commands."""
        self.phase = Phase.OVER
        self._queue = self._outbox = None

    def on_time(self) -> float | None:
        """The wheel came round."""
        return timing.on_time(self)

    # --- what the server API calls ------------------------------------------

    def subscribe(
        self,
        channel: str,
        *,
        data: Raw = NO_DATA,
        info: Raw = NO_DATA,
        since: StreamPosition | None = None,
        overrides: Mapping[str, bool] | None = None,
        expires_ms: int | None = None,
    ) -> None:
        """Subscribe the client and tell it; nothing happens if it is subscribed already.

        What lies behind `since` follows, if it can be had. Raises ClawError.
        """
        session = self.session
        if session is None or self.phase is not Phase.OPEN:
            raise Unavailable("The client is not connected.", retry_after_s=1.0)
        if self.sub(canonical(channel)) is not None:
            return
        try:
            plan = subs.server_plan(
                self, channel, info=info, data=data, overrides=overrides, expires_ms=expires_ms
            )
        except Failed as failed:
            raise BadRequest(f"The client cannot be subscribed: {failed}.") from None
        try:
            if subs.place_at_once(self, plan, since):
                self._begin_told(plan)
                return
        except ClawError:
            subs.abandon(self, plan)
            raise
        # An event is on its way, so where the channel stands must be read; a moment later.
        self.door.spawn(self._begin_reading(plan))

    def unsubscribe(
        self, channel: str, *, code: int = 2000, reason: str = "server unsubscribe"
    ) -> bool:
        """End a subscription and tell the client; False if there is none."""
        name = canonical(channel)
        sub = self.sub(name)
        if sub is None:
            return self.door.clients.pending.cancel(self, name)
        self.drop(name, sub)
        self.push(Push(channel=sub.shown, unsubscribe=Unsubscribe(code=code, reason=reason)))
        return True

    def disconnect(self, code: int = 3503, reason: str = "force disconnect") -> None:
        """End the connection. Out of the hub first, so that nothing follows the end."""
        if self.phase is Phase.OVER:
            return
        self.stop()
        if self.session is not None:
            self.session.leave()
        self.wire.finish(code, reason)

    def refreshed(self, *, expires_ms: int | None) -> None:
        """The connection is good until then, whatever its token said. The client is told.

        Not beyond the end of a token of the hub itself, which nobody can move.
        """
        connecting.refreshed(self, expires_ms)

    # --- what is known of it -------------------------------------------------

    @property
    def world(self) -> str:
        return "main" if self.session is None else self.session.caller.world

    @property
    def is_open(self) -> bool:
        """Whether it is connected and not about to end."""
        return self.phase is Phase.OPEN

    @property
    def num_subs(self) -> int:
        return 0 if self._subs is None else len(self._subs)

    @property
    def takes_signals(self) -> bool:
        """Whether it keeps up, so that it may be told what need not be kept."""
        session = self.session
        return self.phase is Phase.OPEN and session is not None and not session.is_paused

    def sub(self, name: str) -> Sub | None:
        """Its subscription to a channel, by the channel's own name."""
        return None if self._subs is None else self._subs.get(name)

    def all_subs(self) -> list[tuple[str, Sub]]:
        """Its subscriptions, by the channels' own names."""
        return [] if self._subs is None else list(self._subs.items())

    @property
    def _is_busy(self) -> bool:
        """Whether commands are being handled, or will be in the next turn."""
        return self._is_working or self._is_due

    @property
    def is_waiting(self) -> bool:
        """Whether a command of it waits for the hub."""
        return self._task is not None

    def is_shown_on(self, name: str) -> bool:
        """Whether presence shows it on a channel that it follows."""
        sub = self.sub(name)
        return sub is not None and sub.is_present and self.phase is Phase.OPEN

    def info_on(self, name: str) -> ClientInfo:
        """How others see it on a channel."""
        sub = self.sub(name)
        chan_info = NO_DATA if sub is None else sub.info
        return ClientInfo(user=self.user, client=self.id, conn_info=self.info, chan_info=chan_info)

    def ttl_of(self, expires_ms: int | None) -> tuple[bool, int]:
        """The members `expires` and `ttl` for a time of ending."""
        if expires_ms is None:
            return False, 0
        return True, max(-(-(expires_ms - self.door.hub.retention.now_ms()) // 1000), 1)

    # --- what the hub tells (by ClientOutlet) ---------------------------------

    def gap(self, number: int, gap: Gap) -> None:
        """Events are missing: never told silently, so the client must begin anew."""
        name, sub = self._numbered(number)
        if sub is None or not sub.is_positioned:
            return
        if sub.is_server:
            self.disconnect(*codes.INSUFFICIENT_STATE)
        else:
            code, reason = codes.SUB_INSUFFICIENT_STATE
            self.unsubscribe(name, code=code, reason=reason)

    def ended(self, number: int, error: ClawError) -> None:
        """The hub ended a subscription: its right was revoked, or reading failed."""
        name, sub = self._numbered(number)
        if sub is None:
            return
        self._forget(name, sub, is_told=True)
        if isinstance(error, Forbidden | Unauthenticated):
            code, reason = codes.UNSUBSCRIBED[0], f"permission denied: {error.message}"
        else:
            code, reason = codes.SUB_INSUFFICIENT_STATE
        reason = reason[: codes.MESSAGE_MAX_CHARS]
        self.push(Push(channel=sub.shown, unsubscribe=Unsubscribe(code=code, reason=reason)))

    # --- for commands ---------------------------------------------------------

    def answer(self, reply: Reply) -> None:
        """Say the answer to a command, unless the connection ended meanwhile."""
        if self.phase is not Phase.OVER:
            self.wire.say(self.wire.encoding.reply(reply))

    def begin(self, id: int, plan: Plan) -> None:
        """Begin a subscription, answer, and tell others. No await."""
        sub, result = subs.begin(self, plan)
        self.answer(Reply(id=id, subscribe=result))
        self.announce(plan.channel.name, sub)

    def announce(self, name: str, sub: Sub) -> None:
        """Tell of the join who watches the channel, after the client's own answer."""
        if sub.announces:
            self.door.clients.announce(self, name, self.info_on(name), is_join=True)

    def put_sub(self, name: str, sub: Sub) -> None:
        """Note a subscription that has begun."""
        if self._subs is None or self._by_number is None:
            self._subs, self._by_number = {}, {}
        self._subs[name] = sub
        self._by_number[sub.number] = name
        self.watch_expiry(sub.expires_ms)

    def leave_hub(self, *, is_told: bool) -> None:
        """End the session and all that belongs to it; others are told who has left."""
        if self.session is None:
            return
        self.session.close()
        self.door.clients.discard(self)
        self._forget_all(is_told=is_told)

    def drop(self, name: str, sub: Sub) -> None:
        """End a subscription in the hub and here."""
        session = self.session
        if session is not None and not session.is_closed:
            session.unsubscribe(sub.number)
        self._forget(name, sub, is_told=True)

    def watch_expiry(self, expires_ms: int | None) -> None:
        """Look at the subscriptions again when one expires."""
        if expires_ms is not None:
            known = self.sub_expires_ms
            self.sub_expires_ms = expires_ms if known is None else min(known, expires_ms)
            timing.look_again(self)

    def expire_at(self, expires_ms: int | None) -> None:
        """The connection is over then, but for the grace."""
        self.expires_ms = expires_ms
        timing.look_again(self)

    def later(self, id: int, work: Coroutine[Any, Any, None]) -> None:
        """Let a command wait for the hub; those behind it wait for its answer."""
        self._task = self.door.spawn(self._guarded(id, work))

    def origin_on(self, name: str) -> Origin:
        """How what it publishes on a channel came in; the same object as long as it is so."""
        sub = self.sub(name)
        infos = (self.info, NO_DATA if sub is None else sub.info)
        if self._origin is None or self._origin_of != infos:
            self._origin = origin_of(self.id, self.session, *infos)
            self._origin_of = infos
        return self._origin

    def reserve(self) -> commands.Slot:
        """A place among the answers for one that comes later; give it to settle()."""
        if self._outbox is None:
            self._outbox = deque()
        slot: commands.Slot = [None]
        self._outbox.append(slot)
        return slot

    def settle(self, slot: commands.Slot, reply: Reply) -> None:
        """Say an answer for which there is a place, as soon as those before it were said."""
        slot[0] = self.wire.encoding.reply(reply)
        outbox = self._outbox
        if outbox is None:
            return
        while outbox:
            frame = outbox[0][0]
            if frame is None:
                return
            outbox.popleft()
            self.wire.say(frame)
        self._outbox = None
        if self._queue is not None and not self._is_busy:
            self._work()

    # --- inside ------------------------------------------------------------------

    def _begin_told(self, plan: Plan) -> None:
        """Begin a subscription that the client did not ask for. No await."""
        sub, result = subs.begin(self, plan)
        subscribe = Subscribe(
            recoverable=result.recoverable,
            epoch=result.epoch,
            offset=result.offset,
            positioned=result.positioned,
            data=plan.data,
        )
        self.push(Push(channel=sub.shown, subscribe=subscribe))
        self.announce(plan.channel.name, sub)

    async def _begin_reading(self, plan: Plan) -> None:
        try:
            await subs.read_start(self, plan)
            if self.phase is Phase.OPEN:
                self._begin_told(plan)
        except (ClawError, Failed):
            # Whoever asked was answered; its right ended meanwhile, or the client has gone.
            subs.abandon(self, plan)

    def _put(self, pieces: Iterable[bytes | Command]) -> None:
        if self._queue is None:
            self._queue = Backlog(self.wire.encoding)
        self._queue.add(pieces)
        if not self._is_busy:
            self._work()

    def _next(self, queue: Backlog) -> Command | None:
        """The command that is next; None if there is none, or if it ended the connection."""
        try:
            return queue.peek(is_known=self.phase is not Phase.NEW)
        except BadCommand:
            self.disconnect(*codes.BAD_REQUEST)
            return None

    def _work(self) -> None:
        """Handle what was received: a turn's share at most, the rest in the next turn."""
        self._is_due = False
        queue = self._queue
        if queue is None:
            return
        self._is_working = True
        until_s = perf_counter() + TURN_MAX_S
        for count in range(COMMANDS_PER_TURN + 1):
            command = None if self.phase is Phase.OVER else self._next(queue)
            if command is None:
                self._queue = None
                break
            if self._is_waiting(command):
                break
            if count == COMMANDS_PER_TURN or perf_counter() > until_s:
                self._is_due = True
                break
            queue.drop()
            self._handle(command)
        self._is_working = False
        if self.phase is Phase.OVER:
            return
        if self._is_due:
            self.door.sockets.loop.call_soon(self._work)
        if self.is_holding != (self._queue is not None):
            self.is_holding = not self.is_holding
            if self.is_holding:
                self.wire.hold()
            else:
                self.wire.release()

    def _is_waiting(self, command: Command) -> bool:
        """Whether the next command must wait for an answer to those before it, or until the client
        has taken what it was told: one that does not read could ask for more than fits."""
        if self._task is not None or self.wire.is_full:
            return True
        if not self._outbox:
            return False
        return command.publish is None or len(self._outbox) >= PUBLISHES_MAX

    def _handle(self, command: Command) -> None:
        try:
            if command.id == 0 and command == commands.PONG:
                self._ponged()
            elif command.connect is not None:
                if command.id == 0:
                    raise Ended(codes.BAD_REQUEST)
                connecting.connect(self, command.id, command.connect)
            elif self.phase is not Phase.OPEN:
                raise Ended(codes.BAD_REQUEST)
            else:
                commands.handle(self, command, command.id)
        except Exception as error:  # the top of a command: _failed() tells a defect from a refusal
            self._failed(command.id, error)

    async def _guarded(self, id: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # the top of a task: _failed() tells a defect from a refusal
            self._task = None
            self._failed(id, error)
        else:
            self._task = None
        self._go_on()

    def _go_on(self) -> None:
        if self._task is None and not self._is_busy:
            self._work()

    def _rested(self) -> None:
        self._task = None
        self._go_on()

    def _failed(self, id: int, error: Exception) -> None:
        if isinstance(error, Ended):
            self.disconnect(*error.code)
            return
        if isinstance(error, Failed):
            said = error.error
        elif isinstance(error, ClawError):
            said = codes.error_of(error)
            if isinstance(error, RateLimited):
                # Refusals are work as well, and who asks too much gets no more of those either.
                self._task = self.door.sockets.loop.call_later(REST_S, self._rested)
        else:
            # The hub's defect must not cost the client its connection.
            _log.error("a command failed", exc_info=error)
            said = codes.INTERNAL
        if self.phase is Phase.CONNECTING:
            connecting.failed(self, id, said)
        else:
            self.answer(Reply(id=id, error=said))

    def _ponged(self) -> None:
        if not self.is_pinged:
            raise Ended(codes.BAD_REQUEST)
        self.is_pinged = False

    def _forget_all(self, *, is_told: bool) -> None:
        """Take out all subscriptions, some in each turn. Nothing is delivered to them any more, and
        presence does not show who is gone."""
        for name, sub in [] if self._subs is None else list(islice(self._subs.items(), 256)):
            self._forget(name, sub, is_told=is_told)
        if self._subs:
            self.door.sockets.loop.call_soon(partial(self._forget_all, is_told=is_told))

    def _forget(self, name: str, sub: Sub, *, is_told: bool) -> None:
        """The hub has ended the subscription; take it out here."""
        assert self._subs is not None and self._by_number is not None
        if self._subs.get(name) is not sub:
            return
        info = self.info_on(name)
        del self._subs[name]
        self._by_number.pop(sub.number, None)
        subs.close_ticket(self, name, is_ticketed=sub.is_ticketed)
        self.door.clients.leave(self, name)
        if is_told and sub.announces:
            self.door.clients.announce(self, name, info, is_join=False)

    def _numbered(self, number: int) -> tuple[str, Sub | None]:
        name = "" if self._by_number is None else self._by_number.get(number, "")
        return name, self.sub(name)

    def push(self, push: Push) -> None:
        if self.phase is not Phase.OVER:
            self.wire.say(self.wire.encoding.push(push))


def _new_id(door: CentrifugoDoor) -> str:
    """32 hexadecimal digits that nobody can guess, grouped as clients know it."""
    text = door.hub.randomness.token_bytes(16).hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
