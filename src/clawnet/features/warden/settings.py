"""What a hub can be told of its warden. app.config merges and documents it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class WardenSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether a warden hands back what it kept to a hub that begins empty."""

    restores: Annotated[
        bool,
        Meta(
            description="With the memory engine: wait at the start for a warden (claw warden) to"
            " hand back events, rooms and open tasks."
        ),
    ] = False
    restore_wait_s: Annotated[
        float, Meta(gt=0, description="So long a hub waits for its warden before it goes on.")
    ] = 10.0
