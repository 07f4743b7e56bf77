"""Publications as patches: whoever asked for them is never given one of a text it has not."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from centrifuge.protocol import client_pb2
from msgspec import Raw

from clawnet.core.callers import Caller
from clawnet.core.calls.reading import Gap
from clawnet.core.errors import ClawError
from clawnet.core.live import End, Shape
from clawnet.doors.centrifugo import delta
from clawnet.doors.centrifugo.delta import Deltas
from clawnet.doors.centrifugo.json import JsonEncoding
from clawnet.doors.centrifugo.protobuf import ProtobufEncoding
from clawnet.doors.centrifugo.wire import Publication
from clawnet.hub.sessions import Session
from clawnet.hub.settings import ChannelSettings, HubSettings, LimitSettings, NamespaceSettings
from clawnet.testing.hubs import HubRig, started_hub
from tests.doors.centrifugo.patched import Patched

DOC = "doc:1"


def line(body: bytes) -> bytes:
    return body + b"\n"


def bare(body: bytes) -> bytes:
    return body


@dataclass
class Reader:
    """A client with deltas on every channel: it applies patches, and keeps what it then has."""

    deltas: Deltas
    high_water: int | None = None
    session: Session | None = None
    had: dict[str, bytes] = field(default_factory=dict)
    texts: list[Any] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    is_patch: list[bool] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    read: int = 0

    def write(self, frames: bytes) -> None:
        for text in frames.splitlines():
            push = json.loads(text)["push"]
            self.take(push["channel"], push["pub"])
        if self.high_water is not None and len(self.texts) - self.read >= self.high_water:
            assert self.session is not None
            self.session.pause()

    def take(self, channel: str, pub: dict[str, Any]) -> None:
        data = pub["data"].encode()
        is_patch = pub.get("delta", False)
        if is_patch:
            data = Patched(self.had[channel], data).target
        self.had[channel] = data
        self.texts.append(json.loads(data))
        self.offsets.append(pub.get("offset", 0))
        self.is_patch.append(is_patch)

    def drain(self) -> None:
        self.read = len(self.texts)
        assert self.session is not None
        self.session.resume()

    def unsent(self) -> int:
        return 0

    def gap(self, number: int, gap: Gap) -> None:
        self.gaps.append(gap)

    def ended(self, number: int, error: ClawError) -> None: ...

    def dropped(self, number: int, channel: str, error: ClawError) -> None: ...

    def retract(self) -> None: ...

    def close(self, end: End) -> None: ...


class Many:
    """Readers of one hub and one kind of connection."""

    def __init__(self, rig: HubRig, caller: Caller) -> None:
        self.rig = rig
        self.caller = caller
        self.deltas = Deltas(JsonEncoding(line), False, rig.hub)

    def reader(
        self, *channels: str, after: int | None = None, high_water: int | None = None
    ) -> Reader:
        reader = Reader(self.deltas, high_water)
        plain: Shape = self.deltas.full
        reader.session = self.rig.hub.open(self.caller, reader, plain, is_merged=False)
        for channel in channels:
            self.follow(reader, channel, after=after)
        return reader

    def follow(self, reader: Reader, channel: str, *, after: int | None = None) -> int:
        assert reader.session is not None
        number = reader.session.follow(channel, after=after, shape=self.deltas.fresh)
        self.deltas.started(reader.session, channel)
        return number

    async def say(self, *values: Any, channel: str = DOC) -> None:
        for value in values:
            await self.rig.publish(self.caller, channel, value)

    async def settle(self) -> None:
        await self.rig.settle()


def versions(count: int) -> list[dict[str, Any]]:
    """A document as it changes, a little each time."""
    chance = random.Random(5)
    doc = {f"field {i}": chance.random() for i in range(20)}
    found = []
    for number in range(count):
        doc[f"field {chance.randrange(20)}"] = number
        found.append(dict(doc))
    return found


@pytest.fixture
async def many() -> AsyncIterator[Many]:
    namespace = NamespaceSettings(
        publish="accounts", read="accounts", history="accounts", allowed_delta_types=["fossil"]
    )
    settings = HubSettings(
        limits=LimitSettings(enabled=False),
        channels=ChannelSettings(namespaces={"doc": namespace}),
    )
    async with started_hub(settings) as rig:
        yield Many(rig, await rig.account("ada"))


async def test_the_first_text_is_whole_and_what_follows_are_patches(many: Many) -> None:
    reader = many.reader(DOC)
    texts = versions(5)

    for text in texts:
        await many.say(text)
        await many.settle()

    assert reader.texts == texts
    assert reader.is_patch == [False, True, True, True, True]
    assert reader.offsets == [1, 2, 3, 4, 5]


async def test_texts_beside_patches_are_strings_too(many: Many) -> None:
    deltas = many.deltas

    shown = deltas.text(Publication(data=Raw(b'{"a":"\xc3\xa9\\n"}'), offset=3))

    assert msgspec.json.decode(shown.data) == '{"a":"é\\n"}'
    assert shown.offset == 3


async def test_a_patch_that_is_no_shorter_is_not_sent(many: Many) -> None:
    reader = many.reader(DOC)

    for text in ["one", "two", "three"]:
        await many.say(text)
        await many.settle()

    assert reader.texts == ["one", "two", "three"]
    assert reader.is_patch == [False, False, False]


async def test_who_comes_later_gets_a_whole_text_and_the_others_go_on_with_patches(
    many: Many,
) -> None:
    texts = versions(4)
    first = many.reader(DOC)
    await many.say(*texts[:2])
    await many.settle()
    second = many.reader(DOC)
    for text in texts[2:]:
        await many.say(text)
        await many.settle()

    assert first.texts == texts
    assert first.is_patch == [False, True, True, True]
    assert second.texts == texts[2:]
    assert second.is_patch == [False, True]


async def test_who_comes_between_a_text_and_the_promotion_is_not_promoted_with_the_others(
    many: Many,
) -> None:
    """It has not the text that they were given in this turn of the loop."""
    texts = versions(4)
    first = many.reader(DOC)
    late: list[Reader] = []
    deliver = many.rig.hub.fanout.deliver

    def deliver_and_invite(events: Any) -> None:
        deliver(events)
        if not late:
            late.append(many.reader(DOC))

    many.rig.hub.fanout.deliver = deliver_and_invite  # type: ignore[method-assign]
    for text in texts:
        await many.say(text)
        await many.settle()

    assert first.texts == texts
    assert first.is_patch == [False, True, True, True]
    assert late[0].texts == texts[1:]
    assert late[0].is_patch == [False, True, True]


async def test_what_is_read_from_the_log_is_whole_and_so_is_the_first_text_after_it(
    many: Many,
) -> None:
    texts = versions(6)
    await many.say(*texts[:3])
    reader = many.reader(DOC, after=1)
    await many.settle()
    for text in texts[3:]:
        await many.say(text)
        await many.settle()

    assert reader.texts == texts[1:]
    assert reader.offsets == [2, 3, 4, 5, 6]
    assert reader.is_patch == [False, False, False, True, True]


async def test_a_slow_reader_is_given_whole_texts_until_it_has_caught_up(many: Many) -> None:
    texts = versions(12)
    slow = many.reader(DOC, high_water=4)
    quick = many.reader(DOC)
    for text in texts[:6]:
        await many.say(text)
        await many.settle()
    assert len(slow.texts) == 4
    slow.drain()
    await many.settle()
    for text in texts[6:]:
        await many.say(text)
        await many.settle()
        slow.drain()
        await many.settle()

    assert quick.texts == slow.texts == texts
    assert quick.is_patch == [False] + [True] * 11
    assert slow.is_patch[:6] == [False, True, True, True, False, False]
    assert slow.is_patch[6:] == [True] * 6


async def test_a_reader_that_falls_back_before_it_is_promoted_catches_up(many: Many) -> None:
    texts = versions(5)
    reader = many.reader(DOC, high_water=1)
    for text in texts:
        await many.say(text)
        await many.settle()
        reader.drain()
        await many.settle()

    assert reader.texts == texts


async def test_after_a_signal_the_next_text_is_whole(many: Many) -> None:
    """A client would apply the patch to the signal."""
    texts = versions(5)
    warm, fresh = many.reader(DOC), many.reader("doc:2")
    await many.say(texts[0])
    await many.settle()
    await many.say(texts[1])
    await many.settle()
    for channel in (DOC, "doc:2"):
        many.rig.hub.signal(many.caller, channel, "x.typing", b'"here"')
    for channel in (DOC, "doc:2"):
        await many.say(*texts[2:4], channel=channel)
        await many.settle()
        await many.say(texts[4], channel=channel)
        await many.settle()

    assert warm.texts == [*texts[:2], "here", *texts[2:]]
    assert warm.is_patch == [False, True, False, False, True, True]
    assert fresh.texts == ["here", *texts[2:]]
    assert fresh.is_patch[:2] == [False, False]


async def test_a_signal_in_the_turn_of_the_first_text_puts_the_patches_off(many: Many) -> None:
    texts = versions(4)
    reader = many.reader(DOC)
    deliver = many.rig.hub.fanout.deliver

    def deliver_and_signal(events: Any) -> None:
        deliver(events)
        many.rig.hub.signal(many.caller, DOC, "x.typing", b'"here"')

    many.rig.hub.fanout.deliver = deliver_and_signal  # type: ignore[method-assign]
    await many.say(texts[0])
    many.rig.hub.fanout.deliver = deliver  # type: ignore[method-assign]
    await many.settle()
    for text in texts[1:]:
        await many.say(text)
        await many.settle()

    assert reader.texts == [texts[0], "here", *texts[1:]]
    assert not any(reader.is_patch[:3])


async def test_channels_of_one_name_in_two_worlds_are_kept_apart(many: Many) -> None:
    """Only the world tells them apart; a patch of the other world's text would leak it."""
    texts = versions(3)
    body = (
        b'{"seq":%d,"channel":"doc:1","offset":%d,"epoch":"e.1","id":"i","ts":"2026-01-01T00:00:00Z",'
        b'"type":"x.message","actor":{"id":"a","handle":"a"},"world":"%b","data":%b}'
    )
    reader = many.reader(DOC)
    await many.say(*texts[:1])
    await many.settle()

    frame = many.deltas.next(body % (7, 2, b"other", json.dumps(texts[1]).encode()))
    assert "delta" not in json.loads(frame)["push"]["pub"]
    await many.say(texts[1])

    assert reader.texts == texts[:2]
    assert reader.is_patch == [False, True]


