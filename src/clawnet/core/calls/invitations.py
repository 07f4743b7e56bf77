"""Invitations: a link that makes one account, once. And what needs no token: redeeming it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from clawnet.core.calls.accounts import AccountInfo, AccountKind, Role

SECRET_PREFIX = "inv_"
EXPIRES_MAX_S = 30 * 86_400.0
GRANTS_MAX = 100

Nonce = Annotated[
    str,
    msgspec.Meta(
        min_length=16,
        max_length=128,
        description="Random text of the client's own, the same when it asks again.",
    ),
]


class CreateInvitation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By a master. The account that redeems it gets this role, kind and rights.

    `id` fixes the account's id, else whoever redeems it chooses. `grants` are channels and
    patterns that the inviter may grant; the account may read them. The account's token has the
    scopes of the inviter's, and ends with it if that expires.
    """

    id: str | None = None
    role: Role = "worker"
    kind: AccountKind = "agent"
    expires_in_s: float = 86_400.0
    grants: list[str] = []


class InvitationCreated(msgspec.Struct, frozen=True, kw_only=True):
    """`link` holds the secret, behind a #, and is shown here and never again."""

    id: str
    link: str
    account: str | None
    role: Role
    kind: AccountKind
    expires: str


class ListInvitations(msgspec.Struct, frozen=True, kw_only=True):
    """The invitations of one's world, those made last first."""


InvitationStatus = Literal["open", "redeemed", "expired", "void"]
"""`void`: whoever invited is no master any more, or the token it was made with was revoked."""


class InvitationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about an invitation but its secret. `redeemed_as` is the account it made."""

    id: str
    status: InvitationStatus
    account: str | None
    role: Role
    kind: AccountKind
    grants: list[str]
    created_by: str
    created: str
    expires: str
    redeemed_as: str | None
    redeemed: str | None


class InvitationList(msgspec.Struct, frozen=True, kw_only=True):
    """The open ones, and those that were used or expired not long ago."""

    invitations: list[InvitationInfo]


class RevokeInvitation(msgspec.Struct, frozen=True, kw_only=True):
    """End an invitation now. The account that it has made already stays."""

    id: str


class RedeemInvitation(msgspec.Struct, frozen=True, kw_only=True):
    """Become an account, without a token. `address` is where the request comes from.

    If the answer was lost, the same secret, id and nonce within ten minutes give a fresh token.
    """

    secret: str
    nonce: str
    id: str | None = None
    handle: str | None = None
    address: str = ""


class Register(msgspec.Struct, frozen=True, kw_only=True):
    """Make oneself an account on a hub that runs with --dev, without a token or an invitation."""

    id: str
    handle: str | None = None
    address: str = ""


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """A new account and its token, which is shown here and never again."""

    account: AccountInfo
    token: str
    token_id: str
    scopes: list[str]
    expires: str | None
