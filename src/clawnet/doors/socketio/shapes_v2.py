"""How events look in C2CP v2: native envelopes to Socket.IO frames, built once for all readers."""

from __future__ import annotations

from typing import Any

import msgspec

from clawnet.core.calls.tasks import ENDED, TASKS_CHANNEL, TaskInfo
from clawnet.core.chat import target_of
from clawnet.core.events import Actor
from clawnet.doors.socketio.acks import Numbers
from clawnet.doors.ws.frames import text_frame
from clawnet.hub.hub import Hub
from clawnet.hub.presence import CHANNEL as PRESENCE_CHANNEL

CHAT_OPENING = b'["chat_message",{"self":false,"from_id":%b,'
"""How a message begins behind its id; a sender's own link finds its messages by it."""
TASK_OPENING = b'["task_'


class Native(msgspec.Struct):
    """A native envelope, or a signal, which has no place."""

    channel: str
    type: str
    actor: Actor
    world: str
    data: msgspec.Raw
    offset: int = 0
    epoch: str = ""
    id: str = ""
    ts: str = ""
    correlation_id: str | None = None
    causation_id: str | None = None
    dedupe_key: str | None = None
    deleted: bool = False
    imported: Any = None
    """Of what was said on another hub: where, and when."""


class _Change(msgspec.Struct):
    """One of a presence.changed."""

    account: str
    handle: str
    status: str
    since: str
    text: str | None = None


class _Changes(msgspec.Struct):
    changes: list[_Change]


class _Member(msgspec.Struct):
    """Who joined or left a room, in a room event."""

    account: str = ""
    by: str = ""


class _Typing(msgspec.Struct):
    is_typing: bool = True


class _Task(msgspec.Struct):
    """What of a task decides how it is shown. Of a piece of output only a part is there."""

    task_id: str
    to: str = ""
    status: str = "running"


decode_native = msgspec.json.Decoder(Native).decode
_decode_changes = msgspec.json.Decoder(_Changes).decode
_decode_member = msgspec.json.Decoder(_Member).decode
_decode_typing = msgspec.json.Decoder(_Typing).decode
_decode_task = msgspec.json.Decoder(_Task).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Shape2:
    """The shape of all v2 connections. `fresh` collects the channels on which something was
    written that wants an acknowledgement; who sends it again empties it."""

    def __init__(self, hub: Hub, numbers: Numbers, *, is_replay: bool = False) -> None:
        self.key = "c2cp2-replay" if is_replay else "c2cp2"
        self.numbers = numbers
        self.fresh: set[tuple[str, str]] = set()
        self._hub = hub
        self._is_replay = is_replay
        # What is read from the log may have been done long ago, so it gives no work; what is
        # still open is announced anew.
        self.replayed: Shape2 = self if is_replay else Shape2(hub, numbers, is_replay=True)
        if not is_replay:
            self.replayed.fresh = self.fresh

    def frame(self, body: bytes, cursor: bytes | None) -> bytes:
        """The frames for one event; none for what v2 does not show. See core.live.Shape."""
        event = decode_native(body)
        place = None if cursor is None else cursor.decode()
        kind = event.type
        try:
            if kind.startswith("task."):
                # Work of another hub is nobody's here: an agent that is given it would do it again.
                return b"" if event.imported is not None else self._task(event, place)
            if event.channel == PRESENCE_CHANNEL:
                return _presence(event)
            target = target_of(event.channel, event.actor.id)
            if target is None:
                return b""
            if kind == "chat.typing":
                return _typing(event, target.to_type, target.to_id)
            if kind in ("room.joined", "room.left"):
                return self._member(event, target.to_id, place)
            if kind.startswith("room."):
                return _room(event, target.to_id, place)
        except msgspec.ValidationError:
            # Said by the hub itself, but in another form: an older one, or an import.
            return b""
        return self._message(event, target.to_type, target.to_id, place)

    def _message(self, event: Native, to_type: str, to_id: str, cursor: str | None) -> bytes:
        self.fresh.add((event.world, event.channel))
        members: dict[str, Any] = {
            "from_handle": event.actor.handle,
            "id": event.id,
            "ts": event.ts,
            "to_type": to_type,
            "to_id": to_id,
            "payload": _payload(event),
            "dedupe_key": event.dedupe_key or event.id,
            "offset": event.offset,
            "epoch": event.epoch,
            "channel": event.channel,
            "type": event.type,
        }
        if event.deleted:
            members["deleted"] = True
        if event.correlation_id is not None:
            members["correlation_id"] = event.correlation_id
        if event.causation_id is not None:
            members["causation_id"] = event.causation_id
        if cursor is not None:
            members["cursor"] = cursor
        place = self.numbers.id_of(event.world, event.channel, event.offset)
        number = b"" if place is None else b"%d" % place
        opening = CHAT_OPENING % _encode(event.actor.id)
        return text_frame(b"42%b%b%b]" % (number, opening, _encode(members)[1:]))

    def _member(self, event: Native, room: str, cursor: str | None) -> bytes:
        member = _decode_member(event.data)
        who = member.account or member.by
        account = self._hub.directory.account(event.world, who)
        said: dict[str, Any] = {
            "agent_id": who,
            "handle": who if account is None else account.handle,
            "status": self._hub.presence.status(event.world, who),
            "since": event.ts,
            "room": room,
            ("joined" if event.type == "room.joined" else "left"): True,
        }
        return _frame("presence_update", said | _placed(event, cursor))

    def announcement(self, info: TaskInfo) -> bytes:
        """The frame that gives work which is not announced by an event: as if by a signal."""
        opening, flat = _opened(msgspec.json.encode(info))
        return _frame("task_dispatch", opening | flat, self.numbers.signal_id())

    def _task(self, event: Native, cursor: str | None) -> bytes:
        task = _decode_task(event.data)
        opening, flat = _opened(event.data)
        members = opening | flat | {"status": task.status}
        if event.id:
            members |= {"id": event.id, "ts": event.ts}
            members.setdefault("dedupe_key", event.id)
            if event.correlation_id is not None:
                members.setdefault("correlation_id", event.correlation_id)
            if cursor is not None:
                members["cursor"] = cursor
        is_worker = event.channel == TASKS_CHANNEL(task.to) if task.to else False
        if task.status == "submitted" and is_worker and not self._is_replay:
            place = None
            if event.offset:
                place = self.numbers.id_of(event.world, event.channel, event.offset)
            number = self.numbers.signal_id() if place is None else place
            return _frame("task_dispatch", members, number)
        if task.status not in ENDED:
            return _frame("task_update", members)
        result = _frame("task_result", members)
        if task.status == "cancelled" and is_worker and not self._is_replay:
            return _frame("task_cancel", members) + result
        return result