async def test_several_channels_of_one_reader_do_not_touch_each_other(many: Many) -> None:
    texts = versions(4)
    reader = many.reader(DOC, "doc:2")
    for text in texts:
        await many.say(text)
        await many.say(text, channel="doc:2")
        await many.settle()

    assert reader.texts == [text for text in texts for _ in range(2)]
    assert reader.is_patch == [False, False] + [True] * 6


async def test_who_leaves_and_follows_again_starts_with_a_whole_text(many: Many) -> None:
    texts = versions(4)
    reader = many.reader()
    number = many.follow(reader, DOC)
    await many.say(texts[0])
    assert reader.session is not None
    reader.session.unsubscribe(number)
    many.follow(reader, DOC)
    await many.settle()
    for text in texts[1:]:
        await many.say(text)
        await many.settle()

    assert reader.texts == texts
    assert reader.is_patch == [False, False, True, True]


async def test_several_texts_of_one_commit_are_patches_of_each_other(many: Many) -> None:
    texts = versions(8)
    first = many.reader(DOC)
    await many.say(texts[0])
    await many.settle()
    second = many.reader(DOC)
    await asyncio.gather(*(many.say(text) for text in texts[1:]))
    await many.settle()

    assert first.texts == texts
    assert sum(first.is_patch) == 7
    assert second.texts == texts[1:]
    assert not any(second.is_patch)


