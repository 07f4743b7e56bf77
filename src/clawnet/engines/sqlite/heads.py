"""Channel heads as rows, written behind.

Writing the head of each channel with each event would double a commit: with
10,000 channels a group of 512 touches nearly as many pages. The log itself
says where a channel ends, so heads are saved in rounds, a few rows with each
commit, and a start reads the log above the last complete round. What removes
events writes the heads it touched at once: the log no longer knows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import apsw

from clawnet.core.ledger import Head
from clawnet.engines.sqlite.state import get_meta, put_meta

ROUND_EVENTS = 65_536
"""After so many events a new round begins; a start reads at most about twice as many."""

ROWS_PER_COMMIT = 128

_META = "heads_seq"
_COLUMNS = 10
_UPSERT = """INSERT INTO channels VALUES {rows}
ON CONFLICT(id) DO UPDATE SET incarnation = excluded.incarnation, first = excluded.first,
    last = excluded.last, last_seq = excluded.last_seq, last_ts_ms = excluded.last_ts_ms,
    gone_offset = excluded.gone_offset, gone_seq = excluded.gone_seq"""

Key = tuple[str, str]
Lookup = Callable[[str, str], Head | None]


def load_heads(connection: apsw.Connection) -> tuple[list[Head], list[Key]]:
    """All heads, brought up to the end of the log; and those whose rows are behind it."""
    heads = {row[0]: Head(*row) for row in connection.execute("SELECT * FROM channels")}
    behind: list[Key] = []
    newer = connection.execute(
        # With max() the other columns are those of the row that has it.
        "SELECT channel_id, max(seq), offset, ts_ms FROM log WHERE seq > ? GROUP BY channel_id",
        (get_meta(connection, _META, 0),),
    )
    for channel_id, seq, offset, ts_ms in newer:
        head = heads[channel_id]
        if seq > head.last_seq:
            behind.append((head.world, head.name))
            heads[channel_id] = Head(
                channel_id,
                head.world,
                head.name,
                head.incarnation,
                head.first,
                offset,
                seq,
                ts_ms,
                head.gone_offset,
                head.gone_seq,
            )
    return list(heads.values()), behind


def load_extent(connection: apsw.Connection) -> tuple[int, int]:
    """The oldest and the newest seq that the log holds; zeros if it holds nothing."""
    # Two statements: SQLite jumps to either end, but for both at once it walks the table.
    first = connection.execute("SELECT min(seq) FROM log").get
    last = connection.execute("SELECT max(seq) FROM log").get
    return first or 0, last or 0


def load_last_seq(connection: apsw.Connection) -> int:
    """The newest seq ever given. A log that was trimmed to nothing still has it in its heads."""
    saved = connection.execute("SELECT max(last_seq) FROM channels").get
    return max(saved or 0, load_extent(connection)[1])


def write_heads(connection: apsw.Connection, heads: Iterable[Head]) -> None:
    """Write heads inside the transaction that is open."""
    values: list[int | str] = []
    count = 0
    for head in heads:
        values += (
            head.id,
            head.world,
            head.name,
            head.incarnation,
            head.first,
            head.last,
            head.last_seq,
            head.last_ts_ms,
            head.gone_offset,
            head.gone_seq,
        )
        count += 1
    done = 0
    while done < count:
        # Powers of two, so that few statements stay in the cache.
        size = min(1 << (count - done).bit_length() - 1, 256)
        end = done + size
        connection.execute(_statement(size), values[done * _COLUMNS : end * _COLUMNS])
        done = end


def _statement(size: int) -> str:
    sql = _statements.get(size)
    if sql is None:
        rows = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"] * size)
        sql = _statements[size] = _UPSERT.format(rows=rows)
    return sql


_statements: dict[int, str] = {}


class HeadSaver:
    """Decides which heads go out with which commit. The committer's alone."""

    def __init__(self, lookup: Lookup, *, behind: Iterable[Key], last_seq: int) -> None:
        self._lookup = lookup
        # Also what an earlier run left behind: a round is complete only with that.
        self._dirty: dict[Key, None] = dict.fromkeys(behind)
        self._round: list[Key] = []
        self._round_seq = last_seq
        self._in_hand = 0

    def write(self, connection: apsw.Connection, *, rows_max: int | None = None) -> None:
        """Write the next piece of a round, if one is under way, inside the open transaction."""
        self._in_hand = min(len(self._round), ROWS_PER_COMMIT if rows_max is None else rows_max)
        if not self._in_hand:
            return
        heads = [self._lookup(*key) for key in self._round[-self._in_hand :]]
        write_heads(connection, [head for head in heads if head is not None])
        if self._in_hand == len(self._round):
            put_meta(connection, _META, self._round_seq)

    def committed(self, touched: Iterable[Key], *, last_seq: int) -> None:
        """The transaction is durable: what it wrote is saved, what it touched is not yet."""
        if self._in_hand:
            del self._round[-self._in_hand :]
            self._in_hand = 0
        self._dirty.update(dict.fromkeys(touched))
        if not self._round and last_seq - self._round_seq >= ROUND_EVENTS:
            self.begin_round(last_seq)

    def begin_round(self, last_seq: int) -> None:
        """Everything touched up to here is to be saved."""
        self._round += self._dirty
        self._dirty = {}
        self._round_seq = last_seq

    @property
    def is_saving(self) -> bool:
        return bool(self._round)
