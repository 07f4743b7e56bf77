"""The outbox: events kept on this machine until the hub has them.

    async with Client(url, token, outbox=True) as client:
        await client.enqueue("public.builds", {"ok": True})     # on disk; the hub may be away

What it promises:
1. When enqueue() returns, the event is on disk. It is sent until the hub acknowledges or refuses
   it, by this process or the next one that opens the file, however this one ends.
2. Per channel, events reach the log in the order of their enqueue() calls, each once.
3. Nothing is dropped: what has no room is refused to the caller (OutboxFull), and what the hub
   refuses for good is put among the refused and told, and does not hold up what is behind it.
4. Events are sent only by the account that enqueued them, to the hub they were meant for.

The file is clawnet.client.outbox_store's business.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from clawnet.client.backoff import Backoff
from clawnet.client.errors import UnexpectedAnswer, from_answer
from clawnet.client.http import new_dedupe_key
from clawnet.client.outbox_store import (
    BYTES_MAX,
    ENTRIES_MAX,
    New,
    Refusal,
    Store,
    Waiting,
    default_path,
    owner_of,
)
from clawnet.client.transport import Transport
from clawnet.core import payloads
from clawnet.core.calls.accounts import MeInfo
from clawnet.core.calls.publishing import BATCH_MAX_BYTES, Published, PublishedBatch
from clawnet.core.channels import parse
from clawnet.core.errors import (
    BadConfiguration,
    ClawError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RateLimited,
    StorageCorrupt,
    Unauthenticated,
)
from clawnet.core.events import DEDUPE_KEY_MAX_CHARS, check_key

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)
T = TypeVar("T")

BATCH_EVENTS = 100
BATCH_BYTES = 262_144
SEND_WITHIN_S = 30.0
LOOK_EVERY_S = 0.5
"""How often an idle outbox looks for what other processes put into its file."""
HALTED_S = 30.0
"""The pause after an answer that is about the token or the address, not about an event."""
DEFECTS_MAX = 8
"""How often an event may make the hub fail before it counts as refused."""


class Enqueued(msgspec.Struct, frozen=True, kw_only=True):
    """The event is on this machine's disk. `dedupe_key` is that of the event to come."""

    id: int
    channel: str
    dedupe_key: str


OnSent = Callable[[Enqueued, Published], None]
OnRefused = Callable[[Refusal], None]


