"""The key that signs the audit chain's checkpoints."""

from __future__ import annotations

from clawnet.core.calls.audit import AuditKey, ReadAuditKey
from clawnet.core.errors import NotFound
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request


@operation(tag="audit", answer=AuditKey, errors=(NotFound,))
async def key(request: Request) -> Answer:
    """Read the public key of the audit chain.

    Note it elsewhere: `claw audit verify --key` then believes nobody who can write to the hub's
    data folder.
    """
    request.query()
    return json_answer(await request.call(ReadAuditKey(), request.caller()))
