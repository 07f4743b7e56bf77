"""The wall clock jumps a year forth and back: places follow seq and nothing expires."""

from __future__ import annotations

from pathlib import Path
from random import Random

import msgspec
import pytest

from clawnet.core.events import Event
from clawnet.core.ids import seq_from_id
from clawnet.core.units import Committed, Unit
from clawnet.testing.clocks import FakeClock
from clawnet.testing.vfs import FaultVFS
from tests.faults.ledger import Ledger, audit, draft
from tests.faults.load import Load
from tests.faults.sqlite import open_sqlite

YEAR_S = 365 * 86_400.0
JUMPS = (0.0, YEAR_S, -2 * YEAR_S, YEAR_S, -0.001)
PER_JUMP = 30


@pytest.mark.parametrize("is_settled", [False, True], ids=["tail", "index"])
def test_places_follow_seq_whatever_the_clock_does(tmp_path: Path, is_settled: bool) -> None:
    clock = FakeClock()
    times: list[int] = []
    with FaultVFS("clock", is_recording=False) as vfs:
        engine = open_sqlite(tmp_path, vfs, clock=clock)
        for jump in JUMPS:
            clock.jump(jump)
            for _ in range(PER_JUMP):
                clock.advance(0.001)
                [outcome] = engine.commit(
                    [Unit(drafts=(draft(len(times), world="main", channel="room.x", type="x.a"),))]
                )
                assert isinstance(outcome, Committed)
                times.append(clock.wall_ms())
            if is_settled:
                assert engine.settle(timeout_s=30)
        total = len(times)
        assert (engine.first_seq, engine.last_seq) == (1, total), "something was trimmed"

        chunk = engine.read_channel("main", "room.x")
        events = [msgspec.json.decode(line, type=Event) for line in chunk.body.splitlines()]
        assert [event.seq for event in events] == list(range(1, total + 1))
        assert [event.offset for event in events] == list(range(1, total + 1))
        assert len({event.id for event in events}) == total
        for event, ts_ms in zip(events, times, strict=True):
            assert seq_from_id(event.id) == event.seq
            assert int(event.id[4:12] + event.id[13:17], 16) == ts_ms
        back = engine.read_channel_reverse("main", "room.x")
        assert back.body.splitlines() == chunk.body.splitlines()[::-1]

        for ts_ms in sorted({*times, min(times) - 1, max(times) + 1}):
            # Everything up to here is older; so one young event ends it, whatever follows.
            exact = next((seq for seq, time in enumerate(times) if time >= ts_ms), total)
            found = engine.seq_before(ts_ms)
            assert exact - 1_024 <= found <= exact
        engine.close()


def test_a_start_after_a_jump_finds_everything(tmp_path: Path) -> None:
    clock = FakeClock()
    ledger = Ledger()
    load = Load(1, ledger, note=lambda entry: None)
    with FaultVFS("clock", is_recording=False) as vfs:
        for jump in JUMPS:
            clock.jump(jump)
            engine = open_sqlite(tmp_path, vfs, clock=clock)
            for _ in range(15):
                load.step(engine)
            audit(engine, ledger, random=Random(1), is_adopting=True)
            engine.close()