class Outbox:
    """One outbox file, used by one client; see the module for its promises.

    Without a path it lies in `$XDG_STATE_HOME/clawnet/outbox`, a file for each hub and token.
    `on_sent` and `on_refused` are called on the client's loop for what this process sends;
    `on_state` hears one sentence when sending stops and when it goes on.
    """

    def __init__(
        self,
        path: Path | str | None = None,
        *,
        entries_max: int = ENTRIES_MAX,
        bytes_max: int = BYTES_MAX,
        on_sent: OnSent | None = None,
        on_refused: OnRefused | None = None,
        on_state: Callable[[str], None] | None = None,
    ) -> None:
        self._path = None if path is None else Path(path).expanduser()
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._on_sent = on_sent
        self._on_refused = on_refused
        self._on_state = on_state or (lambda text: logger.info("%s", text))
        self._transport: Transport | None = None
        self._owner = ""
        self._backoff = Backoff()
        self._store: Store | None = None
        self._opening = asyncio.Lock()
        self._incoming: list[tuple[New, asyncio.Future[int]]] = []
        self._committing: asyncio.Task[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        """There is something to send."""
        self._hurry = asyncio.Event()
        """Somebody waits for it: try at once, although the last attempt failed."""
        self._moved = asyncio.Event()
        self._is_admitted = False
        self._yields_until_s = 0.0
        """Until then another process may take the sending over."""
        self._not_ours: ClawError | None = None
        self._batch_events = BATCH_EVENTS
        self._singles = 0
        self._defects = 0
        self._held: dict[str, tuple[float, Backoff]] = {}
        self._attempts = 0
        self._said = ""
        self._is_closed = False
        self.pending = 0
        """How many events wait for the hub, as of the last look at the file."""
        self.trouble: ClawError | None = None
        """Why nothing is sent at present; None if all is well."""

    @property
    def path(self) -> Path:
        """Where the file is. Raises BadConfiguration before a client has the outbox."""
        if self._path is None:
            raise BadConfiguration(
                "This outbox belongs to no client yet.",
                next="Give it to one: Client(url, token, outbox=Outbox()).",
            )
        return self._path

    def attach(
        self, transport: Transport, token: str | None, *, backoff: Callable[[], Backoff]
    ) -> None:
        """For the client that uses it. Raises BadConfiguration if another does."""
        if self._transport is not None:
            raise BadConfiguration(
                "This outbox belongs to another client.", next="Give each client its own Outbox."
            )
        self._transport = transport
        self._owner = owner_of(token)
        self._new_backoff = backoff
        self._backoff = backoff()
        if self._path is None:
            self._path = default_path(transport.address.url, token)

    async def open(self) -> None:
        """Open the file and send what waits in it. Raises BadConfiguration, StorageCorrupt."""
        await self._opened()

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
        """Keep an event; it is on disk when this returns, and sent when the hub is there.

        The members are those of Client.publish(). Raises OutboxFull if there is no room,
        InvalidChannel and InvalidData for what no hub would take. If it is cancelled, the event
        may have been kept.
        """
        name = parse(channel).name
        key = check_key("dedupe_key", dedupe_key, max_chars=DEDUPE_KEY_MAX_CHARS)
        key = key or new_dedupe_key()
        expect = None if reply_within_s is None else {"reply_within_s": reply_within_s}
        more = {
            "type": type,
            "dedupe_key": key,
            "correlation_id": correlation_id,
            "causation_id": causation_id,
            "traceparent": traceparent,
            "expect": expect,
        }
        members = _encoded(name, data, more)
        if len(members) > min(self._bytes_max, BATCH_MAX_BYTES) - 64:
            raise PayloadTooLarge(
                f"The event has {len(members)} bytes, more than the outbox takes.",
                limit_bytes=min(self._bytes_max, BATCH_MAX_BYTES) - 64,
            )
        await self._opened()
        if self._not_ours is not None:
            raise self._not_ours
        # What asks for an answer, or may be one, changes more than the log: the hub does that
        # once only if the event comes in a unit of its own.
        is_alone = any(more[each] for each in ("correlation_id", "causation_id", "expect"))
        new = New(self._owner, name, key, members, is_alone, _now_ms())
        kept: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._incoming.append((new, kept))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit(), name="clawnet outbox commit")
        return Enqueued(id=await kept, channel=name, dedupe_key=key)

    async def flush(self, within_s: float | None = None) -> int:
        """Wait until the hub has what waits now; how many still wait when `within_s` is over.

        0 means that each was acknowledged or refused. Raises what only a person can mend:
        Unauthenticated, BadConfiguration for another account's outbox, UnexpectedAnswer.
        """
        store = await self._opened()
        before = self._attempts
        self._wake.set()
        self._hurry.set()
        loop = asyncio.get_running_loop()
        end_s = None if within_s is None else loop.time() + within_s
        while True:
            self._moved.clear()
            if self._not_ours is not None:
                raise self._not_ours
            self.pending = left = await asyncio.to_thread(store.count, self._owner)
            trouble = self.trouble
            is_new = trouble is not None and self._attempts > before
            if left and is_new and trouble is not None and _is_for_a_person(trouble):
                raise trouble
            left_s = LOOK_EVERY_S if end_s is None else end_s - loop.time()
            if left == 0 or left_s <= 0:
                return left
            # Another process may be the one that sends, so it is looked at now and then.
            await _first(self._moved, min(left_s, LOOK_EVERY_S))

    async def refused(self) -> list[Refusal]:
        """What the hub refused for good, oldest first. It counts against the outbox's limits."""
        store = await self._opened()
        return await asyncio.to_thread(store.refused)

    async def clear_refused(self, ids: Sequence[int] | None = None) -> int:
        """Forget refused events, all if none are named; says how many."""
        store = await self._opened()
        return await asyncio.to_thread(store.clear_refused, ids)

    async def aclose(self) -> None:
        """Stop sending. What was enqueued is kept, and what was not sent stays on disk."""
        self._is_closed = True
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        if self._committing is not None:
            await asyncio.gather(self._committing, return_exceptions=True)
        async with self._opening:
            store, self._store = self._store, None
            if store is not None:
                try:
                    await asyncio.to_thread(store.close)
                except RuntimeError:  # no thread can be had any more at the end of a program
                    store.close()

    # --- the file -----------------------------------------------------------

    async def _opened(self) -> Store:
        if self._is_closed:
            raise BadConfiguration(
                "The outbox is closed.", next="Use it inside `async with Client(…)`."
            )
        async with self._opening:
            if self._store is None:
                assert self._transport is not None
                self._store = await asyncio.to_thread(
                    Store,
                    self.path,
                    self._transport.address.url,
                    entries_max=self._entries_max,
                    bytes_max=self._bytes_max,
                )
                self.pending = await asyncio.to_thread(self._store.count, self._owner)
            if self._sending is None or self._sending.done():
                self._sending = asyncio.create_task(self._send(self._store), name="clawnet outbox")
            return self._store

    async def _commit(self) -> None:
        """Keep what was enqueued; what came meanwhile is one commit."""
        while self._incoming:
            batch, self._incoming = self._incoming, []
            store = self._store
            try:
                if store is None:
                    raise BadConfiguration("The outbox was closed before the event was kept.")
                outcomes = await asyncio.to_thread(store.append, [new for new, _ in batch])
            except ClawError as error:
                # A copy each: what is raised in many tasks would gather the traceback of each.
                outcomes = [copy(error) for _ in batch]
            except BaseException as error:  # nobody may wait for ever, whatever it was
                failure = ClawError(f"Whether the event is kept is not known: {error!r}.")
                for _, kept in batch:
                    if not kept.done():
                        kept.set_exception(copy(failure))
                raise
            for (_, kept), outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, int):
                    self.pending += 1
                if kept.done():
                    continue
                if isinstance(outcome, int):
                    kept.set_result(outcome)
                else:
                    kept.set_exception(outcome)
            self._wake.set()

    # --- sending ------------------------------------------------------------

    async def _send(self, store: Store) -> None:
        while True:
            self._wake.clear()
            self._hurry.clear()
            sooner: asyncio.Event | None = self._wake
            try:
                wait_s = await self._round(store)
            except ClawError as error:
                wait_s = self._stopped(error, store)
                # What is enqueued meanwhile is no reason to ask a hub that is away, and
                # nothing is a reason to ask earlier than the hub said.
                sooner = self._hurry if error.retry_after_s is None else None
            except Exception as error:  # a defect here must not end the sending unseen
                logger.exception("the outbox failed")
                wait_s = self._stopped(ClawError(f"The outbox failed: {error!r}."), store)
                sooner = None
            if sooner is None:
                await asyncio.sleep(wait_s)
            elif wait_s > 0:
                await _first(sooner, wait_s)

    async def _round(self, store: Store) -> float:
        """One attempt; how long to wait before the next. Raises what is about all events."""
        if self._not_ours is not None:
            return HALTED_S
        self.pending = await asyncio.to_thread(store.count, self._owner)
        if self.pending == 0:
            store.unlock()
            self._moved.set()
            return LOOK_EVERY_S
        # Before the lock is taken: whom the hub does not know, or knows as somebody else, must not
        # keep from sending who could.
        await self._admit(store)
        now_s = asyncio.get_running_loop().time()
        if now_s < self._yields_until_s:
            return self._yields_until_s - now_s
        if not store.try_lock():
            return LOOK_EVERY_S
        held = {name for name, (until_s, _) in self._held.items() if until_s > now_s}
        batch = await asyncio.to_thread(
            store.waiting,
            limit=1 if self._singles else self._batch_events,
            bytes_max=BATCH_BYTES,
            not_channels=held,
            owner=self._owner,
        )
        batch = _of_one_unit(batch)
        if not batch:
            waits = [until_s - now_s for until_s, _ in self._held.values() if until_s > now_s]
            return min(waits, default=LOOK_EVERY_S)
        for entry in batch:
            if not entry.is_sound:
                await self._refuse(store, entry, StorageCorrupt("The disk changed the event."))
                return 0.0
        return await self._attempt(store, batch)

    async def _admit(self, store: Store) -> None:
        """Ask the hub who we are, once: what others enqueued is never sent."""
        if self._is_admitted:
            return
        me = _decoded((await self._ask("GET", "/api/v1/me", None)), MeInfo)
        account = "anonymous" if me.account is None else f"{me.world}/{me.account.id}"
        try:
            await asyncio.to_thread(store.admit, self._owner, account)
        except BadConfiguration as error:
            # Enqueued while nobody could tell that it is somebody else's outbox.
            self._not_ours = error
            for entry in await asyncio.to_thread(
                store.waiting, limit=self._entries_max, bytes_max=self._bytes_max, owner=self._owner
            ):
                await self._refuse(store, entry, error)
            raise
        self._is_admitted = True

    async def _attempt(self, store: Store, batch: list[Waiting]) -> float:
        body = b'{"events":[' + b",".join(entry.members for entry in batch) + b"]}"
        self._singles = max(0, self._singles - 1)
        try:
            answer = await self._ask("POST", "/api/v1/events/batch", body)
            published = _decoded(answer, PublishedBatch).events
            if len(published) != len(batch):
                raise UnexpectedAnswer("The hub's answer has another number of events.")
        except ClawError as error:
            return await self._failed(store, batch, error)
        await asyncio.to_thread(store.remove, [entry.id for entry in batch])
        self._went_on()
        self._batch_events = min(BATCH_EVENTS, self._batch_events * 2)
        self.pending = max(0, self.pending - len(batch))
        for entry, place in zip(batch, published, strict=True):
            self._held.pop(entry.channel, None)
            self._tell(self._on_sent, _enqueued(entry), place)
        self._moved.set()
        return 0.0

    async def _failed(self, store: Store, batch: list[Waiting], error: ClawError) -> float:
        """The hub did not take the batch. Nothing of it is stored, unless nobody knows."""
        index = error.facts.get("index", 0 if len(batch) == 1 else None)
        culprit = batch[index] if isinstance(index, int) and 0 <= index < len(batch) else None
        if _is_about_all(error):
            if isinstance(error, RateLimited):
                self._batch_events = max(1, self._batch_events // 2)
            raise error
        if culprit is None:
            # The hub does not say which: one at a time, as many as these were.
            self._singles = len(batch)
            return 0.0
        if _is_defect(error):
            self._defects += 1
            if self._defects < DEFECTS_MAX:
                raise error
        elif error.retryable:
            # It is about this channel: the others need not wait for it.
            return self._hold(culprit.channel, error)
        await self._refuse(store, culprit, error)
        self._went_on()
        return 0.0

    def _hold(self, channel: str, error: ClawError) -> float:
        _, backoff = self._held.get(channel, (0.0, None))
        backoff = backoff or self._new_backoff()
        until_s = asyncio.get_running_loop().time() + backoff.next_s(error.retry_after_s)
        self._held[channel] = (until_s, backoff)
        return 0.0

    async def _refuse(self, store: Store, entry: Waiting, error: ClawError) -> None:
        refusal = await asyncio.to_thread(
            store.refuse, entry.id, code=_code(error), message=error.message, now_ms=_now_ms()
        )
        self.pending = max(0, self.pending - 1)
        self._held.pop(entry.channel, None)
        self._moved.set()
        if refusal is None:
            return
        if self._on_refused is None:
            why = ascii(error.message[:200])
            logger.warning("an event of the outbox for %s was refused: %s", entry.channel, why)
        self._tell(self._on_refused, refusal)

    def _tell(self, callback: Callable[..., None] | None, *what: object) -> None:
        if callback is None:
            return
        try:
            callback(*what)
        except Exception:  # somebody else's code: sending goes on
            logger.exception("a callback of the outbox failed")

    def _went_on(self) -> None:
        self._attempts += 1
        self._defects = 0
        self._backoff.reset()
        self.trouble = None
        if self._said:
            self._said = ""
            self._on_state("The outbox sends again.")

    def _stopped(self, error: ClawError, store: Store) -> float:
        """Nothing can be sent; how long to wait."""
        self._attempts += 1
        self.trouble = error
        if isinstance(error, Unauthenticated):
            self._is_admitted = False
        # Once for each change: an hour without a hub is one line.
        if error.message != self._said:
            self._said = error.message
            self._on_state(f"{error.message} {self.pending} events are kept until it is over.")
        self._moved.set()
        if _is_for_a_person(error):
            # It may be this process's trouble alone. The others look every LOOK_EVERY_S.
            store.unlock()
            self._yields_until_s = asyncio.get_running_loop().time() + 2 * LOOK_EVERY_S
            return HALTED_S
        return self._backoff.next_s(error.retry_after_s)

    async def _ask(self, method: str, path: str, body: bytes | None) -> bytes:
        assert self._transport is not None
        answer = await self._transport.send(method, path, body=body, timeout_s=SEND_WITHIN_S)
        if 200 <= answer.status < 300:
            return answer.body
        retry_after = answer.headers.get("retry-after")
        error = from_answer(answer.status, answer.body, retry_after=retry_after)
        if not error.retryable and not _is_of_a_hub(answer.body):
            # A proxy or another program: it says nothing about the event.
            raise UnexpectedAnswer(
                f"{self._transport.address.url} answers with status {answer.status}, but not as a "
                "hub does."
            )
        raise error


async def _first(event: asyncio.Event, within_s: float) -> None:
    """Wait for the event or the time, whichever comes first."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        pass


def _of_one_unit(batch: list[Waiting]) -> list[Waiting]:
    """The events from the first on that may go as one unit of the hub."""
    if not batch or batch[0].is_alone:
        return batch[:1]
    return batch[: next((at for at, entry in enumerate(batch) if entry.is_alone), None)]


def _is_about_all(error: ClawError) -> bool:
    """Whether it is no answer to this event: the hub, the way to it, the token or its ration."""
    if error.retryable:
        return "index" not in error.facts
    if isinstance(error, Unauthenticated | NotFound | MethodNotAllowed):
        return True
    # With a code that only a newer hub knows, it is that hub's refusal.
    return isinstance(error, UnexpectedAnswer) and "hub_code" not in error.facts


def _is_for_a_person(error: ClawError) -> bool:
    """Whether time alone will not mend it."""
    return not error.retryable and not _is_defect(error)


def _is_defect(error: ClawError) -> bool:
    """Whether the hub (or this outbox) failed inside, as it does on no event that it can take."""
    return _code(error) == ClawError.code


def _code(error: ClawError) -> str:
    return str(error.facts.get("hub_code", error.code))[:80]


def _is_of_a_hub(body: bytes) -> bool:
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(problem, dict) and isinstance(problem.get("code"), str)


def _encoded(channel: str, data: Any, more: Mapping[str, Any]) -> bytes:
    """An event of a batch. A caller's own bytes (msgspec.Raw) are checked and kept as they are."""
    if isinstance(data, msgspec.Raw):
        payloads.admit(bytes(data), max_bytes=BATCH_MAX_BYTES)
    given = {name: value for name, value in more.items() if value is not None}
    return msgspec.json.encode({"channel": channel, "data": data, **given})


def _enqueued(entry: Waiting) -> Enqueued:
    return Enqueued(id=entry.id, channel=entry.channel, dedupe_key=entry.dedupe_key)


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise UnexpectedAnswer(f"The hub's answer cannot be read: {error}.") from None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
