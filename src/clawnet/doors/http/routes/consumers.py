"""Durable consumers: create, look at, fetch, acknowledge."""

from __future__ import annotations

from typing import Annotated

import msgspec

from clawnet.core.calls.consumers import (
    Ack,
    Acked,
    ConsumerInfo,
    ConsumerList,
    CreateConsumer,
    DeleteConsumer,
    DeliveryName,
    Fetch,
    Fetched,
    ListConsumers,
    Nack,
    ReadConsumer,
)
from clawnet.core.calls.tokens import Done
from clawnet.core.errors import BadRequest, Conflict
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.describe import operation
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


@operation(tag="consumers", answer=ConsumerList)
async def list_all(request: Request) -> Answer:
    """List the caller's durable consumers."""
    request.query()
    return json_answer(await request.call(ListConsumers(), request.caller()))


@operation(
    tag="consumers",
    body=CreateConsumer,
    example={"name": "builder", "channels": ["public.lobby"]},
    answer=ConsumerInfo,
    status=201,
    errors=(Conflict,),
)
async def create(request: Request) -> Answer:
    """Create a durable consumer.

    Creating it again with the same settings is no error.
    """
    request.query()
    caller = request.caller()
    call = await request.body(_create)
    return json_answer(await request.call(call, caller), status=201)


@operation(tag="consumers", answer=ConsumerInfo)
async def read(request: Request) -> Answer:
    """Read a consumer: its floor, its lag, what is in flight."""
    request.query()
    return json_answer(
        await request.call(ReadConsumer(name=request.member("name")), request.caller())
    )


@operation(tag="consumers", answer=Done)
async def delete(request: Request) -> Answer:
    """End a consumer and forget what it had not acknowledged."""
    request.query()
    return json_answer(
        await request.call(DeleteConsumer(name=request.member("name")), request.caller())
    )


@operation(
    tag="consumers", body=FetchBody, is_body_optional=True, answer=Fetched, errors=(Conflict,)
)
async def fetch(request: Request) -> Answer:
    """Take deliveries, waiting for the first if asked to."""
    request.query()
    caller = request.caller()
    body = await request.body(_fetch, default=FetchBody())
    call = Fetch(name=request.member("name"), limit=body.limit, wait_s=body.wait_s)
    work = request.call(call, caller)
    return json_answer(await (request.attended(work) if call.wait_s else work))


@operation(
    tag="consumers",
    body=AckBody,
    example={"deliveries": [{"seq": 1, "attempt": 1}]},
    answer=Acked,
)
async def ack(request: Request) -> Answer:
    """Acknowledge deliveries.

    Give either `deliveries` or `cursor`. One that expired is named as stale.
    """
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


@operation(tag="consumers", body=NackBody, answer=Acked)
async def nack(request: Request) -> Answer:
    """Give deliveries back, to be made again."""
    request.query()
    caller = request.caller()
    body = await request.body(_nack)
    call = Nack(name=request.member("name"), deliveries=body.deliveries, delay_s=body.delay_s)
    return json_answer(await request.call(call, caller))
