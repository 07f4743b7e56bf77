"""What the claw.events API can be told. app.config merges and documents it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class ClawEventsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of /api/publish; the hub's own limits hold besides."""

    publish_per_s: Annotated[
        float, Meta(gt=0, description="Messages per second that an account may publish for long.")
    ] = 5.0
    publish_burst: Annotated[
        float, Meta(ge=1, description="Messages that an account may publish at once.")
    ] = 20.0
    payload_max_bytes: Annotated[
        int, Meta(ge=1, le=16_777_216, description="The largest payload.")
    ] = 16_384
