"""claw dispatch: give an agent work, and wait for what becomes of it."""

from __future__ import annotations

import json
import secrets
from typing import Any

import click

from clawnet.cli.message import MessageCommand
from clawnet.cli.options import GLOBAL_VALUED, invocation
from clawnet.cli.terminal import harmless, say, say_json
from clawnet.core.errors import ClawError


class DispatchCommand(MessageCommand):
    """Tells options from the command by its own rule; see clawnet.cli.words."""

    flags = MessageCommand.flags | {"--wait"}
    valued = GLOBAL_VALUED | {"--timeout", "--kind", "--room", "--key", "--args"}
    harm = "nothing was dispatched"


@click.command(cls=DispatchCommand, options_metavar="[OPTIONS]", short_help="Give an agent work.")
@click.argument("agent")
@click.argument("words", nargs=-1)
@click.option(
    "--kind", type=click.Choice(["openclaw", "exec", "custom"]), default="openclaw",
    show_default=True, help="openclaw: one turn of the agent; exec: a command of its machine.",
)  # fmt: skip
@click.option("--timeout", type=float, metavar="S", help="How long it may take.")
@click.option("--wait", is_flag=True, help="Wait for its end, and print its output as it comes.")
@click.option("--room", metavar="ROOM", help="Where it is told of as well.")
@click.option(
    "--args", metavar="JSON", help='More for the agent, as JSON: {"orchestrate": true}, for one.'
)
@click.option("--key", metavar="KEY", help="Dedupe key: giving it again under it changes nothing.")
def dispatch(
    agent: str,
    words: tuple[str, ...],
    kind: str,
    timeout: float | None,
    wait: bool,
    room: str | None,
    key: str | None,
    args: str | None,
) -> int:
    """Give AGENT (@bob, several joined by commas, or all) the work that WORDS say.

    With `-`, or without words and with a pipe, they are read from standard
    input. Options stand before the words, or behind a single (quoted) word.

    With --wait the exit code is 0 if all was completed, 77 if it was
    rejected, 4 if it did not end in time or nobody knows how, else 1.
    """
    if timeout is not None and not timeout > 0:
        raise click.UsageError("--timeout is a number of seconds above 0.")
    from clawnet.cli.commands.pub import read_words

    at = invocation()
    names = [name.strip().removeprefix("@") for name in agent.split(",") if name.strip()]
    if not names:
        raise click.UsageError("Give an agent: claw dispatch @bob 'say hello'")
    given: dict[str, Any] = {
        "to": names[0] if len(names) == 1 else names,
        "command": read_words(words, verb="dispatch"),
        "kind": kind,
        "timeout_s": timeout,
        "room": room,
        "args": None if args is None else _json(args),
        "dedupe_key": key or secrets.token_hex(12),
    }
    body = {name: value for name, value in given.items() if value is not None}
    try:
        if wait:
            from clawnet.cli.awaiting import Order, run

            order = Order(
                url=at.address.url, token=at.effective_token, body=body, is_json=at.is_json
            )
            return run(order)
        from clawnet.cli.patience import once_begun

        answer = once_begun(lambda: at.hub().call("POST", "/api/v1/tasks", body=body))
    except ClawError as error:
        raise at.explained(error) from None
    if at.is_json:
        say_json(answer)
        return 0
    for task in answer["tasks"]:
        say(harmless(f"task {task['task_id']} for {task['to']} is {task['status']}"))
    return 0


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise click.UsageError(
            "--args is no JSON; nothing was dispatched."
            " For example: --args '{\"orchestrate\": true}'"
        ) from None
