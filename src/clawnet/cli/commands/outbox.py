"""claw outbox: what waits on this machine for the hub, and what the hub refused."""

from __future__ import annotations

import json
from typing import Any

import click

from clawnet.cli import exits
from clawnet.cli.options import Group, invocation
from clawnet.cli.terminal import harmless, note, say, say_json, table

_FILE = click.option(
    "--file", metavar="PATH", help="Another outbox than that of this hub and token."
)
_SHOWN_CHARS = 60


@click.group(cls=Group, short_help="What waits on this machine for the hub.")
def outbox() -> None:
    """What waits on this machine for the hub (claw pub --outbox), and what the hub refused."""


@outbox.command("list")
@_FILE
def list_(file: str | None) -> None:
    """List the events that wait, oldest first. Asks no hub."""
    from clawnet.cli.outbox import open_store, others, path_of

    at = invocation()
    path = path_of(at, file)
    store = open_store(at, path)
    rows: list[dict[str, Any]] = []
    if store is not None:
        for entry in store.waiting(limit=store.entries_max, bytes_max=store.bytes_max):
            members = _members(entry.members)
            rows.append({"id": entry.id, "channel": entry.channel, "kept": _time(entry.kept_ms),
                         "dedupe_key": entry.dedupe_key, "data": members.get("data")})  # fmt: skip
        store.close()
    if at.is_json:
        say_json({"file": str(path), "waiting": rows})
        return
    table(
        ("id", "channel", "kept", "data"),
        [(row["id"], row["channel"], row["kept"], _short(row["data"])) for row in rows],
        empty="Nothing waits.",
    )
    for other in others(path) if file is None else ():
        # What waits under a token that was changed since must not be forgotten.
        found = open_store(at, other)
        waiting = 0 if found is None else found.totals().waiting
        if found is not None:
            found.close()
        if waiting:
            note(f"{waiting} more wait under another token: claw outbox list --file {other}")


@outbox.command()
@_FILE
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=30.0, show_default=True, metavar="SECONDS",
    help="How long to wait for a hub that is slow; one that is away is not waited for.",
)  # fmt: skip
def flush(file: str | None, timeout: float) -> int:
    """Send what waits, in order. Exits 0 if nothing waits any more."""
    from clawnet.cli.outbox import error_of, path_of, send_kept

    at = invocation()
    path = path_of(at, file)
    if not path.exists():
        if at.is_json:
            say_json({"sent": 0, "refused": [], "waiting": 0})
        else:
            note("Nothing waits.")
        return exits.DONE
    done = send_kept(at, path, within_s=timeout)
    if at.is_json:
        refused = [_refused(refusal) for refusal in done.refusals.values()]
        say_json({"sent": len(done.places), "refused": refused, "waiting": done.left})
    else:
        say(f"{len(done.places)} sent, {len(done.refusals)} refused, {done.left} wait")
        for refusal in done.refusals.values():
            note(f"refused on {refusal.channel}: {error_of(refusal).message}")
    if done.left and done.trouble is not None:
        raise at.explained(done.trouble)
    return exits.TRY_LATER if done.left else exits.DONE


@outbox.command()
@_FILE
@click.option("--clear", is_flag=True, help="Forget them: they take room in the outbox.")
@click.argument("ids", metavar="[ID]...", nargs=-1, type=int)
def refused(file: str | None, clear: bool, ids: tuple[int, ...]) -> None:
    """List what the hub refused for good and why, or forget it (all, if no ID is given)."""
    from clawnet.cli.outbox import open_store, path_of

    at = invocation()
    store = open_store(at, path_of(at, file))
    found = [] if store is None else store.refused()
    found = [refusal for refusal in found if not ids or refusal.id in ids]
    gone = 0
    if store is not None:
        if clear:
            gone = store.clear_refused(ids or None)
        store.close()
    if at.is_json:
        say_json({"refused": [_refused(refusal) for refusal in found], "cleared": gone})
        return
    if clear:
        say(f"{gone} forgotten")
        return
    table(
        ("id", "channel", "refused", "code", "why", "data"),
        [
            (each.id, each.channel, _time(each.refused_ms), each.code,
             _short(each.message), _short(_members(each.members).get("data")))
            for each in found
        ],
        empty="Nothing was refused.",
    )  # fmt: skip


def _refused(refusal: Any) -> dict[str, Any]:
    return {"id": refusal.id, "channel": refusal.channel, "kept": _time(refusal.kept_ms),
            "refused": _time(refusal.refused_ms), "code": refusal.code,
            "message": refusal.message, "dedupe_key": refusal.dedupe_key,
            "data": _members(refusal.members).get("data")}  # fmt: skip


def _members(raw: bytes) -> dict[str, Any]:
    """What was to be published; nothing if the disk changed it."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return harmless(text[:_SHOWN_CHARS]) + ("…" if len(text) > _SHOWN_CHARS else "")


def _time(ms: int) -> str:
    from clawnet.core.times import rfc3339

    return rfc3339(ms)
