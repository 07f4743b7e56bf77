"""Frames put together from pieces are those that decoding and encoding gives."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
from msgspec import Raw

from clawnet.core.channels import Channel
from clawnet.core.events import Origin, Stored, render_head, render_members, render_opening
from clawnet.core.live import StoredShape
from clawnet.core.times import rfc3339
from clawnet.doors.centrifugo import shapes
from clawnet.doors.centrifugo.json import JsonEncoding
from clawnet.doors.centrifugo.shapes import EventShape, publication_of
from clawnet.hub.fanout import _Frames
from clawnet.hub.hub import Hub

NOW_MS = 1_795_255_200_123
ROLE = "worker"


def line(body: bytes) -> bytes:
    return body + b"\n"


class Shown(NamedTuple):
    """An event, and how its reader calls the channel."""

    event: Stored
    name: str

    @property
    def body(self) -> bytes:
        return self.event.text(self.name).encode()


class Directory:
    """One account, and two namespaces: one with history and one without."""

    def __init__(self) -> None:
        self.version = 1
        self.role = ROLE

    def account(self, world: str, id: str) -> Any:
        kind = "ext" if id == "acc_ext" else "agent"
        return SimpleNamespace(kind=kind, role=self.role, subject="42")

    def has_history(self, channel: Channel) -> bool:
        return not channel.name.startswith("brief:")


class Rig:
    def __init__(self, *, is_raw: bool = False, is_uni: bool = False) -> None:
        self.directory = Directory()
        fake = SimpleNamespace(directory=self.directory, randomness=SimpleNamespace())
        fake.randomness.token_bytes = lambda count: bytes(range(7, 7 + count))
        self.hub = cast(Hub, fake)
        self.is_raw = is_raw
        self.encoding = JsonEncoding(line, is_uni)
        self.shape = EventShape(self.encoding, is_raw, self.hub)

    def slowly(self, shown: Shown) -> bytes:
        """As the encoding alone says it."""
        return self.shape.frame(shown.body, None)

    def frame(self, shown: Shown) -> bytes:
        """As it goes out live."""
        return self.shape.frame_of(*shown) or self.slowly(shown)


def envelope(
    number: int,
    *,
    channel: str = "public.a",
    actor: str = "acc_1",
    handle: str = "ada",
    data: str = '{"n":1}',
    origin: Origin | None = None,
    shown: str | None = None,
    **named: str,
) -> Shown:
    actor_json = json.dumps({"id": actor, "handle": handle}, separators=(",", ":"))
    opening = render_opening(
        type="x.message", source="agent", actor_json=actor_json, world="main", room=None
    )
    if origin is not None:
        opening += f',"origin":{shapes._encode(origin).decode()}'
    head = render_head(
        id=f"id-{number}",
        ts=rfc3339(NOW_MS + number),
        members=render_members(opening, **cast(Any, named)),
    )
    event = Stored(
        seq=100 + number,
        world="main",
        channel=channel,
        offset=number,
        epoch="abc.1",
        id=f"id-{number}",
        ts_ms=NOW_MS + number,
        type="",
        actor_id="",
        head=head,
        data=data,
    )
    return Shown(event, shown or channel)


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "origin": {"origin": Origin(client="c-1")},
    "infos": {
        "actor": "acc_ext",
        "origin": Origin(client="c", conn_info=Raw(b'{"%s":"\\"%b"}'), chan_info=Raw(b"[1,{}]")),
    },
    "info_without_end": {
        "actor": "acc_ext",
        "origin": Origin(client="c", conn_info=Raw(b'"%b"' % (b"b" * 4_000))),
    },
    "tags": {"origin": Origin(tags={"a": "b"})},
    "tag_called_data": {"origin": Origin(tags={"a": "b", "data": "x"})},
    "tag_called_data_first": {
        "origin": Origin(client="c", tags={"data": '",\\"data\\":', "z": "y"})
    },
    "tag_called_type": {"origin": Origin(tags={"a": "b", "type": "x"})},
    "tags_without_end": {"origin": Origin(tags={"a": "b" * 2_000})},
    "percent": {"origin": Origin(tags={"%(id)b": "%b%%s"}), "handle": "50%b"},
    "quotes": {
        "handle": '","type":",\\"data\\":"',
        "data": '{"a":",\\"data\\":","data":{"type":1}}',
    },
    "correlation": {"correlation_id": 'a",\\"data\\":', "dedupe_key": "k"},
    "foreign_user": {"actor": "acc_ext"},
    "backend": {"actor": shapes.API_ACCOUNT},
    "free": {"channel": "ns:a"},
    "free_with_quotes": {"channel": 'ns:a","type":"\\'},
    "without_history": {"channel": "brief:a"},
    "alias": {"channel": "agent.acc_1.inbox", "shown": "agent.me.inbox"},
    "not_ascii": {"handle": "Zoë", "data": '"é"'},
    "bare_value": {"data": "null"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_raw", [False, True])
@pytest.mark.parametrize("is_uni", [False, True])
def test_every_frame_is_the_one_that_the_encoding_makes(
    kind: str, is_raw: bool, is_uni: bool
) -> None:
    rig = Rig(is_raw=is_raw, is_uni=is_uni)
    for number in range(1, 6):
        shown = envelope(number, **KINDS[kind])
        assert rig.frame(shown) == rig.slowly(shown)


def test_senders_and_channels_are_not_mixed_up() -> None:
    rig = Rig(is_raw=True)
    for number in range(2, 6):
        for kind in KINDS.values():
            shown = envelope(number, **kind)
            assert rig.frame(shown) == rig.slowly(shown)


def test_a_usual_frame_is_put_together_from_its_third_on() -> None:
    rig = Rig()
    caster = rig.shape._caster
    assert caster is not None
    made = [caster.frame_of(*envelope(number)) is not None for number in range(1, 6)]
    assert made == [False, False, False, True, True]


def test_who_is_live_is_given_what_was_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, asked = Rig(is_raw=True), []
    slowly = rig.shape.frame

    def frame(body: bytes, cursor: bytes | None) -> bytes:
        asked.append(body)
        return slowly(body, cursor)

    monkeypatch.setattr(rig.shape, "frame", frame)
    assert isinstance(rig.shape, StoredShape)
    frames = _Frames("abc", {})
    for number in range(2, 7):
        event, name = envelope(number)
        given = frames.get(event, rig.shape, rig.shape.key, name, False)
        assert given == slowly(event.text(name).encode(), None)
    assert len(asked) == 2


def test_another_role_is_shown_at_once() -> None:
    rig = Rig(is_raw=True)
    for number in range(2, 6):
        rig.frame(envelope(number))
    assert b'"role":"worker"' in rig.frame(envelope(6))
    rig.directory.role = "admin"
    rig.directory.version += 1
    for number in range(7, 11):
        assert b'"role":"admin"' in rig.frame(envelope(number))


def test_what_comes_once_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "MOULDS_MAX", 8)
    rig = Rig()
    caster = rig.shape._caster
    assert caster is not None
    for number in range(2, 100):
        shown = envelope(number, dedupe_key=f"key-{number}")
        assert rig.frame(shown) == rig.slowly(shown)
        assert len(caster._moulds) <= 9


def test_who_asks_for_the_same_events_is_given_the_same_publications() -> None:
    rig = Rig(is_raw=True)
    bodies = [envelope(number).body for number in range(1, 4)]
    told = rig.shape.publications(bodies)
    assert told == [publication_of(body, is_raw=True, hub=rig.hub)[1] for body in bodies]
    assert rig.shape.publications(list(bodies)) is told
    assert rig.shape.publications(bodies[1:]) == told[1:]


def test_events_that_were_told_are_told_anew_when_an_account_changed() -> None:
    rig = Rig(is_raw=True)
    bodies = [envelope(number).body for number in range(1, 4)]
    rig.shape.publications(bodies)
    rig.directory.role = "admin"
    rig.directory.version += 1
    info = rig.shape.publications(bodies)[0].info
    assert info is not None
    assert b'"admin"' in bytes(info.conn_info)


def test_only_the_last_few_and_small_lists_of_events_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig()
    for number in range(1, 20):
        rig.shape.publications([envelope(number).body, envelope(number + 1).body])
    assert len(rig.shape._told) == shapes.TOLD_MAX
    monkeypatch.setattr(shapes, "TOLD_MAX_BYTES", 100)
    before = list(rig.shape._told)
    rig.shape.publications([envelope(50).body, envelope(51).body])
    assert rig.shape._told == before
