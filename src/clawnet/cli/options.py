"""Commands and groups that take the global options wherever a command's own may stand."""

from __future__ import annotations

from typing import Any

import click

from clawnet.cli.invocation import Invocation

GLOBAL_FLAGS = frozenset({"-j", "--json"})
GLOBAL_VALUED = frozenset({"-c", "--config", "-s", "--server", "-t", "--token"})


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    # None is "not given here": what stood before the command must survive.
    if value is None or (value is False):
        return
    invocation = ctx.find_root().ensure_object(Invocation)
    setattr(invocation, "is_json" if param.name == "json" else str(param.name), value)


def global_options() -> list[click.Parameter]:
    """The four options of every command."""
    return [
        click.Option(
            ["-c", "--config"], metavar="PATH", expose_value=False, callback=_keep,
            help="Folder of config.toml and credentials.json, or one of them.",
        ),
        click.Option(
            ["-s", "--server"], metavar="URL", expose_value=False, callback=_keep,
            help="The hub's address (CLAWNET_SERVER).",
        ),
        click.Option(
            ["-t", "--token"], metavar="TOKEN", expose_value=False, callback=_keep,
            help="The token to show (CLAWNET_TOKEN).",
        ),
        click.Option(
            ["-j", "--json"], is_flag=True, expose_value=False, callback=_keep,
            help="Answers as JSON.",
        ),
    ]  # fmt: skip


class Command(click.Command):
    """A command with the global options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += global_options()


class Group(click.Group):
    """A group with the global options, whose commands have them too."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += global_options()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest name if there is no such command."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            ctx.fail(f"There is no command {ascii(name)}.{hint}")
        return super().resolve_command(ctx, args)


def invocation() -> Invocation:
    """The running command's global options."""
    found: Invocation = click.get_current_context().find_root().ensure_object(Invocation)
    return found
