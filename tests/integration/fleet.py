"""A fleet under kills: agents of all kinds talk and work while hub, sidecars and warden are killed.

Each agent says numbered messages, one after the other, and repeats one under its dedupe key until
it is acknowledged. `Fleet.check()` compares what was acknowledged with what is stored.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from subprocess import Popen
from typing import Any

import msgspec
import socketio
from socketio.exceptions import SocketIOError

from clawnet.client.client import Client
from clawnet.client.errors import HubUnreachable
from clawnet.core.calls.tasks import ENDED, TaskKind
from clawnet.core.channels import LOBBY
from clawnet.core.errors import NotFound
from clawnet.core.events import CHAT_MESSAGE, Event
from clawnet.testing.openclaw import make
from tests.cli.program import HubProcess, Program

SECRET = "all of us know this one"
ROOMS = ("alpha", "beta")
ANSWER_MAX_S = 3.0
"""So long an answer is waited for; then the message is said again."""
SETTLE_MAX_S = 60.0
"""So long after the last kill everybody has everything, and every task has ended."""
AGAIN_S = 0.05
REPEAT_EVERY = 7
TASK_MAX_S = 8.0

HUB = {
    "CLAWNET_LIMITS_ENABLED": "false",
    "CLAWNET_SECRET": SECRET,
    "CLAWNET_TASKS_LEASE_S": "4",
    "CLAWNET_TASKS_ACK_TIMEOUT_S": "8",
    "CLAWNET_TASKS_QUEUE_TTL_S": "15",
}


@dataclass(slots=True)
class Diary:
    """What the agents know of their messages, by dedupe key."""

    tried: dict[str, str] = field(default_factory=dict)
    """The channel of each."""
    acknowledged: set[str] = field(default_factory=set)
    dispatched: set[str] = field(default_factory=set)


class Agent(ABC):
    """One that talks. What it hears is noted by the event's id, in the order it came."""

    can_repeat = True
    """Whether its messages have keys that outlive a connection, and it is given everything, also
    what was said while it was away."""

    def __init__(self, url: str, name: str, diary: Diary, random: Random) -> None:
        self.url = url
        self.name = name
        self.heard: dict[str, str] = {}
        self.doubled = 0
        self.peers: list[str] = []
        self._diary = diary
        self._random = random

    @abstractmethod
    async def start(self) -> None: ...

    @abstractmethod
    async def stop(self) -> None: ...

    @abstractmethod
    async def say(self, channel: str, text: str) -> bool | None:
        """Whether the message is acknowledged; None if it must not be said again."""

    async def talk(self, stop: asyncio.Event, *, pause_s: float) -> None:
        """Say one message after the other, until `stop`; the last one to its end."""
        number = 0
        while not stop.is_set():
            number += 1
            text = f"{self.name} {number:06}"
            channel = self._channel()
            self._diary.tried[text] = channel
            async with asyncio.timeout(SETTLE_MAX_S):
                while not (is_done := await self.say(channel, text)):
                    if is_done is None:
                        break
                    await asyncio.sleep(AGAIN_S)
            if is_done:
                self._diary.acknowledged.add(text)
                if self.can_repeat and number % REPEAT_EVERY == 0:
                    # As if the acknowledgement had been lost.
                    await self.say(channel, text)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._random.uniform(0, 2 * pause_s))

    def _channel(self) -> str:
        kind = self._random.randrange(3)
        if kind == 0:
            return LOBBY
        if kind == 1:
            return f"room.{self._random.choice(ROOMS)}"
        return "dm." + ".".join(sorted((self.name, self._random.choice(self.peers))))

    def _peer(self, channel: str) -> str:
        return next(name for name in channel.split(".")[1:] if name != self.name)

    def _hear(self, id: str, text: str) -> None:
        self.doubled += id in self.heard
        self.heard[id] = text


class Native(Agent):
    """By clawnet.client: messages over HTTP, and a subscription that comes back by itself."""

    def __init__(self, token: str, *more: Any) -> None:
        super().__init__(*more)
        self._client = Client(self.url, token)
        self._listener: asyncio.Task[None] | None = None

    async def start(self) -> None:
        for room in ROOMS:
            await self._client.join_room(room)
        names = [LOBBY, *(f"room.{room}" for room in ROOMS)]
        direct = [f"dm.{self.name}.*", f"dm.*.{self.name}"]
        subscription = self._client.subscribe([*names, *direct])
        await subscription.__aenter__()
        self._listener = asyncio.create_task(self._listen(subscription))

    async def _listen(self, subscription: Any) -> None:
        newest: dict[str, int] = {}
        async for event in subscription:
            assert event.offset > newest.get(event.channel, 0), "out of order, or twice"
            newest[event.channel] = event.offset
            if event.type == CHAT_MESSAGE:
                self._hear(event.id, text_of(event))

    async def stop(self) -> None:
        assert self._listener is not None
        if self._listener.done():
            self._listener.result()
        self._listener.cancel()
        await asyncio.gather(self._listener, return_exceptions=True)
        await self._client.aclose()

    async def say(self, channel: str, text: str) -> bool | None:
        room = to = None
        if channel.startswith("room."):
            room = channel.removeprefix("room.")
        elif channel.startswith("dm."):
            to = self._peer(channel)
        try:
            await self._client.send_chat(
                text, room=room, to=to, dedupe_key=text, within_s=ANSWER_MAX_S
            )
        except HubUnreachable:
            return False
        return True


