"""Errors as the claw.events API words them: {"error": "<sentence>"}, with the members of a
problem document (RFC 9457) beside it.

    @claw_errors
    @operation(tag="claw.events", …)
    async def publish(request: Request) -> Answer: …

What its clients read on a 429 (`retry_after`, `retry_timestamp`) stands in the body too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from clawnet.core.errors import ClawError
from clawnet.doors import problem
from clawnet.doors.http.answers import Answer, Header, Plain
from clawnet.doors.http.problem import problem_answer
from clawnet.doors.http.request import Request

Endpoint = Callable[[Request], Awaitable[Answer]]

_encoder = msgspec.json.Encoder(enc_hook=str)


def claw_errors(endpoint: Endpoint) -> Endpoint:
    """Let an endpoint's ClawErrors be answered in this API's shape."""

    # wraps() keeps what @operation said of the endpoint, whichever of the two stands first.
    @functools.wraps(endpoint)
    async def answered(request: Request) -> Answer:
        try:
            return await endpoint(request)
        except ClawError as error:
            return error_answer(error, now_ms=request.hub.clock.wall_ms())

    return answered


def error_answer(error: ClawError, *, now_ms: int) -> Plain:
    """An error with its sentence as `error`. `now_ms` is the wall's time, for when to retry."""
    like = problem_answer(error)
    body: dict[str, Any] = {"error": error.message}
    body |= msgspec.json.decode(problem.body_of(error))
    headers: list[Header] = list(like.headers)
    if error.status == 429:
        wait_s = 1.0 if error.retry_after_s is None else error.retry_after_s
        wait_s = max(1, math.ceil(wait_s))
        body["retry_after"] = wait_s
        body["retry_timestamp"] = now_ms + wait_s * 1_000
        if all(name != b"ratelimit" for name, _ in headers):
            # Without a rate in the error: the one that follows from the wait.
            headers += [
                (b"ratelimit-policy", b'"attempts";q=1;w=%d' % wait_s),
                (b"ratelimit", b'"attempts";r=0;t=%d' % wait_s),
            ]
    return Plain(error.status, _encoder.encode(body), headers)
