"""Promises L10 to L12 of clawnet.ports.log as tests that every engine must pass.

Used like clawnet.testing.log_suite, beside it.
"""

from __future__ import annotations

from clawnet.core.errors import Conflict, DedupeConflict
from clawnet.core.trace import correlation_key, trace_key
from clawnet.core.units import Committed, Put, Unit
from clawnet.ports.log import READ_MAX_EVENTS, Engine, IsDue, Missing, Piece
from clawnet.testing.drafts import WORLD, draft, publish
from clawnet.testing.log_suite import Storage, committed, lines, read_all, stored, texts, trimmed

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


def trimmed_due(engine: Engine, seq: int, is_due: IsDue) -> int:
    """Trim by rule to the end."""
    total = after = 0
    while True:
        piece = engine.trim_due(seq, after_seq=after, is_due=is_due)
        total += piece.removed
        assert piece.place > after or piece.is_end
        after = piece.place
        if piece.is_end:
            return total


def trimmed_channel_due(
    engine: Engine, name: str, is_due: IsDue, *, keep: int, above: int = 0, world: str = WORLD
) -> int:
    """Cut what is due of a channel to its newest, to the end."""
    total, before = 0, None
    while True:
        piece = engine.trim_channel_due(
            world, name, is_due=is_due, keep=keep, before=before, above=above
        )
        total += piece.removed
        keep -= piece.kept
        before = piece.place
        if piece.is_end:
            return total


class ChainSuite:
    """L10: a chain is found by its correlation id and by its trace."""

    def test_l10_a_chain_is_found_by_correlation_id_and_by_trace(self, storage: Storage) -> None:
        engine = storage.open()
        events = stored(
            engine,
            publish(),
            Unit(drafts=(draft("room.b", correlation_id="c1"),)),
            Unit(drafts=(draft(correlation_id="c2", traceparent=TRACEPARENT),)),
            Unit(drafts=(draft("room.b", correlation_id="c1", traceparent=TRACEPARENT),)),
            Unit(drafts=(draft(traceparent=OTHER_TRACE),)),
        )
        c1 = engine.correlated(WORLD, correlation_key("c1"))
        assert (lines(c1), c1.seq, c1.offset, c1.is_end) == (
            texts([events[1], events[3]]), 5, 0, True,
        )  # fmt: skip
        trace = engine.correlated(WORLD, trace_key(TRACEPARENT[3:35]))
        assert lines(trace) == texts([events[2], events[3]])
        assert engine.correlated(WORLD, correlation_key("c3")).count == 0
        assert lines(engine.correlated(WORLD, correlation_key("c1"), after_seq=2)) == texts(
            [events[3]]
        )

    def test_l10_the_two_kinds_of_key_and_the_worlds_are_apart(self, storage: Storage) -> None:
        engine = storage.open()
        trace_id = TRACEPARENT[3:35]
        said = f'x","traceparent":"{TRACEPARENT}'
        events = stored(
            engine,
            Unit(drafts=(draft(correlation_id=trace_id),)),
            Unit(drafts=(draft(traceparent=TRACEPARENT),)),
            Unit(drafts=(draft(correlation_id=trace_id, world="other"),)),
            # A correlation id, and data, that would pass for a traceparent are none.
            Unit(drafts=(draft(correlation_id=said, data=f'{{"traceparent":"{TRACEPARENT}"}}'),)),
            Unit(drafts=(draft(correlation_id=f"t:{trace_id}"),)),
        )
        for _ in range(2):
            by_id = engine.correlated(WORLD, correlation_key(trace_id))
            assert lines(by_id) == texts(events[:1])
            by_trace = engine.correlated(WORLD, trace_key(trace_id))
            assert lines(by_trace) == texts(events[1:2])
            other = engine.correlated("other", correlation_key(trace_id))
            assert lines(other) == texts(events[2:3])
            assert engine.correlated("other", trace_key(trace_id)).count == 0
            assert lines(engine.correlated(WORLD, correlation_key(said))) == texts(events[3:4])
            engine = self._settled(storage, engine)

    def _settled(self, storage: Storage, engine: Engine) -> Engine:
        """The same log after a restart, where there is one: what was in memory is indexed."""
        return storage.open() if engine.is_durable else engine

    def test_l10_a_chain_is_read_in_bounded_pages(self, storage: Storage) -> None:
        engine = storage.open()
        events = []
        for _ in range(3):
            group = [Unit(drafts=(draft(correlation_id="c"),)) for _ in range(400)]
            events += stored(engine, *group, publish())[:-1]
        chunk = engine.correlated(WORLD, correlation_key("c"), limit=5_000)
        assert (chunk.count, chunk.is_end) == (READ_MAX_EVENTS, False)
        assert chunk.seq == events[READ_MAX_EVENTS - 1].seq
        for _ in range(2):
            got = read_all(
                lambda seq, e=engine: e.correlated(  # type: ignore[misc]
                    WORLD, correlation_key("c"), after_seq=seq, limit=70
                ),
                start=0,
                by_seq=True,
            )
            assert got == texts(events)
            engine = self._settled(storage, engine)
        assert engine.correlated(WORLD, correlation_key("c"), max_bytes=1).count == 1

    def test_l10_trimmed_events_leave_their_chains(self, storage: Storage) -> None:
        engine = storage.open()
        drafts = [draft(f"room.{n % 2}", correlation_id="c", key=f"k{n}") for n in range(9)]
        events = stored(engine, *[Unit(drafts=(each,)) for each in drafts])
        assert trimmed(lambda: engine.trim_before(3)) == 3
        assert trimmed(lambda: engine.trim_channel(WORLD, "room.0", keep=1)) == 2
        left = [event for event in events[3:] if event.channel == "room.1" or event.seq == 9]
        assert lines(engine.correlated(WORLD, correlation_key("c"))) == texts(left)
        engine = self._settled(storage, engine)
        assert lines(engine.correlated(WORLD, correlation_key("c"))) == texts(left)
        assert trimmed(lambda: engine.trim_before(9)) == len(left)
        assert engine.correlated(WORLD, correlation_key("c")).count == 0


