"""What one subscribe request follows, and how far it has come."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING

from clawnet.core.channels import Channel, parse
from clawnet.core.rights import Allowed, Coverage, Verb, classify, decide
from clawnet.hub.covered import Covered

if TYPE_CHECKING:
    from clawnet.hub.sessions import Session


class State(Enum):
    CATCHING_UP = "catching_up"
    LIVE = "live"
    ENDED = "ended"


class Subscription:
    """What one subscribe request follows, in order of the log."""

    __slots__ = (
        "__weakref__",
        "_always",
        "begun_at",
        "covered",
        "exact",
        "floors",
        "generation",
        "number",
        "offset",
        "pastless",
        "patterns",
        "seq",
        "session",
        "state",
        "task",
    )

    def __init__(
        self, session: Session, number: int, exact: dict[str, Channel], patterns: tuple[str, ...]
    ) -> None:
        self.session = session
        self.number = number
        self.exact = exact
        self.patterns = patterns
        self.state = State.CATCHING_UP
        self.generation = 0
        self.seq = 0
        """Everything up to here has been written to the session."""
        self.offset: int | None = None
        """The same as an offset, known while a single channel is followed."""
        self.floors: dict[str, int] = {}
        """Offsets at and below which a channel's events stay hidden or were seen before."""
        self.pastless: set[str] | None = None
        """Channels that its owner may follow and whose past it may not read."""
        self.begun_at = 0
        """The seq at which it began: of the pastless, what is not behind it stays hidden. 0 where
        its door has looked at how far back it may go."""
        self.covered: Covered | None = None
        """Kept while it catches up."""
        self.task: asyncio.Task[None] | None = None
        self._always = self._classified()

    @property
    def sole_name(self) -> str | None:
        """The one channel it follows, or None if it follows several."""
        if len(self.exact) == 1 and not self.patterns:
            return next(iter(self.exact))
        return None

    @property
    def is_always_allowed(self) -> bool:
        """Whether its patterns need no question channel by channel."""
        return self._always

    def may_read(self, name: str) -> bool:
        """Whether its owner may read a channel that one of its patterns covers."""
        if self._always:
            return True
        hub = self.session.hub
        return isinstance(
            decide(self.session.caller, Verb.SUBSCRIBE, parse(name), hub.directory), Allowed
        )

    def reclassify(self) -> None:
        """Take over the caller's present role and scopes."""
        self._always = self._classified()

    def _classified(self) -> bool:
        caller = self.session.caller
        return bool(self.patterns) and all(
            classify(caller, pattern) is Coverage.ALL for pattern in self.patterns
        )
