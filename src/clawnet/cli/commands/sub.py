"""claw sub: follow channels, one line of JSON for each event."""

from __future__ import annotations

import click

from clawnet.cli.options import Command, invocation
from clawnet.core.errors import ClawError


@click.command(cls=Command, short_help="Follow channels, one JSON per line.")
@click.argument("channels", nargs=-1, required=True)
@click.option(
    "--since", metavar="PLACE",
    help="Begin behind an offset, 10m ago, at all there is, or at a cursor; else from now on.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N events.")
@click.option("--timeout", type=float, metavar="S", help="End after S seconds.")
@click.option("--durable", metavar="NAME", help="Let the hub keep the place, as consumer NAME.")
def sub(
    channels: tuple[str, ...],
    since: str | None,
    count: int | None,
    timeout: float | None,
    durable: str | None,
) -> int:
    """Follow CHANNELS: names, or patterns such as agent.*.public.>

    Prints {"channel","sender","payload","timestamp","id","offset"} for each
    event, one per line, flushed. A lost hub is waited for, and nothing is
    missed meanwhile. With --durable it goes on where the last run with that
    name ended: what was printed and flushed is acknowledged.

    With --count, ending by --timeout before that many came is exit code 1.
    """
    if timeout is not None and not timeout >= 0:
        raise click.UsageError("--timeout is a number of seconds.")
    from clawnet.cli.follow import Follow, run

    at = invocation()
    follow = Follow(
        url=at.address.url,
        token=at.effective_token,
        channels=channels,
        since=since,
        count=count,
        timeout_s=timeout,
        durable=durable,
    )
    try:
        return run(follow)
    except ClawError as error:
        raise at.explained(error) from None
