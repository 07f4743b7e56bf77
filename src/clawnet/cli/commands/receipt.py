"""claw receipt: how far a message to an inbox came."""

from __future__ import annotations

import click

from clawnet.cli.options import Command, invocation
from clawnet.cli.receipts import (
    STEPS,
    TIMEOUT_S,
    await_step,
    check_timeout,
    show,
    tell,
)
from clawnet.cli.terminal import note, say_json
from clawnet.core.errors import ClawError


@click.command(cls=Command, short_help="Show how far a message to an inbox came.")
@click.argument("event_id", metavar="EVENT_ID")
@click.option(
    "--require", type=click.Choice(STEPS), help="Wait for this step; exit code 4 without it."
)
@click.option(
    "--timeout", type=float, default=TIMEOUT_S, metavar="S", show_default=True,
    help="How long to wait for --require.",
)  # fmt: skip
def receipt(event_id: str, require: str | None, timeout: float) -> int:
    """Show when the message EVENT_ID was stored, offered, woken and acted on.

    Stored: it is on the hub's disk. Offered: a connection or consumer of the recipient was given
    it. Woken: the recipient's own process said that it has it. Acted: it was
    acknowledged or answered. Only the sender, the recipient and wardens may look.
    """
    at = invocation()
    timeout_s = check_timeout(timeout) if require else 0.0
    step = require or "acted"
    try:
        found, reason = await_step(at.hub(), event_id, step, timeout_s=timeout_s, is_stored=False)
    except ClawError as error:
        raise at.explained(error) from None
    assert found is not None  # without any answer it raises
    if at.is_json:
        say_json(found)
    else:
        show(found)
    if require is None:
        if reason is not None and not at.is_json:
            note(f"claw: {reason}.")
        return 0
    return tell(step, event_id, reason)
