"""Follows the log and writes the audit chain; the seq of its own last line says how far it is.

What is stored while the hub runs is taken as it comes; what the chain lacks at a start, or more
than is kept while the disk is slow, is read from the log. Either way a record is made from the
stored event alone, so a chain that lost its end is written again as it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from heapq import merge
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.audit import Record
from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.audit import AUDIT_LIMIT_MAX, AuditKey, AuditPage, ReadAudit, ReadAuditKey
from clawnet.core.errors import BadRequest, ClawError, Forbidden, NotFound
from clawnet.core.events import Event, Stored
from clawnet.core.positions import branch_of
from clawnet.core.times import rfc3339, time_ms
from clawnet.core.units import Unit
from clawnet.features.audit.chain import Chain
from clawnet.features.audit.keys import Key
from clawnet.features.audit.records import AUDIT_CHANNEL, is_followed, is_wanted, record_of
from clawnet.features.audit.settings import AuditSettings
from clawnet.hub.accounts import need_account
from clawnet.hub.features import Feature, Row
from clawnet.hub.refusals import LOGIN
from clawnet.hub.worlds import MAIN
from clawnet.ports.log import Chunk, Engine

if TYPE_CHECKING:
    import httpx

    from clawnet.hub.hub import Hub

WAITING_MAX = 20_000
"""More events than these wait in the log instead."""
AT_ONCE = 500
PIECES_PER_ROUND = 20
ROUND_S = 0.2
REFUSALS_EVERY_S = 10.0
RETRY_S = 5.0
WITNESS_TIMEOUT_S = 10.0

_log = logging.getLogger(__name__)


class NoAudit(Feature):
    """Says that there is no chain."""

    def register(self, hub: Hub) -> None:
        hub.handle(ReadAudit, self.refuse)
        hub.handle(ReadAuditKey, self.refuse)

    async def refuse(self, call: ReadAudit | ReadAuditKey, caller: Caller) -> None:
        """Raises NotFound."""
        raise NotFound(
            "This hub keeps no audit chain.", next="The hub's operator can: audit.enabled = true."
        )


class AuditFeature(Feature):
    """Writes traffic.log in `folder`."""

    def __init__(self, settings: AuditSettings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._hub: Hub
        self._key: Key
        self._chain: Chain
        self._waiting: deque[Stored] = deque()
        self._seen = 0
        """The newest seq that was stored."""
        self._is_behind = False
        """Whether the log behind `_cursor` is to be read; nothing waits in memory then."""
        self._cursor = 0
        self._checkpoint_s = 0.0
        self._refusals_s = 0.0
        self._witnessing: asyncio.Task[None] | None = None
        self._to_show: Record | None = None
        """The newest checkpoint that the witness was not shown."""
        self._writing = asyncio.Lock()
        self._is_closed = False

    # --- Feature ------------------------------------------------------------

    def register(self, hub: Hub) -> None:
        self._hub = hub
        hub.refusals.is_kept = True
        hub.handle(ReadAudit, self.read)
        hub.handle(ReadAuditKey, self.read_key)

    async def load(self) -> None:
        """Raises BadConfiguration for a key that is damaged, OSError for a folder that is."""
        hub, folder = self._hub, self._folder
        self._key = await asyncio.to_thread(Key.in_folder, folder)
        self._chain = await asyncio.to_thread(self._open)
        chain, head = self._chain, hub.fanout.position
        good = branch_of(chain.epoch, epochs=hub.log_epochs, last_seq=head) if chain.epoch else 0
        if not chain.epoch or min(chain.seq, good) != chain.seq or chain.epoch != hub.log_epoch:
            await asyncio.to_thread(chain.follow, hub.log_epoch, seq=min(chain.seq, good))
        self._seen = head
        self._cursor = chain.seq
        self._is_behind = chain.seq < head
        self._checkpoint_s = self._refusals_s = hub.clock.steady_s()

    def _open(self) -> Chain:
        return Chain.open(
            self._folder,
            self._key,
            now=lambda: rfc3339(self._hub.clock.wall_ms()),
            rotate_bytes=self._settings.rotate_bytes,
        )

    def stored(self, stored: list[Stored]) -> None:
        """Keep what is to be recorded."""
        self._seen = stored[-1].seq
        if self._is_behind:
            # It is read from the log when its turn comes.
            return
        for event in stored:
            if is_wanted(event.channel, event.type):
                self._waiting.append(event)
        if len(self._waiting) > WAITING_MAX:
            self._waiting.clear()
            self._cursor = self._chain.seq
            self._is_behind = True

    async def run(self) -> None:
        """A round every ROUND_S."""
        while True:
            await asyncio.sleep(ROUND_S)
            if not await self.tick():
                await asyncio.sleep(RETRY_S)

    async def flush(self) -> None:
        """Record what waits and sign the end; the hub closes."""
        if self._witnessing is not None:
            self._witnessing.cancel()
        # No deadline: a round of tick() ends with its writes.
        async with self._writing:
            self._is_closed = True
            try:
                self._tell_refusals()
                # What was submitted is stored, and waits here.
                await self._hub.committer.drain()
                while self._waiting:
                    await self._write_waiting()
                await asyncio.to_thread(self._chain.keep_head)
            except (ClawError, OSError) as error:
                _log.warning("the audit chain is behind, and goes on at the next start: %s", error)
            finally:
                await asyncio.to_thread(self._chain.close)

    def metrics(self) -> list[Row]:
        lag = len(self._waiting)
        return [
            ("clawnet_audit_lines", "counter", "Lines of the audit chain.", self._chain.lines),
            ("clawnet_audit_waiting", "gauge", "Events that wait to be recorded.", lag),
        ]

    # --- calls --------------------------------------------------------------

    async def read(self, call: ReadAudit, caller: Caller) -> AuditPage:
        """Raises Forbidden, BadRequest."""
        need_account(caller)
        caller.need("events:read")
        if caller.role not in ("master", "warden"):
            raise Forbidden(
                "Only masters and wardens read the audit chain.",
                next="Ask a master of your world for what you need to know.",
            )
        if not 1 <= call.limit <= AUDIT_LIMIT_MAX:
            raise BadRequest(f"limit must be 1 to {AUDIT_LIMIT_MAX}.", next="Read several pages.")
        recent = self._chain.recent
        both = merge(
            list(recent.get("", ())), list(recent.get(caller.world, ())), key=lambda one: one[0]
        )
        found = [
            {"line": line, **record}
            for line, record in both
            if call.after is None or line > call.after
        ]
        page = found[-call.limit :] if call.after is None else found[: call.limit]
        return AuditPage(records=page, next=page[-1]["line"] if page else self._chain.lines)

    async def read_key(self, call: ReadAuditKey, caller: Caller) -> AuditKey:
        """For any account."""
        need_account(caller)
        key = self._key
        return AuditKey(algorithm="ed25519", public_key=key.public, fingerprint=key.fingerprint)

    # --- writing ------------------------------------------------------------

    async def tick(self) -> bool:
        """One round of run(); False if the disk did not take it."""
        # No deadline: whoever has it ends with its writes.
        async with self._writing:
            if self._is_closed:
                return True
            try:
                await self._tick()
            except OSError as error:
                _log.error("the audit chain cannot be written and waits: %s", error)
                return False
        return True

    async def _tick(self) -> None:
        """Raises OSError."""
        now_s = self._hub.clock.steady_s()
        if now_s - self._refusals_s >= REFUSALS_EVERY_S:
            self._refusals_s = now_s
            self._tell_refusals()
        for _ in range(PIECES_PER_ROUND):
            if self._is_behind:
                await self._catch_up()
            elif self._waiting:
                await self._write_waiting()
            else:
                break
        since, settings = self._chain.since_checkpoint, self._settings
        is_due = since > 0 and now_s - self._checkpoint_s >= settings.checkpoint_s
        if since >= settings.checkpoint_records or is_due:
            self._checkpoint_s = now_s
            await self._checkpoint()

    async def _write_waiting(self) -> None:
        events = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
        records = [record_of(event) for event in events if event.seq > self._chain.seq]
        try:
            await self._append(records)
        except OSError:
            # In their order before what came meanwhile, unless all of it is read from the log.
            if not self._is_behind:
                self._waiting.extendleft(reversed(events))
            raise

    async def _append(self, records: list[Record]) -> None:
        if records:
            await asyncio.to_thread(self._write, records)

    def _write(self, records: list[Record]) -> None:
        self._chain.append(records)
        self._chain.keep_head()

    async def _catch_up(self) -> None:
        """Record one piece of the log behind the cursor, of all worlds, by seq."""
        hub, after, target = self._hub, self._cursor, self._seen
        found: list[Stored] = []
        upto = target
        for world in sorted({MAIN} | {account.world for account in hub.directory.all_accounts()}):
            listed = hub.fanout.world(world).names_listed
            names = frozenset(name for name in listed if is_followed(name))

            def read(engine: Engine, world: str = world, names: frozenset[str] = names) -> Chunk:
                return engine.read_log(
                    world, names, after_seq=after, up_to_seq=target, limit=AT_ONCE
                )

            chunk = await hub.storage.read(read)
            if not chunk.is_end:
                upto = min(upto, chunk.seq)
            found += [_stored(line) for line in chunk.body.split(b"\n") if line]
        # While the log was read, or before that, some of it may have been recorded.
        behind = self._chain.seq
        wanted = [e for e in found if behind < e.seq <= upto and is_wanted(e.channel, e.type)]
        wanted.sort(key=lambda event: event.seq)
        await self._append([record_of(event) for event in wanted])
        self._cursor = upto
        if upto >= self._seen:
            # No await since: what is stored from here on waits in memory.
            self._is_behind = False

    async def _checkpoint(self) -> None:
        record = await asyncio.to_thread(self._chain.checkpoint)
        draft = self._hub.publishing.render(
            HUB,
            AUDIT_CHANNEL,
            type="audit.checkpoint",
            data=msgspec.json.encode(record).decode(),
        )
        self._submit(Unit(drafts=(draft,)))
        if self._settings.witness is not None:
            self._to_show = record
            if self._witnessing is None or self._witnessing.done():
                self._witnessing = self._hub.spawn(self._show_witness(self._settings.witness))

    async def _show_witness(self, url: str) -> None:
        """Send checkpoints elsewhere, one after the other. For one that does not arrive, or that
        a slow witness had no time for, the next stands."""
        # Loading it, and the system's certificates, takes time that the loop has not.
        client = await asyncio.to_thread(_new_client)
        async with client:
            while self._to_show is not None:
                record, self._to_show = self._to_show, None
                try:
                    async with asyncio.timeout(WITNESS_TIMEOUT_S):
                        # What it answers besides is not read.
                        async with client.stream("POST", url, json=record) as answer:
                            answer.raise_for_status()
                except Exception as error:  # whatever its URL and its answer do, the chain goes on
                    # No text of it: it may name the URL with what is secret in it.
                    _log.warning("the witness did not take a checkpoint: %s", type(error).__name__)

    def _tell_refusals(self) -> None:
        if self._hub.committer.held is not None:
            # Nothing of it would be stored; it is counted on until the hub takes publishes.
            return
        by_world: dict[str, list[Unit]] = {}
        for refusal, count in self._hub.refusals.take().items():
            voice = msgspec.structs.replace(HUB, world=refusal.world)
            data: dict[str, str | int | None] = {"account": refusal.account, "what": refusal.what}
            is_login = refusal.code == LOGIN
            if not is_login:
                data["code"] = refusal.code
            data["count"] = count
            draft = self._hub.publishing.render(
                voice,
                AUDIT_CHANNEL,
                type="audit.login" if is_login else "audit.refused",
                data=msgspec.json.encode(data).decode(),
            )
            by_world.setdefault(refusal.world, []).append(Unit(drafts=(draft,)))
        for units in by_world.values():
            for unit in units:
                self._submit(unit)

    def _submit(self, unit: Unit) -> None:
        try:
            self._hub.committer.submit(unit, lambda _: None)
        except ClawError as error:
            # Storage is full or failed: the chain itself has it, or it is lost with the rest.
            _log.warning("an event of the audit is not stored: %s", error.message)


def _new_client() -> httpx.AsyncClient:
    import httpx

    return httpx.AsyncClient(timeout=WITNESS_TIMEOUT_S, follow_redirects=False)


def _stored(line: bytes) -> Stored:
    """An event read from the log, as it was given to stored()."""
    event = msgspec.json.decode(line, type=Event)
    head = '"imported":' if event.imported is not None else ""
    return Stored(
        seq=event.seq,
        world=event.world,
        channel=event.channel,
        offset=event.offset,
        epoch=event.epoch,
        id=event.id,
        ts_ms=time_ms(event.ts),
        type=event.type,
        actor_id=event.actor.id,
        head=head,
        data=bytes(event.data).decode(),
    )
