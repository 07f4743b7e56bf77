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
@click.option("--name", help="To tell it from others; default, if not given.")
@click.option(
    "--scope", "scopes", multiple=True,
    help="Narrow it, such as events:read. May be repeated; everything, if not given.",
)  # fmt: skip
@click.option("--expires-in", type=Span(), metavar="TIME", help="Such as 12h or 30d; never.")
@click.option(
    "--jwt",
    "is_jwt",
    is_flag=True,
    help="A short-lived one of your own, made from the token you show and ended with it.",
)
@click.option("--ttl", type=Span(), metavar="TIME", help="How long a --jwt lives; 15m.")
def create(
    account: str | None,
    name: str | None,
    scopes: tuple[str, ...],
    expires_in: float | None,
    is_jwt: bool,
    ttl: float | None,
) -> None:
    """Make a token and print it: TOKEN=$(claw token create --account bob)"""
    at = invocation()
    if is_jwt:
        for option, value in (
            ("--account", account),
            ("--name", name),
            ("--expires-in", expires_in),
        ):
            if value is not None:
                raise click.UsageError(f"{option} is not for --jwt; its life is --ttl.")
        _create_jwt(scopes, ttl)
        return
    if ttl is not None:
        raise click.UsageError("--ttl is for --jwt; other tokens have --expires-in.")
    body: dict[str, Any] = {"name": name or "default", "scopes": list(scopes) or ["*"]}
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


def _create_jwt(scopes: tuple[str, ...], ttl: float | None) -> None:
    at = invocation()
    body: dict[str, Any] = {}
    if scopes:
        body["scopes"] = list(scopes)
    if ttl is not None:
        body["ttl_s"] = ttl
    answer = at.call("POST", "/api/v1/tokens/jwt", body=body)
    if at.is_json:
        say_json(answer)
        return
    say(harmless(answer["token"]))
    note(f"It ends at {answer['expires']}; sooner by: claw token revoke {answer['jti']}")


@token.command("list")
@click.option("--account", help="Whose tokens; your own, if not given.")
def list_(account: str | None) -> None:
    """List the tokens, without the tokens themselves; and the JWTs that are in use."""
    at = invocation()
    answer = at.call("GET", "/api/v1/tokens", query={"account": account})
    if at.is_json:
        say_json(answer)
        return
    table(
        ("id", "account", "name", "scopes", "created", "expires", "last used"),
        [
            [one.get(key) for key in
             ("id", "account", "name", "scopes", "created", "expires", "last_used")]
            for one in answer["tokens"]
        ],
        empty="There are no tokens.",
    )  # fmt: skip


@token.command()
@click.argument("id")
def revoke(id: str) -> None:
    """End the token (or JWT) ID at once, on live connections too, with the JWTs made from it."""
    at = invocation()
    answer = at.call("DELETE", f"/api/v1/tokens/{segment(id)}") or {"changed": True}
    if at.is_json:
        say_json(answer)
    else:
        say(harmless(f"token {id} is revoked"))
