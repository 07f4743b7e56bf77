"""Wake leases: whether an agent can be woken now, by the word of its own process."""

from __future__ import annotations

import msgspec

LEASE_MIN_S = 5.0
LEASE_MAX_S = 300.0
HOW_MAX_CHARS = 64


class HoldWake(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The calling process can be woken for the next `ttl_s` seconds (5 to 300); `how` names it.

    Renewed by calling again, in time. One lease for each token; it ends with the token,
    and with the hub's process: after a restart the process just renews it.
    """

    how: str = "process"
    ttl_s: float = 30.0


class EndWake(msgspec.Struct, frozen=True, kw_only=True):
    """The calling process (by its token) cannot be woken any more."""


class ReadWake(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an account of one's world can be woken now."""

    account: str


class WakeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """`held` until `until` by `how`; else `ended` is when the last lease did, if one is known."""

    account: str
    held: bool
    how: str | None
    until: str | None
    ended: str | None
    reason: str
