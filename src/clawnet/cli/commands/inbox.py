"""claw inbox: what was sent to you since you last looked."""

from __future__ import annotations

import json
import secrets
import sys
import time
from typing import Any

import click

from clawnet.cli.options import Command, invocation
from clawnet.cli.patience import WAITS_S
from clawnet.cli.terminal import forget_stdout, harmless, json_text, note
from clawnet.core.calls.inbox import BUDGET_TOKENS_MAX, INBOX_LIMIT_MAX, TOKEN_BYTES
from clawnet.core.calls.reading import WAIT_MAX_S
from clawnet.core.errors import ClawError
from clawnet.core.prompts import JsonMessage, Render, asking, fit, least_budget, least_prompt_budget
from clawnet.core.prompts import prompt as prompt_of

CUT_NAMED_MAX = 5
_PATH = "/api/v1/inbox"


@click.command(cls=Command, short_help="Show what was sent to you since you last looked.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, 86_400),
    default=0.0,
    metavar="S",
    help="Wait up to S seconds for a first message.",
)
@click.option("--ack", is_flag=True, help="Acknowledge what was printed whole.")
@click.option(
    "--ack-id",
    "ack_ids",
    multiple=True,
    metavar="ID",
    help="Acknowledge this message without showing any; may be repeated.",
)
@click.option(
    "--budget",
    type=click.IntRange(1, BUDGET_TOKENS_MAX),
    metavar="N",
    help="Print at most N tokens of 4 bytes: the newest that fit.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, INBOX_LIMIT_MAX),
    help="At most so many messages; 50, or 500 with --budget.",
)
@click.option("--prompt", is_flag=True, help="Print them as data for an agent's prompt.")
def inbox(
    wait_s: float,
    ack: bool,
    ack_ids: tuple[str, ...],
    budget: int | None,
    limit: int | None,
    prompt: bool,
) -> None:
    """Show what is unread in your inbox, from oldest to newest.

    Without a budget the oldest --limit messages. With --budget the newest that
    fit; what is left out stays unread and is counted on standard error. A
    message that could never fit is cut, and --ack does not acknowledge it:
    read it with a larger budget, or name it with --ack-id.

    With --prompt the messages stand as data between two lines with a random
    marker that nothing inside can repeat.
    """
    at = invocation()
    if prompt and at.is_json:
        raise click.UsageError("--prompt and --json are two forms; give one of them.")
    if ack_ids:
        if ack or wait_s or prompt or budget or limit:
            raise click.UsageError("--ack-id shows nothing, so it stands alone.")
        _acknowledge(list(ack_ids), [])
        return
    page = _fetch(wait_s, budget, limit)
    gaps: list[dict[str, Any]] = page.get("gaps") or []
    if prompt:
        made = prompt_of(page, budget_tokens=budget, random_hex=secrets.token_hex)
        _tell(page, made.left_out, gaps)
        if budget is not None and made.left_out and not made.shown:
            _tell_of_budget(least_prompt_budget(page))
        _print(made.text)
        shown = made.shown
    else:
        chosen = _chosen(page, budget)
        shown = [message for message, _ in chosen]
        texts = [text for _, text in chosen]
        left_out = max(page["unread"] - len(chosen), 0)
        _tell(page, left_out, gaps)
        if budget is not None and left_out and not chosen:
            render, around = _form(page)
            _tell_of_budget(least_budget(page["messages"], render, around=around))
        if at.is_json:
            texts = [_page_text(page, texts, left_out)]
        _print("".join(f"{text}\n" for text in texts))
    if ack:
        whole = [one["event"]["id"] for one in shown if not one.get("truncated")]
        _acknowledge(whole, gaps)
        _tell_of_cut([one["event"]["id"] for one in shown if one.get("truncated")])


def _chosen(page: dict[str, Any], budget: int | None) -> list[tuple[JsonMessage, str]]:
    """What is printed of the page, with its text: JSON or a line."""
    messages: list[JsonMessage] = page["messages"]
    render, around = _form(page)
    if budget is None:
        return [(message, render(message)) for message in messages]
    return fit(messages, render, room=budget * TOKEN_BYTES - around)


def _form(page: dict[str, Any]) -> tuple[Render, int]:
    """How a message is written, and the bytes around all of them."""
    if not invocation().is_json:
        return _line, 0
    return json_text, len(_page_text(page, [], page["unread"]).encode()) + 1


