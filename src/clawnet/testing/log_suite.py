"""The numbered promises of clawnet.ports.log as tests that every engine must pass.

An engine's test module subclasses LogSuite and StateSuite and gives the
fixture `storage`: a Storage, which opens the engine over the same folder as
often as a test wants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from clawnet.core.errors import Conflict, DedupeConflict
from clawnet.core.events import Existing, Stored, place_of
from clawnet.core.units import Committed, Delete, Put, Unit
from clawnet.ports.log import READ_MAX_BYTES, READ_MAX_EVENTS, Chunk, Engine, Missing, Piece
from clawnet.testing.clocks import FakeClock
from clawnet.testing.drafts import WORLD, draft, publish


class Storage(Protocol):
    """Where an engine's data lies, and the clock it is given."""

    clock: FakeClock

    def open(self) -> Engine:
        """Close the engine that is open, if one is, and open the next over the same data."""


def committed(engine: Engine, *units: Unit) -> list[Committed]:
    """Commit one group of which nothing is refused."""
    outcomes = engine.commit(units)
    assert all(isinstance(outcome, Committed) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, Committed)]


def stored(engine: Engine, *units: Unit) -> list[Stored]:
    """Commit one group of which everything is new."""
    return [
        event
        for outcome in committed(engine, *units)
        for event in outcome.events
        if isinstance(event, Stored)
    ]


def lines(chunk: Chunk) -> list[bytes]:
    """The envelopes of a chunk."""
    found = chunk.body.split(b"\n") if chunk.body else []
    assert len(found) == chunk.count
    return found


def read_all(read: Callable[[int], Chunk], *, start: int, by_seq: bool = False) -> list[bytes]:
    """Page until the end."""
    found: list[bytes] = []
    place = start
    while True:
        chunk = read(place)
        found += lines(chunk)
        place = chunk.seq if by_seq else chunk.offset
        if chunk.is_end:
            return found


def trimmed(trim: Callable[[], int]) -> int:
    """Call a trim until nothing is left to do."""
    total = 0
    while removed := trim():
        total += removed
    return total


def texts(events: list[Stored]) -> list[bytes]:
    """What reads must give for stored events."""
    return [event.text().encode() for event in events]


