"""claw logs: what the hub logged, what became of tasks, the audit trail."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from clawnet.cli.options import Command, invocation
from clawnet.cli.patience import again
from clawnet.cli.terminal import harmless, json_text, say, say_json
from clawnet.core.errors import ClawError

_EVERY_S = 1.0


@click.command(cls=Command, short_help="Read the hub's logs: server, tasks, audit.")
@click.argument(
    "kind", type=click.Choice(["server", "tasks", "audit"]), default="server", required=False
)
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True)
@click.option("--follow", is_flag=True, help="Go on with what comes.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N records.")
def logs(kind: str, limit: int, follow: bool, count: int | None) -> None:
    """Read the newest records of a log, oldest first. For masters."""
    at = invocation()
    after: int | None = None
    left = count
    while True:
        query = {"kind": kind, "limit": limit, "after": after}
        page = _page(query, is_first=after is None)
        for record in page["records"][:left]:
            if at.is_json:
                say_json(record)
            else:
                say(_line(kind, record))
        if left is not None:
            left -= len(page["records"][:left])
        if not follow or left == 0:
            return
        sys.stdout.flush()
        is_full = len(page["records"]) == limit and after is not None
        after = page["next"]
        if not is_full:
            time.sleep(_EVERY_S)


def _page(query: dict[str, Any], *, is_first: bool) -> dict[str, Any]:
    at = invocation()
    try:
        found: dict[str, Any] = again(
            lambda: at.hub().call("GET", "/api/v1/logs", query=query), is_first=is_first
        )
    except ClawError as error:
        raise at.explained(error) from None
    return found


def _line(kind: str, record: dict[str, Any]) -> str:
    """A record in a line, harmless."""
    if kind == "server":
        where = f"{record.get('ts')} {record.get('level')} {record.get('logger')}"
        return harmless(f"{where}: {record.get('message')}")
    if kind == "tasks":
        from clawnet.cli.speech import task_line

        data = record.get("data")
        text = task_line(data) if isinstance(data, dict) else json_text(data)
        return harmless(f"{record.get('ts')} {text}")
    return json_text(record)
