"""The warden's work: follow the log by a durable cursor, keep, and hand back to an empty hub."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from clawnet.client import Client
from clawnet.client.subscription import Subscription
from clawnet.connectors.warden.keeping import Down, newest_per_channel
from clawnet.connectors.warden.levels import Levels
from clawnet.core.calls.reading import Gap
from clawnet.core.calls.restoring import RESTORE_EVENTS_MAX, Restoring
from clawnet.core.cursors import parse_cursor
from clawnet.core.errors import AlreadyRunning, BadConfiguration, ClawError, PayloadTooLarge
from clawnet.core.events import Event
from clawnet.core.ids import salt_from_id, salt_of

BATCH_EVENTS = 200
BATCH_WAIT_S = 0.05
CLIMB_EVERY_S = 2.0
ASK_EVERY_S = 0.5
PIECE_BYTES = 2_097_152
RESTORED_MAX = 100_000
THERE_EVERY_S = 2.0
"""So often the hub is told that what it waits for is being read."""
PASSED_OVER_MAX = 1_000
CURSOR = "cursor.json"
LOCK = "warden.lock"


class Warden:
    """Follows one hub with the token of an account of the role warden.

    `told` hears what a person should know. The cursor in `folder` is written behind what is kept
    for good, so what was not is read again after a crash.
    """

    def __init__(
        self,
        client: Client,
        levels: Levels,
        folder: Path,
        *,
        channels: Sequence[str] = (">",),
        per_channel: int = 1_000,
        told: Callable[[str], None],
    ) -> None:
        self._client = client
        self._levels = levels
        self._folder = folder
        self._channels = list(channels)
        self._per_channel = per_channel
        self._told = told
        self._cursor = ""
        self._world = ""
        # A levels object is used by one task at a time.
        self._lock = asyncio.Lock()
        self._room = asyncio.Event()
        self._given_back: set[str] = set()
        """The log epochs under which a hub was given back what is kept here."""
        self._complaint = ""

    async def run(self) -> None:
        """Until it is cancelled. Raises ClawError if the hub refuses this account for good, and
        AlreadyRunning if another warden has the folder."""
        with _locked(self._folder):
            await self._run()

    async def _run(self) -> None:
        me = await self._client.me()
        self._world = me.world
        if me.account is None or me.account.role != "warden":
            self._told(
                "this account is no warden: it keeps only what it may read, and hands nothing back"
            )
        handing = asyncio.create_task(self._hand_back_when_asked())
        climbing = asyncio.create_task(self._climb())
        try:
            await self._follow()
        finally:
            for task in (handing, climbing):
                task.cancel()
            await asyncio.gather(handing, climbing, return_exceptions=True)
            await asyncio.shield(self._levels.close())

    # --- following ----------------------------------------------------------

    async def _follow(self) -> None:
        self._cursor = self._read_cursor()
        subscription = self._client.subscribe(
            *self._channels, since=self._cursor or "all", on_gap=self._lost
        )
        async with subscription:
            while True:
                if not self._levels.has_room:
                    # What is not taken stays in the hub's log.
                    self._room.clear()
                    await self._room.wait()
                await self._keep(await _batch(subscription), subscription.cursor)

    async def _keep(self, events: list[Event], cursor: str | None) -> None:
        async with self._lock:
            await self._levels.keep([event for event in events if not self._is_given_back(event)])
            if cursor is not None and self._levels.is_for_good:
                self._cursor = cursor
                self._write_cursor()
            elif cursor is not None:
                self._cursor = cursor

    def _is_given_back(self, event: Event) -> bool:
        """Whether it comes from here: stored by an earlier log, and handed back to this one."""
        epoch = event.epoch.partition(".")[0]
        return epoch in self._given_back and salt_from_id(event.id) != salt_of(epoch)

    def _lost(self, gap: Gap) -> None:
        if gap.reason != "epoch":
            self._told(f"{gap.channel}: {gap.first} to {gap.last} were gone before they were kept")

    async def _climb(self) -> None:
        while True:
            await asyncio.sleep(CLIMB_EVERY_S)
            if self._levels.is_top:
                continue
            try:
                async with self._lock:
                    await self._levels.climb()
                    if self._levels.has_room:
                        self._room.set()
                    if self._levels.is_for_good and self._cursor:
                        self._write_cursor()
            except Exception as error:  # one round must not be the last: nothing else climbs
                self._complain(f"the level above was not tried: {type(error).__name__}")

    # --- handing back -------------------------------------------------------

    async def _hand_back_when_asked(self) -> None:
        """Look whether the hub waits for what is kept here."""
        while True:
            try:
                found = await self._client.request("GET", "/api/v1/restore", None, Restoring)
                if found.restoring:
                    self._given_back.add(found.epoch)
                    await self._hand_back()
                    self._complaint = ""
            except Down as why:
                self._complain(f"nothing is handed back yet: {why}")
            except ClawError:
                # The hub is away, or this account may not: following says so.
                pass
            except Exception as error:  # one round must not be the last: the hub would wait
                self._complain(f"nothing is handed back yet: {type(error).__name__}")
            await asyncio.sleep(ASK_EVERY_S)

    async def _hand_back(self) -> None:
        waiting = asyncio.create_task(self._say_it_is_read())
        try:
            async with self._lock:
                events = await self._levels.newest(self._world, RESTORED_MAX)
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        events = newest_per_channel(events, self._per_channel)
        self._told(f"the hub began empty: {len(events)} events are handed back")
        passed_over = 0
        for piece in _pieces(events):
            passed_over += await self._give(piece)
        await self._client.request("POST", "/api/v1/restore/done", {}, Restoring)
        if passed_over:
            self._told(f"{passed_over} events were not taken: this hub reads them as no events")
        self._told("the hub has them and goes on")

    async def _give(self, piece: list[bytes]) -> int:
        """Hand back a piece; returns how many of it the hub would not have. Raises ClawError."""
        passed_over = 0
        while True:
            body = msgspec.Raw(b'{"events":[%b]}' % b",".join(piece))
            try:
                await self._client.request("POST", "/api/v1/restore/events", body, Restoring)
                return passed_over
            except ClawError as error:
                index = error.facts.get("index")
                if isinstance(error, PayloadTooLarge) and len(piece) == 1:
                    return passed_over + 1
                if not isinstance(index, int) or not 0 <= index < len(piece):
                    raise
                if passed_over >= PASSED_OVER_MAX:
                    raise
                # One that it will never take must not keep the others from it.
                del piece[index]
                passed_over += 1

    async def _say_it_is_read(self) -> None:
        """An empty piece: what is kept is many, or far away."""
        while True:
            with suppress(ClawError):
                await self._client.request(
                    "POST", "/api/v1/restore/events", {"events": []}, Restoring
                )
            await asyncio.sleep(THERE_EVERY_S)

    def _complain(self, text: str) -> None:
        """Say what is wrong once, however often it is tried."""
        if text != self._complaint:
            self._complaint = text
            self._told(text)

    # --- the cursor ---------------------------------------------------------

    def _read_cursor(self) -> str:
        """Empty if there is none, or it is another hub's, or no cursor: then all is read."""
        try:
            found = json.loads((self._folder / CURSOR).read_text())
            is_ours = isinstance(found, dict) and found.get("server") == self._client.url
            return str(parse_cursor(found["cursor"])) if is_ours else ""
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ClawError):
            self._told(f"{CURSOR} cannot be read: the hub's log is read from its beginning")
            return ""

    def _write_cursor(self) -> None:
        text = json.dumps({"server": self._client.url, "cursor": self._cursor})
        beside = self._folder / f".{CURSOR}.new"
        with suppress(OSError):
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.write(handle, text.encode())
                os.fsync(handle)
            finally:
                os.close(handle)
            beside.rename(self._folder / CURSOR)


async def _batch(subscription: Subscription) -> list[Event]:
    """The next event and what comes with it."""
    events = [await anext(subscription)]
    with suppress(TimeoutError):
        async with asyncio.timeout(BATCH_WAIT_S):
            while len(events) < BATCH_EVENTS:
                events.append(await anext(subscription))
    return events


def _pieces(events: Sequence[Event]) -> Iterator[list[bytes]]:
    """Encoded events in requests that the hub takes."""
    piece: list[bytes] = []
    size = 0
    for event in events:
        body = msgspec.json.encode(event)
        if piece and (size + len(body) > PIECE_BYTES or len(piece) >= RESTORE_EVENTS_MAX):
            yield piece
            piece, size = [], 0
        piece.append(body)
        size += len(body) + 1
    if piece:
        yield piece


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder, for one warden at a time. Raises AlreadyRunning, BadConfiguration."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BadConfiguration(
            f"The warden's folder {folder} cannot be used: {error.strerror}.",
            next="Name another one: claw warden --folder FOLDER.",
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AlreadyRunning(
                f"Another warden keeps its files in {folder}.",
                next="Name another one: claw warden --folder FOLDER.",
            ) from None
        yield
    finally:
        os.close(handle)
