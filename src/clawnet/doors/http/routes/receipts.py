"""Receipts of messages to an inbox, and the word of a process that it was woken."""

from __future__ import annotations

from typing import Annotated, get_args

import msgspec

from clawnet.core.calls.receipts import Confirmed, ConfirmWoken, ReadReceipt, Receipt, Step
from clawnet.core.errors import BadRequest, NotFound
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request

_confirm = msgspec.json.Decoder(ConfirmWoken)
_Wait = Annotated[
    float, msgspec.Meta(ge=0, le=60, description="How long to wait for the step, in seconds.")
]


@operation(
    tag="inbox",
    answer=Receipt,
    query={"until": Step, "wait": _Wait},
    errors=(NotFound,),
)
async def read(request: Request) -> Answer:
    """Read how far a message to an inbox came.

    The answer waits until the step `until` is reached, for `wait` seconds at most; if it is
    not, `reason` says why. For the sender, the recipient and wardens.
    """
    query = request.query("until", "wait")
    until = query.text("until")
    if until is None:
        until = "woken"
    if until not in get_args(Step):
        raise BadRequest(
            "The parameter until must be stored, offered, woken or acted.", parameter="until"
        )
    call = ReadReceipt(
        event_id=request.member("id"),
        until=until,  # type: ignore[arg-type]
        wait_s=query.number("wait", 0.0),
    )
    work = request.call(call, request.caller())
    return json_answer(await (request.attended(work) if call.wait_s else work))


@operation(tag="inbox", body=ConfirmWoken, answer=Confirmed)
async def confirm(request: Request) -> Answer:
    """Say that a process of the caller has these messages of its inbox now."""
    request.query()
    caller = request.caller()
    return json_answer(await request.call(await request.body(_confirm), caller))
