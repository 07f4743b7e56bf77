"""What the HTTP door can be told. app.config merges and documents it."""

from __future__ import annotations

import msgspec


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`cors_origins` are sites (`https://chat.example`) whose pages may read answers; none by
    default. The gate has its own list of who may write. `ping_s` is the silence after which an
    event stream gets a comment, so that proxies keep it open and a dead client is noticed.
    Above `stream_high_bytes` of unsent frames a stream's reader is slow.
    """

    cors_origins: tuple[str, ...] = ()
    ping_s: float = 15.0
    stream_high_bytes: int = 262_144
