"""What tools of C2CP v1 ask over HTTP: figures, traffic, logs and one agent, in their own words."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
import psutil

from clawnet.core.calls.audit import AUDIT_LIMIT_MAX, AuditPage, ReadAudit
from clawnet.core.calls.controls import ChangeControls, ControlsInfo, ReadControls
from clawnet.core.calls.fleet import Fleet, FleetAgent, ReadFleet
from clawnet.core.calls.logs import LOG_LIMIT, LOG_LIMIT_MAX, LogPage
from clawnet.core.calls.tasks import CountTasks, TaskCounts
from clawnet.core.chat import is_chat
from clawnet.core.errors import BadRequest, DiskFull, Forbidden, NotFound
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request
from clawnet.doors.http.routes.legacy_auth import legacy_caller
from clawnet.doors.http.routes.logs import log_page

TAG = "C2CP v1"
TRAFFIC_LIMIT = 100
SETTINGS_EXAMPLE = {"command_riskylist": ["rm -rf"]}

_change = msgspec.json.Decoder(ChangeControls)


class ServerFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Of the machine: percent of its processors and memory in use; seconds the hub has run."""

    cpu: float
    ram: float
    uptime: float


class LegacyMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Of the caller's world. `messages_total` is every event that was ever stored in its chat."""

    tasks_total: int
    tasks_success: int
    tasks_failed: int
    messages_total: int
    agents_online: int
    server: ServerFigures


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """The newest records of the audit chain, oldest first."""

    traffic: list[dict[str, Any]]


@operation(tag=TAG, answer=LegacyMetrics)
async def metrics(request: Request) -> Answer:
    """Read the figures of your world, as v1 has them. /metrics has more."""
    request.query()
    caller = await legacy_caller(request)
    counts: TaskCounts = await request.call(CountTasks(), caller)
    hub = request.hub
    engine = hub.storage.engine
    names = [name for name in hub.fanout.world(caller.world).names_listed if is_chat(name)]
    heads = [engine.channel(caller.world, name) for name in names]
    now_s = time.time()
    return json_answer(
        LegacyMetrics(
            tasks_total=counts.total,
            tasks_success=counts.success,
            tasks_failed=counts.failed,
            messages_total=sum(head.last for head in heads if head is not None),
            agents_online=len(hub.presence.online(caller.world)),
            server=ServerFigures(
                cpu=psutil.cpu_percent(None),
                ram=psutil.virtual_memory().percent,
                uptime=round(now_s - psutil.Process().create_time(), 1),
            ),
        )
    )


@operation(
    tag=TAG,
    answer=Traffic,
    query={
        "limit": Annotated[
            int, msgspec.Meta(ge=1, le=AUDIT_LIMIT_MAX, description="How many; 100 if left out.")
        ]
    },
    errors=(Forbidden, NotFound),
)
async def traffic(request: Request) -> Answer:
    """Read who did what lately. For masters and wardens; no message's text is in it."""
    limit = request.query("limit").integer("limit", TRAFFIC_LIMIT)
    page: AuditPage = await request.call(ReadAudit(limit=limit), await legacy_caller(request))
    return json_answer(Traffic(traffic=page.records))


@operation(
    tag=TAG,
    answer=LogPage,
    query={
        "limit": Annotated[
            int, msgspec.Meta(ge=1, le=LOG_LIMIT_MAX, description="How many; 100 if left out.")
        ]
    },
    errors=(Forbidden, NotFound),
    example_members={"kind": "server"},
)
async def logs(request: Request) -> Answer:
    """Read the newest of a log: server, tasks or audit. /api/v1/logs pages through all."""
    caller = await legacy_caller(request)
    limit = request.query("limit").integer("limit", LOG_LIMIT)
    if not 1 <= limit <= LOG_LIMIT_MAX:
        raise BadRequest(f"limit must be 1 to {LOG_LIMIT_MAX}.", parameter="limit")
    kind = request.member("kind")
    return json_answer(await log_page(request, caller, kind, after=None, limit=limit))


@operation(tag=TAG, answer=FleetAgent, errors=(NotFound,))
async def agent(request: Request) -> Answer:
    """Read one agent of the fleet."""
    request.query()
    caller = await legacy_caller(request)
    found: Fleet = await request.call(ReadFleet(agent=request.member("id")), caller)
    return json_answer(found.agents[0])


@operation(tag=TAG, answer=ControlsInfo)
async def settings(request: Request) -> Answer:
    """Read the settings that masters change while the hub runs."""
    request.query()
    return json_answer(await request.call(ReadControls(), await legacy_caller(request)))


@operation(
    tag=TAG, body=ChangeControls, example=SETTINGS_EXAMPLE, answer=ControlsInfo, errors=(DiskFull,)
)
async def change_settings(request: Request) -> Answer:
    """Change those settings that are given. They outlive a restart."""
    request.query()
    caller = await legacy_caller(request)
    return json_answer(await request.call(await request.body(_change), caller))