def is_acknowledged(type: str) -> bool:
    """Whether an event of a chat channel is a chat_message, which wants an acknowledgement."""
    return not type.startswith(("room.", "task."))


def _payload(event: Native) -> Any:
    """The payload is an object always: who said something else by another door said its text."""
    if event.deleted:
        return {}
    data = bytes(event.data)
    if data.startswith(b"{"):
        return event.data
    return {"text": event.data} if data.startswith(b'"') else {"data": event.data}


def _presence(event: Native) -> bytes:
    """Without a cursor: who comes back is told of presence as it is then."""
    frames = []
    for change in _decode_changes(event.data).changes:
        said = {
            "agent_id": change.account,
            "handle": change.handle,
            "status": change.status,
            "since": change.since,
        }
        if change.text is not None:
            said["text"] = change.text
        frames.append(_frame("presence_update", said))
    return b"".join(frames)


def _typing(event: Native, to_type: str, to_id: str) -> bytes:
    said = {
        "from_id": event.actor.id,
        "from_handle": event.actor.handle,
        "to_type": to_type,
        "to_id": to_id,
        "is_typing": _decode_typing(event.data).is_typing,
    }
    return _frame("typing_update", said)


def _room(event: Native, room: str, cursor: str | None) -> bytes:
    members: dict[str, Any] = _decode_members(event.data)
    said = {"action": event.type.removeprefix("room."), "room": room, "id": event.id}
    return _frame("room_update", members | said | {"ts": event.ts} | _placed(event, cursor))


def _placed(event: Native, cursor: str | None) -> dict[str, Any]:
    placed: dict[str, Any] = {
        "channel": event.channel,
        "offset": event.offset,
        "epoch": event.epoch,
    }
    return placed if cursor is None else placed | {"cursor": cursor}


def _opened(task: msgspec.Raw | bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """A task's members: those by which a connection knows a change again, which come first, and
    the others."""
    flat: dict[str, Any] = _decode_members(task)
    opening: dict[str, Any] = {"task_id": flat.pop("task_id")}
    for name in ("revision", "fence", "piece"):
        if name in flat:
            opening[name] = flat.pop(name)
    return opening, flat


def _frame(name: str, said: dict[str, Any], id: int | None = None) -> bytes:
    number = b"" if id is None else b"%d" % id
    return text_frame(b'42%b["%b",%b]' % (number, name.encode(), _encode(said)))
