"""claw dev-register: an account on a hub for development, without a token."""

from __future__ import annotations

from typing import Any

import click

from clawnet.cli.options import Command, invocation
from clawnet.cli.terminal import harmless, say, say_json
from clawnet.client.http import HubHttp


@click.command("dev-register", cls=Command, short_help="Make yourself an account (claw up --dev).")
@click.option("--user", "account", required=True, metavar="ID", help="The id you want.")
@click.option("--handle", help="The name that is shown; the id, if not given.")
def dev_register(account: str, handle: str | None) -> None:
    """Make an account on this machine's hub, if it runs with --dev, and keep its token."""
    at = invocation()
    body: dict[str, Any] = {"id": account}
    if handle is not None:
        body["handle"] = handle
    url = at.address.url
    answer = HubHttp(url).call("POST", "/api/v1/register", body=body)
    at.keep_token(url, answer["token"])
    if at.is_json:
        say_json({"server": url, "account": answer["account"]})
    else:
        say(harmless(f"registered at {url} as {answer['account']['id']}"))
