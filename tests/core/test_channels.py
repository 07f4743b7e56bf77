"""Names, patterns and the index that finds who follows a name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.core.channels import (
    ALIASES,
    LOBBY,
    NAME_MAX_CHARS,
    RESERVED_ROOTS,
    Kind,
    canonical,
    dm_between,
    is_pattern,
    matches,
    parse,
    parse_pattern,
)
from clawnet.core.errors import InvalidChannel
from clawnet.core.filters import PatternIndex


@pytest.mark.parametrize(
    "name",
    [
        "",
        "public",
        "public.",
        "public..x",
        "public.x.",
        "public.X",
        "Public.x".lower().replace("x", "é"),
        "public.a b",
        "public.*",
        "public.>",
        "room.a.b",
        "room",
        "room.",
        "dm.a",
        "dm.a.b.c",
        "dm.b.a",
        "dm.a.a",
        "dm",
        "agent",
        "agent.a",
        "agent.a.",
        "agent.a.public",
        "agent." + "a" * 65 + ".x",
        "system",
        "memory",
        "a" * 256,
        "public." + "a" * 249,
        "x\ny",
        "x y",
        "x\x00",
        "ü",
        "free*name",
        "free>",
        "a\x7fb",
        "public.a\n",
        "room.a\n",
        "dm.a.b\n",
        "free\n",
        "dm." + "a" * 65 + ".b",
        "hook.",
        "file.a..b",
    ],
    ids=ascii,
)
def test_a_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidChannel):
        parse(name)


@pytest.mark.parametrize(
    "name, kind, owner, peers",
    [
        ("public.a", Kind.PUBLIC, None, None),
        ("public.a.b-c_d", Kind.PUBLIC, None, None),
        ("agent.a.public.x", Kind.AGENT_PUBLIC, "a", None),
        ("agent.a.inbox", Kind.INBOX, "a", None),
        ("agent.a.inbox.x", Kind.AGENT_PRIVATE, "a", None),
        ("agent.a.x.public", Kind.AGENT_PRIVATE, "a", None),
        ("agent.a.x", Kind.AGENT_PRIVATE, "a", None),
        ("room.r", Kind.ROOM, None, None),
        ("dm.a.b", Kind.DM, None, ("a", "b")),
        ("system.presence", Kind.SYSTEM_OPEN, None, None),
        ("system.timer.minute", Kind.SYSTEM_OPEN, None, None),
        ("system.timer", Kind.SYSTEM, None, None),
        ("system.presence.x", Kind.SYSTEM, None, None),
        ("system.accounts", Kind.SYSTEM, None, None),
        ("memory.a", Kind.FEATURE, None, None),
        ("external.a", Kind.FEATURE, None, None),
        ("news:Local", Kind.FREE, None, None),
        ("Public.x", Kind.FREE, None, None),
        ("publicx", Kind.FREE, None, None),
        ("a" * 255, Kind.FREE, None, None),
        (".public", Kind.FREE, None, None),
        ("..", Kind.FREE, None, None),
    ],
)
def test_a_name_has_its_kind(
    name: str, kind: Kind, owner: str | None, peers: tuple[str, str] | None
) -> None:
    channel = parse(name)
    assert (channel.name, channel.kind, channel.owner, channel.peers) == (name, kind, owner, peers)


@pytest.mark.parametrize("alias", ["global", "public.townsquare"])
def test_an_alias_is_the_lobby(alias: str) -> None:
    assert parse(alias).name == canonical(alias) == LOBBY
    assert parse(alias).kind is Kind.PUBLIC


def test_no_alias_leads_to_an_alias() -> None:
    assert not set(ALIASES.values()) & set(ALIASES)


def test_a_direct_channel_has_one_name_whoever_begins() -> None:
    assert dm_between("b", "a") == dm_between("a", "b") == "dm.a.b"
    assert parse(dm_between("b-1", "b")).kind is Kind.DM


def test_the_message_of_an_error_holds_no_raw_attack() -> None:
    with pytest.raises(InvalidChannel) as caught:
        parse("x\r\n\x1b[31m" + "é" * 200)
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()


ANY_TEXT = st.text(max_size=300) | st.text('abz019_-.*>:A é\n"\\', max_size=40)


@given(ANY_TEXT)
def test_any_text_is_a_name_or_refused_as_one(text: str) -> None:
    try:
        channel = parse(text)
    except InvalidChannel:
        return
    assert 1 <= len(channel.name) <= NAME_MAX_CHARS
    assert channel.name.isascii() and channel.name.isprintable() and " " not in channel.name
    assert not is_pattern(channel.name)
    assert parse(channel.name) == channel


@given(
    ANY_TEXT
    | st.sampled_from(sorted(RESERVED_ROOTS)).flatmap(
        lambda root: ANY_TEXT.map(lambda rest: f"{root}.{rest}")
    )
)
def test_a_free_name_never_reaches_a_reserved_root(text: str) -> None:
    try:
        channel = parse(text)
    except InvalidChannel:
        return
    is_reserved = channel.name.split(".")[0] in RESERVED_ROOTS
    assert (channel.kind is Kind.FREE) is not is_reserved


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a*",
        "*a",
        "a.*b",
        ">.a",
        "a.>.b",
        ">>",
        "a>",
        "**",
        "A.*",
        "a .*",
        "*" + ".*" * 128,
        "*\n",
        ">\n",
        "a.>\n",
        "é.*",
        "*.",
        "a:*",
    ],
    ids=ascii,
)
def test_a_malformed_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidChannel):
        parse_pattern(pattern)


@given(ANY_TEXT)
def test_any_text_is_a_pattern_or_refused_as_one(text: str) -> None:
    try:
        assert parse_pattern(text) == text
    except InvalidChannel:
        pass


@pytest.mark.parametrize(
    "pattern, name, is_match",
    [
        (">", "a", True),
        (">", "a.b", True),
        ("*", "a", True),
        ("*", "a.b", False),
        ("a.>", "a", False),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c", True),
        ("a.>", "ab.c", False),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.*.c", "a.b.c", True),
        ("*.*", "a.b", True),
        ("a.*.>", "a.b", False),
        ("a.*.>", "a.b.c", True),
        ("a.b", "a.b", True),
        ("a.b", "a.bc", False),
    ],
)
def test_a_pattern_covers_whole_segments(pattern: str, name: str, is_match: bool) -> None:
    assert matches(pattern, name) is is_match


SEGMENT = st.sampled_from(["a", "b", "ab", "c"])
NAMES = st.lists(SEGMENT, min_size=1, max_size=5).map(".".join)
PATTERNS = st.builds(
    lambda segments, end: ".".join([*segments, *end]) or ">",
    st.lists(SEGMENT | st.just("*"), max_size=4),
    st.sampled_from([[], [">"]]),
)


def reference(pattern: list[str], name: list[str]) -> bool:
    """The rule as one would tell it, without regard for speed."""
    if not pattern:
        return not name
    if not name:
        return False
    if pattern == [">"]:
        return True
    return pattern[0] in ("*", name[0]) and reference(pattern[1:], name[1:])


@given(PATTERNS, NAMES)
def test_matching_is_as_one_would_tell_it(pattern: str, name: str) -> None:
    parse_pattern(pattern) if is_pattern(pattern) else parse(pattern)
    assert matches(pattern, name) is reference(pattern.split("."), name.split("."))


STEPS = st.lists(
    st.tuples(st.booleans(), PATTERNS | NAMES, st.integers(0, 4)), min_size=1, max_size=40
)


@given(STEPS, st.lists(NAMES, min_size=1, max_size=4))
def test_the_index_finds_what_asking_each_would_find(
    steps: list[tuple[bool, str, int]], names: list[str]
) -> None:
    index: PatternIndex[int] = PatternIndex()
    held: set[tuple[str, int]] = set()
    for is_add, pattern, key in steps:
        if is_add:
            index.add(pattern, key)
            held.add((pattern, key))
        else:
            index.remove(pattern, key)
            held.discard((pattern, key))
        for name in names:
            expected = {k for p, k in held if reference(p.split("."), name.split("."))}
            found = index.match(name)
            assert set(found) == expected
            assert len(found) == len(expected)
    for pattern, key in held:
        index.remove(pattern, key)
    assert not index._exact
    assert not index._root.next and not index._root.ends and not index._root.below
