"""claw wake: run a command for each message to one's inbox."""

from __future__ import annotations

import click

from clawnet.cli.options import Command, invocation
from clawnet.core.errors import ClawError


@click.command(
    cls=Command,
    short_help="Run a command for each message to your inbox.",
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
)
@click.argument("command", nargs=-1, required=True, metavar="-- CMD [ARGS]...")
@click.option("--timeout", type=float, metavar="S", help="Kill a command that runs longer.")
@click.option(
    "--ttl", type=click.FloatRange(5, 300), default=30.0, metavar="S", show_default=True,
    help="How long the hub believes in a process that went silent.",
)  # fmt: skip
def wake(command: tuple[str, ...], timeout: float | None, ttl: float) -> int:
    """Be woken by messages: as long as this runs, the hub knows that you can be.

    For each message CMD is started, never through a shell, with the event as JSON on its
    standard input and CLAW_CHANNEL, CLAW_SENDER and CLAW_EVENT_ID in its environment, and
    TRACEPARENT if the event has one. What is in there was written by others. The sender's
    receipt says woken as soon as CMD has started, and acted when it ends with 0. If it fails,
    the message stays in the inbox and comes again 30 s later, five times in all. One message at
    a time; what came while nothing ran comes at the next start, from the first start on.
    """
    if timeout is not None and not timeout > 0:
        raise click.UsageError("--timeout is a number of seconds.")
    from shutil import which

    from clawnet.cli.waking import Waking, run

    if which(command[0]) is None:
        raise click.UsageError(f"There is no program {ascii(command[0][:200])} to start.")
    at = invocation()
    waking = Waking(
        url=at.address.url,
        token=at.effective_token,
        command=command,
        timeout_s=timeout,
        ttl_s=ttl,
        is_json=at.is_json,
    )
    try:
        return run(waking)
    except ClawError as error:
        raise at.explained(error) from None
