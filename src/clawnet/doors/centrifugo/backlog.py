"""The commands of a client that wait for their turn, as they came.

Each is read when it is the next one: a message of many would hold up the loop if all were read at
once, and what is read is larger than what came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from clawnet.doors.centrifugo.wire import BadCommand, Command, Encoding

CONNECT_MAX_BYTES = 32_768
"""Of a connect. Whoever says it is not known yet, so no more than that is read for it: there is
room for a token, and for all the subscriptions that a connect may ask for."""


class Backlog:
    """Pieces of messages, in order, and the command that is next."""

    __slots__ = ("_encoding", "_messages", "_next")

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self._messages: deque[Iterator[bytes | Command]] = deque()
        self._next: Command | None = None

    def add(self, pieces: Iterable[bytes | Command]) -> None:
        """What one message holds."""
        self._messages.append(iter(pieces))

    def peek(self, *, is_known: bool) -> Command | None:
        """The next command, None if none is left. Raises BadCommand."""
        while self._next is None and self._messages:
            piece = next(self._messages[0], None)
            if piece is None:
                self._messages.popleft()
            elif isinstance(piece, Command):
                self._next = piece
            else:
                self._next = read(self._encoding, piece, is_known=is_known)
        return self._next

    def drop(self) -> None:
        """The next command is being handled."""
        self._next = None


def read(encoding: Encoding, piece: bytes, *, is_known: bool) -> Command:
    """A command; a short one, if nobody knows yet who says it. Raises BadCommand."""
    if not is_known:
        check_size(piece)
    return encoding.command(piece)


def check_size(connect: bytes) -> None:
    """Raises BadCommand for a connect that is too long."""
    if len(connect) > CONNECT_MAX_BYTES:
        raise BadCommand(f"a connect is at most {CONNECT_MAX_BYTES} bytes long")
