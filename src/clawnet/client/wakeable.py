"""Being woken: a lease that is renewed, the own inbox followed, each message handled once.

Also receipts and replies, as Client offers them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Self

from clawnet.client.http import segment
from clawnet.client.transport import TIMEOUT_S
from clawnet.core.calls.publishing import Published
from clawnet.core.calls.receipts import Confirmed, Receipt, Step
from clawnet.core.calls.wake import LEASE_MIN_S, WakeInfo
from clawnet.core.errors import ClawError
from clawnet.core.events import Event

if TYPE_CHECKING:
    from clawnet.client.client import Client
    from clawnet.client.consumer import Consumer, Received

logger = logging.getLogger(__name__)

OnMessage = Callable[[Event], Awaitable[None]]

CONSUMER = "wake"
ACK_WAIT_S = 60.0
AGAIN_AFTER_S = 30.0
"""When a message whose handling failed comes again; after five attempts it is a dead letter."""
HANDLED_MAX = 1_000
SETTLE_WITHIN_S = 30.0
RENEWALS = 3
"""Renewed so often within the time of a lease."""


class Wakeable:
    """An async context: as long as it is open, messages to this account's inbox wake it.

    Holds the wake lease and renews it, and follows the inbox by the durable consumer `wake`,
    which goes on where the last one ended. For each new message `on_message(event)` is
    awaited, one at a time, after the hub was told that the agent is woken (unless `confirms`
    is false: then on_message does that by confirm()). When it returns, the message
    is acknowledged: that is the receipt's `acted`. When it raises, the message stays unread,
    `on_failure(event, error)` hears of it, and it comes again 30 s later, five times in all. A
    hub that restarts is waited for. One that ends for good, by a revoked token for example,
    raises from wait(), and at the end of the context.
    """

    def __init__(
        self,
        client: Client,
        on_message: OnMessage,
        *,
        ttl_s: float = 30.0,
        how: str = "client",
        confirms: bool = True,
        on_failure: Callable[[Event, Exception], None] | None = None,
        on_state: Callable[[str], None] | None = None,
    ) -> None:
        self._client = client
        self._on_message = on_message
        self._ttl_s = ttl_s
        self._how = how
        self._confirms = confirms
        self._on_failure = on_failure or _log_failure
        self._on_state = on_state
        self._handled: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._current: Received | None = None

    async def __aenter__(self) -> Self:
        """Hold the lease; from now on messages wake. Raises what the hub refuses it with."""
        me = await self._client.me()
        account = "" if me.account is None else me.account.id
        await self._hold(within_s=0.0)
        consumer = self._client.consumer(
            CONSUMER,
            f"agent.{account}.inbox",
            ack_wait_s=ACK_WAIT_S,
            batch=1,
            on_state=self._on_state,
        )
        await consumer.create()
        self._task = asyncio.create_task(self._run(consumer), name="clawnet wakeable")
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the lease; a message that is being handled is given back and comes again."""
        task, self._task = self._task, None
        if task is None:
            return
        is_over = task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        try:
            if self._current is not None:
                # So that it need not expire first.
                nack = {"deliveries": [self._current.name]}
                path = f"/api/v1/consumers/{CONSUMER}/nack"
                await self._client.request("POST", path, nack, None, timeout_s=2.0)
            await self._client.request("DELETE", "/api/v1/wake", None, None, timeout_s=2.0)
        except ClawError as error:
            logger.debug("the lease ends by itself: %s", error.message)
        if is_over and not task.cancelled():
            task.result()

    async def wait(self) -> None:
        """Wait until it ends: never, unless the hub refuses this account for good."""
        assert self._task is not None, "only inside of the context"
        await asyncio.shield(self._task)

    async def confirm(self, event: Event) -> None:
        """Tell the hub that this agent has the message now."""
        await self._client.request(
            "POST",
            "/api/v1/inbox/woken",
            {"events": [event.id]},
            Confirmed,
            within_s=SETTLE_WITHIN_S,
        )

    async def _run(self, consumer: Consumer) -> None:
        renewing = asyncio.create_task(self._renew())
        following = asyncio.create_task(self._follow(consumer))
        try:
            # No deadline: it lasts until it is cancelled, or refused for good.
            done, _ = await asyncio.wait({renewing, following}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            renewing.cancel()
            following.cancel()
            await asyncio.gather(renewing, following, return_exceptions=True)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(max(self._ttl_s, LEASE_MIN_S) / RENEWALS)
            await self._hold(within_s=None)

    async def _hold(self, *, within_s: float | None) -> None:
        body = {"ttl_s": self._ttl_s, "how": self._how}
        await self._client.request("PUT", "/api/v1/wake", body, WakeInfo, within_s=within_s)

    async def _follow(self, consumer: Consumer) -> None:
        while True:
            for received in await consumer.fetch(1):
                await self._handle(consumer, received)

    async def _handle(self, consumer: Consumer, received: Received) -> None:
        event = received.event
        self._current = received
        # Handled already: only its acknowledgement was lost, or it took longer than ACK_WAIT_S.
        if event.id not in self._handled:
            if self._confirms:
                await self._attempt(self.confirm(event))
            try:
                await self._on_message(event)
            except Exception as error:  # somebody else's code: the message comes again
                self._on_failure(event, error)
                self._current = None
                await self._attempt(consumer.nack([received], delay_s=AGAIN_AFTER_S))
                return
            self._handled[event.id] = None
            if len(self._handled) > HANDLED_MAX:
                del self._handled[next(iter(self._handled))]
        self._current = None
        if not await self._attempt(consumer.ack([received])):
            # Not acknowledged, so it comes again, and is acknowledged then.
            return
        await self._attempt(self._client.ack_inbox([event.id]))

    async def _attempt(self, work: Awaitable[Any]) -> bool:
        """Whether it was done; if not, what comes of it is repaired by the next delivery."""
        try:
            await work
        except ClawError as error:
            if not error.retryable:
                raise
            logger.info("%s", error.message)
            return False
        return True


async def read_receipt(
    client: Client, event_id: str, *, until: Step = "woken", wait_s: float = 0.0
) -> Receipt:
    """See Client.receipt()."""
    return await client.request(
        "GET",
        f"/api/v1/events/{segment(event_id)}/receipt",
        None,
        Receipt,
        query={"until": until, "wait": f"{wait_s:f}" if wait_s else None},
        timeout_s=TIMEOUT_S + wait_s,
    )


async def reply(
    client: Client, to: Event, data: Any, *, channel: str | None = None, **named: Any
) -> Published:
    """See Client.reply(). The event's trace goes on, unless another `traceparent` is given."""
    named.setdefault("traceparent", to.traceparent)
    return await client.publish(
        channel or f"agent.{to.actor.id}.inbox",
        data,
        correlation_id=to.correlation_id or to.id,
        causation_id=to.id,
        **named,
    )


def _log_failure(event: Event, error: Exception) -> None:
    logger.error("handling %s failed: %s", event.id, error, exc_info=error)
