"""A JSON Schema that an agent advertised: checked, compiled, and asked within bounds.

By jsonschema-rs: Draft 2020-12, patterns in linear time, nothing fetched. It holds the
interpreter while it works, so what it may be asked is bounded beforehand (cost.py).
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any

import jsonschema_rs
import msgspec

from clawnet.core import payloads
from clawnet.core.calls.adverts import SCHEMA_MAX_BYTES
from clawnet.core.errors import ClawError, PayloadTooLarge, Refused
from clawnet.features.adverts.cost import Bound, bound_in_turns, bound_of, refuse

UNITS_MAX = 500_000
"""Of the bound's units: 5 ms if the worst came true; what is usual takes 10 µs."""
USUAL_VALUES, USUAL_CHARS = 100, 2_048
"""An event of this size must be possible with a schema."""
REGEX_MAX_BYTES = 250_000
ERRORS_MAX = 20
ERROR_MAX_CHARS = 300
REPORT_INLINE_MAX_NS = 2_000_000
REPORT_MAX_NS = 200_000_000
_ERROR_NS = 10_000
_ERROR_NS_PER_BYTE = 10
"""Measured: an error takes 8 µs and a copy of the data and of the keyword; all are made at once."""

_REGEX = jsonschema_rs.RegexOptions(size_limit=REGEX_MAX_BYTES, dfa_size_limit=REGEX_MAX_BYTES)


class Problem(msgspec.Struct, frozen=True):
    """What does not fit, and where: a JSON pointer, "" for the whole."""

    path: str
    message: str


class Schema:
    """A compiled schema. Raises BadRequest, PayloadTooLarge for text that cannot be one."""

    @classmethod
    async def of(cls, text: str | bytes) -> Schema:
        """Schema(text), with the loop's other work between.

        What is left at once is compiling, 5 ms at most; it holds the interpreter, so that a
        thread would not help.
        """
        return cls(text, await bound_in_turns(_read(text)[1]))

    def __init__(self, text: str | bytes, bound: Bound | None = None) -> None:
        self.text, schema = _read(text)
        self.bound = bound_of(schema) if bound is None else bound
        if self.bound.units(values=USUAL_VALUES, chars=USUAL_CHARS) > UNITS_MAX:
            raise refuse("it is too much work to check an event by it")
        try:
            # offline: a reference to elsewhere is refused above, and never followed in any case.
            self._validator = jsonschema_rs.Draft202012Validator(
                schema, pattern_options=_REGEX, offline=True
            )
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            raise refuse(_cut(getattr(error, "message", str(error)))) from None

    def admits(self, data: str) -> bool:
        """Whether admitted JSON text satisfies it. Raises Refused for what is too much work."""
        if self.bound.units(values=_values(data), chars=len(data)) > UNITS_MAX:
            raise Refused(
                "The event is too large to be checked by its channel's schema.",
                next="Publish less at once, or have the channel's owner advertise a simpler one.",
            )
        return bool(self._validator.is_valid(payloads.value_of(data)))

    async def problems(self, data: str) -> list[Problem]:
        """Why data does not satisfy it: the first of the reasons."""
        # The library makes every error before it gives the first one.
        errors_max = max(_values(data) * self.bound.looking, 1)
        cost_ns = errors_max * (_ERROR_NS + _ERROR_NS_PER_BYTE * (len(data) + len(self.text)))
        if cost_ns > REPORT_MAX_NS:
            return [Problem("", "does not satisfy the channel's schema")]
        if cost_ns > REPORT_INLINE_MAX_NS:
            return await asyncio.to_thread(self._problems, data)
        return self._problems(data)

    def _problems(self, data: str) -> list[Problem]:
        errors = self._validator.iter_errors(payloads.value_of(data))
        return [
            Problem(_pointer(error.instance_path), _cut(error.message))
            for error in islice(errors, ERRORS_MAX)
        ]


def _read(text: str | bytes) -> tuple[str, dict[str, Any] | bool]:
    """The text as it is kept, and what it says."""
    raw = text.encode() if isinstance(text, str) else text
    if len(raw) > SCHEMA_MAX_BYTES:
        raise PayloadTooLarge(
            f"schema too large (max {SCHEMA_MAX_BYTES} bytes)", limit_bytes=SCHEMA_MAX_BYTES
        )
    try:
        admitted = payloads.admit(raw, max_bytes=SCHEMA_MAX_BYTES)
    except ClawError as error:
        raise refuse(error.message.rstrip(".")) from None
    schema = payloads.value_of(admitted)
    if not isinstance(schema, dict | bool):
        raise refuse("a schema is an object or a boolean")
    return admitted, schema


def _values(data: str) -> int:
    """How many values JSON text holds at most: commas in strings are counted, too."""
    return 1 + data.count(",") + data.count("[") + data.count("{")


def _pointer(path: list[Any]) -> str:
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in path)
    return _cut("".join(f"/{part}" for part in parts))


def _cut(text: str) -> str:
    """One printable line of what somebody else wrote."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= ERROR_MAX_CHARS else line[: ERROR_MAX_CHARS - 3] + "..."
