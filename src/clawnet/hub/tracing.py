"""Answers what happened because of what: a chain of events, as far as the caller may read it.

Each event is asked for its rights as an event by its id is. What may not be read leaves no mark:
it is not counted, it joins nothing, and a cause that is hidden looks like one that is gone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.tracing import TRACE_MAX_BYTES, TRACE_MAX_EVENTS, ReadTrace, Trace
from clawnet.core.errors import BadRequest, NotFound
from clawnet.core.events import CORRELATION_MAX_CHARS
from clawnet.core.ids import seq_from_id
from clawnet.core.rights import may_read_event
from clawnet.core.trace import (
    TRACEPARENT_MAX_CHARS,
    Link,
    correlation_key,
    trace_id_from,
    trace_id_of,
    trace_key,
    tree,
)

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

ANCESTORS_MAX = 100
CHUNK_EVENTS = 200
"""So many events are judged in one turn of the loop: a millisecond."""

SCAN_TOGETHER_EVENTS = 20_000
"""Reads that look at more events of a chain than this go on one at a time."""


class _Link(Link, frozen=True, kw_only=True):
    traceparent: str | None = None


class _Chain:
    """What was found so far."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.links: dict[int, _Link] = {}
        self.bodies: dict[int, bytes] = {}
        self.size = 0
        self.is_cut = False

    def add(self, body: bytes) -> _Link | None:
        """Take an event that may be read; None if there is no more room."""
        link = _decoder.decode(body)
        if link.seq not in self.links:
            if len(self.links) >= TRACE_MAX_EVENTS or self.size + len(body) > TRACE_MAX_BYTES:
                self.is_cut = True
                return None
            self.links[link.seq] = link
            self.bodies[link.seq] = body
            self.size += len(body)
        return link


class Tracing:
    """Handler of core.calls.tracing."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._long = asyncio.Lock()

    def register(self) -> None:
        self._hub.handle(ReadTrace, self.trace)

    async def trace(self, call: ReadTrace, caller: Caller) -> Trace:
        """Raises NotFound, BadRequest."""
        if not call.id or len(call.id) > max(TRACEPARENT_MAX_CHARS, CORRELATION_MAX_CHARS):
            raise BadRequest(
                "This is no id of an event, a chain or a trace.",
                next="Give an event's id, a correlation id, a trace id or a traceparent.",
            )
        chain = _Chain(caller)
        rights_at = self._hub.directory.version
        for key in await self._keys(chain, call.id):
            await self._follow(chain, key)
        await self._climb(chain)
        # No await from here on. Rights may have gone while this read on.
        chain.caller = self._hub.directory.refresh(chain.caller)
        if self._hub.directory.version != rights_at:
            self._drop_revoked(chain)
        if not chain.links:
            raise NotFound(
                f"There is no trace of {ascii(call.id[:80])} here.",
                next="Look with claw history for the event, and ask for its id.",
            )
        branches = tree(list(chain.links.values()))
        absent = [branch.absent for branch in branches if branch.absent is not None]
        seqs = sorted(chain.links)
        return Trace(
            id=call.id,
            body=b"\n".join(chain.bodies[seq] for seq in seqs),
            count=len(seqs),
            roots=[chain.links[branch.seq].id for branch in branches if not branch.depth],
            absent=list(dict.fromkeys(absent)),
            is_cut=chain.is_cut,
        )

    async def _keys(self, chain: _Chain, id: str) -> list[str]:
        """Under which keys the chain is to be looked for; an event by its id is taken first."""
        keys = {correlation_key(id)} if len(id) <= CORRELATION_MAX_CHARS else set()
        trace_id = trace_id_from(id)
        if trace_id is not None:
            keys.add(trace_key(trace_id))
        if seq_from_id(id) is not None:
            link = await self._by_id(chain, id)
            if link is not None:
                if link.correlation_id is not None:
                    keys.add(correlation_key(link.correlation_id))
                if link.traceparent is not None:
                    keys.add(trace_key(trace_id_of(link.traceparent)))
        return sorted(keys)

    async def _follow(self, chain: _Chain, key: str) -> None:
        """Take the readable events of a key, oldest first.

        How far it looks does not depend on what is hidden, or that would show: to the newest
        event of its beginning, so its work is bounded by what the log retains of the chain and by
        nothing less. It is done in chunks, and of long ones one at a time.
        """
        end = await self._hub.storage.read(lambda log: log.last_seq)
        after = await self._look(chain, key, after=0, end=end, most=SCAN_TOGETHER_EVENTS)
        if after is not None:
            async with self._long:
                await self._look(chain, key, after=after, end=end, most=None)

    async def _look(
        self, chain: _Chain, key: str, *, after: int, end: int, most: int | None
    ) -> int | None:
        """Look at `most` events; the seq to go on from, None if there is no more to do."""
        hub, world = self._hub, chain.caller.world
        looked = 0
        while True:
            found = await hub.storage.read(
                lambda log: log.correlated(world, key, after_seq=after, limit=CHUNK_EVENTS)  # noqa: B023
            )
            await asyncio.sleep(0)
            chain.caller = hub.directory.refresh(chain.caller)
            for body in found.body.split(b"\n") if found.count else ():
                if self._may_read(chain.caller, body) and chain.add(body) is None:
                    return None
            if found.is_end or found.seq >= end:
                return None
            after = found.seq
            looked += found.count
            if most is not None and looked >= most:
                return after

    async def _climb(self, chain: _Chain) -> None:
        """Take the causes that events name and that are not among them, and theirs."""
        asked: set[str] = set()
        known = {link.id for link in chain.links.values()}
        waiting = [link.causation_id for link in chain.links.values()]
        climbed = 0
        while waiting:
            cause = waiting.pop()
            if cause is None or cause in known or cause in asked:
                continue
            asked.add(cause)
            climbed += 1
            if climbed > ANCESTORS_MAX:
                chain.is_cut = True
                return
            link = await self._by_id(chain, cause)
            if link is not None:
                known.add(link.id)
                waiting.append(link.causation_id)

    async def _by_id(self, chain: _Chain, id: str) -> _Link | None:
        """The event of an id, if there is one and the caller may read it."""
        seq = seq_from_id(id)
        if seq is None:
            return None
        world = chain.caller.world
        body = await self._hub.storage.read(lambda log: log.get(world, seq))
        chain.caller = self._hub.directory.refresh(chain.caller)
        if body is None or not self._may_read(chain.caller, body):
            return None
        if _decoder.decode(body).id != id:
            return None
        return chain.add(body)

    def _drop_revoked(self, chain: _Chain) -> None:
        """Nothing of what may not be read any more is given."""
        for seq, body in list(chain.bodies.items()):
            if not self._may_read(chain.caller, body):
                del chain.bodies[seq], chain.links[seq]

    def _may_read(self, caller: Caller, body: bytes) -> bool:
        return may_read_event(caller, body, self._hub.directory)


_decoder = msgspec.json.Decoder(_Link)
