"""Messages: say, take back, type; and the handle that stands beside what an account says."""

from __future__ import annotations

import msgspec

from clawnet.core.calls.chat import (
    ChatDeleted,
    ChatSent,
    DeleteChat,
    HandleSet,
    SendChat,
    SetHandle,
    Typing,
)
from clawnet.core.calls.tokens import Done
from clawnet.core.errors import (
    Conflict,
    DiskFull,
    InvalidChannel,
    OutcomeUnknown,
    PayloadTooLarge,
)
from clawnet.doors.http.answers import Answer, json_answer
from clawnet.doors.http.describe import operation
from clawnet.doors.http.request import Request, idempotency_key
from clawnet.doors.http.routes.rooms import chatting

_send = msgspec.json.Decoder(SendChat)
_typing = msgspec.json.Decoder(Typing)
_handle = msgspec.json.Decoder(SetHandle)


@operation(
    tag="chat",
    body=SendChat,
    example={"to_type": "room", "to_id": "alpha", "payload": {"text": "hello"}},
    answer=ChatSent,
    status=201,
    headers={"Idempotency-Key": str},
    errors=(Conflict, DiskFull, InvalidChannel, OutcomeUnknown, PayloadTooLarge),
)
async def send(request: Request) -> Answer:
    """Say something to everybody, in a room, or to one account.

    A text that begins with `/` is a command, whose outcome is in the answer; `//` says `/`.
    The same `dedupe_key` twice is one message, and answered with its place.
    """
    caller = chatting(request)
    request.query()
    body = await request.body(_send)
    key = idempotency_key(request.headers, body.dedupe_key, name="dedupe_key")
    call = msgspec.structs.replace(body, dedupe_key=key)
    return json_answer(await request.call(call, caller), status=201)


@operation(tag="chat", answer=ChatDeleted)
async def delete(request: Request) -> Answer:
    """Blank a message: by its author, the owner of its room or a master.

    Its place stays, with `deleted`; what it said is gone for every reader.
    """
    caller = chatting(request)
    request.query()
    return json_answer(await request.call(DeleteChat(id=request.member("id")), caller))


@operation(
    tag="chat",
    body=Typing,
    example={"is_typing": True},
    answer=Done,
    errors=(InvalidChannel,),
)
async def typing(request: Request) -> Answer:
    """Tell who is live there that the caller types; never stored."""
    caller = chatting(request)
    request.query()
    await request.call(await request.body(_typing), caller)
    return json_answer(Done())


@operation(
    tag="chat",
    body=SetHandle,
    example={"agent_id": "alice", "handle": "builder"},
    answer=HandleSet,
    status=201,
    errors=(Conflict,),
)
async def handle(request: Request) -> Answer:
    """Give an account a handle: its own, or as a master anyone's.

    A master's makes the account if it is new. Handles are unique: a taken one is a conflict.
    """
    caller = chatting(request)
    request.query()
    call = await request.body(_handle)
    return json_answer(await request.call(call, caller), status=201)
