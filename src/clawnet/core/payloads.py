"""Admits an event's data: after this, the bytes may be spliced into any frame.

Only valid UTF-8 JSON within bounds, without CR, LF or TAB bytes, passes.
Otherwise one publisher could forge frames for others (a raw newline ends a
frame on line-based doors) or poison a channel for good (a value that some
reader's parser cannot take).
"""

from __future__ import annotations

import re

import msgspec

from clawnet.core.errors import InvalidData, PayloadTooLarge

DEPTH_MAX = 64
DATA_MAX_BYTES = 65_536

_LONG_DIGITS = re.compile(rb"[0-9]{300,}")
_BETWEEN_TOKENS = b"\r\n\t"


def admit(raw: bytes, *, max_bytes: int = DATA_MAX_BYTES) -> str:
    """The data as JSON text that is safe to splice.

    Raises InvalidData for what is no JSON, not UTF-8, deeper than 64 levels
    or holds a number outside the range of a double, and PayloadTooLarge.
    """
    if len(raw) > max_bytes:
        raise PayloadTooLarge(
            f"The data has {len(raw)} bytes; {max_bytes} are allowed.", limit_bytes=max_bytes
        )
    try:
        # Depth is bounded before decoding: the count of openers is an upper bound for it.
        if raw.count(b"[") + raw.count(b"{") > DEPTH_MAX and _depth(raw) > DEPTH_MAX:
            raise InvalidData(f"The data is nested deeper than {DEPTH_MAX} levels.")
        msgspec.json.decode(raw)
        text = raw.decode("utf-8")
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidData(f"The data is not admissible JSON: {_reason(error)}.") from None
    if len(raw) >= 300 and _LONG_DIGITS.search(raw):
        _refuse_huge_numbers(raw)
    if b"\n" in raw or b"\r" in raw or b"\t" in raw:
        # Inside a JSON string such bytes are invalid, so these stand between tokens.
        text = raw.translate(None, _BETWEEN_TOKENS).decode("utf-8")
    return text


def _reason(error: Exception) -> str:
    if isinstance(error, msgspec.DecodeError):
        return str(error).rstrip(".")
    return "it is not valid UTF-8" if isinstance(error, UnicodeError) else "it is nested too deep"


def _depth(raw: bytes) -> int:
    """The nesting depth of JSON text, brackets inside strings left out."""
    depth = deepest = 0
    in_string = is_escaped = False
    for byte in raw:
        if in_string:
            if is_escaped:
                is_escaped = False
            elif byte == 0x5C:
                is_escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in (0x5B, 0x7B):
            depth += 1
            deepest = max(deepest, depth)
        elif byte in (0x5D, 0x7D):
            depth -= 1
    return deepest


def _refuse_huge_numbers(raw: bytes) -> None:
    def check(value: object) -> None:
        if isinstance(value, bool):
            return
        if isinstance(value, int):
            try:
                float(value)
            except OverflowError:
                raise InvalidData(
                    "The data holds a number outside the range of a double."
                ) from None
        elif isinstance(value, list):
            for item in value:
                check(item)
        elif isinstance(value, dict):
            for item in value.values():
                check(item)

    check(msgspec.json.decode(raw))
