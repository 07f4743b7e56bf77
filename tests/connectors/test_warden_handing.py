"""What a warden does where a hub waits for it, and how it keeps to its own folder."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawnet.cli.commands.warden import _check
from clawnet.connectors.warden import warden as module
from clawnet.connectors.warden.jsonl import JsonLines
from clawnet.connectors.warden.keeping import Down
from clawnet.connectors.warden.levels import Levels
from clawnet.connectors.warden.warden import CURSOR, Warden
from clawnet.core.calls.restoring import Restoring
from clawnet.core.errors import AlreadyRunning, BadConfiguration, BadRequest, ClawError
from clawnet.testing.loops import LoopClock
from tests.connectors.test_warden_levels import said


class Waiting:
    """A hub that waits, as a client sees it. It never takes `poison`."""

    url = "http://hub.test"

    def __init__(self, poison: int = -1) -> None:
        self.poison = poison
        self.taken: list[int] = []
        self.empty = 0
        self.is_over = False

    async def request(self, method: str, path: str, body: Any, type: Any) -> Restoring:
        if path.endswith("/events"):
            events = msgspec.json.decode(msgspec.json.encode(body))["events"]
            self.empty += not events
            for index, event in enumerate(events):
                if event["seq"] == self.poison:
                    raise BadRequest("This is no event that a hub wrote.", index=index)
            self.taken += [event["seq"] for event in events]
        elif path.endswith("/done"):
            self.is_over = True
        return Restoring(restoring=not self.is_over, epoch="bbbb", wait_s=1.0, restored=0)


def warden(folder: Path, hub: Waiting, told: list[str], levels: Any = None) -> Warden:
    levels = levels or Levels(None, JsonLines(folder / "events"), told=lambda level, why: None)
    made = Warden(hub, levels, folder, told=told.append)  # type: ignore[arg-type]
    made._world = "main"
    return made


async def test_an_event_that_the_hub_never_takes_keeps_no_other_from_it(tmp_path: Path) -> None:
    hub, told = Waiting(poison=3), list[str]()
    made = warden(tmp_path, hub, told)
    await made._levels.keep([said(n) for n in range(1, 1_200)])
    await made._hand_back()
    assert hub.taken == [n for n in range(1, 1_000 + 200) if n != 3][-len(hub.taken) :]
    assert len(hub.taken) == 1_000
    hub.poison = 700
    hub.taken.clear()
    await made._hand_back()
    assert len(hub.taken) == 999
    assert any("1 events were not taken" in text for text in told)


async def test_the_hub_is_told_that_it_is_read_for_and_the_same_trouble_is_told_once(
    tmp_path: Path,
) -> None:
    class Slow:
        trouble = True

        async def newest(self, world: str, limit: int) -> list[Any]:
            await LoopClock().pass_time(9.0)
            if self.trouble:
                raise Down("Supabase is not reached")
            return [said(1)]

    hub, told, slow = Waiting(), list[str](), Slow()
    made = warden(tmp_path, hub, told, slow)
    asking = asyncio.create_task(made._hand_back_when_asked())
    await LoopClock().pass_time(30.0)
    assert told == ["nothing is handed back yet: Supabase is not reached"]
    assert hub.empty >= 10
    slow.trouble = False
    await LoopClock().pass_time(30.0)
    asking.cancel()
    assert (hub.taken, hub.is_over) == ([1], True)


async def test_a_defect_of_one_round_does_not_end_the_handing_back(tmp_path: Path) -> None:
    class Broken:
        rounds = 0

        async def newest(self, world: str, limit: int) -> list[Any]:
            self.rounds += 1
            if self.rounds == 1:
                raise RuntimeError("a defect")
            return [said(1)]

    hub, told = Waiting(), list[str]()
    made = warden(tmp_path, hub, told, Broken())
    asking = asyncio.create_task(made._hand_back_when_asked())
    await LoopClock().pass_time(5.0)
    asking.cancel()
    assert hub.taken == [1]


async def test_one_folder_is_one_wardens(tmp_path: Path) -> None:
    with module._locked(tmp_path), pytest.raises(AlreadyRunning):
        await warden(tmp_path, Waiting(), []).run()
    with module._locked(tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(BadConfiguration):
        await warden(tmp_path / "file", Waiting(), []).run()


@pytest.mark.parametrize(
    "kept",
    [b"\xff", b"[]", b"{", b'{"server":"http://hub.test","cursor":7}',
     b'{"server":"http://hub.test","cursor":"none"}', b'{"server":"http://hub.test"}'],
)  # fmt: skip
def test_a_cursor_that_is_none_is_as_if_there_were_none(tmp_path: Path, kept: bytes) -> None:
    (tmp_path / CURSOR).write_bytes(kept)
    assert warden(tmp_path, Waiting(), [])._read_cursor() == ""


def test_a_cursor_is_one_hubs(tmp_path: Path) -> None:
    made = warden(tmp_path, Waiting(), [])
    made._cursor = "aaaa-7"
    made._write_cursor()
    assert made._read_cursor() == "aaaa-7"
    (tmp_path / CURSOR).write_text(json.dumps({"server": "http://other", "cursor": "aaaa-7"}))
    assert made._read_cursor() == ""


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("ftp://x", "k"), ("https://", "k"), ("http://[", "k"), ("https://u:secret@x", "k"),
        ("http://project.supabase.co", "secret"), ("https://x", "sec\nret"), ("https://x", "süß"),
    ],
)  # fmt: skip
def test_what_is_no_project_or_no_key_is_told_without_either(url: str, key: str) -> None:
    with pytest.raises(ClawError) as refused:
        _check(url, key)
    assert "secret" not in f"{refused.value.message} {refused.value.next}"
    _check("https://project.supabase.co", "eyJ.a-b_c")
    _check("http://127.0.0.1:54321", "eyJ.a-b_c")
