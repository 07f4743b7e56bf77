"""How the hub is: for whoever watches, starts or measures it."""

from __future__ import annotations

from typing import Literal

import msgspec

import clawnet
from clawnet.core.errors import Forbidden, Unavailable
from clawnet.doors.http.answers import Answer, json_answer, text_answer
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request
from clawnet.hub.worlds import MAIN, is_admin_of_main


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """`state` is starting, ready, stopping …"""

    status: Literal["ok"] = "ok"
    state: str


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The hub takes publishes."""

    status: Literal["ready"] = "ready"


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """What runs here."""

    name: str
    version: str


_PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"


@operation(tag="hub", answer=Alive, is_open=True)
async def alive(request: Request) -> Answer:
    """Whether the process can answer; 503 when storage failed."""
    request.query()
    if request.hub.state == "failed":
        raise Unavailable("Storage failed; the hub ends and has to be started again.")
    return json_answer(Alive(state=request.hub.state))


@operation(tag="hub", answer=Ready, is_open=True)
async def ready(request: Request) -> Answer:
    """Whether the hub takes publishes; 503 while it does not."""
    request.query()
    if not request.hub.is_ready:
        raise Unavailable(f"The hub is {request.hub.state}.", retry_after_s=1.0)
    return json_answer(Ready())


@operation(tag="hub", answer=Version, is_open=True)
async def version(request: Request) -> Answer:
    """The hub's version."""
    request.query()
    return json_answer(Version(name="clawnet", version=clawnet.__version__))


@operation(tag="hub", answer=str, is_public=True, media_type=_PROMETHEUS.decode())
async def metrics(request: Request) -> Answer:
    """Measures for Prometheus.

    For requests from the hub's own machine, and for masters and wardens of the world main.
    Consumers of other worlds are named to admin of main alone.
    """
    request.query()
    world: str | None = MAIN
    if not request.is_local or b"authorization" in request.headers:
        caller = request.caller()
        if caller.role not in ("master", "warden") or caller.world != MAIN:
            raise Forbidden(
                "Metrics are for masters and wardens of the world main.",
                next="Use the token of a master or a warden, or ask from the hub's own machine.",
            )
        world = None if is_admin_of_main(caller) else MAIN
    return text_answer(request.hub.metrics(world=world), media_type=_PROMETHEUS)
