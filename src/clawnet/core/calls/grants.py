"""Grants: the only source of rights beside the channel table; and the lock of a channel."""

from __future__ import annotations

from typing import Literal

import msgspec

Verb = Literal["publish", "read", "dispatch"]
VERBS: tuple[Verb, ...] = ("publish", "read", "dispatch")
"""`dispatch` holds on `agent.<id>.tasks` alone: to give that account work."""


class Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give `account` rights on a channel that the caller owns.

    `channel` is a name or a pattern; a bare topic (no dot) means
    `agent.<caller>.<topic>`. `from_offset` hides what lies before it.
    """

    account: str
    channel: str
    verbs: list[Verb] = msgspec.field(default_factory=lambda: ["read"])
    from_offset: int | None = None


class Revoke(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take rights back, at once, on live subscriptions too. No verbs: all of them."""

    account: str
    channel: str
    verbs: list[Verb] | None = None


class Revoked(msgspec.Struct, frozen=True, kw_only=True):
    """What the account has left on that channel. `changed` is False if it had nothing there."""

    account: str
    channel: str
    verbs: list[Verb]
    changed: bool = True


class ListGrants(msgspec.Struct, frozen=True, kw_only=True):
    """Grants the caller gave or was given; a master sees all of the world."""

    account: str | None = None
    channel: str | None = None


class GrantInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who may do what where, since when and by whose word."""

    account: str
    channel: str
    verbs: list[Verb]
    from_offset: int | None
    granted_by: str
    created: str


class GrantList(msgspec.Struct, frozen=True, kw_only=True):
    """Grants by account and channel."""

    grants: list[GrantInfo]


class Unlock(msgspec.Struct, frozen=True, kw_only=True):
    """Let any account read a channel `agent.<caller>.<topic>` (bare topics as in Grant)."""

    channel: str


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    """Make it the owner's and the granted's again, at once."""

    channel: str


class LockState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the channel is private (locked) now."""

    channel: str
    locked: bool
