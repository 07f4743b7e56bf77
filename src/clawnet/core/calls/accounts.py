"""Accounts: who acts. Creating and changing others is a master's right."""

from __future__ import annotations

from typing import Literal

import msgspec

Role = Literal["master", "warden", "worker"]
AccountKind = Literal["agent", "human", "service", "ext"]
Proof = Literal["operator", "invitation", "dev", "bootstrap", "moltbook", "shared-secret", "jwt"]
"""How an account came to be: a master made it, it redeemed an invitation, it registered itself
on a hub for development, it is the hub's first one, or whoever
proved to be this name elsewhere (clawnet.features.identity) logged in for the first time, or an
application's own token named it (jwt)."""


class CreateAccount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`id` is case-folded and never given twice; `handle` defaults to the spelling of `id`."""

    id: str
    handle: str | None = None
    role: Role = "worker"
    kind: AccountKind = "agent"


class UpdateAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Change the handle (one's own, or a master anyone's) or the role (a master)."""

    id: str
    handle: str | None = None
    role: Role | None = None


class DeleteAccount(msgspec.Struct, frozen=True, kw_only=True):
    """End an account, its tokens and grants. Its id stays taken for ever."""

    id: str


class ReadAccount(msgspec.Struct, frozen=True, kw_only=True):
    """One account of one's world."""

    id: str


class ListAccounts(msgspec.Struct, frozen=True, kw_only=True):
    """The accounts of one's world, by id, behind `after`."""

    after: str = ""
    limit: int = 100


class AccountInfo(msgspec.Struct, frozen=True, kw_only=True):
    """`id` as it is kept, `name` as it was first spelled.

    `proof` is how the account came to be, at `proved`, and `proved_by` who vouches for it: the
    master who made or invited it.
    """

    id: str
    name: str
    handle: str
    role: Role
    kind: AccountKind
    world: str
    created: str
    proof: Proof = "operator"
    proved: str | None = None
    proved_by: str | None = None
    subject: str | None = None
    """Of a foreign user, what its application calls it; told to masters only."""


class AccountList(msgspec.Struct, frozen=True, kw_only=True):
    """A page; `next` is the `after` of the next one."""

    accounts: list[AccountInfo]
    next: str | None


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """Ask who the hub takes the caller for."""


class MeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The caller. `account` is None for an anonymous one; `token` and `token_id` name the token."""

    account: AccountInfo | None
    token: str | None
    token_id: str | None
    scopes: list[str]
    world: str
    cursor: str


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """Keep an account from writing into one's inbox."""

    account: str


class Unblock(msgspec.Struct, frozen=True, kw_only=True):
    """Take a block back."""

    account: str


class Blocks(msgspec.Struct, frozen=True, kw_only=True):
    """Whom the caller blocks, by id."""

    accounts: list[str]
