"""The loop guard: keeps two agents that answer each other from doing so for ever.

It knows the newest messages, counts those between one pair that name another's as their cause, by
whatever door they come, and refuses more for a while when there were too many. Answers to an
automatic acknowledgement are refused altogether.

Many agents name no causes. So between two agents alone, in their direct messages, whoever writes
after the other answers it. That is counted of every message there, and refused at the chat doors
(check()); a plain publish that names no cause is not looked at before it is stored.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Set
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.publishing import Publish
from clawnet.core.channels import parse
from clawnet.core.chat import is_chat
from clawnet.core.errors import ClawError, RateLimited, Refused
from clawnet.core.events import CHAT_MESSAGE, Draft, Stored
from clawnet.core.ids import seq_from_id
from clawnet.core.rights import Allowed, Verb, decide
from clawnet.core.units import Committed, Delete, Outcome, Put, Unit
from clawnet.features.chat.names import reader_of

if TYPE_CHECKING:
    from clawnet.features.chat.settings import ChatSettings
    from clawnet.hub.hub import Hub

RECENT_MAX = 65_536
"""So many of the newest messages can be answered under the guard's eyes."""
PAIRS_MAX = 10_000
DIRECT_MAX = 10_000
HOPS_MAX = 1_000_000

_Pair = tuple[str, str, str]
_CAUSE = re.compile(r'"causation_id":"([^"\\]*)"')


class Said(NamedTuple):
    """What the guard keeps of a message."""

    id: str
    world: str
    channel: str
    offset: int
    actor_id: str
    hops: int
    is_auto: bool


class _Talk:
    """What two said to each other lately; times by the steady clock."""

    __slots__ = ("pause_until_s", "times")

    def __init__(self) -> None:
        self.times: deque[float] = deque()
        self.pause_until_s = 0.0


class _Marks(msgspec.Struct):
    hops: object = 0
    auto: object = False


_marks = msgspec.json.Decoder(_Marks)


