"""Events as the command line tells them: one line of compact JSON for each."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from clawnet.cli.terminal import harmless_json
from clawnet.client.wire import Signal
from clawnet.core.channels import ALIASES
from clawnet.core.events import Event


class Line(msgspec.Struct, frozen=True):
    """An event in the CLI's form. The payload's bytes are the sender's.

    A signal is kept nowhere: it has neither time nor id nor offset.
    """

    channel: str
    sender: str
    payload: msgspec.Raw
    timestamp: str | None = None
    id: str | None = None
    offset: int | None = None


class TracedLine(Line, frozen=True):
    """An event that came with a trace context, which other lines do not mention."""

    traceparent: str | None = None


class Lines:
    """Makes the lines of a reader, who is answered with the channel names that it used."""

    def __init__(self, channels: Collection[str]) -> None:
        given = set(channels)
        self._names = {
            name: alias for alias, name in ALIASES.items() if alias in given and name not in given
        }

    def shaped(self, event: Event | Signal) -> Line:
        """The event in the CLI's form."""
        name = self._names.get(event.channel, event.channel)
        if isinstance(event, Signal):
            return Line(name, event.actor.id, event.data)
        parts = (name, event.actor.id, event.data, event.ts, event.id, event.offset)
        return TracedLine(*parts, event.traceparent) if event.traceparent else Line(*parts)

    def line(self, event: Event | Signal) -> bytes:
        """The event as a line, harmless on a terminal and equal as JSON."""
        return encoded(self.shaped(event))


def encoded(line: Line) -> bytes:
    """The line's bytes, with the newline."""
    return harmless_json(msgspec.json.encode(line).decode()).encode() + b"\n"
