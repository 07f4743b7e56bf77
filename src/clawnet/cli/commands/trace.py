"""claw trace: what happened because of what."""

from __future__ import annotations

from typing import Any

import click

from clawnet.cli.options import Command, invocation
from clawnet.cli.terminal import harmless, note, say, say_json
from clawnet.client.http import segment

DATA_MAX_CHARS = 60
INDENT_MAX = 20
"""So deep a tree is drawn; what is deeper stands there with its depth, since lines end."""

_NOT_HERE = "(not visible or gone)"


@click.command(cls=Command, short_help="Show what happened because of what.")
@click.argument("id")
def trace(id: str) -> None:
    """Show the chain of events that ID belongs to, as a tree of causes.

    ID is an event's id, a correlation id, a W3C trace id or a traceparent. Shown are the
    events that you may read: time behind the first one, channel, type, sender, data. Who
    caused what is what their senders say.
    """
    at = invocation()
    found = at.call("GET", f"/api/v1/traces/{segment(id)}")
    if at.is_json:
        say_json(found)
        return
    for line in drawn(found):
        say(line)
    if found["is_cut"]:
        note("claw: the chain is longer; this is its beginning.")


def drawn(found: dict[str, Any]) -> list[str]:
    """The tree, a line for each event, harmless on a terminal."""
    from datetime import datetime

    from clawnet.core.trace import Link, tree

    events = {event["seq"]: event for event in found["events"]}
    links = [
        Link(
            seq=seq,
            id=event["id"],
            correlation_id=event.get("correlation_id"),
            causation_id=event.get("causation_id"),
        )
        for seq, event in events.items()
    ]
    # The times are the hub's own; the shift is measured from the first event in log order.
    start = datetime.fromisoformat(events[min(events)]["ts"]) if events else None
    lines: list[str] = []
    under_absent = False
    for branch in tree(links):
        event = events[branch.seq]
        if branch.depth == 0:
            under_absent = branch.absent is not None
            if branch.absent is not None:
                lines.append(f"{_NOT_HERE} {harmless(branch.absent)}")
        depth = branch.depth + under_absent
        assert start is not None, "there is an event"
        shift_s = (datetime.fromisoformat(event["ts"]) - start).total_seconds()
        parts = (
            f"{shift_s:+.3f}s",
            event["channel"],
            event["type"],
            event["actor"]["id"],
            _short(event["data"]),
        )
        lines.append(_indent(depth) + "  ".join(harmless(part) for part in parts))
    return lines


def _indent(depth: int) -> str:
    return "  " * depth if depth <= INDENT_MAX else "  " * INDENT_MAX + f"[{depth}] "


def _short(data: Any) -> str:
    import json

    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return text if len(text) <= DATA_MAX_CHARS else text[: DATA_MAX_CHARS - 1] + "…"
