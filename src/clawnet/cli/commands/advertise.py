"""claw advertise: what a channel is for, and the schema of what comes on it."""

from __future__ import annotations

from typing import Any

import click

from clawnet.cli.message import MessageCommand
from clawnet.cli.options import Group, invocation
from clawnet.cli.terminal import harmless, json_text, say, say_json, table
from clawnet.client.errors import UnexpectedAnswer
from clawnet.client.http import segment
from clawnet.core.errors import ClawError, NotFound

_PATH = "/api/advertise"
_DESCRIPTION_SHOWN = 100


@click.group(cls=Group, short_help="Describe channels: set, delete, list, show, search.")
def advertise() -> None:
    """Say what your channels are for, and find those of others.

    A schema that is set for a channel is enforced: the hub refuses what does not fit it.
    """


@advertise.command("set", short_help="Describe a channel of yours.")
@click.argument("name", metavar="[CHANNEL]", required=False)
@click.option("--channel", metavar="CHANNEL", help="The channel, if not given as a word.")
@click.option("--desc", "--description", "-d", "description", metavar="TEXT", help="What for.")
@click.option(
    "--schema", metavar="JSON|@FILE", help="The JSON Schema of its messages, or a file of it."
)
def set_(
    name: str | None, channel: str | None, description: str | None, schema: str | None
) -> None:
    """Describe CHANNEL, in place of what was said of it before.

    From then on the hub takes only what fits the schema there.
    """
    from clawnet.cli.commands.validate import read_given

    body: dict[str, Any] = {"channel": _one(name, channel)}
    if description is not None:
        body["description"] = description
    if schema is not None:
        from clawnet.cli.schemas import parse

        body["schema"] = parse(read_given(schema), "The schema")
    answer = invocation().call("POST", _PATH, body=body)
    _said(answer, f"{body['channel']} is advertised")


@advertise.command(short_help="Take the description of a channel back.")
@click.argument("name", metavar="[CHANNEL]", required=False)
@click.option("--channel", metavar="CHANNEL", help="The channel, if not given as a word.")
def delete(name: str | None, channel: str | None) -> None:
    """Take back what was said of CHANNEL; its schema holds no longer."""
    body = {"channel": _one(name, channel)}
    answer = invocation().call("DELETE", _PATH, body=body)
    _said(answer, f"{body['channel']} is advertised no more")


@advertise.command("list", short_help="List what is advertised.")
@click.argument("agent", required=False)
def list_(agent: str | None) -> None:
    """List what is advertised by all, or by AGENT."""
    path = f"{_PATH}/list" if agent is None else f"{_PATH}/{segment(agent)}"
    _show_many(invocation().call("GET", path))


@advertise.command(short_help="Show what a channel is for.")
@click.argument("channel")
def show(channel: str) -> None:
    """Show what is said of CHANNEL, with its schema."""
    advert = advert_of(channel)
    if invocation().is_json:
        say_json(advert)
        return
    say(harmless(advert.get("channel") or channel))
    if advert.get("description"):
        say(harmless(advert["description"]))
    if advert.get("schema") is not None:
        say(f"schema: {json_text(advert['schema'])}")


class SearchCommand(MessageCommand):
    """Its words may look like anything."""

    valued = MessageCommand.valued | {"--limit"}
    harm = "nothing was searched"


@advertise.command(cls=SearchCommand, short_help="Find channels by what is said of them.")
@click.argument("words", nargs=-1, required=True)
@click.option("--limit", type=click.IntRange(1, 100), metavar="N", help="How many, at most.")
def search(words: tuple[str, ...], limit: int | None) -> None:
    """Find channels by WORDS in their names and descriptions."""
    query = {"q": " ".join(words), "limit": limit}
    _show_many(invocation().call("GET", f"{_PATH}/search", query=query))


def advert_of(channel: str) -> dict[str, Any]:
    """What is said of a channel. Raises NotFound if that is nothing."""
    parts = channel.split(".", 2)
    if len(parts) != 3 or parts[0] != "agent":
        raise NotFound(
            f"{ascii(channel[:200])} cannot be advertised.",
            next="Name a channel such as agent.bob.updates.",
        )
    answer = invocation().call("GET", f"{_PATH}/{segment(parts[1])}/{segment(parts[2])}")
    found = answer.get("data", answer) if isinstance(answer, dict) else None
    if not isinstance(found, dict):
        raise _unexpected()
    return found


def _one(name: str | None, channel: str | None) -> str:
    if (name is None) == (channel is None):
        raise click.UsageError("Name one channel: claw advertise … agent.<you>.updates")
    return str(name if name is not None else channel)


def _said(answer: Any, text: str) -> None:
    if invocation().is_json:
        say_json(answer)
    else:
        say(harmless(text))


def _show_many(answer: Any) -> None:
    names = ("results", "channels", "advertisements")
    found = [answer[name] for name in names if name in answer] if isinstance(answer, dict) else []
    if not (found and isinstance(found[0], list)):
        raise _unexpected()
    if invocation().is_json:
        say_json(answer)
        return
    table(
        ("channel", "description", "schema"),
        [
            (one.get("channel"), _short(one.get("description")), one.get("schema") is not None)
            for one in found[0]
            if isinstance(one, dict)
        ],
        empty="Nothing is advertised.",
    )


def _short(text: object) -> str:
    shown = " ".join(str(text or "").split())
    return shown if len(shown) <= _DESCRIPTION_SHOWN else shown[: _DESCRIPTION_SHOWN - 1] + "…"


def _unexpected() -> ClawError:
    return UnexpectedAnswer("The hub's answer about advertised channels cannot be read.")
