"""Durable consumers: named readers that acknowledge each delivery."""

from __future__ import annotations

import msgspec

from clawnet.core.calls.reading import Gap

IN_FLIGHT_MAX = 256
FETCH_LIMIT_MAX = 256


class CreateConsumer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A durable reader of the caller's. Creating it again with the same settings is no error.

    `channels` are names and patterns. `since` is `all`, a duration, a cursor
    or None for what comes from now on. A delivery that is not acknowledged
    within `ack_wait_s` is made again, up to `max_attempts`; then the event
    goes to `agent.<caller>.dead-letter`.
    """

    name: str
    channels: list[str]
    since: str | None = None
    ack_wait_s: float = 30.0
    max_attempts: int = 5


class ConsumerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """`floor` is the cursor below which all is settled; `lag` counts the log's events behind
    which the consumer is, at most; `in_flight` those delivered and not yet acknowledged."""

    name: str
    channels: list[str]
    ack_wait_s: float
    max_attempts: int
    floor: str
    in_flight: int
    lag: int


class ConsumerList(msgspec.Struct, frozen=True, kw_only=True):
    """The caller's consumers by name."""

    consumers: list[ConsumerInfo]


class ListConsumers(msgspec.Struct, frozen=True, kw_only=True):
    """The caller's consumers."""


class ReadConsumer(msgspec.Struct, frozen=True, kw_only=True):
    """One of the caller's consumers."""

    name: str


class DeleteConsumer(msgspec.Struct, frozen=True, kw_only=True):
    """End a consumer; what it had not acknowledged is forgotten."""

    name: str


class Fetch(msgspec.Struct, frozen=True, kw_only=True):
    """Take up to `limit` deliveries, waiting up to `wait_s` for the first."""

    name: str
    limit: int = 64
    wait_s: float = 0.0


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One event, for the `attempt`-th time. `event` is the native envelope's JSON."""

    seq: int
    attempt: int
    event: msgspec.Raw


class Fetched(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Deliveries in order of the log, and the `gaps` before them; `gap` is the first of these.

    A gap comes with every fetch until an event that was delivered behind it is
    acknowledged: only that says that an answer with it has arrived. Where there are
    too many to name each channel's, the rest is one gap of the channel `>`, whose
    `first`..`last` are seqs of the log.
    """

    deliveries: list[Delivery]
    lag: int
    gap: Gap | None = None
    gaps: list[Gap] = []


class DeliveryName(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names one delivery: that of this event, for the n-th time."""

    seq: int
    attempt: int


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """These deliveries are handled. One that expired is named as stale and changes nothing.

    `cursor` stands for all deliveries that are out and not expired, up to that place.
    """

    name: str
    deliveries: list[DeliveryName] = []
    cursor: str | None = None


class Acked(msgspec.Struct, frozen=True, kw_only=True):
    """`stale` are the deliveries that had expired; they will come again."""

    acked: int
    floor: str
    stale: list[DeliveryName] = []


class Nack(msgspec.Struct, frozen=True, kw_only=True):
    """Give deliveries back, to be made again after `delay_s`."""

    name: str
    deliveries: list[DeliveryName]
    delay_s: float = 0.0
