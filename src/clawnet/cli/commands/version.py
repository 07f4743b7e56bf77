"""claw version."""

from __future__ import annotations

import click

import clawnet
from clawnet.cli.options import Command, invocation
from clawnet.cli.terminal import say, say_json


@click.command(cls=Command, short_help="Print the version.")
def version() -> None:
    """Print the version of this program."""
    if invocation().is_json:
        say_json({"name": "clawnet", "version": clawnet.__version__})
    else:
        say(f"clawnet {clawnet.__version__}")
