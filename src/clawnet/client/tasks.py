"""Tasks as Client offers them: give work, take work, say how it goes, wait for its end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from clawnet.client.http import new_dedupe_key, segment
from clawnet.client.transport import TIMEOUT_S
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

DISPATCH_WITHIN_S = 30.0
_PAGE = 50
_PATH = "/api/v1/tasks"


class TaskCalls:
    """The part of Client that has to do with tasks."""

    @property
    def _work(self) -> Client:
        return cast("Client", self)

    async def dispatch(
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
        """Give work to an account, several, or `all`: one task each.

        Repeated under one dedupe key until `within_s` is over, so it is given once.
        """
        body = {
            "to": to.removeprefix("@") if isinstance(to, str) else list(to),
            "command": command,
            "kind": kind,
            "timeout_s": timeout_s,
            "room": room,
            "args": args,
            "dedupe_key": dedupe_key or new_dedupe_key(),
            "correlation_id": correlation_id,
            "causation_id": causation_id,
        }
        given = {name: value for name, value in body.items() if value is not None}
        return await self._work.request("POST", _PATH, given, Dispatched, within_s=within_s)

    async def tasks(
        self,
        *,
        agent: str | None = None,
        status: TaskStatus | None = None,
        is_open: bool | None = None,
        room: str | None = None,
        after: str | None = None,
        limit: int = _PAGE,
    ) -> TaskList:
        """A page of the tasks this account may see, newest first."""
        query = {
            "agent": agent,
            "status": status,
            "open": None if is_open is None else str(is_open).lower(),
            "room": room,
            "after": after,
            "limit": limit,
        }
        return await self._work.request("GET", _PATH, None, TaskList, query=query)

    async def task(self, task_id: str, *, wait_s: float = 0.0) -> TaskInfo:
        """One task; waits up to `wait_s` for its end."""
        query = {"wait": wait_s or None}
        return await self._work.request(
            "GET", _one(task_id), None, TaskInfo, query=query, timeout_s=TIMEOUT_S + wait_s
        )

    async def take_tasks(self, *, within_s: float = 0.0) -> TaskList:
        """Say that this account takes work: what is open for it is sent (again)."""
        return await self._work.request("POST", f"{_PATH}/take", {}, TaskList, within_s=within_s)

    async def update_task(
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
        body = {"fence": fence, "status": status, "output": output, "piece": piece}
        return await self._done(task_id, "update", body, within_s)

    async def finish_task(
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
        body = {
            "fence": fence,
            "status": status,
            "output": output,
            "error": error,
            "exit_code": exit_code,
            "said": said,
        }
        return await self._done(task_id, "result", body, within_s)

    async def cancel_task(self, task_id: str) -> TaskInfo:
        return await self._done(task_id, "cancel", None, 0.0)

    async def approve_task(self, task_id: str, digest: str) -> TaskInfo:
        """Let a task that waits for a master go on: exactly the bytes that `digest` names."""
        return await self._done(task_id, "approve", {"digest": digest}, 0.0)

    async def _done(
        self, task_id: str, what: str, body: dict[str, Any] | None, within_s: float
    ) -> TaskInfo:
        given = (
            None
            if body is None
            else {name: value for name, value in body.items() if value is not None}
        )
        path = f"{_one(task_id)}/{what}"
        return await self._work.request("POST", path, given, TaskInfo, within_s=within_s)


def _one(task_id: str) -> str:
    return f"{_PATH}/{segment(task_id)}"
