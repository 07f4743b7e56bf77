"""W3C Trace Context: the one header (or member) by which a chain of causes is followed across
systems. Pure: it is read and kept, never made up here.

Clawnet does not touch the tracing of the process it runs in, nor depends on one. Where
OpenTelemetry is in use, its present span is passed on by whoever publishes:

    from opentelemetry.propagate import inject
    carrier: dict[str, str] = {}
    inject(carrier)
    client.publish(channel, data, traceparent=carrier.get("traceparent"))

and taken up by whoever receives, from the event's own `traceparent`:

    extract({"traceparent": event["traceparent"]})

Source: https://www.w3.org/TR/trace-context/ (traceparent, sections 3.2 and 4).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from clawnet.core.events import Draft

TRACEPARENT_MAX_CHARS = 512

_TRACE_ID = re.compile(r"[0-9a-f]{32}\Z")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")


def admit_traceparent(text: str | None) -> str | None:
    """The traceparent in the form that is kept, or None for what is none.

    A malformed one is ignored, as the specification demands, never an error:
    it must not cost the event. Of a newer version the first four fields count.
    """
    if text is None or len(text) > TRACEPARENT_MAX_CHARS:
        return None
    found = _TRACEPARENT.match(text.strip(" \t"))
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    if not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    return f"00-{trace_id}-{parent_id}-{flags}"


def trace_id_of(traceparent: str) -> str:
    """The 32 hexadecimal digits that all events of one trace share."""
    return traceparent[3:35]


def trace_id_from(text: str) -> str | None:
    """The trace id that a text is: 32 hexadecimal digits, or a whole traceparent; else None."""
    if _TRACE_ID.match(text):
        return text if text.strip("0") else None
    traceparent = admit_traceparent(text)
    return None if traceparent is None else trace_id_of(traceparent)


def correlation_key(correlation_id: str) -> str:
    """Under which key an engine finds the events of one correlation id (Log.correlated)."""
    return f"c:{correlation_id}"


def trace_key(trace_id: str) -> str:
    """Under which key an engine finds the events of one W3C trace (Log.correlated)."""
    return f"t:{trace_id}"


def chain_keys(draft: Draft) -> tuple[str, ...]:
    """The keys under which Log.correlated finds an event; nearly all traffic has none."""
    if draft.correlation_id is None and draft.trace_id is None:
        return ()
    keys = () if draft.correlation_id is None else (correlation_key(draft.correlation_id),)
    return keys if draft.trace_id is None else (*keys, trace_key(draft.trace_id))


class FollowUp(msgspec.Struct, frozen=True, kw_only=True):
    """What an event takes over from the one that caused it, whoever says it."""

    correlation_id: str
    causation_id: str
    traceparent: str | None


class _Cause(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    correlation_id: str | None = None
    traceparent: str | None = None


def follow_up(body: bytes) -> FollowUp:
    """What goes on from an event, given its native envelope: it is the cause, its chain and its
    trace go on, and where it began none, it becomes the beginning of one."""
    cause = _decode_cause(body)
    return FollowUp(
        correlation_id=cause.correlation_id or cause.id,
        causation_id=cause.id,
        traceparent=cause.traceparent,
    )


_decode_cause = msgspec.json.Decoder(_Cause).decode


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """What places an event in a chain of causes; the rest of its envelope is not looked at."""

    seq: int
    id: str
    correlation_id: str | None = None
    causation_id: str | None = None


class Branch(msgspec.Struct, frozen=True, kw_only=True):
    """An event in the tree. `depth` is 0 for a root; `absent` names the cause of one that is
    a root only because its cause is not among the events."""

    seq: int
    depth: int
    absent: str | None = None


def tree(links: Sequence[Link]) -> list[Branch]:
    """Events as a tree of causes, in the order in which it is printed: each before what it
    caused, siblings by seq.

    An event hangs below the one that its causation id names, else below the one whose id is
    its correlation id. Both are the sender's word. A cause is older than what it causes, so
    one that is not is none: whatever is claimed, this ends and shows each event once.
    """
    by_id = {link.id: link for link in links}
    below: dict[int, list[Link]] = {}
    roots: list[tuple[Link, str | None]] = []
    for link in sorted(links, key=lambda link: link.seq):
        parent = by_id.get(link.causation_id or link.correlation_id or "")
        if parent is not None and parent.seq < link.seq:
            below.setdefault(parent.seq, []).append(link)
        else:
            absent = None if parent is not None else link.causation_id
            roots.append((link, absent))
    found: list[Branch] = []
    # A stack, not recursion: a chain may be as deep as it has events.
    waiting = [(link, 0, absent) for link, absent in reversed(roots)]
    while waiting:
        link, depth, absent = waiting.pop()
        found.append(Branch(seq=link.seq, depth=depth, absent=absent))
        waiting += [(child, depth + 1, None) for child in reversed(below.get(link.seq, ()))]
    return found
