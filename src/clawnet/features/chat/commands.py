"""Slash commands: a message that begins with one `/` does something and is said to nobody.

They only translate into calls of core.calls, each with the caller's own rights: a command can do
nothing that its giver could not do without it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from clawnet.core.callers import Caller
from clawnet.core.calls.chat import (
    CommandDone,
    InviteToRoom,
    JoinRoom,
    LeaveRoom,
    ListMembers,
    RoomJoined,
    RoomMembers,
    SendChat,
    SetHandle,
    UpdateRoom,
)
from clawnet.core.calls.fleet import ReadFleet
from clawnet.core.calls.presence import ReadPresence
from clawnet.core.calls.tasks import (
    ALL,
    CancelTask,
    DispatchTask,
    ListTasks,
    TaskInfo,
    TaskKind,
)
from clawnet.core.channels import LOBBY, parse
from clawnet.core.chat import GLOBAL
from clawnet.core.errors import BadRequest, DedupeConflict
from clawnet.core.rights import Allowed, Verb, decide, tasks_channel

if TYPE_CHECKING:
    from clawnet.features.chat.names import Names
    from clawnet.hub.hub import Hub

STATUS_COMMAND = "Report your status: what you are doing, and whether anything is wrong."
TASKS_SHOWN = 20
TASKS_AT_ONCE = 200
TASK_PAGES_MAX = 10
WHO_SHOWN = 200
_TEXT_SHOWN = 80


class Given(NamedTuple):
    """A command as it was given: where, by whom, and what stood behind its name."""

    call: SendChat
    caller: Caller
    channel: str
    rest: str

    @property
    def room(self) -> str:
        """The channel as calls of rooms and tasks name it."""
        if self.channel == LOBBY:
            return GLOBAL
        return self.channel.removeprefix("room.")


_Run = Callable[[Given], Awaitable[CommandDone]]


class Command(NamedTuple):
    usage: str
    about: str
    run: _Run


class Commands:
    """The table of commands and what each does."""

    def __init__(self, hub: Hub, names: Names) -> None:
        self._hub = hub
        self._names = names
        self._table: dict[str, Command] = {
            "help": Command("/help", "what there is", self._help),
            "status": Command("/status [@agent]", "ask agents how they are", self._status),
            "who": Command("/who", "who is here", self._who),
            "dispatch": Command("/dispatch @agent TEXT", "give an agent work", self._dispatch),
            "ask": Command("/ask @agent TEXT", "ask an agent", self._ask),
            "exec": Command("/exec @agent CMD", "run a command on its machine", self._exec),
            "cancel": Command("/cancel TASK", "stop a task", self._cancel),
            "tasks": Command("/tasks", "the open tasks", self._tasks),
            "join": Command("/join ROOM", "enter a room", self._join),
            "leave": Command(
                "/leave [ROOM]", "leave a room, this one if none is named", self._leave
            ),
            "invite": Command("/invite @agent [ROOM]", "let somebody into a room", self._invite),
            "topic": Command("/topic TEXT", "say what this room is about", self._topic),
            "handle": Command("/handle NEW", "take another handle", self._handle),
        }

    async def run(
        self, command: tuple[str, str], call: SendChat, caller: Caller, channel: str
    ) -> CommandDone:
        """Raises BadRequest for what is no command, and whatever its calls raise."""
        name, rest = command
        known = self._table.get(name)
        if known is None:
            raise BadRequest(
                f"/{ascii(name[:40])[1:-1]} is not a command. There are: {self._list()}.",
                next="Begin the text with // to say something that begins with /.",
                commands=[known.usage for known in self._table.values()],
            )
        caller.need("events:write")
        return await known.run(Given(call, caller, channel, rest))

    def _list(self) -> str:
        return ", ".join(known.usage for known in self._table.values())

    async def _help(self, given: Given) -> CommandDone:
        lines = [f"{known.usage}: {known.about}" for known in self._table.values()]
        lines.append("//text says a text that begins with /")
        return _done("help", "\n".join(lines), {"commands": lines[:-1]})

    # --- work ---------------------------------------------------------------

    async def _dispatch(self, given: Given) -> CommandDone:
        return await self._give("dispatch", given, kind="openclaw")

    async def _ask(self, given: Given) -> CommandDone:
        return await self._give("ask", given, kind="openclaw")

    async def _exec(self, given: Given) -> CommandDone:
        return await self._give("exec", given, kind="exec")

    async def _give(self, name: str, given: Given, *, kind: TaskKind) -> CommandDone:
        words = given.rest.split(None, 1)
        if len(words) < 2:
            raise self._misused(name)
        who, text = words
        to = ALL
        if who.removeprefix("@").lower() != ALL:
            to = self._names.need(given.caller.world, who).id
        return await self._dispatched(name, given, to, text, kind)

    async def _dispatched(
        self, name: str, given: Given, to: str | list[str], text: str, kind: TaskKind
    ) -> CommandDone:
        call = given.call
        done = await self._hub.call(
            DispatchTask(
                to=to,
                command=text,
                kind=kind,
                # It is told of here: whoever may not speak here is refused.
                room=given.room,
                dedupe_key=call.dedupe_key,
                correlation_id=call.correlation_id,
                causation_id=call.causation_id,
            ),
            caller=given.caller,
        )
        return _given(name, done.tasks)

    async def _status(self, given: Given) -> CommandDone:
        caller = given.caller
        if given.rest:
            to = [self._names.need(caller.world, given.rest.split()[0]).id]
        else:
            to = await self._reachable(caller)
        try:
            return await self._dispatched("status", given, to, STATUS_COMMAND, "openclaw")
        except DedupeConflict:
            if given.rest:
                raise
            # Repeated: others may be online by now, and it is the same asking all the same.
            asked = await self._asked(given)
            if not asked:
                raise
            return _given("status", asked)

    async def _asked(self, given: Given) -> list[TaskInfo]:
        """The tasks of an earlier `/status` with this key, as far as the newest hold them."""
        own = given.caller.account
        asked = (own, given.call.dedupe_key, STATUS_COMMAND, given.channel)
        found: list[TaskInfo] = []
        after: str | None = None
        for _ in range(TASK_PAGES_MAX):
            call = ListTasks(agent=own, after=after, limit=TASKS_AT_ONCE)
            page = await self._hub.call(call, caller=given.caller)
            found += [
                task
                for task in page.tasks
                if (task.from_id, task.dedupe_key, task.command, task.room) == asked
            ]
            after = page.next
            if after is None:
                break
        return sorted(found, key=lambda task: task.to)

    async def _reachable(self, caller: Caller) -> list[str]:
        """The agents that are online, have OpenClaw and take work of the caller; else itself."""
        fleet = await self._hub.call(ReadFleet(), caller=caller)
        found = []
        for agent in fleet.agents:
            if agent.status == "offline" or "openclaw" not in agent.capabilities:
                continue
            place = parse(tasks_channel(agent.id))
            verdict = decide(caller, Verb.DISPATCH, place, self._hub.directory)
            if isinstance(verdict, Allowed):
                found.append(agent.id)
        return found or [caller.account or ""]

    async def _cancel(self, given: Given) -> CommandDone:
        task_id = given.rest.split()[0] if given.rest else ""
        if not task_id:
            raise self._misused("cancel")
        task = await self._hub.call(CancelTask(task_id=task_id), caller=given.caller)
        return CommandDone(
            name="cancel", text=f"{task.task_id} is {task.status}.", task_ids=[task.task_id]
        )

    async def _tasks(self, given: Given) -> CommandDone:
        page = await self._hub.call(ListTasks(is_open=True, limit=TASKS_SHOWN), caller=given.caller)
        lines = [
            f"{task.task_id} {task.status} {task.from_id} to {task.to}: {_cut(task.command)}"
            for task in page.tasks
        ]
        return _done("tasks", "\n".join(lines) or "No task is open.", {"tasks": page.tasks})

    # --- rooms --------------------------------------------------------------

    async def _who(self, given: Given) -> CommandDone:
        if given.channel == LOBBY:
            online = await self._hub.call(ReadPresence(limit=WHO_SHOWN), caller=given.caller)
            names = [f"@{one.handle} ({one.status})" for one in online.accounts]
            return _done(
                "who", ", ".join(names) or "Nobody is online.", {"online": online.accounts}
            )
        found: RoomMembers = await self._hub.call(
            ListMembers(room=given.channel), caller=given.caller
        )
        members = found.members[:WHO_SHOWN]
        names = [f"@{member.handle} ({member.status})" for member in members]
        return _done("who", ", ".join(names), {"members": members})

    async def _join(self, given: Given) -> CommandDone:
        if not given.rest:
            raise self._misused("join")
        joined: RoomJoined = await self._hub.call(
            JoinRoom(room=given.rest.split()[0]), caller=given.caller
        )
        text = f"You are in {joined.room}." if joined.changed else f"You were in {joined.room}."
        return _done("join", text, {"room": joined.room, "offset": joined.offset})

    async def _leave(self, given: Given) -> CommandDone:
        room = given.rest.split()[0] if given.rest else given.room
        left = await self._hub.call(LeaveRoom(room=room), caller=given.caller)
        text = f"You left {left.room}." if left.changed else f"You were not in {left.room}."
        return _done("leave", text, {"room": left.room})

    async def _invite(self, given: Given) -> CommandDone:
        words = given.rest.split()
        if not words:
            raise self._misused("invite")
        agent = self._names.need(given.caller.world, words[0]).id
        room = words[1] if len(words) > 1 else given.room
        invited = await self._hub.call(InviteToRoom(room=room, agent=agent), caller=given.caller)
        text = f"{agent} may join {invited.room}."
        return _done("invite", text, {"room": invited.room, "agent": agent})

    async def _topic(self, given: Given) -> CommandDone:
        room = await self._hub.call(
            UpdateRoom(room=given.room, topic=given.rest), caller=given.caller
        )
        text = f"The topic of {room.room} is: {room.topic}" if room.topic else "There is no topic."
        return _done("topic", text, {"room": room.room, "topic": room.topic})

    async def _handle(self, given: Given) -> CommandDone:
        if not given.rest:
            raise self._misused("handle")
        agent = given.caller.account or ""
        done = await self._hub.call(
            SetHandle(agent_id=agent, handle=given.rest.removeprefix("@")), caller=given.caller
        )
        return _done("handle", f"You are @{done.handle}.", {"handle": done.handle})

    def _misused(self, name: str) -> BadRequest:
        return BadRequest(
            f"That is not how /{name} is used.", next=f"Write: {self._table[name].usage}"
        )


def _given(name: str, tasks: Sequence[TaskInfo]) -> CommandDone:
    shown = ", ".join(f"{task.to}: {task.task_id} ({task.status})" for task in tasks)
    return CommandDone(
        name=name,
        text=f"Given to {shown or 'nobody'}.",
        task_ids=[task.task_id for task in tasks],
    )


def _done(name: str, text: str, data: dict[str, Any]) -> CommandDone:
    return CommandDone(name=name, text=text, data=msgspec.Raw(msgspec.json.encode(data)))


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TEXT_SHOWN else f"{line[: _TEXT_SHOWN - 1]}…"
