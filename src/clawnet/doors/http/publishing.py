"""The hot routes: one event, a batch, and text from a shell. Raw ASGI, in front of the router.

Uvicorn alone takes about 30 µs of a core for a request, so every microsecond here counts.
A request costs one dict of its headers, one decode, one future; answers' headers are made once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from starlette.types import Receive, Scope, Send

from clawnet.core import payloads
from clawnet.core.callers import Caller
from clawnet.core.calls.publishing import (
    BATCH_MAX_BYTES,
    Publish,
    PublishBatch,
    Published,
    PublishedBatch,
)
from clawnet.core.errors import (
    BadRequest,
    ClawError,
    DedupeConflict,
    DiskFull,
    InvalidChannel,
    InvalidData,
    InvalidType,
    OutcomeUnknown,
    Refused,
)
from clawnet.core.events import DEDUPE_KEY_MAX_CHARS, Expect
from clawnet.doors.http.answers import encode
from clawnet.doors.http.body import ENVELOPE_MAX_BYTES, decode, need_json, read_body
from clawnet.doors.http.callers import Callers
from clawnet.doors.http.describe import operation
from clawnet.doors.http.query import Query, decoded
from clawnet.doors.http.request import header_map, idempotency_key, traceparent
from clawnet.doors.http.wire import send_json
from clawnet.hub.hub import Hub
from clawnet.hub.lanes import Lane
from clawnet.hub.publishing import REPLY_WITHIN_MAX_S, REPLY_WITHIN_MIN_S

CHANNELS_PREFIX = b"/api/v1/channels/"
EVENTS_SUFFIX = b"/events"
PUB_PREFIX = b"/pub/"
BATCH_PATH = b"/api/v1/events/batch"

_NAMES_MAX = 4_096


class PublishBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The body of a publish; the path names the channel."""

    data: msgspec.Raw
    type: str | None = None
    dedupe_key: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    expect: Expect | None = None


