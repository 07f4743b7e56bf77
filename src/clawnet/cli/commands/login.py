"""claw login, logout, whoami: who this machine is at a hub, and the token that says so."""

from __future__ import annotations

import sys
from typing import Any

import click

from clawnet.cli.exits import DONE, NOT_ALLOWED, UNREACHABLE
from clawnet.cli.options import Command, invocation
from clawnet.cli.places import Credentials, save
from clawnet.cli.terminal import harmless, note, say, say_json
from clawnet.client.address import check_token
from clawnet.client.http import HubHttp, segment
from clawnet.core.errors import NotFound, Unauthenticated

PROOFS = ("moltbook", "ssh-key", "shared-secret")


@click.command(cls=Command, short_help="Prove who you are, or keep a token.")
@click.option("--user", metavar="NAME", help="Your name, which is yours at the hub once proven.")
@click.option(
    "--proof", type=click.Choice(PROOFS),
    help="By what: moltbook, unless --key or --secret says otherwise.",
)  # fmt: skip
@click.option("--key", metavar="FILE", help="Sign with this SSH key, and be logged in at once.")
@click.option(
    "--key-name", default="main", metavar="NAME", show_default=True,
    help="What the hub calls the key.",
)  # fmt: skip
@click.option(
    "--secret", metavar="FILE", help="File of the hub's secret, for new names (- a pipe)."
)
def login(
    user: str | None, proof: str | None, key: str | None, key_name: str, secret: str | None
) -> None:
    """Become NAME at the hub, or keep a token that you have.

    \b
    claw login --user NAME              says what to post at Moltbook; then claw verify
    claw login --user NAME --key FILE   signs with a key that the hub knows
    claw login --token TOKEN            keeps a token (- reads it from standard input)

    The token is kept for this user alone, and shown to no other hub. The hub becomes the one that
    later commands talk to.
    """
    if user is not None:
        from clawnet.cli.commands.verify import begin

        if invocation().token is not None:
            raise click.UsageError("Give --user or --token, not both.")
        begin(user, proof=_proof(proof, key, secret), key=key, key_name=key_name, secret=secret)
        return
    if proof or key or secret:
        raise click.UsageError("Say whose proof it is: claw login --user NAME")
    _keep_given()


def _proof(proof: str | None, key: str | None, secret: str | None) -> str:
    for given, needs, name in ((key, "ssh-key", "--key"), (secret, "shared-secret", "--secret")):
        if given is not None and proof not in (None, needs):
            raise click.UsageError(f"{name} is for --proof {needs}.")
    if secret is not None and key is not None:
        raise click.UsageError("Give --key or --secret, not both.")
    return proof or ("ssh-key" if key else "shared-secret" if secret else "moltbook")


def _keep_given() -> None:
    at = invocation()
    if at.token is None:
        raise click.UsageError(
            "Say who you are: claw login --user NAME, or claw login --token TOKEN"
        )
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
def whoami() -> int:
    """Ask the hub whom it takes you for.

    Without a token that is nobody, and the exit code is 77.
    """
    at = invocation()
    me: dict[str, Any] = at.call("GET", "/api/v1/me")
    account = me.get("account")
    if at.is_json:
        say_json({"server": at.address.url, **me})
        return DONE if account else NOT_ALLOWED
    if account is None:
        note(f"nobody: {at.address.url} lets you read what anybody may read (claw login)")
        return NOT_ALLOWED
    say(harmless(account["id"]))
    note(
        f"{account['handle']}, {account['role']}, {account['kind']}, world {me.get('world')}, "
        f"at {at.address.url}"
    )
    return DONE
