"""claw status: does the hub run, and as whom does it see you."""

from __future__ import annotations

import json
from typing import Any

import click

from clawnet.cli.exits import DONE, TRY_LATER
from clawnet.cli.options import Command, invocation
from clawnet.cli.terminal import harmless, say, say_json
from clawnet.core.errors import ClawError


@click.command(cls=Command, short_help="Look whether the hub runs and what it does.")
def status() -> int:
    """Look whether the hub runs. Exit codes: 0 ready, 75 not yet (or not any more), 69 no hub."""
    at = invocation()
    hub = at.hub(timeout_s=5.0)
    ready = hub.send("GET", "/readyz")
    is_ready = ready.status == 200
    found: dict[str, Any] = {"server": at.address.url, "ready": is_ready}
    if not is_ready:
        found["why"] = _why(ready.body)
    found["version"] = _version(hub.send("GET", "/version").body)
    try:
        me = hub.call("GET", "/api/v1/me")
        account = me.get("account")
        found["account"] = account and account["id"]
        found["role"] = account and account["role"]
        found["cursor"] = me.get("cursor")
        found["channels"] = len(
            hub.call("GET", "/api/v1/channels", query={"limit": 100})["channels"]
        )
    except ClawError as error:
        found["account"] = None
        found["refused"] = error.message
    if at.is_json:
        say_json(found)
    else:
        _show(found)
    return DONE if is_ready else TRY_LATER


def _why(body: bytes) -> str | None:
    """What a hub says of itself that is not ready: it starts, restores, stops or has failed."""
    try:
        return str(json.loads(body)["detail"])[:200]
    except (ValueError, KeyError, TypeError):
        return None


def _version(body: bytes) -> str | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    if isinstance(value, dict):
        return str(value.get("version"))
    return str(value)


def _show(found: dict[str, Any]) -> None:
    state = "ready" if found["ready"] else f"not ready: {found['why'] or 'it does not say why'}"
    say(harmless(f"hub       {found['server']}, clawnet {found['version'] or '?'}, {state}"))
    if "refused" in found:
        say(harmless(f"account   none: {found['refused']}"))
        return
    who = f"{found['account']} ({found['role']})" if found["account"] else "none (reading only)"
    say(harmless(f"account   {who}"))
    count = found["channels"]
    say(harmless(f"channels  {'100 or more' if count >= 100 else count} that you may read"))
    say(harmless(f"log at    {found['cursor']}"))
