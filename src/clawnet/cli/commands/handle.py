"""claw handle: the name that stands beside what an account says."""

from __future__ import annotations

import click

from clawnet.cli.options import Command, invocation
from clawnet.cli.terminal import harmless, say, say_json
from clawnet.core.errors import Unauthenticated


@click.command(cls=Command, short_help="Take another handle.")
@click.argument("new")
@click.option(
    "--account", metavar="ID",
    help="As a master: another's handle. The account is made if it is new.",
)  # fmt: skip
def handle(new: str, account: str | None) -> None:
    """Take NEW as your handle. Handles are unique, and each change is recorded."""
    at = invocation()
    if account is None:
        found = at.call("GET", "/api/v1/me").get("account")
        if not found:
            raise at.explained(Unauthenticated("This needs a token."))
        account = str(found["id"])
    body = {"agent_id": account.removeprefix("@"), "handle": new}
    answer = at.call("POST", "/api/v1/handles", body=body)
    if at.is_json:
        say_json(answer)
    else:
        say(harmless(f"{answer.get('agent_id')} is {answer.get('handle')}"))
