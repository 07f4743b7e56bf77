"""JSON Schema on this machine: the same rules by which a hub checks what is published.

A schema may be somebody else's: patterns run in linear time, nothing is fetched, and what is told
of a failure is bounded.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from clawnet.core.errors import InvalidData

ERRORS_MAX = 20
MESSAGE_MAX = 300
_PATTERN_MAX_BYTES = 1_000_000


class Failure(NamedTuple):
    """What is wrong with a value: `path` is dotted, "" for the whole of it."""

    path: str
    message: str


def parse(text: str, what: str) -> Any:
    """A JSON value. `what` begins the sentence if it is none. Raises InvalidData."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise InvalidData(f"{what} is nested too deeply.") from None
    except ValueError as error:
        raise InvalidData(
            f"{what} is not JSON: {error}.", next="Text is JSON in double quotes only."
        ) from None


def check(value: Any, schema: Any) -> list[Failure]:
    """What a Draft 2020-12 schema has against a value, ERRORS_MAX at most. Raises InvalidData."""
    import jsonschema_rs

    try:
        validator = jsonschema_rs.validator_for(
            schema,
            offline=True,
            pattern_options=jsonschema_rs.RegexOptions(size_limit=_PATTERN_MAX_BYTES),
        )
    except (ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0][:MESSAGE_MAX]
        raise InvalidData(
            f"The schema is no JSON Schema: {reason}", next="Correct the schema."
        ) from None
    found: list[Failure] = []
    for wrong in validator.iter_errors(value):
        path = ".".join(str(step) for step in wrong.instance_path)
        found.append(Failure(path, wrong.message[:MESSAGE_MAX]))
        if len(found) == ERRORS_MAX:
            break
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number of JSON")
