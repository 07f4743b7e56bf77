"""The hub's own settings, with their defaults. app.config merges and documents them."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clawnet.core.channels import is_pattern, parse, parse_pattern
from clawnet.core.errors import BadConfiguration, ClawError
from clawnet.core.events import check_types
from clawnet.core.payloads import DATA_MAX_BYTES

NAMESPACE_MAX_CHARS = 64
_NAMESPACE = re.compile(rf"[A-Za-z0-9_-]{{0,{NAMESPACE_MAX_CHARS}}}\Z")

Admits = Literal["nobody", "granted", "subscribers", "accounts", "anyone"]


class NamespaceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be done on the free names of a namespace, and what its readers are told.

    `subscribers` are those who may follow a channel live.
    """

    publish: Annotated[
        Admits,
        Meta(description='Who may publish there; "anyone" is any account, as nobody else may.'),
    ] = "granted"
    read: Annotated[
        Literal["nobody", "granted", "accounts", "anyone"],
        Meta(description="Who may follow its channels live."),
    ] = "granted"
    history: Annotated[Admits, Meta(description="Who may read what was published.")] = "subscribers"
    presence: Annotated[Admits, Meta(description="Who may see who is there.")] = "subscribers"
    user_limited: Annotated[
        bool,
        Meta(
            description="Whether a name that lists users (dialog#42,43) is open to them and to"
            " nobody else; off: # is a letter like others."
        ),
    ] = True
    history_size: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="How many events a channel keeps; 0: its past cannot be read;"
            " unset: as for all channels."
        ),
    ] = None
    history_ttl_s: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(
            description="For how many seconds events are kept at least (a little longer where few"
            " are published); unset: as for all channels."
        ),
    ] = None
    join_leave: Annotated[
        bool, Meta(description="Whether who asks for it is told who comes and goes.")
    ] = True
    force_push_join_leave: Annotated[
        bool, Meta(description="Whether every subscriber is told who comes and goes.")
    ] = False
    force_recovery: Annotated[
        bool, Meta(description="Whether a subscriber that comes back is given what it missed.")
    ] = True
    recovery_mode: Annotated[
        Literal["stream", "cache"],
        Meta(description="Whether that is everything it missed, or only the newest event."),
    ] = "stream"
    allowed_delta_types: Annotated[
        list[Literal["fossil"]],
        Meta(description="How a subscriber may be told of an event as a change to the one before."),
    ] = []


class ChannelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may read and publish where no grant says so."""

    anonymous_read: Annotated[
        bool | None,
        Meta(
            description="Whether public channels may be read without a token;"
            " unset: only on a hub that this machine alone can reach."
        ),
    ] = None
    anonymous_subscriptions_max: Annotated[
        int, Meta(ge=0, description="How many channels a connection without a token may follow.")
    ] = 16
    default_read: Annotated[
        Literal["owner", "anyone"],
        Meta(
            description="Whether agent.<id>.<topic> is its owner's until unlocked,"
            " or anyone's until locked."
        ),
    ] = "owner"
    namespaces: Annotated[
        dict[str, NamespaceSettings],
        Meta(
            description="Rules of free channel names, by the part before their first : or ."
            ' ("" for names without one, and for dotted ones where it is not declared).'
        ),
    ] = {}

    def __post_init__(self) -> None:
        # ValueError, so that msgspec says where in the settings the name stands.
        for name in self.namespaces:
            if not _NAMESPACE.match(name):
                raise ValueError(
                    f"{ascii(name[:80])} cannot be a namespace: use up to {NAMESPACE_MAX_CHARS}"
                    " letters, digits, - and _"
                )


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one account may ask of the hub."""

    enabled: Annotated[
        bool,
        Meta(description="Whether rates are limited; off is for benchmarks and closed machines."),
    ] = True
    publish_per_s: Annotated[
        float, Meta(gt=0, description="Events per second that an account may publish for long.")
    ] = 200.0
    publish_burst: Annotated[
        float, Meta(ge=1, description="Events that an account may publish at once.")
    ] = 2_000.0
    calls_per_s: Annotated[
        float, Meta(gt=0, description="Other calls per second that an account may make for long.")
    ] = 100.0
    calls_burst: Annotated[
        float, Meta(ge=1, description="Other calls that an account may make at once.")
    ] = 500.0
    data_max_bytes: Annotated[
        int, Meta(ge=1, le=16_777_216, description="The largest data of an event.")
    ] = DATA_MAX_BYTES
    subscriptions_per_session_max: Annotated[
        int, Meta(ge=1, description="How many channels one connection may follow.")
    ] = 10_000
    sessions_per_account_max: Annotated[
        int, Meta(ge=1, description="How many live connections one account may have.")
    ] = 2_000


