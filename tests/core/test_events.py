"""Types, dedupe digests and the text of an envelope."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawnet.core import events
from clawnet.core.errors import BadRequest, InvalidType
from clawnet.core.events import Event, Stored

SENDABLE = {"chat.message"}
TABLE = [f"{category}.{name}" for category, names in events.TYPES.items() for name in names]


@pytest.mark.parametrize(
    "name", [*sorted(SENDABLE), "x.a", "x.my_event", "x.a.b.c.d", "x." + "a" * 64]
)
def test_an_account_may_send_messages_and_types_of_its_own(name: str) -> None:
    assert events.check_type(name) == name


@pytest.mark.parametrize("name", sorted(set(TABLE) - SENDABLE))
def test_what_only_the_hub_says_is_refused_to_others(name: str) -> None:
    with pytest.raises(InvalidType, match="hub"):
        events.check_type(name)
    assert events.check_type(name, is_hub=True) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x",
        "x.",
        "x..a",
        "x.A",
        "x.a-b",
        "x.a.b.c.d.e",
        "x." + "a" * 65,
        "x.a\n",
        "y.a",
        "é",
        "*",
        'x."',
        "x.a b",
        "chat",
        "chat.message.x",
        "CHAT.message",
        "system.*",
        "x.é",
        "\x00",
        "a" * 9000,
    ],
    ids=ascii,
)
@pytest.mark.parametrize("is_hub", [False, True])
def test_an_unknown_type_is_refused(name: str, is_hub: bool) -> None:
    with pytest.raises(InvalidType) as caught:
        events.check_type(name, is_hub=is_hub)
    assert caught.value.message.isascii() and len(caught.value.message) < 300


@pytest.mark.parametrize(
    "wrong, right",
    [
        ("chat.mesage", "chat.message"),
        ("account.create", "account.created"),
        ("x.messages", "x.message"),
        ("grant.revoke", "grant.revoked"),
        ("chat_message", "chat.message"),
    ],
)
def test_a_near_miss_is_told_what_was_meant(wrong: str, right: str) -> None:
    if wrong.startswith("x."):
        assert events.check_type(wrong) == wrong
        return
    with pytest.raises(InvalidType, match=f"Did you mean {right}"):
        events.check_type(wrong)


@pytest.mark.parametrize("channel", ["public.lobby", "room.a", "dm.a.b"])
def test_where_people_talk_a_publish_is_a_message(channel: str) -> None:
    assert events.default_type(channel) == "chat.message"


@pytest.mark.parametrize(
    "channel", ["public.lobby2", "public.x", "agent.a.inbox", "news:a", "roomy"]
)
def test_elsewhere_it_is_a_free_message(channel: str) -> None:
    assert events.default_type(channel) == "x.message"


@pytest.mark.parametrize(
    "one, other",
    [
        ('{"a":1,"b":2}', '{"b":2,"a":1}'),
        ('{"a":[1,2]}', '{ "a" : [ 1, 2 ] }'),
        ('"\\u00e9"', '"é"'),
        ('"\\/"', '"/"'),
        ('{"a":{"y":1,"x":[{"q":1,"p":2}]}}', '{"a":{"x":[{"p":2,"q":1}],"y":1}}'),
        ("1e2", "100.0"),
    ],
)
def test_the_same_value_written_differently_is_the_same_content(one: str, other: str) -> None:
    digests = {events.content_digest(type="x.a", data=data) for data in (one, other)}
    assert len(digests) == 1


@pytest.mark.parametrize(
    "one, other",
    [
        ("1", '"1"'),
        ("[1,2]", "[2,1]"),
        ("null", "false"),
        ('{"a":1}', '{"a":1,"b":null}'),
        ("0", "false"),
        ("1", "true"),
        ('"a"', '"A"'),
        ("{}", "[]"),
        ("[[]]", "[]"),
        ("12345678901234567890123", "12345678901234567890124"),
    ],
)
def test_other_values_are_other_content(one: str, other: str) -> None:
    digests = {events.content_digest(type="x.a", data=data) for data in (one, other)}
    assert len(digests) == 2


def test_another_type_is_other_content() -> None:
    digests = {events.content_digest(type=name, data="1") for name in ("x.a", "x.b")}
    assert len(digests) == 2


def test_an_identity_is_of_one_world_sender_channel_and_key() -> None:
    base = {"world": "main", "actor_id": "a", "channel": "public.x", "key": "k"}
    others = [{**base, name: value + "2"} for name, value in base.items()]
    others.append({**base, "actor_id": "a2", "channel": "public.x", "key": "k"})
    identities = {events.dedupe_identity(**one) for one in [base, *others]}
    assert len(identities) == 5


@pytest.mark.parametrize(
    "key", ["", "a\n", "a\x00b", "\x7f", "a" * 201, "\u202e", "a\tb", "\ud800"], ids=ascii
)
def test_a_key_is_short_and_printable(key: str) -> None:
    with pytest.raises(BadRequest, match="dedupe_key"):
        events.check_key("dedupe_key", key, max_chars=200)


def test_a_key_of_any_script_is_fine() -> None:
    assert events.check_key("dedupe_key", "ключ-鍵 1", max_chars=200) == "ключ-鍵 1"
    assert events.check_key("dedupe_key", None, max_chars=200) is None


NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given(channel=NAMES, shown=st.none() | NAMES, handle=TEXTS, key=TEXTS, data=JSON)
def test_an_envelope_is_valid_json_whatever_is_in_it(
    channel: str, shown: str | None, handle: str, key: str, data: Any
) -> None:
    opening = events.render_opening(
        type="x.a",
        source="agent",
        actor_json=f'{{"id":"a","handle":{events.quote(handle)}}}',
        world="main",
        room="r",
    )
    members = events.render_members(opening, correlation_id=key, causation_id=key, dedupe_key=key)
    head = events.render_head(id="evt_1", ts="2026-01-01T00:00:00.000Z", members=members)
    text = json.dumps(data)
    stored = Stored(7, "main", channel, 3, "e.1", "evt_1", 0, "x.a", "a", head, text)
    body = stored.text(shown).encode()
    read = msgspec.json.decode(body, type=Event)
    name = shown or channel
    assert (read.seq, read.channel, read.offset, read.epoch) == (7, name, 3, "e.1")
    assert (read.actor.handle, read.correlation_id, read.dedupe_key) == (handle, key, key)
    assert msgspec.json.decode(read.data) == data
    assert events.seq_of(body) == 7
    assert events.place_of(body) == (7, name, 3)
    assert not set(b"\r\n\t") & set(body)
