"""Commands whose last words are a message: which of them are options is decided by a rule."""

from __future__ import annotations

from typing import ClassVar

import click

from clawnet.cli.options import GLOBAL_FLAGS, GLOBAL_VALUED, Command
from clawnet.cli.terminal import harmless
from clawnet.cli.words import nearest, split

HELP_FLAGS = frozenset({"-h", "--help"})


class MessageCommand(Command):
    """`claw COMMAND NAME WORDS…`; see clawnet.cli.words for which words are options."""

    flags: ClassVar[frozenset[str]] = GLOBAL_FLAGS | HELP_FLAGS
    valued: ClassVar[frozenset[str]] = GLOBAL_VALUED
    harm: ClassVar[str] = "nothing was sent"
    """What a wrong line did not do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        found = split(args, flags=self.flags, valued=self.valued)
        if found.valueless is not None:
            raise click.UsageError(f"{found.valueless} needs a value; {self.harm}.", ctx)
        if found.unknown is not None:
            near = nearest(found.unknown, self.flags | self.valued)
            raise click.UsageError(
                f"There is no option {harmless(found.unknown[:80])}; {self.harm}."
                f"{f' Did you mean {near}?' if near else ''} To say it, put -- before text that"
                " begins with dashes.",
                ctx,
            )
        if found.tail:
            raise click.UsageError(
                f"{' '.join(found.tail)} behind the message could be an option or text; "
                f"{self.harm}. Put options before the message, or -- before the text.",
                ctx,
            )
        channel = [] if found.channel is None else [found.channel]
        return super().parse_args(ctx, [*found.options, "--", *channel, *found.words])