class Guard:
    """Implements clawnet.hub.publishing.Companion."""

    def __init__(self, hub: Hub, settings: ChatSettings) -> None:
        self._hub = hub
        self._settings = settings
        self._recent: dict[int, tuple[str, str, str, int, str, int, bool]] = {}
        self._talks: OrderedDict[_Pair, _Talk] = OrderedDict()
        self._on_way: dict[int, tuple[_Talk, float]] = {}
        """By the draft's id(): it lives until settled() was called."""
        self._last: OrderedDict[tuple[str, str], str] = OrderedDict()
        """Who wrote last, by direct channel."""

    def said(self, messages: list[Stored]) -> None:
        """Remember messages, for those that name them as their cause."""
        recent = self._recent
        for event in messages:
            hops, is_auto = marks_of(event.data)
            # A plain tuple: a Said for each message would be felt.
            world, channel, own = event.world, event.channel, event.actor_id
            recent[event.seq] = (event.id, world, channel, event.offset, own, hops, is_auto)
            if channel.startswith("dm.") and '"imported":' not in event.head:
                self._follow(event)
        while len(recent) > RECENT_MAX:
            del recent[next(iter(recent))]

    def cause(self, world: str, id: str | None, *, by: str) -> Said | None:
        """A message of the world that is remembered and that the account `by` may read: what it
        may not is none to it, or its hop count would tell that there is such a message."""
        seq = None if id is None else seq_from_id(id)
        found = None if seq is None else self._recent.get(seq)
        if found is None or found[:2] != (id, world):
            return None
        said = Said(*found)
        account = self._hub.directory.account(world, by)
        if account is None:
            return None
        # Whatever its token: one that only writes is no way round the guard.
        place = parse(said.channel)
        verdict = decide(reader_of(account), Verb.READ, place, self._hub.directory)
        is_open = isinstance(verdict, Allowed) and said.offset >= verdict.from_offset
        return said if is_open else None

    def check(self, world: str, channel: str, own: str, causation_id: str | None) -> None:
        """Raises RateLimited for a direct message that answers, while the two are to pause."""
        pair = self._answering(world, channel, own)
        if pair is None or self._is_caused(pair, own, causation_id):
            return
        self._admit(self._talk(pair), self._hub.clock.steady_s(), channel, pair)

    def _follow(self, event: Stored) -> None:
        """Count a direct message that follows one of the other's."""
        world, channel, own = event.world, event.channel, event.actor_id
        if own not in (parse(channel).peers or ()):
            # The hub's own word between two messages does not make the second one news.
            return
        pair = self._answering(world, channel, own)
        self._last[world, channel] = own
        self._last.move_to_end((world, channel))
        if len(self._last) > DIRECT_MAX:
            self._last.popitem(last=False)
        if pair is None:
            return
        named = _CAUSE.search(event.head)
        if self._is_caused(pair, own, named[1] if named else None):
            return
        talk = self._talk(pair)
        if len(talk.times) >= self._settings.pair_messages_max:
            talk.times.popleft()
        talk.times.append(self._hub.clock.steady_s())

    def _answering(self, world: str, channel: str, own: str) -> _Pair | None:
        """The two agents of a direct channel, if it was the other that wrote there last."""
        peers = parse(channel).peers
        last = self._last.get((world, channel))
        if peers is None or own not in peers or last in (None, own):
            return None
        if not all(self.is_agent(world, peer) for peer in peers):
            return None
        return (world, *peers)

    def _is_caused(self, pair: _Pair, own: str, causation_id: str | None) -> bool:
        """Whether accompany() counts it for these two, since it names a message of the other."""
        cause = self.cause(pair[0], causation_id, by=own)
        return cause is not None and cause.actor_id != own and cause.actor_id in pair[1:]

    def is_agent(self, world: str, account: str) -> bool:
        """Whether nobody stands behind an account to notice that it goes in circles. Who an
        application's token names (`ext`) counts as a person."""
        found = self._hub.directory.account(world, account)
        return found is not None and found.kind in ("agent", "service")

    # --- Companion ----------------------------------------------------------

    def accompany(
        self, caller: Caller, call: Publish, draft: Draft, removed: Set[str]
    ) -> tuple[Put | Delete, ...] | None:
        """Raises Refused for an answer to an automatic one, RateLimited while the two pause."""
        if call.causation_id is None or not is_chat(draft.channel):
            return None
        own = draft.actor_id
        if caller.is_hub or not self.is_agent(draft.world, own):
            return None
        cause = self.cause(draft.world, call.causation_id, by=own)
        if cause is None or cause.actor_id == own:
            return None
        if cause.is_auto:
            raise Refused(
                "An automatic acknowledgement is not answered.",
                next="Say nothing; the other side waits for no answer.",
                reason="automatic",
            )
        if not self.is_agent(draft.world, cause.actor_id):
            return None
        first, second = sorted((own, cause.actor_id))
        pair = (draft.world, first, second)
        talk = self._talk(pair)
        now_s = self._hub.clock.steady_s()
        self._admit(talk, now_s, draft.channel, pair)
        talk.times.append(now_s)
        self._on_way[id(draft)] = (talk, now_s)
        return ()

    def settled(self, call: Publish, draft: Draft, outcome: Outcome) -> None:
        """What was refused or said before does not count."""
        talk, at_s = self._on_way.pop(id(draft))
        is_new = isinstance(outcome, Committed) and isinstance(outcome.events[0], Stored)
        if not is_new and at_s in talk.times:
            talk.times.remove(at_s)

    # --- inside -------------------------------------------------------------

    def _talk(self, pair: _Pair) -> _Talk:
        talk = self._talks.pop(pair, None) or _Talk()
        self._talks[pair] = talk
        if len(self._talks) > PAIRS_MAX:
            self._talks.popitem(last=False)
        return talk

    def _admit(self, talk: _Talk, now_s: float, channel: str, pair: _Pair) -> None:
        """Raises RateLimited, and begins a pause, if the two have no answer left."""
        settings = self._settings
        if now_s < talk.pause_until_s:
            raise _paused(talk.pause_until_s - now_s)
        while talk.times and talk.times[0] <= now_s - settings.pair_window_s:
            talk.times.popleft()
        if len(talk.times) < settings.pair_messages_max:
            return
        talk.times.clear()
        talk.pause_until_s = now_s + settings.pair_pause_s
        self._say(channel, pair)
        raise _paused(settings.pair_pause_s)

    def _say(self, channel: str, pair: _Pair) -> None:
        settings = self._settings
        world, first, second = pair
        text = (
            f"{first} and {second} answered each other {settings.pair_messages_max} times within"
            f" {settings.pair_window_s:g} s; both pause for {settings.pair_pause_s:g} s."
        )
        data = {"text": text, "auto": True, "paused": [first, second]}
        voice = msgspec.structs.replace(HUB, world=world)
        said = self._hub.publishing.render(
            voice, channel, type=CHAT_MESSAGE, data=msgspec.json.encode(data).decode()
        )
        try:
            self._hub.committer.submit(Unit(drafts=(said,)), lambda _: None)
        except ClawError:
            # Storage is full or failed: the pause holds all the same.
            return


def _paused(left_s: float) -> RateLimited:
    return RateLimited(
        "You two answer each other too fast; both pause.",
        next="Wait that long, then speak only with news; a person can go on at any time.",
        retry_after_s=left_s,
        reason="loop",
    )


def marks_of(data: str) -> tuple[int, bool]:
    """The hop count of a message's data, and whether it is an automatic acknowledgement."""
    if '"hops"' not in data and '"auto"' not in data:
        # Nearly all messages: decoding each would be felt.
        return 0, False
    try:
        marks = _marks.decode(data)
    except msgspec.DecodeError:
        # Data that is no object, and a `hops` that is none of ours, say nothing.
        return 0, False
    hops = marks.hops if type(marks.hops) is int and 0 <= marks.hops < HOPS_MAX else 0
    return hops, marks.auto is True
