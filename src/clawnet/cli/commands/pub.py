"""claw pub: publish one event."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from clawnet.cli.options import GLOBAL_FLAGS, GLOBAL_VALUED, Command, invocation
from clawnet.cli.terminal import harmless, say, say_json
from clawnet.cli.words import split
from clawnet.core.errors import ClawError, InvalidData

_VALUED = GLOBAL_VALUED | {"--key", "--type"}
_FLAGS = GLOBAL_FLAGS | {"-h", "--help"}


class PubCommand(Command):
    """Tells options from the message by its own rule; see clawnet.cli.words."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        found = split(args, flags=_FLAGS, valued=_VALUED)
        if found.tail:
            raise click.UsageError(
                f"{' '.join(found.tail)} behind the message could be an option or text; nothing "
                "was published. Put options before the message, or -- before the text.",
                ctx,
            )
        channel = [] if found.channel is None else [found.channel]
        return super().parse_args(ctx, [*found.options, "--", *channel, *found.words])


@click.command(
    cls=PubCommand,
    options_metavar="[OPTIONS]",
    short_help="Publish an event.",
)
@click.argument("channel")
@click.argument("words", nargs=-1)
@click.option("--key", metavar="KEY", help="Dedupe key: repeating the publish changes nothing.")
@click.option("--type", metavar="TYPE", help="The event's type, such as x.build_done.")
def pub(channel: str, words: tuple[str, ...], key: str | None, type: str | None) -> None:
    """Publish an event on CHANNEL.

    WORDS are the data: JSON if they parse as JSON, else text. With `-`, or
    without words and with a pipe, the data is read from standard input.
    Options stand before the words, or behind a single (quoted) word; a
    longer text that ends with one is refused. Everything behind `--` is
    text, even if it looks like an option.
    """
    data = encode_data(read_words(words))
    at = invocation()
    try:
        answer = at.hub().publish(channel, data, type=type, dedupe_key=key)
    except ClawError as error:
        raise at.explained(error) from None
    if at.is_json:
        say_json({"channel": channel, **answer})
        return
    note = " (it was there already)" if answer.get("deduped") else ""
    offset = answer.get("offset")
    say(harmless(f"published on {channel} at offset {offset}: {answer.get('id')}{note}"))


def read_words(words: tuple[str, ...]) -> str:
    """The message: from the words, or from standard input. Raises InvalidData, UsageError."""
    if words and words != ("-",):
        return _text(" ".join(words).encode(errors="surrogateescape"), "The message")
    if not words and sys.stdin.isatty():
        raise click.UsageError("There is nothing to publish: give words, or a pipe.")
    raw = sys.stdin.buffer.read()
    if not raw and not words:
        # Under cron and the like stdin is empty without anybody having meant it.
        raise InvalidData(
            "Standard input is empty; nothing was published.",
            next='Give words, or "" to publish an empty text.',
        )
    # echo and here-documents end with a newline that is not part of what is said.
    return _text(raw, "Standard input").removesuffix("\n").removesuffix("\r")


def encode_data(text: str) -> bytes:
    """The event's data: the text itself if it is JSON, else as a JSON string."""
    try:
        # Numbers are not converted: Python refuses those of more than 4,300 digits.
        json.loads(text, parse_constant=_refuse, parse_int=len, parse_float=len)
    except ValueError:
        # A lone surrogate cannot come from valid UTF-8, so this cannot fail.
        return json.dumps(text, ensure_ascii=False).encode()
    except RecursionError:
        # JSON, but too deep for this parser; the hub says what it thinks of that.
        pass
    return text.encode()


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidData(
            f"{what} is not valid UTF-8 (byte {error.start}).",
            next="Convert it (iconv -t UTF-8), or publish it as base64.",
        ) from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
