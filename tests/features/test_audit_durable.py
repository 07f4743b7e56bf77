"""The audit chain: what is in it, that it goes on, and that every edit of it is named."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from clawnet.app.auditing import verify
from clawnet.core.callers import Caller
from clawnet.core.calls.accounts import UpdateAccount
from clawnet.core.calls.audit import ReadAudit, ReadAuditKey
from clawnet.core.calls.controls import ChangeControls
from clawnet.core.calls.grants import Grant
from clawnet.core.calls.tasks import ApproveTask, DispatchTask
from clawnet.core.errors import BadConfiguration, Forbidden, Unauthenticated
from clawnet.core.events import Stored
from clawnet.core.ids import event_id, salt_of
from clawnet.doors.socketio.conversation import Conversations
from clawnet.engines.memory import MemoryEngine
from clawnet.features import FeatureSettings, attach_all
from clawnet.features.audit import AuditFeature
from clawnet.features.audit.chain import FILE, HEAD, POINTS, Chain, files_of
from clawnet.features.audit.keys import KEY, Key
from clawnet.features.audit.records import record_of
from clawnet.features.audit.settings import AuditSettings
from clawnet.testing.clocks import FakeRandomness
from clawnet.testing.hubs import FaultyEngine, HubRig, abandon, make_hub
from clawnet.testing.links import RecordingLink
from clawnet.testing.loops import LoopClock

Start = Callable[..., Any]


class Audited:
    """A hub with an audit chain in a folder; it can be killed and started again."""

    def __init__(self, folder: Path, settings: AuditSettings) -> None:
        self.folder = folder
        self.settings = settings
        self.clock = LoopClock()
        self.engine = self.new_engine("first")
        self.starts = 0
        self.rig: HubRig

    def new_engine(self, seed: str) -> FaultyEngine:
        return FaultyEngine(MemoryEngine(clock=self.clock, randomness=FakeRandomness(seed)))

    async def start(self) -> HubRig:
        self.starts += 1
        hub = make_hub(self.engine, self.clock, seed=f"hub {self.starts}")
        features = FeatureSettings(folder=self.folder, audit=self.settings, has_timers=False)
        attach_all(hub, features)
        await hub.start()
        self.rig = HubRig(hub, self.clock, self.engine)
        return self.rig

    @property
    def audit(self) -> AuditFeature:
        return next(f for f in self.rig.hub.features if isinstance(f, AuditFeature))

    async def record(self) -> None:
        """Let the chain come to the log's end."""
        for _ in range(20):
            await self.audit.tick()
            await self.rig.settle()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / FILE).read_text().splitlines()]

    def of(self, *types: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["type"] in types]


@asynccontextmanager
async def audited(folder: Path, **named: Any) -> AsyncIterator[Audited]:
    made = Audited(folder, AuditSettings(**named))
    await made.start()
    try:
        yield made
    finally:
        await made.rig.hub.close()


async def test_who_said_and_granted_what_is_recorded_and_no_word_of_what_was_said(
    tmp_path: Path,
) -> None:
    async with audited(tmp_path) as made:
        rig = made.rig
        ada, boss = await rig.account("ada"), await rig.account("boss", role="master")
        await rig.publish(ada, "global", {"text": "the-secret-plan"})
        await rig.publish(ada, "public.other", {"text": "no chat"})
        await rig.hub.call(Grant(account="boss", channel="agent.ada.x"), caller=ada)
        with pytest.raises(Forbidden):
            await rig.publish(ada, "agent.boss.news", 1)
        made.clock.advance(11.0)
        await made.record()
        await made.record()
        (sent,) = made.of("chat_send")
        assert (sent["from"], sent["to"], sent["tenant_id"]) == ("ada", "public.lobby", "main")
        (given,) = made.of("grant_given")
        assert given["from"] == "ada"
        assert given["told"]["account"] == "boss"
        (refused,) = made.of("refusal")
        assert refused["told"] == {
            "account": "ada", "what": "agent.boss.news", "code": "forbidden", "count": 1,
        }  # fmt: skip
        assert "secret-plan" not in (tmp_path / FILE).read_text()
        assert verify(tmp_path)[0].flaw is None
        page = await rig.hub.call(ReadAudit(), caller=boss)
        assert [r["type"] for r in page.records] == [line["type"] for line in made.lines()]
        with pytest.raises(Forbidden):
            await rig.hub.call(ReadAudit(), caller=ada)


