"""The client: one hub, one token, everything an agent can ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

import msgspec

from clawnet.client.accounts import AccountCalls
from clawnet.client.address import check_token, parse_address
from clawnet.client.backoff import Backoff
from clawnet.client.chat import ChatCalls
from clawnet.client.consumer import BATCH, Consumer
from clawnet.client.errors import HubUnreachable, UnexpectedAnswer, from_answer
from clawnet.client.fleet import FleetCalls
from clawnet.client.http import Answer, naming_key, new_dedupe_key, outcome_unknown, segment
from clawnet.client.inbox import InboxCalls
from clawnet.client.position import SINCE
from clawnet.client.publisher import Publisher
from clawnet.client.retry import Retry
from clawnet.client.subscription import Subscription
from clawnet.client.tasks import TaskCalls
from clawnet.client.transport import TIMEOUT_S, Transport
from clawnet.client.wakeable import OnMessage, Wakeable, read_receipt, reply
from clawnet.client.wire import Signal, encode_publish
from clawnet.core.calls.consumers import ConsumerInfo, ConsumerList, CreateConsumer
from clawnet.core.calls.presence import PresenceInfo, PresenceList
from clawnet.core.calls.publishing import Published, PublishedBatch
from clawnet.core.calls.reading import ChannelInfo, ChannelList, Gap
from clawnet.core.calls.receipts import Receipt, Step
from clawnet.core.errors import BadConfiguration, ClawError, OutcomeUnknown
from clawnet.core.events import Event

if TYPE_CHECKING:
    from pathlib import Path

    from clawnet.client.outbox import Enqueued, Outbox

T = TypeVar("T")

PUBLISH_WITHIN_S = 30.0
ATTEMPT_WITHIN_S = 10.0
REQUESTS_AT_ONCE = 4
"""Batches, and publishes too large for a frame, on their way at a time. The connection pool
walks all that wait for each that is done: 1,000 at once were four times slower than these."""
_PAGE = 100


class HistoryPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a channel's past. `next` is the `since` (reversed: the `before`) of the next."""

    events: list[Event]
    next: int | None
    epoch: str
    gap: Gap | None = None
    gaps: tuple[Gap, ...] = ()


