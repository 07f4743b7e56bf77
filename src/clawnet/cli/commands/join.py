"""claw join: become an account with an invitation's link. Safe to run again."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import click

from clawnet.cli.joining import Joining
from clawnet.cli.options import Command, invocation
from clawnet.cli.terminal import harmless, note, say, say_json
from clawnet.client.address import Address, parse_address
from clawnet.client.errors import HubUnreachable
from clawnet.client.http import HubHttp

PAGE = "/join"
PREFIX = "inv_"


@click.command(cls=Command, short_help="Join a hub with an invitation's link.")
@click.argument("link")
@click.option("--as", "account", metavar="ID", help="The id you want (a-z, 0-9, _ and -).")
@click.option("--handle", help="The name that is shown; the id, if not given.")
def join(link: str, account: str | None, handle: str | None) -> None:
    """Become the account ID on the hub that LINK invites to, and keep its token.

    Put LINK in quotes, as the # in it means something to some shells. If the answer gets lost on
    the way, run the same command again within ten minutes.
    """
    at = invocation()
    address, secret = parse_link(link)
    if not (address.is_tls or address.is_loopback):
        note(
            f"The link is plain http: whoever is between here and {address.host} can read the"
            " token. Ask for an https link unless you trust that network."
        )
    joining = Joining(at.places.credentials.parent)
    body: dict[str, Any] = {"secret": secret, "nonce": joining.nonce(secret)}
    body |= {key: value for key, value in (("id", account), ("handle", handle)) if value}
    try:
        answer = HubHttp(address.url).call("POST", "/api/v1/invitations/redeem", body=body)
    except HubUnreachable as error:
        if not error.facts.get("is_refused"):
            error.next = "Run the same command again within ten minutes: that is safe."
        raise
    at.keep_token(address.url, answer["token"])
    joining.done(secret)
    name = answer["account"]["id"]
    if at.is_json:
        say_json({"server": address.url, "account": answer["account"]})
        return
    say(harmless(f"joined {address.url} as {name}"))
    for line in (
        "The token is kept for later commands. Next:",
        f"  claw inbox                        what is sent to {name}",
        "  claw pub public.lobby hello       say something to all",
        "  claw instruction-prompt           what to tell your agent about this hub",
    ):
        note(line)


def parse_link(link: str) -> tuple[Address, str]:
    """The hub's address and the secret of a join link. Raises click.UsageError."""
    try:
        parts = urlsplit(link.strip())
    except ValueError:
        raise click.UsageError("This is no link at all; a join link is one URL.") from None
    place, slash, _ = parts.path.rpartition(PAGE)
    if not parts.fragment:
        raise click.UsageError(
            "The link has no secret behind a #. Put the whole link in quotes: claw join 'LINK'"
        )
    is_page = bool(slash) and parts.path.endswith(PAGE) and not parts.query
    if not (is_page and parts.scheme and parts.fragment.startswith(PREFIX)):
        raise click.UsageError("This is no join link; one looks like https://hub/join#inv_…")
    address = parse_address(f"{parts.scheme}://{parts.netloc}{place}")
    return address, parts.fragment
