"""Publish one event or a batch."""

from __future__ import annotations

import msgspec

from clawnet.core.events import Expect, Origin

BATCH_MAX_EVENTS = 1_000
BATCH_MAX_BYTES = 1_048_576


class Publish(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Append an event to a channel. `data` is the JSON value's bytes as they came.

    `traceparent` is W3C Trace Context; a malformed one is ignored.
    """

    channel: str
    data: msgspec.Raw
    type: str | None = None
    dedupe_key: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    expect: Expect | None = None


class DoorPublish(Publish, frozen=True, kw_only=True, gc=False):
    """A Publish of which a door knows more than its sender may say; never decoded from a body."""

    origin: Origin | None = None


class Published(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The event is durable at this place. `deduped` if an earlier publish put it there.

    `correlation_id` is there if an answer is expected and the hub had to choose one.
    """

    id: str
    seq: int
    offset: int
    epoch: str
    deduped: bool
    correlation_id: str | None = None


class PublishBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Append up to 1,000 events as one unit: all or none."""

    events: list[Publish]


class PublishedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """One answer for each event, in order."""

    events: list[Published]