class LogSuite:
    """L1 to L9; L10 to L12 are in clawnet.testing.chain_suite."""

    # L1 dense

    def test_l1_offsets_are_dense_and_seqs_grow(self, storage: Storage) -> None:
        engine = storage.open()
        first = stored(engine, publish("room.a"), publish("room.b"), publish("room.a"))
        second = stored(engine, Unit(drafts=(draft("room.b"), draft("room.a"))))
        assert [(e.channel, e.offset) for e in first + second] == [
            ("room.a", 1),
            ("room.b", 1),
            ("room.a", 2),
            ("room.b", 2),
            ("room.a", 3),
        ]
        assert [e.seq for e in first + second] == [1, 2, 3, 4, 5]
        assert (engine.last_seq, engine.first_seq) == (5, 1)

    def test_l1_a_group_of_512_is_read_as_it_was_committed(self, storage: Storage) -> None:
        engine = storage.open()
        events = stored(engine, *[publish(f"room.r{i % 7}", f'{{"n":{i}}}') for i in range(512)])
        names = frozenset(f"room.r{i}" for i in range(7))
        got = read_all(
            lambda seq: engine.read_log(WORLD, names, after_seq=seq, limit=100),
            start=0,
            by_seq=True,
        )
        assert got == texts(events)

    def test_l1_an_empty_log_has_no_extent(self, storage: Storage) -> None:
        engine = storage.open()
        assert (engine.last_seq, engine.first_seq) == (0, 1)
        assert engine.channel(WORLD, "room.a") is None
        assert engine.read_channel(WORLD, "room.a") == Chunk(b"", 0, 0, 0, True)
        assert engine.read_log(WORLD, frozenset({"room.a"}), after_seq=0).is_end
        assert engine.get(WORLD, 1) is None
        assert engine.offset_at(WORLD, "room.a", 1) == 0
        assert engine.trim_before(10) == 0
        assert engine.trim_channel(WORLD, "room.a", keep=0) == 0

    # L2 atomic

    def test_l2_a_refused_unit_leaves_nothing_and_its_group_stands(self, storage: Storage) -> None:
        engine = storage.open()
        stored(engine, publish(key="k", data='{"n":1}'))
        refused = Unit(
            drafts=(draft(key="fresh"), draft(key="k", data='{"n":2}')),
            changes=(Put("room/a", "1"),),
        )
        before, conflict, after = engine.commit(
            [publish("room.b"), refused, publish(key="fresh", data='{"n":3}')]
        )
        assert isinstance(conflict, DedupeConflict)
        assert conflict.facts["index"] == 1
        assert isinstance(before, Committed)
        assert isinstance(after, Committed)
        # No seq, no offset, no key and no state went to the refused unit.
        assert [(e.seq, e.offset) for e in (*before.events, *after.events)] == [(2, 1), (3, 2)]
        assert engine.scan("room") == []
        assert engine.read_channel(WORLD, "room.a").count == 2

    # L3 settled

    def test_l3_what_is_readable_does_not_change_below(self, storage: Storage) -> None:
        engine = storage.open()
        stored(engine, publish(), publish("room.b"), publish())
        names = frozenset({"room.a", "room.b"})
        before = engine.read_log(WORLD, names, after_seq=0)
        head = engine.last_seq
        stored(engine, publish("room.b"), publish())
        assert engine.read_log(WORLD, names, after_seq=0, up_to_seq=head) == before

    def test_l3_reads_are_bounded_by_up_to_seq(self, storage: Storage) -> None:
        engine = storage.open()
        events = stored(engine, *[publish() for _ in range(5)])
        chunk = engine.read_channel(WORLD, "room.a", after=1, up_to_seq=3)
        assert lines(chunk) == texts(events[1:3])
        assert (chunk.offset, chunk.seq, chunk.is_end) == (3, 3, True)
        assert chunk.missing == ()

    # L4 epoch

    def test_l4_a_restart_keeps_the_epoch_exactly_if_it_keeps_the_positions(
        self, storage: Storage
    ) -> None:
        engine = storage.open()
        epoch, durable = engine.epoch, engine.is_durable
        (event,) = stored(engine, publish())
        assert event.epoch == f"{epoch}.1"
        assert [start.first_seq for start in engine.epochs] == [1]
        again = storage.open()
        assert (again.epoch == epoch) == durable
        assert again.last_seq == (1 if durable else 0)
        assert again.epochs[-1].epoch == again.epoch

    # L5 dedupe

    def test_l5_a_repeated_key_returns_the_first_event(self, storage: Storage) -> None:
        engine = storage.open()
        (event,) = stored(engine, publish(key="k"))
        (outcome,) = committed(engine, publish(key="k"))
        (existing,) = outcome.events
        assert isinstance(existing, Existing)
        assert (existing.seq, existing.offset, existing.epoch, existing.id) == (
            event.seq,
            event.offset,
            event.epoch,
            event.id,
        )
        assert engine.last_seq == 1
        identity = draft(key="k").identity
        assert identity is not None
        assert engine.find(identity) == existing
        assert engine.find(bytes(16)) is None

    def test_l5_other_content_is_a_conflict_and_other_scopes_are_not(
        self, storage: Storage
    ) -> None:
        engine = storage.open()
        stored(engine, publish(key="k", data='{"n":1}'))
        (conflict,) = engine.commit([publish(key="k", data='{"n":2}')])
        assert isinstance(conflict, DedupeConflict)
        assert len(stored(engine, publish("room.b", key="k"))) == 1
        assert len(stored(engine, Unit(drafts=(draft(key="k", actor_id="bob"),)))) == 1
        assert len(stored(engine, Unit(drafts=(draft(key="k", world="other"),)))) == 1

    def test_l5_dedupe_holds_within_a_unit_and_within_a_group(self, storage: Storage) -> None:
        engine = storage.open()
        unit = Unit(drafts=(draft(key="k"), draft(key="k")))
        first, second = committed(engine, unit, publish(key="k"))
        event = first.events[0]
        assert isinstance(event, Stored)
        for existing in (first.events[1], second.events[0]):
            assert isinstance(existing, Existing)
            assert existing.seq == event.seq
        (conflict,) = engine.commit(
            [Unit(drafts=(draft(key="j", data="1"), draft(key="j", data="2")))]
        )
        assert isinstance(conflict, DedupeConflict)
        assert conflict.facts["index"] == 1
        assert engine.last_seq == 1

    def test_l5_a_key_is_free_again_when_its_event_is_gone(self, storage: Storage) -> None:
        engine = storage.open()
        stored(engine, publish(key="k", data="1"), publish(key="j"))
        assert trimmed(lambda: engine.trim_before(1)) == 1
        (again,) = stored(engine, publish(key="k", data="2"))
        assert (again.seq, again.offset) == (3, 3)
        (outcome,) = committed(engine, publish(key="j"))
        assert isinstance(outcome.events[0], Existing)

    # L6 durable

    def test_l6_a_durable_log_is_the_same_after_a_restart(self, storage: Storage) -> None:
        engine = storage.open()
        if not engine.is_durable:
            assert storage.open().last_seq == 0
            return
        events = stored(engine, publish(key="k"), publish("room.b"), publish())
        heads = engine.channels(WORLD, after="", limit=10)
        engine = storage.open()
        got = engine.read_log(WORLD, frozenset({"room.a", "room.b"}), after_seq=0)
        assert lines(got) == texts(events)
        assert engine.channels(WORLD, after="", limit=10) == heads
        (outcome,) = committed(engine, publish(key="k"))
        assert isinstance(outcome.events[0], Existing)
        (event,) = stored(engine, publish("room.b"))
        assert (event.seq, event.offset) == (4, 2)

    # L7 bounded

    def test_l7_a_read_gives_at_most_its_limit_and_says_where_to_go_on(
        self, storage: Storage
    ) -> None:
        engine = storage.open()
        events = [e for _ in range(4) for e in stored(engine, *[publish() for _ in range(300)])]
        chunk = engine.read_channel(WORLD, "room.a", limit=5_000)
        assert chunk.count == READ_MAX_EVENTS
        assert not chunk.is_end
        rest = engine.read_channel(WORLD, "room.a", after=chunk.offset)
        assert lines(chunk) + lines(rest) == texts(events)
        assert rest.is_end
        # Exactly the rest is the end, too.
        assert engine.read_channel(WORLD, "room.a", after=1190, limit=10).is_end
        chunk = engine.read_log(WORLD, frozenset({"room.a"}), after_seq=0, limit=5_000)
        assert (chunk.count, chunk.seq, chunk.is_end) == (READ_MAX_EVENTS, 1_000, False)

    def test_l7_a_read_gives_at_most_its_bytes_but_always_one_event(self, storage: Storage) -> None:
        engine = storage.open()
        big = f'"{"x" * 60_000}"'
        events = stored(engine, *[publish(data=big) for _ in range(40)])
        names = frozenset({"room.a"})
        for chunk in (
            engine.read_channel(WORLD, "room.a"),
            engine.read_log(WORLD, names, after_seq=0),
        ):
            assert 10 <= chunk.count < 40
            assert len(chunk.body) <= READ_MAX_BYTES
            assert lines(chunk) == texts(events[: chunk.count])
            assert chunk.seq == events[chunk.count - 1].seq
        one = engine.read_channel(WORLD, "room.a", max_bytes=1)
        assert (one.count, one.offset, one.is_end) == (1, 1, False)
        one = engine.read_channel_reverse(WORLD, "room.a", max_bytes=1)
        assert (one.count, one.offset, one.is_end) == (1, 40, False)

    def test_l7_a_read_of_the_log_advances_where_nothing_matches(self, storage: Storage) -> None:
        engine = storage.open()
        stored(engine, *[publish("room.b") for _ in range(50)])
        chunk = engine.read_log(WORLD, frozenset({"room.a"}), after_seq=0)
        assert (chunk.count, chunk.seq, chunk.is_end) == (0, 50, True)
        chunk = engine.read_log("other", frozenset({"room.b"}), after_seq=0)
        assert chunk.count == 0

    # L8 trimmed

    def test_l8_a_trim_by_age_leaves_what_is_younger_and_names_the_gap(
        self, storage: Storage
    ) -> None:
        engine = storage.open()
        events = stored(engine, *[publish() for _ in range(5)], publish("room.b"))
        assert trimmed(lambda: engine.trim_before(3)) == 3
        head = engine.channel(WORLD, "room.a")
        assert head is not None
        assert (head.first, head.last, engine.first_seq) == (4, 5, 4)
        chunk = engine.read_channel(WORLD, "room.a")
        assert lines(chunk) == texts(events[3:5])
        assert chunk.missing == (Missing("room.a", 1, 3),)
        assert engine.read_channel(WORLD, "room.a", after=3).missing == ()
        chunk = engine.read_log(WORLD, frozenset({"room.a", "room.b"}), after_seq=1)
        assert chunk.missing == (Missing("room.a", 1, 3),)
        assert engine.read_log(WORLD, frozenset({"room.b"}), after_seq=0).missing == ()
        assert engine.read_log(WORLD, frozenset({"room.a"}), after_seq=3).missing == ()
        assert engine.get(WORLD, 3) is None
        assert engine.get(WORLD, 4) == events[3].text().encode()

    def test_l8_important_types_are_kept_and_the_holes_between_them_named(
        self, storage: Storage
    ) -> None:
        engine = storage.open()
        kinds = ["x.message", "chat.message", "x.message", "x.message", "chat.message"]
        events = stored(engine, *[publish(type=kind) for kind in kinds])
        piece = engine.trim_due(5, after_seq=0, is_due=lambda _, kind: kind != "chat.message")
        assert piece == Piece(3, 5, True)
        head = engine.channel(WORLD, "room.a")
        assert head is not None
        assert (head.first, head.last) == (2, 5)
        holes = (Missing("room.a", 1, 1), Missing("room.a", 3, 4))
        chunk = engine.read_channel(WORLD, "room.a")
        assert (lines(chunk), chunk.missing) == (texts([events[1], events[4]]), holes)
        chunk = engine.read_log(WORLD, frozenset({"room.a"}), after_seq=0)
        assert (lines(chunk), chunk.missing) == (texts([events[1], events[4]]), holes)
        chunk = engine.read_channel_reverse(WORLD, "room.a")
        assert (lines(chunk), chunk.missing) == (texts([events[4], events[1]]), holes[::-1])
        # Event 4 is removed and still the newest up to its seq; below, the bound is 2 and not 3.
        assert engine.offset_at(WORLD, "room.a", 4) == 4
        assert engine.offset_at(WORLD, "room.a", 3) == 2

    def test_l8_a_trim_by_count_keeps_the_newest(self, storage: Storage) -> None:
        engine = storage.open()
        events = stored(engine, *[publish() for _ in range(10)], publish("room.b"))
        assert engine.trim_channel(WORLD, "room.a", keep=20) == 0
        assert trimmed(lambda: engine.trim_channel(WORLD, "room.a", keep=3)) == 7
        assert lines(engine.read_channel(WORLD, "room.a")) == texts(events[7:10])
        assert engine.read_channel(WORLD, "room.b").count == 1
        assert engine.first_seq == 8

    def test_l8_offsets_are_not_given_again_after_everything_is_gone(
        self, storage: Storage
    ) -> None:
        engine = storage.open()
        stored(engine, *[publish() for _ in range(3)])
        assert trimmed(lambda: engine.trim_before(3)) == 3
        if engine.is_durable:
            engine = storage.open()
        head = engine.channel(WORLD, "room.a")
        assert head is not None
        assert (head.first, head.last, head.last_seq) == (4, 3, 3)
        chunk = engine.read_channel(WORLD, "room.a")
        assert chunk == Chunk(b"", 0, 3, 3, True, (Missing("room.a", 1, 3),))
        chunk = engine.read_log(WORLD, frozenset({"room.a"}), after_seq=1)
        assert chunk.missing == (Missing("room.a", 1, 3),)
        chunk = engine.read_channel_reverse(WORLD, "room.a")
        assert (chunk.count, chunk.is_end, chunk.missing) == (0, True, (Missing("room.a", 1, 3),))
        assert engine.offset_at(WORLD, "room.a", 3) == 3
        (event,) = stored(engine, publish())
        assert (event.seq, event.offset) == (4, 4)

    def test_l8_trims_are_bounded_pieces(self, storage: Storage) -> None:
        engine = storage.open()
        for _ in range(5):
            stored(engine, *[publish() for _ in range(500)])
        pieces = []
        while removed := engine.trim_before(2_400):
            pieces.append(removed)
        assert sum(pieces) == 2_400
        assert max(pieces) <= 1_000
        assert trimmed(lambda: engine.trim_channel(WORLD, "room.a", keep=0)) == 100

    # L9 reversed

    def test_l9_a_reverse_read_is_the_forward_read_backwards(self, storage: Storage) -> None:
        engine = storage.open()
        events = stored(engine, *[publish(data=str(i)) for i in range(25)])
        backwards = read_all(
            lambda before: engine.read_channel_reverse(WORLD, "room.a", before=before, limit=7),
            start=26,
        )
        assert backwards == texts(events)[::-1]
        assert lines(engine.read_channel_reverse(WORLD, "room.a", limit=2)) == texts(
            [events[24], events[23]]
        )
        middle = engine.read_channel_reverse(WORLD, "room.a", before=10, limit=3)
        assert [place_of(line)[2] for line in lines(middle)] == [9, 8, 7]
        assert not middle.is_end

    # Further reads of the port.

    def test_worlds_are_apart(self, storage: Storage) -> None:
        engine = storage.open()
        stored(engine, publish(), Unit(drafts=(draft(world="other"),)))
        assert engine.read_channel("other", "room.a").count == 1
        assert engine.read_log(WORLD, frozenset({"room.a"}), after_seq=0).count == 1
        assert engine.get(WORLD, 2) is None
        assert engine.get("other", 2) is not None
        assert [head.name for head in engine.channels("other", after="", limit=9)] == ["room.a"]

    def test_channels_are_listed_by_name_in_pages(self, storage: Storage) -> None:
        engine = storage.open()
        stored(engine, *[publish(f"room.{name}") for name in "cabd"])
        names = [head.name for head in engine.channels(WORLD, after="", limit=3)]
        assert names == ["room.a", "room.b", "room.c"]
        names = [head.name for head in engine.channels(WORLD, after="room.c", limit=3)]
        assert names == ["room.d"]

    def test_names_and_texts_pass_as_they_are(self, storage: Storage) -> None:
        engine = storage.open()
        data = '{"text":"ä € \\u0000 \\" \U0001f600","n":1.50}'
        events = stored(engine, publish('free"name\\x', data), publish("room.a", data))
        for event in events:
            chunk = engine.read_channel(WORLD, event.channel)
            assert lines(chunk) == texts([event])

    def test_an_imported_event_keeps_its_id_and_time(self, storage: Storage) -> None:
        engine = storage.open()
        unit = Unit(drafts=(draft(ts_ms=1_000, event_id="evt_old", key="k"),))
        (event,) = stored(engine, unit)
        assert (event.id, event.ts_ms) == ("evt_old", 1_000)
        assert b'"id":"evt_old","ts":"1970-01-01T00:00:01.000Z"' in event.text().encode()
        assert lines(engine.read_channel(WORLD, "room.a")) == texts([event])
        (outcome,) = committed(engine, publish(key="k"))
        assert outcome.events[0].id == "evt_old"

    def test_seq_before_is_never_too_large_and_little_too_small(self, storage: Storage) -> None:
        engine = storage.open()
        start = storage.clock.wall_ms()
        for _ in range(30):
            stored(engine, *[publish() for _ in range(100)])
            storage.clock.advance(1)
        assert engine.seq_before(start) == 0
        for second in (1, 11, 25, 29):
            exact = second * 100
            assert exact - 1_024 <= engine.seq_before(start + second * 1_000) <= exact
        assert engine.seq_before(start + 3_600_000) == 3_000

    def test_seq_before_survives_a_clock_that_jumps(self, storage: Storage) -> None:
        engine = storage.open()
        now = storage.clock.wall_ms()
        stored(engine, *[publish() for _ in range(10)])
        storage.clock.jump(-3_600)
        stored(engine, *[publish() for _ in range(10)])
        # The first ten are not older than an hour ago, so nothing behind them may be trimmed.
        assert engine.seq_before(now - 1_000) == 0

    def test_offset_at_finds_the_newest_event_at_or_below(self, storage: Storage) -> None:
        engine = storage.open()
        for _ in range(20):
            stored(engine, publish("room.a"), publish("room.b"), publish("room.c"))
        for seq in range(61):
            assert engine.offset_at(WORLD, "room.b", seq) == (seq + 1) // 3
        assert engine.offset_at(WORLD, "room.z", 5) == 0

    def test_closing_twice_is_no_error(self, storage: Storage) -> None:
        engine = storage.open()
        engine.close()
        engine.close()


