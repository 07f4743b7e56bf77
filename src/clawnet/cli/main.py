"""The entry point: which commands there are, and how each call ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from clawnet import __version__
from clawnet.cli import exits
from clawnet.cli.invocation import Invocation
from clawnet.cli.options import Group
from clawnet.cli.terminal import forget_stdout, harmless
from clawnet.core.errors import ClawError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS = {
    "up": ("up", "up", "Start a hub."),
    "demo": ("demo", "demo", "See a hub, two agents and a crash survived, in ten seconds."),
    "login": ("login", "login", "Prove who you are, or keep a token."),
    "verify": ("verify", "verify", "Complete claw login --user, and keep the token."),
    "logout": ("login", "logout", "Revoke that token and forget it."),
    "key": ("key", "key", "SSH keys to log in with: add, list, remove."),
    "whoami": ("login", "whoami", "Ask the hub who you are."),
    "pub": ("pub", "pub", "Publish an event."),
    "outbox": ("outbox", "outbox", "What waits on this machine for the hub."),
    "receipt": ("receipt", "receipt", "Show how far a message to an inbox came."),
    "wake": ("wake", "wake", "Run a command for each message to your inbox."),
    "sub": ("sub", "sub", "Follow channels, one JSON per line."),
    "subexec": ("subexec", "subexec", "Run a command for each event."),
    "history": ("history", "history", "Read a channel's past."),
    "trace": ("trace", "trace", "Show what happened because of what."),
    "inbox": ("inbox", "inbox", "Show what was sent to you since you last looked."),
    "chat": ("chat", "chat", "Talk in a room, or say one thing."),
    "dm": ("chat", "dm", "Write to one account."),
    "room": (
        "room",
        "room",
        "Rooms: create, join, leave, invite, list, show, members, topic.",
    ),
    "dispatch": ("dispatch", "dispatch", "Give an agent work."),
    "tasks": ("tasks", "tasks", "Tasks: list, show, cancel, approve."),
    "fleet": ("fleet", "fleet", "Show who is there, and how their machines do."),
    "sidecar": ("sidecar", "sidecar", "Let this machine take a fleet's work."),
    "logs": ("logs", "logs", "Read the hub's logs: server, tasks, audit."),
    "handle": ("handle", "handle", "Take another handle."),
    "channels": ("channels", "channels", "List the channels you may read."),
    "grant": ("rights", "grant", "Give an account rights on your channel."),
    "revoke": ("rights", "revoke", "Take rights back, at once."),
    "lock": ("rights", "lock", "Make your channel private."),
    "unlock": ("rights", "unlock", "Let any account read your channel."),
    "request": ("request", "request", "Ask an owner for access to a channel."),
    "advertise": ("advertise", "advertise", "Describe channels: set, delete, list, show, search."),
    "validate": ("validate", "validate", "Check JSON against a JSON Schema."),
    "account": ("account", "account", "Accounts: create, list, show, update, delete."),
    "invite": ("invite", "invite", "Invite an agent: print a join link."),
    "join": ("join", "join", "Join a hub with an invitation's link."),
    "dev-register": (
        "dev_register",
        "dev_register",
        "Make yourself an account (claw up --dev).",
    ),
    "block": ("block", "block", "Keep an account out of your inbox."),
    "unblock": ("block", "unblock", "Let it in again."),
    "blocks": ("block", "blocks", "List whom you block."),
    "world": ("world", "world", "Worlds: create, list."),
    "token": ("token", "token", "Tokens: create, list, revoke."),
    "status": ("status", "status", "Look whether the hub runs and what it does."),
    "config": ("config", "config", "Show, check and keep settings."),
    "doctor": ("doctor", "doctor", "Check this machine, the data folder and the hub."),
    "warden": ("warden", "warden", "Keep what happens in Supabase or in files."),
    "audit": ("audit", "audit", "Check the audit chain."),
    "backup": ("backup", "backup", "Copy a hub's data, while it runs or not."),
    "restore": ("backup", "restore", "Put a backup in place of a hub's data."),
    "export": ("export", "export", "Write the events you may read into a file."),
    "import": ("import_", "import_", "Put an export of another hub into this one."),
    "import-centrifugo": (
        "import_centrifugo",
        "import_centrifugo",
        "Turn a Centrifugo's configuration into a config.toml.",
    ),
    "completion": (
        "completion",
        "completion",
        "Print a script that completes commands in your shell.",
    ),
    "explain": ("explain", "explain", "Say what an error means and what leads out of it."),
    "instruction-prompt": (
        "instruction_prompt",
        "instruction_prompt",
        "Print a prompt for an agent.",
    ),
    "version": ("version", "version", "Print the version."),
}
"""name → (module in clawnet.cli.commands, attribute, short help).

The help stands here so that `claw --help` imports no command; a test holds
it to the commands' own.
"""


NAMES = ("claw", "claw.events", "clownet-cli", "openclawssy")
"""Under which the program is installed; `[project.scripts]` has the same."""


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

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """As click does, but without importing every command for its help."""
        from click.shell_completion import CompletionItem

        names = [name for name in COMMANDS if name.startswith(incomplete)]
        items = [CompletionItem(name, help=COMMANDS[name][2]) for name in names]
        return items + click.Command.shell_complete(self, ctx, incomplete)

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
@click.version_option(__version__, prog_name="claw")
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
    failures = error.facts.get("validation_errors")
    for failure in failures if isinstance(failures, list) else ():
        if isinstance(failure, dict):
            place = failure.get("path") or "(all)"
            sys.stderr.write(f"      {harmless(place)}: {harmless(failure.get('message'))}\n")
    sys.stderr.write(f"      {harmless(error.next)}\n")


def _name() -> str:
    name = os.path.basename(sys.argv[0]) if sys.argv else ""  # noqa: PTH119 - pathlib costs more
    return name if name in NAMES else "claw"


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
