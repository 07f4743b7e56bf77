"""Tokens: opaque, 256 bit, shown once, stored as a hash; and short-lived JWTs made from them."""

from __future__ import annotations

from typing import Literal

import msgspec

SCOPES = (
    "*",
    "events:read",
    "events:write",
    "accounts:read",
    "accounts:write",
    "tokens:write",
    "grants:write",
    "tasks:write",
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


class IssueJwt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A short-lived token (a JWT) for the caller's own account, made from the token shown.

    It ends with that token at the latest. `ttl_s` None is a quarter of an hour, or the longest
    that the hub allows if that is less; `scopes` None are those of that token.
    """

    ttl_s: float | None = None
    scopes: list[str] | None = None


class JwtIssued(msgspec.Struct, frozen=True, kw_only=True):
    """`token` is a bearer token on every door; `jti` is the id by which it can be revoked."""

    token: str
    type: Literal["Bearer"] = "Bearer"
    expires: str
    expires_in_s: float
    jti: str
    scopes: list[str]


class ListTokens(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of an account (None: one's own; a master: anyone's)."""

    account: str | None = None


class TokenInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a token but the token.

    `kind` is `jwt` for a short-lived one that was shown since the hub started; `parent` is the
    token it stands for. `last_used` is exact to a second, and to a minute after a crash.
    """

    id: str
    account: str
    name: str
    scopes: list[str]
    created: str
    expires: str | None
    last_used: str | None = None
    kind: Literal["opaque", "jwt"] = "opaque"
    parent: str | None = None


class TokenList(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens by creation."""

    tokens: list[TokenInfo]


class RevokeToken(msgspec.Struct, frozen=True, kw_only=True):
    """End a token or a JWT (by its jti) now, on live connections too. By its owner or a master."""

    id: str


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """It is so. `changed` is False if it was so before."""

    changed: bool = True
