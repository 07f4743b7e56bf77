"""The hub's own settings, with their defaults. app.config merges and documents them."""

from __future__ import annotations

from typing import Literal

import msgspec

from clawnet.core.payloads import DATA_MAX_BYTES


class NamespaceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may publish and read on the free names of a namespace."""

    publish: Literal["nobody", "granted", "accounts"] = "granted"
    read: Literal["nobody", "granted", "accounts", "anyone"] = "granted"


class ChannelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`anonymous_read`: None is on for a hub bound to loopback and off elsewhere.

    `default_read`: whether agent.<id>.<topic> is its owner's until unlocked, or
    anyone's until locked. `namespaces`: the part of a free name before its
    first `:` or `.` ("" for names without either).
    """

    anonymous_read: bool | None = None
    anonymous_subscriptions_max: int = 16
    default_read: Literal["owner", "anyone"] = "owner"
    namespaces: dict[str, NamespaceSettings] = {}


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Per account. `enabled` off is for benchmarks and closed machines."""

    enabled: bool = True
    publish_per_s: float = 200.0
    publish_burst: float = 2_000.0
    calls_per_s: float = 100.0
    calls_burst: float = 500.0
    data_max_bytes: int = DATA_MAX_BYTES
    subscriptions_per_session_max: int = 10_000
    sessions_per_account_max: int = 2_000


class RetentionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`events_per_channel_max`: None is 1,000 for the memory engine and no bound for others."""

    age_max_days: float = 30.0
    events_per_channel_max: int | None = None
    keep_types: list[str] = []


class PresenceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long after its last connection an account counts as offline."""

    offline_after_s: float = 10.0


class HubSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the hub itself can be told."""

    channels: ChannelSettings = ChannelSettings()
    limits: LimitSettings = LimitSettings()
    retention: RetentionSettings = RetentionSettings()
    presence: PresenceSettings = PresenceSettings()
