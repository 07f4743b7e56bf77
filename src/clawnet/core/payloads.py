"""Admits an event's data: after this, the bytes may be spliced into any frame.

Only valid UTF-8 JSON within bounds, without CR, LF or TAB bytes, passes.
Otherwise one publisher could forge frames for others (a raw newline ends a
frame on line-based doors) or poison a channel for good (a value that some
reader's parser cannot take).

Nor may one publisher keep the hub busy: msgspec takes up to 9 µs for one number at either end
of a double's range, and 100 ms for 64 KiB of them. So text that may hold such numbers goes
another way, on which Python's own float() reads them (value_of, check).
"""

from __future__ import annotations

import re
from array import array
from itertools import accumulate
from math import isfinite
from typing import Any

import msgspec

from clawnet.core.errors import InvalidData, PayloadTooLarge

DEPTH_MAX = 64
DATA_MAX_BYTES = 65_536

DIGITS_PLAIN_MAX = 19
"""msgspec reads a number of so many digits, with an exponent below 100, without big arithmetic.

Measured, ms for 64 KiB of one number again and again (msgspec alone; check):
1e308 98, 5; 5e-324 58, 5; 1.7976931348623157e308 28, 2; 2.2250738585072011e-308 18, 1;
1 and 309 zeros with .0 1.5, 0.2; 9007199254740993.0 1.2; 4,300 digits 1.2; {} 0.8; 1e-400 0.2, 7.
"""

LADEN_MIN_BYTES = 4_096
HUGE_MAX = 64
"""So many numbers with an exponent of three digits may stand outside of data: 0.6 ms."""

_SHOWN = bytes(
    0x30 if byte in b"0123456789." else 0x65 if byte in b"eE" else 0x20 for byte in range(256)
)
_MANY_DIGITS = b"0" * (DIGITS_PLAIN_MAX + 1)
_LARGE_EXPONENT = b"e000"
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+', re.DOTALL)
"""An end that is missing is the text's: so every byte is looked at once, whatever it is."""
_LONG_NUMBERS = re.compile(rb"(?<![-+.0-9eE])[-+.0-9eE]{309,}")
"""Tried at a number's first byte alone, or a row of shorter ones would be read 308 times."""
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_BETWEEN_TOKENS = b"\r\n\t"
_members_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_parts_of = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_GIVEN = frozenset(("data", "payload", "schema"))
_read = msgspec.json.decode
_read_slow_numbers = msgspec.json.Decoder(float_hook=float).decode


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
        if raw.count(b"[") + raw.count(b"{") > DEPTH_MAX and _is_too_deep(raw):
            raise InvalidData(f"The data is nested deeper than {DEPTH_MAX} levels.")
        check(raw)
        text = raw.decode("utf-8")
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidData(f"The data is not admissible JSON: {_reason(error)}.") from None
    if b"\n" in raw or b"\r" in raw or b"\t" in raw:
        # Inside a JSON string such bytes are invalid, so these stand between tokens.
        text = raw.translate(None, _BETWEEN_TOKENS).decode("utf-8")
    return text


def check(raw: bytes) -> None:
    """Raises msgspec.DecodeError, UnicodeError, RecursionError for what is no JSON text, or holds
    a number outside the range of a double."""
    if not has_slow_numbers(raw):
        _read(raw)
        return
    numbers: list[str] = []
    msgspec.json.Decoder(float_hook=numbers.append).decode(raw)
    # What has no fraction and no exponent is an integer for msgspec, of any size.
    long = _LONG_NUMBERS.findall(_STRINGS.sub(b"", raw)) if len(raw) > 308 else ()
    if not (all(map(isfinite, map(float, numbers))) and all(map(isfinite, map(float, long)))):
        raise msgspec.ValidationError("a number is outside the range of a double")


def value_of(data: str | bytes) -> Any:
    """The value of JSON text that was admitted."""
    raw = data.encode() if isinstance(data, str) else data
    return _read_slow_numbers(raw) if has_slow_numbers(raw) else _read(raw)


def has_slow_numbers(raw: bytes) -> bool:
    """Whether there may be numbers that take msgspec long: of many digits, or with an exponent
    of three; what only looks so, in a string, counts too."""
    # Measured: 0.6 µs for 150 bytes, 0.1 ms for 64 KiB; a regular expression takes ten times that.
    shown = raw.translate(_SHOWN, b"+-")
    return _MANY_DIGITS in shown or _LARGE_EXPONENT in shown


def is_laden(body: bytes) -> bool:
    """Whether a call's text holds so many numbers that take msgspec long, beside the data of its
    events, that it must not be decoded: again and again the same member, for instance.

    Of numbers, msgspec decodes those of typed members itself; data stays as it came.
    """
    if len(body) <= LADEN_MIN_BYTES or _huge(body) <= HUGE_MAX:
        return False
    bare = _huge_bare(body)
    if bare <= HUGE_MAX:
        return False
    try:
        call = _members_of(body)
        parts = [call, *_parts_of(call["events"])] if "events" in call else [call]
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return True
    given = sum(_huge_bare(bytes(part[name])) for part in parts for name in _GIVEN & part.keys())
    return bare - given > HUGE_MAX


def _huge(raw: bytes) -> int:
    return raw.translate(_SHOWN, b"+-").count(_LARGE_EXPONENT)


def _huge_bare(raw: bytes) -> int:
    """As _huge, strings left out."""
    return _huge(_STRINGS.sub(b"", raw))


def _reason(error: Exception) -> str:
    if isinstance(error, msgspec.DecodeError):
        return str(error).rstrip(".")
    return "it is not valid UTF-8" if isinstance(error, UnicodeError) else "it is nested too deep"


def _is_too_deep(raw: bytes) -> bool:
    """Whether JSON text is nested deeper than DEPTH_MAX, brackets inside strings left out."""
    # All in C: a loop over the bytes took 9 ms for 64 KiB.
    steps = array("b", _STRINGS.sub(b"", raw).translate(_STEPS, _NO_BRACKETS))
    return max(accumulate(steps), default=0) > DEPTH_MAX
