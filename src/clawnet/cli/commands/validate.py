"""claw validate: whether JSON is as a schema wants it, before it is published."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from clawnet.cli.commands.advertise import advert_of
from clawnet.cli.commands.pub import read_words
from clawnet.cli.options import Command
from clawnet.core.errors import BadConfiguration, InvalidData, NotFound


@click.command(cls=Command, short_help="Check JSON against a JSON Schema.")
@click.argument("json_text", metavar="[JSON]", required=False)
@click.option("--schema", metavar="JSON|@FILE", help="The schema, or a file that holds it.")
@click.option("--channel", metavar="CHANNEL", help="The schema that this channel advertises.")
def validate(json_text: str | None, schema: str | None, channel: str | None) -> None:
    """Check JSON against a schema (Draft 2020-12), and print it unchanged if it fits.

    So `claw validate --channel C JSON | claw pub C` publishes what is right and nothing else.
    Without JSON, or with `-`, it is read from standard input. Without a schema it is only checked
    to be JSON. What is wrong is told on standard error, and the exit code is 65.
    """
    text = read_words(() if json_text is None else (json_text,), verb="check")
    from clawnet.cli.schemas import Failure, check, parse

    value = parse(text, "What was given")
    schemas: list[Any] = []
    if schema is not None:
        schemas.append(parse(read_given(schema), "The schema"))
    if channel is not None:
        advertised = advert_of(channel).get("schema")
        if advertised is None:
            raise NotFound(
                f"{channel} advertises no schema; nothing was checked.",
                next="Give one with --schema, or leave --channel out.",
            )
        schemas.append(advertised)
    failures: list[Failure] = [one for each in schemas for one in check(value, each)]
    if failures:
        raise InvalidData(
            f"The JSON does not fit the schema ({len(failures)} found).",
            next="Correct what is named, and check it again.",
            validation_errors=[failure._asdict() for failure in failures],
        )
    sys.stdout.write(f"{text}\n")


def read_given(text: str) -> str:
    """An option's text, or that of the file it names with @. Raises BadConfiguration."""
    if not text.startswith("@"):
        return text
    path = Path(text[1:])
    try:
        return path.read_text()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise BadConfiguration(f"{path} cannot be read ({reason}).") from None
