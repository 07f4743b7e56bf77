"""The publish path: limits → rights → dedupe → interceptors → rights again → commit queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import msgspec

from clawnet.core import events, payloads
from clawnet.core.callers import Caller
from clawnet.core.calls.publishing import (
    BATCH_MAX_EVENTS,
    DoorPublish,
    Publish,
    PublishBatch,
    Published,
    PublishedBatch,
)
from clawnet.core.channels import parse
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    DedupeConflict,
    PayloadTooLarge,
    Unavailable,
)
from clawnet.core.events import Draft, Existing, Stored
from clawnet.core.rights import Verb, require
from clawnet.core.trace import admit_traceparent, trace_id_of
from clawnet.core.units import Committed, Delete, Outcome, Put, Unit
from clawnet.hub.interceptors import Proposed
from clawnet.hub.lanes import Lane

if TYPE_CHECKING:
    from clawnet.hub.hub import Hub

PublishReply = Callable[[Published | ClawError], None]

VOICES_MAX = 65_536
OPENINGS_MAX = 16
ORIGINS_MAX = 1_024
REPLY_WITHIN_MIN_S = 0.1
REPLY_WITHIN_MAX_S = 30 * 86_400.0

_log = logging.getLogger(__name__)
_encode_origin = msgspec.json.Encoder().encode


class Companion(Protocol):
    """Part of a feature whose state changes together with events: in the same unit, or not at all.

    Asked only for events that expect an answer or may be one, that is those
    with `expect`, `correlation_id` or `causation_id`.
    """

    def accompany(
        self, caller: Caller, call: Publish, draft: Draft, removed: Set[str]
    ) -> tuple[Put | Delete, ...] | None:
        """The changes that belong to this event; decided with no await before it is queued.

        `removed` are the keys that an earlier event of its unit removes for certain: these
        need not be removed again. The changes do not happen if the event turns out to be a
        repeat. None if the event does not concern it at all. Raises ClawError to refuse.
        """

    def settled(self, call: Publish, draft: Draft, outcome: Outcome) -> None:
        """What became of an event that concerned it, in the order of commits; called always.

        A Committed holds this one event, also of a batch, and the revisions of the changes
        that this companion gave.
        """


class Publishing:
    """Takes publishes, batches and signals; renders drafts for the hub's own parts."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._voices: dict[tuple[str | None, str], Voice] = {}
        self._origins: dict[int, tuple[events.Origin, str]] = {}
        self._companions: tuple[Companion, ...] = ()

    def accompany(self, companion: Companion) -> None:
        """Let a feature change its state in the units of events that concern it."""
        self._companions = (*self._companions, companion)

    def publish(self, caller: Caller, call: Publish, *, lane: Lane, reply: PublishReply) -> None:
        """Take a publish; `reply` is called once, when it is durable or refused.

        Publishes of one lane on one channel are stored in the order of the calls.
        """
        try:
            self._hub.refuse_unless_ready()
            draft = self._draft(caller, call)
            if self._hub.interceptors.of(draft.channel) or lane.is_busy(draft.channel):
                lane.put(
                    draft.channel,
                    lambda: self._intercepted(caller, call, draft, reply),
                    self._hub.spawn,
                )
                return
            # Rights were asked in this same section, so they still hold as it is queued.
            self._submit(caller, call, draft, reply)
        except ClawError as error:
            self._hub.refused += 1
            self._hub.refusals.note(caller, call.channel, error)
            reply(error)

    async def publish_wait(self, caller: Caller, call: Publish) -> Published:
        """publish() and wait for the outcome. Raises ClawError."""
        done: asyncio.Future[Published | ClawError] = asyncio.get_running_loop().create_future()

        def reply(outcome: Published | ClawError) -> None:
            if not done.done():
                done.set_result(outcome)

        self.publish(caller, call, lane=Lane(), reply=reply)
        # No deadline: the committer answers every unit, also when storage fails.
        outcome = await done
        if isinstance(outcome, ClawError):
            raise outcome
        return outcome

    async def publish_batch(self, call: PublishBatch, caller: Caller) -> PublishedBatch:
        """Store up to 1,000 events as one unit: all or none. Raises ClawError with `index`."""
        if not call.events:
            raise BadRequest("The batch is empty.", next="Send at least one event.")
        if len(call.events) > BATCH_MAX_EVENTS:
            raise PayloadTooLarge(
                f"A batch holds at most {BATCH_MAX_EVENTS} events.", limit_events=BATCH_MAX_EVENTS
            )
        # Taken at once: a batch refused half way would have spent what its repetition needs.
        self._hub.ration.take_publish(caller, len(call.events))
        drafts: list[Draft] = []
        for index, item in enumerate(call.events):
            try:
                drafts.append(self._draft(caller, item, cost=0))
            except ClawError as error:
                error.facts.setdefault("index", index)
                raise
        if any(self._hub.interceptors.of(draft.channel) for draft in drafts):
            for index, item in enumerate(call.events):
                with _naming(index):
                    draft = drafts[index]
                    if draft.identity is None or await self._repeated(draft) is None:
                        drafts[index] = await self._decided(caller, item, draft)
            # No await from here to the queue: what was revoked meanwhile is refused.
            self._hub.refuse_unless_ready()
            current = self._hub.directory.refresh(caller)
            for index, draft in enumerate(drafts):
                with _naming(index):
                    require(current, Verb.PUBLISH, parse(draft.channel), self._hub.directory)
        company = Company(self._companions)
        try:
            for index, (item, draft) in enumerate(zip(call.events, drafts, strict=True)):
                with _naming(index):
                    company.ask(caller, item, draft, index)
            done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

            def settled(outcome: Outcome) -> None:
                # Companions are told even if who sent the batch has gone away meanwhile.
                company.tell(outcome)
                if not done.done():
                    done.set_result(outcome)

            self._hub.committer.submit(company.unit(tuple(drafts)), settled)
        except ClawError as error:
            company.tell(error)
            raise
        # No deadline: the committer answers every unit, also when storage fails.
        committed = await done
        if not isinstance(committed, Committed):
            raise committed
        self._hub.published += len(drafts)
        return PublishedBatch(
            events=[
                _published(event, _made(item, draft))
                for event, item, draft in zip(committed.events, call.events, drafts, strict=True)
            ]
        )

    def signal(self, caller: Caller, channel: str, type: str, data: bytes) -> None:
        """Tell who is live on a channel something that need not be kept.

        Passes the same rights, has no position, is never stored, and is not given
        to whoever lags. Raises ClawError.
        """
        self._hub.refuse_unless_ready()
        place = parse(channel)
        self._hub.ration.take_publish(caller, 1)
        caller = self._hub.directory.refresh(caller)
        require(caller, Verb.PUBLISH, place, self._hub.directory)
        events.check_type(type, is_hub=caller.is_hub)
        text = payloads.admit(data, max_bytes=self._hub.settings.limits.data_max_bytes)
        members = Voice(caller, place.name, self._hub.directory.version).open(type)
        body = f'{{"channel":{events.quote_name(place.name)},{members},"data":{text}}}'
        self._hub.fanout.signal(caller.world, place.name, body.encode())

    def _draft(self, caller: Caller, call: Publish, *, cost: int = 1) -> Draft:
        """limits → rights → the event's own form. Pure but for the buckets."""
        voice = self._voice(caller, call.channel, cost)
        channel = voice.channel
        given = call.type
        type_ = voice.default_type if given is None else given
        opening = voice.openings.get(type_)
        if opening is None:
            events.check_type(type_, is_hub=caller.is_hub)
            opening = voice.open(type_)
        data = payloads.admit(bytes(call.data), max_bytes=self._hub.settings.limits.data_max_bytes)
        key, correlation, causation = call.dedupe_key, call.correlation_id, call.causation_id
        if key is not None:
            events.check_key("dedupe_key", key, max_chars=events.DEDUPE_KEY_MAX_CHARS)
        if correlation is not None or causation is not None:
            events.check_key("correlation_id", correlation, max_chars=events.CORRELATION_MAX_CHARS)
            events.check_key("causation_id", causation, max_chars=events.CORRELATION_MAX_CHARS)
        expect, traceparent = call.expect, call.traceparent
        if type(call) is DoorPublish and call.origin is not None:
            opening += self._origin_member(call.origin)
        has_names = key is not None or correlation is not None or causation is not None
        if not has_names and expect is None and traceparent is None:
            # Measured: what is not there and still passed on costs a tenth of a publish.
            return Draft(
                world=caller.world,
                channel=channel,
                type=type_,
                actor_id=caller.account or "",
                members=opening,
                data=data,
            )
        identity: bytes | None = None
        if expect is not None:
            # What is waited for is found again by the identity, after a restart as well.
            identity = self._identity(caller, channel, key)
            if correlation is None:
                # From the identity, so that a repeated publish is given the same one.
                correlation = events.correlation_of(identity)
        return self._rendered(
            caller,
            channel,
            type_,
            opening,
            data,
            (key, correlation, causation),
            traceparent=None if traceparent is None else admit_traceparent(traceparent),
            reply_within_s=None if expect is None else _checked(expect),
            given_identity=identity,
        )

    def _origin_member(self, origin: events.Origin) -> str:
        """The member `origin`. A connection says the same object with each of its events."""
        known = self._origins.get(id(origin))
        if known is None:
            if len(self._origins) >= ORIGINS_MAX:
                self._origins.clear()
            text = f',"origin":{_encode_origin(origin).decode()}'
            # With the object, so that its id stays its own.
            known = self._origins[id(origin)] = (origin, text)
        return known[1]

    def _identity(self, caller: Caller, channel: str, key: str | None) -> bytes:
        """By which an event is found again; one of its own if the sender gave no key."""
        if key is None:
            return self._hub.randomness.token_bytes(16)
        return events.dedupe_identity(
            world=caller.world, actor_id=caller.account or "", channel=channel, key=key
        )

    def _voice(self, caller: Caller, name: str, cost: int) -> Voice:
        """limits → rights, the latter remembered until any right changes.

        Measured: deciding and rendering anew for each publish took half of its time.
        """
        key = (caller.token_id, name)
        voice = self._voices.get(key)
        if (
            voice is not None
            and voice.caller is caller
            and voice.version == self._hub.directory.version
            # That a token expires is no change of a right, so it is asked apart.
            and (caller.expires_ms is None or self._hub.directory.now_ms() < caller.expires_ms)
        ):
            self._hub.ration.take_publish(caller, cost)
            return voice
        channel = parse(name)
        self._hub.ration.take_publish(caller, cost)
        # The door may have waited for the body since it authenticated the caller.
        caller = self._hub.directory.refresh(caller)
        require(caller, Verb.PUBLISH, channel, self._hub.directory)
        if len(self._voices) >= VOICES_MAX:
            self._voices.clear()
        voice = self._voices[key] = Voice(caller, channel.name, self._hub.directory.version)
        return voice

    def render(
        self,
        caller: Caller,
        channel: str,
        *,
        type: str,
        data: str,
        dedupe_key: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        traceparent: str | None = None,
    ) -> Draft:
        """A draft of admitted parts, said by `caller`. For the hub's own parts and features."""
        opening = Voice(caller, channel, self._hub.directory.version).open(type)
        return self._rendered(
            caller,
            channel,
            type,
            opening,
            data,
            (dedupe_key, correlation_id, causation_id),
            traceparent=admit_traceparent(traceparent),
        )

    def _rendered(
        self,
        caller: Caller,
        channel: str,
        type_: str,
        opening: str,
        data: str,
        named: tuple[str | None, str | None, str | None],
        *,
        traceparent: str | None = None,
        reply_within_s: float | None = None,
        given_identity: bytes | None = None,
    ) -> Draft:
        key, correlation, causation = named
        account = caller.account or ""
        identity = digest = given_identity
        if key is not None:
            identity = events.dedupe_identity(
                world=caller.world, actor_id=account, channel=channel, key=key
            )
            digest = events.content_digest(type=type_, data=data)
        return Draft(
            world=caller.world,
            channel=channel,
            type=type_,
            actor_id=account,
            members=events.render_members(
                opening,
                correlation_id=correlation,
                causation_id=causation,
                dedupe_key=key,
                traceparent=traceparent,
                reply_within_s=reply_within_s,
            ),
            data=data,
            correlation_id=correlation,
            trace_id=None if traceparent is None else trace_id_of(traceparent),
            identity=identity,
            digest=digest,
        )

    def _submit(self, caller: Caller, call: Publish, draft: Draft, reply: PublishReply) -> None:
        named = call.correlation_id is not None or call.causation_id is not None
        if named or call.expect is not None:
            self._submit_accompanied(caller, call, draft, reply)
            return

        def settled(outcome: Outcome) -> None:
            if isinstance(outcome, Committed):
                self._hub.published += 1
                reply(_published(outcome.events[0]))
            else:
                self._hub.refused += 1
                reply(outcome)

        self._hub.committer.submit(Unit(drafts=(draft,)), settled)

    def _submit_accompanied(
        self, caller: Caller, call: Publish, draft: Draft, reply: PublishReply
    ) -> None:
        company = Company(self._companions)
        made = _made(call, draft)

        def settled(outcome: Outcome) -> None:
            # First, so that whoever is answered finds what the features know of it.
            company.tell(outcome)
            if isinstance(outcome, Committed):
                self._hub.published += 1
                reply(_published(outcome.events[0], made))
            else:
                self._hub.refused += 1
                reply(outcome)

        try:
            company.ask(caller, call, draft, 0)
            self._hub.committer.submit(company.unit((draft,)), settled)
        except ClawError as error:
            company.tell(error)
            raise

    async def _intercepted(
        self, caller: Caller, call: Publish, draft: Draft, reply: PublishReply
    ) -> None:
        try:
            # What still waited in its lane when the hub stopped is answered here.
            self._hub.refuse_unless_ready()
            if draft.identity is not None:
                # A repeat is answered from the log: it must not meet the interceptors again.
                known = await self._repeated(draft)
                if known is not None:
                    current = self._hub.directory.refresh(caller)
                    require(current, Verb.PUBLISH, parse(draft.channel), self._hub.directory)
                    reply(_published(known, _made(call, draft)))
                    return
            draft = await self._decided(caller, call, draft)
            # No await from here to the queue: what was revoked meanwhile is refused.
            self._hub.refuse_unless_ready()
            current = self._hub.directory.refresh(caller)
            require(current, Verb.PUBLISH, parse(draft.channel), self._hub.directory)
            self._submit(current, call, draft, reply)
        except ClawError as error:
            self._hub.refused += 1
            reply(error)
        except asyncio.CancelledError:
            self._hub.refused += 1
            reply(Unavailable("The hub stopped before the event was stored.", retry_after_s=1.0))
            raise
        except Exception:  # the sender must be answered whatever an interceptor caused
            _log.exception("a publish failed")
            reply(ClawError("The publish failed inside the hub; nothing was stored."))

    async def _repeated(self, draft: Draft) -> Existing | None:
        identity = draft.identity
        assert identity is not None
        known = await self._hub.storage.read(lambda log: log.find(identity))
        if known is not None and known.digest != draft.digest:
            raise DedupeConflict("The dedupe key was used before with other content.", id=known.id)
        return known

    async def _decided(self, caller: Caller, call: Publish, draft: Draft) -> Draft:
        """The draft after the interceptors. The digest stays that of what was sent."""
        proposed = Proposed(
            caller=caller,
            channel=draft.channel,
            type=draft.type,
            data=draft.data,
            correlation_id=call.correlation_id,
            causation_id=call.causation_id,
            traceparent=admit_traceparent(call.traceparent),
        )
        data = await self._hub.interceptors.run(proposed, admit=self._admit_patch)
        return draft if data == draft.data else msgspec.structs.replace(draft, data=data)

    def _admit_patch(self, data: str) -> str:
        # A lone surrogate must come to admit() as the bytes that it refuses.
        raw = data.encode("utf-8", "surrogatepass")
        return payloads.admit(raw, max_bytes=self._hub.settings.limits.data_max_bytes)


