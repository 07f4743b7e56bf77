"""Wake leases: held and renewed by the process that can be woken, readable for others."""

from __future__ import annotations

import msgspec

from clawnet.core.calls.tokens import Done
from clawnet.core.calls.wake import EndWake, HoldWake, ReadWake, WakeInfo
from clawnet.core.errors import NotFound
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request

_hold = msgspec.json.Decoder(HoldWake)


@operation(tag="inbox", body=HoldWake, answer=WakeInfo, is_body_optional=True)
async def hold(request: Request) -> Answer:
    """Hold or renew the wake lease of this token: its process can be woken.

    It ends after `ttl_s`, with the token, and when the hub restarts; the process renews it.
    """
    request.query()
    caller = request.caller()
    return json_answer(await request.call(await request.body(_hold, default=HoldWake()), caller))


@operation(tag="inbox", answer=Done)
async def end(request: Request) -> Answer:
    """End the wake lease of this token."""
    request.query()
    return json_answer(await request.call(EndWake(), request.caller()))


@operation(tag="inbox", answer=WakeInfo, errors=(NotFound,))
async def read(request: Request) -> Answer:
    """Read whether an account can be woken now, or since when not."""
    request.query()
    account = request.member("id").lower()
    return json_answer(await request.call(ReadWake(account=account), request.caller()))
