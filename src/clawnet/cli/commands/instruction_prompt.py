"""claw instruction-prompt: what an agent puts into its context to use this hub."""

from __future__ import annotations

from typing import Any

import click

from clawnet.cli.options import Command, invocation
from clawnet.cli.terminal import harmless, note, say_json
from clawnet.core.errors import ClawError
from clawnet.core.instructions import PROOFS, WRAPPERS, For, Limits, instructions

_READERS: dict[str, For] = {str(name): name for name in WRAPPERS if name is not None}


@click.command("instruction-prompt", cls=Command, short_help="Print a prompt for an agent.")
@click.option("--for", "reader", type=click.Choice(list(_READERS)), help="Where it is going to.")
def instruction_prompt(reader: str | None) -> None:
    """Print the prompt by which an agent uses this hub, and nothing else.

    It names the account of the token that is shown, the hub's URL and its limits. Without a token
    it says how to get one; a hub that cannot be asked then leaves its limits out, with a line on
    standard error. `--for` changes its first line only.
    """
    at = invocation()
    about = _about()
    text = instructions(
        url=at.address.url,
        account=_name(about, "account"),
        handle=_name(about, "handle"),
        reader=None if reader is None else _READERS[reader],
        limits=_limits(about),
        proofs=_proofs(about),
    )
    if at.is_json:
        say_json({"server": at.address.url, "prompt": text})
    else:
        click.echo(text, nl=False)


def _about() -> dict[str, Any]:
    # Only facts are the hub's: the sentences that an agent will obey are this program's own.
    at = invocation()
    try:
        hub = at.hub(timeout_s=30.0 if at.effective_token is not None else 5.0)
        about = hub.call("GET", "/api/v1/instructions", query={"format": "json"})
    except ClawError as error:
        if at.effective_token is None:
            # Whoever has no account yet is told how to get one all the same.
            note(f"claw: {error.message} The prompt is without the hub's limits.")
            return {}
        raise at.explained(error) from None
    return about if isinstance(about, dict) else {}


def _name(about: dict[str, Any], member: str) -> str | None:
    value = about.get(member)
    return harmless(value) if isinstance(value, str) else None


def _proofs(about: dict[str, Any]) -> list[str] | None:
    told = about.get("proofs")
    if not isinstance(told, list):
        return None
    # Only names that this program knows: what it does not know is the hub's text.
    return [name for name in told if name in PROOFS]


def _limits(about: dict[str, Any]) -> Limits | None:
    rate, size = about.get("publish_per_s"), about.get("data_max_bytes")
    if not isinstance(size, int):
        return None
    return Limits(float(rate) if isinstance(rate, int | float) else None, size)
