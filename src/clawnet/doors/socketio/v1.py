"""C2CP v1: what one client of it may say and is told, in the words of existing agents and tools."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from clawnet.core.callers import HUB
from clawnet.core.calls.chat import ChatSent, JoinRoom, LeaveRoom, RoomJoined, SendChat, Typing
from clawnet.core.calls.fleet import Report
from clawnet.core.calls.marks import OpenMarks
from clawnet.core.calls.reading import Gap
from clawnet.core.calls.tasks import (
    OUTPUT_MAX_BYTES,
    ApproveTask,
    Dispatched,
    DispatchTask,
    FinishTask,
    ListTasks,
    ReadTask,
    TakeTasks,
    TaskInfo,
    TaskList,
    UpdateTask,
)
from clawnet.core.channels import parse
from clawnet.core.chat import ToType, channel_of, command_of, room_channel, target_of
from clawnet.core.errors import BadRequest, ClawError, Forbidden, RateLimited
from clawnet.core.live import Shape
from clawnet.core.rights import Allowed, Verb, decide
from clawnet.core.times import rfc3339
from clawnet.doors.socketio.talk import EventHandler
from clawnet.doors.socketio.v1_outlet import Outlet1
from clawnet.doors.socketio.v1_shapes import command_of as command_frame
from clawnet.doors.socketio.v1_shared import Shared1
from clawnet.doors.socketio.v1_tasks import RUNNING, outcome_of, task_of
from clawnet.doors.socketio.v2_resend import Backlog, Resending

if TYPE_CHECKING:
    from clawnet.doors.socketio.conversation import Conversation

TASKS_SHOWN = 20
TASKS_EVERY_S = 0.2
"""The list of tasks is told no oftener, however fast they move."""
OPS = "ops"
SENDING_MAX = 256
TEXT_MAX_CHARS = 65_536
LOCAL_ID_MAX_CHARS = 128
TIMEOUT_DIGITS_MAX = 18
CUT = "\n[cut]"

_log = logging.getLogger(__name__)


class Version1:
    """The Dialect of v1."""

    version = 1
    observed = frozenset({"latency_ping"})

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._hub = conversation.hub
        self._shared = conversation.door.share(Shared1)
        self._backlog: Backlog | None = None
        self._sending = 0
        self._is_listing = False
        self._is_list_due = False
        is_warden = conversation.caller.role == "warden"
        self.shape: Shape = self._shared.traffic if is_warden else self._shared.shape
        self.outlet = Outlet1(conversation.link, conversation, on_tasks=self._tasks_moved)
        self.handlers: Mapping[str, EventHandler] = {
            "report": self._report,
            "agent_hello": self._agent_hello,
            "latency_ping": self._latency_ping,
            "dispatch": self._dispatch,
            "approve_task": self._approve_task,
            "command_ack": self._command_ack,
            "task_result": self._task_result,
            "update": self._task_result,
            "chat": self._chat,
            "message": self._chat,
            "join_room": self._join_room,
            "leave_room": self._leave_room,
            "typing": self._typing,
        }

    # --- what Shared1 asks --------------------------------------------------

    @property
    def world(self) -> str:
        return self._conversation.world

    @property
    def account(self) -> str | None:
        return self._conversation.account

    @property
    def is_worker(self) -> bool:
        """Whether it is told of the fleet as workers are."""
        conversation = self._conversation
        return conversation.is_agent and conversation.caller.role == "worker"

    @property
    def is_reader(self) -> bool:
        """Whether it may be told of the fleet."""
        return self._conversation.caller.allows("events:read")

    def may_read(self, room: str) -> bool:
        """Whether it may be told of a room's members: as one of them who reads there."""
        granted = self._hub.directory.granted(self.world, self.account or "", room, "read")
        return granted is not None and self._conversation.is_reader_of(room)

    def send(self, frames: bytes, *, of: str | None = None) -> None:
        """Write whole frames; `of` is the channel that they tell of, if only some may read it."""
        session = self._conversation.session
        if self._conversation.is_open and session is not None:
            self._conversation.link.write(frames)
            if of is not None:
                session.given(of)

    def written(self, fresh: set[tuple[str, str]]) -> None:
        """Events of these channels were written to who follows them, and may have been taken."""
        conversation, backlog = self._conversation, self._backlog
        session = conversation.session
        if backlog is None or session is None or not conversation.is_open:
            return
        backlog.fresh.update(channel for world, channel in fresh if world == self.world)
        if not backlog.fresh or session.is_paused or not session.has_cursor:
            return
        if conversation.link.unsent():
            return
        for channel in list(backlog.fresh):
            head = self._hub.storage.engine.channel(self.world, channel)
            if head is None or head.last_seq <= self._hub.fanout.position:
                backlog.fresh.discard(channel)
                if head is not None:
                    backlog.acknowledge_to(channel, head.last)

    # --- Dialect ------------------------------------------------------------

    def begin(self) -> None:
        self._hub.spawn(self._begin())

    def take(self, name: str, args: list[Any], answer: Callable[[Any], None]) -> bool:
        """A message to a channel that is there is sent on at once; the next need not wait."""
        if name not in ("chat", "message") or self._sending >= SENDING_MAX:
            return False
        call = self._message(args)
        caller = self._conversation.caller
        text = msgspec.json.decode(call.payload)["text"]
        if command_of(text) is not None:
            return False
        channel = parse(channel_of(call.to_type, call.to_id, caller.account or ""))
        if isinstance(decide(caller, Verb.PUBLISH, channel, self._hub.directory), Allowed):
            self._sending += 1
            self._hub.spawn(self._send(call, answer))
            return True
        return False

    def acknowledged(self, id: int, args: list[Any]) -> None:
        """Nothing of v1 wants an acknowledgement."""

    def gap(self, number: int, gap: Gap) -> None:
        if self._backlog is not None:
            self._backlog.lost(gap.channel, gap.first, gap.last)

    def ended(self, number: int, error: ClawError) -> None:
        # Nothing more would come: let the client come back.
        self._conversation.end()

    def dropped(self, number: int, channel: str, error: ClawError) -> None:
        """A channel was taken away. v1 has no word for it."""

    def refusal(self, error: ClawError) -> Any:
        """`{ok: false, error, code}`."""
        said: dict[str, Any] = {"ok": False, "error": error.message, "code": error.code}
        if error.retry_after_s is not None:
            said["retry_after_s"] = round(error.retry_after_s, 3)
        return said

    def lost(self) -> None:
        self._shared.all.discard(self)

    # --- beginning ----------------------------------------------------------

    async def _begin(self) -> None:
        conversation = self._conversation
        try:
            await self._follow()
            fleet = await self._shared.fleet(self.world)
            if not conversation.is_open:
                return
            self._shared.begin(self, fleet)
            if conversation.account is not None:
                self._tasks_moved()
            if conversation.is_agent and conversation.caller.allows("tasks:write"):
                taken: TaskList = await conversation.call(TakeTasks())
                for task in taken.tasks:
                    if self.outlet.is_given(task.task_id, task.fence):
                        continue
                    self.send(command_frame(task))
        except ClawError as error:
            # Between connect() and here its rights or the hub changed.
            conversation.emit("error", self.refusal(error))
            conversation.end()
        except Exception:  # the top of a task
            _log.exception("a v1 conversation failed to begin")
            conversation.end()

    async def _follow(self) -> None:
        conversation, hub = self._conversation, self._hub
        caller = conversation.caller
        since, floors = None, dict[str, int]()
        if conversation.is_agent and caller.allows("events:read") and caller.role != "warden":
            voice = msgspec.structs.replace(HUB, world=self.world)
            marks = await hub.call(OpenMarks(account=caller.account or ""), caller=voice)
            backlog = Backlog(conversation.door.share(Resending), conversation, marks)
            since, floors = await backlog.begin(None)
            self._backlog = backlog
        # From here to the end there is no await: what comes meanwhile is followed.
        names = self._conversation.names()
        if names and self._conversation.caller.role == "warden":
            names = (">",)
        if names and conversation.is_open:
            followed = conversation.follow(*names, since=since)
            assert conversation.session is not None, "it is open"
            conversation.session.subscriptions[followed.number].floors.update(floors)
        if conversation.session_token is not None:
            conversation.emit(
                "session",
                {
                    "session_token": conversation.session_token,
                    "agent_id": conversation.given_id,
                    "handle": caller.handle,
                    "world": caller.world,
                    "epoch": hub.log_epoch,
                    "cursor": f"{hub.log_epoch}-{hub.fanout.position}",
                },
            )

    # --- tasks told ---------------------------------------------------------

    def _tasks_moved(self) -> None:
        """Something became of a task that this client may see: tell it of the newest."""
        self._is_list_due = True
        if not self._is_listing and self._conversation.is_open:
            self._is_listing = True
            self._hub.spawn(self._tell_tasks())

    async def _tell_tasks(self) -> None:
        """One at a time: what moves meanwhile is told once more behind it."""
        try:
            while self._is_list_due and self._conversation.is_open:
                self._is_list_due = False
                voice = self._conversation.caller
                try:
                    found: TaskList = await self._hub.call(
                        ListTasks(limit=TASKS_SHOWN), caller=voice
                    )
                except RateLimited as error:
                    # Its client calls too much; what moved is told when there is room again.
                    self._is_list_due = True
                    await asyncio.sleep(max(error.retry_after_s or 0.0, TASKS_EVERY_S))
                    continue
                # The hub asked this, not who sits there: no sign of life.
                self._hub.ration.was_no_activity(voice)
                tasks = [task_of(task, name=self._name(task.to)) for task in found.tasks]
                tasks.reverse()
                self._conversation.emit("task_update", tasks)
                session = self._conversation.session
                for room in {task.room for task in found.tasks if task.room is not None}:
                    if session is not None:
                        session.given(room_channel(room))
                await asyncio.sleep(TASKS_EVERY_S)
        except ClawError as error:
            _log.debug("the tasks are not told: %s", error.message)
        except Exception:  # the top of a task
            _log.exception("telling of tasks failed")
        finally:
            self._is_listing = False

    def _is_member(self, channel: str) -> bool:
        """Whether this account is in a room."""
        caller = self._conversation.caller
        granted = self._hub.directory.granted
        return granted(caller.world, caller.account or "", channel, "publish") is not None

    def _name(self, account: str) -> str:
        return self._shared.shape.name(self.world, account)

    # --- events -------------------------------------------------------------

    async def _report(self, args: list[Any]) -> Any:
        said = _object(args)
        specs = {n: v for n in ("specs", "agent_metadata") if isinstance(v := said.get(n), dict)}
        merged: dict[str, Any] = {}
        for part in specs.values():
            merged |= part
        usage = said.get("resource_usage", said.get("system_stats"))
        cron = said.get("cron", said.get("cron_snapshot"))
        await self._conversation.call(
            Report(
                role=_text(said, "role"),
                status=_text(said, "status"),
                specs=merged or None,
                resource_usage=usage if isinstance(usage, dict) else None,
                cron=cron,
                sessions=said.get("sessions"),
            )
        )
        return {"ok": True}

    async def _agent_hello(self, args: list[Any]) -> Any:
        said = _object(args)
        given = said.get("capabilities")
        if isinstance(given, dict):
            # Some clients say which of their abilities are on.
            given = [name for name, is_on in given.items() if is_on]
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            raise BadRequest("capabilities must be a list of names.", next='Send ["openclaw"].')
        await self._conversation.call(Report(capabilities=given))
        return {"ok": True}

    async def _latency_ping(self, args: list[Any]) -> Any:
        return {"ok": True, "server_ts": rfc3339(self._hub.clock.wall_ms())}

    async def _dispatch(self, args: list[Any]) -> Any:
        said = _object(args)
        to = _text(said, "to") or ""
        command = _text(said, "cmd") or _text(said, "command_string") or ""
        timeout = _seconds(said.get("timeout"))
        key = _text(said, "task_id")
        caller = self._conversation.caller
        ops = room_channel(OPS)
        if caller.role == "master" and not self._is_member(ops):
            # Where masters are told of commands and results; made when first asked for.
            await self._conversation.call(JoinRoom(room=OPS))
        given: Dispatched = await self._conversation.call(
            DispatchTask(
                to=to.strip().lower().removeprefix("@"),
                command=command,
                timeout_s=timeout,
                room=OPS if caller.role == "master" else None,
                dedupe_key=key,
            )
        )
        first = given.task_ids[0] if given.task_ids else None
        return {"ok": True, "id": first, "task_ids": given.task_ids}

    async def _approve_task(self, args: list[Any]) -> Any:
        task = await self._task(args)
        if self._conversation.caller.role != "master":
            raise Forbidden("Only a master approves tasks.", next="Ask a master of your world.")
        # v1 names no bytes: it approves what the task says now, which never changes.
        await self._conversation.call(ApproveTask(task_id=task.task_id, digest=task.digest))
        return {"ok": True}

    async def _command_ack(self, args: list[Any]) -> Any:
        task = await self._own_task(args)
        # What ended without its agent is refused, so that one that asks does not begin it.
        if task.status not in ("accepted", "completed", "failed"):
            call = UpdateTask(task_id=task.task_id, fence=task.fence, status="accepted")
            await self._conversation.call(call)
        return {"ok": True}

    async def _task_result(self, args: list[Any]) -> Any:
        task = await self._own_task(args)
        said = _object(args)
        status = _text(said, "status") or "SUCCESS"
        output, error = _output(said.get("output")), _output(said.get("error"))
        code = said.get("exit_code")
        if status.strip().upper() in RUNNING:
            await self._conversation.call(
                UpdateTask(task_id=task.task_id, fence=task.fence, status="running", output=output)
            )
            return {"ok": True}
        await self._conversation.call(
            FinishTask(
                task_id=task.task_id,
                fence=task.fence,
                status=outcome_of(status),  # type: ignore[arg-type]
                output=output,
                error=error,
                exit_code=code if isinstance(code, int) and not isinstance(code, bool) else None,
                said=status[:64],
            )
        )
        return {"ok": True}

    async def _task(self, args: list[Any]) -> TaskInfo:
        said = _object(args)
        task_id = _text(said, "id") or _text(said, "task_id")
        if task_id is None:
            raise BadRequest("The event names no task.", next="Give its id, as command had it.")
        found: TaskInfo = await self._conversation.call(ReadTask(task_id=task_id))
        return found

    async def _own_task(self, args: list[Any]) -> TaskInfo:
        task = await self._task(args)
        if task.to != self._conversation.account:
            raise Forbidden(
                "Only the task's agent says what becomes of it.",
                next="Answer the tasks that command gave to you.",
            )
        return task

    # --- chat ---------------------------------------------------------------

    def _message(self, args: list[Any]) -> SendChat:
        said = _object(args)
        text = _text(said, "msg", TEXT_MAX_CHARS) or _text(said, "message", TEXT_MAX_CHARS)
        if text is None:
            raise BadRequest("The message is empty.", next="Give its text in msg.")
        to_type, to_id = _target(_text(said, "to") or "all")
        local = said.get("localId")
        key = None
        if isinstance(local, str | int | float) and not isinstance(local, bool) and local != "":
            told = msgspec.json.encode(local).decode()
            if len(told) > LOCAL_ID_MAX_CHARS:
                raise BadRequest(f"localId has at most {LOCAL_ID_MAX_CHARS - 2} characters.")
            # Counted anew by each connection's program, so it says nothing beyond it. Readers
            # are shown the key: the connection's own name is not in it.
            boot = hashlib.sha256(self._conversation.link.sid.encode()).hexdigest()[:16]
            key = f"{boot}:{told}"
        return SendChat(
            to_type=to_type,
            to_id=to_id,
            payload=msgspec.Raw(msgspec.json.encode({"text": text})),
            dedupe_key=key,
        )

    async def _chat(self, args: list[Any]) -> Any:
        return await self._sent(self._message(args))

    async def _send(self, call: SendChat, answer: Callable[[Any], None]) -> None:
        try:
            value = await self._sent(call)
        except ClawError as error:
            value = self.refusal(error)
        except Exception:  # the hub's defect must not cost the client its connection
            _log.exception("a message failed")
            value = self.refusal(ClawError("The hub failed at this message."))
        finally:
            self._sending -= 1
        answer(value)

    async def _sent(self, call: SendChat) -> Any:
        sent: ChatSent = await self._conversation.call(call)
        if sent.command is not None:
            target = target_of(sent.channel, self.account or "")
            said = {
                "from": "hub",
                "to": "all" if target is None else self._shared.shape.to(self.world, target),
                "msg": sent.command.text,
                "ts": rfc3339(self._hub.clock.wall_ms()),
                "localId": None,
            }
            self._conversation.emit("chat_update", said)
            return {"ok": True, "task_ids": sent.command.task_ids, "msg": sent.command.text}
        value: dict[str, Any] = {"ok": True, "id": sent.id}
        return value | {"deduped": True} if sent.deduped else value

    async def _join_room(self, args: list[Any]) -> Any:
        room = _room(args)
        joined: RoomJoined = await self._conversation.call(JoinRoom(room=room))
        if not self._conversation.is_reader_of(joined.channel):
            # It only speaks there, or was put out again before this could be answered.
            return {"ok": True, "room": f"#{joined.room}", "members": []}
        if joined.changed:
            # The room's own event is told to who was in before it, and some clients read no answer.
            shape, account = self._shared.shape, self.account or ""
            said = shape.room_update(self.world, joined.room, account, "join")
            self.send(said, of=joined.channel)
        members = self._shared.shape.members(self.world, joined.room)
        return {"ok": True, "room": f"#{joined.room}", "members": members}

    async def _leave_room(self, args: list[Any]) -> Any:
        room = _room(args)
        await self._conversation.call(LeaveRoom(room=room))
        return {"ok": True, "room": f"#{room}"}

    async def _typing(self, args: list[Any]) -> Any:
        said = _object(args)
        to_type, to_id = _target(_text(said, "to") or "all")
        is_typing = said.get("isTyping", True) is True
        await self._conversation.call(Typing(to_type=to_type, to_id=to_id, is_typing=is_typing))
        return {"ok": True}


