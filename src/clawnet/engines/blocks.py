"""A sparse index of time: the youngest event of each block of 1,024 seqs.

Times need not rise with seq (the wall's clock may jump, an import brings its
own), so a block is known by its youngest event: all blocks before the first
that holds something young enough are older as a whole.
"""

from __future__ import annotations

BLOCK_SHIFT = 10


class TimeBlocks:
    """Block number to the largest time in it."""

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}

    def add(self, seq: int, ts_ms: int) -> None:
        """Note an event; seqs come in ascending order."""
        block = seq >> BLOCK_SHIFT
        if ts_ms > self._blocks.get(block, -1):
            self._blocks[block] = ts_ms

    def add_range(self, first_seq: int, last_seq: int, ts_ms: int) -> None:
        """Note events of one time."""
        for block in range(first_seq >> BLOCK_SHIFT, (last_seq >> BLOCK_SHIFT) + 1):
            if ts_ms > self._blocks.get(block, -1):
                self._blocks[block] = ts_ms

    def first_young(self, ts_ms: int) -> int | None:
        """The first seq of the first block with an event at or after `ts_ms`."""
        # A copy: another thread may add while this one looks.
        blocks = list(self._blocks.items())
        young = min((block for block, youngest in blocks if youngest >= ts_ms), default=None)
        return None if young is None else young << BLOCK_SHIFT

    def drop_before(self, seq: int) -> None:
        """Forget the blocks of which every event lies before `seq`."""
        limit = seq >> BLOCK_SHIFT
        while self._blocks and (block := next(iter(self._blocks))) < limit:
            del self._blocks[block]