async def test_what_a_killed_hub_had_not_recorded_is_recorded_at_the_next_start_once(
    tmp_path: Path,
) -> None:
    async with audited(tmp_path) as made:
        ada = await made.rig.account("ada")
        await made.rig.publish(ada, "global", 1)
        await made.record()
        for n in (2, 3):
            await made.rig.publish(ada, "global", n)
        await abandon(made.rig.hub)
        with (tmp_path / FILE).open("ab") as file:
            file.write(b'{"type":"chat_send","se')
        await made.start()
        await made.record()
        offsets = [line["seq"] for line in made.of("chat_send")]
        assert len(offsets) == len(set(offsets)) == 3
        assert made.of("torn_tail")[0]["bytes"] == 23
        assert verify(tmp_path)[0].flaw is None


async def test_a_log_that_began_anew_is_told_and_the_chain_goes_on(tmp_path: Path) -> None:
    async with audited(tmp_path) as made:
        ada = await made.rig.account("ada")
        await made.rig.publish(ada, "global", 1)
        await made.record()
        await made.rig.hub.close()
        made.engine = made.new_engine("second")
        await made.start()
        ada = await made.rig.account("ada")
        await made.rig.publish(ada, "global", 1)
        await made.record()
        assert len(made.of("chat_send")) == 2
        assert len({line["epoch"] for line in made.of("opened")}) == 2
        assert verify(tmp_path)[0].flaw is None


async def test_more_than_waits_in_memory_is_read_from_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawnet.features.audit.feature.WAITING_MAX", 5)
    async with audited(tmp_path) as made:
        ada = await made.rig.account("ada")
        for n in range(30):
            await made.rig.publish(ada, "global", n)
        await made.record()
        await made.rig.publish(ada, "global", 30)
        await made.record()
        seqs = [line["seq"] for line in made.of("chat_send")]
        assert len(seqs) == 31
        assert seqs == sorted(set(seqs))


async def test_the_chain_goes_on_over_files_and_every_checkpoint_is_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with audited(tmp_path, checkpoint_records=5, rotate_bytes=65_536) as made:
        monkeypatch.setattr(made.audit._chain, "_rotate_bytes", 2_000)
        ada, boss = await made.rig.account("ada"), await made.rig.account("boss", role="master")
        for n in range(40):
            await made.rig.publish(ada, "global", n)
            await made.audit.tick()
        key = await made.rig.hub.call(ReadAuditKey(), caller=boss)
        await abandon(made.rig.hub)
        # Killed between putting a file aside and beginning the next.
        (tmp_path / FILE).rename(tmp_path / "traffic-999999999999.log")
        await made.start()
        await made.record()
        found, doubts = verify(tmp_path, public_key=key.public_key)
        assert found.flaw is None
        assert found.checkpoints >= 5
        assert doubts == []
        assert found.lines > 40
        assert len(files_of(tmp_path)) > 3
        checkpoints = await made.rig.hub.storage.read(
            lambda log: log.read_channel("main", "system.audit")
        )
        assert checkpoints.body.count(b'"audit.checkpoint"') >= 5
        with pytest.raises(BadConfiguration):
            verify(tmp_path, public_key="no key")
        another, _ = verify(tmp_path, public_key="A" * 43 + "=")
        assert another.flaw is not None
        assert "signature" in another.flaw.what


