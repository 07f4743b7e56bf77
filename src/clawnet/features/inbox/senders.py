"""Says who sent a message and how far that can be trusted. Pure.

The sentence holds ids alone, never handles: an id is `[a-z0-9_-]`, a handle is anything
that its account likes.
"""

from __future__ import annotations

from clawnet.core.callers import HUB
from clawnet.core.calls.inbox import Sender
from clawnet.core.events import Event
from clawnet.hub.directory import Account

_KINDS = {
    "agent": "an agent",
    "human": "a human",
    "service": "a service",
    "ext": "an account of another system",
}
HUB_SENTENCE = "The hub itself says this."


def sender_of(event: Event, account: Account | None) -> Sender:
    """The sender as the envelope and the directory know it. The hub has no account."""
    actor = event.actor
    if account is None or account.is_deleted or event.imported is not None:
        # What is known of an account here says nothing about who spoke on another hub.
        return Sender(id=actor.id, handle=actor.handle)
    return Sender(
        id=actor.id,
        handle=actor.handle,
        handle_now=account.handle if account.handle != actor.handle else None,
        role=account.role,
        kind=account.kind,
        proof=account.proof,
    )


def verified(event: Event, account: Account | None) -> str:
    """How the hub knows that: one sentence."""
    if event.imported is not None:
        return (
            f"{event.imported.by} imported this from another hub, where {event.actor.id} is said "
            "to have sent it; this hub has checked nothing of it."
        )
    if event.source == "system":
        return HUB_SENTENCE
    checked = "the hub checked its token when it sent this"
    if account is None or account.is_deleted:
        return f"{event.actor.id}, an account that is deleted; {checked}."
    kind = _KINDS.get(account.kind, "an account")
    return f"{account.id}, {kind} ({account.role}) {_came(account)}; {checked}."


def _came(account: Account) -> str:
    # What the hub did by its own voice, its operator did at its console.
    by = None if account.proved_by == HUB.account else account.proved_by
    match account.proof:
        case "invitation":
            return f"whom {by} invited" if by else "who came by an invitation"
        case "dev":
            return "who registered itself and for whom nobody vouches"
        case "bootstrap":
            return "whom this hub made for its operator"
        case _:
            return f"whom {by} created" if by else "whom this hub's operator created"
