"""Request bodies: bounded while they are read, of the right media type, decoded strictly."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from starlette.types import Receive

from clawnet.core import payloads
from clawnet.core.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType

CALL_MAX_BYTES = 65_536
"""For the bodies of calls; publishes have their own limits."""
ENVELOPE_MAX_BYTES = 8_192
"""What a publish's body may have beside its data: type, keys, spacing."""
DISCARD_MAX_BYTES = 4_194_304
DISCARD_MAX_S = 5.0
INTEGER_MAX = 2**53 - 1

_MESSAGE_MAX_CHARS = 300
_SIMPLER = "Send each member once, and no number with an exponent of three digits there."

T = TypeVar("T")


class ClientGone(Exception):
    """The client left before its request was whole; there is nobody to answer."""


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], *, max_bytes: int) -> bytes:
    """The whole body. Raises PayloadTooLarge without keeping more than `max_bytes`, ClientGone."""
    declared = headers.get(b"content-length")
    # The parser admits digits only; ten of them are too many in any case.
    if declared is not None and (len(declared) > 10 or int(declared) > max_bytes):
        if b"expect" not in headers:
            await _discard(receive)
        raise _too_large(max_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        piece: bytes = message.get("body", b"")
        is_last = not message.get("more_body", False)
        size += len(piece)
        if size > max_bytes:
            parts.clear()
            if not is_last:
                await _discard(receive)
            raise _too_large(max_bytes)
        if is_last:
            return b"".join([*parts, piece]) if parts else piece
        parts.append(piece)


async def _discard(receive: Receive) -> None:
    """Let a client finish what is too large anyway, within bounds.

    A connection closed with unread bytes is reset, and the reset may overtake
    the answer that says why.
    """
    size = 0
    try:
        async with asyncio.timeout(DISCARD_MAX_S):
            while size < DISCARD_MAX_BYTES:
                message = await receive()
                if message["type"] != "http.request":
                    raise ClientGone
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The body is larger than the {max_bytes} bytes that this route takes.",
        limit_bytes=max_bytes,
    )


def need_json(headers: Mapping[bytes, bytes]) -> None:
    """Raises UnsupportedMediaType unless the body is declared to be JSON (in UTF-8).

    A missing type is refused too: pages of other sites can send that without asking first.
    """
    given = headers.get(b"content-type")
    if given == b"application/json":
        return
    if given is not None:
        kind, *parameters = given.lower().split(b";")
        charsets = [p.strip() for p in parameters if p.strip().startswith(b"charset=")]
        good = {b"charset=utf-8", b'charset="utf-8"', b"charset=utf8"}
        if kind.strip() == b"application/json" and good.issuperset(charsets):
            return
    shown = "none" if given is None else ascii(given[:80].decode("latin-1"))
    raise UnsupportedMediaType(
        f"This route takes application/json; the body's content type is {shown}.",
        next="Send Content-Type: application/json, or use POST /pub/{channel} for plain text.",
    )


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode a body. Raises BadRequest that names the member that does not fit."""
    if payloads.is_laden(body):
        raise BadRequest("The body holds too many huge numbers outside of its data.", next=_SIMPLER)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BadRequest(f"The body does not fit: {_reason(error)}.") from None
    except RecursionError:
        raise BadRequest("The body is nested too deep.") from None
    except (msgspec.DecodeError, UnicodeError) as error:
        if not body.strip():
            raise BadRequest("The body is empty.", next="Send a JSON object.") from None
        raise BadRequest(f"The body is not JSON: {_reason(error)}.") from None


def check_numbers(value: object, *, at: str = "") -> None:
    """Raises BadRequest for an integer that JSON cannot carry exactly. For decoded calls.

    Bounds by meaning are the hub's; this keeps numbers away that no arithmetic expects.
    """
    if isinstance(value, bool | msgspec.Raw):
        return
    if isinstance(value, int | float):
        if not -INTEGER_MAX <= value <= INTEGER_MAX:
            raise BadRequest(f"The body does not fit: {at or 'a number'} is out of range.")
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            check_numbers(getattr(value, name), at=name)
    elif isinstance(value, list):
        for item in value:
            check_numbers(item, at=at)


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "it is not valid UTF-8"
    text = str(error).rstrip(".")
    return text if len(text) <= _MESSAGE_MAX_CHARS else text[: _MESSAGE_MAX_CHARS - 3] + "..."
