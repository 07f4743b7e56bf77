"""A live subscription that outlives its connections."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Self

from clawnet.client.address import Address
from clawnet.client.backoff import Backoff
from clawnet.client.errors import HubUnreachable, UnexpectedAnswer
from clawnet.client.position import SINCE, Position
from clawnet.client.transport import CONNECT_WITHIN_S, open_websocket
from clawnet.client.wire import (
    Frame,
    Signal,
    decode_envelope,
    decode_frame,
    encode_subscribe,
    error_of_close,
)
from clawnet.core.calls.reading import Gap
from clawnet.core.errors import ClawError
from clawnet.core.events import Event

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

logger = logging.getLogger(__name__)

STEADY_AFTER_S = 5.0
_SUBSCRIBE_ID = 1


class Subscription:
    """An async iterator of events, in order, each once, across restarts of the hub.

    A lost connection is made again for ever, with growing waits, and resumed
    behind the last event that was handed over. What the hub no longer has is
    told to `on_gap`, in its place among the events: it is called before the
    first event behind the gap is returned. Without `on_gap` a gap is logged
    as a warning. Signals, which have no place in the log and may be missed at
    any time, are told to `on_signal` in the same way, or dropped.

    Iterating raises the hub's error if coming back is pointless (Unauthenticated,
    Forbidden, BadRequest and its like), and HubUnreachable if the very first
    connection fails and `is_patient` is false.

    Nothing is read ahead beyond a few frames: a slow reader is fed at its own
    pace. Awaiting the next event may be cancelled, with a timeout for example,
    and taken up again. One task at a time may iterate.
    """

    def __init__(
        self,
        address: Address,
        token: str | None,
        channels: list[str],
        *,
        since: SINCE = None,
        on_gap: Callable[[Gap], None] | None = None,
        on_signal: Callable[[Signal], None] | None = None,
        on_state: Callable[[str], None] | None = None,
        is_patient: bool = True,
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._address = address
        self._token = token
        self._channels = channels
        self._position = Position(channels, since, now_s=time.monotonic())
        self._on_gap = on_gap or _log_gap
        self._on_signal = on_signal
        self._on_state = on_state or _log_state
        self._is_patient = is_patient
        self._backoff = backoff or Backoff()
        self._sleep = sleep
        self._socket: ClientConnection | None = None
        self._opened_s = 0.0
        self._pause_s = 0.0
        self._was_open = False
        self._told: dict[str, Gap] = {}
        self._said = ""
        self._failure: ClawError | None = None
        self._is_closed = False

    @property
    def cursor(self) -> str | None:
        """The place behind the last event handed over: a `since` for another day."""
        return self._position.cursor

    async def __aenter__(self) -> Self:
        """Wait until the subscription runs: what is published from now on will come."""
        await self._opened()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        from websockets.exceptions import ConnectionClosed

        while True:
            if self._is_closed:
                raise StopAsyncIteration
            socket = await self._opened()
            try:
                event = self._take(decode_frame(await socket.recv()))
            except ConnectionClosed as closed:
                self._lost(closed)
                continue
            except UnexpectedAnswer as error:
                raise self._failed(error) from None
            if event is not None:
                return event

    async def aclose(self) -> None:
        """End it. Idempotent."""
        self._is_closed = True
        await self._drop()

    def _take(self, frame: Frame) -> Event | None:
        match frame.type:
            case "event":
                return self._admitted(decode_envelope(frame.event), frame.cursor)
            case "gap" if frame.gap is not None:
                self._tell(frame.gap)
            case "ended" | "error":
                if not frame.failure.retryable:
                    raise self._failed(frame.failure)
                # The hub cannot serve this now: come back as after a lost connection.
                self._pause_s = self._backoff.next_s(frame.failure.retry_after_s)
                self._abandon()
        return None

    def _admitted(self, event: Event | Signal, cursor: str | None) -> Event | None:
        if isinstance(event, Signal):
            if self._on_signal is not None:
                self._on_signal(event)
            return None
        if not self._position.admits(event, cursor):
            return None
        self._backoff.reset()
        return event

    def _tell(self, gap: Gap) -> None:
        # A connection that ends before the first event behind a gap hears of it again.
        if self._told.get(gap.channel) != gap:
            self._told[gap.channel] = gap
            self._on_gap(gap)

    async def _opened(self) -> ClientConnection:
        """The running connection; made anew, for as long as it takes, if there is none."""
        while self._socket is None:
            if self._failure is not None:
                raise self._failure
            if self._pause_s:
                await self._sleep(self._pause_s)
                self._pause_s = 0.0
            try:
                self._socket = await self._open()
            except ClawError as error:
                if not self._is_worth_retrying(error):
                    raise self._failed(error) from None
                if not self._was_open and not self._is_patient:
                    raise
                self._pause_s = self._backoff.next_s(error.retry_after_s)
                self._say(f"{error.message} Trying again until it does.")
                continue
            self._opened_s = time.monotonic()
            if self._was_open:
                self._say("Connected again.")
            self._was_open = True
        return self._socket

    def _is_worth_retrying(self, error: ClawError) -> bool:
        if error.retryable:
            return True
        # A proxy in front of a hub that restarts may answer anything for a while.
        return self._was_open and isinstance(error, UnexpectedAnswer)

    async def _open(self) -> ClientConnection:
        socket = await open_websocket(self._address, self._token)
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                await self._subscribe(socket)
        except TimeoutError:
            socket.transport.abort()
            raise HubUnreachable(f"The hub at {self._address.url} does not answer.") from None
        except BaseException:  # cancellation too: a half-open connection must not stay behind
            socket.transport.abort()
            raise
        return socket

    async def _subscribe(self, socket: ClientConnection) -> None:
        from websockets.exceptions import ConnectionClosed

        since = self._position.resume(now_s=time.monotonic())
        command = encode_subscribe(channels=self._channels, since=since, number=_SUBSCRIBE_ID)
        try:
            await socket.send(command)
            while True:
                frame = decode_frame(await socket.recv())
                if frame.type == "error":
                    raise frame.failure
                if frame.type == "ok" and frame.id == _SUBSCRIBE_ID:
                    self._position.begun(frame.cursor)
                    return
                # The hub answers before it sends events; anything else is not for us.
        except ConnectionClosed as closed:
            failure = _error_of(closed)
            raise failure or HubUnreachable(
                f"The hub at {self._address.url} ended the connection."
            ) from None

    def _lost(self, closed: Exception) -> None:
        """The connection ended: for good, or to be made again."""
        failure = _error_of(closed)
        if failure is not None:
            raise self._failed(failure)
        if time.monotonic() - self._opened_s <= STEADY_AFTER_S:
            # A hub that takes connections and drops them at once must not be hammered.
            self._pause_s = self._backoff.next_s()
        self._abandon()
        self._say(f"The connection to {self._address.url} was lost.")

    def _say(self, text: str) -> None:
        # Once for each change: an hour without a hub is one line.
        if text != self._said:
            self._said = text
            self._on_state(text)

    def _failed(self, failure: ClawError) -> ClawError:
        self._failure = failure
        self._abandon()
        return failure

    def _abandon(self) -> None:
        """Forget the connection at once, without a closing handshake."""
        if self._socket is not None:
            if time.monotonic() - self._opened_s > STEADY_AFTER_S:
                self._backoff.reset()
            self._socket.transport.abort()
            self._socket = None

    async def _drop(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()


def _error_of(closed: Exception) -> ClawError | None:
    received = getattr(closed, "rcvd", None)
    if received is None:
        return None
    return error_of_close(received.code, received.reason)


def _log_gap(gap: Gap) -> None:
    logger.warning(
        "events %d to %d of %s are gone (%s)", gap.first, gap.last, gap.channel, gap.reason
    )


def _log_state(text: str) -> None:
    logger.info("%s", text)
