"""Schemas: what is refused before it is ever used, and that no pair of schema and data is slow.

Work is bounded beforehand by counting, so nothing here measures time but one test of the bound
itself, which allows for a slow machine.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawnet.core import payloads
from clawnet.core.errors import BadRequest, ClawError, Refused
from clawnet.features.adverts.cost import (
    CHAIN_MAX,
    DEPTH_MAX,
    DRAFT,
    LOOKING_MAX,
    PATTERNS_MAX,
    Bound,
    bound_in_turns,
    bound_of,
)
from clawnet.features.adverts.patterns import pattern_of
from clawnet.features.adverts.schema import UNITS_MAX, Schema


def schema(value: Any) -> Schema:
    return Schema(json.dumps(value))


def doubled(levels: int, last: Any) -> dict[str, Any]:
    """Each level refers twice to the next."""
    defs: dict[str, Any] = {
        f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]}
        for i in range(levels)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{levels}": last}}


def nested(levels: int) -> Any:
    """Each level looks at what the level before evaluated."""
    found: Any = {"patternProperties": {"^p": True}}
    for _ in range(levels):
        found = {"allOf": [found], "unevaluatedProperties": False}
    return found


REFUSED: dict[str, Any] = {
    "a number": 1,
    "an unknown type": {"type": "nothing"},
    "a remote reference": {"$ref": "http://example.com/schema.json"},
    "a file": {"$ref": "file:///etc/passwd"},
    "a relative reference": {"properties": {"a": {"$ref": "other.json#/a"}}},
    "the metaschema": {"$ref": DRAFT},
    "a hidden remote reference": {"$defs": {"a": {"$ref": "http://a.b"}}, "$ref": "#/$defs/a"},
    "another base": {"$defs": {"a": {"$id": "http://a.b/c", "type": "string"}}},
    "another draft": {"$schema": "http://json-schema.org/draft-07/schema#"},
    "a reference to nothing": {"$ref": "#/$defs/none"},
    "an anchor that is not there": {"$ref": "#none"},
    "an anchor twice": {"$defs": {"a": {"$anchor": "x"}, "b": {"$anchor": "x"}}},
    "itself": {"$ref": "#"},
    "a circle": {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}},
                 "$ref": "#/$defs/a"},
    "doubling in place": doubled(12, {"type": "string"}),
    "doubling at each level of the data": {
        "items": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}
    },
    "doubling by members": {
        "patternProperties": {"^a": {"$ref": "#"}, "a$": {"$ref": "#"}}
    },
    "what was evaluated, of what was evaluated": nested(8),
    "a huge enum": {"items": {"enum": list(range(5_000))}},
    "a dynamic reference": {"$dynamicAnchor": "n", "items": {"$dynamicRef": "#n"}},
    "a dynamic reference alone": {"items": {"$dynamicRef": "#"}},
    "a dynamic anchor": {"items": {"$dynamicAnchor": "n"}},
    "enums of objects": {"items": {"enum": [{"a": i} for i in range(900)]}},
    "depth": json.loads('{"not":' * 40 + "true" + "}" * 40),
    "looking back": {"pattern": r"(a)\1"},
    "looking ahead": {"pattern": "(?=a)b"},
    "a huge pattern": {"pattern": "((a{100}){100}){100}"},
    "a long pattern": {"pattern": "a" * 1_000},
    "many patterns": {"allOf": [{"pattern": f"a{i}"} for i in range(100)]},
    "a costly pattern": {"pattern": "(a|b)*a(a|b){200}c"},
}  # fmt: skip


@pytest.mark.parametrize("why", sorted(REFUSED))
def test_a_schema_that_could_stall_the_hub_or_leave_it_is_refused(why: str) -> None:
    with pytest.raises(BadRequest) as refused:
        schema(REFUSED[why])
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 500


@pytest.mark.parametrize("text", ["", "{", '{"a":1e999}', '"x"', "[" * 500, '{"a":"\\ud800"}'])
def test_what_is_no_schema_at_all_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        Schema(text)


ADMITTED: dict[str, tuple[Any, Any, Any]] = {
    "true": (True, {"any": 1}, None),
    "draft": ({"$schema": DRAFT, "type": "string"}, "x", 1),
    "its own id": ({"$id": "https://example.com/a", "$ref": "#/$defs/s", "$defs": {
        "s": {"type": "string"}}}, "x", 1),
    "anchor": ({"$ref": "#s", "$defs": {"x": {"$anchor": "s", "type": "string"}}}, "x", 1),
    "tree": (
        {"type": "object", "required": ["v"], "properties": {
            "v": {"type": "integer"}, "left": {"$ref": "#"}, "right": {"$ref": "#"}}},
        {"v": 1, "left": {"v": 2, "right": {"v": 3}}}, {"v": 1, "left": {"v": 2, "right": {}}},
    ),
    "json": (
        {"anyOf": [{"type": ["string", "number", "boolean", "null"]},
                   {"type": "array", "items": {"$ref": "#"}},
                   {"type": "object", "additionalProperties": {"$ref": "#"}}]},
        {"a": [1, {"b": None}]}, None,
    ),
    "unevaluated": (
        {"allOf": [{"properties": {"a": {"type": "string"}}}], "unevaluatedProperties": False},
        {"a": "x"}, {"b": 1},
    ),
    "conditions": (
        {"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"maxProperties": 1}},
        {"a": 1, "b": 2}, {"a": 1},
    ),
    "tuples": ({"prefixItems": [{"type": "string"}], "items": {"type": "integer"},
                "uniqueItems": True}, ["x", 1, 2], ["x", 1, 1]),
    "dependent": ({"dependentRequired": {"a": ["b"]}, "dependentSchemas": {
        "c": {"minProperties": 2}}}, {"c": 1, "d": 1}, {"c": 1}),
    "names": ({"propertyNames": {"pattern": "^[a-z_]+$"}}, {"ab": 1}, {"A": 1}),
    "a date": ({"pattern": r"^\d{4}-\d{2}-\d{2}$"}, "2026-11-21", "tomorrow"),
    "contains": ({"contains": {"const": 1}, "minContains": 2}, [1, 1], [1]),
    "multiples": ({"multipleOf": 0.01}, 1.25, 1.255),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(ADMITTED))
async def test_what_the_draft_says_is_enforced(what: str) -> None:
    told, good, bad = ADMITTED[what]
    made = schema(told)
    assert made.admits(json.dumps(good))
    if bad is not None:
        assert not made.admits(json.dumps(bad))
        problems = await made.problems(json.dumps(bad))
        assert problems
        assert all(problem.message for problem in problems)


async def test_no_more_than_twenty_problems_are_told() -> None:
    made = schema({"items": {"type": "string"}})
    problems = await made.problems(json.dumps([1] * 50))
    assert len(problems) == 20
    assert problems[3].path == "/3"


async def test_what_somebody_wrote_is_told_on_one_line_and_cut() -> None:
    made = schema({"properties": {"a\nb": {"const": 1}}})
    (problem,) = await made.problems(json.dumps({"a\nb": "x\n" * 1_000}))
    assert problem.path == "/a b"
    assert problem.message.isprintable()
    assert len(problem.message) <= 300


def test_data_that_would_take_long_is_refused_though_it_may_fit() -> None:
    made = schema({"items": {"enum": [[i] for i in range(100)]}})
    assert made.admits(json.dumps([[1]] * 10))
    with pytest.raises(Refused, match="too large"):
        made.admits(json.dumps([[1]] * 10_000))


async def test_problems_that_would_take_long_to_tell_are_told_in_one_sentence() -> None:
    made = schema({"items": {"enum": [str(i) for i in range(900)]}})
    (problem,) = await made.problems(json.dumps(["zz"] * 5_000))
    assert problem.path == ""


WORST: dict[str, tuple[Any, Any]] = {
    "many in place": (doubled(6, {"type": "string"}), "x"),
    "unevaluated": (nested(4), {f"p{i}": i for i in range(100)}),
    "items": ({"items": {"allOf": [{"type": "object", "maxProperties": 3}] * 20}}, [{}] * 5_000),
    "enum": ({"items": {"enum": [{"a": i} for i in range(60)]}}, [{"a": 59}] * 400),
    "pattern": ({"pattern": "(a|b)*a(a|b){14}c"}, "ab" * 4_000),
    "short": ({"items": {"pattern": "^[a-z]{20}-[a-z]{20}$"}}, ["a" * 20] * 200),
}


@pytest.mark.parametrize("what", sorted(WORST))
def test_the_bound_is_not_below_the_work(what: str) -> None:
    told, data = WORST[what]
    made = schema(told)
    text = json.dumps(data)
    try:
        made.admits(text)
    except Refused:
        return
    began = time.process_time()
    made.admits(text)
    # The bound promises 5 ms; a machine may be this much slower.
    assert time.process_time() - began < 0.1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
KEYWORDS = st.sampled_from(
    "$ref $id $schema $anchor $dynamicRef $dynamicAnchor $defs allOf anyOf oneOf not if then else "
    "items prefixItems contains properties patternProperties additionalProperties pattern enum "
    "propertyNames unevaluatedProperties unevaluatedItems dependentSchemas type required "
    "uniqueItems multipleOf minContains dependencies".split()
)
SCHEMAS = st.recursive(
    st.booleans() | JSON | st.sampled_from(["#", "#/$defs/a", "#/items", "#a", "(a|b)*c{9}"]),
    lambda inner: (
        st.dictionaries(KEYWORDS, inner | st.lists(inner, max_size=3), max_size=4)
        | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(told=SCHEMAS, data=JSON)
def test_whatever_is_sent_is_a_schema_or_refused(told: Any, data: Any) -> None:
    try:
        made = Schema(msgspec.json.encode(told))
    except ClawError as error:
        assert isinstance(error, BadRequest)
        return
    made.admits(msgspec.json.encode(data).decode())
    assert 0 < made.bound.root <= UNITS_MAX


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="ab\\{}[](),|*+?^$019pu", max_size=40))
def test_any_text_can_be_looked_at_as_a_pattern(text: str) -> None:
    assert pattern_of(text).atoms >= 1


@pytest.mark.parametrize(
    ("text", "atoms", "is_bounded"),
    [
        ("abc", 3, False),
        ("^abc$", 5, True),
        ("^a+$", 3, False),
        ("^(ab){3}$", 8, True),
        ("^(a{2}){3}", 7, True),
        (r"^\d{4}-\d{2}$", 9, True),
        ("^a{3,}", 5, False),
        ("^a|b", 3, False),
        ("^(a|b)$", 5, True),
        (r"[^\]]\p{Lu}", 2, False),
        ("a{2,5}", 5, False),
        ("^a{2,5}b?", 8, True),
        ("^a{3", 2, True),
        ("^a{x}", 2, True),
        ("[a[b]]c", 2, False),
        ("(a|b)(c", 4, False),
        (r"^\u{1F600}x", 3, True),
        ("^()", 2, True),
        ("", 1, False),
        ("((a{100}){100}){100}", 5_000, False),
    ],
)
def test_patterns_are_measured(text: str, atoms: int, is_bounded: bool) -> None:
    found = pattern_of(text)
    assert (found.atoms, found.is_bounded) == (atoms, is_bounded)


# --- what is counted ----------------------------------------------------------

COUNTED: dict[str, tuple[Any, Bound]] = {}


def counted(
    name: str, told: Any, *, root: int, each: int = 0, letter: int = 0, short: int = 0,
    short_letter: int = 0, looking: int,
) -> None:  # fmt: skip
    COUNTED[name] = told, Bound(root, each, letter, short, short_letter, looking)


ONE = {"const": 1}
THREE = {"enum": [1, 2, 3]}
NODE = {"n": {"items": {"$ref": "#/$defs/n"}}}
"""Weighs 2: itself, and a scalar to compare with."""

counted("nothing", {}, root=1, looking=1)
counted("a boolean", True, root=1, looking=1)
counted("keywords", {"minLength": 3, "type": ["a", "b"], "required": ["x"]}, root=5, looking=1)
counted("scalars", {"enum": ["a", 1, None]}, root=1 + 15 + 3, looking=1)
counted("containers", {"enum": [[2], {"b": 3}]}, root=1 + 15 + (15 + 1) + (15 + 2), looking=1)
counted("unique", {"uniqueItems": True}, root=1 + 64, looking=1)
counted("whole multiples", {"multipleOf": 5}, root=1 + 250, looking=1)
counted("multiples of a fraction", {"multipleOf": 0.5}, root=1 + 2_500, looking=1)
counted("a list in place", {"allOf": [ONE, ONE]}, root=1 + 2 + 2 * 2, looking=3)
counted(
    "one in place each", {"not": ONE, "if": ONE, "then": ONE, "else": ONE},
    root=1 + 4 * 1 + 4 * 2, looking=5,
)  # fmt: skip
counted(
    "dependent", {"dependentSchemas": {"a": ONE}, "dependencies": {"b": ["c"], "d": ONE}},
    root=1 + 1 + 2 + 2 * 2, looking=3,
)  # fmt: skip
counted(
    "a reference twice", {"allOf": [{"$ref": "#/$defs/n"}] * 2, "$defs": {"n": ONE}},
    root=(1 + 2 + 1) + 2 * 2 + 2 * 2, looking=5,
)  # fmt: skip
counted("an anchor", {"$ref": "#n", "$defs": {"n": {"$anchor": "n"}}}, root=3 + 2, looking=2)
counted("items", {"items": ONE}, root=2, each=2, looking=1)
counted(
    "an item at its position", {"prefixItems": [THREE], "items": ONE, "contains": ONE},
    root=1 + 1 + 1 + 1, each=(1 + 15 + 3) + 2, looking=2,
)  # fmt: skip
counted(
    "an item behind", {"prefixItems": [ONE], "items": THREE, "contains": ONE},
    root=1 + 1 + 1 + 1, each=(1 + 15 + 3) + 2, looking=2,
)  # fmt: skip
counted(
    "members", {"properties": {"a": ONE, "b": ONE}, "additionalProperties": {"enum": [1, 2]}},
    root=1 + 2 + 1, each=1 + 15 + 2, looking=1,
)  # fmt: skip
counted(
    "a member by two",
    {"allOf": [{"properties": {"a": ONE}}, {"properties": {"a": ONE, "b": ONE}}]},
    root=3 + 2 + 3, each=2 + 2, looking=3,
)  # fmt: skip
counted(
    "a member by name and pattern", {"properties": {"a": ONE}, "patternProperties": {"a": ONE}},
    root=3, each=4, letter=2, looking=2,
)  # fmt: skip
counted("names", {"propertyNames": {"enum": [1, 2]}}, root=2, each=1 + 15 + 2, looking=1)
counted("a tree", {"properties": {"l": {"$ref": "#"}, "r": {"$ref": "#"}}},
        root=1 + 2, each=2 + (1 + 2), looking=2)  # fmt: skip
counted("a list", {"allOf": [{"$ref": "#/$defs/n"}], "$defs": NODE},
        root=3 + 2 + 2, each=2 + 2, looking=3)  # fmt: skip
counted(
    "unevaluated", {"properties": {"a": True}, "allOf": [ONE], "unevaluatedProperties": False},
    # Itself, what was evaluated in place and by name, and three times what is in place.
    root=(1 + 1 + 1 + 1) + (1 + 1) + 3 * 2, each=1 + 1, looking=1 + 3,
)  # fmt: skip
counted("unevaluated items", {"allOf": [ONE], "unevaluatedItems": ONE},
        root=(1 + 1 + 1) + 1 + 3 * 2, each=2, looking=4)  # fmt: skip
counted("unevaluated in unevaluated", nested(2),
        # patternProperties with its pattern three times three times, the level inside three times.
        root=9 * 2 + 3 * 4 + 4, each=9 + 3 + 1, short=9 * 8, short_letter=9 * 4,
        looking=13)  # fmt: skip
counted("an open pattern", {"pattern": "abc"}, root=2, letter=2 * 3, looking=1)
counted(
    "a pattern twice", {"allOf": [{"$ref": "#/$defs/p"}] * 2, "$defs": {"p": {"pattern": "ab"}}},
    root=(1 + 2 + 1) + 2 * 2 + 2 * 2, letter=2 * 2 * 2, looking=5,
)  # fmt: skip
counted("a bounded pattern", {"pattern": "^abc$"}, root=2, short=2 * 5 * 5, short_letter=2 * 5,
        looking=1)  # fmt: skip
counted("patterns of items", {"items": {"allOf": [{"pattern": "ab"}] * 2}},
        root=2, each=3 + 2 * 2, letter=2 * 2 * 2, looking=3)  # fmt: skip


@pytest.mark.parametrize("name", sorted(COUNTED))
def test_the_work_is_counted(name: str) -> None:
    told, bound = COUNTED[name]
    assert bound_of(told) == bound


def test_work_is_summed_by_the_size_of_the_data() -> None:
    bound = Bound(root=1, each=2, letter=3, short=100, short_letter=5, looking=1)
    assert bound.units(values=10, chars=7) == 1 + 20 + 21 + 35
    assert bound.units(values=1, chars=100) == 1 + 2 + 300 + 100


def chain(parts: int) -> Any:
    """So many subschemas lead to each other, the root included."""
    defs = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(parts - 2)}
    return {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{parts - 2}": True}}


def wide(parts: int) -> Any:
    """So many look at one value."""
    return {"allOf": [True] * (parts - 1)}


def stepping(items: int) -> Any:
    """Each item is looked at by 92 subschemas, so the walk takes as many steps for it."""
    return {"prefixItems": [{"$ref": "#/$defs/a"}] * items, "$defs": {"a": wide(91)}}


LIMITS: dict[str, tuple[Any, Any, str]] = {
    "chain": (chain(CHAIN_MAX), chain(CHAIN_MAX + 1), "64 of its parts lead"),
    "looking": (wide(LOOKING_MAX), wide(LOOKING_MAX + 1), "512 of its parts look"),
    "steps": (stepping(100), stepping(120), "too many ways"),
    "patterns": (
        {"allOf": [{"pattern": "a"}] * PATTERNS_MAX},
        {"allOf": [{"pattern": "a"}] * PATTERNS_MAX + [{"patternProperties": {"b": True}}]},
        "more than 16 patterns",
    ),
    "depth": (
        json.loads('{"not":' * DEPTH_MAX + "true" + "}" * DEPTH_MAX),
        json.loads('{"not":' * (DEPTH_MAX + 1) + "true" + "}" * (DEPTH_MAX + 1)),
        "deeper than 32 levels",
    ),
    "usual values": (
        {"items": {"multipleOf": 0.5}},
        {"items": {"allOf": [{"multipleOf": 0.5}, {"multipleOf": 0.3}]}},
        "too much work",
    ),
    "usual chars": ({"pattern": "a" * 122}, {"pattern": "a" * 123}, "too much work"),
}
assert (CHAIN_MAX, LOOKING_MAX, PATTERNS_MAX, DEPTH_MAX) == (64, 512, 16, 32)


@pytest.mark.parametrize("what", sorted(LIMITS))
def test_what_is_within_a_limit_is_taken_and_one_more_refused(what: str) -> None:
    within, beyond, reason = LIMITS[what]
    schema(within)
    with pytest.raises(BadRequest, match=reason):
        schema(beyond)


def test_an_event_is_checked_up_to_half_a_million_units() -> None:
    made = schema({"items": {"multipleOf": 0.5}})
    # Each value is 2,501 units: the list itself and 198 numbers are 497,701.
    assert made.admits(json.dumps([1] * 198))
    with pytest.raises(Refused, match="too large"):
        made.admits(json.dumps([1] * 199))


@pytest.mark.parametrize("how", [bound_in_turns, lambda told: Schema.of(json.dumps(told))])
async def test_a_schema_that_takes_long_to_look_at_leaves_turns_to_others(how: Any) -> None:
    turns, is_over = 0, False

    async def count() -> None:
        nonlocal turns
        while not is_over:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    await how(stepping(100))
    is_over = True
    await counting
    assert turns > 20, "9,000 steps, a turn after 300 or so"


async def test_numbers_that_take_long_to_decode_are_read_another_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[Any] = []
    other_way = payloads._read_slow_numbers

    def recording(raw: bytes) -> Any:
        read.append(raw)
        return other_way(raw)

    monkeypatch.setattr(payloads, "_read_slow_numbers", recording)
    made = schema({"maxItems": 1})
    assert not made.admits("[1e308,2e-308]")
    assert await made.problems("[1e308,3e-308]")
    assert Schema('{"maximum":1e308}').admits("1") is True
    assert read == [b"[1e308,2e-308]", b"[1e308,3e-308]", b'{"maximum":1e308}']


def test_a_usual_schema_is_cheap() -> None:
    made = bound_of(
        {"type": "object", "required": ["a", "b"], "properties": {
            "a": {"type": "string", "maxLength": 80}, "b": {"type": "number", "minimum": 0},
            "c": {"type": "array", "items": {"type": "string"}}}}
    )  # fmt: skip
    assert made.units(values=5_000, chars=65_536) < UNITS_MAX / 10
