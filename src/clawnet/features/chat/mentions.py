"""Who is named in a message finds it in its inbox, once, also if the hub stops between the two.

What is stored is followed by a durable cursor that is written behind; after a stop what lies
behind it is gone through again, and each mention has a key, so it is told once all the same.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from clawnet.core.callers import HUB
from clawnet.core.channels import parse
from clawnet.core.chat import is_chat
from clawnet.core.errors import ClawError
from clawnet.core.events import CHAT_MESSAGE, Draft, Event, Stored
from clawnet.core.positions import branch_of
from clawnet.core.rights import Allowed, Verb, decide
from clawnet.core.units import Put, Unit
from clawnet.features.chat.names import reader_of

if TYPE_CHECKING:
    from clawnet.features.chat.names import Names
    from clawnet.hub.hub import Hub

KEY = "chat/mentions"
SAVE_EVERY_S = 60.0

_log = logging.getLogger(__name__)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """As stored: up to which event of which log all mentions were told."""

    epoch: str
    seq: int


class _Text(msgspec.Struct):
    text: str


_text = msgspec.json.Decoder(_Text)


class Mentions:
    """Follows what is stored."""

    def __init__(self, hub: Hub, names: Names) -> None:
        self._hub = hub
        self._names = names
        self._behind: int | None = None
        """From which seq on mentions are still to be told; None: those of this run all are."""
        self._saved = 0

    async def load(self) -> None:
        """Find out what was left."""
        hub = self._hub
        self._saved = hub.storage.engine.last_seq
        entries = await hub.storage.read(lambda engine: engine.scan("chat"))
        for entry in entries:
            if entry.key != KEY:
                continue
            place = msgspec.json.decode(entry.value, type=Place)
            last = self._saved
            # Positions behind the branch to a later epoch mean other events by now.
            branch = branch_of(place.epoch, epochs=hub.log_epochs, last_seq=last)
            reached = min(place.seq, branch)
            if branch and reached < last:
                self._behind = max(reached + 1, hub.storage.engine.first_seq)
                self._saved = reached

    async def run(self) -> None:
        """Tell what was left, and note now and then how far this has come."""
        while True:
            await self._catch_up()
            await self._save()
            await asyncio.sleep(SAVE_EVERY_S)

    async def flush(self) -> None:
        """Note how far this has come; the hub closes."""
        await self._save()

    def said(self, messages: list[Stored]) -> None:
        """Tell whom these messages name."""
        for event in messages:
            if "@" in event.data and '"imported":' not in event.head:
                said = (event.world, event.channel, event.offset, event.id, event.actor_id)
                self._tell(event.seq, said, event.data)

    def _tell(self, seq: int, said: tuple[str, str, int, str, str], data: str) -> None:
        drafts = self._drafts(*said, data)
        if not drafts:
            return
        try:
            self._hub.committer.submit(Unit(drafts=tuple(drafts)), lambda _: None)
        except ClawError:
            # The queue is full: it is gone through again.
            self._behind = seq if self._behind is None else min(self._behind, seq)

    def _drafts(
        self, world: str, channel: str, offset: int, id: str, sender: str, data: str
    ) -> list[Draft]:
        try:
            text = _text.decode(data).text
        except msgspec.DecodeError:
            # A plain publish may say anything.
            return []
        directory = self._hub.directory
        found = []
        voice = msgspec.structs.replace(HUB, world=world)
        told = {"event_id": id, "channel": channel, "offset": offset, "from": sender}
        for account in self._names.mentioned(world, text):
            if account.id == sender or directory.is_blocked(world, account.id, sender):
                continue
            decision = decide(reader_of(account), Verb.READ, parse(channel), directory)
            if isinstance(decision, Allowed) and offset >= decision.from_offset:
                found.append(
                    self._hub.publishing.render(
                        voice,
                        f"agent.{account.id}.inbox",
                        type="chat.mentioned",
                        data=msgspec.json.encode(told).decode(),
                        dedupe_key=f"mention:{id}",
                        causation_id=id,
                    )
                )
        return found

    async def _catch_up(self) -> None:
        """Go through what was left, world by world."""
        if self._behind is None:
            return
        start, self._behind = self._behind, None
        hub = self._hub
        end = hub.fanout.position
        worlds = {account.world for account in hub.directory.all_accounts()}
        for world in sorted(worlds):
            after = start - 1
            while after < end:
                names = frozenset(n for n in hub.fanout.world(world).names_listed if is_chat(n))
                chunk = await hub.storage.read(
                    lambda log, w=world, a=after, n=names: log.read_log(  # type: ignore[misc]
                        w, n, after_seq=a, up_to_seq=end, limit=500
                    )
                )
                for line in chunk.body.split(b"\n") if chunk.count else ():
                    event = msgspec.json.decode(line, type=Event)
                    if event.type == CHAT_MESSAGE and event.imported is None:
                        said = (world, event.channel, event.offset, event.id, event.actor.id)
                        self._tell(event.seq, said, bytes(event.data).decode())
                after = chunk.seq
                if chunk.is_end:
                    break
                await asyncio.sleep(0)

    async def _save(self) -> None:
        hub = self._hub
        seq = hub.fanout.position if self._behind is None else self._behind - 1
        # A note of its own moves the log no further, so an idle hub writes nothing.
        if seq <= self._saved:
            return
        place = Place(epoch=hub.log_epoch, seq=seq)
        change = Put(KEY, msgspec.json.encode(place).decode())
        try:
            await hub.committer.commit(Unit(changes=(change,)))
        except ClawError as error:
            _log.warning("how far mentions were told is not stored: %s", error.message)
            return
        self._saved = seq
