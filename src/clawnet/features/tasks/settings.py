"""What tasks can be told. app.config merges and documents it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class TasksSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a task may be in which status, and which commands need a second look."""

    timeout_s: Annotated[
        float, Meta(gt=0, description="How long a task may run if its dispatch does not say.")
    ] = 300.0
    lease_s: Annotated[
        float,
        Meta(gt=0, description="How long a worker may be silent; each update renews it."),
    ] = 120.0
    ack_timeout_s: Annotated[
        float,
        Meta(gt=0, description="How long a worker that is there may take to acknowledge."),
    ] = 120.0
    queue_ttl_s: Annotated[
        float, Meta(gt=0, description="How long a task waits for a worker that is not there.")
    ] = 86_400.0
    approval_ttl_s: Annotated[
        float, Meta(gt=0, description="How long a task waits for a master's approval.")
    ] = 86_400.0
    open_per_account_max: Annotated[
        int, Meta(ge=1, description="How many open tasks an account may have, given or taken.")
    ] = 10_000
    dispatches_per_s: Annotated[
        float, Meta(gt=0, description="Tasks per second that an account may give for long.")
    ] = 50.0
    dispatches_burst: Annotated[
        float, Meta(ge=1, description="Tasks that an account may give at once.")
    ] = 500.0
    command_denylist: Annotated[
        list[str], Meta(description="Commands with one of these in them are rejected.")
    ] = []
    command_riskylist: Annotated[
        list[str],
        Meta(description="Commands with one of these in them wait for a master's approval."),
    ] = []
