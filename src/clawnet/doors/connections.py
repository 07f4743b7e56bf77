"""Every connection of the process: how many, from where, and how far each was believed.

A connection is silent until it said something complete, then anonymous until
it showed a valid token, then known. Room is made by ending the oldest silent
one; a connection that was served is never ended for a newcomer. So whoever
only opens sockets cannot keep others out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from clawnet.core.live import End
from clawnet.doors.wheel import Timed, Wheel


class ConnectionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits on connections, whatever they speak."""

    connections_max: Annotated[
        int, Meta(ge=1, description="How many connections there may be at once.")
    ] = 20_000
    unauthenticated_per_address_max: Annotated[
        int, Meta(ge=1, description="How many of one address that have shown no valid token.")
    ] = 4_096
    head_max_bytes: Annotated[
        int, Meta(ge=1_024, description="The largest first line and headers of a request.")
    ] = 32_768
    head_timeout_s: Annotated[
        float,
        Meta(gt=0, description="How long a request's head, or a TLS handshake, may take to come."),
    ] = 10.0
    body_stall_s: Annotated[
        float, Meta(gt=0, description="How long a request's body may stand still.")
    ] = 30.0
    keep_alive_s: Annotated[
        float, Meta(gt=0, description="How long a connection may wait for its next request.")
    ] = 5.0
    first_command_s: Annotated[
        float,
        Meta(gt=0, description="A WebSocket that has said nothing valid by then is closed."),
    ] = 10.0
    ping_s: Annotated[
        float,
        Meta(
            gt=0,
            description="How often an idle WebSocket is pinged;"
            " one that stays silent until the next ping is taken for dead.",
        ),
    ] = 25.0
    linger_s: Annotated[
        float,
        Meta(ge=0, description="How long a closing WebSocket waits for the other side."),
    ] = 2.0
    write_high_bytes: Annotated[
        int, Meta(ge=1_024, description="A WebSocket with more unsent bytes is a slow reader.")
    ] = 262_144
    message_max_bytes: Annotated[
        int, Meta(ge=1_024, description="The largest message that a WebSocket may send.")
    ] = 65_536 + 8_192


class Standing(IntEnum):
    """How far a connection is believed. It only rises."""

    SILENT = 0
    ANONYMOUS = 1
    KNOWN = 2


class Connection(Timed, Protocol):
    """What the registry keeps. `address` is None where it says nothing (a trusted proxy)."""

    address: str | None
    standing: Standing

    def stop_reading(self) -> None:
        """The process ends: take nothing more from the client."""

    def close(self, end: End) -> None:
        """Close in the door's own manner, after what is written already."""

    def abort(self) -> None:
        """Drop the connection as it is."""


class Connections:
    """All connections of the process, and the wheel they stand in."""

    def __init__(self, settings: ConnectionSettings, wheel: Wheel) -> None:
        self.settings = settings
        self.wheel = wheel
        self.all: set[Connection] = set()
        self.on_empty: Callable[[], None] | None = None
        """Called when the last connection left."""
        # Ordered, oldest first. A plain dict would be scanned from its deleted front.
        self._silent: OrderedDict[Connection, None] = OrderedDict()
        self._silent_of: dict[str, OrderedDict[Connection, None]] = {}
        self._unauthenticated: dict[str, int] = {}

    def enter(self, connection: Connection) -> bool:
        """Take in a connection, if need be in the place of a silent one; False: no room."""
        if len(self.all) >= self.settings.connections_max and not self._evict(self._silent):
            return False
        address = connection.address
        if connection.standing < Standing.KNOWN and address is not None:
            count = self._unauthenticated.get(address, 0)
            if count >= self.settings.unauthenticated_per_address_max:
                silent = self._silent_of.get(address)
                if silent is None or not self._evict(silent):
                    return False
                count = self._unauthenticated.get(address, 0)
            self._unauthenticated[address] = count + 1
        self.all.add(connection)
        if connection.standing is Standing.SILENT:
            self._silent[connection] = None
            if address is not None:
                self._silent_of.setdefault(address, OrderedDict())[connection] = None
        return True

    def leave(self, connection: Connection) -> None:
        """The connection is over. One that never entered is no error."""
        self.wheel.clear(connection)
        if connection not in self.all:
            return
        self.all.discard(connection)
        if connection.standing is Standing.SILENT:
            self._forget_silent(connection)
        if connection.standing < Standing.KNOWN:
            self._forget_unauthenticated(connection)
        if not self.all and self.on_empty is not None:
            self.on_empty()

    def promote(self, connection: Connection, standing: Standing) -> None:
        """The connection said something complete (ANONYMOUS), or showed a token (KNOWN)."""
        if standing <= connection.standing:
            return
        if connection in self.all:
            if connection.standing is Standing.SILENT:
                self._forget_silent(connection)
            if standing is Standing.KNOWN:
                self._forget_unauthenticated(connection)
        connection.standing = standing

    def _evict(self, silent: OrderedDict[Connection, None]) -> bool:
        if not silent:
            return False
        oldest = next(iter(silent))
        self.leave(oldest)
        oldest.abort()
        return True

    def _forget_silent(self, connection: Connection) -> None:
        self._silent.pop(connection, None)
        address = connection.address
        if address is not None and (silent := self._silent_of.get(address)) is not None:
            silent.pop(connection, None)
            if not silent:
                del self._silent_of[address]

    def _forget_unauthenticated(self, connection: Connection) -> None:
        address = connection.address
        if address is None:
            return
        count = self._unauthenticated.get(address, 0) - 1
        if count > 0:
            self._unauthenticated[address] = count
        else:
            self._unauthenticated.pop(address, None)
