"""Worlds: made and listed by `admin` of `main` alone."""

from __future__ import annotations

import msgspec

from clawnet.core.calls.worlds import CreateWorld, ListWorlds, WorldCreated, WorldList
from clawnet.core.errors import Conflict
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request

_create = msgspec.json.Decoder(CreateWorld)


@operation(tag="worlds", answer=WorldList)
async def list_all(request: Request) -> Answer:
    """List the worlds of the hub.

    For the account admin of the world main.
    """
    request.query()
    return json_answer(await request.call(ListWorlds(), request.caller()))


@operation(tag="worlds", body=CreateWorld, answer=WorldCreated, status=201, errors=(Conflict,))
async def create(request: Request) -> Answer:
    """Create a world with an admin of its own.

    For the account admin of the world main. The answer holds the new admin's token, once.
    """
    request.query()
    caller = request.caller()
    call = await request.body(_create)
    return json_answer(await request.call(call, caller), status=201)
