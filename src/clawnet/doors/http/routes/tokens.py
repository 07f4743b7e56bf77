"""Tokens: list, create, revoke."""

from __future__ import annotations

import msgspec

from clawnet.core.calls.tokens import CreateToken, ListTokens, RevokeToken
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.request import Request

_create = msgspec.json.Decoder(CreateToken)


async def list_all(request: Request) -> Answer:
    """GET /api/v1/tokens"""
    account = request.query("account").text("account")
    return json_answer(await request.call(ListTokens(account=account), request.caller()))


async def create(request: Request) -> Answer:
    """POST /api/v1/tokens"""
    request.query()
    caller = request.caller()
    call = await request.body(_create)
    return json_answer(await request.call(call, caller), status=201)


async def revoke(request: Request) -> Answer:
    """DELETE /api/v1/tokens/{id}"""
    request.query()
    return json_answer(await request.call(RevokeToken(id=request.member("id")), request.caller()))
