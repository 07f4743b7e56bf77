"""How much work a JSON Schema can make, found before it is ever used. Pure.

A schema comes from an agent, and the library that checks it holds the interpreter while it does
(measured: other threads stand still), so the work has to be bounded beforehand. References can
make a small schema double its work at each level of the data, or of itself.

What matters is how many subschemas look at one place of the data at once. That is found by
walking the places that the schema tells apart (a state: which subschemas look at it, each how
often) from the root down. Where the number grows with each level, it passes LOOKING_MAX, and the
schema is refused; recursion that does not grow comes back to a state that is known.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Generator
from typing import Any
from urllib.parse import unquote

import msgspec

from clawnet.core.errors import BadRequest
from clawnet.features.adverts.patterns import pattern_of

DRAFT = "https://json-schema.org/draft/2020-12/schema"
DEPTH_MAX = 32
LOOKING_MAX = 512
"""So many subschemas look at one place at most, each as often as it does."""
STEPS_MAX = 10_000
"""Of the walk itself: measured 35 ms at worst."""
STEPS_AT_ONCE = 300
CHAIN_MAX = 64
"""So many subschemas lead to each other at one place: the library and the walk call themselves."""
PATTERNS_MAX = 16
"""A pattern may take 250 kB, and 2 ms to compile."""
UNEVALUATED_FACTOR = 3
"""Measured: a level with unevaluatedProperties looks at what is in place 2.6 times."""
CONTAINER_WEIGHT = 15
"""Comparing with an array or object in enum or const: measured 140 ns, a scalar 10 ns."""
UNIQUE_WEIGHT = 64
WHOLE_WEIGHT = 250
FRACTION_WEIGHT = 2_500
"""Of multipleOf, asked about huge numbers: measured 2 µs; with a fraction 24 µs, and up to twice
that if it is very small itself."""

_LISTS = ("allOf", "anyOf", "oneOf")
_ONES = ("not", "if", "then", "else")
_UNEVALUATED = ("unevaluatedItems", "unevaluatedProperties")
_APPLICATORS = frozenset(
    (
        *_LISTS, *_ONES, "$ref", *_UNEVALUATED, "dependentSchemas", "dependencies", "prefixItems",
        "items", "contains", "properties", "patternProperties", "additionalProperties",
        "propertyNames",
    )
)  # fmt: skip
_State = tuple[tuple[str, int], ...]


class Bound(msgspec.Struct, frozen=True):
    """The work of a schema: `root` units once, `each` for every other value of the data, `letter`
    for each of its characters. Patterns that are soon over cost `short` for each value, or
    `short_letter` for each character, whichever is less. `looking` subschemas look at one place.
    """

    root: int
    each: int
    letter: int
    short: int
    short_letter: int
    looking: int

    def units(self, *, values: int, chars: int) -> int:
        """At most so many units of about 10 ns for data of that size."""
        short = min(values * self.short, chars * self.short_letter)
        return self.root + values * self.each + chars * self.letter + short


class Work(msgspec.Struct):
    """The work at one place, as in Bound."""

    weight: int = 0
    letter: int = 0
    short: int = 0
    short_letter: int = 0

    def add(self, other: Work, times: int) -> None:
        self.weight += other.weight * times
        self.letter += other.letter * times
        self.short += other.short * times
        self.short_letter += other.short_letter * times

    def most(self, other: Work) -> Work:
        return Work(
            max(self.weight, other.weight),
            max(self.letter, other.letter),
            max(self.short, other.short),
            max(self.short_letter, other.short_letter),
        )


class _Node(msgspec.Struct):
    """One subschema: what it costs by itself, and which others it has look where (by pointers)."""

    work: Work
    in_place: list[str] = []
    has_unevaluated: bool = False
    prefix: list[str] = []
    items: list[str] = []
    all_items: list[str] = []
    named: dict[str, str] = {}
    others: list[str] = []
    all_members: list[str] = []
    names: list[str] = []

    @property
    def has_children(self) -> bool:
        """Whether it has anything look at what is inside a value."""
        return bool(
            self.prefix
            or self.items
            or self.all_items
            or self.named
            or self.others
            or self.all_members
            or self.names
        )


def bound_of(schema: Any) -> Bound:
    """The bound of a schema's work. Raises BadRequest for what is refused, with the reason."""
    turns = _Walk(schema).run()
    while True:
        try:
            next(turns)
        except StopIteration as end:
            bound: Bound = end.value
            return bound


async def bound_in_turns(schema: Any) -> Bound:
    """As bound_of, with the loop's other work between."""
    turns = _Walk(schema).run()
    while True:
        try:
            next(turns)
        except StopIteration as end:
            bound: Bound = end.value
            return bound
        await asyncio.sleep(0)


