"""claw subexec: run a command for each event of some channels."""

from __future__ import annotations

import click

from clawnet.cli.options import Command, invocation
from clawnet.core.errors import ClawError


class SubexecCommand(Command):
    """Everything behind the first `--` is the command's, whatever it looks like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[__name__] = args[at + 1 :]
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "--", "CMD [ARGS]..."]


@click.command(cls=SubexecCommand, short_help="Run a command for each event.")
@click.argument("channels", nargs=-1, required=True)
@click.option(
    "--buffer", "-b", type=click.IntRange(1, 10_000), metavar="N",
    help="One command for N events, a line for each on its standard input.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.IntRange(1, 86_400_000), metavar="MS",
    help="One command for what came, once nothing has come for MS milliseconds.",
)  # fmt: skip
@click.option(
    "--concurrency", type=click.IntRange(1, 256), default=1, metavar="N", show_default=True,
    help="How many commands may run at once; with 1 they run in the order of the events.",
)  # fmt: skip
@click.option(
    "--since", metavar="PLACE",
    help="Begin behind an offset, 10m ago, at all there is, or at a cursor; else from now on.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N events.")
@click.pass_context
def subexec(
    ctx: click.Context,
    channels: tuple[str, ...],
    buffer: int | None,
    timeout: int | None,
    concurrency: int,
    since: str | None,
    count: int | None,
) -> int:
    """Follow CHANNELS and start CMD for each event, never through a shell.

    The event is one line of JSON on CMD's standard input, as claw sub prints it, and in
    CLAW_CHANNEL, CLAW_SENDER, CLAW_MESSAGE (text as it is, else JSON), CLAW_TIMESTAMP and
    CLAW_EVENT_ID; CLAW_COUNT says how many lines there are, and the variables are those of the
    last. Text with a NUL, or larger than a variable may be, is on standard input only. What is
    in there was written by others.

    A command that fails is told on standard error, and the following goes on. At the end (Ctrl-C,
    SIGTERM, --count) what was gathered is handed to a last command. After a signal what runs has
    10 s to end; a second signal ends it now, by SIGTERM and 2 s later by SIGKILL. Nothing outlives
    this.
    """
    command: list[str] = ctx.meta[__name__]
    if not command:
        raise click.UsageError("There is no command: claw subexec CHANNEL -- CMD ARGS")
    from shutil import which

    from clawnet.cli.executing import Executing, run

    if which(command[0]) is None:
        raise click.UsageError(f"There is no program {ascii(command[0][:200])} to start.")
    at = invocation()
    executing = Executing(
        url=at.address.url,
        token=at.effective_token,
        channels=channels,
        command=tuple(command),
        buffer=buffer,
        pause_s=None if timeout is None else timeout / 1000,
        concurrency=concurrency,
        since=since,
        count=count,
    )
    try:
        return run(executing)
    except ClawError as error:
        raise at.explained(error) from None
