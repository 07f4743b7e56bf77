"""Grants: list, give, take back."""

from __future__ import annotations

from typing import Literal

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.grants import (
    VERBS,
    Grant,
    GrantInfo,
    GrantList,
    ListGrants,
    Revoke,
    Revoked,
    Verb,
)
from clawnet.core.errors import BadRequest, Unauthenticated
from clawnet.core.rights import tasks_channel
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.describe import operation
from clawnet.doors.http.query import Query
from clawnet.doors.http.request import Request


class GrantBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rights on a channel (`account`, `channel`, `verbs`, `from_offset`), or, as `target` with
    `right` "dispatch", the right to give the caller work."""

    account: str | None = None
    channel: str | None = None
    verbs: list[Verb] | None = None
    from_offset: int | None = None
    target: str | None = None
    right: Literal["dispatch"] | None = None


class RevokeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a grant gave, named as it was; no `verbs`: all of them."""

    account: str | None = None
    channel: str | None = None
    verbs: list[Verb] | None = None
    target: str | None = None
    right: Literal["dispatch"] | None = None


_grant = msgspec.json.Decoder(GrantBody)
_revoke = msgspec.json.Decoder(RevokeBody)


@operation(tag="grants", answer=GrantList, query={"account": str, "channel": str})
async def list_all(request: Request) -> Answer:
    """List the grants that the caller gave or was given."""
    query = request.query("account", "channel")
    call = ListGrants(account=query.text("account"), channel=query.text("channel"))
    return json_answer(await request.call(call, request.caller()))


_EXAMPLE = {"account": "bob", "channel": "plan"}


@operation(tag="grants", body=GrantBody, example=_EXAMPLE, answer=GrantInfo, status=201)
async def give(request: Request) -> Answer:
    """Give an account rights on one's own channel.

    With `target` and `right` "dispatch" instead: let it give the caller work.
    """
    request.query()
    caller = request.caller()
    body = await request.body(_grant)
    account, channel, verbs = _meant(body, caller)
    call = Grant(
        account=account,
        channel=channel,
        verbs=["read"] if verbs is None else verbs,
        from_offset=body.from_offset,
    )
    return json_answer(await request.call(call, caller), status=201)


def _meant(body: GrantBody | RevokeBody, caller: Caller) -> tuple[str, str, list[Verb] | None]:
    """Account, channel and verbs of a body. Raises BadRequest."""
    if body.target is None and body.right is None:
        for name in ("account", "channel"):
            if getattr(body, name) is None:
                raise BadRequest(
                    f"The body does not fit: Object missing required field `{name}`.",
                    next='Give account and channel, or target and right ("dispatch").',
                )
        assert body.account is not None and body.channel is not None
        return body.account, body.channel, body.verbs
    more = (body.account, body.channel, body.verbs)
    if body.target is None or body.right is None or any(part is not None for part in more):
        raise BadRequest(
            "target and right are given both, and nothing beside them.",
            next='To let bob give you work: {"target": "bob", "right": "dispatch"}.',
        )
    if caller.account is None:
        raise Unauthenticated("This needs a token.")
    return body.target, tasks_channel(caller.account), [body.right]


@operation(
    tag="grants",
    body=RevokeBody,
    example=_EXAMPLE,
    is_body_optional=True,
    answer=Revoked,
    query={"account": str, "channel": str, "verbs": str},
)
async def revoke(request: Request) -> Answer:
    """Take rights back, at once.

    By a JSON body or, for clients that send none, by the query.
    """
    query = request.query("account", "channel", "verbs")
    caller = request.caller()
    call = _from_query(query)
    if call is None:
        body = await request.body(_revoke)
        account, channel, verbs = _meant(body, caller)
        call = Revoke(account=account, channel=channel, verbs=verbs)
    return json_answer(await request.call(call, caller))


def _from_query(query: Query) -> Revoke | None:
    account, channel = query.text("account"), query.text("channel")
    verbs = query.names("verbs")
    if account is None and channel is None and not verbs:
        return None
    if account is None or channel is None:
        raise BadRequest("The query must name both account and channel.")
    taken: list[Verb] = [verb for verb in VERBS if verb in verbs]
    if len(taken) != len(verbs):
        raise BadRequest(f"verbs may be {' and '.join(VERBS)}, each once.", parameter="verbs")
    return Revoke(account=account, channel=channel, verbs=taken or None)