class BatchItem(Publish, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """An event of a batch: a Publish whose members are checked."""


class BatchBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a batch."""

    events: list[BatchItem]


# What a commit may be refused with, beside what every route may answer.
_REFUSALS = (
    DedupeConflict,
    DiskFull,
    InvalidChannel,
    InvalidData,
    InvalidType,
    OutcomeUnknown,
    Refused,
)
_KEY = Annotated[
    str, msgspec.Meta(min_length=1, max_length=DEDUPE_KEY_MAX_CHARS, description="The dedupe key.")
]
_EXPECT = Annotated[
    float,
    msgspec.Meta(
        ge=REPLY_WITHIN_MIN_S,
        le=REPLY_WITHIN_MAX_S,
        description="Expect an answer within so many seconds; silence is told in your inbox.",
    ),
]

_publish_decoder = msgspec.json.Decoder(PublishBody)
_batch_decoder = msgspec.json.Decoder(BatchBody)


class Publishing:
    """Answers the hot routes. Raises ClawError and ClientGone for the door to answer."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._body_max_bytes = hub.settings.limits.data_max_bytes + ENVELOPE_MAX_BYTES
        self._callers = Callers(hub)
        self._names: dict[bytes, str] = {}

    async def answer(self, raw_path: bytes, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer a POST if it is for a hot route; False (and nothing done) if it is not."""
        if raw_path.startswith(CHANNELS_PREFIX) and raw_path.endswith(EVENTS_SUFFIX):
            segment = raw_path[len(CHANNELS_PREFIX) : -len(EVENTS_SUFFIX)]
            if segment and b"/" not in segment:
                await self._event(self._name(segment), scope, receive, send)
                return True
        elif raw_path.startswith(PUB_PREFIX):
            segment = raw_path[len(PUB_PREFIX) :]
            if segment and b"/" not in segment:
                await self._shell(self._name(segment), scope, receive, send)
                return True
        elif raw_path == BATCH_PATH:
            await self._batch(scope, receive, send)
            return True
        return False

    @operation(
        tag="events",
        body=PublishBody,
        answer=Published,
        status=201,
        statuses=(200,),
        headers={"Idempotency-Key": _KEY, "traceparent": str},
        errors=_REFUSALS,
    )
    async def _event(self, channel: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Publish an event.

        The answer comes when the event is durable: 201, or 200 if it was stored before.
        """
        headers = header_map(scope)
        caller = self._callers.of(headers)
        if scope["query_string"]:
            Query(scope["query_string"], ())
        need_json(headers)
        raw = await read_body(receive, headers, max_bytes=self._body_max_bytes)
        body = decode(_publish_decoder, raw)
        key = body.dedupe_key
        if b"idempotency-key" in headers:
            key = idempotency_key(headers, key, name="dedupe_key")
        await self._publish(
            caller,
            Publish(
                channel=channel,
                data=body.data,
                type=body.type,
                dedupe_key=key,
                correlation_id=body.correlation_id,
                causation_id=body.causation_id,
                traceparent=body.traceparent or traceparent(headers),
                expect=body.expect,
            ),
            send,
        )

    @operation(
        tag="events",
        body=Any,  # whatever it is, it is taken: JSON, else text
        body_media_type="*/*",
        answer=Published,
        status=201,
        statuses=(200,),
        query={"type": str, "key": _KEY, "expect": _EXPECT},
        headers={"Idempotency-Key": _KEY, "traceparent": str},
        errors=_REFUSALS,
    )
    async def _shell(self, channel: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Publish from a shell: `curl -d hi`.

        The body is JSON if it parses, else text, whatever its content type.
        """
        headers = header_map(scope)
        caller = self._callers.of(headers)
        query = Query(scope["query_string"], ("type", "key", "expect"))
        raw = await read_body(receive, headers, max_bytes=self._body_max_bytes)
        call = Publish(
            channel=channel,
            data=msgspec.Raw(_as_json(raw)),
            type=query.text("type"),
            dedupe_key=idempotency_key(headers, query.text("key"), name="key"),
            traceparent=traceparent(headers),
            expect=_expected(query),
        )
        # A terminal's prompt shall not stand behind the answer.
        await self._publish(caller, call, send, ending=b"\n")

    @operation(
        tag="events",
        body=BatchBody,
        answer=PublishedBatch,
        status=201,
        statuses=(200,),
        errors=_REFUSALS,
    )
    async def _batch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Publish up to 1,000 events as one unit: all or none."""
        headers = header_map(scope)
        caller = self._callers.of(headers)
        Query(scope["query_string"], ())
        need_json(headers)
        if b"idempotency-key" in headers:
            raise BadRequest(
                "A batch takes no Idempotency-Key.", next="Give each event a dedupe_key of its own."
            )
        raw = await read_body(receive, headers, max_bytes=BATCH_MAX_BYTES)
        events: list[Publish] = list(decode(_batch_decoder, raw).events)
        stored: PublishedBatch = await self._hub.call(PublishBatch(events=events), caller=caller)
        is_repeat = all(event.deduped for event in stored.events)
        await send_json(send, 200 if is_repeat else 201, encode(stored))

    async def _publish(
        self, caller: Caller, call: Publish, send: Send, *, ending: bytes = b""
    ) -> None:
        done: asyncio.Future[Published | ClawError] = asyncio.get_running_loop().create_future()

        def reply(outcome: Published | ClawError) -> None:
            if not done.done():
                done.set_result(outcome)

        # The body may have taken a while to come; the hub looks at the caller anew.
        self._hub.publish(caller, call, lane=Lane(), reply=reply)
        # No deadline: the hub answers every publish, also when storage fails.
        outcome = await done
        if isinstance(outcome, ClawError):
            raise outcome
        await send_json(send, 200 if outcome.deduped else 201, encode(outcome) + ending)

    def _name(self, segment: bytes) -> str:
        """A channel's name from the path. Raises BadRequest."""
        name = self._names.get(segment)
        if name is None:
            if len(self._names) >= _NAMES_MAX:
                self._names.clear()
            name = decoded(segment.decode("latin-1"), what="The channel in the path")
            self._names[segment] = name
        return name


DESCRIBED: Mapping[str, Any] = {
    "/api/v1/channels/{channel}/events": Publishing._event,
    "/api/v1/events/batch": Publishing._batch,
    "/pub/{channel}": Publishing._shell,
}
"""What answers POST at each hot path, for the documents."""


def _expected(query: Query) -> Expect | None:
    if query.text("expect") is None:
        return None
    return Expect(reply_within_s=query.number("expect", 0.0))


def _as_json(raw: bytes) -> bytes:
    """What a shell sent, as JSON. Raises BadRequest."""
    if not raw:
        raise BadRequest(
            "The body is empty.", next="Send the message: curl -d 'hello' …/pub/public.lobby."
        )
    try:
        payloads.check(raw)
        return raw
    except RecursionError:
        # It is JSON, and the hub says what is wrong with it.
        return raw
    except (msgspec.DecodeError, UnicodeError):
        pass
    try:
        text = raw.decode("utf-8")
    except UnicodeError:
        raise BadRequest("The body is neither JSON nor UTF-8 text.") from None
    # `echo hi | curl --data-binary @-` means hi; the newline is the shell's.
    return msgspec.json.encode(text.removesuffix("\n").removesuffix("\r"))
