"""Grants: list, give, take back."""

from __future__ import annotations

import msgspec

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
from clawnet.core.errors import BadRequest
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.describe import operation
from clawnet.doors.http.query import Query
from clawnet.doors.http.request import Request

_grant = msgspec.json.Decoder(Grant)
_revoke = msgspec.json.Decoder(Revoke)


@operation(tag="grants", answer=GrantList, query={"account": str, "channel": str})
async def list_all(request: Request) -> Answer:
    """List the grants that the caller gave or was given."""
    query = request.query("account", "channel")
    call = ListGrants(account=query.text("account"), channel=query.text("channel"))
    return json_answer(await request.call(call, request.caller()))


_EXAMPLE = {"account": "bob", "channel": "plan"}


@operation(tag="grants", body=Grant, example=_EXAMPLE, answer=GrantInfo, status=201)
async def give(request: Request) -> Answer:
    """Give an account rights on one's own channel."""
    request.query()
    caller = request.caller()
    call = await request.body(_grant)
    return json_answer(await request.call(call, caller), status=201)


@operation(
    tag="grants",
    body=Revoke,
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
        call = await request.body(_revoke)
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
