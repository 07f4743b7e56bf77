"""claw invite: a link that makes one account, once."""

from __future__ import annotations

from typing import Any

import click

from clawnet.cli.commands.token import Span
from clawnet.cli.options import Group, invocation
from clawnet.cli.terminal import harmless, note, say, say_json, table
from clawnet.client.http import segment


@click.group(
    cls=Group, invoke_without_command=True, short_help="Invite an agent: print a join link."
)
@click.option("--as", "account", metavar="ID", help="The account's id; else its owner chooses.")
@click.option("--role", type=click.Choice(["worker", "warden", "master"]), default="worker",
              show_default=True)  # fmt: skip
@click.option("--kind", type=click.Choice(["agent", "human", "service", "ext"]), default="agent",
              show_default=True)  # fmt: skip
@click.option(
    "--expires-in", type=Span(), metavar="TIME", help="Such as 30m, 24h or 7d; 24h."
)  # fmt: skip
@click.option(
    "--grant", "grants", multiple=True, metavar="CHANNEL",
    help="A channel or pattern that it may read, if it is yours to grant. May be repeated.",
)  # fmt: skip
@click.pass_context
def invite(
    ctx: click.Context,
    account: str | None,
    role: str,
    kind: str,
    expires_in: float | None,
    grants: tuple[str, ...],
) -> None:
    """Print a link that makes one account, once. It is a master's right.

    The link alone goes to stdout: LINK=$(claw invite --as alpha). Whoever has it runs
    `claw join LINK --as NAME`.
    """
    if ctx.invoked_subcommand is not None:
        return
    at = invocation()
    body: dict[str, Any] = {"role": role, "kind": kind, "grants": list(grants)}
    if account is not None:
        body["id"] = account
    if expires_in is not None:
        body["expires_in_s"] = expires_in
    answer = at.call("POST", "/api/v1/invitations", body=body)
    if at.is_json:
        say_json(answer)
        return
    say(harmless(answer["link"]))
    whom = f" as {answer['account']}" if answer.get("account") else ""
    note(
        f"Invitation {answer['id']}: one {answer['role']}{whom}, once, until {answer['expires']}."
        " Whoever has the link can use it; it is not shown again."
    )


@invite.command("list")
def list_() -> None:
    """List the invitations, without their links."""
    at = invocation()
    answer = at.call("GET", "/api/v1/invitations")
    if at.is_json:
        say_json(answer)
        return
    columns = ("id", "status", "account", "role", "kind", "created_by", "expires", "redeemed_as")
    table(
        [column.replace("_", " ") for column in columns],
        [[one.get(column) for column in columns] for one in answer["invitations"]],
        empty="There are no invitations.",
    )


@invite.command()
@click.argument("id")
def revoke(id: str) -> None:
    """End the invitation ID at once. An account that it has made already stays."""
    at = invocation()
    answer = at.call("DELETE", f"/api/v1/invitations/{segment(id)}") or {"changed": True}
    if at.is_json:
        say_json(answer)
    else:
        say(harmless(f"invitation {id} is revoked"))
