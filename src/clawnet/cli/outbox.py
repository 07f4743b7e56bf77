"""The outbox on the command line: keep an event, send what waits, show what there is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clawnet.cli.terminal import harmless, note, say, say_json
from clawnet.core.errors import ClawError

if TYPE_CHECKING:
    from clawnet.cli.invocation import Invocation
    from clawnet.client.outbox import Enqueued, Outbox
    from clawnet.client.outbox_store import Refusal, Store
    from clawnet.core.calls.publishing import Published

SEND_WITHIN_S = 5.0


@dataclass(kw_only=True)
class Sent:
    """What one call sent, had refused and left."""

    kept: Enqueued | None = None
    places: dict[int, Published] = field(default_factory=dict)
    refusals: dict[int, Refusal] = field(default_factory=dict)
    left: int = 0
    trouble: ClawError | None = None


def path_of(at: Invocation, file: str | None = None) -> Path:
    """The outbox of this hub and token, or the file that is named."""
    from clawnet.client.outbox_store import default_path

    return Path(file) if file else default_path(at.address.url, at.effective_token)


def publish_kept(at: Invocation, channel: str, data: bytes, **members: Any) -> None:
    """`claw pub --outbox`: keep the event and send what waits, in order, if the hub is there.

    `members` are those of Client.enqueue(). A hub that is away is no failure: the event is on
    disk. Raises the hub's refusal of this event, and what only a person can mend.
    """
    import msgspec

    async def enqueue(outbox: Outbox) -> Enqueued:
        return await outbox.enqueue(channel, msgspec.Raw(data), **members)

    done = asyncio.run(_send(at, path_of(at), within_s=SEND_WITHIN_S, enqueue=enqueue))
    kept = done.kept
    assert kept is not None
    refusal = done.refusals.get(kept.id)
    if refusal is not None:
        raise at.explained(error_of(refusal))
    place = done.places.get(kept.id)
    if place is not None:
        answer = msgspec.to_builtins(place)
        if at.is_json:
            say_json({"channel": kept.channel, "is_kept": False, **answer})
            return
        again = " (it was there already)" if place.deduped else ""
        say(harmless(f"published on {kept.channel} at offset {place.offset}: {place.id}{again}"))
        return
    if at.is_json:
        say_json({"channel": kept.channel, "is_kept": True, "id": kept.id,
                  "dedupe_key": kept.dedupe_key, "waiting": done.left})  # fmt: skip
    if done.trouble is not None and not done.trouble.retryable:
        error = at.explained(done.trouble)
        error.message = f"{error.message} The event is kept in the outbox."
        raise error
    why = f" ({done.trouble.message})" if done.trouble is not None else ""
    note(f"kept: sent when the hub is back; {done.left} wait{why}")


def send_kept(at: Invocation, path: Path, *, within_s: float) -> Sent:
    """`claw outbox flush`: send what waits. What hinders it is in the answer."""
    return asyncio.run(_send(at, path, within_s=within_s))


def open_store(at: Invocation, path: Path) -> Store | None:
    """The outbox's file, if there is one. Raises BadConfiguration, StorageCorrupt."""
    from clawnet.client.outbox_store import Store

    return Store(path, at.address.url) if path.exists() else None


def others(path: Path) -> list[Path]:
    """Outboxes of the same hub that belong to other tokens."""
    hub = path.name.partition("-")[0]
    return sorted(each for each in path.parent.glob(f"{hub}-*.db") if each != path)


def error_of(refusal: Refusal) -> ClawError:
    """The hub's refusal, as it was."""
    from clawnet.client.errors import from_members

    return from_members({"code": refusal.code, "message": refusal.message}, status=400)


async def _send(at: Invocation, path: Path, *, within_s: float, enqueue: Any = None) -> Sent:
    from clawnet.client import Client, HubUnreachable, Outbox

    done = Sent()
    is_away = asyncio.Event()

    def sent(one: Enqueued, place: Published) -> None:
        done.places[one.id] = place

    def refused(refusal: Refusal) -> None:
        done.refusals[refusal.id] = refusal

    def state(_: str) -> None:
        if isinstance(outbox.trouble, HubUnreachable):
            is_away.set()

    outbox = Outbox(path, on_sent=sent, on_refused=refused, on_state=state)
    async with Client(at.address.url, at.effective_token, outbox=outbox):
        if enqueue is not None:
            done.kept = await enqueue(outbox)
        flushing = asyncio.ensure_future(outbox.flush(within_s))
        away = asyncio.ensure_future(is_away.wait())
        # A hub that is not there is not waited for; what is enqueued is safe without it.
        await asyncio.wait((flushing, away), return_when=asyncio.FIRST_COMPLETED)
        away.cancel()
        flushing.cancel()
        [outcome, _] = await asyncio.gather(flushing, away, return_exceptions=True)
        if isinstance(outcome, ClawError):
            done.trouble = outcome
        elif isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome
        else:
            done.trouble = outbox.trouble
        done.left = outcome if isinstance(outcome, int) else outbox.pending
    return done
