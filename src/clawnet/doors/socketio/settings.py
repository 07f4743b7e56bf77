"""What the Socket.IO door can be told. app.config merges and documents it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class SocketioSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Engine.IO's times and bounds."""

    ping_interval_s: Annotated[float, Meta(gt=0, description="How often a client is pinged.")] = (
        25.0
    )
    ping_timeout_s: Annotated[float, Meta(gt=0, description="How long its pong may take.")] = 20.0
    max_http_buffer_bytes: Annotated[
        int, Meta(ge=1_024, le=16_777_216, description="The largest message of a client.")
    ] = 1_000_000
    clients_without_auth_max: Annotated[
        int, Meta(ge=1, description="How many connections may be there that have not said who.")
    ] = 1_000
