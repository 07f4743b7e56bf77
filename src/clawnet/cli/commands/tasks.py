"""claw tasks: what was given to whom, and what became of it."""

from __future__ import annotations

import sys
from typing import Any

import click

from clawnet.cli.naming import account_id
from clawnet.cli.options import GLOBAL_FLAGS, GLOBAL_VALUED, Group, invocation
from clawnet.cli.speech import blocks
from clawnet.cli.terminal import harmless, is_terminal, say, say_json, table
from clawnet.client.http import segment

_PATH = "/api/v1/tasks"


class TasksGroup(Group):
    """Without a subcommand it is `list`, whose options then follow at once."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        lists = {name for one in list_.params for name in one.opts}
        lists -= {name for one in self.params for name in one.opts}
        at = 0
        # Global options may stand before them.
        while at < len(args) and args[at] in GLOBAL_FLAGS | GLOBAL_VALUED:
            at += 1 if args[at] in GLOBAL_FLAGS else 2
        if at < len(args) and args[at].partition("=")[0] in lists:
            args = [*args[:at], "list", *args[at:]]
        return super().parse_args(ctx, args)


@click.group(
    cls=TasksGroup,
    invoke_without_command=True,
    short_help="Tasks: list, show, cancel, approve.",
)
@click.pass_context
def tasks(ctx: click.Context) -> None:
    """Tasks: what was given to whom, and what became of it. Alone: the newest."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


@tasks.command("list")
@click.option("--agent", metavar="AGENT", help="Whose tasks.")
@click.option("--status", metavar="STATUS", help="Such as running or failed.")
@click.option("--open", "is_open", is_flag=True, help="Those that have not ended.")
@click.option("--room", metavar="ROOM", help="Those of a room.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True)
def list_(
    agent: str | None = None,
    status: str | None = None,
    is_open: bool = False,
    room: str | None = None,
    limit: int = 50,
) -> None:
    """List the tasks that you may see, newest first."""
    at = invocation()
    query = {
        "agent": agent and account_id(agent),
        "status": status,
        "open": "true" if is_open else None,
        "room": room,
        "limit": limit,
    }
    answer = at.call("GET", _PATH, query=query)
    if at.is_json:
        say_json(answer)
        return
    table(
        ("task", "status", "from", "to", "kind", "command", "updated"),
        [
            [one["task_id"], one["status"], one["from_id"], one["to"], one["kind"],
             str(one["command"])[:60], one["updated"]]
            for one in answer["tasks"]
        ],
        empty="There are no tasks.",
    )  # fmt: skip


@tasks.command()
@click.argument("task")
def show(task: str) -> None:
    """Show TASK with its output."""
    _show(invocation().call("GET", f"{_PATH}/{segment(task)}"))


@tasks.command()
@click.argument("task")
def cancel(task: str) -> None:
    """End TASK, as who gave it, who has it, or a master."""
    _told(invocation().call("POST", f"{_PATH}/{segment(task)}/cancel"))


@tasks.command()
@click.argument("task")
@click.option("--digest", metavar="DIGEST", help="Approve only if it is still exactly this.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def approve(task: str, digest: str | None, yes: bool) -> None:
    """Let TASK, which waits for a master, go on: exactly the bytes that are shown."""
    at = invocation()
    path = f"{_PATH}/{segment(task)}"
    if digest is None:
        found = at.call("GET", path)
        digest = str(found.get("digest"))
        if not yes:
            if not is_terminal(sys.stdin):
                raise click.UsageError("Nobody can be asked here: use --digest, or --yes.")
            asked = f"{found.get('from_id')} wants {found.get('to')} to run ({found.get('kind')}):"
            click.echo(f"{harmless(asked)}\n{blocks(str(found.get('command')))}", err=True)
            click.confirm("Approve it?", abort=True, err=True)
    _told(at.call("POST", f"{path}/approve", body={"digest": digest}))


def _told(found: dict[str, Any]) -> None:
    if invocation().is_json:
        say_json(found)
    else:
        say(harmless(f"task {found.get('task_id')} is {found.get('status')}"))


def _show(found: dict[str, Any]) -> None:
    if invocation().is_json:
        say_json(found)
        return
    long = ("command", "output", "error")
    for key, value in found.items():
        if key not in long:
            say(f"{harmless(key):14} {harmless('-' if value is None else value)}")
    for key in long:
        if found.get(key):
            say(f"{key}:\n{blocks(str(found[key]))}")
