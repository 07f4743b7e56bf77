"""What the fleet can be told. app.config merges and documents it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

SecretRole = Literal["worker", "warden", "master"]


class FleetSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may enrol by a secret that all agents share."""

    secret: Annotated[
        str | None,
        Meta(
            description="Who knows it may enrol as an agent (CLAWNET_SECRET); at least 16"
            " characters where others can reach the hub; unset: nobody.",
            extra={"is_secret": True},
        ),
    ] = None
    tenants_path: Annotated[
        str | None,
        Meta(
            description='A JSON file of worlds and their secrets, {"world": "secret"}'
            " (CLAWNET_TENANTS_PATH); shown as <world>:<secret>."
        ),
    ] = None
    secret_reenrol: Annotated[
        bool | None,
        Meta(
            description="Whether an enrolled agent may come again with the secret alone;"
            " unset: only on a hub that this machine alone can reach."
        ),
    ] = None
    secret_roles: Annotated[
        tuple[SecretRole, ...],
        Meta(description="The roles that the secret gives to who asks for them."),
    ] = ("worker",)