async def test_a_restored_channel_starts_with_a_whole_text(many: Many) -> None:
    """Its offsets begin anew, in another epoch."""
    texts = versions(3)
    many.reader(DOC)
    await many.say(texts[0])
    await many.settle()
    body = (
        b'{"seq":9,"channel":"doc:1","offset":2,"epoch":"other","id":"i","ts":"2026-01-01T00:00:00Z",'
        b'"type":"x.message","actor":{"id":"a","handle":"a"},"world":"main","data":%b}'
    )

    frame = many.deltas.next(body % json.dumps(texts[1]).encode())

    assert "delta" not in json.loads(frame)["push"]["pub"]


async def test_channels_that_nobody_follows_any_more_are_forgotten(many: Many) -> None:
    for number in range(300):
        name = f"doc:{number}"
        reader = many.reader(name)
        if number % 2:
            await many.say("x" * 100, channel=name)
            await many.settle()
        assert reader.session is not None
        reader.session.close()

    assert len(many.deltas._readers) <= 65


async def test_what_is_kept_of_texts_is_bounded(
    many: Many, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta, "KEPT_MAX_BYTES", 10_000)
    texts = versions(3)
    names = [f"doc:{number}" for number in range(50)]
    readers = [many.reader(name) for name in names]
    for text in texts:
        for name in names:
            await many.say(text, channel=name)
        await many.settle()

    kept = [r.base.size for r in many.deltas._readers.values() if r.base is not None]
    assert sum(kept) == many.deltas._kept_bytes <= 10_000
    assert all(reader.texts == texts for reader in readers)