def refuse(reason: str) -> BadRequest:
    """The refusal of a schema."""
    return BadRequest(
        f"The schema cannot be enforced: {reason}.",
        next="Send a JSON Schema (Draft 2020-12) that stands alone and is simple enough to be "
        "checked at once.",
    )


class _Walk:
    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._nodes: dict[str, _Node] = {}
        self._anchors: dict[str, str] = {}
        self._patterns = 0
        self._steps = 0
        self._look_around(schema, "", 0)

    def run(self) -> Generator[None, None, Bound]:
        """Walk the states, from the root's; stops now and then."""
        start: _State = (("", 1),)
        waiting, known = [start], {start}
        # What children are looked at by stands below a keyword: the root's state never comes again.
        root, rest, looking = Work(), Work(), 0
        stop = STEPS_AT_ONCE
        while waiting:
            if self._steps > stop:
                stop = self._steps + STEPS_AT_ONCE
                yield
            state = waiting.pop()
            work, closure = self._looked_at(state)
            looking = max(looking, closure.total())
            if state == start:
                root = work
            else:
                rest = rest.most(work)
            for child in self._children(closure):
                if child and child not in known:
                    known.add(child)
                    waiting.append(child)
        both = rest.most(root)
        return Bound(
            root=root.weight,
            each=rest.weight,
            letter=both.letter,
            short=both.short,
            short_letter=both.short_letter,
            looking=looking,
        )

    def _step(self, steps: int = 1) -> None:
        self._steps += steps
        if self._steps > STEPS_MAX:
            raise refuse("its parts can be combined in too many ways")

    # --- what the schema says -------------------------------------------------

    def _look_around(self, value: Any, pointer: str, depth: int) -> None:
        """Depth, identifiers and anchors, wherever they stand."""
        if depth > DEPTH_MAX:
            raise refuse(f"it is nested deeper than {DEPTH_MAX} levels")
        if isinstance(value, list):
            for index, item in enumerate(value):
                self._look_around(item, f"{pointer}/{index}", depth + 1)
        if not isinstance(value, dict):
            return
        if isinstance(value.get("$id"), str) and pointer:
            raise refuse("only the whole schema may have an $id")
        if isinstance(value.get("$schema"), str) and value["$schema"].rstrip("#") != DRAFT:
            raise refuse(f"$schema names another draft than {DRAFT}")
        for keyword in ("$dynamicRef", "$dynamicAnchor"):
            if isinstance(value.get(keyword), str):
                raise refuse(f"it uses {keyword}; a $ref says the same")
        name = value.get("$anchor")
        if isinstance(name, str):
            if name in self._anchors:
                raise refuse(f"the anchor {ascii(name[:80])} is given twice")
            self._anchors[name] = pointer
        for key, item in value.items():
            self._look_around(item, f"{pointer}/{_escaped(key)}", depth + 1)

    def _node(self, pointer: str) -> _Node:
        known = self._nodes.get(pointer)
        if known is None:
            known = self._nodes[pointer] = self._read(pointer, self._at(pointer))
        return known

    def _at(self, pointer: str) -> Any:
        value = self._schema
        for part in pointer.split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                raise refuse(f"there is nothing at the reference #{ascii(pointer[:80])}")
        return value

    def _read(self, pointer: str, schema: Any) -> _Node:
        node = _Node(Work(weight=1))
        if isinstance(schema, bool):
            return node
        if not isinstance(schema, dict):
            raise refuse(f"a schema is an object or a boolean, at #{ascii(pointer[:80])}")

        if _APPLICATORS.isdisjoint(schema):
            self._weigh(node, schema)
            return node

        def under(keyword: str) -> str:
            return f"{pointer}/{_escaped(keyword)}"

        def below(keyword: str) -> list[str]:
            """The subschemas of a list or of an object's members."""
            value = schema.get(keyword)
            if isinstance(value, list):
                return [f"{under(keyword)}/{index}" for index in range(len(value))]
            if isinstance(value, dict):
                return [f"{under(keyword)}/{_escaped(name)}" for name in value]
            return []

        for keyword in _LISTS:
            node.in_place = node.in_place + below(keyword)
        node.in_place += [under(keyword) for keyword in _ONES if keyword in schema]
        for keyword in ("dependentSchemas", "dependencies"):
            members = schema.get(keyword)
            if isinstance(members, dict):
                node.in_place += [
                    f"{under(keyword)}/{_escaped(name)}"
                    for name, member in members.items()
                    if not isinstance(member, list)
                ]
        if "$ref" in schema:
            node.in_place = [*node.in_place, self._target(schema["$ref"])]
        node.has_unevaluated = any(word in schema for word in _UNEVALUATED)
        node.prefix = below("prefixItems")
        node.items = [under("items")] if "items" in schema else []
        node.all_items = [under(w) for w in ("contains", "unevaluatedItems") if w in schema]
        properties = schema.get("properties")
        if isinstance(properties, dict):
            node.named = {name: f"{under('properties')}/{_escaped(name)}" for name in properties}
        if "additionalProperties" in schema:
            node.others = [under("additionalProperties")]
        node.all_members = below("patternProperties")
        if "unevaluatedProperties" in schema:
            node.all_members = [*node.all_members, under("unevaluatedProperties")]
        node.names = [under("propertyNames")] if "propertyNames" in schema else []
        self._weigh(node, schema)
        return node

    def _weigh(self, node: _Node, schema: dict[str, Any]) -> None:
        weight = 1
        for keyword, value in schema.items():
            if keyword in ("enum", "const"):
                weight += _weight_of(value)
            elif keyword == "uniqueItems":
                weight += UNIQUE_WEIGHT
            elif keyword == "multipleOf":
                weight += WHOLE_WEIGHT if isinstance(value, int) else FRACTION_WEIGHT
            elif isinstance(value, list | dict):
                weight += len(value)
            else:
                weight += 1
        patterns = schema.get("patternProperties")
        found = list(patterns) if isinstance(patterns, dict) else []
        if isinstance(schema.get("pattern"), str):
            found.append(schema["pattern"])
        for text in found:
            self._patterns += 1
            if self._patterns > PATTERNS_MAX:
                raise refuse(f"it has more than {PATTERNS_MAX} patterns")
            pattern = pattern_of(text)
            if pattern.is_bounded:
                node.work.short += 2 * pattern.atoms**2
                node.work.short_letter += 2 * pattern.atoms
            else:
                node.work.letter += 2 * pattern.atoms
        if node.has_unevaluated:
            # What was evaluated is asked for every item or member.
            weight += len(node.in_place) + len(node.named)
        node.work.weight = weight

    def _target(self, reference: Any) -> str:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise refuse("it refers to something outside of itself; put that into $defs")
        fragment = unquote(reference[1:])
        if not fragment:
            return ""
        if fragment.startswith("/"):
            return fragment
        if fragment not in self._anchors:
            raise refuse(f"there is no anchor {ascii(fragment[:80])}")
        return self._anchors[fragment]

    # --- what looks where -----------------------------------------------------

    def _looked_at(self, state: _State) -> tuple[Work, Counter[str]]:
        """The work at a place, and all subschemas that look at it."""
        closure: Counter[str] = Counter()
        total = 0

        def add(pointer: str, times: int, above: int) -> None:
            nonlocal total
            if above >= CHAIN_MAX:
                # A reference to itself that does not go on in the data comes to this, too.
                raise refuse(f"more than {CHAIN_MAX} of its parts lead to each other")
            self._step()
            total += times
            if total > LOOKING_MAX:
                raise refuse(f"more than {LOOKING_MAX} of its parts look at one value")
            closure[pointer] += times
            node = self._node(pointer)
            times *= UNEVALUATED_FACTOR if node.has_unevaluated else 1
            for other in node.in_place:
                add(other, times, above + 1)

        for pointer, times in state:
            add(pointer, times, 0)
        work = Work()
        for pointer, times in closure.items():
            work.add(self._node(pointer).work, times)
        return work, closure

    def _children(self, closure: Counter[str]) -> set[_State]:
        """The states of the items, members and names below a place."""
        nodes = [(self._node(pointer), times) for pointer, times in closure.items()]
        nodes = [(node, times) for node, times in nodes if node.has_children]
        found: set[_State] = set()
        if not nodes:
            # Measured: most of the places are such, and the rest of this takes 60 µs.
            return found
        for index in range(max((len(node.prefix) for node, _ in nodes), default=0) + 1):
            self._step(len(nodes))
            place: Counter[str] = Counter()
            for node, times in nodes:
                here = [node.prefix[index]] if index < len(node.prefix) else node.items
                _count(place, [*here, *node.all_items], times)
            found.add(_state(place))
        every: Counter[str] = Counter()
        names: Counter[str] = Counter()
        for node, times in nodes:
            _count(every, [*node.others, *node.all_members], times)
            _count(names, node.names, times)
        found |= {_state(every), _state(names)}
        for name in sorted({name for node, _ in nodes for name in node.named}):
            self._step(len(nodes))
            place = Counter()
            for node, times in nodes:
                here = [node.named[name]] if name in node.named else node.others
                _count(place, [*here, *node.all_members], times)
            found.add(_state(place))
        return found


def _count(place: Counter[str], pointers: list[str], times: int) -> None:
    for pointer in pointers:
        place[pointer] += times


def _state(place: Counter[str]) -> _State:
    return tuple(sorted(place.items()))


def _weight_of(value: Any) -> int:
    if isinstance(value, list):
        return CONTAINER_WEIGHT + sum(_weight_of(item) for item in value)
    if isinstance(value, dict):
        return CONTAINER_WEIGHT + sum(1 + _weight_of(item) for item in value.values())
    return 1


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
