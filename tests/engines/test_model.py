"""Both engines under random histories: whatever the one answers, the other must answer."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from clawnet.core.errors import ClawError
from clawnet.core.events import place_of
from clawnet.core.ids import salt_of
from clawnet.core.trace import correlation_key, trace_key
from clawnet.core.units import Delete, Put, Unit
from clawnet.engines.memory import MemoryEngine
from clawnet.engines.sqlite import SqliteEngine, restore
from clawnet.testing.clocks import FakeClock, FakeRandomness
from clawnet.testing.drafts import WORLD, draft
from clawnet.testing.log_suite import read_all

CHANNELS = ("room.a", "room.b", "room.c")
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TYPES = ("x.message", "chat.message")
WORLDS = (WORLD, "other")

RULES = (
    lambda channel, kind: kind != TYPES[1],
    lambda channel, kind: channel == "room.a",
    lambda channel, kind: (channel, kind) == ("room.b", TYPES[0]),
    lambda channel, kind: True,
)
CORRELATIONS = ("c1", "c2", TRACE_ID)
TRACES = (f"00-{TRACE_ID}-00f067aa0ba902b7-01", f"00-{'5' * 32}-00f067aa0ba902b7-00")
CHAINS = (*map(correlation_key, CORRELATIONS), trace_key(TRACE_ID), trace_key("5" * 32))

channels = st.sampled_from(CHANNELS)
worlds = st.sampled_from((WORLD, WORLD, WORLD, "other"))
keys = st.sampled_from(("a/1", "a/2", "b/1"))
revisions = st.none() | st.integers(0, 6)
drafts = st.builds(
    draft,
    channels,
    st.sampled_from(("1", '{"text":"ä"}', f'"{"x" * 300}"')),
    key=st.none() | st.sampled_from(("k1", "k2", "k3")),
    type=st.sampled_from(TYPES),
    world=worlds,
    correlation_id=st.none() | st.sampled_from(CORRELATIONS),
    traceparent=st.none() | st.sampled_from(TRACES),
    ts_ms=st.none() | st.integers(1_700_000_000_000, 1_900_000_000_000),
)
changes = st.one_of(
    st.builds(Put, keys, st.sampled_from(("1", '"ö"')), revisions),
    st.builds(Delete, keys, revisions),
)
units = st.builds(
    Unit,
    drafts=st.lists(drafts, max_size=4).map(tuple),
    changes=st.lists(changes, max_size=2).map(tuple),
    blanks=st.lists(st.integers(-1, 40), max_size=2).map(tuple),
)
limits = st.integers(1, 8)
sizes = st.sampled_from((1, 1_000, 1_048_576))


class EnginesAgree(RuleBasedStateMachine):
    """The memory engine is the model. It cannot be restored, so after a restore the history that
    is left is committed to a new one, each part under the epoch that it had."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="clawnet-model-"))
        self.clock = FakeClock()
        self.randomness = FakeRandomness("sqlite")
        self.sqlite = self._open()
        self.model = MemoryEngine(clock=self.clock, randomness=FakeRandomness("model"))
        self._adopt_epoch()
        self.history: list[tuple[int, str, tuple, dict, str]] = []
        self.copy: tuple[Path, int] | None = None

    def _open(self) -> SqliteEngine:
        return SqliteEngine(
            self.folder / "data", clock=self.clock, randomness=self.randomness, ballast_bytes=0
        )

    def _adopt_epoch(self) -> None:
        self.model._ledger.epoch = self.sqlite.epoch
        self.model._ledger._salt = self.sqlite._ledger._salt

    # What changes the log.

    @rule(group=st.lists(units, min_size=1, max_size=4))
    def commit(self, group: list[Unit]) -> None:
        self._both("commit", group)

    @rule(count=st.integers(20, 60), channel=channels)
    def commit_many(self, count: int, channel: str) -> None:
        self._both("commit", [Unit(drafts=(draft(channel, str(i)),)) for i in range(count)])

    @rule(share=st.floats(0, 1))
    def trim_by_age(self, share: float) -> None:
        seq = round(self.sqlite.last_seq * share)
        for _ in range(2):
            self._both("trim_before", seq)

    @rule(share=st.floats(0, 1), start=st.floats(0, 1), is_due=st.sampled_from(RULES))
    def trim_by_rule(self, share: float, start: float, is_due) -> None:
        seq = round(self.sqlite.last_seq * share)
        self._both("trim_due", seq, after_seq=round(seq * start), is_due=is_due)

    @rule(
        channel=channels,
        world=worlds,
        keep=st.integers(0, 10),
        before=st.none() | st.integers(1, 80),
        above=st.integers(0, 40),
        is_due=st.sampled_from(RULES),
    )
    def trim_by_count_and_rule(self, channel, world, keep, before, above, is_due) -> None:
        self._both(
            "trim_channel_due",
            world,
            channel,
            is_due=is_due,
            keep=keep,
            before=before,
            above=above,
        )

    @rule(channel=channels, world=worlds, keep=st.integers(0, 20))
    def trim_by_count(self, channel: str, world: str, keep: int) -> None:
        for _ in range(2):
            self._both("trim_channel", world, channel, keep=keep)

    @rule(seconds=st.floats(0, 100))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def index(self) -> None:
        assert self.sqlite.settle()

    def _both(self, method: str, *args, **kwargs) -> None:
        expected = getattr(self.model, method)(*args, **kwargs)
        got = getattr(self.sqlite, method)(*args, **kwargs)
        assert _plain(got) == _plain(expected)
        self.history.append((self.clock.wall_ms(), method, args, kwargs, self.sqlite.epoch))

    # What happens to the folder.

    @rule(is_clean=st.booleans(), has_index=st.booleans())
    def restart(self, is_clean: bool, has_index: bool) -> None:
        epoch = self.sqlite.epoch
        if is_clean:
            self.sqlite.close()
        else:
            self._crash()
        if not has_index:
            for path in (self.folder / "data").glob("index.db*"):
                path.unlink()
        self.sqlite = self._open()
        assert self.sqlite.epoch == epoch

    def _crash(self) -> None:
        """Leave the files as they are at this moment, and the engine with others."""
        data, there = self.folder / "data", self.folder / "crashed"
        shutil.copytree(data, there, copy_function=shutil.copyfile)
        mark, birth = data / "high-water", data / "birthmark"
        keep = [(path.name, path) for path in (mark, birth)]
        self.sqlite.close()
        for path in data.iterdir():
            if path.name not in dict(keep):
                path.unlink()
        for path in there.iterdir():
            if path.name not in dict(keep):
                path.replace(data / path.name)
        shutil.rmtree(there)

    @rule()
    def back_up(self) -> None:
        target = self.folder / "copy.db"
        self.sqlite.backup(target, progress=lambda done, total: None)
        self.copy = (target, len(self.history))

    @precondition(lambda self: self.copy is not None)
    @rule()
    def restore(self) -> None:
        assert self.copy is not None
        epoch = self.sqlite.epoch
        self.sqlite.close()
        restore(self.copy[0], self.folder / "data")
        self.sqlite = self._open()
        assert self.sqlite.epoch != epoch
        assert self.sqlite.epochs[-1].first_seq == self.sqlite.last_seq + 1
        assert epoch in [start.epoch for start in self.sqlite.epochs]
        self._replay(self.copy[1])

    def _replay(self, length: int) -> None:
        del self.history[length:]
        self.model = MemoryEngine(clock=self.clock, randomness=FakeRandomness("model"))
        now = self.clock.wall_ms()
        present = self.sqlite._ledger
        for wall_ms, method, args, kwargs, epoch in self.history:
            self.clock._wall_ms = wall_ms
            self.model._ledger.epoch = epoch
            self.model._ledger._salt = salt_of(epoch)
            getattr(self.model, method)(*args, **kwargs)
        self.clock._wall_ms = now
        self.model._ledger.epoch = present.epoch
        self.model._ledger._salt = present._salt

    # What is read.

    @rule(channel=channels, world=worlds, after=st.integers(0, 80), limit=limits, size=sizes)
    def read_forward(self, channel, world, after, limit, size) -> None:
        up_to = self.sqlite.last_seq * 2 // 3 if after % 2 else None
        chunks = [
            engine.read_channel(
                world, channel, after=after, up_to_seq=up_to, limit=limit, max_bytes=size
            )
            for engine in (self.sqlite, self.model)
        ]
        if size > 1_000:
            assert chunks[0] == chunks[1]

        def forward(engine):
            return lambda place: engine.read_channel(
                world, channel, after=place, up_to_seq=up_to, limit=limit, max_bytes=size
            )

        all_of = [read_all(forward(engine), start=after) for engine in (self.sqlite, self.model)]
        assert all_of[0] == all_of[1]

    @rule(channel=channels, world=worlds, before=st.none() | st.integers(1, 80), limit=limits)
    def read_backward(self, channel, world, before, limit) -> None:
        sqlite, model = (
            engine.read_channel_reverse(world, channel, before=before, limit=limit)
            for engine in (self.sqlite, self.model)
        )
        assert sqlite == model
        whole = read_all(
            lambda place: self.sqlite.read_channel_reverse(world, channel, before=place, limit=7),
            start=1 << 40,
        )
        forward = read_all(
            lambda place: self.sqlite.read_channel(world, channel, after=place, limit=9), start=0
        )
        assert whole == forward[::-1]

    @rule(
        names=st.frozensets(channels, min_size=1),
        world=worlds,
        share=st.floats(0, 1),
        limit=limits,
        size=sizes,
    )
    def read_log(self, names, world, share, limit, size) -> None:
        after = round(self.sqlite.last_seq * share)

        def forward(engine):
            return lambda place: engine.read_log(
                world, names, after_seq=place, limit=limit, max_bytes=size
            )

        chunks, wholes = [], []
        for engine in (self.sqlite, self.model):
            chunks.append(engine.read_log(world, names, after_seq=after, limit=limit))
            wholes.append(read_all(forward(engine), start=after, by_seq=True))
        assert wholes[0] == wholes[1]
        assert chunks[0].body == chunks[1].body
        if chunks[0].seq == chunks[1].seq:
            assert chunks[0] == chunks[1]

    @rule(
        key=st.sampled_from(CHAINS),
        world=worlds,
        share=st.floats(0, 1),
        limit=limits,
        size=sizes,
    )
    def read_chain(self, key, world, share, limit, size) -> None:
        after = round(self.sqlite.last_seq * share)

        def chain(engine):
            return lambda place: engine.correlated(
                world, key, after_seq=place, limit=limit, max_bytes=size
            )

        chunks, wholes = [], []
        for engine in (self.sqlite, self.model):
            chunks.append(engine.correlated(world, key, after_seq=after, limit=limit))
            wholes.append(read_all(chain(engine), start=0, by_seq=True))
        assert chunks[0] == chunks[1]
        assert wholes[0] == wholes[1]

    @rule(share=st.floats(0, 1))
    def look_up(self, share: float) -> None:
        seq = round((self.sqlite.last_seq + 1) * share)
        for world in WORLDS:
            assert self.sqlite.get(world, seq) == self.model.get(world, seq)
            for channel in CHANNELS:
                assert self.sqlite.offset_at(world, channel, seq) == self.model.offset_at(
                    world, channel, seq
                )
        for key in ("k1", "k2", "k3"):
            for channel in CHANNELS:
                identity = draft(channel, key=key).identity
                assert identity is not None
                assert self.sqlite.find(identity) == self.model.find(identity)

    @invariant()
    def extents_agree(self) -> None:
        assert self.sqlite.last_seq == self.model.last_seq
        assert self.sqlite.first_seq == self.model.first_seq
        for world in WORLDS:
            heads = self.sqlite.channels(world, after="", limit=10)
            assert heads == self.model.channels(world, after="", limit=10)
            for channel in CHANNELS:
                head = self.sqlite.channel(world, channel)
                assert head == self.model.channel(world, channel)
                if head is not None and head.first <= head.last:
                    chunk = self.sqlite.read_channel(world, channel, limit=1)
                    assert place_of(chunk.body)[2] == head.first
        for kind in ("a", "b"):
            assert self.sqlite.scan(kind) == self.model.scan(kind)

    def teardown(self) -> None:
        self.sqlite.close()
        shutil.rmtree(self.folder)


def _plain(answer):
    """Outcomes in a form that compares: errors by class and facts."""
    if not isinstance(answer, list):
        return answer
    return [
        (type(outcome), outcome.facts) if isinstance(outcome, ClawError) else outcome
        for outcome in answer
    ]


def test_engines_agree():
    run_state_machine_as_test(
        EnginesAgree,
        settings=settings(
            max_examples=60,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_engines_agree_for_long():
    run_state_machine_as_test(
        EnginesAgree,
        settings=settings(
            max_examples=1_500,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