def flip(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], lines[4].replace(b'"ada"', b'"eve"'), *lines[5:]]


def write_anew(lines: list[bytes]) -> list[bytes]:
    """An edit with a hash of its own: what follows does not fit any more."""
    from clawnet.core.audit import line_of

    record = json.loads(lines[4]) | {"from": "eve"}
    line, _ = line_of(record, record["prev_hash"])
    return [*lines[:4], line.encode(), *lines[5:]]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (flip, 5),
        (write_anew, 6),
        (lambda lines: [*lines[:4], *lines[5:]], 5),
        (lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]], 5),
        (lambda lines: [*lines[:4], lines[4][:20], *lines[5:]], 5),
        (lambda lines: [*lines[:5], lines[4], *lines[5:]], 6),
        (lambda lines: [*lines[:4], lines[4].replace(b",", b", ", 1), *lines[5:]], 5),
        (lambda lines: lines[:-1], -1),
        (lambda lines: lines[:6], 6),
    ],
    ids="flipped rewritten dropped swapped cut repeated respaced last-gone truncated".split(),
)
async def test_the_first_line_that_was_changed_is_named(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], line: int
) -> None:
    async with audited(tmp_path, checkpoint_records=6) as made:
        ada = await made.rig.account("ada")
        for n in range(12):
            await made.rig.publish(ada, "global", n)
            await made.audit.tick()
    assert (tmp_path / KEY).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / POINTS).exists()
    assert (tmp_path / HEAD).exists()
    path = tmp_path / FILE
    lines = path.read_bytes().splitlines()
    assert verify(tmp_path)[0] == verify(tmp_path)[0]._replace(lines=len(lines), flaw=None)
    changed = change(lines)
    path.write_bytes(b"\n".join(changed) + b"\n")
    flaw = verify(tmp_path)[0].flaw
    assert flaw is not None
    assert flaw.line == (len(changed) if line == -1 else line)


async def test_who_approved_who_enrolled_and_what_a_role_was_are_in_the_chain(
    tmp_path: Path,
) -> None:
    async with audited(tmp_path) as made:
        rig = made.rig
        boss, ada = await rig.account("boss", role="master"), await rig.account("ada")
        await rig.hub.call(ChangeControls(command_riskylist=["rm "]), caller=boss)
        given = await rig.hub.call(DispatchTask(to="ada", command="rm x"), caller=boss)
        call = ApproveTask(task_id=given.task_ids[0], digest=given.tasks[0].digest)
        await rig.hub.call(call, caller=boss)
        await rig.hub.call(UpdateAccount(id="ada", role="warden", handle="eye"), caller=boss)
        await made.record()
        (approval,) = made.of("approval")
        assert (approval["from"], approval["task_id"]) == ("boss", given.task_ids[0])
        assert len(made.of("dispatch")) == 1
        (updated,) = made.of("account_updated")
        assert updated["told"]["was"] == {"handle": "ada", "role": "worker"}
        assert ada.account in [line["told"]["account"] for line in made.of("token_created")]


async def test_what_was_refused_at_last_is_recorded_and_counted_by_the_world_it_was_in(
    tmp_path: Path,
) -> None:
    async with audited(tmp_path) as made:
        ada = await made.rig.account("ada")
        await made.record()
        with pytest.raises(Unauthenticated):
            made.rig.hub.authenticate("what may be a secret", is_last=False)
        with pytest.raises(Forbidden):
            made.rig.connect(ada, "agent.boss.tasks")
        await made.rig.hub.stop_accepting()
        await made.rig.hub.close()
        assert [line["told"]["what"] for line in made.of("refusal")] == ["subscribe"]
        await made.start()


