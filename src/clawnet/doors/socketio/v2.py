"""C2CP v2: what one client of it may say and is told. docs/PROTOCOL_v2.md specifies it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from clawnet.core.callers import HUB
from clawnet.core.calls.chat import (
    ChatSent,
    CreateRoom,
    DeleteChat,
    InviteToRoom,
    JoinRoom,
    LeaveRoom,
    ListRooms,
    RoomInfo,
    SendChat,
    SetStatus,
    Typing,
    UpdateRoom,
)
from clawnet.core.calls.fleet import Report
from clawnet.core.calls.marks import OpenMarks
from clawnet.core.calls.reading import Gap, ReadEvent
from clawnet.core.calls.tasks import (
    ApproveTask,
    CancelTask,
    DispatchTask,
    FinishTask,
    TakeTasks,
    TaskList,
    UpdateTask,
)
from clawnet.core.channels import parse
from clawnet.core.chat import command_of, room_channel
from clawnet.core.errors import BadRequest, ClawError, Unavailable
from clawnet.core.events import Event
from clawnet.core.live import Shape
from clawnet.core.rights import Verb, require
from clawnet.core.times import rfc3339
from clawnet.doors.socketio import v2_requests as requests
from clawnet.doors.socketio.talk import EventHandler
from clawnet.doors.socketio.v2_outlet import Outlet2
from clawnet.doors.socketio.v2_replay import replay_channel, replay_since
from clawnet.doors.socketio.v2_resend import Backlog, Resending
from clawnet.hub.presence import CHANNEL as PRESENCE_CHANNEL

if TYPE_CHECKING:
    from clawnet.doors.socketio.conversation import Conversation
    from clawnet.hub.subscriptions import Subscription

SENDING_MAX = 256
"""So many messages of one connection are on their way to the log at once."""
PIECES_MAX = 256
TAKES_MAX = 10
TAKE_WAIT_MAX_S = 10.0
TOLD_MAX = 200
"""So many accounts, and rooms, a connection is told of as it begins: what is made of it takes a
millisecond, and thousands may come at once."""

_log = logging.getLogger(__name__)
_decode_event = msgspec.json.Decoder(Event).decode


class Version2:
    """The Dialect of v2."""

    version = 2
    observed = frozenset({"replay", "room_list"})

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._hub = conversation.hub
        self._shared = conversation.door.share(Resending)
        self._backlog: Backlog | None = None
        self._subscription: Subscription | None = None
        self._sending = 0
        self._pieces: dict[str, int] = {}
        self.shape: Shape = self._shared.shape
        self.outlet = Outlet2(
            conversation.link,
            conversation,
            account=conversation.account if conversation.is_agent else None,
            on_own=self._own,
        )
        self.handlers: Mapping[str, EventHandler] = {
            "report": self._report,
            "chat_send": self._chat_send,
            "chat_ack": self._chat_ack,
            "chat_delete": self._chat_delete,
            "room_create": self._room_create,
            "room_join": self._room_join,
            "room_leave": self._room_leave,
            "room_invite": self._room_invite,
            "room_topic": self._room_topic,
            "room_list": self._room_list,
            "presence_update": self._presence_update,
            "typing": self._typing,
            "task_dispatch": self._task_dispatch,
            "task_update": self._task_update,
            "task_result": self._task_result,
            "task_cancel": self._task_cancel,
            "task_approve": self._task_approve,
            "replay": self._replay,
        }

    # --- Dialect ------------------------------------------------------------

    def begin(self) -> None:
        self._hub.spawn(self._begin())

    def take(self, name: str, args: list[Any], answer: Callable[[Any], None]) -> bool:
        """A message to a channel that is there, or work, is sent on at once; the next need not
        wait: one after the other, a connection would get no more done than one for each sync."""
        if self._sending >= SENDING_MAX:
            return False
        if name == "task_dispatch":
            self._send(self._task_dispatch(args), answer)
            return True
        if name == "task_result":
            self._send(self._task_result(args), answer)
            return True
        if name != "chat_send":
            return False
        said = requests.read(args, requests.ChatSend)
        text = said.payload.get("text")
        if isinstance(text, str) and command_of(text) is not None:
            return False
        if said.to_type == "room":
            channel = room_channel(said.to_id or "")
            caller = self._conversation.caller
            granted = self._hub.directory.granted
            if granted(caller.world, caller.account or "", channel, "publish") is None:
                # It is made or joined first, and what comes behind must wait for that.
                return False
        self._send(self._sent(said), answer)
        return True

    def acknowledged(self, id: int, args: list[Any]) -> None:
        """A callback: a message was handled, or work has arrived."""
        work = self.outlet.work_of(id)
        if work is not None:
            call = UpdateTask(task_id=work[0], fence=work[1], status="accepted")
            self._hub.spawn(self._accept(call))
        elif self._backlog is not None:
            place = self._shared.numbers.place_of(id)
            if place is not None and place.world == self._conversation.world:
                self._backlog.acknowledge(place.channel, place.offset)

    def gap(self, number: int, gap: Gap) -> None:
        if self._backlog is not None:
            self._backlog.lost(gap.channel, gap.first, gap.last)
        self._conversation.emit(
            "gap",
            {
                "channel": gap.channel,
                "asked": gap.first,
                "first": gap.first,
                "last": gap.last,
                "oldest": gap.oldest,
                "reason": gap.reason,
            },
        )

    def ended(self, number: int, error: ClawError) -> None:
        # Nothing more would come: let the client come back.
        self._conversation.emit("error", self.refusal(error))
        self._conversation.end()

    def dropped(self, number: int, channel: str, error: ClawError) -> None:
        self._conversation.emit("dropped", {"channel": channel} | self.refusal(error))

    def refusal(self, error: ClawError) -> Any:
        """`{ok: false, error: {code, message, next, retry_after_s?, reason?}}`."""
        said: dict[str, Any] = {"code": error.code, "message": error.message, "next": error.next}
        if error.retry_after_s is not None:
            said["retry_after_s"] = round(error.retry_after_s, 3)
        if isinstance(error.facts.get("reason"), str):
            said["reason"] = error.facts["reason"]
        return {"ok": False, "error": said}

    def lost(self) -> None:
        key = self._conversation.key
        if key is not None and self._shared.backlogs.get(key) is self._backlog:
            self._shared.backlogs.pop(key, None)

    # --- beginning ----------------------------------------------------------

    async def _begin(self) -> None:
        """Follow the account's channels from where it has come to, and take its work."""
        conversation = self._conversation
        try:
            await self._follow()
            if conversation.is_agent and conversation.caller.allows("tasks:write"):
                await self._take_work()
        except ClawError as error:
            # Between connect() and here its rights or the hub changed.
            conversation.emit("error", self.refusal(error))
            conversation.end()
        except Exception:  # the top of a task
            _log.exception("a v2 conversation failed to begin")
            conversation.emit("error", self.refusal(ClawError("The hub failed.")))
            conversation.end()

    async def _take_work(self) -> None:
        """Say that the worker is there. Many come at once behind a restart: then a little later."""
        for _ in range(TAKES_MAX):
            try:
                taken = await self._conversation.call(TakeTasks())
                break
            except ClawError as error:
                if error.retry_after_s is None or not self._conversation.is_open:
                    raise
                await asyncio.sleep(min(error.retry_after_s, TAKE_WAIT_MAX_S))
        else:
            return
        assert isinstance(taken, TaskList)
        if not self._conversation.is_open:
            return
        for info in taken.tasks:
            # What was queued has come by its event already, or comes now.
            if not self.outlet.is_given(info.task_id, info.fence):
                self.outlet.write(self._shared.shape.announcement(info))

    async def _follow(self) -> None:
        conversation, hub = self._conversation, self._hub
        asked = conversation.asked
        assert asked is not None, "it begins behind connect()"
        since, floors = asked.since, dict[str, int]()
        is_reader = conversation.caller.allows("events:read")
        if conversation.is_agent and is_reader:
            voice = msgspec.structs.replace(HUB, world=conversation.world)
            marks = await hub.call(OpenMarks(account=conversation.account or ""), caller=voice)
            backlog = Backlog(self._shared, conversation, marks)
            since, floors = await backlog.begin(since)
            self._backlog = backlog
        # From here to the end there is no await: what comes meanwhile is followed.
        if not conversation.is_open:
            return
        cursor = f"{hub.log_epoch}-{hub.fanout.position}"
        session = conversation.session
        assert session is not None, "it is open"
        names = self._conversation.names()
        if self._conversation.account is not None and names:
            names = (*names, PRESENCE_CHANNEL)
        if names:
            followed = conversation.follow(*names, since=since)
            self._subscription = subscription = session.subscriptions[followed.number]
            subscription.floors.update(floors)
            cursor = followed.cursor if since is None else str(since)
        if self._backlog is not None and conversation.key is not None:
            self._shared.backlogs[conversation.key] = self._backlog
        conversation.emit("session", self._session(cursor))

    def _session(self, cursor: str) -> dict[str, Any]:
        conversation = self._conversation
        caller = conversation.caller
        said: dict[str, Any] = {
            "agent_id": caller.account,
            "handle": caller.handle,
            "role": caller.role,
            "world": caller.world,
            "epoch": self._hub.log_epoch,
            "cursor": cursor,
        }
        if conversation.session_token is not None:
            said["session_token"] = conversation.session_token
        if caller.account is not None and caller.allows("events:read"):
            said["presence"] = self._there(caller.world)
            grants = self._hub.directory.grants_of(caller.world, caller.account)
            rooms = (grant.channel for grant in grants if "*" not in grant.channel)
            named = (name[5:] for name in rooms if name.startswith("room."))
            said["rooms"] = sorted(islice(named, TOLD_MAX))
        return said

    def _there(self, world: str) -> list[dict[str, Any]]:
        """Who is online or idle, as presence_update goes on from."""
        hub, told = self._hub, []
        for account in islice(sorted(hub.presence.online(world)), TOLD_MAX):
            known = hub.directory.account(world, account)
            since = hub.presence.since_ms(world, account)
            assert since is not None, "it is there"
            text = hub.presence.text(world, account)
            one = {
                "agent_id": account,
                "handle": account if known is None else known.handle,
                "status": hub.presence.status(world, account),
                "since": rfc3339(since),
            }
            told.append(one if text is None else one | {"text": text})
        return told

    def _own(self, id: int) -> None:
        """A message of this client was shown to it."""
        place = self._shared.numbers.place_of(id)
        if place is not None and self._backlog is not None:
            self._backlog.acknowledge(place.channel, place.offset)

    async def _accept(self, call: UpdateTask) -> None:
        try:
            await self._conversation.call(call)
        except ClawError as error:
            # It has ended, or was given anew: what the worker does next will be told so.
            _log.debug("an acknowledged task is not accepted: %s", error.message)
        except Exception:  # the top of a task
            _log.exception("accepting a task failed")

    # --- chat ---------------------------------------------------------------

    async def _chat_send(self, args: list[Any]) -> Any:
        return await self._sent(requests.read(args, requests.ChatSend))

    def _send(self, work: Coroutine[Any, Any, Any], answer: Callable[[Any], None]) -> None:
        self._sending += 1
        self._hub.spawn(self._answered(work, answer))

    async def _answered(
        self, work: Coroutine[Any, Any, Any], answer: Callable[[Any], None]
    ) -> None:
        try:
            value = await work
        except ClawError as error:
            value = self.refusal(error)
        except Exception:  # the hub's defect must not cost the client its connection
            _log.exception("an event that did not wait failed")
            value = self.refusal(ClawError("The hub failed at this event."))
        self._sending -= 1
        answer(value)

    async def _sent(self, said: requests.ChatSend) -> Any:
        call = SendChat(
            payload=msgspec.Raw(msgspec.json.encode(said.payload)),
            to_type=said.to_type,
            to_id=said.to_id or "",
            dedupe_key=said.dedupe_key or said.id,
            correlation_id=said.correlation_id,
            causation_id=said.causation_id,
        )
        sent = await self._conversation.call(call)
        assert isinstance(sent, ChatSent)
        if sent.command is not None:
            return {"ok": True, "command": _plain(sent.command)}
        value = {"ok": True, "id": sent.id, "offset": sent.offset, "channel": sent.channel}
        return value | {"deduped": True} if sent.deduped else value

    async def _chat_ack(self, args: list[Any]) -> Any:
        said = requests.read(args, requests.ChatAck)
        channel, offset = said.channel, said.offset
        if said.id is not None:
            body = await self._conversation.call(ReadEvent(id=said.id))
            event = _decode_event(body)
            channel, offset = event.channel, event.offset
        if channel is None or offset is None:
            raise BadRequest(
                "chat_ack names a channel and an offset, or an id.",
                next="Give them as they were in the chat_message.",
            )
        name = room_channel(channel)
        require(self._conversation.caller, Verb.READ, parse(name), self._hub.directory)
        if self._backlog is None:
            raise Unavailable("The connection has not begun yet.", retry_after_s=0.5)
        self._backlog.acknowledge_to(name, offset)
        return {"ok": True}

    async def _chat_delete(self, args: list[Any]) -> Any:
        said = requests.read(args, requests.ChatDelete)
        call = DeleteChat(id=said.id, channel=said.channel, offset=said.offset)
        return await self._done(call)

    async def _done(self, call: Any) -> dict[str, Any]:
        """The answer of a call as the client gets it."""
        return {"ok": True} | _plain(await self._conversation.call(call))

    # --- rooms --------------------------------------------------------------

    async def _room_create(self, args: list[Any]) -> Any:
        said = requests.read(args, requests.Room)
        call = CreateRoom(
            room=said.room, private=said.private, topic=said.topic or "", history=said.history
        )
        return _of_room(await self._conversation.call(call))

    async def _room_join(self, args: list[Any]) -> Any:
        said = requests.read(args, requests.Room)
        answer = await self._done(JoinRoom(room=said.room))
        if not self._conversation.is_reader_of(answer["channel"]):
            # It only speaks there, or was put out again before this could be answered.
            answer["members"] = []
        return answer

    async def _room_leave(self, args: list[Any]) -> Any:
        said = requests.read(args, requests.Room)
        call = LeaveRoom(room=said.room, account=said.agent)
        return await self._done(call)

    async def _room_invite(self, args: list[Any]) -> Any:
        said = requests.read(args, requests.Room)
        call = InviteToRoom(room=said.room, agent=said.agent or "")
        return await self._done(call)

    async def _room_topic(self, args: list[Any]) -> Any:
        said = requests.read(args, requests.Room)
        call = UpdateRoom(room=said.room, topic=said.topic or "")
        return _of_room(await self._conversation.call(call))

    async def _room_list(self, args: list[Any]) -> Any:
        said = requests.read(args, requests.RoomList)
        call = ListRooms(after=said.after, limit=said.limit)
        return await self._done(call)

    # --- presence -----------------------------------------------------------

    async def _presence_update(self, args: list[Any]) -> Any:
        said = requests.read(args, requests.Status)
        await self._conversation.call(SetStatus(status=said.status, text=said.text))
        return {"ok": True}

    async def _typing(self, args: list[Any]) -> Any:
        said = requests.read(args, requests.Typed)
        call = Typing(to_type=said.to_type, to_id=said.to_id or "", is_typing=said.is_typing)
        await self._conversation.call(call)
        return {"ok": True}

    async def _report(self, args: list[Any]) -> Any:
        said = requests.read(args, requests.Reported)
        call = Report(
            role=said.role,
            status=said.status,
            specs=said.specs,
            resource_usage=said.resource_usage,
            cron=said.cron if said.cron_snapshot is None else said.cron_snapshot,
            sessions=said.sessions,
            capabilities=None if said.capabilities is None else list(said.capabilities),
        )
        await self._conversation.call(call)
        return {"ok": True}

    # --- work ---------------------------------------------------------------

    async def _task_dispatch(self, args: list[Any]) -> Any:
        said = requests.read(args, requests.Dispatch)
        is_plain = said.args is msgspec.UNSET or said.args is None
        call = DispatchTask(
            to=said.to if isinstance(said.to, str) else list(said.to),
            command=said.command,
            kind=said.kind,
            args=msgspec.UNSET if is_plain else msgspec.Raw(msgspec.json.encode(said.args)),
            timeout_s=said.timeout_s,
            room=said.room,
            dedupe_key=said.dedupe_key or said.id,
            correlation_id=said.correlation_id,
        )
        given = await self._conversation.call(call)
        answer = {"ok": True, "task_ids": given.task_ids, "correlation_id": given.correlation_id}
        return answer | {"deduped": True} if given.deduped else answer

    async def _task_update(self, args: list[Any]) -> Any:
        said = requests.read(args, requests.Update)
        call = UpdateTask(
            task_id=said.task_id,
            fence=said.fence,
            status=said.status,
            output=said.output,
            piece=self._piece(said),
        )
        return _of_task(await self._conversation.call(call))

    def _piece(self, said: requests.Update) -> int | None:
        """The number of a piece of output: by it who is told of it twice knows it again."""
        if said.output is None or said.piece is not None:
            return said.piece
        number = self._pieces.pop(said.task_id, 0) + 1
        self._pieces[said.task_id] = number
        if len(self._pieces) > PIECES_MAX:
            del self._pieces[next(iter(self._pieces))]
        return number

    async def _task_result(self, args: list[Any]) -> Any:
        said = requests.read(args, requests.Result)
        call = FinishTask(
            task_id=said.task_id,
            fence=said.fence,
            status=said.status,
            output=said.output,
            error=said.error,
            exit_code=said.exit_code,
        )
        return _of_task(await self._conversation.call(call))

    async def _task_cancel(self, args: list[Any]) -> Any:
        said = requests.read(args, requests.Task)
        return _of_task(await self._conversation.call(CancelTask(task_id=said.task_id)))

    async def _task_approve(self, args: list[Any]) -> Any:
        said = requests.read(args, requests.Approval)
        call = ApproveTask(task_id=said.task_id, digest=said.digest)
        return _of_task(await self._conversation.call(call))

    # --- replay -------------------------------------------------------------

    async def _replay(self, args: list[Any]) -> Any:
        said = requests.read(args, requests.Replay)
        if said.since is not None:
            return await replay_since(self._conversation, self._subscription, said)
        return await replay_channel(self._conversation, said)


def _plain(answer: Any) -> dict[str, Any]:
    # By way of JSON, since it may hold some that is not decoded.
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(answer))
    return plain


def _of_room(info: Any) -> dict[str, Any]:
    assert isinstance(info, RoomInfo)
    return {"ok": True, "offset": info.last} | _plain(info)


def _of_task(info: Any) -> dict[str, Any]:
    return {"ok": True, "task_id": info.task_id, "status": info.status, "revision": info.revision}
