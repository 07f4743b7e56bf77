"""Drafts as a hub would make them, for tests of engines."""

from __future__ import annotations

from clawnet.core.events import (
    Draft,
    content_digest,
    dedupe_identity,
    render_members,
    render_opening,
)
from clawnet.core.trace import trace_id_of
from clawnet.core.units import Unit

WORLD = "main"


def draft(
    channel: str = "room.a",
    data: str = '{"n":1}',
    *,
    key: str | None = None,
    type: str = "x.message",
    actor_id: str = "ada",
    world: str = WORLD,
    ts_ms: int | None = None,
    event_id: str | None = None,
    correlation_id: str | None = None,
    traceparent: str | None = None,
) -> Draft:
    """A draft; with `key` it has the identity and digest that the hub would give it."""
    opening = render_opening(
        type=type,
        source="user",
        actor_json=f'{{"id":"{actor_id}","handle":"{actor_id.title()}"}}',
        world=world,
    )
    identity = digest = None
    if key is not None:
        identity = dedupe_identity(world=world, actor_id=actor_id, channel=channel, key=key)
        digest = content_digest(type=type, data=data)
    return Draft(
        world=world,
        channel=channel,
        type=type,
        actor_id=actor_id,
        members=render_members(
            opening, dedupe_key=key, correlation_id=correlation_id, traceparent=traceparent
        ),
        data=data,
        correlation_id=correlation_id,
        trace_id=None if traceparent is None else trace_id_of(traceparent),
        identity=identity,
        digest=digest,
        ts_ms=ts_ms,
        id=event_id,
    )


def publish(
    channel: str = "room.a",
    data: str = '{"n":1}',
    *,
    key: str | None = None,
    type: str = "x.message",
) -> Unit:
    """A unit with one draft."""
    return Unit(drafts=(draft(channel, data, key=key, type=type),))