async def test_who_came_in_by_socketio_and_who_was_refused_there_is_recorded(
    tmp_path: Path,
) -> None:
    async with audited(tmp_path) as made:
        rig = made.rig
        await rig.account("ada")
        token = await rig.token("ada")
        talks = Conversations(rig.hub)
        for agent in ("ada", "ada", "boss"):
            link = RecordingLink(rig, talks)
            assert await link.connect(token=token, agent_id=agent, protocol=2) is (agent == "ada")
        made.clock.advance(11.0)
        await made.record()
        (came,) = made.of("login")
        assert came["told"] == {"account": "ada", "what": "Socket.IO", "count": 2}
        (refused,) = made.of("refusal")
        assert refused["told"] == {
            "account": "ada", "what": "Socket.IO", "code": "unauthenticated", "count": 1,
        }  # fmt: skip


async def test_a_loud_world_does_not_push_out_what_another_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawnet.features.audit.chain.RECENT_MAX", 3)
    async with audited(tmp_path) as made:
        chain = made.audit._chain
        base = {"type": "chat_send", "seq": 0, "from": "ada", "to": "x", "ts": ""}
        worlds = ["two", *["main"] * 5, "two"]
        chain.append([{**base, "tenant_id": w} for w in worlds])
        caller = Caller(account="m", world="two", role="master", scopes=frozenset("*"))
        page = await made.audit.read(ReadAudit(), caller)
        shown = [record["tenant_id"] for record in page.records]
        assert shown.count("two") == 2
        assert "main" not in shown
        lines = [record["line"] for record in page.records]
        assert lines == sorted(lines)


async def test_nothing_is_recorded_twice_if_more_comes_than_waits_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawnet.features.audit.feature.WAITING_MAX", 5)
    monkeypatch.setattr("clawnet.features.audit.feature.AT_ONCE", 2)
    async with audited(tmp_path) as made:
        ada = await made.rig.account("ada")
        await made.record()
        audit, real = made.audit, made.audit._append

        async def meanwhile(records: list[dict[str, Any]]) -> None:
            monkeypatch.setattr(audit, "_append", real)
            await made.rig.fill(ada, "global", bursts.pop())
            await real(records)

        # What another round would take at once, and more than waits.
        bursts = [8, 1]
        while bursts:
            monkeypatch.setattr(audit, "_append", meanwhile)
            await made.rig.fill(ada, "global", 4)
            await asyncio.gather(audit.tick(), audit.tick())
            await made.record()
        seqs = [line["seq"] for line in made.of("chat_send")]
        assert len(seqs) == 17
        assert seqs == sorted(set(seqs))


@pytest.mark.parametrize("failing", ["write", "fsync", "open"])
async def test_a_full_disk_costs_the_chain_no_line_and_leaves_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    key = Key.in_folder(tmp_path)
    chain = Chain.open(tmp_path, key, now=lambda: "now", rotate_bytes=100)
    record = {"type": "x", "from": "", "to": "", "tenant_id": "", "ts": ""}
    chain.append([{**record, "seq": 1}])
    real = getattr(os, failing)

    def fails(*args: Any) -> Any:
        if failing == "write":
            real(args[0], args[1][:10])
        if failing == "open" and Path(args[0]).name != FILE:
            return real(*args)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, failing, fails)
        with pytest.raises(OSError):
            # Putting the file aside fails half-way, too.
            chain.checkpoint() if failing == "open" else chain.append([{**record, "seq": 2}])
    chain.append([{**record, "seq": 3}])
    chain._rotate_bytes = 1_000_000
    chain.checkpoint()
    chain.close()
    assert verify(tmp_path)[0].flaw is None
    again = Chain.open(tmp_path, key, now=lambda: "now", rotate_bytes=100)
    assert (again.lines, again.last_hash) == (chain.lines, chain.last_hash)
    again.checkpoint()
    again.close()
    assert verify(tmp_path)[0].flaw is None


