"""Export and import: the log as pages of envelopes, and another hub's events taken in.

An export is a read like any other: each event is asked for its rights. An
import is the operator's affair: it stores what others said elsewhere, marked
as imported, and never as if the hub had heard it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from clawnet.core import events, payloads
from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.archive import (
    EXPORT_CHANNELS_MAX,
    EXPORT_LIMIT,
    IMPORT_EVENTS_MAX,
    ExportEvents,
    ExportPage,
    ImportedEvents,
    ImportEvents,
)
from clawnet.core.calls.reading import Gap
from clawnet.core.channels import Kind, is_account_id, is_pattern, matches, parse, parse_pattern
from clawnet.core.cursors import AfterOffset
from clawnet.core.errors import BadRequest, ClawError, Forbidden, NotFound
from clawnet.core.events import Draft, Event, Stored, place_of
from clawnet.core.ids import salt_from_id, salt_of, seq_from_id
from clawnet.core.rights import Allowed, Verb, decide, require
from clawnet.core.trace import admit_traceparent, trace_id_of
from clawnet.core.units import Put, Unit
from clawnet.hub.accounts import need_account
from clawnet.hub.directory import Account
from clawnet.hub.places import Places
from clawnet.hub.tokens import ADMIN
from clawnet.hub.vault import put

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

SELECTIONS_MAX = 8
_NAMES_PER_TURN = 500
_EVENTS_PER_TURN = 50
_IMPORTER = "\0import"
"""In place of a sender in the dedupe identity of imported events: no account can have this id."""

_Selection = tuple[str | None, tuple[str, ...]]


class Archive:
    """Handlers of core.calls.archive."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._selected: dict[_Selection, tuple[Caller, int, int, frozenset[str]]] = {}

    def register(self) -> None:
        self._hub.handle(ExportEvents, self.export)
        # A change: it may take ids, one after the other with the creation of accounts.
        self._hub.handle(ImportEvents, self.take_in, is_change=True)

    # --- export -------------------------------------------------------------

    async def export(self, call: ExportEvents, caller: Caller) -> ExportPage:
        """A page of the log. Raises BadRequest, Forbidden, InvalidChannel."""
        hub = self._hub
        need_account(caller)
        caller.need("events:read")
        if not 1 <= call.limit <= EXPORT_LIMIT:
            raise BadRequest(f"limit must be 1 to {EXPORT_LIMIT}.", next="Ask for several pages.")
        if not 1 <= len(call.channels) <= EXPORT_CHANNELS_MAX:
            raise BadRequest(
                f"An export takes 1 to {EXPORT_CHANNELS_MAX} channels.",
                next="Use a pattern for many channels: > is all of them.",
            )
        self._check(call.channels, caller)
        gaps: list[Gap] = []
        after = 0
        if call.since is not None:
            if isinstance(call.since, AfterOffset) and call.since.offset:
                raise BadRequest(
                    "One offset cannot be a position in several channels.",
                    next="Give all, a duration such as 10m, or a cursor.",
                )
            after, gap = await Places.seq(hub, call.channels[0], call.since)
            gaps += [gap] if gap else []
        head = hub.fanout.position
        names = await self._names(call.channels, caller)
        chunk = await hub.storage.read(
            lambda log: log.read_log(
                caller.world, names, after_seq=after, up_to_seq=head, limit=call.limit
            )
        )
        # Each line is asked anew, with no await until it is given: what was revoked meanwhile
        # is left out. What was granted meanwhile was not the caller's when the page was asked.
        caller = hub.directory.refresh(caller)
        lines = []
        for line in chunk.body.split(b"\n") if chunk.count else ():
            _, name, offset = place_of(line)
            if self._opens(caller, name, offset):
                lines.append(line)
        for missing in chunk.missing:
            # Only what the caller could have read is missing for it.
            floor = self._floor(caller, missing.channel)
            if floor is not None and missing.last >= floor:
                gaps.append(
                    Gap(
                        channel=missing.channel,
                        first=max(missing.first, floor),
                        last=missing.last,
                        oldest=missing.last + 1,
                    )
                )
        reached = head if chunk.is_end else chunk.seq
        return ExportPage(
            body=b"\n".join(lines),
            count=len(lines),
            next=f"{hub.log_epoch}-{max(after, reached)}",
            head=f"{hub.log_epoch}-{head}",
            is_end=chunk.is_end,
            gaps=gaps,
        )

    def _check(self, channels: tuple[str, ...], caller: Caller) -> None:
        """A name that may not be read is refused; a pattern gives what may be."""
        for wanted in channels:
            if is_pattern(wanted):
                parse_pattern(wanted)
            else:
                require(caller, Verb.READ, parse(wanted), self._hub.directory)

    async def _names(self, channels: tuple[str, ...], caller: Caller) -> frozenset[str]:
        """The channels of the world that are meant and may be read.

        Kept from page to page: 50,000 names take 0.2 s to ask, while their rights
        and their number rarely change.
        """
        hub = self._hub
        key = (caller.token_id, channels)
        listed = hub.fanout.world(caller.world).names_listed
        stamp = (caller, hub.directory.version, len(listed))
        known = self._selected.get(key)
        if known is not None and known[:3] == stamp:
            return known[3]
        exact = frozenset(parse(name).name for name in channels if not is_pattern(name))
        patterns = [name for name in channels if is_pattern(name)]
        found: set[str] = set()
        for start in range(0, stamp[2], _NAMES_PER_TURN):
            for name in listed[start : start + _NAMES_PER_TURN]:
                is_meant = name in exact or any(matches(p, name) for p in patterns)
                if is_meant and self._floor(caller, name) is not None:
                    found.add(name)
            # Many names must not hold up the loop.
            await asyncio.sleep(0)
        if (hub.directory.refresh(caller), hub.directory.version) == stamp[:2]:
            if len(self._selected) >= SELECTIONS_MAX:
                self._selected.clear()
            self._selected[key] = (*stamp, frozenset(found))
        return frozenset(found)

    def _floor(self, caller: Caller, name: str) -> int | None:
        """The first offset of a channel that the caller may read; None: nothing of it."""
        decision = decide(caller, Verb.READ, parse(name), self._hub.directory)
        return max(decision.from_offset, 1) if isinstance(decision, Allowed) else None

    def _opens(self, caller: Caller, name: str, offset: int) -> bool:
        floor = self._floor(caller, name)
        return floor is not None and offset >= floor

    # --- import -------------------------------------------------------------

    async def take_in(self, call: ImportEvents, caller: Caller) -> ImportedEvents:
        """Store a piece of an export: all of it or nothing.

        Raises Forbidden, NotFound (an actor that is no account), BadRequest,
        InvalidData, InvalidChannel, InvalidType, each with `index`.
        """
        hub = self._hub
        if need_account(caller) != ADMIN or caller.role != "master" or not caller.allows("*"):
            raise Forbidden(
                "Only the account admin imports events: it vouches for who said what.",
                next="Use a token of the account admin with all scopes.",
            )
        if len(call.events) > IMPORT_EVENTS_MAX:
            raise BadRequest(
                f"An import takes at most {IMPORT_EVENTS_MAX} events at once.",
                next="Send the export in smaller pieces; claw import does.",
            )
        drafts: list[Draft] = []
        blanks: list[int] = []
        unknown: dict[str, str] = {}
        skipped = here = 0
        for index, event in enumerate(call.events):
            try:
                if parse(event.channel).kind in (Kind.SYSTEM, Kind.SYSTEM_OPEN):
                    skipped += 1
                    continue
                seq = await self._seq_here(event, caller.world)
                if seq is not None:
                    here += 1
                    if event.deleted:
                        blanks.append(seq)
                    continue
                drafts.append(self._draft(event, caller))
            except ClawError as error:
                error.facts.setdefault("index", index)
                raise
            if index % _EVENTS_PER_TURN == _EVENTS_PER_TURN - 1:
                await asyncio.sleep(0)
            # The hub's own voice is no account, here as there.
            is_known = event.actor.id == HUB.account
            if not is_known and hub.directory.account(caller.world, event.actor.id) is None:
                unknown.setdefault(event.actor.id, event.actor.handle)
        if unknown and call.missing == "refuse":
            name = min(unknown)
            raise NotFound(
                f"{ascii(name)} spoke in the export and is no account here.",
                next="Create the account first, or import with --missing tombstone.",
                missing=sorted(unknown)[:100],
            )
        tombs = [self._tombstone(name, caller.world) for name in sorted(unknown)]
        changes = tuple(_tomb_put(tomb) for tomb in tombs)
        hub.directory.refresh(caller)
        committed = await hub.committer.commit(
            Unit(drafts=tuple(drafts), changes=changes, blanks=tuple(blanks))
        )
        for tomb in tombs:
            hub.directory.put_account(tomb)
        stored = sum(1 for event in committed.events if isinstance(event, Stored))
        return ImportedEvents(
            stored=stored,
            repeated=len(drafts) - stored + here,
            skipped=skipped,
            tombstones=[tomb.id for tomb in tombs],
        )

    async def _seq_here(self, event: Event, world: str) -> int | None:
        """Where the event stands in this log: its own, of an export put back, and still there.

        A deleted one also where an earlier import brought it while it still said something.
        """
        salts = {salt_of(start.epoch) for start in self._hub.log_epochs}
        # Also what went to another hub and comes back from there.
        for known in (event.id, event.imported.id if event.imported else event.id):
            seq = seq_from_id(known)
            if seq is None or salt_from_id(known) not in salts:
                continue
            body = await self._hub.storage.read(lambda log, at=seq: log.get(world, at))  # type: ignore[misc]
            if body is not None and f'"id":"{known}"'.encode() in body[:600]:
                return seq
        if not event.deleted:
            return None
        first = event.imported.id if event.imported else event.id
        identity = _identity(world, parse(event.channel).name, first)
        found = await self._hub.storage.read(lambda log: log.find(identity))
        return None if found is None else found.seq

    def _draft(self, event: Event, caller: Caller) -> Draft:
        """The event as a new one of this hub. Raises ClawError."""
        channel = parse(event.channel).name
        if parse(channel).kind is Kind.FREE:
            require(caller, Verb.PUBLISH, parse(channel), self._hub.directory)
        events.check_type(event.type, is_hub=True)
        if event.version != events.TYPE_VERSION:
            raise BadRequest(
                f"The event's version {ascii(event.version[:20])} is not known here.",
                next="Import into a hub of the version that exported it, or a newer one.",
            )
        if not is_account_id(event.actor.id) or not event.actor.handle.isprintable():
            raise BadRequest("The event's actor is not one that a hub wrote.")
        if seq_from_id(event.id) is None:
            raise BadRequest(f"{ascii(event.id[:60])} is not an event's id.")
        for name in ("correlation_id", "causation_id"):
            text = getattr(event, name)
            events.check_key(name, text, max_chars=events.CORRELATION_MAX_CHARS)
        origin = event.imported or events.Imported(
            id=event.id, ts=event.ts, epoch=event.epoch, seq=event.seq, by=ADMIN
        )
        origin = msgspec.structs.replace(origin, by=ADMIN)
        for text in (origin.id, origin.ts, origin.epoch):
            events.check_key("imported", text, max_chars=100)
        data = events.BLANK
        if not event.deleted:
            data = payloads.admit(
                bytes(event.data), max_bytes=self._hub.settings.limits.data_max_bytes
            )
        actor = msgspec.json.encode({"id": event.actor.id, "handle": event.actor.handle[:64]})
        opening = events.render_opening(
            type=event.type,
            source="external",
            actor_json=actor.decode(),
            world=caller.world,
            room=channel[5:] if channel.startswith("room.") else None,
        )
        traceparent = admit_traceparent(event.traceparent)
        members = events.render_members(
            opening,
            correlation_id=event.correlation_id,
            causation_id=event.causation_id,
            traceparent=traceparent,
        )
        members += f',"imported":{msgspec.json.encode(origin).decode()}'
        if event.deleted:
            # A tombstone comes in as one.
            members += events.DELETED
        return Draft(
            world=caller.world,
            channel=channel,
            type=event.type,
            actor_id=event.actor.id,
            members=members,
            data=data,
            correlation_id=event.correlation_id,
            trace_id=None if traceparent is None else trace_id_of(traceparent),
            identity=_identity(caller.world, channel, origin.id),
            digest=events.content_digest(type=event.type, data=data),
        )

    def _tombstone(self, id: str, world: str) -> Account:
        """A deleted account: its id is taken, and nobody can ever speak as it."""
        return Account(
            world=world,
            id=id,
            name=id,
            handle=id,
            role="worker",
            kind="ext",
            created_ms=self._hub.clock.wall_ms(),
            is_deleted=True,
        )


def _identity(world: str, channel: str, first_id: str) -> bytes:
    """By which an imported event is found again, by its id where it was first said."""
    return events.dedupe_identity(world=world, actor_id=_IMPORTER, channel=channel, key=first_id)


def _tomb_put(tomb: Account) -> Put:
    return put("account", f"{tomb.world}/{tomb.id}", tomb, if_revision=0)
