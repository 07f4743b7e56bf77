"""At least once: what an account was given and did not acknowledge is given again.

Nothing is kept of a single delivery. Once a second each connection looks at the channels on
which something new was written: what lies between the account's floor and the channel's head is
a batch, which is read again from the log and written again after 2, 4, 8, 16 and 30 s, without
what was acknowledged meanwhile; then it waits for the account's next connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from clawnet.core.callers import Caller
from clawnet.core.channels import LOBBY, parse
from clawnet.core.chat import is_chat
from clawnet.core.cursors import Cursor
from clawnet.core.errors import ClawError
from clawnet.core.events import seq_of
from clawnet.core.marks import Mark, Marks
from clawnet.core.positions import EpochStart, branch_of, resolve
from clawnet.core.rights import Allowed, Verb, decide
from clawnet.doors.socketio.acks import Numbers
from clawnet.doors.socketio.shapes_v2 import Shape2, decode_native, is_acknowledged
from clawnet.hub.hub import Hub
from clawnet.hub.presence import CHANNEL as PRESENCE_CHANNEL
from clawnet.ports.log import ChannelHead, Engine

if TYPE_CHECKING:
    from clawnet.doors.socketio.conversation import Conversation, Conversations

SWEEP_EVERY_S = 1.0
SLACK_S = SWEEP_EVERY_S / 2
"""Rounds come a moment early or late; without it a batch could miss the one it is meant for."""
AGAIN_AFTER_S = (2.0, 4.0, 8.0, 16.0, 30.0)
BATCHES_MAX = 64
"""Of one channel; more that is new joins the newest."""
CHUNK_EVENTS = 200
CHANNELS_MAX = 4_000
"""So many channels of an account are looked at as it connects."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Batch:
    """Offsets of one channel that were written about the same time."""

    first: int
    last: int
    due_s: float
    attempt: int = 0
    reached: int = 0
    """Up to where this attempt has come, if the client could not take all at once."""


class _Start(NamedTuple):
    """From what is decided where a channel begins: with `at`, there; else behind its mark."""

    head: ChannelHead
    mark: Mark
    at: int | None


class Resending:
    """One for a door: the loop, and what all its v2 connections share."""

    def __init__(self, door: Conversations) -> None:
        self.hub: Hub = door.hub
        self.numbers = Numbers(self.hub.randomness)
        self.shape = Shape2(self.hub, self.numbers)
        self.backlogs: dict[tuple[str, str], Backlog] = {}
        """Of the agents that are connected."""
        self._direct: dict[str, _Direct] = {}
        self.hub.spawn(self._run())

    def direct(self, world: str, account: str) -> set[str]:
        """The direct channels of an account that were ever used."""
        known = self._direct.get(world)
        if known is None:
            known = self._direct[world] = _Direct()
        return known.of(self.hub.fanout.world(world).names_listed, account)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            try:
                self.sweep()
            except Exception:  # a defect in one round must not end sending again
                _log.exception("looking for what is not acknowledged failed")

    def sweep(self) -> None:
        """One round."""
        fresh = list(self.shape.fresh)
        self.shape.fresh.clear()
        for world, channel in fresh:
            for backlog in self._readers(world, channel):
                backlog.fresh.add(channel)
        for backlog in self.backlogs.values():
            backlog.sweep()

    def _readers(self, world: str, channel: str) -> list[Backlog]:
        place = parse(channel)
        if channel == LOBBY:
            return [b for (of, _), b in self.backlogs.items() if of == world]
        accounts = place.peers or tuple(self.hub.directory.members(world, channel))
        found = [self.backlogs.get((world, account)) for account in accounts]
        return [backlog for backlog in found if backlog is not None]


