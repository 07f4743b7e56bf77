"""Waiting for a step of a receipt: what `claw pub --require` and `claw receipt` share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click

from clawnet.cli.exits import DONE, NOT_REACHED
from clawnet.cli.terminal import harmless, note, say
from clawnet.client.errors import HubUnreachable, UnexpectedAnswer
from clawnet.client.http import HubHttp
from clawnet.core.errors import ClawError

STEPS = ("stored", "offered", "woken", "acted")
TIMEOUT_S = 5.0
TIMEOUT_MAX_S = 3_600.0
_WAIT_S = 20.0


def require_inbox(channel: str) -> None:
    """Raises UsageError for a channel whose events have no receipts, InvalidChannel."""
    from clawnet.core.channels import Kind, parse

    if parse(channel).kind is not Kind.INBOX:
        raise click.UsageError(
            "--require works on an inbox only; nothing was published. Publish on "
            "agent.<id>.inbox, or leave --require out."
        )


def check_timeout(seconds: float) -> float:
    """Raises UsageError."""
    if not 0 <= seconds <= TIMEOUT_MAX_S:
        raise click.UsageError(f"--timeout is a number of seconds up to {TIMEOUT_MAX_S:g}.")
    return seconds


def await_step(
    hub: HubHttp,
    event_id: str,
    step: str,
    *,
    timeout_s: float,
    is_stored: bool,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[dict[str, Any] | None, str | None]:
    """The receipt and, if the step was not reached within the time, why.

    A hub that is away is asked again. Without any answer the receipt is None if the event
    `is_stored` (the caller published it); if nobody knows, HubUnreachable, Unavailable or
    UnexpectedAnswer is raised. Raises ClawError for what the hub refuses.
    """
    end = now() + timeout_s
    path = f"/api/v1/events/{quote(event_id, safe='')}/receipt"
    receipt: dict[str, Any] | None = None
    trouble: ClawError | None = None
    while True:
        left = max(end - now(), 0.0)
        wait_s = min(left, _WAIT_S)
        query = {"until": step, "wait": f"{wait_s:.3f}"}
        try:
            receipt = hub.call("GET", path, query=query, timeout_s=wait_s + 5.0)
        except ClawError as error:
            if not (isinstance(error, HubUnreachable) or error.retryable):
                raise
            trouble = error
            reason = f"the hub did not say: {error.message.rstrip('.')}"
        else:
            if not isinstance(receipt, dict):
                if not is_stored:
                    raise UnexpectedAnswer("What was answered is no receipt.")
                return None, "the hub's answer cannot be read"
            if receipt.get("reached"):
                return receipt, None
            reason = str(receipt.get("reason") or "the hub gave no reason")
        left = end - now()
        if left <= 0:
            if receipt is None and trouble is not None and not is_stored:
                raise trouble
            return receipt, reason
        sleep(min(0.5, left))


def tell(step: str, event_id: str, reason: str | None) -> int:
    """The exit code; a step that was not reached is said with its reason on stderr."""
    if reason is None:
        return DONE
    note(f"claw: stored as {event_id}, but not {step}: {reason}.")
    return NOT_REACHED


def show(receipt: dict[str, Any]) -> None:
    """The steps with their times, for a person."""
    for step in STEPS:
        say(harmless(f"{step:<8} {receipt.get(step) or '-'}"))
