"""One client of the native WebSocket: commands in, answers and events out, in order."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from clawnet.core.callers import Caller
from clawnet.core.calls.publishing import Published
from clawnet.core.calls.reading import Gap
from clawnet.core.errors import BadRequest, ClawError, NotFound, Unauthenticated
from clawnet.doors.connections import Standing
from clawnet.doors.ws import answers, codes
from clawnet.doors.ws.commands import (
    AckCommand,
    AuthCommand,
    Command,
    PingCommand,
    PublishCommand,
    SubscribeCommand,
    UnsubscribeCommand,
    id_of,
    parse,
)
from clawnet.doors.ws.socket import SocketConnection
from clawnet.hub.sessions import Session

if TYPE_CHECKING:
    from clawnet.doors.ws.door import WebSocketDoor

_log = logging.getLogger(__name__)


class LiveConnection(SocketConnection):
    """An Outlet for the hub, a Connection for the registry."""

    __slots__ = ("_is_local", "_subscriptions")

    _door: WebSocketDoor

    def __init__(
        self,
        door: WebSocketDoor,
        *,
        handshake: bytes,
        address: str,
        standing: Standing,
        is_local: bool,
    ) -> None:
        super().__init__(door, handshake=handshake, address=address, standing=standing)
        self._is_local = is_local
        self._subscriptions: tuple[tuple[int, tuple[str, ...]], ...] = ()

    # --- Outlet: what the hub calls -----------------------------------------

    def gap(self, number: int, gap: Gap) -> None:
        """Tell of missing events, before what comes behind them."""
        self._say(answers.gap(number, gap))

    def ended(self, number: int, error: ClawError) -> None:
        """A subscription is over."""
        self._forget(number)
        self._say(answers.ended(number, error))

    def dropped(self, number: int, channel: str, error: ClawError) -> None:
        """A subscription goes on without one of its channels."""
        self._subscriptions = tuple(
            (own, tuple(name for name in channels if own != number or name != channel))
            for own, channels in self._subscriptions
        )
        self._say(answers.dropped(number, channel, error))

    # --- the session --------------------------------------------------------

    def open(self, caller: Caller) -> Session:
        """Begin the session. Raises what Hub.open() raises."""
        session = self._session = self._door.hub.open(caller, self, answers.NATIVE)
        standing = Standing.ANONYMOUS if caller.is_anonymous else Standing.KNOWN
        self._door.connections.promote(self, standing)
        return session

    # --- commands -----------------------------------------------------------

    def _handle(self, message: bytes) -> None:
        given_id: Any = None
        try:
            try:
                command = parse(message)
            except BadRequest:
                given_id = id_of(message)
                raise
            given_id = command.id
            if type(command) is PublishCommand:
                session = self._session or self._open_anonymous()
                session.publish(command, partial(self._published, given_id))
            else:
                self._command(command)
        except ClawError as error:
            self._say(answers.failed(given_id, error))
        except Exception:  # the hub's defect must not cost the client its connection
            _log.exception("a command failed")
            self._say(answers.failed(given_id, ClawError("The hub failed at this command.")))

    def _command(self, command: Command) -> None:
        match command:
            case PingCommand():
                self._say(answers.pong(command.id))
            case AuthCommand():
                self._authenticate(command)
            case SubscribeCommand():
                session = self._session or self._open_anonymous()
                outcome = session.subscribe(command.call())
                self._subscriptions += ((outcome.number, tuple(command.channels)),)
                self._say(answers.subscribed(command.id, outcome))
                for gap in outcome.gaps:
                    self.gap(outcome.number, gap)
            case UnsubscribeCommand():
                session = self._session or self._open_anonymous()
                self._unsubscribe(session, command)
            case AckCommand():
                session = self._session or self._open_anonymous()
                self._calls += 1
                self._door.spawn(self._ack(session.caller, command))
            case _:
                raise AssertionError("publish is handled before")

    def _open_anonymous(self) -> Session:
        return self.open(self._door.hub.anonymous(is_local=self._is_local))

    def _authenticate(self, command: AuthCommand) -> None:
        if self._session is not None:
            raise BadRequest(
                "This connection is authenticated already or reads without a token.",
                next="Send auth as the first action, or open another connection.",
            )
        try:
            caller = self._door.hub.authenticate(command.token)
        except Unauthenticated as error:
            self._say(answers.failed(command.id, error))
            self._begin_close(*codes.UNAUTHENTICATED)
            return
        self.open(caller)
        self._say(answers.authenticated(command.id, caller.account))

    def _unsubscribe(self, session: Session, command: UnsubscribeCommand) -> None:
        if (command.subscription is None) == (command.channels is None):
            raise BadRequest(
                "An unsubscribe names a subscription or channels.",
                next='Send "subscription": the number that subscribe answered.',
            )
        if command.subscription is not None:
            numbers = [command.subscription]
        else:
            numbers = self._followers_of(frozenset(command.channels or ()))
        for number in numbers:
            session.unsubscribe(number)
            self._forget(number)
        self._say(answers.unsubscribed(command.id, numbers))

    def _followers_of(self, names: frozenset[str]) -> list[int]:
        """The subscriptions that follow nothing but these. Raises NotFound, BadRequest."""
        found = []
        for number, channels in self._subscriptions:
            if names.issuperset(channels):
                found.append(number)
            elif names.intersection(channels):
                raise BadRequest(
                    f"Subscription {number} follows other channels as well.",
                    next="Unsubscribe by its number, and subscribe again to what remains.",
                    subscription=number,
                )
        if not found:
            raise NotFound("No subscription of this connection follows these channels.")
        return found

    def _forget(self, number: int) -> None:
        self._subscriptions = tuple(s for s in self._subscriptions if s[0] != number)

    async def _ack(self, caller: Caller, command: AckCommand) -> None:
        try:
            outcome = await self._door.hub.call(command.call(), caller=caller)
            frame = answers.acked(command.id, outcome)
        except ClawError as error:
            frame = answers.failed(command.id, error)
        except Exception:  # the top of a task
            _log.exception("an ack failed")
            frame = answers.failed(command.id, ClawError("The hub failed at this command."))
        self._calls -= 1
        self._say(frame)

    def _published(self, id: Any, outcome: Published | ClawError) -> None:
        if type(outcome) is Published:
            self._say(answers.published(id, outcome))
        else:
            assert isinstance(outcome, ClawError)
            self._say(answers.failed(id, outcome))
