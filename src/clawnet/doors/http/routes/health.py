"""How the hub is: for whoever watches, starts or measures it."""

from __future__ import annotations

import clawnet
from clawnet.core.errors import Forbidden, Unavailable
from clawnet.doors.http.answers import Answer, json_answer, text_answer
from clawnet.doors.http.request import Request

_PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"


async def alive(request: Request) -> Answer:
    """GET /healthz: 200 while the process can answer; 503 when storage failed."""
    request.query()
    if request.hub.state == "failed":
        raise Unavailable("Storage failed; the hub ends and has to be started again.")
    return json_answer({"status": "ok", "state": request.hub.state})


async def ready(request: Request) -> Answer:
    """GET /readyz: 200 only while the hub takes publishes."""
    request.query()
    if not request.hub.is_ready:
        raise Unavailable(f"The hub is {request.hub.state}.", retry_after_s=1.0)
    return json_answer({"status": "ready"})


async def version(request: Request) -> Answer:
    """GET /version"""
    request.query()
    return json_answer({"name": "clawnet", "version": clawnet.__version__})


async def metrics(request: Request) -> Answer:
    """GET /metrics: for requests from this machine, and for masters and wardens."""
    request.query()
    if not request.is_local or b"authorization" in request.headers:
        caller = request.caller()
        if caller.role not in ("master", "warden"):
            raise Forbidden(
                "Metrics are for masters and wardens.",
                next="Use the token of a master or a warden, or ask from the hub's own machine.",
            )
    return text_answer(request.hub.metrics(), media_type=_PROMETHEUS)
