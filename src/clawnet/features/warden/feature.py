"""Keeps an empty hub restoring until its warden has handed back what it kept.

Accounts, tokens, grants, rooms and open tasks lie in the data folder with every engine; what the
memory engine loses is the log. What is kept elsewhere and names offsets of the log that is gone is
moved, in one unit with the name of the log that it is of from then on (state `restored/log`):
- a grant that hides what was said before somebody joined begins where that event stands now, behind
  everything that an older log held, or behind everything;
- what an account has acknowledged stays acknowledged, so that no agent is told its past anew.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from clawnet.core import events as core_events
from clawnet.core import payloads
from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.marks import OpenMarks
from clawnet.core.calls.restoring import (
    RESTORE_EVENTS_MAX,
    ReadRestore,
    RestoreDone,
    RestoreEvents,
    Restoring,
)
from clawnet.core.channels import is_account_id, is_pattern, parse
from clawnet.core.errors import BadRequest, ClawError, Conflict, Forbidden, Unavailable
from clawnet.core.events import Draft, Event, Stored
from clawnet.core.ids import seq_from_id
from clawnet.core.marks import Marks
from clawnet.core.times import time_ms
from clawnet.core.trace import admit_traceparent, trace_id_of
from clawnet.core.units import Unit
from clawnet.features.warden.places import Places
from clawnet.features.warden.settings import WardenSettings
from clawnet.hub.accounts import need_account
from clawnet.hub.directory import GrantRecord
from clawnet.hub.features import Feature, Row
from clawnet.hub.hub import Hub
from clawnet.hub.vault import put

RETRY_S = 5.0
LOOK_S = 0.25
EVENTS_PER_TURN = 50
WAITS_MAX = 30
"""However often wardens say that they are at it, a hub waits no longer than so many waits."""
KIND, NAME = "restored", "log"

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


class _Log(msgspec.Struct, frozen=True, kw_only=True):
    """The log of which the offsets in grants and marks are: its epoch, and how many events of
    older logs were handed back to it, by world and channel."""

    epoch: str = ""
    older: dict[str, dict[str, int]] = {}


class WardenFeature(Feature):
    """Takes events from a warden, under a new epoch."""

    def __init__(self, settings: WardenSettings) -> None:
        self._settings = settings
        self._hub: Hub
        self._until_s = 0.0
        self._latest_s = 0.0
        self._restored = 0
        self._is_due = False
        """Whether places could not be moved at the start."""
        self._before = _Log()
        self._done: set[str] = set()
        """The worlds whose wardens have handed everything back."""
        self._ids: set[str] = set()
        self._places: dict[tuple[str, str], Places] = {}
        self._lock: asyncio.Lock

    def register(self, hub: Hub) -> None:
        self._hub = hub
        self._lock = asyncio.Lock()
        hub.handle(ReadRestore, self.read)
        hub.handle(RestoreEvents, self.take_in)
        hub.handle(RestoreDone, self.done)

    async def load(self) -> None:
        """Hold back publishes, if there is something to wait for."""
        hub = self._hub
        engine = hub.storage.engine
        if engine.is_durable or engine.last_seq:
            return
        entries = await hub.storage.read(lambda state: state.scan(KIND))
        for entry in entries:
            if entry.key == f"{KIND}/{NAME}":
                self._before = msgspec.json.decode(entry.value, type=_Log)
        has_accounts = any(True for _ in hub.directory.all_accounts())
        if not (self._settings.restores and has_accounts):
            await self._try_to_move()
            return
        now_s, wait_s = hub.clock.steady_s(), self._settings.restore_wait_s
        self._until_s, self._latest_s = now_s + wait_s, now_s + WAITS_MAX * wait_s
        hub.committer.held = Unavailable(
            "The hub waits for its warden to hand back what it kept.", retry_after_s=1.0
        )

    async def run(self) -> None:
        """Go on without a warden when the wait is over."""
        while self._is_due:
            await asyncio.sleep(RETRY_S)
            await self._try_to_move()
        while self._is_restoring:
            await asyncio.sleep(LOOK_S)
            if self._is_over():
                _log.warning(
                    "no warden handed everything back within %g s; the hub goes on with %d events",
                    self._settings.restore_wait_s,
                    self._restored,
                )
                try:
                    await self._end()
                except ClawError as error:
                    # A full disk: nothing would be stored anyway.
                    _log.error("the hub goes on later: %s", error.message)

    def metrics(self) -> list[Row]:
        return [("clawnet_restored_events", "gauge", "Given back by a warden.", self._restored)]

    # --- calls --------------------------------------------------------------

    async def read(self, call: ReadRestore, caller: Caller) -> Restoring:
        """Raises Forbidden."""
        self._need_warden(caller)
        return self._said(caller.world)

    async def take_in(self, call: RestoreEvents, caller: Caller) -> Restoring:
        """Raises Forbidden, Conflict, BadRequest, InvalidData, InvalidChannel."""
        self._need_warden(caller)
        if len(call.events) > RESTORE_EVENTS_MAX:
            raise BadRequest(
                f"At most {RESTORE_EVENTS_MAX} events are given back at once.",
                next="Send several pieces, in order.",
            )
        # No deadline: the committer answers every unit, so the lock is always given back.
        async with self._lock:
            self._need_restoring()
            drafts: list[Draft] = []
            kept: list[Event] = []
            for index, event in enumerate(call.events):
                if event.id in self._ids:
                    continue
                try:
                    drafts.append(self._draft(event, caller.world))
                except ClawError as error:
                    error.facts.setdefault("index", index)
                    raise
                kept.append(event)
                if index % EVENTS_PER_TURN == EVENTS_PER_TURN - 1:
                    await asyncio.sleep(0)
            self._need_restoring()
            self._need_warden(self._hub.directory.refresh(caller))
            if drafts:
                unit = Unit(drafts=tuple(drafts))
                committed = await self._hub.committer.commit(unit, is_restoring=True)
                for event, stored in zip(kept, committed.events, strict=True):
                    self._ids.add(event.id)
                    if isinstance(stored, Stored):
                        self._restored += 1
                        is_last = event.epoch.partition(".")[0] == self._before.epoch
                        places = self._places_of(caller.world, stored.channel)
                        places.add(event.offset if is_last else None, stored.offset)
        if drafts or not call.events:
            # While it hands back, or says that it is at it, it is there; who repeats itself is not.
            until_s = self._hub.clock.steady_s() + self._settings.restore_wait_s
            self._until_s = min(until_s, self._latest_s)
        return self._said(caller.world)

    async def done(self, call: RestoreDone, caller: Caller) -> Restoring:
        """Raises Forbidden. Saying it twice is safe. Other worlds' wardens are still waited for."""
        self._need_warden(caller)
        self._done.add(caller.world)
        accounts = self._hub.directory.all_accounts()
        awaited = {a.world for a in accounts if a.role == "warden" and not a.is_deleted}
        if awaited <= self._done:
            await self._end()
        return self._said(caller.world)

    # --- inside -------------------------------------------------------------

    @property
    def _is_restoring(self) -> bool:
        return self._hub.committer.held is not None

    def _is_over(self) -> bool:
        return self._is_restoring and self._hub.clock.steady_s() >= self._until_s

    def _said(self, world: str) -> Restoring:
        left_s = self._until_s - self._hub.clock.steady_s() if self._is_restoring else 0.0
        return Restoring(
            restoring=self._is_restoring and world not in self._done,
            epoch=self._hub.log_epoch,
            wait_s=round(max(left_s, 0.0), 3),
            restored=self._restored,
        )

    def _need_warden(self, caller: Caller) -> None:
        need_account(caller)
        caller.need("events:write")
        if caller.role != "warden":
            raise Forbidden(
                "Only a warden hands back what it kept.",
                next="Use the token of an account with the role warden.",
            )

    def _need_restoring(self) -> None:
        if not self._is_restoring:
            raise Conflict(
                "The hub does not wait for anything to be handed back.",
                next="Start it with the memory engine and warden.restores = true.",
                reason="not_restoring",
            )

    async def _end(self) -> None:
        """Raises ClawError if what names offsets cannot be stored; the hub then waits on."""
        async with self._lock:
            if self._is_restoring:
                await self._move()
                self._ids.clear()
                self._places.clear()
                self._hub.restored()

    def _places_of(self, world: str, channel: str) -> Places:
        key = (world, channel)
        if key not in self._places:
            before = self._before.older.get(world, {}).get(channel, 0)
            self._places[key] = Places(older_before=before)
        return self._places[key]

    async def _try_to_move(self) -> None:
        """_move(); a full disk keeps no hub from starting. Until it has room, who joined the lost
        log late sees too little, and nobody too much."""
        try:
            await self._move()
            self._is_due = False
        except ClawError as error:
            self._is_due = True
            _log.warning("where rights begin in the new log is stored later: %s", error.message)

    async def _move(self) -> None:
        """Let grants and marks name places of the log as it is now. Raises ClawError, and may
        then be tried again."""
        hub = self._hub
        worlds = {account.world for account in hub.directory.all_accounts()}
        for world in worlds:
            await self._move_marks(world)
        older: dict[str, dict[str, int]] = {}
        for (world, channel), places in self._places.items():
            older.setdefault(world, {})[channel] = places.count
        log = _Log(epoch=hub.log_epoch, older=older)
        # From here until it is queued there is no await: what is revoked later is stored later.
        moved = self._moved_grants()
        changes = [
            put("grant", f"{one.world}/{one.account}/{one.channel}", one) for _, one in moved
        ]
        unit = Unit(changes=(*changes, put(KIND, NAME, log)))
        await hub.committer.commit(unit, is_restoring=True)
        for before, after in moved:
            now = hub.directory.grant(after.world, after.account, after.channel)
            if now is not None and now.from_offset == before.from_offset:
                # Of what was revoked meanwhile nothing comes back.
                hub.directory.put_grant(msgspec.structs.replace(now, from_offset=after.from_offset))
        for world in worlds:
            hub.fanout.rights_changed(world)
        self._before = log

    def _moved_grants(self) -> list[tuple[GrantRecord, GrantRecord]]:
        """Those that change, before and after."""
        hub = self._hub
        found: list[tuple[GrantRecord, GrantRecord]] = []
        for world in {account.world for account in hub.directory.all_accounts()}:
            for grant in list(hub.directory.grants(world)):
                if not grant.from_offset or is_pattern(grant.channel):
                    continue
                head = hub.storage.engine.channel(world, grant.channel)
                places = self._places_of(world, grant.channel)
                start = places.opened(grant.from_offset, head=head.last if head else 0)
                if start != grant.from_offset:
                    found.append((grant, msgspec.structs.replace(grant, from_offset=start)))
        return found

    async def _move_marks(self, world: str) -> None:
        hub = self._hub
        restored = {name: p for (of, name), p in self._places.items() if of == world and p.count}
        if not restored:
            return
        voice = msgspec.structs.replace(HUB, world=world)
        for account in [one for one in hub.directory.all_accounts() if one.world == world]:
            marks: Marks = await hub.call(OpenMarks(account=account.id), caller=voice)
            for channel, mark in list(marks.by_channel.items()):
                places, head = restored.get(channel), hub.storage.engine.channel(world, channel)
                is_last = mark.epoch.partition(".")[0] == self._before.epoch
                if places is not None and head is not None and is_last:
                    marks.put(channel, places.handled(mark.floor), epoch=head.epoch)
            # Many accounts with many channels must not hold up the loop.
            await asyncio.sleep(0)

    def _draft(self, event: Event, world: str) -> Draft:
        """The event as it was, for a new place. Raises what is wrong with it."""
        if event.world != world:
            raise BadRequest("The event is of another world.", next="Give back your own world's.")
        channel = parse(event.channel).name
        core_events.check_type(event.type, is_hub=True)
        is_known = is_account_id(event.actor.id) and event.actor.handle.isprintable()
        if not is_known or seq_from_id(event.id) is None or event.source not in _SOURCES:
            raise BadRequest("This is no event that a hub wrote.")
        for name in ("correlation_id", "causation_id", "dedupe_key"):
            core_events.check_key(name, getattr(event, name), max_chars=200)
        try:
            ts_ms = time_ms(event.ts)
        except ValueError:
            raise BadRequest("The event's ts is no time.") from None
        data = payloads.admit(bytes(event.data), max_bytes=self._hub.settings.limits.data_max_bytes)
        actor = _encode({"id": event.actor.id, "handle": event.actor.handle[:64]}).decode()
        opening = core_events.render_opening(
            type=event.type,
            source=event.source,  # type: ignore[arg-type]
            actor_json=actor,
            world=world,
            room=channel[5:] if channel.startswith("room.") else None,
        )
        traceparent = admit_traceparent(event.traceparent)
        members = core_events.render_members(
            opening,
            correlation_id=event.correlation_id,
            causation_id=event.causation_id,
            dedupe_key=event.dedupe_key,
            traceparent=traceparent,
            reply_within_s=None if event.expect is None else event.expect.reply_within_s,
        )
        if event.imported is not None:
            members += f',"imported":{_encode(event.imported).decode()}'
        if event.origin is not None:
            members += f',"origin":{_encode(event.origin).decode()}'
        if event.deleted:
            members += core_events.DELETED
        identity = digest = None
        if event.dedupe_key is not None:
            identity = core_events.dedupe_identity(
                world=world, actor_id=event.actor.id, channel=channel, key=event.dedupe_key
            )
            digest = core_events.content_digest(type=event.type, data=data)
        return Draft(
            world=world,
            channel=channel,
            type=event.type,
            actor_id=event.actor.id,
            members=members,
            data=data,
            correlation_id=event.correlation_id,
            trace_id=None if traceparent is None else trace_id_of(traceparent),
            identity=identity,
            digest=digest,
            id=event.id,
            ts_ms=ts_ms,
        )


_SOURCES = frozenset(("user", "agent", "system", "external"))
