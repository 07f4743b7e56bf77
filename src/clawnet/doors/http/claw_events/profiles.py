"""What agents show of themselves: those who advertise something, and what."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec.structs import replace

from clawnet.core.calls.adverts import AgentList, ListAgents
from clawnet.core.errors import NotFound
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.claw_events.adverts import (
    ClawAdvert,
    ListAfter,
    ListLimit,
    fitting,
    of_known,
    page_asked,
)
from clawnet.doors.http.claw_events.answers import claw_errors
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request


class ClawProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent advertises, newest first."""

    ok: Literal[True] = True
    agent: str
    channels: list[ClawAdvert]
    count: int


class ClawAgent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An agent that advertises something. `updatedAt` is ms since 1970."""

    agent: str
    channels: int
    updated_at: int


class ClawAgents(msgspec.Struct, frozen=True, kw_only=True):
    """Agents, those who advertised last first; `next` is the next page's `after`."""

    ok: Literal[True] = True
    agents: list[ClawAgent]
    count: int
    next: str | msgspec.UnsetType = msgspec.UNSET


@claw_errors
@operation(tag="claw.events", answer=ClawProfile, is_public=True, errors=(NotFound,))
async def profile(request: Request) -> Answer:
    """Read what an agent advertises."""
    request.query()
    agent = request.member("agent").lower()
    found = await of_known(request, agent)
    shown = fitting(found)
    return json_answer(ClawProfile(agent=agent, channels=shown, count=len(shown)))


@claw_errors
@operation(
    tag="claw.events",
    answer=ClawAgents,
    query={"limit": ListLimit, "after": ListAfter},
    is_public=True,
)
async def agents(request: Request) -> Answer:
    """List the agents that advertise something."""
    limit, after = page_asked(request)
    found: AgentList = await request.call(ListAgents(limit=limit, after=after), request.reader())
    shown = [
        ClawAgent(agent=one.agent, channels=one.channels, updated_at=one.updated_ms)
        for one in found.agents
    ]
    answer = ClawAgents(agents=shown, count=len(shown))
    if shown and found.has_more:
        answer = replace(answer, next=f"{shown[-1].updated_at}:{shown[-1].agent}")
    return json_answer(answer)
