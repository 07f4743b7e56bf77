"""Durable consumers: create, look at, fetch, acknowledge."""

from __future__ import annotations

from typing import Annotated

import msgspec

from clawnet.core.calls.consumers import (
    Ack,
    CreateConsumer,
    DeleteConsumer,
    DeliveryName,
    Fetch,
    ListConsumers,
    Nack,
    ReadConsumer,
)
from clawnet.core.errors import BadRequest
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.request import Request


class FetchBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a fetch; the path names the consumer."""

    limit: int = 64
    wait_s: float = 0.0


class AckBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of an ack: deliveries, or the cursor up to which all are handled."""

    deliveries: list[DeliveryName] | None = None
    cursor: str | None = None


class NackBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a nack."""

    deliveries: list[DeliveryName]
    delay_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0


_create = msgspec.json.Decoder(CreateConsumer)
_fetch = msgspec.json.Decoder(FetchBody)
_ack = msgspec.json.Decoder(AckBody)
_nack = msgspec.json.Decoder(NackBody)


async def list_all(request: Request) -> Answer:
    """GET /api/v1/consumers"""
    request.query()
    return json_answer(await request.call(ListConsumers(), request.caller()))


async def create(request: Request) -> Answer:
    """POST /api/v1/consumers"""
    request.query()
    caller = request.caller()
    call = await request.body(_create)
    return json_answer(await request.call(call, caller), status=201)


async def read(request: Request) -> Answer:
    """GET /api/v1/consumers/{name}"""
    request.query()
    return json_answer(
        await request.call(ReadConsumer(name=request.member("name")), request.caller())
    )


async def delete(request: Request) -> Answer:
    """DELETE /api/v1/consumers/{name}"""
    request.query()
    return json_answer(
        await request.call(DeleteConsumer(name=request.member("name")), request.caller())
    )


async def fetch(request: Request) -> Answer:
    """POST /api/v1/consumers/{name}/fetch"""
    request.query()
    caller = request.caller()
    body = await request.body(_fetch, default=FetchBody())
    call = Fetch(name=request.member("name"), limit=body.limit, wait_s=body.wait_s)
    work = request.call(call, caller)
    return json_answer(await (request.attended(work) if call.wait_s else work))


async def ack(request: Request) -> Answer:
    """POST /api/v1/consumers/{name}/ack"""
    request.query()
    caller = request.caller()
    body = await request.body(_ack)
    if (body.deliveries is None) == (body.cursor is None):
        raise BadRequest(
            "An ack names its deliveries, or a cursor.",
            next='Send "deliveries": [{"seq": …, "attempt": …}] as they were fetched.',
        )
    call = Ack(name=request.member("name"), deliveries=body.deliveries or [], cursor=body.cursor)
    return json_answer(await request.call(call, caller))


async def nack(request: Request) -> Answer:
    """POST /api/v1/consumers/{name}/nack"""
    request.query()
    caller = request.caller()
    body = await request.body(_nack)
    call = Nack(name=request.member("name"), deliveries=body.deliveries, delay_s=body.delay_s)
    return json_answer(await request.call(call, caller))
