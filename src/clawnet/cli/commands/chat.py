"""claw chat and claw dm: say something, or sit in a room and talk."""

from __future__ import annotations

import secrets
import sys
from typing import Any

import click

from clawnet.cli.message import MessageCommand
from clawnet.cli.naming import account_id
from clawnet.cli.options import GLOBAL_VALUED, Command, invocation
from clawnet.cli.speech import blocks
from clawnet.cli.terminal import harmless, is_terminal, say, say_json
from clawnet.core.errors import ClawError


@click.command(cls=Command, short_help="Talk in a room, or say one thing.")
@click.option(
    "--room", default="global", metavar="ROOM", show_default=True,
    help="A room's name, global, or dm.A.B.",
)  # fmt: skip
@click.option("--msg", metavar="TEXT", help="Say this and end.")
@click.option("--key", metavar="KEY", help="Dedupe key: saying it again under it changes nothing.")
@click.option(
    "--history", "history", type=click.IntRange(0, 1_000), default=20, metavar="N",
    show_default=True, help="How much of what was said before to show.",
)  # fmt: skip
@click.option("--plain", is_flag=True, help="Lines only, also on a terminal.")
def chat(room: str, msg: str | None, key: str | None, history: int, plain: bool) -> int:
    """Say --msg in a room, or without it: sit there and talk.

    Then each line you type is said, /help lists the commands of the hub, and
    /quit or the end of the input leaves. From a pipe each of its lines is
    said. An unknown room is made.
    """
    if msg is not None:
        _send({"room": room}, msg, key=key)
        return 0
    return _sit(room=room, to=None, history=history, is_plain=plain)


class DmCommand(MessageCommand):
    """Tells options from the message by its own rule; see clawnet.cli.words."""

    valued = GLOBAL_VALUED | {"--key"}


@click.command(cls=DmCommand, options_metavar="[OPTIONS]", short_help="Write to one account.")
@click.argument("agent")
@click.argument("words", nargs=-1)
@click.option("--key", metavar="KEY", help="Dedupe key: saying it again under it changes nothing.")
def dm(agent: str, words: tuple[str, ...], key: str | None) -> int:
    """Write WORDS to AGENT (an id or a handle), and to nobody else.

    With `-`, or with a pipe, the text is read from standard input. On a
    terminal, without words, you sit and talk with AGENT.
    """
    if not words and is_terminal(sys.stdin):
        return _sit(room=None, to=account_id(agent), history=20, is_plain=False)
    from clawnet.cli.commands.pub import read_words

    text = read_words(words, verb="send")
    _send({"to": account_id(agent)}, text, key=key)
    return 0


def _send(where: dict[str, str], text: str, *, key: str | None) -> None:
    """Say it, again if the answer was lost, and print the receipt."""
    from clawnet.cli.patience import once_begun
    from clawnet.client.chat import target

    at = invocation()
    to_type, to_id = target(where.get("room"), where.get("to"))
    # Made here, so that repeating it after a lost answer is the same message.
    body = {
        "to_type": to_type,
        "to_id": to_id,
        "payload": {"text": text},
        "dedupe_key": key or secrets.token_hex(12),
    }
    try:
        answer = once_begun(lambda: at.hub().call("POST", "/api/v1/messages", body=body))
    except ClawError as error:
        raise at.explained(error) from None
    if at.is_json:
        say_json(answer)
    else:
        say(receipt(answer))


def receipt(answer: dict[str, Any]) -> str:
    """What became of a message, or of a command, in harmless words."""
    command = answer.get("command")
    if isinstance(command, dict):
        return blocks(str(command.get("text", "")))
    note = " (it was there already)" if answer.get("deduped") else ""
    where = f"{answer.get('channel')} at offset {answer.get('offset')}"
    return harmless(f"said on {where}: {answer.get('id')}{note}")


def _sit(*, room: str | None, to: str | None, history: int, is_plain: bool) -> int:
    from clawnet.cli.sitting import Sitting, run

    at = invocation()
    sitting = Sitting(
        url=at.address.url,
        token=at.effective_token,
        room=room,
        to=to,
        history=history,
        is_json=at.is_json,
        is_plain=is_plain,
    )
    try:
        return run(sitting)
    except ClawError as error:
        raise at.explained(error) from None