def _object(args: list[Any]) -> dict[str, Any]:
    """The first argument. Raises BadRequest."""
    if not args or not isinstance(args[0], dict):
        raise BadRequest("The event needs an object.", next="Send an object as its argument.")
    return args[0]


def _text(said: dict[str, Any], name: str, max_chars: int = 20_000) -> str | None:
    value = said.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > max_chars:
        raise BadRequest(f"{name} must be a text of at most {max_chars} characters.")
    return value


def _target(to: str) -> tuple[ToType, str]:
    """Whom `all`, `#room` or an agent's id means."""
    name = to.strip().lower()
    if name in ("all", "global", "#global", "public.lobby"):
        return "global", ""
    if name.startswith("#"):
        return "room", name[1:]
    return "dm", name


def _room(args: list[Any]) -> str:
    room = _text(_object(args), "room")
    if room is None:
        raise BadRequest("The event names no room.", next="Give room as #name.")
    return room.strip().lower().removeprefix("#")


def _seconds(value: Any) -> float | None:
    """A timeout as clients write it; none for 0 and what is no number. Raises BadRequest."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value:
        return None
    if abs(value) > 10**TIMEOUT_DIGITS_MAX:
        # As a float it may not even exist.
        raise BadRequest("timeout is far too long.", next="Give it in seconds.")
    return float(value)


def _output(value: Any) -> str | None:
    """What an agent says of its work, as a text that is not too long."""
    if value is None:
        return None
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    raw = text.encode("utf-8", "replace")
    if len(raw) <= OUTPUT_MAX_BYTES:
        return text
    return raw[: OUTPUT_MAX_BYTES - len(CUT)].decode("utf-8", "ignore") + CUT
