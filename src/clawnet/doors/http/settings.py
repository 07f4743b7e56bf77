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
    chat_per_s: Annotated[
        float,
        Meta(
            gt=0,
            description="Requests per second on rooms, messages and handles that an account, or"
            " without one an address, may make for long.",
        ),
    ] = 100.0
    chat_burst: Annotated[
        float, Meta(ge=1, description="Requests of that kind that it may make at once.")
    ] = 150.0
    unauthenticated_per_s: Annotated[
        float,
        Meta(
            gt=0,
            description="Requests per second that an address may make for long which are refused"
            " for want of a valid token.",
        ),
    ] = 10.0
    unauthenticated_burst: Annotated[
        float, Meta(ge=1, description="Requests of that kind that it may make at once.")
    ] = 100.0
