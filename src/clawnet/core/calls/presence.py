"""Presence: who is connected."""

from __future__ import annotations

import msgspec


class ReadPresence(msgspec.Struct, frozen=True, kw_only=True):
    """The accounts of one's world that are online or idle, by id, behind `after`."""

    after: str = ""
    limit: int = 100


class PresenceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """`status` is online, or idle: connected, and did nothing for a while or said so itself;
    `since` when so. `text` is what the account says of its status, if it says something."""

    account: str
    handle: str
    status: str
    since: str
    text: str | None = None


class PresenceList(msgspec.Struct, frozen=True, kw_only=True):
    """A page; `next` is the `after` of the next one."""

    accounts: list[PresenceInfo]
    next: str | None
