"""What a Centrifugo must be told when a right was taken away, read from the log's own events.

The hub obeys a narrowing by itself and at once. Centrifugo asks only when somebody subscribes, so
whoever follows already goes on until it is told.
"""

from __future__ import annotations

import msgspec

from clawnet.core.channels import is_pattern

CHANNELS = frozenset({"system.grants", "system.tokens", "system.accounts"})
"""Where the hub tells of them."""

RIGHTS_CHANGED = (4000, "rights changed")
"""Centrifugo's clients come back after 4000 to 4499 and follow again what they still may."""
TOKEN_REVOKED = (4001, "token revoked")
ACCOUNT_DELETED = (4500, "account deleted")
"""They stay away after 4500 to 4999."""


class Leave(msgspec.Struct, frozen=True):
    """An account may not follow this channel any more."""

    user: str
    channel: str


class Empty(msgspec.Struct, frozen=True):
    """Whoever is on this channel and may not follow it any more has to leave."""

    channel: str


class End(msgspec.Struct, frozen=True):
    """An account's connections have to end."""

    user: str
    code: int
    reason: str


Order = Leave | Empty | End


class _Was(msgspec.Struct, frozen=True):
    role: str = ""


class _Data(msgspec.Struct, frozen=True):
    account: str = ""
    channel: str = ""
    verbs: list[str] = []
    role: str = ""
    was: _Was = _Was()


class _Note(msgspec.Struct, frozen=True):
    seq: int
    type: str
    data: _Data


_note = msgspec.json.Decoder(_Note).decode


def order_of(body: bytes) -> Order | None:
    """What follows from one event of CHANNELS (a native envelope), if anything."""
    try:
        note = _note(body)
    except msgspec.ValidationError:
        # An imported log may hold data of another make; no right hangs on it.
        return None
    data = note.data
    match note.type:
        case "grant.revoked" if "read" not in data.verbs:
            if is_pattern(data.channel):
                return End(data.account, *RIGHTS_CHANGED)
            return Leave(data.account, data.channel)
        case "channel.locked":
            return Empty(data.channel)
        case "token.revoked":
            return End(data.account, *TOKEN_REVOKED)
        case "account.deleted":
            return End(data.account, *ACCOUNT_DELETED)
        case "account.updated" if data.was.role == "warden" != data.role:
            return End(data.account, *RIGHTS_CHANGED)
    return None
