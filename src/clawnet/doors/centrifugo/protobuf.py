"""Centrifugo's protocol in protobuf: one table of fields, and varint code driven by it.

Field numbers are those of centrifugal/protocol (definitions/client.proto). Messages stand behind
their length, several in a frame. As in every proto3 reader, unknown fields are passed over, a field
that comes twice holds its last value, and what is zero is left out. What cannot be read is a
BadCommand. `data` and `info` are bytes here and JSON by meaning: they are passed on as they came,
and whoever stores them refuses what is no JSON (the hub's publish does, which the client is told
as error 107).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from clawnet.doors.centrifugo.schema import (
    BOOL,
    INT32,
    INT64,
    JSON,
    NOTED,
    TABLE,
    TEXT,
    UINT32,
    UINT64,
    Kind,
    Many,
    Map,
)
from clawnet.doors.centrifugo.wire import (
    COMMANDS_MAX,
    BadCommand,
    Command,
    Publication,
    Push,
    Reply,
)

T = TypeVar("T", bound=msgspec.Struct)

VARINT_MAX_BYTES = 10
FIELDS_MAX = 1_024
"""Of one command, with those of the messages inside: they may be empty, and each takes its time.
A connect that asks for as many subscriptions as it may has about 900."""
_TAG_MAX = 2**32 - 1
_U32, _U64 = 2**32 - 1, 2**64 - 1

_PUSH_OF_REPLY = b"\x22"
"""Field 4 of Reply, which wire.Reply has not: a push is said by itself."""


class ProtobufEncoding:
    """Implements wire.Encoding. `framing` makes a transport's frame of messages with their
    lengths; a unidirectional transport is given the push itself, without the Reply around it."""

    def __init__(self, framing: Callable[[bytes], bytes], is_uni: bool = False) -> None:
        self.key = f"protobuf-{framing.__name__}{'-uni' if is_uni else ''}"
        self.is_uni = is_uni
        self._framing = framing

    def decode(self, message: bytes) -> list[Command]:
        """All commands of a message at once. Raises BadCommand."""
        return decode_commands(message)

    def split(self, message: bytes) -> list[bytes] | Iterator[bytes]:
        """What stands behind each length. Raises BadCommand, also later."""
        return split(message)

    def command(self, piece: bytes) -> Command:
        """The command in a piece. Raises BadCommand."""
        return decode(Command, piece) if piece else _PONG

    def reply(self, reply: Reply) -> bytes:
        return self._framing(delimited(encode(reply)))

    def push(self, push: Push) -> bytes:
        body = encode(push)
        if not self.is_uni:
            body = _PUSH_OF_REPLY + varint(len(body)) + body
        return self._framing(delimited(body))

    def publication(self, channel: str, publication: Publication) -> bytes:
        """push() of a publication; the hot path."""
        pub = encode_publication(publication)
        name = channel.encode()
        body = b"\x12%b%b\x22%b%b" % (varint(len(name)), name, varint(len(pub)), pub)
        if not self.is_uni:
            body = b"\x22%b%b" % (varint(len(body)), body)
        return self._framing(varint(len(body)) + body)


# --- writing ------------------------------------------------------------------

_ONE = tuple(bytes((number,)) for number in range(0x80))


def varint(number: int) -> bytes:
    """An unsigned number, seven bits a byte, the lowest first."""
    if number < 0x80:
        return _ONE[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def delimited(body: bytes) -> bytes:
    """A message behind its length."""
    return varint(len(body)) + body


def encode(value: msgspec.Struct) -> bytes:
    """A message of the table."""
    return _encode(type(value), value)


def _encode(of: type[msgspec.Struct], value: msgspec.Struct) -> bytes:
    out: list[bytes] = []
    for name, write in _WRITERS[of]:
        held = getattr(value, name)
        # None, zero, false, "", no entries; a message and a Raw are always true.
        if held:
            write(out, held)
    return b"".join(out)


def encode_publication(publication: Publication) -> bytes:
    """encode() of a publication without a look-up for each field."""
    data = bytes(publication.data)
    out = b"\x22%b%b" % (varint(len(data)), data) if data else b""
    if publication.info is not None:
        info = encode(publication.info)
        out += b"\x2a%b%b" % (varint(len(info)), info)
    if publication.offset:
        out += b"\x30" + varint(publication.offset)
    if publication.tags:
        rest: list[bytes] = []
        _write_tags(rest, publication.tags)
        out += b"".join(rest)
    if publication.delta:
        out += b"\x40\x01"
    if publication.time:
        out += b"\x48" + varint(publication.time & _U64)
    if publication.channel:
        name = publication.channel.encode()
        out += b"\x52%b%b" % (varint(len(name)), name)
    if publication.epoch:
        epoch = publication.epoch.encode()
        out += b"\x72%b%b" % (varint(len(epoch)), epoch)
    return out


Write = Callable[[list[bytes], Any], None]


def _number_writer(number: int) -> Write:
    tag = varint(number << 3)

    def write(out: list[bytes], value: int) -> None:
        # A negative number is its two's complement of 64 bits.
        out += (tag, varint(value & _U64))

    return write


def _bytes_writer(number: int, of: Callable[[Any], bytes]) -> Write:
    tag = varint(number << 3 | 2)

    def write(out: list[bytes], value: Any) -> None:
        body = of(value)
        out += (tag, varint(len(body)), body)

    return write


def _json_writer(number: int) -> Write:
    write_bytes = _bytes_writer(number, bytes)

    def write(out: list[bytes], value: Raw) -> None:
        if bytes(value):
            write_bytes(out, value)

    return write


def _noted_writer(number: int) -> Write:
    write_empty = _bytes_writer(number, lambda _: b"")

    def write(out: list[bytes], value: Raw) -> None:
        if bytes(value):
            write_empty(out, value)

    return write


def _many_writer(number: int, of: Callable[[Any], bytes]) -> Write:
    write_one = _bytes_writer(number, of)

    def write(out: list[bytes], values: list[Any]) -> None:
        for value in values:
            write_one(out, value)

    return write


def _map_writer(number: int, of: Callable[[Any], bytes]) -> Write:
    tag = varint(number << 3 | 2)

    def write(out: list[bytes], entries: dict[str, Any]) -> None:
        for key, value in entries.items():
            name, body = key.encode(), of(value)
            entry = b"\x0a%b%b\x12%b%b" % (varint(len(name)), name, varint(len(body)), body)
            out += (tag, varint(len(entry)), entry)

    return write


def _body_of(kind: type[msgspec.Struct] | str) -> Callable[[Any], bytes]:
    if isinstance(kind, str):
        return str.encode
    return encode_publication if kind is Publication else partial(_encode, kind)


def _writer(number: int, kind: Kind) -> Write:
    if isinstance(kind, Many):
        return _many_writer(number, _body_of(kind.of))
    if isinstance(kind, Map):
        return _map_writer(number, _body_of(kind.to))
    if kind is JSON:
        return _json_writer(number)
    if kind is TEXT or not isinstance(kind, str):
        return _bytes_writer(number, _body_of(kind))
    if kind is NOTED:
        return _noted_writer(number)
    return _number_writer(number)


_WRITERS = {
    of: tuple((name, _writer(number, kind)) for number, name, kind in fields)
    for of, fields in TABLE.items()
}
_write_tags = _writer(7, Map(TEXT))


# --- reading ------------------------------------------------------------------


def decode_commands(message: bytes) -> list[Command]:
    """The commands of one message, in order. Raises BadCommand, also for an empty one."""
    return [decode(Command, piece) if piece else _PONG for piece in split(message)]


def split(message: bytes) -> list[bytes] | Iterator[bytes]:
    """What stands behind each length; what stands alone in a list. Raises BadCommand."""
    end = len(message)
    if not end:
        raise BadCommand("an empty message")
    start, stop = _span(message, 0, end)
    return [message[start:stop]] if stop == end else _pieces(message)


def _pieces(message: bytes) -> Iterator[bytes]:
    """Not all at once: there may be thousands. Raises BadCommand."""
    at, end, count = 0, len(message), 0
    while at < end:
        count += 1
        if count > COMMANDS_MAX:
            raise BadCommand("too many commands")
        start, at = _span(message, at, end)
        yield message[start:at]


class _Left:
    """How many fields may still come."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields = FIELDS_MAX

    def take(self) -> None:
        self.fields -= 1
        if self.fields < 0:
            raise BadCommand("too many fields")


