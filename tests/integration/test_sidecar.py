"""The sidecar against a real hub, with real processes: what it runs, refuses, ends and tells."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clawnet.client import subscription, transport
from clawnet.client.client import Client
from clawnet.core.calls.tasks import TaskInfo
from clawnet.core.errors import AlreadyRunning, BadConfiguration, Forbidden, Unauthenticated
from clawnet.doors.server import ServerSettings
from clawnet.features import FeatureSettings
from clawnet.features.fleet.settings import FleetSettings
from clawnet.sidecar.settings import SidecarSettings, prefixes_of
from clawnet.sidecar.sidecar import Sidecar
from clawnet.testing.models import ScriptedProvider
from clawnet.testing.openclaw import FakeOpenClaw, make
from clawnet.testing.running import Running, running_hub
from tests.cli.program import CLAW
from tests.cli.test_wake import check_gone

SECRET = "open sesame, all of you"
FEATURES = FeatureSettings(has_timers=False, fleet=FleetSettings(secret=SECRET))
PATIENCE_S = 15.0


@pytest.fixture
async def hub() -> AsyncIterator[Running]:
    async with running_hub(features=FEATURES) as running:
        yield running


@pytest.fixture
async def master(hub: Running) -> AsyncIterator[Client]:
    async with Client(hub.url, await hub.token("boss", role="master")) as client:
        yield client


@pytest.fixture
def claw(tmp_path: Path) -> FakeOpenClaw:
    return make(tmp_path / "bin")


def settings(hub: Running, folder: Path, agent: str = "bob", **more: Any) -> SidecarSettings:
    given: dict[str, Any] = {
        "server": hub.url,
        "agent_id": agent,
        "secret": SECRET,
        "state_dir": folder / "state" / agent,
        "openclaw_bin": str(folder / "bin" / "openclaw"),
        "report_every_s": 0.1,
        "backoff_first_s": 0.1,
        "backoff_most_s": 0.2,
        "grace_s": 0.1,
    }
    return SidecarSettings(**{**given, **more})


@asynccontextmanager
async def running(sidecar: Sidecar) -> AsyncIterator[Sidecar]:
    """A sidecar that is connected; it is stopped in order afterwards."""
    stop = asyncio.Event()
    work = asyncio.create_task(sidecar.run(stop))
    try:
        await until(lambda: sidecar.link.last_report_ms is not None or work.done())
        if work.done():
            await work
        yield sidecar
    finally:
        stop.set()
        await asyncio.wait_for(work, PATIENCE_S)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(0.01)


async def done(master: Client, to: str, command: str, **more: Any) -> TaskInfo:
    """Dispatch one task and wait for its end."""
    given = await master.dispatch(to, command, **more)
    return await master.task(given.task_ids[0], wait_s=PATIENCE_S)


async def test_an_agent_enrols_takes_a_turn_and_reports_and_comes_again_with_its_token(
    hub: Running, master: Client, claw: FakeOpenClaw, tmp_path: Path
) -> None:
    told: list[str] = []
    chosen = settings(hub, tmp_path, health_port=0)
    async with running(Sidecar(chosen, say=told.append)) as sidecar:
        task = await done(master, "bob", "say hello boss")
        assert (task.status, task.output, task.exit_code) == ("completed", "hello boss", 0)
        (call,) = claw.calls()
        assert call["mode"] == 0o600 and "agent:main:clawnet-direct-boss" in call["argv"]
        # Neither the secret nor a token is anybody's business who runs a task.
        assert call["env"] == ["CLAW_TASK_ID"]
        assert not list(chosen.state_dir.glob("turn-*")), "the message's file is gone"
        agents = {agent.id: agent for agent in (await master.fleet()).agents}
        bob = agents["bob"]
        assert {"openclaw", "sidecar"} <= set(bob.capabilities) and bob.status == "online"
        assert bob.specs["openclaw"].startswith("OpenClaw 2026")
        assert {"cpu_percent", "ram_percent", "uptime_s"} <= set(bob.resource_usage)
        await until(lambda: sidecar.link.latency_ms is not None)
        await until_cron(master)
        ready = await asked(sidecar.health.port, "/readyz")
        assert ready[0] == 200 and ready[1]["connected"] and ready[1]["running_tasks"] == []
    kept = chosen.state_dir / "session.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert SECRET not in (chosen.state_dir / "sidecar.log").read_text() + "".join(told)
    # The token is enough from now on, and a sidecar without any says so.
    async with running(Sidecar(settings(hub, tmp_path, secret=None))):
        assert (await done(master, "bob", "say again")).output == "again"
    kept.write_text(json.dumps({"server": hub.url, "token": "claw_wrong"}))
    with pytest.raises(Unauthenticated):
        async with running(Sidecar(settings(hub, tmp_path, secret=None))):
            pass
    with pytest.raises(BadConfiguration, match="belongs to 'boss'"):
        token = await hub.token("boss", role="master")
        async with running(Sidecar(settings(hub, tmp_path, token=token))):
            pass
    with pytest.raises(Unauthenticated):
        async with running(Sidecar(settings(hub, tmp_path, "ann", secret=SECRET + "!"))):
            pass
    # With the secret a lost session is made anew.
    async with running(Sidecar(chosen)):
        assert (await done(master, "bob", "say third")).output == "third"
        # Also one that is revoked while it runs, whichever part of it hears that first.
        before = json.loads(kept.read_text())["token"]
        async with Client(hub.url, before) as own:
            await own.request("POST", "/api/auth/revoke", None, None)
        assert (await done(master, "bob", "say fourth")).output == "fourth"
        assert json.loads(kept.read_text())["token"] != before
    # Without it that is the end.
    async with Client(hub.url, json.loads(kept.read_text())["token"]) as own:
        alone = Sidecar(settings(hub, tmp_path, secret=None))
        work = asyncio.create_task(alone.run(asyncio.Event()))
        await until(lambda: alone.link.is_connected)
        await own.request("POST", "/api/auth/revoke", None, None)
        with pytest.raises((Unauthenticated, Forbidden)):
            await asyncio.wait_for(work, PATIENCE_S)


async def until_cron(master: Client) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            (bob,) = [a for a in (await master.fleet()).agents if a.id == "bob"]
            if bob.cron:
                break
            await asyncio.sleep(0.02)
    assert [job["status"] for job in bob.cron] == ["ok", "disabled", "paused-by-owner"]


async def asked(port: int, path: str) -> tuple[int, dict[str, Any]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), json.loads(body)


async def test_every_way_of_openclaw_to_end_is_a_state_of_the_task(
    hub: Running, master: Client, claw: FakeOpenClaw, tmp_path: Path
) -> None:
    wanted = {
        "result of it": ("completed", "of it"),
        "final word": ("completed", "word"),
        "log behind lines": ("completed", "behind lines"),
        "flood": ("completed", "after the flood"),
        "fail 7": ("failed", "it broke"),
        "reject": ("failed", "the model refused"),
        "garbage": ("failed", "cannot be read"),
        "empty": ("failed", "cannot be read"),
        "leave a child": ("completed", "a child"),
        "lose": ("outcome_unknown", "run-77"),
        "hang": ("timed_out", "ended after"),
    }
    async with running(Sidecar(settings(hub, tmp_path))):
        given = [await master.dispatch("bob", command) for command in [*wanted][:-1]]
        # A short time, which begins when those before it are done.
        await master.task(given[-1].task_ids[0], wait_s=PATIENCE_S)
        given.append(await master.dispatch("bob", "hang", timeout_s=0.2))
        for (command, (status, text)), one in zip(wanted.items(), given, strict=True):
            task = await master.task(one.task_ids[0], wait_s=PATIENCE_S)
            assert task.status == status, (command, task)
            assert text in (task.output or "") + (task.error or ""), (command, task)
    # None of them was run twice, and what the last one left behind is gone.
    assert [one for one in claw.messages if one != "hang"] == [*wanted][:-1]
    assert claw.children
    for pid in claw.children:
        check_gone(pid)


async def test_a_broadcast_reaches_every_worker_and_only_who_may_dispatch(
    hub: Running, master: Client, claw: FakeOpenClaw, tmp_path: Path
) -> None:
    names = ["ann", "bob", "cyd"]
    # The older command line is spoken to as it was.
    older = make(tmp_path / "older", "older")
    lone = settings(hub, tmp_path, "cyd", openclaw_bin=str(older.path))
    made = [Sidecar(settings(hub, tmp_path, name)) for name in names[:2]] + [Sidecar(lone)]
    async with running(made[0]), running(made[1]), running(made[2]):
        given = await master.dispatch(names, "slow done")
        ended = [await master.task(one, wait_s=PATIENCE_S) for one in given.task_ids]
        assert [(task.to, task.status, task.output) for task in ended] == [
            (name, "completed", "done") for name in names
        ]
        assert len(claw.messages) == 2
        (call,) = older.calls()
        assert call["argv"] == [
            "agent", "--session-id", "clawnet-cyd-boss", "--message", "slow done",
            "--local", "--json",
        ]  # fmt: skip
        # A worker may not give another work, whatever it says; what is not for it, it never sees.
        async with Client(hub.url, await hub.token("eve")) as eve:
            with pytest.raises(Forbidden):
                await eve.dispatch("bob", "say stolen")
            assert (await eve.tasks()).tasks == []
        assert len(claw.messages) == 2


async def test_commands_run_only_from_the_allow_list_and_a_missing_binary_is_said_at_once(
    hub: Running, master: Client, tmp_path: Path
) -> None:
    say = [sys.executable, "-c"]
    chosen = settings(
        hub,
        tmp_path,
        openclaw_bin=str(tmp_path / "nowhere"),
        exec_allow=(*prefixes_of(["echo", "sleep 600"]), tuple(say)),
        exec_deny=("RM -rf",),
    )
    async with running(Sidecar(chosen)):
        wanted = {
            "echo 'a  b' $HOME; id": ("completed", "a  b $HOME; id\n", None, 0),
            "uptime": ("rejected", None, "not on this agent's allow-list", None),
            "sleep 601": ("rejected", None, "allow-list", None),
            'echo r""m -rf /': ("rejected", None, "deny-list", None),
            "echo 'open": ("rejected", None, "cannot be split", None),
            "sleep 600": ("timed_out", None, "ended after", -15),
            f"{say[0]} -c 'import sys; print(1); sys.exit(\"bad\")'": ("failed", "1\n", "bad", 1),
        }
        for command, (status, output, error, code) in wanted.items():
            timeout_s = 0.3 if status == "timed_out" else 30.0
            task = await done(master, "bob", command, kind="exec", timeout_s=timeout_s)
            assert (task.status, task.exit_code) == (status, code), (command, task)
            assert (task.output or None) == output and (error or "") in (task.error or "")
        refused = await done(master, "bob", "say hello")
        assert refused.status == "rejected" and "no OpenClaw" in (refused.error or "")
        custom = await done(master, "bob", "x", kind="custom", args={"orchestrate": True})
        assert custom.status == "rejected" and "no model" in (custom.error or "")
        (bob,) = [agent for agent in (await master.fleet()).agents if agent.id == "bob"]
        assert sorted(bob.capabilities) == ["exec", "sidecar"]


async def test_output_is_seen_while_it_runs_and_a_cancelled_task_is_ended_here(
    hub: Running, master: Client, claw: FakeOpenClaw, tmp_path: Path
) -> None:
    pieces: list[str] = []

    def heard(signalled: Any) -> None:
        if signalled.type == "task.output":
            pieces.append(json.loads(bytes(signalled.data))["output"])

    async with (
        running(Sidecar(settings(hub, tmp_path))) as sidecar,
        master.subscribe("system.tasks", on_signal=heard) as events,
    ):
        reading = asyncio.create_task(drain(events))
        given = await master.dispatch("bob", "stubborn")
        await until(lambda: any("children are there" in piece for piece in pieces))
        await master.cancel_task(given.task_ids[0])
        await until(lambda: not sidecar.facts()["running_tasks"])
        reading.cancel()
        assert (await master.task(given.task_ids[0])).status == "cancelled"
        for pid in claw.children:
            check_gone(pid)
        # A sidecar that is stopped ends what runs, and says so before it goes.
        given = await master.dispatch("bob", "hang")
        await until(lambda: len(claw.calls()) == 3)
    task = await master.task(given.task_ids[0])
    assert task.status == "outcome_unknown" and "before it was done" in (task.error or "")
    check_gone(claw.calls()[-1]["pid"])


async def drain(events: Any) -> None:
    async for _ in events:
        pass


async def test_the_gods_look_at_a_task_first_and_each_stage_is_an_event(
    hub: Running, master: Client, claw: FakeOpenClaw, tmp_path: Path
) -> None:
    model = ScriptedProvider(["the goal", "plan 1", "REVISE\nno", "plan 2", "PASS\nfine"])
    async with running(Sidecar(settings(hub, tmp_path), model=model)):
        task = await done(master, "bob", "build it", kind="custom", args={"orchestrate": True})
    assert task.status == "completed"
    (message,) = claw.messages
    assert message.startswith("Carry out the plan") and '"text":"plan 2"' in message
    token = await hub.token("bob")
    async with Client(hub.url, token) as bob:
        events = (await bob.history("agent.bob.olympic")).events
    assert {event.type for event in events} == {"x.olympic.stage"}
    assert {event.correlation_id for event in events} == {task.correlation_id}
    said = [json.loads(bytes(event.data)) for event in events]
    assert [(one["stage"], one["round"], one["state"]) for one in said if one["text"]] == [
        ("metis", 1, "done"),
        ("prometheus", 1, "done"),
        ("momus", 1, "sent_back"),
        ("prometheus", 2, "done"),
        ("momus", 2, "passed"),
        ("execution", 1, "done"),
    ]


async def test_a_result_arrives_although_the_hub_was_gone_when_the_task_ended(
    claw: FakeOpenClaw, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    async with running_hub("sqlite", features=FEATURES, data_dir=data) as first:
        chosen = settings(first, tmp_path)
        token = await first.token("boss", role="master")
        stop = asyncio.Event()
        sidecar = Sidecar(chosen)
        work = asyncio.create_task(sidecar.run(stop))
        await until(lambda: sidecar.link.is_connected)
        async with Client(first.url, token) as master:
            given = await master.dispatch("bob", "wait kept")
            await until(lambda: claw.messages == ["wait kept"])
    claw.let_go()
    await until(lambda: sidecar.facts()["untold_results"] == 1)
    assert not sidecar.facts()["connected"]
    server = ServerSettings(port=first.port)
    async with (
        running_hub("sqlite", features=FEATURES, data_dir=data, server=server) as second,
        Client(second.url, token) as master,
    ):
        task = await master.task(given.task_ids[0], wait_s=PATIENCE_S)
        assert (task.status, task.output) == ("completed", "kept")
        assert (await done(master, "bob", "say on")).output == "on"
        assert claw.messages == ["wait kept", "say on"]
        await until(lambda: sidecar.facts()["reconnects"] >= 1)
        stop.set()
        await asyncio.wait_for(work, PATIENCE_S)


class Relay:
    """Stands between a sidecar and its hub. After freeze() nothing comes through the WebSockets
    that are open, and no end says so, as behind a cable that was pulled."""

    def __init__(self, port: int) -> None:
        self._hub_port = port
        self._links: set[asyncio.Task[None]] = set()
        self._sockets: set[asyncio.StreamWriter] = set()
        self._silent: set[asyncio.StreamWriter] = set()
        self.port = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Relay]:
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for link in self._links:
                link.cancel()
            await asyncio.gather(*self._links, return_exceptions=True)

    def freeze(self) -> None:
        self._silent |= self._sockets

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hub_reader, hub_writer = await asyncio.open_connection("127.0.0.1", self._hub_port)
        for source, sink in ((reader, hub_writer), (hub_reader, writer)):
            self._links.add(asyncio.create_task(self._copied(source, sink, writer)))

    async def _copied(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, link: asyncio.StreamWriter
    ) -> None:
        try:
            while data := await source.read(65_536):
                if b"upgrade: websocket" in data.lower():
                    self._sockets.add(link)
                if link not in self._silent:
                    sink.write(data)
        finally:
            sink.close()


async def test_a_link_that_falls_silent_is_left_after_two_heartbeats_and_made_again(
    hub: Running,
    master: Client,
    claw: FakeOpenClaw,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beats = partial(transport.open_websocket, ping_every_s=0.05, silent_max_s=0.05)
    monkeypatch.setattr(subscription, "open_websocket", beats)
    async with Relay(hub.port).open() as relay:
        chosen = settings(hub, tmp_path, server=f"http://127.0.0.1:{relay.port}")
        async with running(Sidecar(chosen)) as sidecar:
            given = await master.dispatch("bob", "wait kept")
            await until(lambda: claw.messages == ["wait kept"])
            relay.freeze()
            await until(lambda: not sidecar.link.is_connected)
            await until(lambda: sidecar.link.is_connected)
            assert sidecar.link.lost == 1
            claw.let_go()
            task = await master.task(given.task_ids[0], wait_s=PATIENCE_S)
            assert (task.status, task.output) == ("completed", "kept")
    assert claw.messages == ["wait kept"]


async def test_an_end_is_heard_while_openclaw_hangs_and_no_hub_is_there(tmp_path: Path) -> None:
    binary = tmp_path / "openclaw"
    binary.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    binary.chmod(0o755)
    chosen = SidecarSettings(
        server="http://127.0.0.1:9", agent_id="bob", secret=SECRET, grace_s=0.1,
        state_dir=tmp_path / "state", openclaw_bin=str(binary),
    )  # fmt: skip
    stop = asyncio.Event()
    work = asyncio.create_task(Sidecar(chosen).run(stop))
    await until((tmp_path / "pid").exists)
    stop.set()
    await asyncio.wait_for(work, 5)
    check_gone(int((tmp_path / "pid").read_text()))


async def test_a_killed_sidecar_runs_nothing_twice_and_a_second_one_is_refused(
    hub: Running, master: Client, claw: FakeOpenClaw, tmp_path: Path
) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "CLAWNET_SERVER": hub.url,
        "CLAWNET_SECRET_KEY": SECRET,
        "AGENT_ID": "Bob",
        "OPENCLAW_BIN": str(claw.path),
        "XDG_STATE_HOME": str(tmp_path / "xdg"),
    }
    process = await started(environment)
    try:
        given = await master.dispatch("bob", "stubborn")
        await until(lambda: len(claw.children) == 2)
        state = tmp_path / "xdg" / "clawnet" / "sidecar" / "bob"
        with pytest.raises(AlreadyRunning, match="Another sidecar of bob"):
            await Sidecar(settings(hub, tmp_path, state_dir=state)).run(asyncio.Event())
        process.kill()
        await process.wait()
        turn = claw.calls()[0]["pid"]
        assert "CLAW_TASK_ID" in claw.calls()[0]["env"]
        assert not any("SECRET" in name for name in claw.calls()[0]["env"])
        os.kill(turn, 0)  # it goes on without its sidecar
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    process = await started(environment)
    try:
        task = await master.task(given.task_ids[0], wait_s=PATIENCE_S)
        assert task.status == "outcome_unknown" and "killed" in (task.error or "")
        assert claw.messages == ["stubborn"]
        for pid in (turn, *claw.children):
            check_gone(pid)
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), PATIENCE_S)
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def started(environment: dict[str, str]) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *CLAW,
        "sidecar",
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said = await asyncio.wait_for(process.stderr.readline(), PATIENCE_S)
    assert said.startswith(b"claw: bob is connected to http://"), said
    return process
