"""Who is told that events were handed to their reader: written, fetched, acknowledged.

Asked for each chunk, never for each event: most of what is read is not watched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from clawnet.core.callers import Caller
from clawnet.core.calls.consumers import Delivery
from clawnet.core.channels import matches

if TYPE_CHECKING:
    from clawnet.hub.subscriptions import Subscription


class Watcher(Protocol):
    """Part of a feature that observes how far messages to an inbox come. Must be quick."""

    def handed_out(self, caller: Caller, bodies: Sequence[bytes]) -> None:
        """Events were given to a connection or a fetch of an account that may follow its inbox.

        There may be events of other channels among them.
        """

    def acknowledged(self, world: str, account: str, seqs: Sequence[int]) -> None:
        """A consumer of the account has settled these events of the log."""


class Watchers:
    """The hub's watchers."""

    def __init__(self) -> None:
        self._all: tuple[Watcher, ...] = ()

    def add(self, watcher: Watcher) -> None:
        """Let a feature watch, before the hub starts."""
        self._all = (*self._all, watcher)

    def written(self, subscription: Subscription, bodies: Sequence[bytes]) -> None:
        """A chunk of the log was written to a subscription's connection."""
        name = subscription.sole_name
        if not self._all or (name is not None and not name.endswith(".inbox")):
            return
        caller = subscription.session.caller
        own = f"agent.{caller.account}.inbox"
        if own in subscription.exact or any(matches(p, own) for p in subscription.patterns):
            self._handed_out(caller, bodies)

    def fetched(self, caller: Caller, deliveries: Sequence[Delivery]) -> None:
        """Deliveries of a consumer were handed out."""
        if self._all and deliveries:
            self._handed_out(caller, [bytes(delivery.event) for delivery in deliveries])

    def acknowledged(self, world: str, account: str, seqs: Sequence[int]) -> None:
        """Deliveries of a consumer were acknowledged."""
        for watcher in self._all:
            watcher.acknowledged(world, account, seqs)

    def _handed_out(self, caller: Caller, bodies: Sequence[bytes]) -> None:
        for watcher in self._all:
            watcher.handed_out(caller, bodies)