async def test_a_very_long_text_is_always_whole(
    many: Many, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta, "PATCHED_MAX_BYTES", 1_000)
    reader = many.reader(DOC)
    texts = ["a" * 900, "a" * 901, "a" * 1_200, "a" * 1_201, "a" * 900, "a" * 901]
    for text in texts:
        await many.say(text)
        await many.settle()

    assert reader.texts == texts
    assert reader.is_patch == [False, True, False, False, False, True]


async def test_protobuf_carries_the_bytes_of_texts_and_patches_as_they_are(many: Many) -> None:
    deltas = Deltas(ProtobufEncoding(bare), True, many.rig.hub)
    told: list[Any] = []

    class Plain(Reader):
        def write(self, frames: bytes) -> None:
            while frames:
                # Messages stand behind their length; these are shorter than 16 KiB.
                size, at = frames[0], 1
                if size > 127:
                    size, at = (size & 127) | frames[1] << 7, 2
                reply = client_pb2.Reply.FromString(frames[at : at + size])
                told.append(reply.push.pub)
                frames = frames[at + size :]

    reader = Plain(deltas)
    reader.session = many.rig.hub.open(many.caller, reader, deltas.full, is_merged=False)
    reader.session.follow(DOC, shape=deltas.fresh)
    deltas.started(reader.session, DOC)
    texts = versions(3)
    for text in texts:
        await many.say(text)
        await many.settle()

    assert [pub.delta for pub in told] == [False, True, True]
    had = told[0].data
    assert json.loads(had) == texts[0]
    for pub, text in zip(told[1:], texts[1:], strict=True):
        had = Patched(had, pub.data).target
        assert json.loads(had) == text


@pytest.mark.parametrize("seed", range(12))
async def test_readers_that_come_go_and_lag_at_random_have_every_text(
    many: Many, seed: int
) -> None:
    """Each compares what it has after every patch, by the checksum, with what was said."""
    chance = random.Random(seed)
    texts = versions(120)
    said: list[Any] = []
    readers: list[tuple[int, Reader]] = []
    for text in texts:
        act = chance.random()
        if act < 0.15:
            after = None if chance.random() < 0.5 else chance.randint(0, len(said))
            start = len(said) if after is None else after
            water = chance.choice([None, 1, 2, 5])
            readers.append((start, many.reader(DOC, after=after, high_water=water)))
        elif act < 0.2:
            many.rig.hub.signal(many.caller, DOC, "x.typing", b'"a signal"')
        elif act < 0.5 and readers:
            chance.choice(readers)[1].drain()
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        await many.say(text)
        said.append(text)
    for _ in range(len(texts)):
        for _, reader in readers:
            reader.drain()
        await many.settle()

    assert len(readers) > 3
    for start, reader in readers:
        assert [text for text in reader.texts if text != "a signal"] == said[start:]
    assert any(any(reader.is_patch) for _, reader in readers)
