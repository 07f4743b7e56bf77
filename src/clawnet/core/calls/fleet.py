"""The fleet: who enrolled, what each agent reports of its machine, and what it can do."""

from __future__ import annotations

from typing import Any

import msgspec

REPORT_MAX_BYTES = 32_768
CAPABILITIES_MAX = 64
SYSTEM_CHANNEL = "system.fleet"
"""Signals `fleet.reported` for masters and wardens; events `fleet.enrolled`, `fleet.taken_over`."""


class Enrol(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Become `agent_id` by the shared secret (`<world>:<secret>` with several worlds).

    The first time makes the account, later ones only where fleet.secret_reenrol allows it; never
    for a master, a warden, or an account that used a token of its own. `role` is worker unless
    fleet.secret_roles allows another. By STRANGER; raises Unauthenticated, Forbidden, BadRequest,
    RateLimited.
    """

    secret: str
    agent_id: str
    role: str | None = None
    handle: str | None = None
    address: str = ""
    is_local: bool = False


class Enrolled(msgspec.Struct, frozen=True, kw_only=True):
    """`session_token` is an account token, shown here and never again."""

    session_token: str
    agent_id: str
    handle: str
    world: str
    role: str
    created: bool


class ReadSecret(msgspec.Struct, frozen=True, kw_only=True):
    """Whose world a shared secret opens to somebody who only looks on. Answered with the world's
    name (str); raises Unauthenticated."""

    secret: str
    address: str = ""


class OpenSession(msgspec.Struct, frozen=True, kw_only=True):
    """A token for who shows the shared secret and is no agent: a dashboard, a script.

    It is a master's where fleet.secret_roles allows that, else one that only reads. `is_standing`
    asks for the one that the hub keeps for who shows the secret with each request. Answered with
    SessionOpened; raises Unauthenticated, RateLimited, Unavailable.
    """

    secret: str
    address: str = ""
    is_standing: bool = False


class SessionOpened(msgspec.Struct, frozen=True, kw_only=True):
    """`token` is an account token of `account`, which the hub made for such sessions."""

    token: str
    expires: str
    world: str
    account: str
    role: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of itself; what is left out stays as it was. JSON objects, bounded by
    REPORT_MAX_BYTES together. Answered with None."""

    role: str | None = None
    status: str | None = None
    specs: dict[str, Any] | None = None
    resource_usage: dict[str, Any] | None = None
    cron: Any = None
    sessions: Any = None
    capabilities: list[str] | None = None


class FleetAgent(msgspec.Struct, frozen=True, kw_only=True):
    """An account of the fleet. `role` is as it calls itself, `given_id` as it spelled its id.
    `cron` and `sessions` are None for who may not see them."""

    id: str
    given_id: str
    handle: str
    role: str
    account_role: str
    status: str
    since: str | None
    last_seen: str | None
    specs: dict[str, Any]
    resource_usage: dict[str, Any]
    capabilities: list[str]
    cron: Any = None
    sessions: Any = None
    text: str | None = None


class ReadFleet(msgspec.Struct, frozen=True, kw_only=True):
    """Who is of the fleet of the caller's world: everyone that reported or is connected. Answered
    with Fleet; `revision` grows with each change, `agent` asks for one alone."""

    agent: str | None = None


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    agents: list[FleetAgent]
    revision: int
