"""What is said on one link: the handshake, then one version's events, one after the other.

A Conversation is the Talk of every link. It knows who speaks (`caller`, as the hub has it now),
holds the hub's session and gives each event to its Dialect (v1.py, v2.py), which answers it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from clawnet.core.callers import Caller
from clawnet.core.calls.live import Subscribe, Subscribed
from clawnet.core.calls.reading import Gap
from clawnet.core.calls.tasks import SYSTEM_CHANNEL, TASKS_CHANNEL
from clawnet.core.channels import LOBBY, parse
from clawnet.core.cursors import Since
from clawnet.core.errors import ClawError, Forbidden, NotFound, Unauthenticated, Unavailable
from clawnet.core.live import Outlet
from clawnet.core.rights import Allowed, Verb, decide
from clawnet.doors.socketio.handshake import (
    Admitted,
    Asked,
    admit,
    is_ignored,
    read_auth,
    reported,
)
from clawnet.doors.socketio.talk import Dialect, Link
from clawnet.hub.hub import Hub
from clawnet.hub.sessions import Session

if TYPE_CHECKING:
    from clawnet.doors.socketio.v2 import Version2

WAITING_HIGH = 64
"""With so many events waiting the link is not read on."""
WAITING_LOW = 16
WAITING_MAX = 1_024
"""What was read already may be more; beyond this it is refused."""
RESTORED_LOOKS_MAX = 60
RESTORED_EVERY_S = 0.5
"""How often a client that waits for a hub that restores looks again. It is not let in before:
what a warden hands back would be shown to it as new."""
HANDLER_MAX_S = 60.0
"""No event takes longer; the hub answers each of its calls long before."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class _Event(NamedTuple):
    name: str
    args: list[Any]
    ack_id: int | None


