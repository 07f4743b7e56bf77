"""claw request: ask the owner of a channel to let one read it."""

from __future__ import annotations

from typing import Any

import click

from clawnet.cli.message import MessageCommand
from clawnet.cli.options import invocation
from clawnet.cli.terminal import harmless, say, say_json


@click.command(cls=MessageCommand, short_help="Ask an owner for access to a channel.")
@click.argument("channel")
@click.argument("reason", nargs=-1, metavar="[REASON]...")
def request(channel: str, reason: tuple[str, ...]) -> None:
    """Ask the owner of CHANNEL for the right to read it.

    The request goes to the owner's inbox, who answers it with claw grant YOU CHANNEL, or not.
    """
    body: dict[str, Any] = {"channel": channel}
    if reason:
        body["reason"] = " ".join(reason)
    at = invocation()
    answer = at.call("POST", "/api/request", body=body)
    if at.is_json:
        say_json(answer)
        return
    asked = answer.get("request") if isinstance(answer, dict) else None
    owner = asked.get("targetOwner") if isinstance(asked, dict) else None
    say(harmless(f"asked {owner or 'its owner'} for access to {channel}"))
