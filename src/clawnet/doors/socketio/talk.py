"""What the Socket.IO transports and the C2CP versions need of each other.

A Link is one connected client of the namespace `/`, by polling or WebSocket or on its way from one
to the other. A Talk is what is said on it: the handshake, then one version's events.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from clawnet.core.calls.reading import Gap
from clawnet.core.errors import ClawError
from clawnet.core.live import Outlet, Shape
from clawnet.hub.sessions import Session

EventHandler = Callable[[list[Any]], Awaitable[Any]]
"""Answers one event: given its arguments, returns what the client's acknowledgement callback is
given. A ClawError that it raises is answered as the version shows errors."""


class Link(Outlet, Protocol):
    """A client's connection. write() is given whole WebSocket text frames, each with one Engine.IO
    message (`4` and a Socket.IO packet); on a polling link they are unwrapped. All that is sent,
    by write(), emit() and acknowledge(), goes out in the order of the calls, over upgrades too.
    """

    sid: str
    """Names this connection to the client; never shown to others."""
    address: str
    is_local: bool
    session: Session | None
    """The hub's side: set by the talk as the client is let in. The link calls its pause() and
    resume(), and close() when the connection is gone; the talk its leave()."""

    def emit(self, name: str, *args: Any) -> None:
        """Send an event that wants no acknowledgement. The arguments are JSON-able."""

    def acknowledge(self, id: int, value: Any) -> None:
        """Answer the client's event of this acknowledgement id."""

    def disconnect(self) -> None:
        """Say that the hub ends the connection, and end it."""

    def go_on(self) -> None:
        """The talk `is_waiting()` no more: read on."""


class Talk(Protocol):
    """What is said on one link. Made as the client asks for the namespace, again if it asks once
    more after a refusal; lost() is called on each, once. Nothing of it raises but connect()."""

    def connect(self, auth: Any) -> Awaitable[None]:
        """The client asks for the namespace with this `auth`. Returns when it may enter, and
        raises ClawError with what `connect_error` says, which is `Unauthorized` for an
        Unauthenticated. Cancelled when the connection is gone before, or it takes too long."""

    def begin(self) -> None:
        """The client was told that it is in: begin to send."""

    def event(self, name: str, args: list[Any], ack_id: int | None) -> None:
        """The client sent an event. Events of one link are handled in their order."""

    def acknowledged(self, id: int, args: list[Any]) -> None:
        """The client acknowledged what was sent with this id."""

    def is_waiting(self) -> bool:
        """Whether so much waits to be handled that the link must not be read on for now; the talk
        calls the link's `go_on()` when that is over."""

    def gap(self, number: int, gap: Gap) -> None: ...
    def ended(self, number: int, error: ClawError) -> None: ...
    def dropped(self, number: int, channel: str, error: ClawError) -> None: ...

    def lost(self) -> None:
        """The connection is gone."""


class Dialect(Protocol):
    """One version of C2CP for one Talk, after its handshake."""

    version: int
    shape: Shape
    handlers: Mapping[str, EventHandler]
    observed: frozenset[str]
    """The events that who only looks on may send, too."""

    def begin(self) -> None:
        """Follow what the account may follow, and say what a client is told first."""

    def take(self, name: str, args: list[Any], answer: Callable[[Any], None]) -> bool:
        """Begin an event for whose end the next need not wait, and `answer` it once; False, and
        nothing was done, for those that have a handler to await. Raises ClawError."""

    def acknowledged(self, id: int, args: list[Any]) -> None: ...
    def gap(self, number: int, gap: Gap) -> None: ...
    def ended(self, number: int, error: ClawError) -> None: ...
    def dropped(self, number: int, channel: str, error: ClawError) -> None: ...
    def refusal(self, error: ClawError) -> Any:
        """What an acknowledgement callback is given for an error."""

    def lost(self) -> None: ...
