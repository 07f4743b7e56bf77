"""Output of a task on its way to the hub: cut to what fits, and told in joined pieces."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Awaitable, Callable

import msgspec

from clawnet.core.calls.tasks import OUTPUT_MAX_BYTES

ERROR_MAX_BYTES = 4_096
PIECE_MAX_BYTES = 16_384
PIECES_PER_S = 4.0
_WAITING_MAX_CHARS = 65_536

Tell = Callable[[str | None, int | None], Awaitable[None]]


def cut(text: str, max_bytes: int = OUTPUT_MAX_BYTES) -> str:
    """The text if it fits as JSON, else its beginning and end, saying so in between."""
    # A lone surrogate, which JSON may escape and no encoding has, cannot be sent on.
    text = text.encode("utf-8", "replace").decode()
    if _size(text) <= max_bytes:
        return text
    # An escape is at most six bytes for a character of ASCII, so this always ends soon.
    keep = min(len(text), max_bytes)
    while True:
        head, tail = keep * 2 // 3, keep - keep * 2 // 3
        left_out = len(text) - head - tail
        said = (
            f"{text[:head]}\n[... {left_out} characters left out ...]\n{text[len(text) - tail :]}"
        )
        if _size(said) <= max_bytes:
            return said
        keep = keep * 3 // 4


def text_of(raw: bytes) -> str:
    """What a process wrote, as text that JSON can hold."""
    return raw.decode("utf-8", "replace")


class Pieces:
    """What a running task writes, told at most PIECES_PER_S times a second, joined in between.

    Pieces are signals: what does not get through, or is more than fits, is dropped with a word
    about it; the result holds what matters. A silent task is told of every `silent_s`, which
    renews its lease.
    """

    def __init__(self, tell: Tell, *, silent_s: float) -> None:
        self._tell = tell
        self._silent_s = silent_s
        self._pause_s = 1 / PIECES_PER_S
        self._waiting = ""
        self._dropped = 0
        self._number = 0
        self._woken = asyncio.Event()
        self._telling = asyncio.Lock()
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}

    def add(self, stream: str, chunk: bytes) -> None:
        """A chunk of a stream; a character may be split between two."""
        decoder = self._decoders.get(stream)
        if decoder is None:
            decoder = self._decoders[stream] = codecs.getincrementaldecoder("utf-8")("replace")
        self.say(decoder.decode(chunk))

    def nudge(self) -> None:
        """Tell now how it stands, without output."""
        self._woken.set()

    def say(self, text: str) -> None:
        """Text of the sidecar's own about the task."""
        room = _WAITING_MAX_CHARS - len(self._waiting)
        self._waiting += text[:room]
        self._dropped += max(0, len(text) - room)
        if self._waiting:
            self._woken.set()

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._silent_s):
                    await self._woken.wait()
            except TimeoutError:
                await self._tell(None, None)
                continue
            async with self._telling:
                await self._next()
            await asyncio.sleep(self._pause_s)

    async def flush(self) -> None:
        """Tell what waits, behind what is being told, all at once and cut to what fits."""
        async with self._telling:
            if self._waiting:
                await self._next(is_last=True)

    async def _next(self, *, is_last: bool = False) -> None:
        text, self._waiting = self._waiting, ""
        if not is_last and len(text) > PIECE_MAX_BYTES:
            text, self._waiting = text[:PIECE_MAX_BYTES], text[PIECE_MAX_BYTES:]
        if not self._waiting:
            self._woken.clear()
            if self._dropped:
                text += f"\n[... {self._dropped} characters left out ...]\n"
                self._dropped = 0
        if not text:
            await self._tell(None, None)
            return
        self._number += 1
        await self._tell(cut(text, PIECE_MAX_BYTES), self._number)


def _size(text: str) -> int:
    return len(msgspec.json.encode(text)) - 2
