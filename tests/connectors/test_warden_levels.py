"""Where a warden keeps events: the levels, the way down and up, and what a crash leaves."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from clawnet.connectors.warden.jsonl import JsonLines
from clawnet.connectors.warden.keeping import Down, newest_per_channel
from clawnet.connectors.warden.levels import Level, Levels
from clawnet.connectors.warden.supabase import Supabase
from clawnet.core.events import Actor, Event
from clawnet.core.ids import event_id
from clawnet.testing.supabase import KEY, FakeSupabase


def said(
    n: int, *, channel: str = "room.alpha", type: str = "chat.message", data: str = ""
) -> Event:
    return Event(
        seq=n,
        channel=channel,
        offset=n,
        epoch="aaaa.1",
        id=event_id(ts_ms=1_800_000_000_000 + n, seq=n, salt=7),
        ts="2027-01-15T08:00:00.000Z",
        type=type,
        version="1.0.0",
        source="agent",
        actor=Actor(id="ada", handle="ada"),
        world="main",
        data=msgspec.Raw(
            (data or f'{{"text":"{n}","big":123456789012345678901,"f":1.0}}').encode()
        ),
    )


def texts(events: list[Event]) -> list[bytes]:
    return [msgspec.json.encode(event) for event in events]


class Kept:
    """Levels over a fake Supabase and a folder."""

    def __init__(self, folder: Path, *, has_top: bool = True, held_max: int = 10) -> None:
        self.fake = FakeSupabase()
        self.folder = folder
        self.told: list[Level] = []
        self.files = JsonLines(folder, rotate_bytes=2_000)
        top = Supabase(self.fake.url, KEY, transport=self.fake.transport()) if has_top else None
        self.levels = Levels(
            top, self.files, told=lambda level, _: self.told.append(level), held_max=held_max
        )

    async def numbers(self) -> list[int]:
        return [event.seq for event in await self.levels.newest("main", 1_000)]


async def test_what_is_kept_in_supabase_comes_back_letter_for_letter_once(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    events = [said(n) for n in range(1, 6)]
    for _ in range(2):
        await kept.levels.keep(events)
    assert texts(await kept.levels.newest("main", 10)) == texts(events)
    assert await kept.levels.newest("other", 10) == []
    assert texts(await kept.levels.newest("main", 2)) == texts(events[-2:])


@pytest.mark.parametrize("trouble", ["down", "failing", "half"])
async def test_supabase_goes_and_comes_back_without_a_gap_or_a_double(
    tmp_path: Path, trouble: str
) -> None:
    kept = Kept(tmp_path)
    await kept.levels.keep([said(1)])
    kept.fake.trouble = trouble  # type: ignore[assignment]
    for n in range(2, 40):
        await kept.levels.keep([said(n)])
    assert kept.levels.level == "jsonl"
    assert len(kept.files.files()) > 2
    await kept.levels.climb()
    assert kept.levels.level == "jsonl"
    kept.fake.trouble = None
    await kept.levels.climb()
    await kept.levels.keep([said(40)])
    assert kept.told == ["jsonl", "supabase"]
    assert [event["seq"] for event in kept.fake.events] == list(range(1, 41))
    assert kept.files.files() == []


async def test_without_a_disk_events_are_held_in_memory_and_brought_down_in_order(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "spool"
    folder.write_text("a file where the folder should be")
    kept = Kept(folder)
    kept.fake.trouble = "down"
    for n in range(1, 12):
        await kept.levels.keep([said(n)])
    assert kept.told == ["jsonl", "memory"]
    assert not kept.levels.is_for_good
    assert not kept.levels.has_room
    folder.unlink()
    await kept.levels.climb()
    assert (kept.levels.level, kept.levels.is_for_good) == ("jsonl", True)
    kept.fake.trouble = None
    assert await kept.numbers() == list(range(1, 12))
    await kept.levels.climb()
    assert [event["seq"] for event in kept.fake.events] == list(range(1, 12))


async def test_files_alone_are_the_top_level_and_outlive_the_process(tmp_path: Path) -> None:
    kept = Kept(tmp_path, has_top=False)
    for n in range(1, 30):
        await kept.levels.keep([said(n)])
    assert kept.levels.is_top
    with kept.files.files()[-1].open("ab") as file:
        file.write(b'{"seq":30,"chan')
    again = Kept(tmp_path, has_top=False)
    await again.levels.keep([said(29), said(30)])
    assert await again.numbers() == list(range(1, 31))


@pytest.mark.parametrize("where", ["supabase", "jsonl", "spool"])
async def test_a_deleted_message_is_kept_as_its_tombstone_alone(tmp_path: Path, where: str) -> None:
    kept = Kept(tmp_path, has_top=where != "jsonl")
    secret = said(1, data='{"text":"the-secret"}')
    await kept.levels.keep([secret, said(2)])
    if where == "spool":
        kept.fake.trouble = "down"
    gone = said(3, type="chat.deleted", data=f'{{"id":"{secret.id}","offset":1}}')
    await kept.levels.keep([gone])
    kept.fake.trouble = None
    await kept.levels.climb()
    first = (await kept.levels.newest("main", 10))[0]
    assert (first.id, first.deleted, bytes(first.data)) == (secret.id, True, b"null")
    assert b"the-secret" not in b"".join(path.read_bytes() for path in kept.files.files())
    assert "the-secret" not in str(kept.fake.rows)


async def test_an_answer_that_is_no_answer_is_told_as_such(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.fake.trouble = "nonsense"
    with pytest.raises(Down, match="something else"):
        await kept.levels.newest("main", 10)
    wrong = Supabase(kept.fake.url, "other key", transport=kept.fake.transport())
    kept.fake.trouble = None
    with pytest.raises(Down, match="401"):
        await wrong.keep([said(1)])


def test_each_channel_gives_its_newest() -> None:
    events = [said(n, channel=f"room.{'ab'[n % 2]}") for n in range(10)]
    assert [event.seq for event in newest_per_channel(events, 2)] == [6, 7, 8, 9]
