"""claw world: worlds, which share nothing but the hub."""

from __future__ import annotations

import click

from clawnet.cli.options import Group, invocation
from clawnet.cli.terminal import harmless, note, say, say_json, table


@click.group(cls=Group, short_help="Worlds: create, list.")
def world() -> None:
    """Worlds: isolated from each other on one hub. Only admin of the world main makes them."""


@world.command()
@click.argument("id")
def create(id: str) -> None:
    """Create the world ID and print its admin's token: TOKEN=$(claw world create lab)"""
    at = invocation()
    answer = at.call("POST", "/api/v1/worlds", body={"id": id})
    if at.is_json:
        say_json(answer)
        return
    say(harmless(answer["token"]))
    note(
        f"This is the token of {answer['account']} in the world {answer['id']}."
        " It is not shown again."
    )


@world.command("list")
def list_() -> None:
    """List the worlds."""
    at = invocation()
    answer = at.call("GET", "/api/v1/worlds")
    if at.is_json:
        say_json(answer)
        return
    columns = ("id", "accounts", "created")
    table(columns, [[one.get(column) for column in columns] for one in answer["worlds"]])