class Backlog:
    """What one agent's connection was given and has not acknowledged."""

    def __init__(self, shared: Resending, conversation: Conversation, marks: Marks) -> None:
        self.marks = marks
        self.fresh: set[str] = set()
        """Channels to look at."""
        self._shared = shared
        self._hub = shared.hub
        self._conversation = conversation
        self._batches: dict[str, deque[Batch]] = {}
        self._seen: dict[str, int] = {}
        """Up to where each channel is in batches, or was given up."""
        self._task: asyncio.Task[None] | None = None

    # --- acknowledging ------------------------------------------------------

    def acknowledge(self, channel: str, offset: int) -> None:
        """One message is handled. Nothing happens for what the account may not read."""
        if self._marked(channel):
            epoch = self.marks.by_channel[channel].epoch
            self.marks.take(channel, offset, epoch=epoch)

    def acknowledge_to(self, channel: str, offset: int) -> None:
        """Everything up to an offset is handled."""
        head = self._head(channel)
        if head is not None and self._marked(channel):
            self.marks.put(channel, min(offset, head.last), epoch=head.epoch)

    def lost(self, channel: str, first: int, last: int) -> None:
        """These offsets are not there any more."""
        floor = self.marks.floor(channel)
        # What is left before them may wait for its acknowledgement.
        if floor is not None and first - 1 <= floor < last:
            self.acknowledge_to(channel, last)

    # --- where a connection begins ------------------------------------------

    async def begin(self, since: Cursor | None) -> tuple[Cursor | None, dict[str, int]]:
        """Where to follow from, and up to where each channel is not shown again.

        With `since`, what lies before it counts as acknowledged.
        """
        hub, caller = self._hub, self._conversation.caller
        heads = {head.name: head for head in map(self._head, self._names(caller)) if head}
        epochs, last_seq = hub.log_epochs, hub.fanout.position
        at = None if since is None else resolve(since, epochs=epochs, last_seq=last_seq).seq
        # Decided here: the log is read elsewhere, perhaps on a thread.
        starts = [self._started(caller, head, at) for head in heads.values()]
        found = await hub.storage.read(
            lambda log: [_floor(log, start, epochs=epochs) for start in starts]
        )
        firsts: list[int] = []
        floors: dict[str, int] = {}
        for head, (floor, first_seq) in zip(heads.values(), found, strict=True):
            self.marks.put(head.name, floor, epoch=head.epoch)
            self._seen[head.name] = floor
            floors[head.name] = floor
            if head.last > floor:
                self.fresh.add(head.name)
            if first_seq:
                firsts.append(first_seq)
        for name, mark in list(self.marks.by_channel.items()):
            if name not in heads and mark.epoch.partition(".")[0] not in ("", hub.log_epoch):
                # Its log is gone: it says nothing of what will stand at its offsets.
                self.marks.put(name, 0, epoch="")
        if LOBBY not in heads and LOBBY not in self.marks.by_channel:
            # What is said there first, it is told when it comes again.
            self.marks.put(LOBBY, 0, epoch="")
        # Who is there is said anew as the connection begins. So is work, but for `since`, which
        # tells what became of it.
        anew = [PRESENCE_CHANNEL]
        if since is None:
            anew += [f"agent.{caller.account}.tasks", "system.tasks"]
        others = {name: other.last for name in anew if (other := self._head(name)) is not None}
        if since is not None:
            return since, others
        floors |= others
        if not firsts:
            return None, {}
        return Cursor(hub.log_epoch, min(firsts) - 1), floors

    def _started(self, caller: Caller, head: ChannelHead, at: int | None) -> _Start:
        mark = self.marks.by_channel.get(head.name)
        if mark is None:
            floor = head.last if head.name == LOBBY else self._opened(caller, head.name)
            mark = Mark(head.epoch, floor)
        return _Start(head, mark, at)

    def _names(self, caller: Caller) -> list[str]:
        """The channels of the chat that are told again: the lobby, one's rooms and direct ones."""
        account = caller.account or ""
        directory = self._hub.directory
        rooms = [
            grant.channel
            for grant in directory.grants_of(caller.world, account)
            if grant.channel.startswith("room.") and "*" not in grant.channel
        ]
        names = [LOBBY, *rooms, *self._shared.direct(caller.world, account)]
        return [name for name in names if self._may_read(caller, name)][:CHANNELS_MAX]

    # --- giving again -------------------------------------------------------

    def sweep(self) -> None:
        """Put what is new into batches, and give again what is due."""
        session = self._conversation.session
        if not self._conversation.is_open or session is None:
            return
        if session.is_paused or not session.has_cursor:
            # It has not been given all that is there, so nothing is there to give again.
            return
        now_s = self._hub.clock.steady_s()
        for channel in list(self.fresh):
            head = self._head(channel)
            if head is not None and head.last_seq > self._hub.fanout.position:
                continue
            self.fresh.discard(channel)
            if head is not None and self._marked(channel):
                self._collect(channel, head.last, now_s)
        if self._task is None and any(
            batches[0].due_s <= now_s for batches in self._batches.values()
        ):
            self._task = self._hub.spawn(self._give_again(now_s))

    def _collect(self, channel: str, last: int, now_s: float) -> None:
        floor = self.marks.floor(channel) or 0
        first = max(floor, self._seen.get(channel, floor)) + 1
        self._seen[channel] = max(last, first - 1)
        if first > last:
            return
        batches = self._batches.setdefault(channel, deque())
        if len(batches) >= BATCHES_MAX:
            batches[-1].last = last
            return
        batches.append(Batch(first, last, now_s + AGAIN_AFTER_S[0] - SLACK_S))

    async def _give_again(self, now_s: float) -> None:
        try:
            for channel in list(self._batches):
                batches = self._batches[channel]
                for batch in [one for one in batches if one.due_s <= now_s]:
                    is_kept = await self._again(channel, batch)
                    if not is_kept and batch in batches:
                        batches.remove(batch)
                if not batches:
                    self._batches.pop(channel, None)
        except ClawError as error:
            _log.info("what is not acknowledged is given again later: %s", error.message)
        except Exception:  # the top of a task
            _log.exception("giving again failed")
        finally:
            self._task = None

    async def _again(self, channel: str, batch: Batch) -> bool:
        """Write what of a batch is not acknowledged; False if that is the end of it."""
        hub, conversation = self._hub, self._conversation
        after = max(self.marks.floor(channel) or 0, batch.first - 1, batch.reached)
        while after < batch.last:
            world = conversation.world
            chunk = await hub.storage.read(
                lambda log, world=world, after=after: log.read_channel(  # type: ignore[misc]
                    world, channel, after=after, limit=min(CHUNK_EVENTS, batch.last - after)
                )
            )
            # From here to the write there is no await: what was revoked meanwhile is not written.
            session = conversation.session
            if not conversation.is_open or session is None:
                return False
            if session.is_paused or not session.has_cursor:
                batch.due_s = hub.clock.steady_s() + SLACK_S
                return True
            if not self._may_read(conversation.caller, channel):
                self._forget(channel)
                return False
            opened = self._opened(conversation.caller, channel)
            for missing in chunk.missing:
                self.lost(channel, missing.first, min(missing.last, batch.last))
            frames = self._unacknowledged(channel, chunk.body, opened)
            if frames:
                session.outlet.write(frames)
                session.given(channel)
            if chunk.is_end:
                break
            after = batch.reached = max(chunk.offset, after + 1)
        if (self.marks.floor(channel) or 0) >= batch.last:
            return False
        batch.attempt += 1
        batch.reached = 0
        if batch.attempt >= len(AGAIN_AFTER_S):
            return False
        batch.due_s = hub.clock.steady_s() + AGAIN_AFTER_S[batch.attempt] - SLACK_S
        return True

    def _unacknowledged(self, channel: str, body: bytes, opened: int) -> bytes:
        """The frames of what needs an acknowledgement and has none; the rest counts as handled."""
        account = self._conversation.account
        parts: list[bytes] = []
        for line in body.split(b"\n") if body else ():
            event = decode_native(line)
            is_due = is_acknowledged(event.type) and event.actor.id != account
            if not is_due or event.offset <= opened:
                self.marks.take(channel, event.offset, epoch=event.epoch)
            elif not self.marks.has(channel, event.offset):
                parts.append(self._shared.shape.replayed.frame(line, None))
        return b"".join(parts)

    # --- inside -------------------------------------------------------------

    def _head(self, channel: str) -> ChannelHead | None:
        return self._hub.storage.engine.channel(self._conversation.world, channel)

    def _marked(self, channel: str) -> bool:
        """Whether the channel has a mark, giving it one if it is the account's to read."""
        mark = self.marks.by_channel.get(channel)
        if mark is not None and mark.epoch:
            return True
        caller = self._conversation.caller
        head = self._head(channel)
        if head is None or not is_chat(channel) or not self._may_read(caller, channel):
            return False
        floor = self._opened(caller, channel) if mark is None else mark.floor
        self.marks.put(channel, floor, epoch=head.epoch)
        return True

    def _may_read(self, caller: Caller, channel: str) -> bool:
        return isinstance(
            decide(caller, Verb.SUBSCRIBE, parse(channel), self._hub.directory), Allowed
        )

    def _opened(self, caller: Caller, channel: str) -> int:
        """Up to which offset the channel's past is hidden from the account."""
        decision = decide(caller, Verb.READ, parse(channel), self._hub.directory)
        return max(decision.from_offset - 1, 0) if isinstance(decision, Allowed) else 0

    def _forget(self, channel: str) -> None:
        self._batches.pop(channel, None)
        self._seen.pop(channel, None)
        self.fresh.discard(channel)