def decode(of: type[T], message: bytes, at: int = 0, end: int | None = None) -> T:
    """A message that clients say: the whole of `message` or a part of it. Raises BadCommand."""
    return _decode(of, message, at, len(message) if end is None else end, _Left())


def _decode(of: type[T], message: bytes, at: int, end: int, left: _Left) -> T:
    fields = _READERS[of]
    values: dict[str, Any] = {}
    while at < end:
        left.take()
        tag = message[at]
        if tag < 0x80:
            at += 1
        else:
            tag, at = _varint(message, at, end)
        field = fields.get(tag)
        if field is None:
            at = _skip(tag, message, at, end)
        elif tag & 7:
            start, at = _span(message, at, end)
            name, read = field
            read(values, name, message, start, at, left)
        else:
            number, at = _varint(message, at, end)
            name, read = field
            values[name] = read(number)
    return of(**values)


def _varint(message: bytes, at: int, end: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = 0
    for shift in range(0, 7 * VARINT_MAX_BYTES, 7):
        if at >= end:
            raise BadCommand("a number is cut off")
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & _U64, at
    raise BadCommand("a number is too long")


def _span(message: bytes, at: int, end: int) -> tuple[int, int]:
    """Where what stands behind its length begins and ends."""
    length, start = _varint(message, at, end)
    if length > end - start:
        raise BadCommand("a length reaches beyond the end")
    return start, start + length


def _skip(tag: int, message: bytes, at: int, end: int) -> int:
    """Past a field that nobody knows, or whose type is not the known one's."""
    if not 8 <= tag <= _TAG_MAX:
        raise BadCommand("a field has no number that can be")
    match tag & 7:
        case 0:
            return _varint(message, at, end)[1]
        case 2:
            return _span(message, at, end)[1]
        case 1:
            at += 8
        case 5:
            at += 4
        case _:
            # Groups, which no proto3 schema has.
            raise BadCommand("a field has an unknown type")
    if at > end:
        raise BadCommand("a field is cut off")
    return at


_NUMBERS: dict[str, Callable[[int], Any]] = {
    UINT32: lambda number: number & _U32,
    UINT64: lambda number: number,
    INT32: lambda number: ((number + 2**31) & _U32) - 2**31,
    INT64: lambda number: ((number + 2**63) & _U64) - 2**63,
    BOOL: bool,
}


def _text(message: bytes, start: int, end: int) -> str:
    try:
        return message[start:end].decode()
    except UnicodeDecodeError:
        raise BadCommand("text is not UTF-8") from None


_THERE = Raw(b"true")


def _value(kind: Kind, message: bytes, start: int, end: int, left: _Left) -> Any:
    if kind is TEXT:
        return _text(message, start, end)
    if kind is JSON:
        return Raw(message[start:end])
    if kind is NOTED:
        return _THERE
    assert isinstance(kind, type), "what stands behind its length is text, bytes or a message"
    return _decode(kind, message, start, end, left)


def _reader(kind: Kind) -> Callable[..., Any]:
    if isinstance(kind, str) and kind in _NUMBERS:
        return _NUMBERS[kind]

    if isinstance(kind, Map):
        to = kind.to

        def put(
            values: dict[str, Any], name: str, message: bytes, start: int, end: int, left: _Left
        ) -> None:
            key, value = _entry(to, message, start, end, left)
            values.setdefault(name, {})[key] = value

        return put

    def set_(
        values: dict[str, Any], name: str, message: bytes, start: int, end: int, left: _Left
    ) -> None:
        values[name] = _value(kind, message, start, end, left)

    return set_


def _entry(
    kind: type[msgspec.Struct] | str, message: bytes, at: int, end: int, left: _Left
) -> tuple[str, Any]:
    key = ""
    value: Any = None
    while at < end:
        left.take()
        tag, at = _varint(message, at, end)
        if tag == 0x0A:
            start, at = _span(message, at, end)
            key = _text(message, start, at)
        elif tag == 0x12:
            start, at = _span(message, at, end)
            value = _value(kind, message, start, at, left)
        else:
            at = _skip(tag, message, at, end)
    return key, _value(kind, b"", 0, 0, left) if value is None else value


_READERS = {
    of: {
        number << 3 | (0 if isinstance(kind, str) and kind in _NUMBERS else 2): (
            name,
            _reader(kind),
        )
        for number, name, kind in fields
    }
    for of, fields in TABLE.items()
    # What has members that must be there is in answers alone, which nobody reads here.
    if not any(field.required for field in msgspec.structs.fields(of))
    and not any(isinstance(kind, Many) for _, _, kind in fields)
}
_PONG = Command()
