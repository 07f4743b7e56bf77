"""The codec: Engine.IO 4 payloads and Socket.IO 5 packets, as bytes. Pure; nothing is sent here.

An Engine.IO message is one of these, whole on a WebSocket, joined by \\x1e in a polled body:
`0{…}` open, `1` close, `2` ping, `3` pong, `4…` a Socket.IO packet, `5` upgrade, `6` noop.
A Socket.IO packet is `<type>[<attachments>-][<namespace>,][<id>][<JSON>]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from clawnet.core import payloads
from clawnet.doors.ws.frames import text_frame

SEPARATOR = b"\x1e"

CLOSE, PING, PONG, UPGRADE, NOOP = b"1", b"2", b"3", b"5", b"6"
PROBE, PROBED = b"2probe", b"3probe"

CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR, BINARY_EVENT, BINARY_ACK = range(7)

PING_FRAME = text_frame(PING)
DISCONNECT_FRAME = text_frame(b"41")
NOOP_FRAME = text_frame(NOOP)
PROBED_FRAME = text_frame(PROBED)

PAYLOAD_MESSAGES_MAX = 16
"""python-engineio takes no polled body with more, and leaves its session. What it sends itself may
hold any number."""
LADEN_MIN_BYTES = payloads.DATA_MAX_BYTES + 8_192
"""Larger packets than an event's data may not be full of numbers that take long to read."""
ATTACHMENTS_MAX = 16
EVENT_NAME_MAX_CHARS = 200
RESERVED = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
)
"""Names that clients give their own events; none of them is ever sent."""

# The id is bounded because Python takes long for numbers of thousands of digits; what the hub and
# the clients count stays below 2**53. A namespace without a comma ends the packet.
_PACKET = re.compile(
    rb"([0-6])(?:([0-9]{1,3})-)?(?:(/[!-+\--~]{0,99})(?:,|\Z))?([0-9]{1,16})?", re.DOTALL
)

_encode = msgspec.json.Encoder(enc_hook=str).encode


class BadPacket(Exception):
    """What came is no packet of the protocol. The text says why, without quoting it."""


class Packet(NamedTuple):
    """A Socket.IO packet whose JSON is not read yet."""

    type: int
    namespace: str
    id: int | None
    data: bytes
    attachments: int


def parse(message: bytes) -> Packet:
    """Take a Socket.IO packet apart (behind the `4`). Raises BadPacket."""
    found = _PACKET.match(message)
    if found is None:
        raise BadPacket("no Socket.IO packet")
    type_, attachments, namespace, id_ = found.groups()
    kind = int(type_)
    is_binary = kind in (BINARY_EVENT, BINARY_ACK)
    if is_binary is not (attachments is not None):
        raise BadPacket("a number of attachments where none belongs, or none where one does")
    count = 0 if attachments is None else int(attachments)
    if count > ATTACHMENTS_MAX:
        raise BadPacket("too many attachments")
    name = "/" if namespace is None else namespace.decode("ascii").partition("?")[0]
    data = message[found.end() :]
    return Packet(kind, name, None if id_ is None else int(id_), data, count)


def value_of(data: bytes) -> Any:
    """The JSON of a packet; None where there is none. Raises BadPacket."""
    if not data:
        return None
    try:
        if payloads.has_slow_numbers(data):
            # Measured: a megabyte of 1e308 takes 200 ms, and nothing that is taken is so large.
            if len(data) > LADEN_MIN_BYTES and payloads.is_laden(data):
                raise BadPacket("too many huge numbers")
            payloads.check(data)
        return payloads.value_of(data)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise BadPacket("the packet's data are no JSON") from None


def args_of(data: bytes) -> list[Any]:
    """The arguments of an event or an acknowledgement. Raises BadPacket."""
    if data == b"[]":
        return []
    args = value_of(data)
    if not isinstance(args, list):
        raise BadPacket("the packet's data are no list")
    return args


def event_of(data: bytes) -> tuple[str, list[Any]]:
    """The name of an event and its arguments. Raises BadPacket."""
    args = args_of(data)
    name = args[0] if args else None
    if not isinstance(name, str) or len(name) > EVENT_NAME_MAX_CHARS or name in RESERVED:
        raise BadPacket("the event has no name")
    return name, args[1:]


def messages_of(payload: bytes) -> Iterator[bytes]:
    """The Engine.IO messages of a polled body, one by one: a megabyte may hold half a million."""
    at = 0
    while True:
        end = payload.find(SEPARATOR, at)
        if end < 0:
            yield payload[at:]
            return
        yield payload[at:end]
        at = end + 1


def bounds(frames: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """Where each of some joined, unmasked frames starts, and its payload starts and ends."""
    at = 0
    while at < len(frames):
        length = frames[at + 1]
        start = at + 2
        if length == 126:
            start = at + 4
            length = int.from_bytes(frames[at + 2 : start], "big")
        elif length == 127:
            start = at + 10
            length = int.from_bytes(frames[at + 2 : start], "big")
        yield at, start, start + length
        at = start + length


def payload_of(frames: bytes | memoryview) -> tuple[bytes, int]:
    """A polled body of what was meant for a WebSocket (whole, unmasked text frames), unwrapped and
    joined; and where the frames begin that it has no room for."""
    found = list(islice(bounds(frames), PAYLOAD_MESSAGES_MAX))
    body = SEPARATOR.join([frames[start:end] for _, start, end in found])
    return body, found[-1][2] if found else 0


def opened(
    sid: str, *, upgrades: list[str], ping_s: float, timeout_s: float, max_bytes: int
) -> bytes:
    """The message that begins an Engine.IO session."""
    return b"0" + _encode(
        {
            "sid": sid,
            "upgrades": upgrades,
            "pingInterval": round(ping_s * 1_000),
            "pingTimeout": round(timeout_s * 1_000),
            "maxPayload": max_bytes,
        }
    )


def entered(sid: str) -> bytes:
    """The frame that lets a client in."""
    return text_frame(b"40" + _encode({"sid": sid}))


def refused(message: str, *, namespace: str = "/", data: Any = None) -> bytes:
    """The frame of a CONNECT_ERROR."""
    said = {"message": message} if data is None else {"message": message, "data": data}
    where = b"" if namespace == "/" else namespace.encode("ascii") + b","
    return text_frame(b"44%b%b" % (where, _encode(said)))


def event(name: str, args: tuple[Any, ...], id: int | None = None) -> bytes:
    """The frame of an event."""
    number = b"" if id is None else b"%d" % id
    return text_frame(b"42%b%b" % (number, _encode([name, *args])))


def ack(id: int, value: Any) -> bytes:
    """The frame that answers an event."""
    return text_frame(b"43%d%b" % (id, _encode([value])))
