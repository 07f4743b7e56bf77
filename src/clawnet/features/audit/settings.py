"""What the audit chain can be told. app.config merges and documents it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class AuditSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The chain of records in traffic.log, and where its checkpoints go."""

    enabled: Annotated[bool, Meta(description="Whether the chain is written at all.")] = True
    checkpoint_records: Annotated[
        int, Meta(ge=1, description="After so many records a signed checkpoint is made.")
    ] = 1_000
    checkpoint_s: Annotated[
        float, Meta(gt=0, description="And after so long, if there were any.")
    ] = 600.0
    rotate_bytes: Annotated[
        int, Meta(ge=65_536, description="A file of this size is put aside and a new one begun.")
    ] = 67_108_864
    witness: Annotated[
        str | None,
        Meta(
            description="A URL that is sent every checkpoint (POST, JSON); unset: none, and then"
            " whoever holds the key can write the whole chain anew."
        ),
    ] = None
