"""What masters change while the hub runs."""

from __future__ import annotations

import msgspec

from clawnet.core.calls.controls import ChangeControls, ControlsInfo, ReadControls
from clawnet.core.errors import DiskFull
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request

_change = msgspec.json.Decoder(ChangeControls)
_EXAMPLE = {"command_riskylist": ["rm -rf"]}


@operation(tag="admin", answer=ControlsInfo)
async def read(request: Request) -> Answer:
    """Read the settings that masters change while the hub runs."""
    request.query()
    return json_answer(await request.call(ReadControls(), request.caller()))


@operation(
    tag="admin", body=ChangeControls, example=_EXAMPLE, answer=ControlsInfo, errors=(DiskFull,)
)
async def change(request: Request) -> Answer:
    """Change settings while the hub runs: those that are given.

    They outlive a restart and win over the configuration. Each world has its own.
    """
    request.query()
    caller = request.caller()
    return json_answer(await request.call(await request.body(_change), caller))
