"""A durable consumer: a named reader whose place the hub keeps."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

import msgspec

from clawnet.core.calls.consumers import (
    Acked,
    ConsumerInfo,
    CreateConsumer,
    Delivery,
    DeliveryName,
    Fetched,
)
from clawnet.core.calls.reading import Gap
from clawnet.core.errors import ClawError
from clawnet.core.events import Event

if TYPE_CHECKING:
    from clawnet.client.client import Client

logger = logging.getLogger(__name__)

BATCH = 64
WAIT_S = 20.0
ACK_WITHIN_S = 30.0


class Received:
    """One event, delivered for the `attempt`-th time, waiting for an ack.

    What is neither acknowledged nor given back within the consumer's
    `ack_wait_s` is delivered again: handling an event must bear that.
    """

    __slots__ = ("_consumer", "attempt", "event", "name")

    def __init__(self, consumer: Consumer, delivery: Delivery) -> None:
        self._consumer = consumer
        self.event = msgspec.json.decode(delivery.event, type=Event)
        self.attempt = delivery.attempt
        self.name = DeliveryName(seq=delivery.seq, attempt=delivery.attempt)

    async def ack(self) -> bool:
        """It is handled. False if the delivery had expired: the event comes (or came) again."""
        return not await self._consumer.ack([self])

    async def nack(self, *, delay_s: float = 0.0) -> bool:
        """Have it delivered again after `delay_s`. False if it had expired."""
        return not await self._consumer.nack([self], delay_s=delay_s)


class Consumer:
    """An async iterator of deliveries; made by Client.consumer().

    The consumer is created at the hub on first use and stays there with its
    place until it is deleted. A hub that is gone is waited for, for ever.
    `on_gap` is told each gap once, and after a restart of this program again if no
    event behind it was acknowledged; without it gaps are logged as warnings. `on_state`
    hears when the hub is lost and when it is back.
    """

    def __init__(
        self,
        client: Client,
        request: CreateConsumer,
        *,
        batch: int = BATCH,
        on_gap: Callable[[Gap], None] | None = None,
        on_state: Callable[[str], None] | None = None,
    ) -> None:
        self._client = client
        self._request = request
        self._batch = batch
        self._on_gap = on_gap or self._log_gap
        self._on_state = on_state or (lambda text: logger.info("%s", text))
        self._said = ""
        self._told: list[Gap] = []
        self._waiting: deque[Received] = deque()
        self._is_created = False
        self.info: ConsumerInfo | None = None
        self.lag = 0

    @property
    def name(self) -> str:
        return self._request.name

    async def __aenter__(self) -> Self:
        await self.create()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Received:
        while not self._waiting:
            for received in await self.fetch():
                self._waiting.append(received)
        return self._waiting.popleft()

    async def create(self) -> ConsumerInfo:
        """Create it at the hub, or take up the one that is there.

        Raises Conflict if a consumer of that name reads something else.
        """
        info = await self._client.request(
            "POST",
            "/api/v1/consumers",
            self._request,
            ConsumerInfo,
            within_s=None,
            on_failure=self._failed,
        )
        self.info = info
        self._is_created = True
        return info

    async def fetch(self, limit: int | None = None, *, wait_s: float = WAIT_S) -> list[Received]:
        """Take up to `limit` deliveries; an empty list if none came within `wait_s`."""
        if not self._is_created:
            await self.create()
        fetched = await self._client.request(
            "POST",
            f"{self._path}/fetch",
            {"limit": limit or self._batch, "wait_s": wait_s},
            Fetched,
            within_s=None,
            timeout_s=wait_s + 15.0,
            on_failure=self._failed,
        )
        if self._said:
            self._say("Connected again.")
            self._said = ""
        self.lag = fetched.lag
        for gap in fetched.gaps:
            # It comes with every fetch until what lies behind it is acknowledged.
            if gap not in self._told:
                self._on_gap(gap)
        self._told = fetched.gaps
        return [Received(self, delivery) for delivery in fetched.deliveries]

    async def ack(self, received: Sequence[Received]) -> list[DeliveryName]:
        """Acknowledge several at once; returns those that had expired."""
        return await self._settle("ack", {"deliveries": [one.name for one in received]})

    async def nack(
        self, received: Sequence[Received], *, delay_s: float = 0.0
    ) -> list[DeliveryName]:
        """Give several back; returns those that had expired."""
        return await self._settle(
            "nack", {"deliveries": [one.name for one in received], "delay_s": delay_s}
        )

    async def delete(self) -> None:
        """End it at the hub, with its place."""
        await self._client.request("DELETE", self._path, None, None)
        self._is_created = False

    async def aclose(self) -> None:
        """Give back what was fetched and not handed over, so that it need not expire first."""
        left, self._waiting = list(self._waiting), deque()
        if left:
            try:
                await self._client.request(
                    "POST",
                    f"{self._path}/nack",
                    {"deliveries": [one.name for one in left]},
                    Acked,
                    within_s=1.0,
                    timeout_s=1.0,
                )
            except Exception as error:  # only a courtesy: the deliveries expire by themselves
                logger.debug("could not give deliveries back: %s", error)

    @property
    def _path(self) -> str:
        from clawnet.client.http import segment

        return f"/api/v1/consumers/{segment(self.name)}"

    async def _settle(self, verb: str, body: dict[str, object]) -> list[DeliveryName]:
        if not body["deliveries"]:
            return []
        answer = await self._client.request(
            "POST", f"{self._path}/{verb}", body, Acked, within_s=ACK_WITHIN_S
        )
        return answer.stale

    def _failed(self, error: ClawError) -> None:
        self._say(f"{error.message} Trying again until it does.")

    def _say(self, text: str) -> None:
        # Once for each change: an hour without a hub is one line.
        if text != self._said:
            self._said = text
            self._on_state(text)

    def _log_gap(self, gap: Gap) -> None:
        logger.warning(
            "consumer %s: events %d to %d of %s are gone (%s)",
            self.name, gap.first, gap.last, gap.channel, gap.reason,
        )  # fmt: skip
