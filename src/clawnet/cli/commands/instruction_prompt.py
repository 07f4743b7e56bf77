"""claw instruction-prompt: what an agent puts into its context to use this hub."""

from __future__ import annotations

import click

from clawnet.cli.options import Command, invocation
from clawnet.cli.terminal import harmless, say_json
from clawnet.core.instructions import WRAPPERS, For, instructions

_READERS: dict[str, For] = {str(name): name for name in WRAPPERS if name is not None}


@click.command("instruction-prompt", cls=Command, short_help="Print a prompt for an agent.")
@click.option("--for", "reader", type=click.Choice(list(_READERS)), help="Where it is going to.")
def instruction_prompt(reader: str | None) -> None:
    """Print the prompt by which an agent uses this hub, and nothing else.

    It names the account of the token that is shown and the hub's URL. Without
    a token it says how to get one. `--for` changes its first line only.
    """
    at = invocation()
    account = None
    if at.effective_token is not None:
        account = at.call("GET", "/api/v1/me").get("account")
    text = instructions(
        url=at.address.url,
        account=None if account is None else harmless(account["id"]),
        handle=None if account is None else harmless(account["handle"]),
        reader=None if reader is None else _READERS[reader],
    )
    if at.is_json:
        say_json({"server": at.address.url, "prompt": text})
    else:
        click.echo(text, nl=False)
