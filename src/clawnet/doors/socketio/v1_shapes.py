"""How events look in C2CP v1: native envelopes to Socket.IO frames, built once for all readers."""

from __future__ import annotations

from typing import Any

import msgspec

from clawnet.core.calls.tasks import ENDED, TASKS_CHANNEL, TaskInfo
from clawnet.core.calls.tasks import SYSTEM_CHANNEL as SYSTEM_TASKS
from clawnet.core.chat import Target, target_of
from clawnet.core.events import CHAT_MESSAGE
from clawnet.doors.socketio.shapes_v2 import Native, decode_native
from clawnet.doors.socketio.v1_tasks import shown, task_of
from clawnet.doors.ws.frames import text_frame
from clawnet.hub.hub import Hub
from clawnet.hub.presence import CHANNEL as PRESENCE

TASKS_MOVED = b'42["task_update",null]'
"""What a change of a task looks like on its way to a connection, which asks for the list and
sends that instead."""

COMMAND = b'42["command",'
STORED = b"] "
"""How the command of a stored event ends, so that an outlet tells it from one announced again."""

_encode = msgspec.json.Encoder().encode
_decode_task = msgspec.json.Decoder(TaskInfo).decode
_decode_any = msgspec.json.Decoder().decode
_MEMBERS = ("room.joined", "room.left")
_MALFORMED = (msgspec.ValidationError, msgspec.DecodeError, AttributeError, KeyError, TypeError)
"""What reading an event's data raises if it has not the form that the hub gives it."""


class Shape1:
    """The shape of v1 connections. `fresh` collects the channels of the chat on which something
    was written, so that it counts as given when it was taken."""

    key = "c2cp1"

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.fresh: set[tuple[str, str]] = set()

    def frame(self, body: bytes, cursor: bytes | None) -> bytes:
        """The frames for one event; none for what v1 does not show. See core.live.Shape."""
        event = decode_native(body)
        kind = event.type
        target = target_of(event.channel, event.actor.id)
        if target is not None and event.offset:
            self.fresh.add((event.world, event.channel))
        try:
            if kind == CHAT_MESSAGE and target is not None:
                return b"" if event.deleted else self._message(event, target)
            if kind == "chat.typing" and target is not None:
                return self._typing(event, target)
            if kind in _MEMBERS and target is not None:
                return self._member(event, target)
            if kind.startswith("task."):
                # Work of another hub is nobody's here: an agent that is given it would do it again.
                return b"" if event.imported is not None else self._task(event, target)
        except _MALFORMED:
            # Said by the hub itself, but in another form: an older one, an import, or a warden's.
            return b""
        return b""

    def name(self, world: str, account: str) -> str:
        """How an account spells its id."""
        found = self._hub.directory.account(world, account)
        return account if found is None else found.name

    def to(self, world: str, target: Target) -> str:
        """Whom a message is to, in the words of v1: all, #room or an agent."""
        if target.to_type == "global":
            return "all"
        return f"#{target.to_id}" if target.to_type == "room" else self.name(world, target.to_id)

    def members(self, world: str, room: str, *, and_also: str = "") -> list[dict[str, str]]:
        """Who is in a room, for those who are; `and_also` joins at this moment."""
        found = []
        names = set(self._hub.directory.members(world, f"room.{room}"))
        if and_also:
            names.add(and_also)
        for member in sorted(names):
            account = self._hub.directory.account(world, member)
            if account is not None and not account.is_deleted:
                status = self._hub.presence.status(world, member)
                found.append({"id": account.name, "status": status, "role": account.role})
        return found

    def room_update(self, world: str, room: str, account: str, action: str) -> bytes:
        """The frame that says that somebody came or went."""
        said = {
            "action": action,
            "agent_id": self.name(world, account),
            "room": f"#{room}",
            # Its membership begins when this event is committed, a moment after it is told.
            "members": self.members(world, room, and_also=account if action == "join" else ""),
        }
        return frame("room_update", said)

    def _message(self, event: Native, target: Target) -> bytes:
        return self._line(event, target, text_of(event.data), event.dedupe_key)

    def _line(
        self, event: Native, target: Target, text: str, key: str | None, by: str = ""
    ) -> bytes:
        said = {
            "from": self.name(event.world, by or event.actor.id),
            "handle": event.actor.handle if not by else self._handle(event.world, by),
            "to": self.to(event.world, target),
            "msg": text,
            "ts": event.ts,
            "id": event.id,
            "localId": _local_id(key),
        }
        return frame("chat_update", said)

    def _handle(self, world: str, account: str) -> str:
        found = self._hub.directory.account(world, account)
        return account if found is None else found.handle

    def _typing(self, event: Native, target: Target) -> bytes:
        data = _decode_any(event.data)
        said = {
            "from": self.name(event.world, event.actor.id),
            "to": self.to(event.world, target),
            "isTyping": bool(data.get("is_typing", True)) if isinstance(data, dict) else True,
        }
        return frame("typing_update", said)

    def _member(self, event: Native, target: Target) -> bytes:
        data = _decode_any(event.data)
        account = str(data.get("account") or data.get("by") or "")
        action = "join" if event.type == "room.joined" else "leave"
        return self.room_update(event.world, target.to_id, account, action)

    def _task(self, event: Native, target: Target | None) -> bytes:
        if event.type == "task.output":
            return text_frame(TASKS_MOVED)
        task = _decode_task(event.data)
        moved = text_frame(TASKS_MOVED)
        if target is not None:
            return moved + self._task_line(event, target, task)
        if event.channel == TASKS_CHANNEL(task.to):
            # What is read from the log was given long ago; what is open is announced anew.
            if task.status == "submitted":
                return moved + command_of(task, is_stored=bool(event.id))
            return moved
        if event.channel == SYSTEM_TASKS and task.status in ENDED:
            shown_task = task_of(task, name=self.name(event.world, task.to))
            return moved + frame("intel_update", {"type": "task", "task": shown_task})
        return moved

    def _task_line(self, event: Native, target: Target, task: TaskInfo) -> bytes:
        """What of a task is said in its room."""
        said = b""
        if task.revision == 1:
            text = f"CMD: to={self.name(event.world, task.to)} {task.command}"
            said = self._line(event, target, text, None, by=task.from_id)
        if task.status in ENDED:
            word, _ = shown(task.status, task.said)
            outcome = task.output or task.error or task.reason or ""
            text = f"RESULT: {word} {outcome}".rstrip()
            said += self._line(event, target, text, None, by=task.to)
        return said


