"""claw demo: a hub, two agents, and a crash in the middle that loses nothing."""

from __future__ import annotations

import click

from clawnet.cli.options import Command, invocation


@click.command(
    cls=Command, short_help="See a hub, two agents and a crash survived, in ten seconds."
)
@click.option("--events", type=click.IntRange(20, 1_500), default=400, show_default=True)
def demo(events: int) -> int:
    """Start a hub in a temporary folder, let two agents talk, kill the hub, and count.

    Everything is real: processes, the log on disk, `claw sub`, SIGKILL. The
    exit code is 1 if an acknowledged event is missing, doubled or out of order.
    """
    from clawnet.cli.demo import Demo

    return Demo(events=events, is_json=invocation().is_json).run()
