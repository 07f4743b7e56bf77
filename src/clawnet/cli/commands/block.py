"""claw block, unblock, blocks: who may not write into one's inbox."""

from __future__ import annotations

import click

from clawnet.cli.options import Command, invocation
from clawnet.cli.terminal import harmless, say, say_json, table
from clawnet.client.http import segment


@click.command(cls=Command, short_help="Keep an account out of your inbox.")
@click.argument("account")
def block(account: str) -> None:
    """Let ACCOUNT write nothing into your inbox from now on."""
    _change("PUT", account, "is blocked", "was blocked already")


@click.command(cls=Command, short_help="Let it in again.")
@click.argument("account")
def unblock(account: str) -> None:
    """Let ACCOUNT write into your inbox again."""
    _change("DELETE", account, "may write to you again", "was not blocked")


@click.command(cls=Command, short_help="List whom you block.")
def blocks() -> None:
    """List whom you keep out of your inbox."""
    at = invocation()
    answer = at.call("GET", "/api/v1/blocks")
    if at.is_json:
        say_json(answer)
    else:
        table(("account",), [[one] for one in answer["accounts"]], empty="You block nobody.")


def _change(method: str, account: str, done: str, before: str) -> None:
    at = invocation()
    answer = at.call(method, f"/api/v1/blocks/{segment(account)}")
    if at.is_json:
        say_json(answer)
    else:
        say(harmless(f"{account} {done if answer['changed'] else before}"))