class SocketIo(Agent):
    """By python-socketio."""

    version: int

    def __init__(self, *more: Any) -> None:
        super().__init__(*more)
        self._io = socketio.AsyncClient(
            reconnection_delay=0.05, reconnection_delay_max=0.5, randomization_factor=0.5
        )

    async def start(self) -> None:
        auth = {"token": SECRET, "agent_id": self.name, "protocol": self.version}
        await self._io.connect(self.url, auth=auth, transports=["websocket"], wait_timeout=10)

    async def stop(self) -> None:
        await self._io.disconnect()

    async def ask(self, event: str, said: Any) -> Any:
        """The answer, or None if there is none."""
        try:
            return await self._io.call(event, said, timeout=ANSWER_MAX_S)
        except SocketIOError:
            return None


class Version1(SocketIo):
    """Its messages have no key that outlives a connection, so it says none again."""

    version = 1
    can_repeat = False

    async def start(self) -> None:
        await super().start()
        for room in ROOMS:
            await self.ask("join_room", {"room": f"#{room}"})

    async def say(self, channel: str, text: str) -> bool | None:
        if channel == LOBBY:
            to = "all"
        elif channel.startswith("room."):
            to = channel.replace("room.", "#")
        else:
            to = self._peer(channel)
        answer = await self.ask("chat", {"to": to, "msg": text})
        return True if answer is not None and answer.get("ok") else None


class Version2(SocketIo):
    """Acknowledges by the callback, and does the work that it is given."""

    version = 2

    def __init__(self, *more: Any) -> None:
        super().__init__(*more)
        self._working: set[asyncio.Task[None]] = set()
        self._io.on("chat_message", self._message)
        self._io.on("task_dispatch", self._dispatched)

    async def start(self) -> None:
        begun = asyncio.Event()
        self._io.on("session", lambda _: begun.set())
        await super().start()
        await asyncio.wait_for(begun.wait(), SETTLE_MAX_S)
        for room in ROOMS:
            assert (await self.ask("room_join", {"room": room}))["ok"]

    async def stop(self) -> None:
        await super().stop()
        await asyncio.gather(*self._working)

    async def say(self, channel: str, text: str) -> bool | None:
        said: dict[str, Any] = {"payload": {"text": text}, "dedupe_key": text, "to_type": "global"}
        if channel.startswith("room."):
            said |= {"to_type": "room", "to_id": channel.removeprefix("room.")}
        elif channel.startswith("dm."):
            said |= {"to_type": "dm", "to_id": self._peer(channel)}
        answer = await self.ask("chat_send", said)
        if answer is None or answer["ok"]:
            return answer is not None
        assert answer["error"]["code"] in ("unavailable", "unauthenticated"), answer
        return False

    async def _message(self, said: Any) -> None:
        if not said["self"]:
            self._hear(said["id"], said["payload"].get("text", ""))

    async def _dispatched(self, said: Any) -> None:
        task = asyncio.create_task(self._work(said["task_id"], said["fence"]))
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _work(self, task_id: str, fence: int) -> None:
        said = {"task_id": task_id, "fence": fence, "status": "completed", "output": "done"}
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_MAX_S / 2):
                while await self.ask("task_result", said) is None:  # noqa: ASYNC110
                    # It has answered, even if only that it is too late.
                    await asyncio.sleep(AGAIN_S)


