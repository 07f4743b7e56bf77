"""What a C2CP v2 client may say: the first argument of an event to a typed value.

Members that are not listed are ignored, so that a newer client can speak to an older hub.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from clawnet.core.calls.tasks import COMMAND_MAX_CHARS, EndStatus, TaskKind, WorkStatus
from clawnet.core.chat import ToType
from clawnet.core.errors import BadRequest

T = TypeVar("T")

Name = Annotated[str, Meta(max_length=300)]
Text = Annotated[str, Meta(max_length=2_000)]
Place = Annotated[int, Meta(ge=0, le=2**53)]
Limit = Annotated[int, Meta(ge=1, le=1_000)]


class ChatSend(msgspec.Struct, kw_only=True):
    payload: dict[str, Any]
    to_type: ToType = "global"
    to_id: Name | None = None
    dedupe_key: Name | None = None
    id: Name | None = None
    correlation_id: Name | None = None
    causation_id: Name | None = None


class ChatAck(msgspec.Struct, kw_only=True):
    channel: Name | None = None
    offset: Place | None = None
    id: Name | None = None


class ChatDelete(msgspec.Struct, kw_only=True):
    channel: Name | None = None
    offset: Place | None = None
    id: Name | None = None


class Room(msgspec.Struct, kw_only=True):
    room: Name
    private: bool = False
    topic: Text | None = None
    agent: Name | None = None
    history: Literal["joined", "all"] = "joined"


class RoomList(msgspec.Struct, kw_only=True):
    after: Name = ""
    limit: Limit = 100


class Status(msgspec.Struct, kw_only=True):
    status: Literal["online", "idle"]
    text: Text | None = None


class Typed(msgspec.Struct, kw_only=True):
    to_type: ToType = "global"
    to_id: Name | None = None
    is_typing: bool = True


class Reported(msgspec.Struct, kw_only=True):
    status: Name | None = None
    role: Name | None = None
    specs: dict[str, Any] | None = None
    resource_usage: dict[str, Any] | None = None
    cron_snapshot: Any = None
    cron: Any = None
    sessions: Any = None
    capabilities: list[Name] | None = None


class Dispatch(msgspec.Struct, kw_only=True):
    to: Name | list[Name]
    command: Annotated[str, Meta(max_length=COMMAND_MAX_CHARS)]
    kind: TaskKind = "openclaw"
    args: Any = msgspec.UNSET
    timeout_s: float | None = None
    room: Name | None = None
    dedupe_key: Name | None = None
    id: Name | None = None
    correlation_id: Name | None = None


class Update(msgspec.Struct, kw_only=True):
    task_id: Name
    fence: Place
    status: WorkStatus
    output: str | None = None
    piece: Place | None = None


class Result(msgspec.Struct, kw_only=True):
    task_id: Name
    fence: Place
    status: EndStatus
    output: str | None = None
    error: str | None = None
    exit_code: int | None = None


class Task(msgspec.Struct, kw_only=True):
    task_id: Name


class Approval(msgspec.Struct, kw_only=True):
    task_id: Name
    digest: Name


class Replay(msgspec.Struct, kw_only=True):
    channel: Name | None = None
    offset: Place = 0
    epoch: Name | None = None
    limit: Limit = 100
    since: Name | None = None


def read(args: list[Any], kind: type[T]) -> T:
    """The first argument of an event. Raises BadRequest."""
    given = args[0] if args else {}
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise BadRequest(
            f"The event cannot be understood: {ascii(str(error).rstrip('.')[:200])[1:-1]}.",
            next="Correct the member that the message names.",
        ) from None
