"""The audit chain: its newest records, and the key that its checkpoints are signed with."""

from __future__ import annotations

from typing import Any

import msgspec

AUDIT_LIMIT_MAX = 1_000


class ReadAudit(msgspec.Struct, frozen=True, kw_only=True):
    """Records of the caller's world, by a master or a warden: those behind line `after`, or the
    newest `limit`. Answered with AuditPage."""

    after: int | None = None
    limit: int = 100


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """Records as they stand in the chain, each with its `line`. `next` is the `after` to go on
    with. Only the newest some thousand can be had here; the file has them all."""

    records: list[dict[str, Any]]
    next: int


class ReadAuditKey(msgspec.Struct, frozen=True, kw_only=True):
    """The public key of the checkpoints. Answered with AuditKey."""


class AuditKey(msgspec.Struct, frozen=True, kw_only=True):
    """`public_key` is the raw key in base64, `fingerprint` what checkpoints call it."""

    algorithm: str
    public_key: str
    fingerprint: str
