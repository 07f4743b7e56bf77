"""The fleet: enrolling by the shared secret, reports, who is there, one's own status."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from clawnet.core.callers import STRANGER
from clawnet.core.calls.chat import SetStatus
from clawnet.core.calls.fleet import (
    CAPABILITIES_MAX,
    Enrol,
    Enrolled,
    Fleet,
    FleetAgent,
    ReadFleet,
    Report,
)
from clawnet.core.calls.presence import PresenceInfo
from clawnet.core.calls.tokens import Done
from clawnet.core.errors import Conflict, Forbidden, NotFound, RateLimited, Unauthenticated
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request

TAG = "fleet"

Name = Annotated[str, msgspec.Meta(max_length=200)]


class EnrolBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`secret` is the hub's shared secret, `<world>:<secret>` where it has several worlds."""

    secret: Annotated[str, msgspec.Meta(max_length=600)]
    agent_id: Name
    role: Name | None = None
    handle: Name | None = None


class ReportBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an agent says of itself; what is left out stays as it was."""

    role: Name | None = None
    status: Name | None = None
    specs: dict[str, Any] | None = None
    resource_usage: dict[str, Any] | None = None
    cron: Any = None
    sessions: Any = None
    capabilities: Annotated[list[Name], msgspec.Meta(max_length=CAPABILITIES_MAX)] | None = None


_enrol = msgspec.json.Decoder(EnrolBody)
_report = msgspec.json.Decoder(ReportBody)
_status = msgspec.json.Decoder(SetStatus)


@operation(
    tag=TAG,
    body=EnrolBody,
    example={"secret": "SECRET", "agent_id": "bob"},
    answer=Enrolled,
    status=201,
    statuses=(200,),
    is_open=True,
    errors=(Unauthenticated, Forbidden, Conflict, RateLimited),
)
async def enrol(request: Request) -> Answer:
    """Become an agent of the fleet by the shared secret.

    201 for an account that is new. An agent that enrolled before comes again with the session
    token that it was given; with the secret alone only where fleet.secret_reenrol allows it.
    """
    request.query()
    body = await request.body(_enrol)
    call = Enrol(
        secret=body.secret,
        agent_id=body.agent_id,
        role=body.role,
        handle=body.handle,
        address=address_of(request),
        is_local=request.is_local,
    )
    enrolled: Enrolled = await request.call(call, STRANGER)
    return json_answer(enrolled, status=201 if enrolled.created else 200)


@operation(tag=TAG, body=ReportBody, example={"resource_usage": {"cpu_percent": 12}}, answer=Done)
async def report(request: Request) -> Answer:
    """Say how this agent and its machine do.

    It is state of the moment: told to masters and wardens as it comes, and not stored.
    """
    request.query()
    caller = request.caller()
    body = await request.body(_report)
    members = {name: getattr(body, name) for name in body.__struct_fields__}
    await request.call(Report(**members), caller)
    return json_answer(Done())


@operation(tag=TAG, answer=Fleet)
async def read(request: Request) -> Answer:
    """List the fleet: everyone of the world that reported or is connected.

    Jobs and sessions of others are for masters and wardens.
    """
    request.query()
    return json_answer(await request.call(ReadFleet(), request.caller()))


@operation(tag=TAG, answer=FleetAgent, errors=(NotFound,))
async def read_one(request: Request) -> Answer:
    """Show one agent of the fleet."""
    request.query()
    call = ReadFleet(agent=request.member("id"))
    found: Fleet = await request.call(call, request.caller())
    return json_answer(found.agents[0])


@operation(
    tag="self",
    body=SetStatus,
    example={"status": "idle", "text": "at lunch"},
    answer=PresenceInfo,
    errors=(Conflict,),
)
async def set_status(request: Request) -> Answer:
    """Say that one is online or idle, with a text.

    For who has a live connection; doing something ends an idleness.
    """
    request.query()
    caller = request.caller()
    return json_answer(await request.call(await request.body(_status), caller))


def address_of(request: Request) -> str:
    """Where the request comes from, as the gate established it; "" without a gate."""
    admitted = request.scope.get("state", {}).get("admitted")
    return "" if admitted is None else str(admitted.client)
