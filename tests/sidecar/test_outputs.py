"""Output on its way: cut to what fits, joined in pieces, never more often than it may."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from clawnet.sidecar.outputs import Pieces, cut
from clawnet.sidecar.processes import Capture


@given(st.text(st.characters(), max_size=600), st.integers(80, 700))
def test_what_is_cut_fits_as_json_and_says_so(text: str, max_bytes: int) -> None:
    shown = cut(text, max_bytes)
    assert len(msgspec.json.encode(shown)) - 2 <= max_bytes
    whole = text.encode("utf-8", "replace").decode()
    assert shown == whole or "left out" in shown


@given(st.lists(st.binary(max_size=30), max_size=30), st.integers(2, 64))
def test_a_capture_keeps_the_beginning_and_the_end(chunks: list[bytes], max_bytes: int) -> None:
    capture = Capture(max_bytes)
    for chunk in chunks:
        capture.add(chunk)
    whole, kept, half = b"".join(chunks), capture.kept(), max_bytes // 2
    assert len(kept) <= max_bytes and len(kept) + capture.dropped_bytes == len(whole)
    assert kept[:half] == whole[:half]
    if len(kept) > half:
        assert whole.endswith(kept[half:])
    assert capture.kept() == kept


class Told:
    def __init__(self) -> None:
        self.at: list[tuple[float, str | None, int | None]] = []

    async def tell(self, output: str | None, piece: int | None) -> None:
        self.at.append((asyncio.get_running_loop().time(), output, piece))


async def test_pieces_are_joined_numbered_and_never_more_than_four_a_second() -> None:
    told = Told()
    pieces = Pieces(told.tell, silent_s=40)
    telling = asyncio.create_task(pieces.run())
    for number in range(100):
        pieces.add("stdout", f"line {number}\n".encode())
        await asyncio.wait({telling}, timeout=0.01)
    await asyncio.wait({telling}, timeout=1)
    times = [at for at, _, _ in told.at]
    assert all(after - before >= 0.249 for before, after in itertools.pairwise(times))
    assert 2 <= len(times) <= 7
    assert "".join(str(text) for _, text, _ in told.at) == "".join(
        f"line {number}\n" for number in range(100)
    )
    assert [piece for _, _, piece in told.at] == list(range(1, len(told.at) + 1))
    # A silent task says that it is there, which renews its lease.
    await asyncio.wait({telling}, timeout=85)
    assert [(text, piece) for _, text, piece in told.at[-2:]] == [(None, None), (None, None)]
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)


async def test_a_flood_is_bounded_and_a_split_character_is_whole() -> None:
    told = Told()
    pieces = Pieces(told.tell, silent_s=40)
    pieces.add("stdout", "ü".encode()[:1])
    pieces.add("stderr", b"!")
    pieces.add("stdout", "ü".encode()[1:])
    await pieces.flush()
    assert [text for _, text, _ in told.at] == ["!ü"]
    pieces.say("x" * 10_000_000)
    await pieces.flush()
    text = str(told.at[-1][1])
    assert len(text) < 17_000 and "left out" in text
