"""claw completion: the script that makes a shell complete commands and options."""

from __future__ import annotations

import click

from clawnet.cli.exits import DONE
from clawnet.cli.options import Command
from clawnet.cli.terminal import say

SHELLS = ("bash", "zsh", "fish")


@click.command(cls=Command, short_help="Print a script that completes commands in your shell.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> int:
    """Print the completion script of a shell, for the name this was called by.

    \b
    bash   eval "$(claw completion bash)"   in ~/.bashrc
    zsh    eval "$(claw completion zsh)"    in ~/.zshrc, after compinit
    fish   claw completion fish > ~/.config/fish/completions/claw.fish
    """
    from click.shell_completion import get_completion_class

    root = ctx.find_root()
    name = root.info_name or "claw"
    made = get_completion_class(shell)
    assert made is not None, "click has all three"
    # The variable in which click itself looks for the name.
    variable = f"_{name.replace('-', '_').replace('.', '_')}_COMPLETE".upper()
    say(made(root.command, {}, name, variable).source())
    return DONE
