"""Accounts, the caller itself, whom it blocks, and who is connected."""

from __future__ import annotations

import msgspec

from clawnet.core.calls.accounts import (
    Block,
    Blocks,
    CreateAccount,
    DeleteAccount,
    ListAccounts,
    Me,
    ReadAccount,
    Role,
    Unblock,
    UpdateAccount,
)
from clawnet.core.calls.presence import ReadPresence
from clawnet.core.errors import BadRequest
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.request import Request


class UpdateBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of an update; the path names the account."""

    handle: str | None = None
    role: Role | None = None


_create = msgspec.json.Decoder(CreateAccount)
_update = msgspec.json.Decoder(UpdateBody)


async def list_all(request: Request) -> Answer:
    """GET /api/v1/accounts"""
    query = request.query("after", "limit")
    call = ListAccounts(after=query.text("after") or "", limit=query.integer("limit", 100))
    return json_answer(await request.call(call, request.caller()))


async def create(request: Request) -> Answer:
    """POST /api/v1/accounts"""
    request.query()
    caller = request.caller()
    call = await request.body(_create)
    return json_answer(await request.call(call, caller), status=201)


async def read(request: Request) -> Answer:
    """GET /api/v1/accounts/{id}"""
    request.query()
    return json_answer(await request.call(ReadAccount(id=request.member("id")), request.caller()))


async def update(request: Request) -> Answer:
    """PATCH /api/v1/accounts/{id}"""
    request.query()
    caller = request.caller()
    body = await request.body(_update)
    if body.handle is None and body.role is None:
        raise BadRequest("There is nothing to change.", next="Give a handle, a role or both.")
    call = UpdateAccount(id=request.member("id"), handle=body.handle, role=body.role)
    return json_answer(await request.call(call, caller))


async def delete(request: Request) -> Answer:
    """DELETE /api/v1/accounts/{id}"""
    request.query()
    return json_answer(await request.call(DeleteAccount(id=request.member("id")), request.caller()))


async def me(request: Request) -> Answer:
    """GET /api/v1/me"""
    request.query()
    return json_answer(await request.call(Me(), request.reader()))


async def presence(request: Request) -> Answer:
    """GET /api/v1/presence"""
    query = request.query("after", "limit")
    call = ReadPresence(after=query.text("after") or "", limit=query.integer("limit", 100))
    return json_answer(await request.call(call, request.caller()))


async def blocks(request: Request) -> Answer:
    """GET /api/v1/blocks"""
    request.query()
    return json_answer(await request.call(Blocks(accounts=[]), request.caller()))


async def block(request: Request) -> Answer:
    """PUT /api/v1/blocks/{account}"""
    request.query()
    call = Block(account=request.member("account"))
    return json_answer(await request.call(call, request.caller()))


async def unblock(request: Request) -> Answer:
    """DELETE /api/v1/blocks/{account}"""
    request.query()
    call = Unblock(account=request.member("account"))
    return json_answer(await request.call(call, request.caller()))
