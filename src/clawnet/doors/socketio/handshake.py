"""Who connects: from the `auth` of a Socket.IO client to a caller, for both versions of C2CP.

A token is an account's own (also a dashboard session's), or the secret that agents share, with
which an agent enrols and somebody without an agent's id may look on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clawnet.core.callers import STRANGER, Caller
from clawnet.core.calls.fleet import CAPABILITIES_MAX, Enrol, Enrolled, ReadSecret, Report
from clawnet.core.channels import is_account_id
from clawnet.core.cursors import Cursor, parse_cursor
from clawnet.core.errors import BadRequest, ClawError, Forbidden, PayloadTooLarge, Unauthenticated
from clawnet.hub.hub import Hub

TOKEN_MAX_CHARS = 16_384
NAME_MAX_CHARS = 200
VERSIONS = {1: 1, 2: 2, "1": 1, "2": 2}
UNAUTHORIZED = "Unauthorized"
"""What a client is told whatever was wrong with its token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A client's `auth`, taken apart. `agent_id` is folded, `given_id` as it was spelled."""

    token: str
    version: int
    agent_id: str | None
    given_id: str | None
    role: str | None
    world: str | None
    specs: dict[str, Any]
    capabilities: list[str] | None
    since: Cursor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """Who a client is. `session_token` is there if it enrolled by the secret, `is_agent` says
    whether it speaks for its account or only looks on."""

    caller: Caller
    is_agent: bool
    given_id: str
    session_token: str | None = None


def read_auth(auth: Any) -> Asked:
    """Take a client's `auth` apart. Raises Unauthenticated, BadRequest."""
    if not isinstance(auth, dict):
        raise unauthorized(next='Connect with auth: {"token": "…", "agent_id": "…"}.')
    token = auth.get("token") or auth.get("auth_token")
    if not isinstance(token, str) or not 0 < len(token) <= TOKEN_MAX_CHARS:
        raise unauthorized(next="Give the account's token, or the secret that agents share.")
    protocol = auth.get("protocol")
    if protocol is None:
        version: int | None = 1
    elif isinstance(protocol, (int, str)) and not isinstance(protocol, bool):
        version = VERSIONS.get(protocol)
    else:
        version = None
    if version is None:
        raise BadRequest("protocol must be 1 or 2.", next="Leave protocol out to speak version 1.")
    given = _text(auth, "agent_id")
    agent_id = None
    if given is not None:
        agent_id = given.strip().lower()
        if not is_account_id(agent_id):
            raise BadRequest(
                f"agent_id {ascii(given[:80])} cannot be an agent's id.",
                next="Use 1 to 64 of a-z, 0-9, _ and - for agent_id.",
            )
    specs: dict[str, Any] = {}
    for name in ("specs", "agent_metadata", "system_stats"):
        part = auth.get(name)
        if isinstance(part, dict):
            specs |= part
        elif part is not None:
            raise BadRequest(f"{name} must be an object.", next=f"Leave {name} out if unsure.")
    capabilities = auth.get("capabilities")
    if capabilities is not None and not (
        isinstance(capabilities, list)
        and len(capabilities) <= CAPABILITIES_MAX
        and all(isinstance(one, str) and len(one) <= NAME_MAX_CHARS for one in capabilities)
    ):
        raise BadRequest(
            f"capabilities must be a list of at most {CAPABILITIES_MAX} names.",
            next="Leave capabilities out if unsure.",
        )
    since = _text(auth, "since")
    return Asked(
        token=token,
        version=version,
        agent_id=agent_id,
        given_id=given,
        role=_text(auth, "role"),
        world=_text(auth, "world"),
        specs=specs,
        capabilities=capabilities,
        since=None if since is None else parse_cursor(since),
    )


async def admit(hub: Hub, asked: Asked, *, address: str, is_local: bool) -> Admitted:
    """Who this is. Raises Unauthenticated for whatever is wrong with the token, else ClawError."""
    session_token: str | None = None
    try:
        # What is no token may be the secret, whose refusals are noted where it is asked.
        caller = hub.authenticate(asked.token, is_last=False)
    except Unauthenticated as error:
        if error.is_expired:
            hub.refusals.note(None, "Socket.IO", error)
            raise unauthorized(next="Get another token; this one has expired.") from None
        if asked.agent_id is None:
            return await _onlooker(hub, asked, address)
        enrolled = await _enrolled(hub, asked, address=address, is_local=is_local)
        session_token = enrolled.session_token
        # Between the two its token may have been revoked.
        try:
            caller = hub.authenticate(session_token)
        except Unauthenticated:
            raise unauthorized() from None
    with hub.refusals.noting(caller, "Socket.IO"):
        if asked.agent_id is not None and caller.account != asked.agent_id:
            raise unauthorized(
                next="Connect with the agent_id of the account that the token is of."
            )
        if asked.world is not None and caller.world != asked.world:
            raise unauthorized(next="Leave world out: the token says which it is.")
    return Admitted(
        caller=caller,
        is_agent=asked.agent_id is not None,
        given_id=asked.given_id or caller.account or "",
        session_token=session_token,
    )


def reported(asked: Asked) -> Report | None:
    """What an agent says of itself as it connects; None if nothing."""
    if asked.role is None and not asked.specs and asked.capabilities is None:
        return None
    return Report(role=asked.role, specs=asked.specs or None, capabilities=asked.capabilities)


def unauthorized(*, next: str | None = None, reason: str | None = None) -> Unauthenticated:
    """The refusal that is the same for every cause; `next` may help who is honest."""
    if reason is None:
        return Unauthenticated(UNAUTHORIZED, next=next)
    return Unauthenticated(UNAUTHORIZED, next=next, reason=reason)


async def _onlooker(hub: Hub, asked: Asked, address: str) -> Admitted:
    try:
        world = await hub.call(ReadSecret(secret=asked.token, address=address), caller=STRANGER)
    except (Unauthenticated, Forbidden) as error:
        raise unauthorized(next=error.next) from None
    if asked.world is not None and world != asked.world:
        raise unauthorized()
    # It has no account, so it may read what anybody may, and say nothing.
    caller = Caller(account=None, world=world, scopes=frozenset({"events:read"}))
    return Admitted(caller=caller, is_agent=False, given_id="")


async def _enrolled(hub: Hub, asked: Asked, *, address: str, is_local: bool) -> Enrolled:
    call = Enrol(
        secret=asked.token,
        agent_id=asked.given_id or "",
        role=asked.role,
        address=address,
        is_local=is_local,
    )
    try:
        answer = await hub.call(call, caller=STRANGER)
    except (Unauthenticated, Forbidden) as error:
        reason = error.facts.get("reason")
        raise unauthorized(next=error.next, reason=reason) from None
    assert isinstance(answer, Enrolled)
    return answer


def _text(auth: dict[str, Any], name: str) -> str | None:
    value = auth.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > NAME_MAX_CHARS:
        raise BadRequest(
            f"{name} must be a text of at most {NAME_MAX_CHARS} characters.",
            next=f"Correct {name}, or leave it out.",
        )
    return value


def is_ignored(error: ClawError) -> bool:
    """Whether a report that was refused lets its agent in all the same."""
    return not isinstance(error, (BadRequest, PayloadTooLarge))
