"""Signals: for who is live now; the same rights, no position, never stored."""

from __future__ import annotations

import pytest

from clawnet.core.callers import HUB, Caller
from clawnet.core.calls.reading import ListChannels, ReadHistory
from clawnet.core.cursors import AfterOffset
from clawnet.core.errors import (
    ClawError,
    Forbidden,
    InvalidChannel,
    InvalidData,
    InvalidType,
    PayloadTooLarge,
    Unauthenticated,
)
from clawnet.testing.hubs import Gate, HubRig


@pytest.mark.parametrize(
    "channel, type, data, error",
    [
        ("agent.bob.x", "x.a", b"1", Forbidden),
        ("agent.bob.public.x", "x.a", b"1", Forbidden),
        ("system.presence", "x.a", b"1", Forbidden),
        ("dm.bob.boss", "x.a", b"1", Forbidden),
        ("public.>", "x.a", b"1", InvalidChannel),
        ("public.a", "presence.changed", b"1", InvalidType),
        ("public.a", "nope", b"1", InvalidType),
        ("public.a", 'x.a","seq":1', b"1", InvalidType),
        ("public.a", "x.a", b"1}\n{", InvalidData),
        ("public.a", "x.a", b'"' + b"x" * 70_000 + b'"', PayloadTooLarge),
    ],
)
async def test_a_refused_signal_reaches_nobody(
    rig: HubRig,
    ada: Caller,
    warden: Caller,
    channel: str,
    type: str,
    data: bytes,
    error: type[ClawError],
) -> None:
    outlet = rig.connect(warden, ">")
    with pytest.raises(error):
        rig.hub.signal(ada, channel, type, data)
    assert outlet.frames == []


async def test_without_a_token_or_scope_there_is_none(rig: HubRig, ada: Caller) -> None:
    with pytest.raises(Unauthenticated):
        rig.hub.signal(rig.hub.anonymous(is_local=True), "public.a", "x.a", b"1")
    with pytest.raises(Forbidden):
        reader = await rig.caller("ada", scopes=["events:read"])
        rig.hub.signal(reader, "public.a", "x.a", b"1")


async def test_it_reaches_who_is_live_and_may_read_and_nobody_else(
    rig: HubRig, ada: Caller, bob: Caller
) -> None:
    live = rig.connect(ada, "agent.ada.x")
    other = rig.connect(bob, ">")
    elsewhere = rig.connect(ada, "agent.ada.y")
    pattern = rig.connect(ada, "agent.ada.*")
    rig.hub.signal(ada, "agent.ada.x", "x.typing", b'{\n"on":true}')
    late = rig.connect(ada, "agent.ada.x", since=AfterOffset(0))
    await rig.settle()
    for outlet in (live, pattern):
        [frame] = outlet.frames
        assert frame.event == {
            "channel": "agent.ada.x",
            "type": "x.typing",
            "version": "1.0.0",
            "source": "agent",
            "actor": {"id": "ada", "handle": "ada"},
            "world": "main",
            "data": {"on": True},
        }
        assert frame.cursor is None
    assert other.frames == elsewhere.frames == late.frames == []


async def test_it_is_never_stored(rig: HubRig, ada: Caller) -> None:
    rig.connect(ada, "public.a")
    before = rig.engine.last_seq
    rig.hub.signal(ada, "public.a", "x.a", b"1")
    await rig.settle()
    assert rig.engine.last_seq == before
    assert (await rig.hub.call(ListChannels(), caller=ada)).channels == []
    done = await rig.publish(ada, "public.a", 2)
    assert done.offset == 1
    page = await rig.hub.call(ReadHistory(channel="public.a"), caller=ada)
    assert page.count == 1


async def test_it_is_not_given_to_who_catches_up(rig: HubRig, ada: Caller) -> None:
    await rig.fill(ada, "public.a", 2)

    async def signals() -> None:
        rig.hub.signal(ada, "public.a", "x.a", b'"lost"')

    gate = Gate(rig.hub, at=0, action=signals)
    outlet = rig.connect(ada, "public.a", since=AfterOffset(0))
    await rig.settle()
    await gate.open()
    rig.hub.signal(ada, "public.a", "x.a", b'"seen"')
    assert outlet.data == [1, 2, "seen"]


async def test_it_keeps_its_place_among_events(rig: HubRig, ada: Caller) -> None:
    outlet = rig.connect(ada, "public.a")
    await rig.publish(ada, "public.a", 1)
    rig.hub.signal(ada, "public.a", "x.a", b"2")
    await rig.publish(ada, "public.a", 3)
    assert outlet.data == [1, 2, 3]
    rig.hub.signal(HUB, "public.a", "presence.changed", b"4")
    assert outlet.frames[-1].event["source"] == "system"