class Conversations:
    """All of one door: `door.talk(link)` makes a Conversation. Which agent is on which of them,
    and what a version's conversations share."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.all: set[Conversation] = set()
        """Those that are in."""
        self.agents: dict[tuple[str, str], Conversation] = {}
        """The one by which an agent speaks, by world and account."""
        self._shared: dict[Any, Any] = {}

    def __call__(self, link: Link) -> Conversation:
        return Conversation(self, link)

    def share(self, make: Callable[[Conversations], T]) -> T:
        """What all conversations of the door have in common: made when it is first asked for."""
        found = self._shared.get(make)
        if found is None:
            found = self._shared[make] = make(self)
        shared: T = found
        return shared

    def enter(self, conversation: Conversation) -> None:
        """A client is in. The newer connection of an agent wins over the older one."""
        self.all.add(conversation)
        key = conversation.key
        if conversation.is_agent and key is not None:
            older = self.agents.get(key)
            self.agents[key] = conversation
            if older is not None:
                older.replaced()

    def leave(self, conversation: Conversation) -> None:
        """A client is gone."""
        self.all.discard(conversation)
        key = conversation.key
        if key is not None and self.agents.get(key) is conversation:
            del self.agents[key]


class Conversation:
    """A Talk; and what its Dialect needs of it."""

    def __init__(self, door: Conversations, link: Link) -> None:
        self.door = door
        self.hub = door.hub
        self.link = link
        self.session: Session | None = None
        """The hub's side, from connect() on."""
        self.asked: Asked | None = None
        """What the client said as it connected."""
        self.is_agent = False
        """Whether it speaks for its account; else it only looks on."""
        self.given_id = ""
        """The agent's id as the client spelled it."""
        self.session_token: str | None = None
        self.is_over = False
        """Nothing more is sent. What was received before is still handled."""
        self.given: set[str] = set()
        """Of which channels the next answer holds events: a handler adds them as it returns, so
        that a revoke takes the answer back while it is unsent."""
        self._caller: Caller | None = None
        self._dialect: Dialect | None = None
        self._waiting: deque[_Event] = deque()
        self._is_held = False
        self._worker: asyncio.Task[None] | None = None

    # --- who speaks ---------------------------------------------------------

    @property
    def caller(self) -> Caller:
        """Who speaks, with the rights of now; whether it still may is asked by each call."""
        session = self.session
        if session is not None and not session.is_closed:
            return session.caller
        assert self._caller is not None, "nobody is in"
        return self._caller

    @property
    def account(self) -> str | None:
        """The account's id; None for who looks on with the shared secret."""
        return self.caller.account

    @property
    def world(self) -> str:
        return self.caller.world

    @property
    def key(self) -> tuple[str, str] | None:
        """World and account."""
        caller = self._caller
        return None if caller is None or caller.account is None else (caller.world, caller.account)

    @property
    def dialect(self) -> Dialect:
        assert self._dialect is not None, "nobody is in"
        return self._dialect

    # --- what a Dialect uses ------------------------------------------------

    async def call(self, request: Any) -> Any:
        """A call of core.calls by who speaks. Raises ClawError."""
        return await self.hub.call(request, caller=self.caller)

    @property
    def is_open(self) -> bool:
        """Whether anything may be sent: neither we nor the hub have ended it."""
        return not (self.is_over or self.session is None or self.session.is_closed)

    def emit(self, name: str, *args: Any) -> None:
        """Send an event that wants no acknowledgement."""
        if self.is_open:
            self.link.emit(name, *args)

    def follow(self, *channels: str, since: Since | dict[str, Since] | None = None) -> Subscribed:
        """Follow channels and patterns, in order of the log. Raises ClawError."""
        session = self.session
        if session is None:
            raise Unauthenticated("This connection is over.", next="Connect again.")
        return session.subscribe(Subscribe(channels=channels, since=since))

    def names(self) -> tuple[str, ...]:
        """The channels and patterns of who speaks: what is said to all and to it, and work."""
        caller = self.caller
        account = caller.account
        if not caller.allows("events:read"):
            return ()
        if account is None:
            lobby = decide(caller, Verb.SUBSCRIBE, parse(LOBBY), self.hub.directory)
            return (LOBBY,) if isinstance(lobby, Allowed) else ()
        names = [LOBBY, "room.*", f"dm.{account}.*", f"dm.*.{account}"]
        if self.is_agent:
            names.append(TASKS_CHANNEL(account))
        if caller.role == "master":
            names.append(SYSTEM_CHANNEL)
        return tuple(names)

    def is_reader_of(self, channel: str) -> bool:
        """Whether who speaks may read a channel at this moment."""
        asked = decide(self.caller, Verb.READ, parse(channel), self.hub.directory)
        return isinstance(asked, Allowed)

    def end(self) -> None:
        """End the connection from our side; what is handled now goes on to its end."""
        if self.is_over:
            return
        self._finish()
        self.link.disconnect()

    def replaced(self) -> None:
        """The agent came by a newer connection. That is another one's leaving, not the agent's."""
        self.end()

    # --- Talk ---------------------------------------------------------------

    async def connect(self, auth: Any) -> None:
        """Let a client in, or raise what it is told."""
        asked = read_auth(auth)
        # Many clients do not come again by themselves behind a refusal. The transport's deadline
        # for a CONNECT closes the connection, and then they do.
        for _ in range(RESTORED_LOOKS_MAX):
            if self.hub.state != "restoring" or self.is_over:
                break
            await asyncio.sleep(RESTORED_EVERY_S)
        self.hub.refuse_unless_ready()
        link = self.link
        admitted = await admit(self.hub, asked, address=link.address, is_local=link.is_local)
        report = reported(asked) if admitted.is_agent else None
        if report is not None:
            try:
                await self.hub.call(report, caller=admitted.caller)
            except ClawError as error:
                if not is_ignored(error):
                    raise
        if self.is_over:
            raise Unauthenticated("This connection is over.", next="Connect again.")
        self._enter(asked, admitted)

    def begin(self) -> None:
        """The client knows that it is in."""
        if self.is_over or self._dialect is None:
            return
        try:
            self._dialect.begin()
        except ClawError as error:
            # Between connect() and here its rights or the hub changed.
            self.emit("error", self._dialect.refusal(error))
            self.end()
            return
        except Exception:  # a defect of the version must not take the transport's loop with it
            _log.exception("a conversation failed to begin")
            self.end()

    def event(self, name: str, args: list[Any], ack_id: int | None) -> None:
        """Handle an event behind those that came before it."""
        event = _Event(name, args, ack_id)
        if self._dialect is None or self.is_over:
            return
        if self._worker is None and self._is_taken(event):
            return
        if len(self._waiting) >= WAITING_MAX:
            error = Unavailable("Too many events of this connection wait.", retry_after_s=1.0)
            self._answer(ack_id, self._dialect.refusal(error))
            return
        self._waiting.append(event)
        if len(self._waiting) >= WAITING_HIGH:
            self._is_held = True
        if self._worker is None:
            self._worker = self.hub.spawn(self._work())

    def acknowledged(self, id: int, args: list[Any]) -> None:
        """The client's callback for what was sent with this id."""
        if self._dialect is not None and not self.is_over:
            self._dialect.acknowledged(id, args)

    def is_waiting(self) -> bool:
        """Whether the link must not be read on; `link.go_on()` is called when it may."""
        return self._is_held

    def gap(self, number: int, gap: Gap) -> None:
        if self._dialect is not None and not self.is_over:
            self._dialect.gap(number, gap)

    def ended(self, number: int, error: ClawError) -> None:
        if self._dialect is not None and not self.is_over:
            self._dialect.ended(number, error)

    def dropped(self, number: int, channel: str, error: ClawError) -> None:
        if self._dialect is not None and not self.is_over:
            self._dialect.dropped(number, channel, error)

    def lost(self) -> None:
        """The connection is gone. What it had sent before is handled to its end: a client may
        say something and leave at once."""
        self._finish()
        if self.session is not None:
            self.session.close()

    # --- inside -------------------------------------------------------------

    def _enter(self, asked: Asked, admitted: Admitted) -> None:
        """No await in here: the session, its rights and whose connection counts are of one
        moment. Raises what Hub.open() raises."""
        self.asked = asked
        self.is_agent = admitted.is_agent
        self.given_id = admitted.given_id
        self.session_token = admitted.session_token
        self._caller = admitted.caller
        dialect: Dialect
        outlet: Outlet
        if asked.version == 2:
            from clawnet.doors.socketio.v2 import Version2

            spoken: Version2 = Version2(self)
            dialect, outlet = spoken, spoken.outlet
        else:
            from clawnet.doors.socketio.v1 import Version1

            spoken_1 = Version1(self)
            dialect, outlet = spoken_1, spoken_1.outlet
        # Work that is given to an agent must not count as sent because somebody looks on.
        session = self.hub.open(
            admitted.caller, outlet, dialect.shape, is_onlooker=not admitted.is_agent
        )
        self.session = self.link.session = session
        self._dialect = dialect
        self.door.enter(self)
        if admitted.session_token is None and admitted.caller.account is not None:
            self.hub.refusals.let_in(admitted.caller, "Socket.IO")

    def _finish(self) -> None:
        if self.is_over:
            return
        self.is_over = True
        self.door.leave(self)
        session = self.session
        if session is not None:
            # As hub.sessions.Session.end() does where it is the hub that ends it.
            self._caller = session.caller
            session.leave()
        if self._dialect is not None:
            try:
                self._dialect.lost()
            except Exception:  # a defect of the version must not keep the transport from closing
                _log.exception("a conversation failed to end")

    async def _work(self) -> None:
        """Handle what waits, in order."""
        try:
            while self._waiting:
                event = self._waiting.popleft()
                if self._is_held and len(self._waiting) <= WAITING_LOW:
                    self._is_held = False
                    self.link.go_on()
                if not self._is_taken(event):
                    await self._handle(event)
        finally:
            self._worker = None

    def _is_taken(self, event: _Event) -> bool:
        """Whether the version has begun an event for which the next need not wait."""
        dialect = self.dialect
        if self.is_over or not self.is_agent:
            return False

        def answer(value: Any) -> None:
            self._answer(event.ack_id, value)

        try:
            return dialect.take(event.name, event.args, answer)
        except ClawError as error:
            answer(dialect.refusal(error))
        except Exception:  # the hub's defect must not cost the client its connection
            _log.exception("an event failed")
            answer(dialect.refusal(ClawError("The hub failed at this event.")))
        return True

    async def _handle(self, event: _Event) -> None:
        dialect = self.dialect
        try:
            handler = dialect.handlers.get(event.name)
            if handler is None:
                raise NotFound(
                    f"There is no event {ascii(event.name[:80])}.",
                    next="Use one of the events that the protocol's document lists.",
                )
            if not self.is_agent and event.name not in dialect.observed:
                raise Forbidden(
                    "A connection without an agent_id only looks on.",
                    next="Connect with the agent_id that you speak for.",
                    reason="observer",
                )
            async with asyncio.timeout(HANDLER_MAX_S):
                value = await handler(event.args)
        except ClawError as error:
            value = dialect.refusal(error)
        except TimeoutError:
            value = dialect.refusal(
                Unavailable("The hub took too long at this event.", retry_after_s=1.0)
            )
        except Exception:  # the hub's defect must not cost the client its connection
            _log.exception("an event failed")
            value = dialect.refusal(ClawError("The hub failed at this event."))
        self._answer(event.ack_id, value)

    def _answer(self, ack_id: int | None, value: Any) -> None:
        if ack_id is not None and self.is_open:
            self.link.acknowledge(ack_id, value)
            if self.session is not None:
                for name in self.given:
                    self.session.given(name)
        self.given.clear()
