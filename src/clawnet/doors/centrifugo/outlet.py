"""What the hub tells a connection, passed on to its client."""

from __future__ import annotations

from clawnet.core.calls.reading import Gap
from clawnet.core.errors import ClawError
from clawnet.core.live import End
from clawnet.doors.centrifugo import codes
from clawnet.doors.centrifugo.client import Client
from clawnet.doors.connections import Standing
from clawnet.hub.sessions import Session


class ClientOutlet:
    """What the hub tells, passed on to the client: the part of an Outlet that all transports
    share. write(), unsent() and retract() are the transport's own."""

    __slots__ = ()

    client: Client

    def opened(self, session: Session, standing: Standing) -> None:
        """The client's session began; the transport is to pause and resume it."""

    def gap(self, number: int, gap: Gap) -> None:
        """Tell of missing events, before what comes behind them."""
        self.client.gap(number, gap)

    def ended(self, number: int, error: ClawError) -> None:
        """A subscription is over."""
        self.client.ended(number, error)

    def dropped(self, number: int, channel: str, error: ClawError) -> None:
        """A subscription goes on without one of its channels: here each has but one."""
        self.client.ended(number, error)

    def close(self, end: End) -> None:
        """End the connection with the code for the reason."""
        self.client.disconnect(*codes.OF_END[end])
