"""The client for programs without asyncio: the same methods, and they wait.

    with SyncClient("http://127.0.0.1:8080", token) as client:
        client.publish("public.lobby", "hello")
        with client.subscribe("public.lobby", since="10m") as events:
            for event in events:
                print(event.actor.id, data_of(event))

Thin: an asyncio client on a thread of its own. Any number of threads may use one
SyncClient at once. Callbacks (on_gap, on_signal, on_state) are called on that thread and must
not use the client. What is interrupted (KeyboardInterrupt) is cancelled there, and raised here.
A client does not survive a fork: make it in the process that uses it.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from clawnet.client.backoff import Backoff
from clawnet.client.client import PUBLISH_WITHIN_S, Client, HistoryPage
from clawnet.client.consumer import BATCH
from clawnet.client.inbox import InboxPrompt
from clawnet.client.loop_thread import CLOSE_WITHIN_S, LoopThread
from clawnet.client.position import SINCE
from clawnet.client.sync_parts import SyncConsumer, SyncOutbox, SyncSubscription, SyncWakeable
from clawnet.client.sync_team import SyncTeamCalls
from clawnet.client.transport import TIMEOUT_S
from clawnet.client.wire import Signal
from clawnet.core.calls.accounts import AccountInfo, AccountKind, MeInfo, Role
from clawnet.core.calls.consumers import ConsumerInfo
from clawnet.core.calls.grants import GrantInfo, LockState, Verb
from clawnet.core.calls.inbox import INBOX_LIMIT, InboxAcked, Message, Messages
from clawnet.core.calls.presence import PresenceInfo
from clawnet.core.calls.publishing import Published
from clawnet.core.calls.reading import ChannelInfo, Gap
from clawnet.core.calls.receipts import Receipt, Step
from clawnet.core.calls.tokens import TokenCreated, TokenInfo
from clawnet.core.errors import ClawError
from clawnet.core.events import Event

if TYPE_CHECKING:
    from pathlib import Path

    from clawnet.client.outbox import Enqueued, Outbox

T = TypeVar("T")


class SyncClient(SyncTeamCalls):
    """A hub as one account sees it. Use it in a `with` block; see Client for each method."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        outbox: Outbox | Path | str | bool = False,
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        self._client = Client(url, token, outbox=outbox, backoff=backoff)
        self._open: weakref.WeakSet[SyncSubscription] = weakref.WeakSet()
        self._thread = LoopThread()
        # A client that nobody holds any more takes its thread along.
        weakref.finalize(self, self._thread.stop).atexit = False
        _open_clients.add(self)

    @property
    def url(self) -> str:
        return self._client.url

    @property
    def outbox(self) -> SyncOutbox:
        """The outbox that was given. Raises BadConfiguration if none was."""
        return SyncOutbox(self, self._client.outbox)

    def __enter__(self) -> Self:
        """With an outbox: open it and begin to send what waits in it."""
        try:
            self._thread.run(self._client.__aenter__)
        except BaseException:  # whatever it was, it passes through; no thread may stay behind
            self._thread.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and subscriptions, and end the thread. Idempotent."""
        if not self._thread.is_usable:
            return
        try:
            for subscription in list(self._open):
                subscription.close()
            self._thread.run(_within, self._client.aclose, CLOSE_WITHIN_S)
        finally:
            self._thread.stop()
            _open_clients.discard(self)

    # --- events -------------------------------------------------------------

    def publish(
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
        """Append an event; it is durable when this returns."""
        return self._thread.run(
            self._client.publish,
            channel,
            data,
            type=type,
            dedupe_key=dedupe_key,
            correlation_id=correlation_id,
            causation_id=causation_id,
            traceparent=traceparent,
            reply_within_s=reply_within_s,
            within_s=within_s,
        )

    def publish_batch(
        self, events: Iterable[Mapping[str, Any]], *, within_s: float = PUBLISH_WITHIN_S
    ) -> list[Published]:
        """Append up to 1,000 events, all or none; each a mapping of the members of publish()."""
        return self._thread.run(self._client.publish_batch, events, within_s=within_s)

    def enqueue(
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
        """Keep an event in the outbox; it is on this machine's disk when this returns."""
        return self._thread.run(
            self._client.enqueue,
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
    ) -> SyncSubscription:
        """Follow channels and patterns."""
        made = self._client.subscribe(
            channels,
            since=since,
            on_gap=on_gap,
            on_signal=on_signal,
            on_state=on_state,
            is_patient=is_patient,
        )
        subscription = SyncSubscription(self, made)
        self._open.add(subscription)
        return subscription

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
    ) -> SyncConsumer:
        """A durable consumer of this name, created on first use."""
        made = self._client.consumer(
            name,
            channels,
            since=since,
            ack_wait_s=ack_wait_s,
            max_attempts=max_attempts,
            batch=batch,
            on_gap=on_gap,
            on_state=on_state,
        )
        return SyncConsumer(self, made)

    def history(
        self,
        channel: str,
        *,
        since: str | int | None = None,
        before: int | None = None,
        limit: int = 100,
        reverse: bool = False,
        wait_s: float = 0.0,
    ) -> HistoryPage:
        """A page of a channel's events behind `since`; reversed, the newest before `before`."""
        return self._thread.run(
            self._client.history,
            channel,
            since=since,
            before=before,
            limit=limit,
            reverse=reverse,
            wait_s=wait_s,
        )

    def event(self, id: str) -> Event:
        """One event by its id."""
        return self._thread.run(self._client.event, id)

    def channels(self, pattern: str | None = None) -> list[ChannelInfo]:
        """The channels that this account may read."""
        return self._thread.run(self._client.channels, pattern)

    def inbox(
        self,
        *,
        limit: int = INBOX_LIMIT,
        budget_tokens: int | None = None,
        cut_bytes: int | None = None,
        wait_s: float = 0.0,
        after: str | None = None,
    ) -> Messages:
        """What was sent to this account and is unread, from oldest to newest."""
        return self._thread.run(
            self._client.inbox,
            limit=limit,
            budget_tokens=budget_tokens,
            cut_bytes=cut_bytes,
            wait_s=wait_s,
            after=after,
        )

    def inbox_prompt(
        self,
        *,
        limit: int | None = None,
        budget_tokens: int | None = None,
        wait_s: float = 0.0,
        after: str | None = None,
    ) -> InboxPrompt:
        """What inbox() gives, as text for an agent's prompt that is data and nothing else."""
        return self._thread.run(
            self._client.inbox_prompt,
            limit=limit,
            budget_tokens=budget_tokens,
            wait_s=wait_s,
            after=after,
        )

    def ack_inbox(
        self,
        messages: Iterable[Message | str] = (),
        *,
        gaps: Iterable[Gap] = (),
        through: str | None = None,
    ) -> InboxAcked:
        """These messages (or ids, or told gaps) are handled and unread no more."""
        return self._thread.run(self._client.ack_inbox, messages, gaps=gaps, through=through)

    def receipt(self, event_id: str, *, until: Step = "woken", wait_s: float = 0.0) -> Receipt:
        """How far a message to an inbox came; waits up to `wait_s` for the step `until`."""
        return self._thread.run(self._client.receipt, event_id, until=until, wait_s=wait_s)

    def reply(
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
        return self._thread.run(
            self._client.reply,
            to,
            data,
            channel=channel,
            type=type,
            dedupe_key=dedupe_key,
            traceparent=traceparent,
            reply_within_s=reply_within_s,
            within_s=within_s,
        )

    def wakeable(
        self,
        on_message: Callable[[Event], None],
        *,
        ttl_s: float = 30.0,
        how: str = "client",
        confirms: bool = True,
        on_failure: Callable[[Event, Exception], None] | None = None,
        on_state: Callable[[str], None] | None = None,
    ) -> SyncWakeable:
        """Be woken by messages to one's inbox: a context; see SyncWakeable."""

        async def heard(event: Event) -> None:
            # On another thread: it may take its time, and may use this client.
            await asyncio.to_thread(on_message, event)

        made = self._client.wakeable(
            heard, ttl_s=ttl_s, how=how, confirms=confirms, on_failure=on_failure, on_state=on_state
        )
        return SyncWakeable(self, made)

    def presence(self) -> list[PresenceInfo]:
        """The accounts that are connected."""
        return self._thread.run(self._client.presence)

    # --- accounts and tokens ------------------------------------------------

    def me(self) -> MeInfo:
        """Who the hub takes this client for."""
        return self._thread.run(self._client.me)

    def accounts(self) -> list[AccountInfo]:
        """All accounts of this world."""
        return self._thread.run(self._client.accounts)

    def account(self, id: str) -> AccountInfo:
        return self._thread.run(self._client.account, id)

    def create_account(
        self,
        id: str,
        *,
        handle: str | None = None,
        role: Role = "worker",
        kind: AccountKind = "agent",
    ) -> AccountInfo:
        return self._thread.run(
            self._client.create_account, id, handle=handle, role=role, kind=kind
        )

    def update_account(
        self, id: str, *, handle: str | None = None, role: Role | None = None
    ) -> AccountInfo:
        return self._thread.run(self._client.update_account, id, handle=handle, role=role)

    def delete_account(self, id: str) -> None:
        self._thread.run(self._client.delete_account, id)

    def tokens(self, account: str | None = None) -> list[TokenInfo]:
        """The tokens of an account; one's own without a name."""
        return self._thread.run(self._client.tokens, account)

    def create_token(
        self,
        account: str | None = None,
        *,
        name: str = "default",
        scopes: Iterable[str] = ("*",),
        expires_in_s: float | None = None,
    ) -> TokenCreated:
        """A new token; it is shown here and never again."""
        return self._thread.run(
            self._client.create_token, account, name=name, scopes=scopes, expires_in_s=expires_in_s
        )

    def revoke_token(self, id: str) -> None:
        self._thread.run(self._client.revoke_token, id)

    # --- rights -------------------------------------------------------------

    def grants(self, *, account: str | None = None, channel: str | None = None) -> list[GrantInfo]:
        """Grants this account gave or was given."""
        return self._thread.run(self._client.grants, account=account, channel=channel)

    def grant(self, account: str, channel: str, verbs: Iterable[Verb] = ("read",)) -> GrantInfo:
        return self._thread.run(self._client.grant, account, channel, verbs)

    def revoke(self, account: str, channel: str, verbs: Iterable[Verb] | None = None) -> None:
        """Take rights back, at once; all of them without `verbs`."""
        self._thread.run(self._client.revoke, account, channel, verbs)

    def lock(self, channel: str) -> LockState:
        return self._thread.run(self._client.lock, channel)

    def unlock(self, channel: str) -> LockState:
        return self._thread.run(self._client.unlock, channel)

    def blocks(self) -> list[str]:
        """Whom this account keeps out of its inbox."""
        return self._thread.run(self._client.blocks)

    def block(self, account: str) -> None:
        self._thread.run(self._client.block, account)

    def unblock(self, account: str) -> None:
        self._thread.run(self._client.unblock, account)

    def consumers(self) -> list[ConsumerInfo]:
        return self._thread.run(self._client.consumers)

    # --- requests -----------------------------------------------------------

    @overload
    def request(
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
    def request(
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

    def request(
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
        """Any call of the hub's API, its answer decoded as `answer` (None: not looked at)."""

        async def ask() -> T | None:
            if answer is None:
                await self._client.request(
                    method, path, body, None, query=query, timeout_s=timeout_s,
                    within_s=within_s, on_failure=on_failure,
                )  # fmt: skip
                return None
            return await self._client.request(
                method, path, body, answer, query=query, timeout_s=timeout_s,
                within_s=within_s, on_failure=on_failure,
            )  # fmt: skip

        return self._thread.run(ask)


async def _within(function: Callable[[], Coroutine[Any, Any, None]], within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await function()
    except TimeoutError:
        pass  # the thread's end cuts what is left


_open_clients: weakref.WeakSet[SyncClient] = weakref.WeakSet()


def _close_all() -> None:
    for client in list(_open_clients):
        client.close()


# Before the threads are ended in which files are written: atexit would be too late for that.
# What is registered last is called first; those threads' own end is registered with the import
# of ThreadPoolExecutor's module, which therefore must not be put off.
importlib.import_module("concurrent.futures.thread")
getattr(threading, "_register_atexit", atexit.register)(_close_all)
