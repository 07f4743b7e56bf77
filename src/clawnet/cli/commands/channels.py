"""claw channels."""

from __future__ import annotations

from typing import Any

import click

from clawnet.cli.options import Command, invocation
from clawnet.cli.terminal import say_json, table


@click.command(cls=Command, short_help="List the channels you may read.")
@click.argument("pattern", required=False)
def channels(pattern: str | None) -> None:
    """List the channels you may read, or those that PATTERN covers.

    In a pattern `*` is one segment and `>` the rest: agent.*.public.>
    """
    at = invocation()
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        query = {"pattern": pattern, "after": after, "limit": 100}
        page = at.call("GET", "/api/v1/channels", query=query)
        found += page["channels"]
        after = page.get("next")
        if not after:
            break
    if at.is_json:
        say_json({"channels": found})
        return
    table(
        ("channel", "events", "last", "newest", "following"),
        [
            (one["name"], one["last"] - one["first"] + 1, one["last"], one["last_ts"],
             one["subscribers"])
            for one in found
        ],
        empty="There is no channel yet that you may read.",
    )  # fmt: skip
