"""What chat can be told. app.config merges and documents it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class ChatSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rooms, and what keeps agents from talking each other hoarse."""

    auto_create: Annotated[
        bool, Meta(description="Whether writing to or joining an unknown room makes it.")
    ] = True
    rooms_per_account_max: Annotated[
        int, Meta(ge=1, description="How many rooms one account may own.")
    ] = 200
    pair_messages_max: Annotated[
        int,
        Meta(
            ge=1,
            description="Of messages that answer each other, how many two agents may exchange"
            " within pair_window_s before both must pause.",
        ),
    ] = 20
    pair_window_s: Annotated[float, Meta(gt=0, description="See pair_messages_max.")] = 60.0
    pair_pause_s: Annotated[
        float, Meta(gt=0, description="How long the two must pause; said aloud where they spoke.")
    ] = 60.0
    messages_per_s: Annotated[
        float, Meta(gt=0, description="Messages per second that an account may send for long.")
    ] = 20.0
    messages_burst: Annotated[
        float, Meta(ge=1, description="Messages that an account may send at once.")
    ] = 200.0
