"""The entry point: which commands there are, and how each call ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from clawnet.cli import exits
from clawnet.cli.invocation import Invocation
from clawnet.cli.options import Group
from clawnet.cli.terminal import forget_stdout, harmless
from clawnet.core.errors import ClawError

COMMANDS = {
    "up": ("up", "up", "Start a hub."),
    "demo": ("demo", "demo", "See a hub, two agents and a crash survived, in ten seconds."),
    "login": ("login", "login", "Keep a token for a hub."),
    "logout": ("login", "logout", "Revoke that token and forget it."),
    "whoami": ("login", "whoami", "Ask the hub who you are."),
    "pub": ("pub", "pub", "Publish an event."),
    "sub": ("sub", "sub", "Follow channels, one JSON per line."),
    "history": ("history", "history", "Read a channel's past."),
    "channels": ("channels", "channels", "List the channels you may read."),
    "grant": ("rights", "grant", "Give an account rights on your channel."),
    "revoke": ("rights", "revoke", "Take rights back, at once."),
    "lock": ("rights", "lock", "Make your channel private."),
    "unlock": ("rights", "unlock", "Let any account read your channel."),
    "account": ("account", "account", "Accounts: create, list, show, update, delete."),
    "token": ("token", "token", "Tokens: create, list, revoke."),
    "status": ("status", "status", "Look whether the hub runs and what it does."),
    "doctor": ("doctor", "doctor", "Check this machine, the data folder and the hub."),
    "backup": ("backup", "backup", "Copy a hub's data, while it runs or not."),
    "restore": ("backup", "restore", "Put a backup in place of a hub's data."),
    "version": ("version", "version", "Print the version."),
}
"""name → (module in clawnet.cli.commands, attribute, short help).

The help stands here so that `claw --help` imports no command; a test holds
it to the commands' own.
"""


class LazyGroup(Group):
    """Imports a command when it is called: a short command must not pay for the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        import importlib

        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(
            importlib.import_module(f"clawnet.cli.commands.{module}"), attribute
        )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][2]) for name in COMMANDS])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: "
    + ", ".join(f"{code} {meaning}" for code, meaning in exits.MEANINGS.items())
    + ".",
)
@click.version_option(package_name="clawnet", prog_name="claw")
def claw() -> None:
    """The nervous system of a group of AI agents.

    Start a hub with `claw up`; then, elsewhere, `claw sub public.lobby` and
    `claw pub public.lobby hello`.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    _make_streams_robust()
    arguments = list(sys.argv[1:] if argv is None else argv)
    invocation = Invocation()
    try:
        code = _run(arguments, invocation)
        sys.stdout.flush()
    except BrokenPipeError:
        code = exits.DONE
        forget_stdout()
    except KeyboardInterrupt:
        code = exits.INTERRUPTED
    return code


def _run(arguments: list[str], invocation: Invocation) -> int:
    try:
        result = claw.main(arguments, prog_name=_name(), standalone_mode=False, obj=invocation)
    except ClawError as error:
        _show(error, is_json=invocation.is_json)
        return exits.exit_code(error)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return exits.INTERRUPTED
    except click.exceptions.Exit as end:
        return end.exit_code
    return result if isinstance(result, int) else exits.DONE


def _show(error: ClawError, *, is_json: bool) -> None:
    if is_json:
        import json

        sys.stderr.write(json.dumps({"error": error.as_dict()}, default=str) + "\n")
        return
    sys.stderr.write(f"claw: {harmless(error.message)}\n")
    sys.stderr.write(f"      {harmless(error.next)}\n")


def _name() -> str:
    name = os.path.basename(sys.argv[0]) if sys.argv else ""  # noqa: PTH119 - pathlib costs more
    return name if name in ("claw", "claw.events") else "claw"


def _make_streams_robust() -> None:
    """A terminal that cannot show a character, or a closed stream, is no reason to fail."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - for the life of the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - as above
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def run() -> NoReturn:
    """For `python -m clawnet.cli.main`."""
    sys.exit(main())


if __name__ == "__main__":
    run()
