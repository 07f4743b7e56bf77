"""Centrifugo's protocol in JSON: one object a line, payloads embedded as they are.

What comes in is bounded by the transport and decoded once into the types of wire.py. What goes
out never holds a line's end, since clients split at it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from clawnet.core.events import quote_name
from clawnet.doors.centrifugo.wire import (
    COMMANDS_MAX,
    BadCommand,
    Command,
    Publication,
    Push,
    Reply,
)

ID_MAX = 2**32 - 1

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Command).decode


class JsonEncoding:
    """Implements wire.Encoding. `framing` makes a transport's frame of one object; a
    unidirectional transport is given the push itself, without the member around it."""

    def __init__(self, framing: Callable[[bytes], bytes], is_uni: bool = False) -> None:
        self.key = f"json-{framing.__name__}{'-uni' if is_uni else ''}"
        self.is_uni = is_uni
        self.framing = framing

    def decode(self, message: bytes) -> list[Command]:
        """All commands of a message at once. Raises BadCommand."""
        return [self.command(line) for line in self.split(message)]

    def split(self, message: bytes) -> list[bytes]:
        """The lines of one message that hold something. Raises BadCommand if none does."""
        if b"\n" not in message:
            return [message]
        if message.count(b"\n") > COMMANDS_MAX:
            raise BadCommand("too many commands")
        lines = [line for line in message.split(b"\n") if line and not line.isspace()]
        if not lines:
            raise BadCommand("an empty message")
        return lines

    def command(self, piece: bytes) -> Command:
        """The command of one line. Raises BadCommand."""
        try:
            command = _decode(piece)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise BadCommand(str(error)) from None
        if not 0 <= command.id <= ID_MAX:
            raise BadCommand("an id out of range")
        return command

    def reply(self, reply: Reply) -> bytes:
        if reply.publish is not None:
            # The one that comes in thousands.
            return self.framing(b'{"id":%d,"publish":{}}' % reply.id)
        return self.framing(_in_one_line(_encode(reply)))

    def push(self, push: Push) -> bytes:
        body = _in_one_line(_encode(push))
        return self.framing(body if self.is_uni else b'{"push":%b}' % body)

    def publication(self, channel: str, publication: Publication) -> bytes:
        """push() of a publication; the hot path."""
        return self.framing(self.unframed(channel, publication))

    def unframed(self, channel: str, publication: Publication) -> bytes:
        """The same before its framing. The hub admitted its data without a line's end."""
        body = b'{"channel":%b,"pub":%b}' % (quote_name(channel).encode(), _encode(publication))
        return body if self.is_uni else b'{"push":%b}' % body


def _in_one_line(text: bytes) -> bytes:
    """Inside a JSON string such bytes are invalid, so these stand between tokens."""
    if b"\n" in text or b"\r" in text:
        return text.translate(None, b"\r\n")
    return text
