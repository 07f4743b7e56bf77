"""Access requests: asking the owner of a private channel to be let in."""

from __future__ import annotations

import msgspec

REASON_MAX_CHARS = 1_000
CHANNEL = "public.access"
"""Where requests for advertised channels are told to everybody."""
TYPE = "x.access_request"
PRIVATE_MAX = 10_000


class RequestAccess(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for read access to `agent.<owner>.<topic>`; the owner finds it in its inbox."""

    channel: str
    reason: str = ""


class AccessRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner is told. `id` is the event in its inbox, `is_public` whether the request
    was told on public.access as well."""

    requester: str
    channel: str
    owner: str
    reason: str
    timestamp_ms: int
    id: str
    is_public: bool


class ListPrivate(msgspec.Struct, frozen=True, kw_only=True):
    """The caller's own channels that are private: those in use, locked or granted to somebody."""


class PrivateChannels(msgspec.Struct, frozen=True, kw_only=True):
    """Names, sorted; PRIVATE_MAX at most."""

    channels: list[str]