class Client(AccountCalls, InboxCalls, ChatCalls, TaskCalls, FleetCalls):
    """A hub as one account sees it. Use it as an async context, in one event loop.

    Every method raises the hub's ClawError, or HubUnreachable. Proxies of the
    environment are not used and redirects not followed: they would be shown
    the token.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        outbox: Outbox | Path | str | bool = False,
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        self._address = parse_address(url)
        self._token = check_token(token)
        self._transport = Transport(self._address, self._token)
        self._backoff = backoff
        self._publisher = Publisher(self._address, self._token, backoff=backoff)
        self._requests = asyncio.Semaphore(REQUESTS_AT_ONCE)
        self._outbox: Outbox | None = None
        if outbox is not False:
            from clawnet.client import outbox as of

            if not isinstance(outbox, of.Outbox):
                outbox = of.Outbox(None if outbox is True else outbox)
            outbox.attach(self._transport, self._token, backoff=backoff)
            self._outbox = outbox

    @property
    def url(self) -> str:
        return self._address.url

    @property
    def outbox(self) -> Outbox:
        """The outbox that was given. Raises BadConfiguration if none was."""
        if self._outbox is None:
            raise BadConfiguration(
                "This client has no outbox.", next="Make it with Client(url, token, outbox=True)."
            )
        return self._outbox

    async def __aenter__(self) -> Self:
        """With an outbox: open it and begin to send what waits in it."""
        if self._outbox is not None:
            await self._outbox.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Publishes not yet answered fail; subscriptions go on.

        What is in the outbox stays on disk.
        """
        if self._outbox is not None:
            await self._outbox.aclose()
        await self._publisher.aclose()
        await self._transport.aclose()

    # --- events -------------------------------------------------------------

    async def publish(
        self,
        channel: str,
        data: Any,
        *,
        type: str | None = None,
        dedupe_key: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        traceparent: str | None = None,
        reply_within_s: float | None = None,
        within_s: float = PUBLISH_WITHIN_S,
    ) -> Published:
        """Append an event; it is durable when this returns.

        `data` is any JSON value, or msgspec.Raw with its bytes. Lost answers,
        rate limits and a hub that restarts are met by sending it again under
        the same dedupe key, which is made here if none is given, until
        `within_s` is over. Waiting behind other publishes does not count, unless the
        hub is away. HubUnreachable names that key in `facts["dedupe_key"]`, and says if it
        is not known whether the event is stored. With `reply_within_s` an
        answer (by correlation id) is expected, and its absence told in one's inbox.

        Publishes of a client share one WebSocket and go out in the order of their
        calls; one may be cancelled without harm to the others.
        """
        key = dedupe_key or new_dedupe_key()
        body = _members(
            data=data,
            type=type,
            dedupe_key=key,
            correlation_id=correlation_id,
            causation_id=causation_id,
            traceparent=traceparent,
            expect=None if reply_within_s is None else {"reply_within_s": reply_within_s},
        )
        command = encode_publish({"channel": channel, **body})
        if command is not None:
            return await self._publisher.publish(command, key=key, within_s=within_s)
        path = f"/api/v1/channels/{segment(channel)}/events"
        return await self._repeated(path, body, Published, key=key, within_s=within_s)

    async def publish_batch(
        self, events: Iterable[Mapping[str, Any]], *, within_s: float = PUBLISH_WITHIN_S
    ) -> list[Published]:
        """Append up to 1,000 events, all or none; each a mapping of the members of publish().

        Repeated like publish(), under a key for each event; HubUnreachable names them all
        in `facts["dedupe_keys"]`.
        """
        batch = [{"dedupe_key": new_dedupe_key(), **_members(**event)} for event in events]
        key = str(batch[0]["dedupe_key"]) if batch else ""
        body = {"events": batch}
        try:
            answer = await self._repeated(
                "/api/v1/events/batch", body, PublishedBatch, key=key, within_s=within_s
            )
        except HubUnreachable as error:
            error.facts["dedupe_keys"] = [one["dedupe_key"] for one in batch]
            raise
        return answer.events

    async def enqueue(
        self,
        channel: str,
        data: Any,
        *,
        type: str | None = None,
        dedupe_key: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        traceparent: str | None = None,
        reply_within_s: float | None = None,
    ) -> Enqueued:
        """Keep an event in the outbox; it is on this machine's disk when this returns.

        It is sent as soon as the hub is there, by this process or a later one, in the
        order of the enqueue() calls of its channel; the members are those of publish(). The order
        between this and publish() is not promised. Raises OutboxFull; see Outbox.
        """
        return await self.outbox.enqueue(
            channel,
            data,
            type=type,
            dedupe_key=dedupe_key,
            correlation_id=correlation_id,
            causation_id=causation_id,
            traceparent=traceparent,
            reply_within_s=reply_within_s,
        )

    def subscribe(
        self,
        channels: Iterable[str] | str,
        *,
        since: SINCE = None,
        on_gap: Callable[[Gap], None] | None = None,
        on_signal: Callable[[Signal], None] | None = None,
        on_state: Callable[[str], None] | None = None,
        is_patient: bool = True,
    ) -> Subscription:
        """Follow channels and patterns; see Subscription for what it promises.

        `since` is a cursor, a duration such as `10m`, `all`, an offset for each exact
        name, or None for what comes from now on. `on_state` hears one sentence
        about each loss and return of the connection.
        """
        return Subscription(
            self._address,
            self._token,
            [channels] if isinstance(channels, str) else list(channels),
            since=since,
            on_gap=on_gap,
            on_signal=on_signal,
            on_state=on_state,
            is_patient=is_patient,
            backoff=self._backoff(),
        )

    def consumer(
        self,
        name: str,
        channels: Iterable[str] | str,
        *,
        since: str | None = None,
        ack_wait_s: float = 30.0,
        max_attempts: int = 5,
        batch: int = BATCH,
        on_gap: Callable[[Gap], None] | None = None,
        on_state: Callable[[str], None] | None = None,
    ) -> Consumer:
        """A durable consumer of this name, created on first use; see Consumer."""
        request = CreateConsumer(
            name=name,
            channels=[channels] if isinstance(channels, str) else list(channels),
            since=since,
            ack_wait_s=ack_wait_s,
            max_attempts=max_attempts,
        )
        return Consumer(self, request, batch=batch, on_gap=on_gap, on_state=on_state)

    async def consumers(self) -> list[ConsumerInfo]:
        return (await self.request("GET", "/api/v1/consumers", None, ConsumerList)).consumers

    async def history(
        self,
        channel: str,
        *,
        since: str | int | None = None,
        before: int | None = None,
        limit: int = _PAGE,
        reverse: bool = False,
        wait_s: float = 0.0,
    ) -> HistoryPage:
        """A page of a channel's events behind `since`; reversed, the newest before `before`."""
        return await self.request(
            "GET",
            f"/api/v1/channels/{segment(channel)}/events",
            None,
            HistoryPage,
            query={
                "since": since,
                "before": before,
                "limit": limit,
                "reverse": "true" if reverse else None,
                "wait": wait_s or None,
            },
            timeout_s=TIMEOUT_S + wait_s,
        )

    async def event(self, id: str) -> Event:
        """One event by its id."""
        return await self.request("GET", f"/api/v1/events/{segment(id)}", None, Event)

    async def channels(self, pattern: str | None = None) -> list[ChannelInfo]:
        """The channels that this account may read."""
        found: list[ChannelInfo] = []
        after: str | None = None
        while True:
            page = await self.request(
                "GET",
                "/api/v1/channels",
                None,
                ChannelList,
                query={"after": after, "limit": _PAGE, "pattern": pattern},
            )
            found += page.channels
            after = page.next
            if after is None:
                return found

    async def receipt(
        self, event_id: str, *, until: Step = "woken", wait_s: float = 0.0
    ) -> Receipt:
        """How far a message to an inbox came; waits up to `wait_s` for the step `until`."""
        return await read_receipt(self, event_id, until=until, wait_s=wait_s)

    async def reply(
        self,
        to: Event,
        data: Any,
        *,
        channel: str | None = None,
        type: str | None = None,
        dedupe_key: str | None = None,
        traceparent: str | None = None,
        reply_within_s: float | None = None,
        within_s: float = PUBLISH_WITHIN_S,
    ) -> Published:
        """Answer an event in its sender's inbox (or on `channel`), as its effect and in its
        correlation, which ends what the sender waits for; else as publish()."""
        return await reply(
            self,
            to,
            data,
            channel=channel,
            type=type,
            dedupe_key=dedupe_key,
            traceparent=traceparent or to.traceparent,
            reply_within_s=reply_within_s,
            within_s=within_s,
        )

    def wakeable(
        self,
        on_message: OnMessage,
        *,
        ttl_s: float = 30.0,
        how: str = "client",
        confirms: bool = True,
        on_failure: Callable[[Event, Exception], None] | None = None,
        on_state: Callable[[str], None] | None = None,
    ) -> Wakeable:
        """Be woken by messages to one's inbox: an async context; see Wakeable."""
        return Wakeable(
            self,
            on_message,
            ttl_s=ttl_s,
            how=how,
            confirms=confirms,
            on_failure=on_failure,
            on_state=on_state,
        )

    async def presence(self) -> list[PresenceInfo]:
        """The accounts that are connected."""
        found: list[PresenceInfo] = []
        after: str | None = None
        while True:
            query = {"after": after, "limit": _PAGE}
            page = await self.request("GET", "/api/v1/presence", None, PresenceList, query=query)
            found += page.accounts
            after = page.next
            if after is None:
                return found

    # --- requests -----------------------------------------------------------

    @overload
    async def request(
        self,
        method: str,
        path: str,
        body: object,
        answer: type[T],
        *,
        query: Mapping[str, Any] | None = None,
        timeout_s: float = TIMEOUT_S,
        within_s: float | None = 0.0,
        on_failure: Callable[[ClawError], None] | None = None,
    ) -> T: ...

    @overload
    async def request(
        self,
        method: str,
        path: str,
        body: object,
        answer: None,
        *,
        query: Mapping[str, Any] | None = None,
        timeout_s: float = TIMEOUT_S,
        within_s: float | None = 0.0,
        on_failure: Callable[[ClawError], None] | None = None,
    ) -> None: ...

    async def request(
        self,
        method: str,
        path: str,
        body: object,
        answer: type[T] | None,
        *,
        query: Mapping[str, Any] | None = None,
        timeout_s: float = TIMEOUT_S,
        within_s: float | None = 0.0,
        on_failure: Callable[[ClawError], None] | None = None,
    ) -> T | None:
        """Any call of the hub's API, its answer decoded as `answer` (None: not looked at).

        Repeated while retryable for `within_s` (None: for ever; 0: never);
        give that only where repeating is harmless. `on_failure` hears of each failure
        that will be repeated.
        """
        raw = None if body is None else msgspec.json.encode(body)
        retry = Retry(within_s, backoff=self._backoff(), on_failure=on_failure)

        async def attempt() -> Answer:
            given = await self._transport.send(
                method, path, query=query, body=raw, timeout_s=timeout_s
            )
            _check(given)
            return given

        given = await retry.run(attempt)
        return None if answer is None else _decoded(given.body, answer)

    async def _repeated(
        self, path: str, body: Mapping[str, Any], answer: type[T], *, key: str, within_s: float
    ) -> T:
        raw = msgspec.json.encode(body)
        # Waiting for one's turn does not count against the deadline.
        async with self._requests:
            retry = Retry(within_s, backoff=self._backoff())

            async def attempt() -> T:
                given = await self._transport.send(
                    "POST", path, body=raw, timeout_s=retry.left_s(ATTEMPT_WITHIN_S)
                )
                _check(given)
                return _decoded(given.body, answer)

            try:
                return await retry.run(attempt)
            except ClawError as error:
                is_lost = isinstance(error, HubUnreachable | OutcomeUnknown) or error.retryable
                if retry.is_unsure and is_lost:
                    raise outcome_unknown(error, key) from None
                raise naming_key(error, key) from None


def _members(**members: Any) -> dict[str, Any]:
    """A publish's members; those that are None are left out, except the data."""
    return {name: value for name, value in members.items() if value is not None or name == "data"}


def _check(answer: Answer) -> None:
    if not 200 <= answer.status < 300:
        raise from_answer(answer.status, answer.body, retry_after=answer.headers.get("retry-after"))


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise UnexpectedAnswer(f"The hub's answer cannot be read: {error}.") from None
