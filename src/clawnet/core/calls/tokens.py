"""Tokens: opaque, 256 bit, shown once, stored as a hash."""

from __future__ import annotations

import msgspec

SCOPES = (
    "*",
    "events:read",
    "events:write",
    "accounts:read",
    "accounts:write",
    "tokens:write",
    "grants:write",
)
"""What a token may be narrowed to. `*` is everything its account may do."""


class CreateToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token for `account` (None: the caller's own; another's only by a master).

    Its scopes are never wider than the caller's.
    """

    account: str | None = None
    name: str = "default"
    scopes: list[str] = msgspec.field(default_factory=lambda: ["*"])
    expires_in_s: float | None = None


class TokenCreated(msgspec.Struct, frozen=True, kw_only=True):
    """`token` is shown here and never again."""

    id: str
    token: str
    account: str
    name: str
    scopes: list[str]
    expires: str | None


class ListTokens(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of an account (None: one's own; a master: anyone's)."""

    account: str | None = None


class TokenInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a token but the token."""

    id: str
    account: str
    name: str
    scopes: list[str]
    created: str
    expires: str | None


class TokenList(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens by creation."""

    tokens: list[TokenInfo]


class RevokeToken(msgspec.Struct, frozen=True, kw_only=True):
    """End a token now, on live connections too. By its owner or a master."""

    id: str


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """It is so. `changed` is False if it was so before."""

    changed: bool = True
