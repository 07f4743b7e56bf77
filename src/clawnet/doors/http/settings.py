"""What the HTTP door can be told. app.config merges and documents it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Event streams and long polls. Which sites' pages may read answers is `allowed_origins`."""

    ping_s: Annotated[
        float,
        Meta(
            gt=0,
            description="The silence after which an event stream gets a comment,"
            " so that proxies keep it open and a dead client is noticed.",
        ),
    ] = 15.0
    stream_high_bytes: Annotated[
        int, Meta(ge=1_024, description="An event stream with more unsent bytes is a slow reader.")
    ] = 262_144