class Shape1Traffic(Shape1):
    """The shape of a warden's connection: what passes, as `traffic` and `system_traffic`."""

    key = "c2cp1-traffic"

    def frame(self, body: bytes, cursor: bytes | None) -> bytes:
        event = decode_native(body)
        try:
            if event.channel == PRESENCE:
                return self._presence(event)
            said = self._said(event)
        except _MALFORMED:
            return b""
        return b"" if said is None else _traffic(said)

    def _said(self, event: Native) -> dict[str, Any] | None:
        opening: dict[str, Any] = {
            "ts": event.ts,
            "id": event.id,
            "channel": event.channel,
            "offset": event.offset,
        }
        target = target_of(event.channel, event.actor.id)
        if event.type.startswith("task."):
            return self._task_said(event, opening)
        if not event.id:
            return None
        if target is None:
            return {"type": event.type, "from": event.actor.id, "data": event.data, **opening}
        to = self.to(event.world, target)
        if event.type == CHAT_MESSAGE:
            text = "" if event.deleted else text_of(event.data)
            by = self.name(event.world, event.actor.id)
            return {"type": "chat", "from": by, "to": to, "msg": text, **opening}
        if event.type in _MEMBERS:
            data = _decode_any(event.data)
            who = str(data.get("account") or data.get("by") or "")
            kind = "room_join" if event.type == "room.joined" else "room_leave"
            return {
                "type": kind, "agent_id": self.name(event.world, who), "room": to, **opening,
            }  # fmt: skip
        return {"type": event.type, "to": to, "data": event.data, **opening}

    def _task_said(self, event: Native, opening: dict[str, Any]) -> dict[str, Any] | None:
        # Of the copies of a change one is told.
        if event.channel != SYSTEM_TASKS or not event.id:
            return None
        task = _decode_task(event.data)
        kind = "task_update"
        if task.revision == 1:
            kind = "dispatch"
        elif task.status in ENDED:
            kind = "task_result"
        return {
            "type": kind,
            "from": self.name(event.world, task.from_id),
            "to": self.name(event.world, task.to),
            "task": task_of(task, name=self.name(event.world, task.to)),
            **opening,
        }

    def _presence(self, event: Native) -> bytes:
        frames = []
        for change in _decode_any(event.data)["changes"]:
            kind = "disconnect" if change["status"] == "offline" else "connect"
            name = self.name(event.world, change["account"])
            said = {"type": kind, "agent_id": name, "status": change["status"], "ts": event.ts}
            frames.append(_traffic(said | {"id": event.id}))
        return b"".join(frames)


def command_of(task: TaskInfo, *, is_stored: bool = False) -> bytes:
    """The frame that gives an agent its work."""
    said: dict[str, Any] = {
        "id": task.task_id,
        "cmd": task.command,
        "trace_id": task.correlation_id,
        "kind": task.kind,
        "timeout": task.timeout_s,
        "fence": task.fence,
    }
    if task.args is not msgspec.UNSET:
        said["args"] = task.args
    return text_frame(COMMAND + _encode(said) + (STORED if is_stored else b"]"))


def text_of(data: msgspec.Raw) -> str:
    """What a message says: its text, or its JSON."""
    raw = bytes(data)
    if raw.startswith((b"{", b'"')):
        value = _decode_any(raw)
        if isinstance(value, str):
            return value
        text = value.get("text", value.get("msg"))
        if isinstance(text, str):
            return text
    return raw.decode()


def frame(name: str, said: Any) -> bytes:
    """A whole WebSocket frame with an event that wants no acknowledgement."""
    return text_frame(b'42["%b",%b]' % (name.encode(), _encode(said)))


def _local_id(key: str | None) -> Any:
    """What a v1 client called its message: it stands as JSON behind its connection's mark."""
    if key is None:
        return None
    _, colon, told = key.partition(":")
    try:
        value = msgspec.json.decode(told)
    except msgspec.DecodeError:
        return told if colon else key
    return value if isinstance(value, str | int | float) else told


def _traffic(said: dict[str, Any]) -> bytes:
    return frame("traffic", said) + frame("system_traffic", said)
