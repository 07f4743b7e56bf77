"""Read a chain of causes: what happened because of what."""

from __future__ import annotations

import msgspec

TRACE_MAX_EVENTS = 1_000
TRACE_MAX_BYTES = 4 * 1_048_576


class ReadTrace(msgspec.Struct, frozen=True, kw_only=True):
    """The events of a chain that the caller may read by their ids. NotFound if there are none.

    `id` is an event's id, a correlation id, a W3C trace id (32 hexadecimal digits) or a
    whole traceparent. An event stands for its whole chain: the events that share its
    correlation id or trace, those that have its id as theirs, and what caused any of them.
    """

    id: str


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """`body` is the native envelopes, JSON, one per line, by seq. `roots` are the ids of the
    events at whose beginning the tree starts, in order.

    `absent` names causes that events of the chain tell of and that are not among them: the
    caller may not read them, or they are gone, or never were; which is not said. `is_cut`
    says that the chain is longer than what is given (1,000 events, 4 MiB).
    """

    id: str
    body: bytes
    count: int
    roots: list[str]
    absent: list[str]
    is_cut: bool
