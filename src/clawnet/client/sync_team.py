"""Chat, tasks and the fleet as SyncClient offers them; see Client for each method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from clawnet.client.chat import SEND_WITHIN_S
from clawnet.client.tasks import DISPATCH_WITHIN_S
from clawnet.core.calls.chat import (
    ChatDeleted,
    ChatPage,
    ChatSent,
    HandleSet,
    RoomInfo,
    RoomInvited,
    RoomJoined,
    RoomLeft,
    RoomMembers,
)
from clawnet.core.calls.fleet import Fleet
from clawnet.core.calls.logs import LOG_LIMIT, LogKind, LogPage
from clawnet.core.calls.presence import PresenceInfo
from clawnet.core.calls.tasks import (
    Dispatched,
    EndStatus,
    TaskInfo,
    TaskKind,
    TaskList,
    TaskStatus,
    WorkStatus,
)

if TYPE_CHECKING:
    from clawnet.client.client import Client
    from clawnet.client.loop_thread import LoopThread

_PAGE = 100
_TASKS_PAGE = 50


class SyncTeamCalls:
    """The part of SyncClient that has to do with chat, tasks and the fleet."""

    _client: Client
    _thread: LoopThread

    def send_chat(
        self,
        text: str,
        *,
        room: str | None = None,
        to: str | None = None,
        dedupe_key: str | None = None,
        payload: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        within_s: float = SEND_WITHIN_S,
    ) -> ChatSent:
        """Say something in a room, to one account, or (with neither) to everybody."""
        return self._thread.run(
            self._client.send_chat,
            text,
            room=room,
            to=to,
            dedupe_key=dedupe_key,
            payload=payload,
            correlation_id=correlation_id,
            causation_id=causation_id,
            within_s=within_s,
        )

    def chat_history(
        self,
        room: str = "global",
        *,
        after: int | None = None,
        epoch: str | None = None,
        before: int | None = None,
        limit: int = _PAGE,
    ) -> ChatPage:
        """What was said there, oldest first: behind `after`, or the newest before `before`."""
        return self._thread.run(
            self._client.chat_history, room, after=after, epoch=epoch, before=before, limit=limit
        )

    def rooms(self) -> list[RoomInfo]:
        """The public rooms and one's own."""
        return self._thread.run(self._client.rooms)

    def room(self, name: str) -> RoomInfo:
        return self._thread.run(self._client.room, name)

    def create_room(
        self,
        room: str,
        *,
        private: bool = False,
        topic: str = "",
        history: Literal["joined", "all"] = "joined",
    ) -> RoomInfo:
        """Make a room, with this account as its owner. Raises Conflict if it is there."""
        return self._thread.run(
            self._client.create_room, room, private=private, topic=topic, history=history
        )

    def update_room(
        self,
        room: str,
        *,
        topic: str | None = None,
        private: bool | None = None,
        history: Literal["joined", "all"] | None = None,
    ) -> RoomInfo:
        return self._thread.run(
            self._client.update_room, room, topic=topic, private=private, history=history
        )

    def join_room(self, room: str) -> RoomJoined:
        """Become a member; joining twice changes nothing."""
        return self._thread.run(self._client.join_room, room)

    def leave_room(self, room: str, account: str | None = None) -> RoomLeft:
        """Be a member no more, or put `account` out (the owner, a master)."""
        return self._thread.run(self._client.leave_room, room, account)

    def invite_to_room(self, room: str, agent: str) -> RoomInvited:
        return self._thread.run(self._client.invite_to_room, room, agent)

    def room_members(self, room: str) -> RoomMembers:
        return self._thread.run(self._client.room_members, room)

    def delete_chat(self, id: str) -> ChatDeleted:
        """Blank a message: one's own, in one's room, or as a master."""
        return self._thread.run(self._client.delete_chat, id)

    def typing(
        self, is_typing: bool = True, *, room: str | None = None, to: str | None = None
    ) -> None:
        """Tell who is live there that one types; never stored."""
        self._thread.run(self._client.typing, is_typing, room=room, to=to)

    def set_status(
        self, status: Literal["online", "idle"], text: str | None = None
    ) -> PresenceInfo:
        """Be online or idle by one's own word."""
        return self._thread.run(self._client.set_status, status, text)

    def set_handle(self, agent_id: str, handle: str) -> HandleSet:
        """Give an account a handle: one's own, or as a master anyone's. Raises Conflict."""
        return self._thread.run(self._client.set_handle, agent_id, handle)

    def dispatch(
        self,
        to: str | Iterable[str],
        command: str,
        *,
        kind: TaskKind = "openclaw",
        timeout_s: float | None = None,
        room: str | None = None,
        args: Any = None,
        dedupe_key: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        within_s: float = DISPATCH_WITHIN_S,
    ) -> Dispatched:
        """Give work to an account, several, or `all`: one task each."""
        return self._thread.run(
            self._client.dispatch,
            to,
            command,
            kind=kind,
            timeout_s=timeout_s,
            room=room,
            args=args,
            dedupe_key=dedupe_key,
            correlation_id=correlation_id,
            causation_id=causation_id,
            within_s=within_s,
        )

    def tasks(
        self,
        *,
        agent: str | None = None,
        status: TaskStatus | None = None,
        is_open: bool | None = None,
        room: str | None = None,
        after: str | None = None,
        limit: int = _TASKS_PAGE,
    ) -> TaskList:
        """A page of the tasks this account may see, newest first."""
        return self._thread.run(
            self._client.tasks,
            agent=agent,
            status=status,
            is_open=is_open,
            room=room,
            after=after,
            limit=limit,
        )

    def task(self, task_id: str, *, wait_s: float = 0.0) -> TaskInfo:
        """One task; waits up to `wait_s` for its end."""
        return self._thread.run(self._client.task, task_id, wait_s=wait_s)

    def take_tasks(self, *, within_s: float = 0.0) -> TaskList:
        """Say that this account takes work: what is open for it is sent (again)."""
        return self._thread.run(self._client.take_tasks, within_s=within_s)

    def update_task(
        self,
        task_id: str,
        fence: int,
        status: WorkStatus,
        *,
        output: str | None = None,
        piece: int | None = None,
        within_s: float = 0.0,
    ) -> TaskInfo:
        """Acknowledge a task, or go on with it; both renew the lease. Raises Conflict."""
        return self._thread.run(
            self._client.update_task,
            task_id,
            fence,
            status,
            output=output,
            piece=piece,
            within_s=within_s,
        )

    def finish_task(
        self,
        task_id: str,
        fence: int,
        status: EndStatus,
        *,
        output: str | None = None,
        error: str | None = None,
        exit_code: int | None = None,
        said: str | None = None,
        within_s: float = DISPATCH_WITHIN_S,
    ) -> TaskInfo:
        """Say how a task ended; repeating it is safe. Raises Conflict if the lease was lost."""
        return self._thread.run(
            self._client.finish_task,
            task_id,
            fence,
            status,
            output=output,
            error=error,
            exit_code=exit_code,
            said=said,
            within_s=within_s,
        )

    def cancel_task(self, task_id: str) -> TaskInfo:
        return self._thread.run(self._client.cancel_task, task_id)

    def approve_task(self, task_id: str, digest: str) -> TaskInfo:
        """Let a task that waits for a master go on: exactly the bytes that `digest` names."""
        return self._thread.run(self._client.approve_task, task_id, digest)

    def fleet(self) -> Fleet:
        """Everyone of this world that reported or is connected."""
        return self._thread.run(self._client.fleet)

    def report(
        self,
        *,
        role: str | None = None,
        status: str | None = None,
        specs: dict[str, Any] | None = None,
        resource_usage: dict[str, Any] | None = None,
        cron: Any = None,
        sessions: Any = None,
        capabilities: list[str] | None = None,
        within_s: float = 0.0,
    ) -> None:
        """Say how this machine does; what is left out stays as it was."""
        self._thread.run(
            self._client.report,
            role=role,
            status=status,
            specs=specs,
            resource_usage=resource_usage,
            cron=cron,
            sessions=sessions,
            capabilities=capabilities,
            within_s=within_s,
        )

    def logs(
        self, kind: LogKind = "server", *, after: int | None = None, limit: int = LOG_LIMIT
    ) -> LogPage:
        return self._thread.run(self._client.logs, kind, after=after, limit=limit)
