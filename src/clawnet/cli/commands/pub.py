"""claw pub: publish one event."""

from __future__ import annotations

import json
import sys
from typing import Any

import click
from click.core import ParameterSource

from clawnet.cli.message import MessageCommand
from clawnet.cli.options import GLOBAL_VALUED, invocation
from clawnet.cli.terminal import harmless, say, say_json
from clawnet.core.errors import ClawError, InvalidData


class PubCommand(MessageCommand):
    """Tells options from the message by its own rule; see clawnet.cli.words."""

    flags = MessageCommand.flags | {"--outbox"}
    valued = GLOBAL_VALUED | {
        "--key",
        "--type",
        "--traceparent",
        "--require",
        "--timeout",
        "--expect-reply",
        "--reply-to",
    }
    harm = "nothing was published"


@click.command(
    cls=PubCommand,
    options_metavar="[OPTIONS]",
    short_help="Publish an event.",
)
@click.argument("channel")
@click.argument("words", nargs=-1)
@click.option("--key", metavar="KEY", help="Dedupe key: repeating the publish changes nothing.")
@click.option("--type", metavar="TYPE", help="The event's type, such as x.build_done.")
@click.option(
    "--traceparent",
    metavar="TEXT",
    envvar="TRACEPARENT",
    help="W3C trace context of what this belongs to (TRACEPARENT; else that of --reply-to).",
)
@click.option(
    "--require",
    type=click.Choice(["stored", "offered", "woken", "acted"]),
    help="Wait until the recipient's inbox got so far; exit code 4 if it does not in time.",
)
@click.option(
    "--timeout",
    type=float,
    default=5.0,
    metavar="S",
    show_default=True,
    help="How long to wait for --require.",
)
@click.option(
    "--expect-reply",
    type=float,
    metavar="S",
    help="Expect an answer within S seconds; silence is told in your inbox.",
)
@click.option(
    "--reply-to",
    metavar="EVENT_ID",
    help="This answers that event, as its effect.",
)
@click.option(
    "--outbox",
    is_flag=True,
    help="Keep it on this machine if the hub is away, and send what is kept, in order.",
)
def pub(
    channel: str,
    words: tuple[str, ...],
    key: str | None,
    type: str | None,
    traceparent: str | None,
    require: str | None,
    timeout: float,
    expect_reply: float | None,
    reply_to: str | None,
    outbox: bool,
) -> int:
    """Publish an event on CHANNEL.

    WORDS are the data: JSON if they parse as JSON, else text. With `-`, or
    without words and with a pipe, the data is read from standard input.
    Options stand before the words, or behind a single (quoted) word; a
    longer text that ends with one is refused, and so is an option there that
    does not exist. Everything behind `--` is text, even if it looks like an
    option.

    With --require the event is published in any case; if its recipient did
    not get so far in time, the exit code is 4 and the reason is told.
    """
    if outbox and require is not None:
        raise click.UsageError("--require needs the hub, and --outbox does without: give one.")
    if require is not None:
        from clawnet.cli.receipts import check_timeout, require_inbox

        require_inbox(channel)
        check_timeout(timeout)
    data = encode_data(read_words(words))
    if traceparent is not None:
        from clawnet.core.trace import admit_traceparent

        given, traceparent = traceparent, admit_traceparent(traceparent)
        source = click.get_current_context().get_parameter_source("traceparent")
        # A malformed one of the environment must not cost the event: nobody asked for it here.
        if given and traceparent is None and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                "--traceparent is no W3C traceparent (00-TRACE_ID-PARENT_ID-FLAGS); "
                "nothing was published."
            )
    at = invocation()
    try:
        correlation = causation = None
        if reply_to is not None:
            correlation, causation, trace = _answering(reply_to)
            traceparent = traceparent or trace
        if outbox:
            from clawnet.cli.outbox import publish_kept

            publish_kept(
                at,
                channel,
                data,
                type=type,
                dedupe_key=key,
                correlation_id=correlation,
                causation_id=causation,
                traceparent=traceparent,
                reply_within_s=expect_reply,
            )
            return 0
        answer = at.hub().publish(
            channel,
            data,
            type=type,
            dedupe_key=key,
            correlation_id=correlation,
            causation_id=causation,
            traceparent=traceparent,
            reply_within_s=expect_reply,
        )
        told = {"channel": channel, **answer}
        if require is not None:
            return _required(told, require, timeout)
    except ClawError as error:
        raise at.explained(error) from None
    _say(told)
    return 0


def _say(told: dict[str, Any]) -> None:
    if invocation().is_json:
        say_json(told)
        return
    note = " (it was there already)" if told.get("deduped") else ""
    where = f"{told['channel']} at offset {told.get('offset')}"
    say(harmless(f"published on {where}: {told.get('id')}{note}"))


def _required(told: dict[str, Any], step: str, timeout_s: float) -> int:
    """Say what was published, and wait for its receipt. Raises ClawError."""
    from clawnet.cli.receipts import await_step, tell

    at = invocation()
    if not at.is_json:
        # At once: whatever comes of the waiting, it is stored.
        _say(told)
        sys.stdout.flush()
    event_id = str(told.get("id"))
    receipt, reason = await_step(at.hub(), event_id, step, timeout_s=timeout_s, is_stored=True)
    if at.is_json:
        _say({**told, "receipt": receipt})
    return tell(step, event_id, reason)


def _answering(event_id: str) -> tuple[str, str, str | None]:
    """Correlation, causation and trace of an answer to an event, which must be readable."""
    from clawnet.client.http import segment

    event = invocation().hub().call("GET", f"/api/v1/events/{segment(event_id)}")
    chain = str(event.get("correlation_id") or event["id"])
    return chain, str(event["id"]), event.get("traceparent")


def read_words(words: tuple[str, ...], *, verb: str = "publish") -> str:
    """The message: from the words, or from standard input. Raises InvalidData, UsageError."""
    if words and words != ("-",):
        return _text(" ".join(words).encode(errors="surrogateescape"), "The message")
    if not words and sys.stdin.isatty():
        raise click.UsageError(f"There is nothing to {verb}: give words, or a pipe.")
    raw = sys.stdin.buffer.read()
    if not raw and not words:
        # Under cron and the like stdin is empty without anybody having meant it.
        raise InvalidData(
            f"Standard input is empty; there is nothing to {verb}.",
            next=f'Give words, or "" to {verb} an empty text.',
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