FOREVER: Literal["forever"] = "forever"


class RetentionRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long some events are kept. The first rule that covers an event governs it."""

    channels: Annotated[
        str, Meta(description="The name or pattern of the channels (> is all of them).")
    ] = ">"
    types: Annotated[
        list[str], Meta(description="Names and patterns of event types; none: all types.")
    ] = []
    age_max_days: Annotated[
        Annotated[float, Meta(gt=0)] | Literal["forever"] | None,
        Meta(description='After how many days they are trimmed, or "forever"; unset: as for all.'),
    ] = None
    events_max: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="How many of them a channel keeps;"
            ' unset: as for all, and no bound with age_max_days = "forever".'
        ),
    ] = None

    def __post_init__(self) -> None:
        # ValueError, so that msgspec says where in the settings the rule stands.
        try:
            if is_pattern(self.channels):
                parse_pattern(self.channels)
            else:
                parse(self.channels)
            for name in self.types:
                check_types(name)
        except ClawError as error:
            raise ValueError(error.message.rstrip(".")) from None
        if self.age_max_days is None and self.events_max is None:
            raise ValueError("a rule says age_max_days, events_max, or both")


class RetentionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long events are kept."""

    age_max_days: Annotated[
        float, Meta(gt=0, description="Events older than this many days are trimmed.")
    ] = 30.0
    events_per_channel_max: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="How many events a channel keeps;"
            " unset: 1,000 for the memory engine, and no bound for others."
        ),
    ] = None
    keep_types: Annotated[
        list[str],
        Meta(
            description="Types of events (names and patterns) that are kept for ever, everywhere;"
            " a rule before all others."
        ),
    ] = []
    rules: Annotated[
        list[RetentionRule],
        Meta(
            description="What is kept longer, shorter or otherwise counted, by channel and type;"
            " the first rule that covers an event governs it."
        ),
    ] = []

    def __post_init__(self) -> None:
        for name in self.keep_types:
            try:
                check_types(name)
            except ClawError as error:
                raise BadConfiguration(f"retention.keep_types: {error.message}") from None


class PresenceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who counts as being there."""

    offline_after_s: Annotated[
        float,
        Meta(ge=0, description="How long after its last connection an account counts as offline."),
    ] = 10.0
    idle_after_s: Annotated[
        float,
        Meta(
            ge=1,
            description="How long an account may be connected without doing anything before it"
            " counts as idle.",
        ),
    ] = 300.0


class TokenSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Short-lived tokens (JWTs)."""

    jwt_key: Annotated[
        str | None,
        Meta(
            description="The key with which JWTs are signed, at least 32 bytes; unset: derived"
            " from the hub's own; changing it ends all JWTs.",
            extra={"is_secret": True},
        ),
    ] = None
    jwt_ttl_max_s: Annotated[
        float,
        Meta(ge=10, le=86_400, description="How long a JWT may live; 10 seconds to a day."),
    ] = 86_400.0


class HubSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the hub itself can be told. `is_dev`: whoever is on its machine may register."""

    is_dev: bool = False
    channels: ChannelSettings = ChannelSettings()
    limits: LimitSettings = LimitSettings()
    retention: RetentionSettings = RetentionSettings()
    presence: PresenceSettings = PresenceSettings()
    tokens: TokenSettings = TokenSettings()
