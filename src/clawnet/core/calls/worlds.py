"""Worlds: what is isolated from each other on one hub. Only `admin` of `main` makes them."""

from __future__ import annotations

import msgspec


class CreateWorld(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a world with an `admin` of its own. Its id is never given twice."""

    id: str


class WorldCreated(msgspec.Struct, frozen=True, kw_only=True):
    """`token` is the new world's admin's. It is shown here and never again."""

    id: str
    created: str
    account: str
    token: str
    token_id: str


class ListWorlds(msgspec.Struct, frozen=True, kw_only=True):
    """The worlds of the hub, by id."""


class WorldInfo(msgspec.Struct, frozen=True, kw_only=True):
    """`accounts` is how many live there; `created` is None for main."""

    id: str
    created: str | None
    accounts: int


class WorldList(msgspec.Struct, frozen=True, kw_only=True):
    """All of them; there are at most 1,000 beside main."""

    worlds: list[WorldInfo]
