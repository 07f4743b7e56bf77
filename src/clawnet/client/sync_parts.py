"""What a SyncClient makes: subscriptions, consumers, the inbox's watch and the outbox, that wait.

Each holds its client, whose thread it uses and which ends with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from clawnet.client.consumer import WAIT_S, Consumer, Received
from clawnet.client.subscription import Subscription
from clawnet.client.wakeable import Wakeable
from clawnet.core.calls.consumers import ConsumerInfo, DeliveryName
from clawnet.core.errors import ClawError
from clawnet.core.events import Event

if TYPE_CHECKING:
    from pathlib import Path

    from clawnet.client.outbox import Outbox
    from clawnet.client.outbox_store import Refusal
    from clawnet.client.sync import SyncClient


class SyncSubscription:
    """An iterator of events; made by SyncClient.subscribe(). See Subscription for its promises.

    Ends when it is closed, by any thread. One thread at a time may iterate.
    """

    def __init__(self, client: SyncClient, subscription: Subscription) -> None:
        self._client = client
        self._thread = client._thread
        self._subscription = subscription

    @property
    def cursor(self) -> str | None:
        """The place behind the last event handed over: a `since` for another day."""
        return self._subscription.cursor

    def __enter__(self) -> Self:
        """Wait until the subscription runs: what is published from now on will come."""
        self._thread.run(self._subscription.__aenter__)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self.poll(within_s=None)
        if event is None:
            raise StopIteration
        return event

    def poll(self, *, within_s: float | None) -> Event | None:
        """The next event; None if none came within `within_s`, or if the subscription is closed.

        `within_s` None waits as long as it takes, 0 takes only what is there already.
        """
        return self._thread.run(_next, self._subscription, within_s)

    def close(self) -> None:
        """End it. Idempotent."""
        if self._thread.is_usable:
            self._thread.run(self._subscription.aclose)


class SyncReceived:
    """One event, delivered for the `attempt`-th time, waiting for an ack; see Received."""

    __slots__ = ("_client", "_received")

    def __init__(self, client: SyncClient, received: Received) -> None:
        self._client = client
        self._received = received

    @property
    def event(self) -> Event:
        return self._received.event

    @property
    def attempt(self) -> int:
        return self._received.attempt

    @property
    def name(self) -> DeliveryName:
        return self._received.name

    def ack(self) -> bool:
        """It is handled. False if the delivery had expired: the event comes (or came) again."""
        return self._client._thread.run(self._received.ack)

    def nack(self, *, delay_s: float = 0.0) -> bool:
        """Have it delivered again after `delay_s`. False if it had expired."""
        return self._client._thread.run(self._received.nack, delay_s=delay_s)


class SyncConsumer:
    """An iterator of deliveries; made by SyncClient.consumer(). See Consumer for its promises."""

    def __init__(self, client: SyncClient, consumer: Consumer) -> None:
        self._client = client
        self._thread = client._thread
        self._consumer = consumer

    @property
    def name(self) -> str:
        return self._consumer.name

    @property
    def info(self) -> ConsumerInfo | None:
        return self._consumer.info

    @property
    def lag(self) -> int:
        return self._consumer.lag

    def __enter__(self) -> Self:
        self.create()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> SyncReceived:
        return SyncReceived(self._client, self._thread.run(self._consumer.__anext__))

    def create(self) -> ConsumerInfo:
        """Create it at the hub, or take up the one that is there. Raises Conflict."""
        return self._thread.run(self._consumer.create)

    def fetch(self, limit: int | None = None, *, wait_s: float = WAIT_S) -> list[SyncReceived]:
        """Take up to `limit` deliveries; an empty list if none came within `wait_s`."""
        found = self._thread.run(self._consumer.fetch, limit, wait_s=wait_s)
        return [SyncReceived(self._client, each) for each in found]

    def ack(self, received: Sequence[SyncReceived]) -> list[DeliveryName]:
        """Acknowledge several at once; returns those that had expired."""
        return self._thread.run(self._consumer.ack, [each._received for each in received])

    def nack(self, received: Sequence[SyncReceived], *, delay_s: float = 0.0) -> list[DeliveryName]:
        """Give several back; returns those that had expired."""
        given = [each._received for each in received]
        return self._thread.run(self._consumer.nack, given, delay_s=delay_s)

    def delete(self) -> None:
        """End it at the hub, with its place."""
        self._thread.run(self._consumer.delete)

    def close(self) -> None:
        """Give back what was fetched and not handed over, so that it need not expire first."""
        if self._thread.is_usable:
            self._thread.run(self._consumer.aclose)


class SyncWakeable:
    """A context: as long as it is open, messages to this account's inbox wake it.

    For each, `on_message(event)` is called on a thread of its own, one at a time; see
    Wakeable for what its return and its exceptions mean. It may use the client.
    """

    def __init__(self, client: SyncClient, wakeable: Wakeable) -> None:
        self._client = client
        self._thread = client._thread
        self._wakeable = wakeable

    def __enter__(self) -> Self:
        """Hold the lease; from now on messages wake."""
        self._thread.run(self._wakeable.__aenter__)
        return self

    def __exit__(self, *_: object) -> None:
        """End the lease; a message that is being handled is given back and comes again."""
        if self._thread.is_usable:
            self._thread.run(self._wakeable.__aexit__, None, None, None)

    def wait(self) -> None:
        """Wait until it ends: never, unless the hub refuses this account for good."""
        self._thread.run(self._wakeable.wait)

    def confirm(self, event: Event) -> None:
        """Tell the hub that this agent has the message now."""
        self._thread.run(self._wakeable.confirm, event)


class SyncOutbox:
    """The outbox of a SyncClient; see Outbox."""

    def __init__(self, client: SyncClient, outbox: Outbox) -> None:
        self._client = client
        self._thread = client._thread
        self._outbox = outbox

    @property
    def path(self) -> Path:
        return self._outbox.path

    @property
    def pending(self) -> int:
        """How many events wait for the hub, as of the last look at the file."""
        return self._outbox.pending

    @property
    def trouble(self) -> ClawError | None:
        """Why nothing is sent at present; None if all is well."""
        return self._outbox.trouble

    def flush(self, within_s: float | None = None) -> int:
        """Wait until the hub has what waits now; how many still wait when `within_s` is over."""
        return self._thread.run(self._outbox.flush, within_s)

    def refused(self) -> list[Refusal]:
        """What the hub refused for good, oldest first."""
        return self._thread.run(self._outbox.refused)

    def clear_refused(self, ids: Sequence[int] | None = None) -> int:
        """Forget refused events, all if none are named; says how many."""
        return self._thread.run(self._outbox.clear_refused, ids)


async def _next(subscription: Subscription, within_s: float | None) -> Event | None:
    try:
        async with asyncio.timeout(within_s):
            return await subscription.__anext__()
    except (TimeoutError, StopAsyncIteration):
        return None
