"""claw login, logout, whoami: which token this machine keeps for a hub."""

from __future__ import annotations

import sys
from typing import Any

import click

from clawnet.cli.exits import DONE, UNREACHABLE
from clawnet.cli.options import Command, invocation
from clawnet.cli.places import Credentials, save
from clawnet.cli.terminal import harmless, note, say, say_json
from clawnet.client.address import check_token
from clawnet.client.http import HubHttp, segment
from clawnet.core.errors import NotFound, Unauthenticated


@click.command(cls=Command, short_help="Keep a token for a hub.")
def login() -> None:
    """Keep the token given with --token (`-` reads it from standard input).

    The hub is asked first whether the token is good. It becomes the hub that
    later commands talk to, and the token goes to no other.
    """
    at = invocation()
    if at.token is None:
        raise click.UsageError("Give the token: claw login --token TOKEN")
    token = check_token(sys.stdin.readline() if at.token == "-" else at.token)
    me = HubHttp(at.address.url, token).call("GET", "/api/v1/me")
    account = me.get("account") if isinstance(me, dict) else None
    if not token or not account:
        raise Unauthenticated("The hub takes this token for nobody's.")
    tokens = {**at.credentials.tokens, at.address.url: token}
    save(at.places.credentials, Credentials(at.address.url, tokens))
    if at.is_json:
        say_json({"server": at.address.url, "account": account["id"]})
    else:
        say(harmless(f"logged in at {at.address.url} as {account['id']}"))


@click.command(cls=Command, short_help="Revoke that token and forget it.")
@click.option("--local", is_flag=True, help="Only forget it here; it stays valid.")
def logout(local: bool) -> int:
    """Revoke the kept token at the hub and forget it.

    A hub that cannot be reached is told nothing: the token is forgotten all
    the same, and the exit code is 69.
    """
    at = invocation()
    url = at.address.url
    token = at.credentials.tokens.get(url)
    if token is None:
        note(f"No token is kept for {url}.")
        return DONE
    code, is_revoked = DONE, False
    try:
        if not local:
            is_revoked, code = _revoke(HubHttp(url, token))
    finally:
        rest = {key: value for key, value in at.credentials.tokens.items() if key != url}
        save(at.places.credentials, Credentials(at.credentials.server, rest))
    if at.is_json:
        say_json({"server": url, "revoked": is_revoked})
    elif is_revoked:
        say(f"logged out of {url}")
    else:
        say(f"the token for {url} is forgotten here; it was not revoked")
    return code


def _revoke(hub: HubHttp) -> tuple[bool, int]:
    from clawnet.client.errors import HubUnreachable

    try:
        hub.call("DELETE", f"/api/v1/tokens/{segment(_own_token_id(hub))}")
    except Unauthenticated:
        return True, DONE  # it was over already
    except HubUnreachable as error:
        note(f"claw: {error.message}")
        return False, UNREACHABLE
    return True, DONE


def _own_token_id(hub: HubHttp) -> str:
    """The id of the token that is shown. A hub that says its name only may leave it open."""
    me = hub.call("GET", "/api/v1/me")
    if isinstance(me.get("token_id"), str):
        return str(me["token_id"])
    tokens = hub.call("GET", "/api/v1/tokens")["tokens"]
    mine = [token["id"] for token in tokens if token["name"] == me.get("token")]
    if len(mine) != 1:
        raise NotFound(
            f"{len(mine)} tokens of this account are named {me.get('token')}; none was revoked.",
            next="Find it with claw token list, then run claw token revoke ID.",
        )
    return str(mine[0])


@click.command(cls=Command, short_help="Ask the hub who you are.")
def whoami() -> None:
    """Ask the hub whom it takes you for."""
    at = invocation()
    me: dict[str, Any] = at.call("GET", "/api/v1/me")
    account = me.get("account")
    if at.is_json:
        say_json({"server": at.address.url, **me})
        return
    if account is None:
        say(f"nobody: {at.address.url} lets you read what anybody may read")
        return
    say(harmless(account["id"]))
    note(
        f"{account['handle']}, {account['role']}, {account['kind']}, world {me.get('world')}, "
        f"at {at.address.url}"
    )
