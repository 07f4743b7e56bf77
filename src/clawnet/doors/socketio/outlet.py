"""What stands between the hub's session and a link where a version changes the shared frames."""

from __future__ import annotations

from clawnet.core.calls.reading import Gap
from clawnet.core.errors import ClawError
from clawnet.core.live import End
from clawnet.doors.socketio.talk import Link, Talk


class BeforeLink:
    """An Outlet that hands on to the link and to the talk; write() is the version's."""

    __slots__ = ("_link", "_talk")

    def __init__(self, link: Link, talk: Talk) -> None:
        self._link = link
        self._talk = talk

    def unsent(self) -> int:
        return self._link.unsent()

    def gap(self, number: int, gap: Gap) -> None:
        self._talk.gap(number, gap)

    def ended(self, number: int, error: ClawError) -> None:
        self._talk.ended(number, error)

    def dropped(self, number: int, channel: str, error: ClawError) -> None:
        self._talk.dropped(number, channel, error)

    def retract(self) -> None:
        self._link.retract()

    def close(self, end: End) -> None:
        self._link.close(end)