class Fleet:
    """A hub, its agents, sidecars and a warden, on one folder."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        self.diary = Diary()
        self.random = Random(seed)
        self.kills: Counter[str] = Counter()
        self.agents: list[Agent] = []
        self.program = Program(folder / "home")
        self.program.environment |= HUB
        self.folder = folder
        self.hub = HubProcess(self.program, folder / "data")
        self.sidecars: dict[str, Popen[bytes]] = {}
        self.warden: Popen[bytes] | None = None
        self._warden_token = ""
        self._master: Client | None = None
        self._admin: Client | None = None
        self._openclaw = make(folder / "bin")

    # --- running ------------------------------------------------------------

    async def start(self, *, v1: int, v2: int, native: int, sidecars: int) -> None:
        """Start everything; everybody is in every room before anything is said."""
        self.hub.start()
        self._admin = admin = Client(self.hub.url, self.hub.admin_token)
        self._master = Client(self.hub.url, await self._token("boss", role="master"))
        self._warden_token = await self._token("eye", role="warden")
        for room in ROOMS:
            await admin.create_room(room)
        more = (self.diary, self.random)
        for number in range(native):
            name = f"native{number}"
            self.agents.append(Native(await self._token(name), self.hub.url, name, *more))
        self.agents += [Version2(self.hub.url, f"two{number}", *more) for number in range(v2)]
        self.agents += [Version1(self.hub.url, f"one{number}", *more) for number in range(v1)]
        for agent in self.agents:
            agent.peers = [other.name for other in self.agents if other is not agent]
            await agent.start()
        for number in range(sidecars):
            self._start_sidecar(f"side{number}")
        self._start_warden()

    async def _token(self, name: str, **more: Any) -> str:
        assert self._admin is not None
        await self._admin.create_account(name, **more)
        return (await self._admin.create_token(name)).token

    def _start_sidecar(self, name: str) -> None:
        state = self.folder / "state" / name
        words = ["--agent-id", name, "--state-dir", str(state)]
        binary = ["--openclaw-bin", str(self.folder / "bin" / "openclaw")]
        environment = {"CLAWNET_SERVER": self.hub.url, "CLAWNET_SECRET": SECRET}
        self.sidecars[name] = self.program.start("sidecar", *words, *binary, env=environment)

    def _start_warden(self) -> None:
        words = ("warden", "--folder", str(self.folder / "warden"))
        self.warden = self.hub.start_claw(*words, token=self._warden_token)

    async def run(
        self,
        *,
        seconds: float,
        kill_every_s: float,
        pause_s: float,
        deeds: Sequence[str] = ("say",),
        only_hub: bool = False,
    ) -> None:
        """Talk and work for so long, with a kill at random times. `deeds` are what the sidecars'
        OpenClaw is told to do, of clawnet.testing.openclaw."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for agent in self.agents:
                group.create_task(agent.talk(stop, pause_s=pause_s))
            group.create_task(self._dispatch(stop, pause_s=pause_s, deeds=deeds))
            loop = asyncio.get_running_loop()
            until_s = loop.time() + seconds
            while True:
                wait_s = kill_every_s * (1 if only_hub else self.random.uniform(0.5, 1.5))
                if loop.time() + wait_s >= until_s:
                    break
                await asyncio.sleep(wait_s)
                await asyncio.to_thread(self._kill, only_hub)
            await asyncio.sleep(max(0.0, until_s - loop.time()))
            stop.set()

    def _kill(self, only_hub: bool) -> None:
        what = "hub" if only_hub else self.random.choice(["hub", "hub", "sidecar", "warden"])
        self.kills[what] += 1
        if what == "hub":
            self.hub.kill()
            self.hub.start()
        elif what == "sidecar":
            name = self.random.choice(sorted(self.sidecars))
            _end(self.sidecars[name])
            self._start_sidecar(name)
        else:
            assert self.warden is not None
            _end(self.warden)
            self._start_warden()

    async def _dispatch(self, stop: asyncio.Event, *, pause_s: float, deeds: Sequence[str]) -> None:
        """Give work, to sidecars and to agents of v2."""
        assert self._master is not None
        workers = [agent.name for agent in self.agents if isinstance(agent, Version2)]
        kind: TaskKind
        number = 0
        while not stop.is_set():
            number += 1
            if self.sidecars and number % 4 == 0:
                to, kind = self.random.choice(sorted(self.sidecars)), "openclaw"
                deed = self.random.choice(deeds)
            else:
                to, kind, deed = self.random.choice(workers), "custom", "say"
            try:
                given = await self._master.dispatch(
                    to,
                    f"{deed} {number % 9}",
                    kind=kind,
                    timeout_s=TASK_MAX_S,
                    dedupe_key=f"task {number}",
                )
            except NotFound:
                # A sidecar that has not enrolled yet.
                assert to in self.sidecars
            else:
                self.diary.dispatched.update(given.task_ids)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self.random.uniform(0, 2 * pause_s))

    # --- the end ------------------------------------------------------------

    async def check(self) -> dict[str, Any]:
        """Raises AssertionError if something was lost, doubled, out of order or left open."""
        stored = await self._stored()
        tasks = await self._tasks()
        await self._heard(stored)
        await self._kept(stored)
        for agent in self.agents:
            await agent.stop()
        keys = Counter(text_of(event) for event in stored)
        lost = self.diary.acknowledged - keys.keys()
        assert not lost, f"acknowledged and not stored: {sorted(lost)[:5]}"
        doubled = [key for key, count in keys.items() if count > 1]
        assert not doubled, f"stored twice: {doubled[:5]}"
        assert keys.keys() <= self.diary.tried.keys()
        newest: dict[tuple[str, str], str] = {}
        for event in stored:
            text, place = text_of(event), (event.channel, event.actor.id)
            assert event.channel == self.diary.tried[text], "in another channel"
            assert text.startswith(f"{event.actor.id} "), "by another sender"
            assert newest.get(place, "") < text, f"out of order: {text}"
            newest[place] = text
        assert tasks.keys() == self.diary.dispatched, "tasks were lost, or given twice"
        assert tasks, "no work was given"
        return {
            "kills": dict(self.kills),
            "acknowledged": len(self.diary.acknowledged),
            "stored": len(stored),
            "told again": sum(agent.doubled for agent in self.agents),
            "tasks": dict(Counter(tasks.values())),
        }

    async def _stored(self) -> list[Event]:
        """Every message, in the order of its channel, without a hole."""
        assert self._admin is not None
        found: list[Event] = []
        readers: dict[str, Client] = {}
        for name in sorted({*self.diary.tried.values()}):
            reader = self._admin
            if name.startswith("dm."):
                # Not even an admin reads what two have said to each other.
                one = name.split(".")[1]
                if one not in readers:
                    token = (await self._admin.create_token(one)).token
                    readers[one] = Client(self.hub.url, token)
                reader = readers[one]
            after = 0
            while True:
                try:
                    page = await reader.history(name, since=after, limit=1_000)
                except NotFound:
                    break  # nothing that was said there was stored
                assert page.gap is None and not page.gaps
                offsets = [event.offset for event in page.events]
                assert offsets == list(range(after + 1, after + 1 + len(offsets))), "a hole"
                found += [event for event in page.events if event.type == CHAT_MESSAGE]
                if not offsets:
                    break
                after = offsets[-1]
        for client in readers.values():
            await client.aclose()
        return found

    async def _tasks(self) -> dict[str, str]:
        """The status of every task; each ends."""
        assert self._master is not None
        found: dict[str, str] = {}
        async with asyncio.timeout(SETTLE_MAX_S):
            for task_id in self.diary.dispatched:
                while (task := await self._master.task(task_id, wait_s=5)).status not in ENDED:
                    pass
                found[task_id] = task.status
        after: str | None = None
        while True:
            page = await self._master.tasks(after=after, limit=100)
            for task in page.tasks:
                found.setdefault(task.task_id, task.status)
            after = page.next
            if after is None:
                return found

    async def _heard(self, stored: Iterable[Event]) -> None:
        """Everybody who is told again has heard what was for it."""
        for agent in self.agents:
            if not agent.can_repeat:
                continue
            due = {
                event.id
                for event in stored
                if event.actor.id != agent.name
                and (not event.channel.startswith("dm.") or agent.name in event.channel.split("."))
            }
            await until(
                lambda agent=agent, due=due: due <= agent.heard.keys(),
                f"{agent.name} has not heard everything",
            )

    async def _kept(self, stored: Iterable[Event]) -> None:
        """The warden has everything once."""
        due = {event.id for event in stored}
        folder = self.folder / "warden"

        def ids() -> list[str]:
            lines = [
                json.loads(line)
                for path in sorted(folder.rglob("*.jsonl"))
                for line in path.read_bytes().split(b"\n")[:-1]
            ]
            return [line["id"] for line in lines if line.get("type") == CHAT_MESSAGE]

        await until(lambda: due <= set(ids()), "the warden has not kept everything", every_s=0.2)
        kept = ids()
        assert len(set(kept)) == len(kept), "the warden keeps an event twice"
        assert set(kept) == due, "the warden keeps what is not stored"

    async def close(self) -> None:
        """End everything; the audit chain must hold behind it."""
        for client in (self._admin, self._master):
            if client is not None:
                await client.aclose()
        self.hub.stop()
        self.program.ok("audit", "verify", "--data-dir", str(self.folder / "data"))


def text_of(event: Event) -> str:
    """What a message says."""
    text: str = msgspec.json.decode(event.data)["text"]
    return text


def _end(process: Popen[bytes]) -> None:
    process.kill()
    process.communicate()


async def until(is_so: Any, otherwise: str, *, every_s: float = 0.02) -> None:
    """Wait until it is so."""
    try:
        async with asyncio.timeout(SETTLE_MAX_S):
            while not is_so():  # noqa: ASYNC110 - other processes set no event
                await asyncio.sleep(every_s)
    except TimeoutError:
        raise AssertionError(otherwise) from None
