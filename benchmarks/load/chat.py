"""Agents over Socket.IO: chat that everybody acknowledges, reports of a fleet, tasks."""

import json
import os
import random
import select
import time
from collections.abc import Callable
from typing import Any

from benchmarks.load.latency import percentiles
from benchmarks.machine import come_to_rest, cpu_s
from benchmarks.wires.c2cp import ACKED, PONG, REFUSED, Acked, C2cp, Stream, acks, clear, event
from benchmarks.wires.wire import Connection

READ_BYTES = 256 * 1024
STALL_MAX_S = 15.0
WARM_UP_S = 0.3
FILL_WINDOW = 256
REST_MAX_S = 10.0


class Peer:
    """One connection on the poller: reads messages, writes what the kernel takes."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection  # else the socket would be closed
        self.socket = connection.socket
        self.socket.setblocking(False)
        self.stream = Stream()
        self.sent_bytes = 0
        self._first = bytes(connection.unread)
        self._outgoing = b""

    def read(self) -> list[bytes]:
        """The whole messages of what is there. Pings are answered."""
        data, self._first = self._first, b""
        if not data:
            data = self.socket.recv(READ_BYTES)
            if not data:
                raise ConnectionError("closed by the server")
        messages = list(self.stream.take(data))
        if b"2" in messages:
            self.send(PONG)
        return messages

    def send(self, frames: bytes) -> None:
        self._outgoing += frames
        self.push()

    def push(self) -> bool:
        """Write what waits; whether all is written."""
        if self._outgoing:
            try:
                written = self.socket.send(self._outgoing)
            except BlockingIOError:
                return False
            self.sent_bytes += written
            self._outgoing = self._outgoing[written:]
        return not self._outgoing


class Peers:
    """All connections of one run."""

    def __init__(self) -> None:
        self._poller = select.epoll()
        self._hears: dict[int, tuple[Peer, Callable[[Peer, list[bytes]], None]]] = {}
        self.all: list[Peer] = []

    def add(self, connection: Connection, hear: Callable[[Peer, list[bytes]], None]) -> Peer:
        """Take a connection over; `hear` is given its messages."""
        peer = Peer(connection)
        self.all.append(peer)
        self._poller.register(peer.socket.fileno(), select.EPOLLIN)
        self._hears[peer.socket.fileno()] = peer, hear
        if connection.unread:
            hear(peer, peer.read())
        return peer

    def pump(self, timeout_s: float) -> None:
        """Wait for bytes, at most so long, and hear them."""
        unsent = [peer for peer in self.all if not peer.push()]
        if unsent:
            timeout_s = min(timeout_s, 0.0005)
        for fd, _ in self._poller.poll(timeout_s, 1024):
            peer, hear = self._hears[fd]
            hear(peer, peer.read())

    def pump_until(self, is_done: Callable[[], bool], progress: Callable[[], int]) -> None:
        """Hear until it is done. Raises TimeoutError when nothing moves any more."""
        seen, moved_at = -1, time.perf_counter()
        while not is_done():
            self.pump(0.05)
            now, moved = time.perf_counter(), progress()
            if moved != seen:
                seen, moved_at = moved, now
            elif now - moved_at > STALL_MAX_S:
                raise TimeoutError(f"nothing moves any more, at {moved}")

    def close(self) -> None:
        for peer in self.all:
            peer.socket.close()
        self._poller.close()


class Room:
    """A sender, and receivers that acknowledge each message."""

    def __init__(self, wire: Acked, text: str) -> None:
        self.wire = wire
        self.text = text
        self.peers = Peers()
        self.receivers = 0
        self.sent = 0
        self.answered = 0
        self.delivered = 0
        self._numbered = 0
        self.sender = self.peers.add(wire.sender(), self._answers)

    def invite(self, count: int) -> None:
        """Let receivers in. What was said before is not theirs."""
        self._numbered += self.sent
        self.sent = self.answered = 0
        for number in range(count):
            self.peers.add(self.wire.receiver(number), self._deliveries)
        self.receivers = count

    def say(self, seconds: float, window: int) -> None:
        """Keep a window of messages in flight, until everybody has everything."""
        until = time.perf_counter() + seconds
        self._keep(lambda: time.perf_counter() >= until, window)

    def fill(self, count: int) -> None:
        """Say so many."""
        to = self.sent + count
        self._keep(lambda: self.sent >= to, FILL_WINDOW)

    def _keep(self, is_over: Callable[[], bool], window: int) -> None:
        while not is_over():
            while self.sent - self._arrived() <= window // 2:
                first = self._numbered + self.sent
                self.sent += window // 2
                numbers = range(first, first + window // 2)
                frames = [self.wire.message(number, self.text) for number in numbers]
                self.sender.send(b"".join(frames))
            self.peers.pump(0.01)
        self.peers.pump_until(lambda: self._arrived() >= self.sent, self._progress)

    def _arrived(self) -> int:
        if not self.receivers:
            return self.answered
        return min(self.answered, self.delivered // self.receivers)

    def _progress(self) -> int:
        return self.answered + self.delivered

    def _answers(self, peer: Peer, messages: list[bytes]) -> None:
        for message in messages:
            if message.startswith(b"43"):
                if REFUSED in message:
                    raise ConnectionError(f"a message was refused: {message[:300]!r}")
                self.answered += 1

    def _deliveries(self, peer: Peer, messages: list[bytes]) -> None:
        ids = []
        opening = self.wire.opening
        for message in messages:
            at = message.find(b"[", 0, 24)
            if message.startswith(opening, at):
                ids.append(message[2:at])
        self.delivered += len(ids)
        peer.send(acks(ids))


def chat(
    *,
    wire: str,
    port: int,
    token: str,
    pid: int,
    receivers: int,
    seconds: float,
    window: int,
    stored: int = 0,
    text_chars: int = 200,
    topic: str = "bench",
) -> dict[str, Any]:
    """One sender, pipelining; every receiver acknowledges every message.

    `stored` messages are said before anybody listens; they are not part of what is measured.
    """
    room = Room(ACKED[wire](port=port, token=token, topic=topic), "x" * text_chars)
    began = time.perf_counter()
    room.fill(stored)
    fill_s = time.perf_counter() - began
    if stored:
        # What it does behind its log for these is not what the next ones cost.
        come_to_rest(pid, longest_s=REST_MAX_S)
    room.invite(receivers)
    room.say(min(WARM_UP_S, seconds), window)
    sent, delivered = room.sent, room.delivered
    server_s, load_s, began = cpu_s(pid), time.process_time(), time.perf_counter()
    room.say(seconds, window)
    result = {
        "messages": room.sent - sent,
        "deliveries": room.delivered - delivered,
        "wall_s": time.perf_counter() - began,
        "server_cpu_s": cpu_s(pid) - server_s,
        "load_cpu_s": time.process_time() - load_s,
        "fill_s": fill_s,
    }
    if result["deliveries"] != result["messages"] * receivers:
        raise ConnectionError(f"given more or less than once: {result}")
    room.peers.close()
    return result


def fleet(
    *,
    wire: str,
    port: int,
    token: str,
    pid: int,
    agents: int,
    every_s: float,
    seconds: float,
) -> dict[str, Any]:
    """v1 agents that report, each at its own moments, while two masters look on."""
    client = C2cp(port=port, token=token)
    chance = random.Random(1)
    peers = Peers()
    updates = [0]

    def hear(peer: Peer, messages: list[bytes]) -> None:
        for message in messages:
            updates[0] += message.startswith(b'42["fleet_update"')

    onlookers = [
        peers.add(client.agent("eye-1", version=1, role="master"), hear),
        peers.add(client.agent("eye-2", version=2, role="master"), hear),
    ]
    reporting = [
        peers.add(client.agent(f"bot-{number:03}", version=1, specs=_specs(number)), hear)
        for number in range(agents)
    ]
    due = [chance.uniform(0, every_s) for _ in reporting]
    reports = 0

    def report_until(end: float, began: float) -> int:
        said = 0
        while (now := time.perf_counter()) < end:
            for number, peer in enumerate(reporting):
                if now - began >= due[number]:
                    peer.send(event("report", _report(number, chance)))
                    due[number] += every_s * chance.uniform(0.8, 1.2)
                    said += 1
            peers.pump(0.01)
        return said

    began = time.perf_counter()
    # Everybody has reported once, and what connecting costs is over.
    settled = began + every_s * 1.5
    report_until(settled, began)
    heard = [(peer.stream.bytes, peer.sent_bytes) for peer in peers.all]
    seen, server_s, load_s = updates[0], cpu_s(pid), time.process_time()
    reports = report_until(settled + seconds, began)
    wall_s = time.perf_counter() - settled
    down = [peer.stream.bytes - was for peer, (was, _) in zip(peers.all, heard, strict=True)]
    up = [peer.sent_bytes - was for peer, (_, was) in zip(peers.all, heard, strict=True)]
    result = {
        "reports": reports,
        "updates": updates[0] - seen,
        "wall_s": wall_s,
        "bytes_per_s": (sum(down) + sum(up)) / wall_s,
        "up_per_s": sum(up) / wall_s,
        "down_per_s": sum(down) / wall_s,
        "masters_per_s": sum(down[: len(onlookers)]) / wall_s,
        "server_share": (cpu_s(pid) - server_s) / wall_s,
        "load_share": (time.process_time() - load_s) / wall_s,
    }
    peers.close()
    return result


def _specs(number: int) -> dict[str, Any]:
    return {
        "hostname": f"worker-{number:03}.fleet.example",
        "os": "Linux 6.8.0-49-generic x86_64",
        "python": "3.11.9",
        "version": "1.4.2",
        "cpu_count": 8,
        "ram_total": 33_554_432_000,
    }


def _report(number: int, chance: random.Random) -> dict[str, Any]:
    """What a sidecar with psutil says."""
    return {
        "agent_id": f"bot-{number:03}",
        "role": "worker",
        "specs": _specs(number)
        | {
            "cpu_percent": round(chance.uniform(0, 100), 1),
            "ram_percent": round(chance.uniform(20, 90), 1),
            "disk_percent": round(chance.uniform(30, 70), 1),
            "load": [round(chance.uniform(0, 8), 2) for _ in range(3)],
            "uptime": 1_000_000 + int(time.time()),
            "net_sent": chance.randrange(10**10),
            "net_recv": chance.randrange(10**10),
            "latency_ms": round(chance.uniform(0.2, 40), 1),
        },
        "cron": [
            {
                "id": f"job-{job}",
                "name": f"nightly-{job}",
                "schedule": "0 3 * * *",
                "status": chance.choice(["ok", "running", "idle"]),
                "next_run": "2026-01-01T03:00:00Z",
            }
            for job in range(3)
        ],
        "sessions": [{"id": f"main-{number}", "kind": "direct", "age_s": chance.randrange(10**4)}],
    }


class Work:
    """A master that dispatches, and workers that answer at once."""

    def __init__(self, client: C2cp, *, workers: int) -> None:
        self.peers = Peers()
        self.topic = f"{client.topic}-{os.getpid()}"
        self.names = [f"{self.topic}-w{number}" for number in range(workers)]
        self.sent_at: dict[int, float] = {}
        self.late_ms: list[float] = []
        self.sent = 0
        self.refused = 0
        self.given = 0
        for name in self.names:
            self.peers.add(client.agent(name), self._work)
        master = client.agent(f"{self.topic}-m", role="master")
        self.master = self.peers.add(master, self._results)

    @property
    def ended(self) -> int:
        return len(self.late_ms)

    def dispatch(self, due_s: float) -> None:
        number, self.sent = self.sent, self.sent + 1
        self.sent_at[number] = due_s
        said = {
            "to": self.names[number % len(self.names)],
            "kind": "custom",
            "command": f"n {number}",
            "timeout_s": 60,
            "dedupe_key": f"{self.topic}.{number}",
        }
        self.master.send(event("task_dispatch", said, number))

    def _work(self, peer: Peer, messages: list[bytes]) -> None:
        answer = []
        for message in messages:
            at = message.find(b"[", 0, 24)
            if message.startswith(b'["task_dispatch",', at):
                task = json.loads(message[at:])[1]
                self.given += 1
                done = {
                    "task_id": task["task_id"],
                    "fence": task["fence"],
                    "status": "completed",
                    "output": "done",
                    "exit_code": 0,
                }
                answer += [clear(b"43%b[]" % message[2:at]), event("task_result", done, self.given)]
            elif message.startswith(b"43") and REFUSED in message:
                raise ConnectionError(f"a result was refused: {message[:300]!r}")
        if answer:
            peer.send(b"".join(answer))

    def _results(self, peer: Peer, messages: list[bytes]) -> None:
        now = time.perf_counter()
        for message in messages:
            if message.startswith(b'42["task_result"'):
                task = json.loads(message[2:])[1]
                number = int(task["command"].split()[1])
                due_s = self.sent_at.pop(number, None)
                if due_s is None:
                    raise ConnectionError(f"a result was told twice: {message[:300]!r}")
                self.late_ms.append((now - due_s) * 1e3)
            elif message.startswith(b"43") and REFUSED in message:
                raise ConnectionError(f"a dispatch was refused: {message[:300]!r}")

    def paced(self, rate: float, seconds: float) -> None:
        """Dispatch when it is due, whatever has come back."""
        began, number, count = time.perf_counter(), 0, int(rate * seconds)
        while number < count:
            while number < count and time.perf_counter() >= began + number / rate:
                # From when it was due, not from when it was sent: a late generator counts.
                self.dispatch(began + number / rate)
                number += 1
            self.peers.pump(0.0003)
        self.drain()

    def windowed(self, seconds: float, window: int) -> None:
        """Keep so many tasks open."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            while len(self.sent_at) < window:
                self.dispatch(time.perf_counter())
            self.peers.pump(0.01)
        self.drain()

    def drain(self) -> None:
        self.peers.pump_until(lambda: not self.sent_at, lambda: self.ended + self.given)


def tasks(
    *,
    wire: str,
    port: int,
    token: str,
    pid: int,
    workers: int,
    phases: list[dict[str, Any]],
    topic: str = "tasks",
) -> dict[str, Any]:
    """Phases one after the other: `{rate, seconds}` or `{window, seconds}`."""
    work = Work(C2cp(port=port, token=token, topic=topic), workers=workers)
    work.windowed(WARM_UP_S, 20)
    results = []
    for phase in phases:
        ended = work.ended
        server_s, load_s, began = cpu_s(pid), time.process_time(), time.perf_counter()
        if "rate" in phase:
            work.paced(phase["rate"], phase["seconds"])
        else:
            work.windowed(phase["seconds"], phase["window"])
        wall_s = time.perf_counter() - began
        results.append(
            {
                "tasks": work.ended - ended,
                "wall_s": wall_s,
                "latency_ms": percentiles(work.late_ms[ended:]),
                "server_cpu_s": cpu_s(pid) - server_s,
                "load_cpu_s": time.process_time() - load_s,
            }
        )
    work.peers.close()
    return {"phases": results}
