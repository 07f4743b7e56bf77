"""What the bridge can be told. app.config merges and documents it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class BridgeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Centrifugo in front of this hub. Its key is centrifugo.api_key."""

    centrifugo_url: Annotated[
        str | None,
        Meta(
            description="The HTTP API of a Centrifugo (http://centrifugo:8000/api) that is given"
            " every event its clients may follow; unset: there is none."
        ),
    ] = None
    timeout_s: Annotated[float, Meta(gt=0, description="How long it may take to answer.")] = 5.0
