"""POST /api/publish: as claw.events has it, and as Centrifugo's server API has it.

Both publish at this path. Who shows an API key means Centrifugo's.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.publishing import Publish, Published
from clawnet.core.channels import Channel, Kind, parse
from clawnet.core.errors import (
    BadRequest,
    DedupeConflict,
    DiskFull,
    Forbidden,
    InvalidChannel,
    OutcomeUnknown,
    PayloadTooLarge,
    Refused,
)
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.body import ENVELOPE_MAX_BYTES, decode, need_json, read_body
from clawnet.doors.http.claw_events.answers import claw_errors
from clawnet.doors.http.claw_events.limits import take_publish
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request, api_key, idempotency_key, traceparent

NULL = msgspec.Raw(b"null")


class ClawPublish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a publish. `message` is another name of `payload`, `idempotency_key` of
    `dedupe_key`."""

    channel: str | None = None
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    message: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    dedupe_key: str | None = None
    idempotency_key: str | None = None


class ClawPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where an event is kept."""

    offset: int
    epoch: str
    id: str


class ClawPublished(msgspec.Struct, frozen=True, kw_only=True):
    """The event is durable."""

    ok: Literal[True] = True
    result: ClawPlace


_decoder = msgspec.json.Decoder(ClawPublish)


@operation(
    tag="claw.events",
    body=ClawPublish,
    example={"channel": "public.lobby", "payload": "Hello world"},
    answer=ClawPublished,
    headers={"Idempotency-Key": str, "traceparent": str},
    errors=(DedupeConflict, DiskFull, OutcomeUnknown, Refused),
)
async def publish(request: Request) -> Answer:
    """Publish a message, as claw.events has it.

    With an API key in place of a token it is Centrifugo's server API.
    """
    if api_key(request.headers) is not None:
        # The two doors are wired one after the other; this one needs the other's code only here.
        from clawnet.doors.centrifugo import api

        raw = await read_body(
            request.receive,
            request.headers,
            max_bytes=request.hub.settings.limits.data_max_bytes + ENVELOPE_MAX_BYTES,
        )
        return await api.publish(request, raw)
    return await _publish(request)


@claw_errors
async def _publish(request: Request) -> Answer:
    request.query()
    caller = request.caller()
    need_json(request.headers)
    payload_max = request.door.claw_events.payload_max_bytes
    try:
        raw = await read_body(
            request.receive, request.headers, max_bytes=payload_max + ENVELOPE_MAX_BYTES
        )
    except PayloadTooLarge:
        raise _too_large(payload_max) from None
    body = decode(_decoder, raw)
    channel = named(body.channel)
    take_publish(request, caller)
    payload = body.message if body.payload is msgspec.UNSET else body.payload
    if payload is msgspec.UNSET:
        payload = NULL
    if len(bytes(payload)) > payload_max:
        raise _too_large(payload_max)
    place = _writable(request, caller, channel)
    if body.dedupe_key is not None and body.idempotency_key not in (None, body.dedupe_key):
        raise BadRequest("dedupe_key and idempotency_key are two different keys.")
    key = body.dedupe_key or body.idempotency_key
    call = Publish(
        channel=place.name,
        data=payload,
        dedupe_key=idempotency_key(request.headers, key, name="dedupe_key"),
        traceparent=traceparent(request.headers),
    )
    try:
        # The hub looks at the caller anew: its body may have taken a while to come.
        stored: Published = await request.hub.publish_wait(caller, call)
    except Refused as refused:
        errors = refused.facts.get("validation_errors")
        if errors is None:
            raise
        raise BadRequest(
            "Schema validation failed", next=refused.next, validation_errors=errors
        ) from None
    return json_answer(
        ClawPublished(result=ClawPlace(offset=stored.offset, epoch=stored.epoch, id=stored.id))
    )


def named(given: str | None) -> str:
    """The channel's name in a body. Raises BadRequest if there is none."""
    name = (given or "").strip()
    if not name:
        raise BadRequest("channel required", next="Give the channel's name as channel.")
    return name


def _writable(request: Request, caller: Caller, name: str) -> Channel:
    """The channel, if claw.events' rules let the caller write there; the hub asks its own."""
    try:
        channel = parse(name)
    except InvalidChannel as error:
        raise BadRequest("invalid channel format", next=error.next, channel=name[:255]) from None
    if channel.kind is Kind.FREE and request.hub.directory.namespace(channel.name) is None:
        raise BadRequest(
            "invalid channel format",
            next="Use public.<topic> or agent.<you>.<topic>.",
            channel=channel.name,
        )
    if channel.kind in (Kind.SYSTEM, Kind.SYSTEM_OPEN):
        raise Forbidden(
            "cannot publish to system channels",
            next="Use public.<topic> or agent.<you>.<topic>.",
            channel=channel.name,
        )
    is_owned = channel.kind in (Kind.AGENT_PRIVATE, Kind.AGENT_PUBLIC)
    if is_owned and channel.owner != caller.account:
        raise Forbidden(
            "only the channel owner can publish to agent.* channels",
            next=f"Use a channel of your own (agent.{caller.account}.<topic>); to reach its owner "
            f"publish on agent.{channel.owner}.inbox.",
            channel=channel.name,
        )
    return channel


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"payload too large (max {max_bytes} bytes)", limit_bytes=max_bytes)
