"""claw token: what an account shows to the hub."""

from __future__ import annotations

from typing import Any

import click

from clawnet.cli.options import Group, invocation
from clawnet.cli.terminal import harmless, note, say, say_json, table
from clawnet.client.http import segment

_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Span(click.ParamType[float]):
    """A length of time: 90s, 15m, 12h, 30d."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value)
        if not text[:-1].isdecimal() or text[-1:] not in _UNIT_S:
            self.fail(f"{ascii(text)} is not a duration such as 90s, 15m, 12h or 30d.", param, ctx)
        return float(int(text[:-1]) * _UNIT_S[text[-1]])


@click.group(cls=Group, short_help="Tokens: create, list, revoke.")
def token() -> None:
    """Tokens: what an account shows to the hub. A token is shown once, when it is made."""


@token.command()
@click.option("--account", help="Whose token; your own, if not given (another's: a master).")
@click.option("--name", default="default", show_default=True, help="To tell it from others.")
@click.option(
    "--scope", "scopes", multiple=True,
    help="Narrow it, such as events:read. May be repeated; everything, if not given.",
)  # fmt: skip
@click.option("--expires-in", type=Span(), metavar="TIME", help="Such as 12h or 30d; never.")
def create(
    account: str | None, name: str, scopes: tuple[str, ...], expires_in: float | None
) -> None:
    """Make a token and print it: TOKEN=$(claw token create --account bob)"""
    at = invocation()
    body: dict[str, Any] = {"name": name, "scopes": list(scopes) or ["*"]}
    if account is not None:
        body["account"] = account
    if expires_in is not None:
        body["expires_in_s"] = expires_in
    answer = at.call("POST", "/api/v1/tokens", body=body)
    if at.is_json:
        say_json(answer)
        return
    say(harmless(answer["token"]))
    note(f"This is token {answer['id']} of {answer['account']}. It is not shown again.")


@token.command("list")
@click.option("--account", help="Whose tokens; your own, if not given.")
def list_(account: str | None) -> None:
    """List the tokens, without the tokens themselves."""
    at = invocation()
    answer = at.call("GET", "/api/v1/tokens", query={"account": account})
    if at.is_json:
        say_json(answer)
        return
    table(
        ("id", "account", "name", "scopes", "created", "expires", "last used"),
        [
            [one.get(key) for key in
             ("id", "account", "name", "scopes", "created", "expires")]
            for one in answer["tokens"]
        ],
        empty="There are no tokens.",
    )  # fmt: skip


@token.command()
@click.argument("id")
def revoke(id: str) -> None:
    """End the token ID at once, on live connections too."""
    at = invocation()
    answer = at.call("DELETE", f"/api/v1/tokens/{segment(id)}") or {"changed": True}
    if at.is_json:
        say_json(answer)
    else:
        say(harmless(f"token {id} is revoked"))
