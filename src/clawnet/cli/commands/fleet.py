"""claw fleet: who is there, and how their machines do."""

from __future__ import annotations

import time
from typing import Any

import click

from clawnet.cli.options import Command, invocation
from clawnet.cli.patience import again
from clawnet.cli.terminal import is_terminal, say, say_json, table
from clawnet.core.errors import ClawError

_HEADS = ("id", "handle", "role", "status", "cpu", "ram", "can", "last seen")


@click.command(cls=Command, short_help="Show who is there, and how their machines do.")
@click.option("--watch", is_flag=True, help="Look again and again.")
@click.option(
    "--every", type=click.FloatRange(0.1), default=2.0, metavar="S", show_default=True,
    help="With --watch: how often.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(1), metavar="N", help="With --watch: end after N.")
def fleet(watch: bool, every: float, count: int | None) -> None:
    """Show everyone of this world that reported or is connected."""
    at = invocation()
    looks = 0
    while True:
        try:
            answer = again(lambda: at.hub().call("GET", "/api/v1/fleet"), is_first=not looks)
        except ClawError as error:
            raise at.explained(error) from None
        _show(answer, is_live=watch)
        looks += 1
        if not watch or looks == count:
            return
        time.sleep(every)


def _show(answer: dict[str, Any], *, is_live: bool) -> None:
    if invocation().is_json:
        say_json(answer)
        return
    if is_live and is_terminal():
        # The screen is cleared from its top, so that the table stays where it is.
        say("\x1b[H\x1b[2J")
    table(_HEADS, [_row(one) for one in answer["agents"]], empty="Nobody has come yet.")


def _row(agent: dict[str, Any]) -> list[object]:
    usage = agent.get("resource_usage") or {}
    status = agent.get("status")
    text = agent.get("text")
    return [
        agent.get("id"),
        agent.get("handle"),
        agent.get("role"),
        f"{status} ({text})" if text else status,
        _percent(usage, "cpu_percent", "cpu"),
        _percent(usage, "ram_percent", "ram"),
        agent.get("capabilities"),
        agent.get("last_seen"),
    ]


def _percent(usage: dict[str, Any], *names: str) -> str | None:
    """A share under one of these names; agents report what they like."""
    for name in names:
        value = usage.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return f"{value:.0f} %"
    return None
