"""claw room: who talks where."""

from __future__ import annotations

from typing import Any

import click

from clawnet.cli.naming import account_id
from clawnet.cli.options import Group, invocation
from clawnet.cli.terminal import cell, harmless, say, say_json, table
from clawnet.client.http import segment

_PATH = "/api/v1/rooms"
_HISTORY = click.Choice(["joined", "all"])


@click.group(
    cls=Group, short_help="Rooms: create, join, leave, invite, list, show, members, topic."
)
def room() -> None:
    """Rooms: who talks where. What is said there: claw chat --room ROOM."""


@room.command()
@click.argument("room")
@click.option("--private", is_flag=True, help="There for its members alone, who invite others.")
@click.option("--topic", default="", help="What it is about.")
@click.option(
    "--history", type=_HISTORY, default="joined", show_default=True,
    help="What a new member reads: what was said since it joined, or all.",
)  # fmt: skip
def create(room: str, private: bool, topic: str, history: str) -> None:
    """Make ROOM, as its owner and first member."""
    body = {"room": room, "private": private, "topic": topic, "history": history}
    answer = invocation().call("POST", _PATH, body=body)
    kind = "private" if answer.get("private") else "public"
    _tell(answer, f"room {answer.get('room')} is there ({kind})")


@room.command()
@click.argument("room")
def join(room: str) -> None:
    """Become a member of ROOM; an unknown one is made."""
    answer = invocation().call("POST", f"{_PATH}/{segment(room)}/join")
    members = ", ".join(str(one) for one in answer.get("members", []))
    already = "" if answer.get("changed", True) else " (you were in it)"
    _tell(answer, f"in {answer.get('room')}{already} with {members}")


@room.command()
@click.argument("room")
@click.option("--account", metavar="AGENT", help="Put this account out, as its owner or a master.")
def leave(room: str, account: str | None) -> None:
    """Be a member of ROOM no more, at once."""
    body = None if account is None else {"account": account_id(account)}
    answer = invocation().call("POST", f"{_PATH}/{segment(room)}/leave", body=body)
    was = "has left" if answer.get("changed", True) else "was not in"
    _tell(answer, f"{answer.get('account')} {was} {answer.get('room')}")


@room.command()
@click.argument("room")
@click.argument("agent")
def invite(room: str, agent: str) -> None:
    """Let AGENT join the private ROOM; its inbox tells it."""
    body = {"agent": account_id(agent)}
    answer = invocation().call("POST", f"{_PATH}/{segment(room)}/invite", body=body)
    _tell(answer, f"{answer.get('agent')} may join {answer.get('room')}")


@room.command("list")
def list_() -> None:
    """List the public rooms and your own."""
    at = invocation()
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = at.call("GET", _PATH, query={"after": after, "limit": 100})
        found += page["rooms"]
        after = page.get("next")
        if not after:
            break
    if at.is_json:
        say_json({"rooms": found})
        return
    table(
        ("room", "private", "member", "members", "owner", "topic"),
        [
            [one.get(key) for key in ("room", "private", "member", "members", "owner", "topic")]
            for one in found
        ],
        empty="There are no rooms.",
    )


@room.command()
@click.argument("room")
def show(room: str) -> None:
    """Show ROOM."""
    answer = invocation().call("GET", f"{_PATH}/{segment(room)}")
    if invocation().is_json:
        say_json(answer)
    else:
        for key, value in answer.items():
            say(f"{harmless(key):8} {cell(value)}".rstrip())


@room.command()
@click.argument("room")
def members(room: str) -> None:
    """List who is in ROOM, for its members and masters."""
    at = invocation()
    answer = at.call("GET", f"{_PATH}/{segment(room)}/members")
    if at.is_json:
        say_json(answer)
        return
    table(
        ("id", "handle", "role", "status", "since", "owner"),
        [
            [one.get(key) for key in ("id", "handle", "role", "status", "since", "owner")]
            for one in answer["members"]
        ],
        empty="Nobody is in it.",
    )


@room.command()
@click.argument("room")
@click.argument("words", nargs=-1, required=True)
def topic(room: str, words: tuple[str, ...]) -> None:
    """Say what ROOM is about, as one of its members."""
    body = {"topic": " ".join(words)}
    answer = invocation().call("PATCH", f"{_PATH}/{segment(room)}", body=body)
    _tell(answer, f"the topic of {answer.get('room')} is {answer.get('topic')}")


def _tell(answer: dict[str, Any], text: str) -> None:
    if invocation().is_json:
        say_json(answer)
    else:
        say(harmless(text))
