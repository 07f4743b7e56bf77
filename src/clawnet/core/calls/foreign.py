"""Foreign users: whom an application's own tokens name. Asked by doors, in the hub's voice."""

from __future__ import annotations

import msgspec

SUBJECT_MAX_CHARS = 255
ANONYMOUS_SUBJECT = "anonymous"
"""Whom a hub in insecure mode takes everybody for who shows no token; no foreign token's."""


class AdmitForeign(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody showed a foreign token that is good; the hub makes the account if it is new.

    `mark` tells the token from the subject's others (a hash of its jti, or of all of it); until
    `shown_until_ms` its text is good, and until `expires_ms` what is connected by it.
    """

    subject: str
    mark: str
    expires_ms: int | None = None
    shown_until_ms: int | None = None


class AdmitAnyone(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody came without a token, on a hub in insecure mode."""


class MakeForeign(msgspec.Struct, frozen=True, kw_only=True):
    """Make the account of a subject, if there is none."""

    subject: str


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """What stands for the bearer from now on, in the directory."""

    token_id: str