def _fetch(wait_s: float, budget: int | None, limit: int | None) -> dict[str, Any]:
    """The hub's answer; it waits a minute at most, so a longer wait is several.

    A hub that goes away meanwhile is asked again as long as the wait lasts.
    """
    at = invocation()
    call = asking(limit=limit, budget_tokens=budget)
    query = {"limit": call.limit, "budget": call.budget_tokens, "cut": call.cut_bytes}
    end = time.monotonic() + wait_s
    failures = 0
    while True:
        left_s = max(0.0, min(end - time.monotonic(), WAIT_MAX_S))
        asked = {**query, "wait": f"{left_s:.3f}" if left_s else None}
        try:
            page: dict[str, Any] = at.call("GET", _PATH, query=asked, timeout_s=left_s + 30.0)
        except ClawError as error:
            left_s = end - time.monotonic()
            if not error.retryable or left_s <= 0:
                raise
            if not failures:
                note(f"claw: {error.message} Trying again for {left_s:.0f} s.")
            pause_s = max(WAITS_S[min(failures, len(WAITS_S) - 1)], error.retry_after_s or 0.0)
            time.sleep(min(pause_s, left_s))
            failures += 1
            continue
        failures = 0
        if page["messages"] or page["unread"] or page.get("gaps") or time.monotonic() >= end:
            return page


def _tell(page: dict[str, Any], left_out: int, gaps: list[dict[str, Any]]) -> None:
    """How much there is, on standard error."""
    oldest_s = page["lag"]["oldest_s"]
    age = "" if oldest_s is None else f" (oldest from {ago(oldest_s)})"
    note(f"{page['unread']} unread, {left_out} left out{age}")
    for gap in gaps:
        note(
            f"claw: messages {gap['first']} to {gap['last']} of {gap['channel']} are gone unread "
            f"({gap.get('reason', 'retention')})."
        )


def _tell_of_budget(least: int | None) -> None:
    hint = "" if least is None else f"; it works from --budget {least} on"
    note(f"claw: the budget has no room for a message{hint}.")


def _print(text: str) -> None:
    """Write to standard output, and know that it was taken. Raises ClickException if not."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        forget_stdout()
        raise click.ClickException(
            f"Standard output cannot be written ({error.strerror}); nothing was acknowledged."
        ) from None
    if sys.__stdout__ is None:
        raise click.ClickException("Standard output is closed; nothing was acknowledged.")


def _acknowledge(ids: list[str], gaps: list[dict[str, Any]]) -> None:
    if not ids and not gaps:
        return
    told = [{name: gap[name] for name in ("channel", "first", "last")} for gap in gaps]
    answer = invocation().call("POST", f"{_PATH}/ack", body={"events": ids, "gaps": told})
    note(f"acknowledged {answer['acked']}, {answer['unread']} unread")
    for name in answer["unknown"]:
        note(f"claw: {name} is no message of this inbox (any more).")


def _tell_of_cut(ids: list[str]) -> None:
    """What was shown and not acknowledged, and how that is done."""
    if not ids:
        return
    named = " ".join(f"--ack-id {one}" for one in ids[:CUT_NAMED_MAX])
    more = " …" if len(ids) > CUT_NAMED_MAX else ""
    verb = "was" if len(ids) == 1 else "were"
    note(f"{len(ids)} {verb} cut, not acknowledged: claw inbox {named}{more}")


def _line(message: JsonMessage) -> str:
    """One message as one harmless line."""
    event, sender = message["event"], message["sender"]
    data = event["data"]
    text = data if isinstance(data, str) else _compact(data)
    if message.get("truncated"):
        text += f"… (cut; the data has {message['size']} bytes)"
    names = [sender["handle"], sender.get("handle_now")]
    other = ", now ".join(name for name in names if name is not None and name != sender["id"])
    who = f"{sender['id']} ({other})" if other else sender["id"]
    within_s = (event.get("expect") or {}).get("reply_within_s")
    kind = event["type"]
    if within_s is not None:
        kind += f" (answer expected within {within_s:g} s)"
    return harmless("  ".join((event["id"], event["ts"], who, event["channel"], kind, text)))


def _page_text(page: dict[str, Any], texts: list[str], left_out: int) -> str:
    rest = {name: value for name, value in page.items() if name != "messages"}
    rest["left_out"] = left_out
    return f'{{"messages":[{",".join(texts)}],{json_text(rest)[1:]}'


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def ago(seconds: float) -> str:
    """An age in words: `5 min ago`."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"