class StateSuite:
    """S1 to S5."""

    def test_s1_changes_come_with_their_events_or_not_at_all(self, storage: Storage) -> None:
        engine = storage.open()
        unit = Unit(drafts=(draft(),), changes=(Put("room/a", '{"n":1}'), Put("room/b", "2")))
        (done,) = committed(engine, unit)
        assert done.revisions == (1, 1)
        refused = Unit(drafts=(draft(),), changes=(Put("room/c", "3"), Put("room/a", "4", 9)))
        (conflict,) = engine.commit([refused])
        assert isinstance(conflict, Conflict)
        assert conflict.facts == {"key": "room/a", "revision": 1}
        assert engine.last_seq == 1
        assert [(e.key, e.value, e.revision) for e in engine.scan("room")] == [
            ("room/a", '{"n":1}', 1),
            ("room/b", "2", 1),
        ]

    def test_s1_what_belongs_to_a_repeat_does_not_happen(self, storage: Storage) -> None:
        engine = storage.open()
        twice = (draft(key="k"), draft(key="k"))
        puts = (Put("a/1", "1"), Put("a/2", "2"))
        # A repeat within the unit is a repeat as well, whatever the first one changes.
        (done,) = committed(engine, Unit(drafts=twice, changes=puts, ties=(0, 1)))
        assert done.revisions == (1, 0)
        only_second = Unit(
            drafts=(draft(key="j"), draft(key="j")), changes=(Put("a/3", "3"),), ties=(1,)
        )
        again = Unit(drafts=(draft(key="k"),), changes=(Put("a/4", "4"),), ties=(0,))
        for done in committed(engine, only_second, again):
            assert done.revisions == (0,)
        # What has no key is never a repeat.
        fresh = Unit(drafts=(draft(), draft()), changes=puts, ties=(0, 1))
        (done,) = committed(engine, fresh)
        assert done.revisions[0] > 1 and done.revisions[1] > 0
        assert [entry.key for entry in engine.scan("a")] == ["a/1", "a/2"]

    def test_s2_a_wrong_revision_refuses_and_the_right_one_does_not(self, storage: Storage) -> None:
        engine = storage.open()
        (done,) = committed(engine, Unit(changes=(Put("a/1", "1"),)))
        (revision,) = done.revisions
        (conflict,) = engine.commit([Unit(changes=(Put("a/1", "2", revision + 1),))])
        assert isinstance(conflict, Conflict)
        (conflict,) = engine.commit([Unit(changes=(Delete("a/1", revision + 1),))])
        assert isinstance(conflict, Conflict)
        (done,) = committed(engine, Unit(changes=(Put("a/1", "2", revision),)))
        assert done.revisions[0] > revision
        # Within a unit a later change builds on the earlier.
        unit = Unit(changes=(Put("a/2", "1", 0), Put("a/2", "2", 1), Delete("a/1")))
        (done,) = committed(engine, unit)
        assert done.revisions[2] == 0
        assert [(e.key, e.value) for e in engine.scan("a")] == [("a/2", "2")]

    def test_s3_of_two_rivals_exactly_the_first_creates(self, storage: Storage) -> None:
        engine = storage.open()
        rivals = [Unit(changes=(Put("handle/x", value, 0),)) for value in ("1", "2")]
        first, second = engine.commit(rivals)
        assert isinstance(first, Committed)
        assert isinstance(second, Conflict)
        (third,) = engine.commit([rivals[1]])
        assert isinstance(third, Conflict)
        assert [e.value for e in engine.scan("handle")] == ["1"]

    def test_s4_revisions_grow_also_across_a_delete_and_a_restart(self, storage: Storage) -> None:
        engine = storage.open()
        seen: list[int] = []
        for turn in range(4):
            for _ in range(2):
                (done,) = committed(engine, Unit(changes=(Put("a/1", "1"),)))
                seen += done.revisions
            committed(engine, Unit(changes=(Delete("a/1"), Delete("a/absent"))))
            if turn == 1:
                engine = storage.open()
        assert seen == sorted(set(seen))
        (conflict,) = engine.commit([Unit(changes=(Put("a/1", "1", seen[-1]),))])
        assert isinstance(conflict, Conflict)

    def test_s5_the_state_is_the_same_after_a_restart(self, storage: Storage) -> None:
        engine = storage.open()
        committed(engine, Unit(changes=(Put("a/1", '"ä"'), Put("b/1", "1"), Put("ab/1", "1"))))
        committed(engine, Unit(changes=(Put("a/1", '"ö"'), Delete("b/1")), is_narrowing=True))
        before = [engine.scan(kind) for kind in ("a", "b", "ab")]
        engine = storage.open()
        assert [engine.scan(kind) for kind in ("a", "b", "ab")] == before
        assert [e.value for e in engine.scan("a")] == ['"ö"']