@contextmanager
def _naming(index: int) -> Iterator[None]:
    """Let an error say which event of the batch it is about."""
    try:
        yield
    except ClawError as error:
        error.facts.setdefault("index", index)
        raise


def _checked(expect: events.Expect) -> float:
    """Raises BadRequest for a time that no answer can be waited for."""
    if not REPLY_WITHIN_MIN_S <= expect.reply_within_s <= REPLY_WITHIN_MAX_S:
        raise BadRequest(
            f"expect.reply_within_s must be {REPLY_WITHIN_MIN_S:g} to {REPLY_WITHIN_MAX_S:g}.",
            next="Give the seconds within which an answer is due.",
        )
    return expect.reply_within_s


def _made(call: Publish, draft: Draft) -> str | None:
    """The correlation id that the hub gave because the sender had none."""
    return draft.correlation_id if call.correlation_id is None else None


def _published(event: Stored | Existing, made: str | None = None) -> Published:
    return Published(
        id=event.id,
        seq=event.seq,
        offset=event.offset,
        epoch=event.epoch,
        deduped=isinstance(event, Existing),
        correlation_id=made,
    )


class Company:
    """The companions of one unit: what they change in it, and telling them what became of it."""

    __slots__ = ("_asked", "_changes", "_companions", "_removed", "_ties")

    def __init__(self, companions: tuple[Companion, ...]) -> None:
        self._companions = companions
        self._asked: list[tuple[Companion, Publish, Draft, int, slice]] = []
        self._changes: list[Put | Delete] = []
        self._removed: set[str] = set()
        self._ties: list[int] = []

    def ask(self, caller: Caller, call: Publish, draft: Draft, index: int) -> None:
        """Ask what belongs to the unit's event at `index`. Raises what a companion refuses."""
        if call.correlation_id is None and call.expect is None and call.causation_id is None:
            return
        for companion in self._companions:
            more = companion.accompany(caller, call, draft, self._removed)
            if more is not None:
                start = len(self._changes)
                self._changes += more
                self._ties += [index] * len(more)
                mine = slice(start, len(self._changes))
                self._asked.append((companion, call, draft, index, mine))
                for change in more:
                    if isinstance(change, Put):
                        self._removed.discard(change.key)
                    elif draft.identity is None:
                        # With an identity it may be a repeat, whose changes do not happen.
                        self._removed.add(change.key)

    def unit(self, drafts: tuple[Draft, ...]) -> Unit:
        return Unit(drafts=drafts, changes=tuple(self._changes), ties=tuple(self._ties))

    def tell(self, outcome: Outcome) -> None:
        """Tell each companion of its own event."""
        for companion, call, draft, index, mine in self._asked:
            own = outcome
            if isinstance(outcome, Committed):
                own = Committed((outcome.events[index],), outcome.revisions[mine])
            try:
                companion.settled(call, draft, own)
            except Exception:  # a feature's defect must not keep the sender from its answer
                _log.exception("a feature failed to follow what became of an event")


class Voice:
    """A caller's right to speak on a channel, and how its events begin there."""

    __slots__ = ("caller", "channel", "default_type", "openings", "version")

    def __init__(self, caller: Caller, channel: str, version: int) -> None:
        self.caller = caller
        self.channel = channel
        self.version = version
        self.default_type = events.default_type(channel)
        self.openings: dict[str, str] = {}

    def open(self, type_: str) -> str:
        """The members that all its events of a type share."""
        opening = events.render_opening(
            type=type_,
            source=self.caller.source,
            actor_json=self.caller.actor_json(),
            world=self.caller.world,
            room=self.channel[5:] if self.channel.startswith("room.") else None,
        )
        if len(self.openings) < OPENINGS_MAX:
            self.openings[type_] = opening
        return opening
