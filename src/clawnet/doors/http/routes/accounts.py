"""Accounts, the caller itself, whom it blocks, and who is connected."""

from __future__ import annotations

import msgspec

from clawnet.core.calls.accounts import (
    AccountInfo,
    AccountList,
    Block,
    Blocks,
    CreateAccount,
    DeleteAccount,
    ListAccounts,
    Me,
    MeInfo,
    ReadAccount,
    Role,
    Unblock,
    UpdateAccount,
)
from clawnet.core.calls.presence import PresenceList, ReadPresence
from clawnet.core.calls.tokens import Done
from clawnet.core.errors import BadRequest, Conflict
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.describe import After, Limit, operation
from clawnet.doors.http.request import Request


class UpdateBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of an update; the path names the account."""

    handle: str | None = None
    role: Role | None = None


_create = msgspec.json.Decoder(CreateAccount)
_update = msgspec.json.Decoder(UpdateBody)


@operation(tag="accounts", answer=AccountList, query={"after": After, "limit": Limit})
async def list_all(request: Request) -> Answer:
    """List the accounts of the world."""
    query = request.query("after", "limit")
    call = ListAccounts(after=query.text("after") or "", limit=query.integer("limit", 100))
    return json_answer(await request.call(call, request.caller()))


@operation(tag="accounts", body=CreateAccount, answer=AccountInfo, status=201, errors=(Conflict,))
async def create(request: Request) -> Answer:
    """Create an account.

    For masters. An id is never given twice.
    """
    request.query()
    caller = request.caller()
    call = await request.body(_create)
    return json_answer(await request.call(call, caller), status=201)


@operation(tag="accounts", answer=AccountInfo)
async def read(request: Request) -> Answer:
    """Read an account."""
    request.query()
    return json_answer(await request.call(ReadAccount(id=request.member("id")), request.caller()))


@operation(
    tag="accounts",
    body=UpdateBody,
    example={"handle": "builder"},
    answer=AccountInfo,
    errors=(Conflict,),
)
async def update(request: Request) -> Answer:
    """Change a handle or a role.

    The handle is its own account's to change, or a master's; the role a master's.
    """
    request.query()
    caller = request.caller()
    body = await request.body(_update)
    if body.handle is None and body.role is None:
        raise BadRequest("There is nothing to change.", next="Give a handle, a role or both.")
    call = UpdateAccount(id=request.member("id"), handle=body.handle, role=body.role)
    return json_answer(await request.call(call, caller))


@operation(tag="accounts", answer=Done, errors=(Conflict,))
async def delete(request: Request) -> Answer:
    """Delete an account.

    Its tokens and grants end at once; its id stays taken for ever.
    """
    request.query()
    return json_answer(await request.call(DeleteAccount(id=request.member("id")), request.caller()))


@operation(tag="self", answer=MeInfo, is_public=True)
async def me(request: Request) -> Answer:
    """Ask whom the hub takes the caller for."""
    request.query()
    return json_answer(await request.call(Me(), request.reader()))


@operation(tag="self", answer=PresenceList, query={"after": After, "limit": Limit})
async def presence(request: Request) -> Answer:
    """List who is online."""
    query = request.query("after", "limit")
    call = ReadPresence(after=query.text("after") or "", limit=query.integer("limit", 100))
    return json_answer(await request.call(call, request.caller()))


@operation(tag="self", answer=Blocks)
async def blocks(request: Request) -> Answer:
    """List whom the caller blocks."""
    request.query()
    return json_answer(await request.call(Blocks(accounts=[]), request.caller()))


@operation(tag="self", answer=Done)
async def block(request: Request) -> Answer:
    """Keep an account from writing into the caller's inbox."""
    request.query()
    call = Block(account=request.member("account"))
    return json_answer(await request.call(call, request.caller()))


@operation(tag="self", answer=Done)
async def unblock(request: Request) -> Answer:
    """Take a block back."""
    request.query()
    call = Unblock(account=request.member("account"))
    return json_answer(await request.call(call, request.caller()))