class TrimSuite:
    """L11: trims by rule."""

    def test_l11_a_trim_by_rule_removes_what_is_due_and_nothing_else(
        self, storage: Storage
    ) -> None:
        engine = storage.open()
        places = [("room.a", "x.tick"), ("room.b", "x.tick"), ("room.a", "chat.message")]
        units = [publish(c, type=t) for c, t in places * 4]
        events = stored(engine, *units)

        def is_due(channel: str, kind: str) -> bool:
            return (channel, kind) == ("room.a", "x.tick")

        assert trimmed_due(engine, 8, is_due) == 3
        assert [engine.get(WORLD, seq) is None for seq in range(1, 13)] == [
            seq in (1, 4, 7) for seq in range(1, 13)
        ]
        assert engine.read_channel(WORLD, "room.b").missing == ()
        chunk = engine.read_channel(WORLD, "room.a")
        assert lines(chunk) == texts(
            [e for e in events if e.channel == "room.a" and e.seq not in (1, 4, 7)]
        )
        assert chunk.missing == (
            Missing("room.a", 1, 1), Missing("room.a", 3, 3), Missing("room.a", 5, 5),
        )  # fmt: skip
        # The same place again removes nothing more, and one further on the rest.
        assert trimmed_due(engine, 8, is_due) == 0
        piece = engine.trim_due(99, after_seq=8, is_due=is_due)
        assert piece == Piece(1, 12, True)
        assert trimmed_due(engine, 99, lambda _, __: False) == 0

    def test_l11_what_is_gone_at_the_end_of_a_channel_is_told(self, storage: Storage) -> None:
        engine = storage.open()
        events = stored(engine, *[publish(type=k) for k in ("chat.message", "x.tick", "x.tick")])
        assert trimmed_due(engine, 3, lambda _, kind: kind == "x.tick") == 2
        for _ in range(2):
            head = engine.channel(WORLD, "room.a")
            assert head is not None
            assert (head.first, head.last) == (1, 3)
            hole = (Missing("room.a", 2, 3),)
            chunk = engine.read_channel(WORLD, "room.a")
            assert (lines(chunk), chunk.missing, chunk.offset) == (texts(events[:1]), hole, 3)
            chunk = engine.read_log(WORLD, frozenset({"room.a"}), after_seq=1)
            assert (chunk.count, chunk.missing) == (0, hole)
            assert engine.offset_at(WORLD, "room.a", 3) == 3
            if not engine.is_durable:
                return
            engine = storage.open()

    def test_l11_the_first_offset_moves_over_holes_and_what_a_trim_adds_to_them(
        self, storage: Storage
    ) -> None:
        engine = storage.open()
        stored(engine, *[publish() for _ in range(20)])
        assert trimmed_channel_due(engine, "room.a", lambda _, __: True, keep=7, above=3) == 10
        assert trimmed(lambda: engine.trim_before(20)) == 10
        head = engine.channel(WORLD, "room.a")
        assert head is not None
        assert (head.first, head.last) == (21, 20)
        assert engine.read_channel(WORLD, "room.a").missing == (Missing("room.a", 1, 20),)

    def test_l11_a_piece_looks_at_a_bounded_number_of_events(self, storage: Storage) -> None:
        engine = storage.open()
        for _ in range(12):
            stored(engine, *[publish() for _ in range(500)])
        asked = 0

        def is_due(_: str, __: str) -> bool:
            nonlocal asked
            asked += 1
            return False

        piece = engine.trim_due(6_000, after_seq=0, is_due=is_due)
        assert (piece.removed, piece.is_end) == (0, False)
        assert asked <= piece.place < 6_000
        assert trimmed_due(engine, 6_000, is_due) == 0
        pieces = []
        after = 0
        while True:
            piece = engine.trim_due(2_500, after_seq=after, is_due=lambda _, __: True)
            pieces.append(piece.removed)
            after = piece.place
            if piece.is_end:
                break
        assert (sum(pieces), after) == (2_500, 2_500)
        assert max(pieces) <= 1_000

    def test_l11_of_what_is_due_in_a_channel_the_newest_stay(self, storage: Storage) -> None:
        engine = storage.open()
        kinds = ["x.tick", "chat.message", "x.tick", "x.tick", "x.note"] * 3
        events = stored(engine, *[publish(type=kind) for kind in kinds], publish("room.b"))

        def is_due(channel: str, kind: str) -> bool:
            return channel == "room.a" and kind == "x.tick"

        assert trimmed_channel_due(engine, "room.a", is_due, keep=4) == 5
        left = [event for event in events[:15] if event.type != "x.tick" or event.seq > 8]
        assert lines(engine.read_channel(WORLD, "room.a")) == texts(left)
        assert engine.read_channel(WORLD, "room.b").count == 1
        assert trimmed_channel_due(engine, "room.a", is_due, keep=4) == 0
        # What lies at `above` and below it is not looked at.
        assert trimmed_channel_due(engine, "room.a", is_due, keep=0, above=13) == 1
        assert trimmed_channel_due(engine, "room.a", is_due, keep=0) == 3
        assert trimmed_channel_due(engine, "room.z", is_due, keep=0) == 0
        head = engine.channel(WORLD, "room.a")
        assert head is not None
        assert (head.first, head.last) == (2, 15)

    def test_l11_a_long_channel_is_cut_in_pieces(self, storage: Storage) -> None:
        engine = storage.open()
        kinds = ("x.tick", "x.note")
        for _ in range(6):
            stored(engine, *[publish(type=kinds[n % 2]) for n in range(500)])
        piece = engine.trim_channel_due(
            WORLD, "room.a", is_due=lambda _, kind: kind == "x.tick", keep=100, before=None, above=0
        )
        assert (piece.kept, piece.is_end) == (100, False)
        assert piece.removed <= 1_000
        assert trimmed_channel_due(
            engine, "room.a", lambda _, kind: kind == "x.tick", keep=100
        ) == 1_400 - piece.removed  # fmt: skip
        assert len(read_all(lambda o: engine.read_channel(WORLD, "room.a", after=o), start=0)) == (
            1_600
        )


