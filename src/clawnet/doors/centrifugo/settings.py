"""What the Centrifugo door can be told. app.config merges and documents it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class CentrifugoSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For Centrifugo's clients and backends. The key of their tokens is tokens.jwt_key."""

    api_key: Annotated[
        str | None,
        Meta(
            description="The key of the server API (/api/<method>), also shown to a Centrifugo"
            " in front; unset: there is no server API.",
            extra={"is_secret": True},
        ),
    ] = None
    proxy_secret: Annotated[
        str | None,
        Meta(
            description="What a Centrifugo in front must send as X-Clawnet-Proxy-Secret to ask"
            " /proxy/*; unset: nobody may ask.",
            extra={"is_secret": True},
        ),
    ] = None
    token_audience: Annotated[
        str | None,
        Meta(description="Whom an application's own tokens must be for (aud); unset: anybody."),
    ] = None
    token_issuer: Annotated[
        str | None,
        Meta(description="Who an application's own tokens must be from (iss); unset: anybody."),
    ] = None
    anonymous: Annotated[
        bool | None,
        Meta(
            description="Whether clients may connect without a token, to read what anyone may;"
            " unset: as channels.anonymous_read."
        ),
    ] = None
    insecure: Annotated[
        bool,
        Meta(
            description="Whether clients without a token may do everything on declared free names."
        ),
    ] = False
    personal_channels: Annotated[
        bool,
        Meta(
            description="Whether each connection of a user is subscribed to the user's own channel,"
            " #<user>, if its namespace is declared."
        ),
    ] = False
    personal_namespace: Annotated[
        str,
        Meta(
            pattern="^[A-Za-z0-9_-]{0,64}$",
            description="The namespace of these channels, as <namespace>:#<user>.",
        ),
    ] = ""
    ping_s: Annotated[
        float, Meta(gt=0, description="How often a client is pinged; it must answer.")
    ] = 25.0
    pong_timeout_s: Annotated[
        float, Meta(gt=0, description="How long a client may take to answer a ping.")
    ] = 8.0
    recovery_publications_max: Annotated[
        int,
        Meta(
            ge=1,
            description="How many missed events stand in the answer to a subscribe;"
            " the rest follows as publications.",
        ),
    ] = 300
