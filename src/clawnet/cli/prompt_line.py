"""A line that is being typed on a terminal, while others' lines come in above it. Pure.

Bytes of the keyboard go in, whole lines come out; what the terminal is to show is text. No
library: readline draws its line itself and knows nothing of what else is printed.
"""

from __future__ import annotations

import codecs
from typing import Literal, NamedTuple

from clawnet.cli.terminal import harmless

LINE_MAX_CHARS = 16_000
HISTORY_MAX = 100
_CLEAR = "\r\x1b[2K"

Kind = Literal["line", "typing", "end", "interrupt"]


class Key(NamedTuple):
    """Something that was typed: a whole line, a change of it, the end (Ctrl-D), Ctrl-C."""

    kind: Kind
    text: str = ""


class PromptLine:
    """Holds the line and says how it looks."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._escape = ""
        self._history: list[str] = []
        self._at = 0
        self.hint = ""
        """Beside the prompt: who types."""

    @property
    def text(self) -> str:
        return self._text

    def feed(self, raw: bytes) -> list[Key]:
        """Take what the keyboard gave."""
        found: list[Key] = []
        for char in self._decoder.decode(raw):
            key = self._take(char)
            if key is not None:
                found.append(key)
        return found

    def shown(self, *, columns: int) -> str:
        """The line as the terminal is to show it, over whatever stood in its place.

        Only its end is shown where it is wider than the terminal: a line that wraps could not be
        cleared again.
        """
        hint = f"({harmless(self.hint)}) " if self.hint else ""
        head = f"{harmless(self._prompt)} {hint}> "[: max(columns - 10, 4)]
        room = max(columns - len(head) - 1, 1)
        # Characters of two columns: half as many are sure to fit.
        text = harmless(self._text)
        fits = text[-room:] if text.isascii() else text[-max(room // 2, 1) :]
        return f"{_CLEAR}{head}{fits}"

    @staticmethod
    def cleared() -> str:
        """What makes room for a line above."""
        return _CLEAR

    def _take(self, char: str) -> Key | None:
        if self._escape:
            return self._escaped(char)
        if char == "\x1b":
            self._escape = char
            return None
        if char in "\r\n":
            return self._entered()
        if char == "\x03":
            return Key("interrupt")
        if char == "\x04":
            return None if self._text else Key("end")
        if char in "\x7f\x08":
            self._text = self._text[:-1]
        elif char == "\x15":
            self._text = ""
        elif char == "\x17":
            self._text = self._text.rstrip().rpartition(" ")[0]
            self._text += " " if self._text else ""
        elif char.isprintable() and len(self._text) < LINE_MAX_CHARS:
            self._text += char
        else:
            return None
        return Key("typing", self._text)

    def _escaped(self, char: str) -> Key | None:
        """Arrow keys walk the history; other sequences are passed over whole."""
        self._escape += char
        if self._escape in ("\x1b[", "\x1bO"):
            return None
        if self._escape.startswith(("\x1b[", "\x1bO")) and not "@" <= char <= "~":
            if len(self._escape) > 16:
                self._escape = ""
            return None
        last, self._escape = self._escape[-1], ""
        if last in "AB" and self._history:
            self._at = max(0, min(len(self._history), self._at + (-1 if last == "A" else 1)))
            self._text = self._history[self._at] if self._at < len(self._history) else ""
            return Key("typing", self._text)
        return None

    def _entered(self) -> Key:
        line, self._text = self._text, ""
        if line.strip():
            self._history = [*self._history, line][-HISTORY_MAX:]
        self._at = len(self._history)
        return Key("line", line)
