"""The protocol's types: what a client sends is never decoded beyond what they name."""

from __future__ import annotations

from typing import Any, get_type_hints

import msgspec
import pytest

from clawnet.doors.centrifugo import wire
from clawnet.doors.centrifugo.json import JsonEncoding

STRUCTS = sorted(
    (
        kind
        for kind in vars(wire).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    ),
    key=lambda kind: kind.__name__,
)


def _mentions_any(hint: Any) -> bool:
    return hint in (Any, object, float) or any(
        _mentions_any(part) for part in getattr(hint, "__args__", ())
    )


@pytest.mark.parametrize("kind", STRUCTS, ids=lambda kind: kind.__name__)
def test_no_member_takes_any_value_or_a_number_that_is_slow_to_decode(
    kind: type[msgspec.Struct],
) -> None:
    """A number such as 1e308 takes msgspec 9 µs, and a frame has room for ten thousand."""
    assert not [name for name, hint in get_type_hints(kind).items() if _mentions_any(hint)]


def test_a_filter_by_tags_is_noted_and_not_decoded() -> None:
    decode = JsonEncoding(bytes).decode
    (command,) = decode(b'{"id":1,"subscribe":{"channel":"a","tf":{"op":[1e308, 2]}}}')
    assert command.subscribe is not None
    assert bytes(command.subscribe.tf) == b'{"op":[1e308, 2]}'
