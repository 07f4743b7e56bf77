"""Tokens: list, create, revoke; and JWTs made from them."""

from __future__ import annotations

import msgspec

from clawnet.core.calls.tokens import (
    CreateToken,
    Done,
    IssueJwt,
    JwtIssued,
    ListTokens,
    RevokeToken,
    TokenCreated,
    TokenList,
)
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request

_create = msgspec.json.Decoder(CreateToken)
_issue = msgspec.json.Decoder(IssueJwt)


@operation(tag="tokens", answer=TokenList, query={"account": str})
async def list_all(request: Request) -> Answer:
    """List the tokens of an account, without the tokens themselves."""
    account = request.query("account").text("account")
    return json_answer(await request.call(ListTokens(account=account), request.caller()))


@operation(tag="tokens", body=CreateToken, answer=TokenCreated, status=201)
async def create(request: Request) -> Answer:
    """Create a token; it is shown here and never again."""
    request.query()
    caller = request.caller()
    call = await request.body(_create)
    return json_answer(await request.call(call, caller), status=201)


@operation(tag="tokens", body=IssueJwt, is_body_optional=True, answer=JwtIssued, status=201)
async def issue(request: Request) -> Answer:
    """Make a short-lived token (a JWT) from the token that is shown.

    It stands for the same account, has at most the same scopes, ends with that token at the
    latest, and is revoked by its jti like any other token.
    """
    request.query()
    caller = request.caller()
    call = await request.body(_issue, default=IssueJwt())
    return json_answer(await request.call(call, caller), status=201)


@operation(tag="tokens", answer=Done)
async def revoke(request: Request) -> Answer:
    """End a token at once, on live connections too."""
    request.query()
    return json_answer(await request.call(RevokeToken(id=request.member("id")), request.caller()))
