"""claw history: a channel's past."""

from __future__ import annotations

from typing import Any

import click

from clawnet.cli.options import Command, invocation
from clawnet.cli.terminal import is_terminal, note_gap, say_json, table
from clawnet.client.http import segment

_PAGE = 1_000


@click.command(cls=Command, short_help="Read a channel's past.")
@click.argument("channel")
@click.option("--since", metavar="PLACE", help="Events behind an offset, 10m, all, or a cursor.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@click.option("--reverse", is_flag=True, help="Newest first.")
def history(channel: str, since: str | None, limit: int, reverse: bool) -> None:
    """Read the past of CHANNEL: the newest events, or those behind --since.

    On a terminal it is a table, else one line of JSON for each event, in the
    form of `claw sub`; with --json the hub's own answer.
    """
    at = invocation()
    # Without a place the newest are meant, but shown in the order in which they came.
    is_backwards = reverse or since is None
    path = f"/api/v1/channels/{segment(channel)}/events"
    events: list[dict[str, Any]] = []
    gaps: list[dict[str, Any]] = []
    query: dict[str, Any] = {"since": since, "reverse": "true" if is_backwards else None}
    page: dict[str, Any] = {}
    while len(events) < limit:
        asked = min(limit - len(events), _PAGE)
        page = at.call("GET", path, query={**query, "limit": asked})
        events += page["events"]
        gaps += page.get("gaps") or ([page["gap"]] if page.get("gap") else [])
        if len(page["events"]) == 0 or page.get("next") is None:
            break
        query["before" if is_backwards else "since"] = page["next"]
    if is_backwards and not reverse:
        events.reverse()
    for gap in gaps:
        note_gap(gap["channel"], gap["first"], gap["last"], gap.get("reason", "retention"))
    if at.is_json:
        say_json({"channel": channel, "events": events, "next": page.get("next"), "gaps": gaps})
    elif is_terminal():
        _show(events)
    else:
        for event in events:
            say_json(shaped(event, channel))


def shaped(event: dict[str, Any], channel: str) -> dict[str, Any]:
    """An event in the CLI's form, under the channel name that was asked for."""
    shaped = {
        "channel": channel,
        "sender": event["actor"]["id"],
        "payload": event["data"],
        "timestamp": event["ts"],
        "id": event["id"],
        "offset": event["offset"],
    }
    if "traceparent" in event:
        shaped["traceparent"] = event["traceparent"]
    return shaped


def _show(events: list[dict[str, Any]]) -> None:
    import json

    rows = []
    for event in events:
        data = event["data"]
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
        rows.append((event["offset"], event["ts"], event["actor"]["id"], event["type"], text))
    table(("offset", "time", "sender", "type", "data"), rows, empty="There is nothing there.")