async def test_lines_that_were_cut_off_while_the_hub_was_away_are_told_as_it_starts(
    tmp_path: Path,
) -> None:
    async with audited(tmp_path) as made:
        ada = await made.rig.account("ada")
        await made.rig.fill(ada, "global", 5)
        await made.rig.hub.close()
        lines = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
        (tmp_path / FILE).write_bytes(b"".join(lines[:-2]))
        await made.start()
        (cut,) = made.of("cut_off")
        assert cut["what"] == "2 lines at the end of the chain are missing"
        await made.record()


@pytest.mark.parametrize(
    "line",
    [b"[" * 100_000, b'{"type":"x","seq":1,"prev_hash":7,"hash":"y"}', b"\xff\xfe", b"1" * 9_000,
     b'{"type":"checkpoint","seq":1,"prev_hash":"","lines":"\\ud800","signature":"\\ud800"}', b""],
    ids="nested number bytes digits surrogate empty".split(),
)  # fmt: skip
def test_whatever_stands_in_a_chain_is_named_and_never_a_crash(tmp_path: Path, line: bytes) -> None:
    Key.in_folder(tmp_path)
    (tmp_path / FILE).write_bytes(line + b"\n")
    (tmp_path / POINTS).write_bytes(line + b"\n")
    flaw = verify(tmp_path)[0].flaw
    assert flaw is not None
    assert flaw.line == 1


def test_a_chain_that_cannot_be_read_and_a_torn_end_are_told_in_sentences(tmp_path: Path) -> None:
    key = Key.in_folder(tmp_path)
    chain = Chain.open(tmp_path, key, now=lambda: "now", rotate_bytes=100_000)
    chain.follow("e", seq=0)
    chain.close()
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"type":"chat_se')
    found, doubts = verify(tmp_path)
    assert (found.flaw, found.lines) == (None, 1)
    assert any("torn" in doubt for doubt in doubts)
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    with pytest.raises(BadConfiguration, match="cannot be read"):
        verify(tmp_path)


async def test_a_witness_that_hangs_is_shown_the_newest_checkpoint_and_holds_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    answered = asyncio.Event()

    async def handle(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content)["lines"])
        await answered.wait()
        return httpx.Response(200, content=b"x")

    def client() -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(handle))

    monkeypatch.setattr("clawnet.features.audit.feature._new_client", client)
    async with audited(tmp_path, checkpoint_records=2, witness="https://witness.test") as made:
        ada = await made.rig.account("ada")
        for n in range(12):
            await made.rig.publish(ada, "global", n)
            await made.audit.tick()
        answered.set()
        assert made.audit._witnessing is not None
        await made.audit._witnessing
        checkpoints = [line["lines"] for line in made.of("checkpoint")]
        assert len(asked) <= 2 < len(checkpoints)
        assert asked[-1] == checkpoints[-1]


def test_what_a_warden_handed_back_is_marked_as_no_act_of_now() -> None:
    log = "aaaa"
    named: dict[str, Any] = {
        "ts_ms": 1,
        "type": "chat.message",
        "actor_id": "ada",
        "head": "",
        "data": "{}",
    }
    own, old = (event_id(ts_ms=1, seq=1, salt=salt_of(of)) for of in (log, "bbbb"))
    place: dict[str, Any] = {"world": "main", "channel": "public.lobby", "offset": 1}
    events = [Stored(seq=1, epoch=f"{log}.1", id=id_, **place, **named) for id_ in (own, old)]
    assert ["restored" in record_of(event) for event in events] == [False, True]


async def test_a_hub_whose_disk_takes_nothing_closes_all_the_same_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with audited(tmp_path) as made:
        ada = await made.rig.account("ada")
        await made.record()

        def fails(handle: int, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as full:
            full.setattr(os, "write", fails)
            await made.rig.fill(ada, "global", 3)
            assert not await made.audit.tick()
            await asyncio.wait_for(made.rig.hub.close(), 2.0)
        await made.start()
        await made.record()
        assert len(made.of("chat_send")) == 3
        assert verify(tmp_path)[0].flaw is None
