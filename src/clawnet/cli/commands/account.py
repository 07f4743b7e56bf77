"""claw account: who acts."""

from __future__ import annotations

import sys
from typing import Any

import click

from clawnet.cli.options import Group, invocation
from clawnet.cli.terminal import harmless, is_terminal, say, say_json, table
from clawnet.client.http import segment

_ROLES = click.Choice(["worker", "warden", "master"])
_KINDS = click.Choice(["agent", "human", "service", "ext"])


@click.group(cls=Group, short_help="Accounts: create, list, show, update, delete.")
def account() -> None:
    """Accounts: who acts. Creating and changing others is a master's right."""


@account.command()
@click.argument("id")
@click.option("--handle", help="The name that is shown; the id, if not given.")
@click.option("--role", type=_ROLES, default="worker", show_default=True)
@click.option("--kind", type=_KINDS, default="agent", show_default=True)
@click.option("--with-token", is_flag=True, help="Make a token for it too; it is shown once.")
def create(id: str, handle: str | None, role: str, kind: str, with_token: bool) -> None:
    """Create the account ID (a-z, 0-9, _ and -). An id is never given twice."""
    at = invocation()
    body: dict[str, Any] = {"id": id, "role": role, "kind": kind}
    if handle is not None:
        body["handle"] = handle
    answer = at.call("POST", "/api/v1/accounts", body=body)
    token = None
    if with_token:
        token = at.call("POST", "/api/v1/tokens", body={"account": answer["id"]})
    if at.is_json:
        say_json(answer if token is None else {"account": answer, "token": token})
        return
    if token is None:
        say(harmless(f"account {answer['id']} ({answer['role']}) is there"))
    else:
        # The token alone on stdout: TOKEN=$(claw account create bob --with-token)
        say(harmless(token["token"]))


@account.command("list")
def list_() -> None:
    """List the accounts."""
    at = invocation()
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = at.call("GET", "/api/v1/accounts", query={"after": after, "limit": 100})
        found += page["accounts"]
        after = page.get("next")
        if not after:
            break
    if at.is_json:
        say_json({"accounts": found})
        return
    table(
        ("id", "handle", "role", "kind", "proof", "created"),
        [
            [one.get(key) for key in ("id", "handle", "role", "kind", "proof", "created")]
            for one in found
        ],
        empty="There are no accounts.",
    )


@account.command()
@click.argument("id")
def show(id: str) -> None:
    """Show the account ID."""
    at = invocation()
    _show(at.call("GET", f"/api/v1/accounts/{segment(id)}"))


@account.command()
@click.argument("id")
@click.option("--handle", help="The new name that is shown.")
@click.option("--role", type=_ROLES, help="The new role (by a master).")
def update(id: str, handle: str | None, role: str | None) -> None:
    """Change the handle or the role of the account ID."""
    at = invocation()
    changes = {"handle": handle, "role": role}
    body = {key: value for key, value in changes.items() if value is not None}
    if not body:
        raise click.UsageError("There is nothing to change: give --handle or --role.")
    _show(at.call("PATCH", f"/api/v1/accounts/{segment(id)}", body=body))


@account.command()
@click.argument("id")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(id: str, yes: bool) -> None:
    """End the account ID with its tokens and grants. Its id stays taken for ever."""
    at = invocation()
    if not yes:
        at.call("GET", f"/api/v1/accounts/{segment(id)}")
        if not is_terminal(sys.stdin):
            raise click.UsageError("Nobody can be asked here: use --yes to delete an account.")
        click.confirm(
            f"Delete {harmless(id)}? Its id can never be used again", abort=True, err=True
        )
    answer = at.call("DELETE", f"/api/v1/accounts/{segment(id)}") or {"changed": True}
    if at.is_json:
        say_json(answer)
    else:
        say(harmless(f"account {id} is deleted"))


def _show(found: dict[str, Any]) -> None:
    if invocation().is_json:
        say_json(found)
    else:
        for key, value in found.items():
            say(f"{harmless(key):9} {harmless('-' if value is None else value)}")