class BlankSuite:
    """L12: what is blanked says nothing any more and keeps its place."""

    def test_l12_a_blanked_event_says_nothing_in_every_read_and_keeps_its_place(
        self, storage: Storage
    ) -> None:
        engine = storage.open()
        key = draft(key="k", data='{"text":"secret"}', correlation_id="c")
        events = stored(engine, publish(), Unit(drafts=(key,)), publish("room.b"), publish())
        # In the same group as what else happens, and in a unit with an event of its own.
        committed(engine, publish("room.b"), Unit(drafts=(draft(type="x.deleted"),), blanks=(2,)))
        first, secret, other, last = events
        blank = secret.text().replace(',"data":{"text":"secret"}', ',"deleted":true,"data":null')
        for run in range(2 if engine.is_durable else 1):
            log = storage.open() if run else engine
            assert log.get(WORLD, 2) == blank.encode()
            assert lines(log.read_channel(WORLD, "room.a"))[:3] == [
                first.text().encode(),
                blank.encode(),
                last.text().encode(),
            ]
            assert lines(log.read_channel_reverse(WORLD, "room.a", before=3))[0] == blank.encode()
            names = frozenset({"room.a", "room.b"})
            walked = lines(log.read_log(WORLD, names, after_seq=0))
            assert walked[1:3] == [blank.encode(), other.text().encode()]
            assert lines(log.correlated(WORLD, correlation_key("c"))) == [blank.encode()]
            # The key still answers with the first event, and is not free for others.
            again, conflict = log.commit(
                [Unit(drafts=(key,)), publish(key="k", data='{"text":"other"}')]
            )
            assert isinstance(again, Committed)
            assert [event.seq for event in again.events] == [2]
            assert isinstance(conflict, DedupeConflict)

    def test_l12_blanking_twice_or_what_is_not_there_changes_nothing(
        self, storage: Storage
    ) -> None:
        engine = storage.open()
        stored(engine, publish(), publish())
        committed(engine, Unit(blanks=(1,)))
        blank = engine.get(WORLD, 1)
        done = engine.commit([Unit(blanks=(1, 1, 0, -1, 3, 99)), publish(), Unit(blanks=(1,))])
        assert [type(outcome) for outcome in done] == [Committed] * 3
        assert engine.get(WORLD, 1) == blank
        # What was blanked before it was stored is as it was said.
        for seq in (2, 3):
            told = engine.get(WORLD, seq)
            assert told is not None
            assert b'"data":{"n":1}' in told
        assert engine.trim_before(1) == 1
        committed(engine, Unit(blanks=(1,)))
        assert engine.get(WORLD, 1) is None

    def test_l12_a_refused_unit_blanks_nothing(self, storage: Storage) -> None:
        engine = storage.open()
        stored(engine, publish())
        refused = Unit(changes=(Put("room/a", "1", 7),), blanks=(1,))
        assert isinstance(engine.commit([refused])[0], Conflict)
        told = engine.get(WORLD, 1)
        assert told is not None
        assert b"deleted" not in told