class _Direct:
    """The direct channels of a world by account; names only ever come."""

    def __init__(self) -> None:
        self._count = 0
        self._of: dict[str, set[str]] = {}

    def of(self, names: list[str], account: str) -> set[str]:
        for name in names[self._count :]:
            if name.startswith("dm."):
                for peer in name.split(".")[1:]:
                    self._of.setdefault(peer, set()).add(name)
        self._count = len(names)
        return self._of.get(account, set())


def _floor(log: Engine, start: _Start, *, epochs: Sequence[EpochStart]) -> tuple[int, int]:
    """Up to where a channel is acknowledged, and the seq of what comes first behind it."""
    head, mark, at = start
    if at is not None:
        floor = head.last if head.last_seq <= at else log.offset_at(head.world, head.name, at)
        return floor, 0
    floor = min(mark.floor, head.last)
    if mark.epoch != head.epoch:
        # The log was put back to a backup: what was acknowledged behind the branch is gone.
        epoch, _, incarnation = mark.epoch.partition(".")
        branch = 0
        if incarnation == head.epoch.partition(".")[2]:
            branch = branch_of(epoch, epochs=epochs, last_seq=head.last_seq)
        floor = min(floor, log.offset_at(head.world, head.name, branch))
    if floor == head.last:
        return floor, 0
    body = log.read_channel(head.world, head.name, after=floor, limit=1).body
    return floor, seq_of(body) if body else 0
